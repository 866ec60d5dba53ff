// Package changes listens to mailboxes by change notifications of Microsoft Graph: Graph posts to a URL of mailbell when there is new mail.
// What it posts becomes a mark at the mailbox that it concerns, and what is not listened to says why and is polled.
//
// Each mailbox has a subscription of its own, all with one URL, so that Graph can tell of many mailboxes in one post. Each subscription has
// a secret, its client state, which comes back with every notification. Posts are anonymous, so they are never believed: a notification is
// a hint, and what is new is read from Graph.
//
//	keeper.go     keeps the mailboxes of one listener account subscribed
//	writes.go     the calls that change subscriptions, at a limited rate
//	subscribe.go  a subscription is made
//	renew.go      it is renewed, and removed
//	leftovers.go  what an earlier start left behind, and what Graph has lost
//	member.go     a mailbox: its subscription, and whether it is listened to
//	polled.go     how it is listed while nothing tells of its mail
//	told.go       what a notification says
//	content.go    the message in it, if it has one
//	receiver.go   who may post, and what is answered
//
// The order of rule 11: a mailbox is subscribed, and then it is listed. Graph answers a new subscription only after mailbell has answered at
// its URL: so the callbacks are served before, and a subscription that was made says that they reach us.
//
// Lock order: Keeper.mu, then Receiver.mu. Nothing else is called while one is held; a change of a record takes Keeper.mu.
package changes

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// Path is where Graph posts, up to the secret.
const Path = "/callbacks/graph/"

// Server is Microsoft Graph, as one listener account reaches it. Its errors are *fault.Error.
type Server interface {
	// Subscribe makes a subscription to new mail in the Inbox of a mailbox.
	Subscribe(ctx context.Context, at mail.Location, s graph.Subscription) (graph.Subscribed, error)
	// Renew lets a subscription live until a time, or as long as Graph allows, and gives it a new access token.
	Renew(ctx context.Context, at mail.Location, id string, until time.Time) (expires time.Time, err error)
	// Delete removes a subscription. One that is not there is removed.
	Delete(ctx context.Context, id string) error
	// Subscriptions lists all that the app has, those of others with the same app among them.
	Subscriptions(ctx context.Context) ([]graph.Listed, error)
}

// Sink is told what Graph says of one mailbox. Its methods do not block, and may be called at any time.
type Sink interface {
	Hint(item string, at time.Time)     // it may have this new item
	Tell(m *mail.Message, at time.Time) // the same, and this is what it is
	List()                              // anything may have come: it is to be listed
	Answers()                           // its server answers
	// Doubt asks what it means for the mailbox that an error says that it moved. true: it is looked up again.
	Doubt(f *fault.Error) bool
}
