package listener

// Microsoft Graph in the words of inbox and of the search for a mailbox.

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// Graph is a listener account at Exchange Online that reads by Microsoft Graph: a Source, and what makes subscriptions there.
type Graph struct{ Client *graph.Client }

func answerOfGraph(a graph.Answer) Answer {
	return Answer{Clock: a.ServerTime, Ours: a.Began.Add(a.Ended.Sub(a.Began) / 2)}
}

// Kind of the item ids.
func (Graph) Kind() mail.Source { return mail.Graph }

// Look asks for the Inbox. Graph names no server.
func (g Graph) Look(ctx context.Context, at mail.Location) (string, error) {
	_, err := g.Client.Look(ctx, at.Primary)
	return "", err
}

// Read reads messages by their ids, several by a batch.
func (g Graph) Read(ctx context.Context, at mail.Location, ids []string) ([]inbox.Item, Answer, error) {
	list, a, err := g.Client.Read(ctx, at.Primary, ids)
	items := make([]inbox.Item, len(list))
	for i, item := range list {
		items[i] = inbox.Item{ID: item.ID, Message: item.Message, Err: item.Err}
	}
	return items, answerOfGraph(a), err
}

// List returns a page of the Inbox. The next one is where Graph's link to it leads.
func (g Graph) List(ctx context.Context, at mail.Location, p inbox.Part) (inbox.Page, Answer, error) {
	var got graph.Page
	var err error
	if p.After == "" {
		got, err = g.Client.Messages(ctx, at.Primary, p.Since, p.Limit)
	} else {
		got, err = g.Client.More(ctx, at.Primary, p.After)
	}
	return inbox.Page{Messages: got.Messages, Next: got.Next}, answerOfGraph(got.Answer), err
}

// Send has the mailbox send a message to itself.
func (g Graph) Send(ctx context.Context, at mail.Location, subject, text string) error {
	_, err := g.Client.Send(ctx, at.Primary, subject, text)
	return err
}

// Listings is what the pace of the calls allows.
func (g Graph) Listings() int { return g.Client.Listings() }

// Reads is what the pace of the calls allows.
func (g Graph) Reads() int { return g.Client.Reads() }

// GraphFinder is a Finder that asks Graph whether a mailbox is in Exchange Online.
type GraphFinder struct {
	Client *graph.Client
	Entry  string // the exchange entry
	Base   string // of Graph: https://graph.microsoft.com
}

// Find looks at the Inbox. Graph tells no primary address to an app that may only read mail, so it is the one that was asked for. Where the
// mailbox is not in Exchange Online the error has Elsewhere. That is only a doubt: the mailbox moves once another entry knows it.
func (f GraphFinder) Find(ctx context.Context, address string) (mail.Location, error) {
	address, err := mail.ParseAddress(address)
	if err != nil {
		return mail.Location{}, &fault.Error{Op: "look at the Inbox", Code: "address", Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	if _, err := f.Client.Look(ctx, address); err != nil {
		return mail.Location{}, err
	}
	return mail.Location{
		Entry: f.Entry, Source: mail.Graph, URL: graph.Root(f.Base), Primary: address, How: "Microsoft Graph", Found: time.Now(),
	}, nil
}

// Subscribe makes a subscription to new mail in the Inbox of a mailbox.
func (g Graph) Subscribe(ctx context.Context, at mail.Location, s graph.Subscription) (graph.Subscribed, error) {
	return g.Client.Subscribe(ctx, at.Primary, s)
}

// Renew lets a subscription live until a time, or as long as Graph allows, and gives it a new access token.
func (g Graph) Renew(ctx context.Context, _ mail.Location, id string, until time.Time) (expires time.Time, err error) {
	return g.Client.Renew(ctx, id, until)
}

// Delete removes a subscription. One that is not there is removed.
func (g Graph) Delete(ctx context.Context, id string) error { return g.Client.Delete(ctx, id) }

// Subscriptions lists all that the app has, those of others with the same app among them.
func (g Graph) Subscriptions(ctx context.Context) ([]graph.Listed, error) {
	return g.Client.Subscriptions(ctx)
}
