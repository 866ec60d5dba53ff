package listener

// What the listener needs of a listener account: its way to an Exchange, in the words of inbox and streaming.

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/mail"
)

// Source reads the mailboxes of an Exchange, as one listener account. EWS and Graph are the two that there are. Its errors are
// *fault.Error.
type Source interface {
	// Kind is whose item ids its messages have.
	Kind() mail.Source
	// Look looks whether a mailbox lives at a location, and names its server as far as the answer does. Where it lives elsewhere, the
	// error says so.
	Look(ctx context.Context, at mail.Location) (server string, err error)
	// Read reads messages by their ids, as inbox.Link has it.
	Read(ctx context.Context, at mail.Location, ids []string) ([]inbox.Item, Answer, error)
	// List returns a page of the Inbox, newest first by received time, without a clock: that is in the answer.
	List(ctx context.Context, at mail.Location, p inbox.Part) (inbox.Page, Answer, error)
	// Listings is how many listings it is worth to have under way at once, by all accounts at these servers: with more, each only takes
	// longer.
	Listings() int
	// Reads is the same of reads by ids.
	Reads() int
}

// Finder finds where a mailbox lives; *autodiscover.Client is one. Nil where the address of EWS is configured.
type Finder interface {
	Find(ctx context.Context, address string) (mail.Location, error)
}

// Answer is what an answer tells about its server.
type Answer struct {
	Clock  time.Time // its Date; zero: it told none
	Ours   time.Time // on our clock, the middle of the call
	Server string    // the name of the mailbox server; empty: it told none
}
