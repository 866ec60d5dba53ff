package listener

// EWS in the words of inbox and streaming.

import (
	"context"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// EWS is a listener account at an Exchange server: a Source, a streaming.Server, and a callbacks.Server.
type EWS struct {
	Client            *ews.Client
	ConnectionTimeout time.Duration // of a stream
}

// target of a call for a mailbox: with its own anchor and without the group's cookie, for it is to reach the server of the mailbox.
func target(at mail.Location) ews.Target { return ews.Target{URL: at.URL, Mailbox: at.Primary} }

func grouped(at mail.Location, a streaming.Affinity) ews.Target {
	return ews.Target{URL: at.URL, Mailbox: at.Primary, Anchor: a.Anchor, Affinity: true, Cookie: a.Cookie}
}

func answer(a ews.Answer) Answer {
	return Answer{Clock: a.ServerTime, Ours: a.Began.Add(a.Ended.Sub(a.Began) / 2), Server: a.Server()}
}

// Kind of the item ids.
func (EWS) Kind() mail.Source { return mail.EWS }

// Look is GetFolder of the Inbox, with affinity: then the override cookie names the server where nothing else does.
func (e EWS) Look(ctx context.Context, at mail.Location) (string, error) {
	a, err := e.Client.GetFolder(ctx, ews.Target{URL: at.URL, Mailbox: at.Primary, Affinity: true})
	return a.Server(), err
}

// Read is GetItem.
func (e EWS) Read(ctx context.Context, at mail.Location, ids []string) ([]inbox.Item, Answer, error) {
	list, a, err := e.Client.GetItem(ctx, target(at), ids)
	items := make([]inbox.Item, len(list))
	for i, item := range list {
		items[i] = inbox.Item{ID: item.ID, Message: item.Message, Err: item.Err}
	}
	return items, answer(a), err
}

// Send has the mailbox send a message to itself.
func (e EWS) Send(ctx context.Context, at mail.Location, subject, text string) error {
	_, err := e.Client.Send(ctx, target(at), subject, text)
	return err
}

// overlap is how many items of a page the next one shows again: a deletion meanwhile shifts the pages.
const overlap = 1

// List is FindItem. A page is asked for by its offset, and begins with the last item of the one before.
func (e EWS) List(ctx context.Context, at mail.Location, p inbox.Part) (inbox.Page, Answer, error) {
	offset, _ := strconv.Atoi(p.After) // none is the first
	l, err := e.Client.FindItem(ctx, target(at), offset, p.Limit)
	page := inbox.Page{Messages: l.Messages, Overlaps: true}
	n := len(l.Messages)
	switch {
	case err != nil || l.Last || n == 0:
	case n > overlap:
		page.Next = strconv.Itoa(offset + n - overlap)
	default: // nothing new, and no word that it is the last: some servers never say so
		beyond, err := e.Client.FindItem(ctx, target(at), offset+n, p.Limit)
		if err != nil {
			return inbox.Page{}, answer(beyond.Answer), err
		}
		if len(beyond.Messages) > 0 {
			page.Next = strconv.Itoa(offset + n) // it does not overlap with this page, and the inbox is to notice that
		}
	}
	return page, answer(l.Answer), err
}

// Listings is what the pace of the calls allows.
func (e EWS) Listings() int { return e.Client.Listings() }

// Reads is what the pace of the calls allows.
func (e EWS) Reads() int { return e.Client.Reads() }

// Subscribe makes a streaming subscription; only the anchor's answer brings the cookie.
func (e EWS) Subscribe(ctx context.Context, at mail.Location, a streaming.Affinity) (id, cookie string, err error) {
	id, got, err := e.Client.Subscribe(ctx, grouped(at, a))
	return id, got.Cookie, err
}

// SubscribePush makes a push subscription.
func (e EWS) SubscribePush(ctx context.Context, at mail.Location, a callbacks.Affinity, p ews.Push) (s callbacks.Subscribed, err error) {
	id, watermark, got, err := e.Client.SubscribePush(ctx, grouped(at, streaming.Affinity(a)), p)
	return callbacks.Subscribed{ID: id, Watermark: watermark, Cookie: got.Cookie}, err
}

// Unsubscribe gives a subscription back: only the server that has it knows it.
func (e EWS) Unsubscribe(ctx context.Context, at mail.Location, a streaming.Affinity, id string) error {
	return e.Client.Unsubscribe(ctx, grouped(at, a), id)
}

// Stream opens GetStreamingEvents as the mailbox at this location: that charges a copy of its budget and not the account's.
func (e EWS) Stream(ctx context.Context, at mail.Location, a streaming.Affinity, ids []string) (streaming.Stream, error) {
	s, err := e.Client.GetStreamingEvents(ctx, grouped(at, a), ids, e.ConnectionTimeout)
	if err != nil {
		return nil, err // a nil *ews.Stream is not a nil Stream
	}
	return &stream{Stream: s}, nil
}

// stream is an open GetStreamingEvents.
type stream struct {
	*ews.Stream
	events []streaming.Event // of the last envelope; its memory is used again
}

// Next is the next envelope.
func (s *stream) Next() (streaming.Envelope, error) {
	n, err := s.Stream.Next()
	s.events = s.events[:0]
	for _, e := range n.Events {
		s.events = append(s.events, streaming.Event{Subscription: e.Subscription, Item: e.ItemID})
	}
	return streaming.Envelope{Events: s.events, At: n.At}, err
}
