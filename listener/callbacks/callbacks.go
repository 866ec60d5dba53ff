// Package callbacks listens to mailboxes by EWS push notifications: Exchange posts to a URL of mailbell when there is new mail. What it
// posts becomes a mark at the mailbox that it concerns, and what is not listened to says why.
//
// Each mailbox has a subscription of its own, and each subscription a URL of its own: its end is a secret. A post is anonymous, so it is
// never believed. It is a hint: which mailbox is meant is known by the secret, and what is new there is read from Exchange.
//
//	keeper.go    keeps the mailboxes of one listener account subscribed
//	member.go    a mailbox: its subscription, and whether callbacks reach us
//	post.go      what a post says, and what it is answered
//	receiver.go  who may post: secrets, bounds, answers
//
// The order of rule 11: a mailbox is subscribed, its first callback comes (Exchange posts a status at once), and then it is listed. Should
// that callback be late, the mailbox is listed all the same, for its mail does not wait.
//
// Lock order: Keeper.mu, then Receiver.mu. Nothing else is called while one is held; a change of a record takes Keeper.mu.
package callbacks

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// Path is where callbacks are posted, up to the secret.
const Path = "/callbacks/ews/"

// Server is the Exchange, as one listener account reaches it. Its errors are *fault.Error.
type Server interface {
	// SubscribePush makes a push subscription to new mail in the Inbox of a mailbox. It belongs to the account. It bounds its own time,
	// which begins when it is its turn.
	SubscribePush(ctx context.Context, at mail.Location, a Affinity, p ews.Push) (s Subscribed, err error)
}

// Subscribed is a new subscription.
type Subscribed struct {
	ID, Watermark string
	Cookie        string // X-BackEndOverrideCookie; empty: the answer brought none
}

// Affinity keeps the subscriptions of a group on one mailbox server, as that of streaming does.
type Affinity struct {
	Anchor string // the mailbox that leads the group there
	Cookie string // X-BackEndOverrideCookie
}

// Sink is told what the server says of one mailbox. Its methods do not block, and may be called at any time.
type Sink interface {
	Hint(item string, at time.Time) // it may have this new item
	List()                          // anything may have come: it is to be listed
	Answers()                       // its server answers
	// Doubt asks what an error that says that the mailbox moved means. true: it is looked up again.
	Doubt(f *fault.Error) bool
}
