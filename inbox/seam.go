package inbox

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Items are messages that were read by their ids.
type Items struct {
	Items []Item
	Clock time.Time // the server's, now; told with an error too
}

// Item is a message, or why it cannot be read: a *fault.Error, with Gone where the Inbox has it no more.
type Item struct {
	ID      string
	Message *mail.Message
	Err     error
}

// Part is the part of the Inbox that a page is to show.
type Part struct {
	Since time.Time // what was received before need not be shown; zero: all is wanted
	After string    // the Next of the page before; empty: from the newest message on
	Limit int       // so many messages at most
}

// Page is a part of the Inbox. It may be shorter than it could be, even empty, and not be the last.
type Page struct {
	Messages []mail.Message // without sender and preview
	Next     string         // by what the next page is asked for, in the source's own words; empty: this is the last
	Overlaps bool           // the next page begins with the last message of this one, as long as no message is deleted meanwhile
	Clock    time.Time      // the server's, now
}

// Link is how a mailbox is read at its location, by whatever protocol, and who is told what its listings show. The listener makes it. Its
// errors are *fault.Error.
type Link interface {
	// Read reads messages by their ids, with sender and preview. It returns one Item for each id, in their order. An error of one
	// item is in that Item. An error that concerns more is that of the call; with it come the Items that it does not concern.
	Read(ctx context.Context, ids []string) (Items, error)
	// List returns a page of the Inbox, newest first by received time.
	List(ctx context.Context, p Part) (Page, error)
	Exchange() string          // the exchange entry: its mailboxes share their workers
	Source() mail.Source       // whose item ids its messages have
	SafetyPoll() time.Duration // after this without a listing it is listed
	Reads() int                // how many reads of the entry's mailboxes it is worth to have under way at once, at least 1
	Listings() int             // how many listings of the entry's mailboxes it is worth to have under way at once, at least 1
	// Unhinted tells that a listing showed a message that no hint had named.
	Unhinted(received, clock time.Time)
	// Listed tells that a complete listing is done.
	Listed()
}

// Sender sends alerts; *push.Sender is one. Push blocks until the answer, and begins nothing once ctx has ended; until then nobody changes
// the notification. Ready says whether a topic can be sent to; where it could not, and can again, the Sender calls Inbox.TopicReady.
type Sender interface {
	Push(ctx context.Context, n *subscriptions.Notification) subscriptions.Answer
	Ready(topic, environment string) bool
}

// Observer is told of messages and of what is decided about them; *canary.Canary is one. It returns at once.
type Observer interface {
	// Read tells of a message that was read and is to be decided about.
	Read(key mail.Key, m *mail.Message)
	// Decided tells of each decision.
	Decided(d subscriptions.Decision)
}
