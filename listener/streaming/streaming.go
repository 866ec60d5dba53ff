// Package streaming listens to mailboxes by EWS streaming notifications. What a server says becomes a mark at the mailbox that it
// concerns, and what is not listened to says why.
//
// Mailboxes of one listener account whose servers belong together are a group: they share a stream, or two. Each has a subscription of its
// own.
//
//	groups.go     the groups of one listener account
//	member.go     a mailbox: its subscription, and whether notifications reach us
//	group.go      the members that share streams
//	subscribe.go  keeps the members subscribed
//	turns.go      which groups do so now
//	keeper.go     keeps the streams open: which member is served by which
//	stream.go     keeps one stream open
//	reading.go    reads one stream
//	alone.go      a server that does not let mailboxes share a stream
//
// The order of rule 11: a mailbox is subscribed, its stream is opened, and then it is listed. The stream is opened with the members that
// are subscribed by then; the others get another once they are. A member is listed when the first envelope has come, unless the stream took
// over from one that was whole to its end: only then has nobody else read what was meant for us. Should that envelope be late, it is listed
// all the same, for its mail does not wait.
//
// Lock order: Groups.mu is the only lock. Nothing is called while it is held; a change of a record takes it.
package streaming

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// Server is the Exchange, as one listener account reaches it. Its errors are *fault.Error.
type Server interface {
	// Subscribe makes a subscription to new mail in the Inbox of a mailbox. It belongs to the account.
	Subscribe(ctx context.Context, at mail.Location, a Affinity) (id, cookie string, err error)
	// Unsubscribe gives one back, where it was made.
	Unsubscribe(ctx context.Context, at mail.Location, a Affinity, id string) error
	// Stream opens a stream of what subscriptions have to tell, as the mailbox at this location. It ends with ctx.
	Stream(ctx context.Context, at mail.Location, a Affinity, ids []string) (Stream, error)
}

// Stream is an open stream. One goroutine uses it.
type Stream interface {
	// Next waits for the next envelope. io.EOF: the server has ended the stream as it should. A *fault.Error with Subscriptions
	// concerns these, and the stream may go on. After any other error it is over, and notifications may be lost.
	Next() (Envelope, error)
	Close() error
}

// Envelope is what the server writes at once. One without events is a heartbeat.
type Envelope struct {
	Events []Event // valid until the next call of Next
	At     time.Time
}

// Event says that there is new mail.
type Event struct {
	Subscription, Item string
}

// Affinity keeps the subscriptions of a group on one mailbox server ("How to: Maintain affinity between a group of subscriptions and the
// Mailbox server").
type Affinity struct {
	Anchor string // the mailbox that leads the group there
	Cookie string // X-BackEndOverrideCookie
}

// Sink is told what the server says of one mailbox. Its methods do not block, and may be called at any time.
type Sink interface {
	Hint(item string, at time.Time) // it may have this new item
	List()                          // anything may have come: it is to be listed
	Answers()                       // its server answers
	// Doubt asks what it means for the mailbox that an error says that it may have moved.
	Doubt(f *fault.Error) Verdict
}

// Verdict on the location of a mailbox.
type Verdict uint8

// The verdicts.
const (
	Stays  Verdict = iota // the location is right, or there is no other
	Later                 // it was confirmed just now: if the error lasts, it will be doubted
	Leaves                // it is looked up again: the mailbox has left its group
)
