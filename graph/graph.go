// Package graph is a client of Microsoft Graph: one method per operation that mailbell needs, and one table of errors (errors.go).
//
//	call.go          one exchange with Graph: request, answer, error
//	errors.go        what each error means, whom it concerns and what to do about it
//	message.go       a message of Graph as a mail.Message
//	messages.go      the Inbox: a look at it, its listing, messages by their ids
//	subscription.go  subscriptions: made, renewed, deleted, listed
//	notification.go  what Graph posts to a callback
//	decrypt.go       messages that come in notifications, encrypted for a key of ours
//	token.go         validation tokens, which show that it is Graph that posts them
//	throttle.go      what Graph allows at once, and how long nothing is asked for after it has refused
//	combine.go       listings of many mailboxes in one request; batch.go: several requests in one
//	inboxes.go       which folder the Inbox of a mailbox is
//
// Sources: the reference and the concepts of Microsoft Graph on Microsoft Learn, and, where these say nothing, recorded answers.
package graph

import (
	"hash/maphash"
	"net/http"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/buffers"
	"github.com/mailbell/mailbell/internal/pace"
)

const (
	defaultTimeout = 60 * time.Second // a batch runs as long as the slowest of its requests
	// version is the only version of Graph's API that is for production.
	version = "/v1.0"
)

// Options of a Client. HTTP and Base are needed.
type Options struct {
	HTTP      http.RoundTripper // authorised; a redirect is never followed
	Base      string            // of the cloud: https://graph.microsoft.com
	UserAgent string            // fixed, as administrators match on it: mailbell/<version>
	Timeout   time.Duration     // of a call; 0: 60 s
	Pace      *pace.Pace        // shared by the clients of an exchange entry; nil: this client's own
	Preview   bool              // messages are read with their preview, which takes the permission Mail.Read
}

// Client calls Graph. It is safe for concurrent use.
type Client struct {
	o        Options
	root     string // Base and the version
	queries  queries
	gates    gates
	combiner combiner
	inboxes  inboxes
	basic    basicOnly
	buffers  buffers.Pool // of answers
}

// New returns a client.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Pace == nil {
		o.Pace = pace.New(0, 0)
	}
	return &Client{
		o: o, root: Root(o.Base), queries: newQueries(o.Preview), gates: newGates(), buffers: buffers.Pool{Most: keptBuffer},
		inboxes: inboxes{known: map[string]uint64{}, seed: maphash.MakeSeed()},
	}
}

// Listings is how many listings it is worth to have under way at once, by all clients of the exchange entry: a batch of them counts as one
// there, so that two more batches are put together meanwhile.
func (c *Client) Listings() int { return c.o.Pace.Worth(pace.Listing) + 2*MaxItems }

// Reads is how many calls of Read it is worth to have under way at once, by all clients of the exchange entry.
func (c *Client) Reads() int { return c.o.Pace.Worth(pace.Reading) }

// Root is the URL that all calls of a Client begin with: https://graph.microsoft.com/v1.0.
func Root(base string) string { return strings.TrimSuffix(base, "/") + version }

// Answer is what an answer says about the server.
type Answer struct {
	ServerTime   time.Time // the server's clock: its Date header, whole seconds; zero: it sent none
	Began, Ended time.Time // by our clock: before the request, and after the answer was read
	RequestID    string    // client-request-id: what to look for in Microsoft's logs
}
