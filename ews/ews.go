// Package ews is a client of Exchange Web Services: one method per operation that mailbell needs, one table of errors
// (errors.go), and a small pull parser for the answers (xml.go).
//
// Sources: the reference and the guides of Exchange Web Services on Microsoft Learn, the schema of Exchange SE, and, where
// these say nothing, recorded answers of servers.
package ews

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/mail"
)

const (
	defaultTimeout = 60 * time.Second // a batch of GetItem may run a minute at the server
	// defaultSilence is twice the 45 s between two heartbeats of Exchange. Microsoft's own client gives up then, too.
	defaultSilence = 90 * time.Second
)

// Options of a Client. Only HTTP is needed.
type Options struct {
	HTTP      http.RoundTripper // authorised; a redirect is never followed
	UserAgent string            // fixed, as administrators match on it: mailbell/<version>
	Timeout   time.Duration     // of a call, and of a stream until its first byte, but there 10 s at most; 0: 60 s
	Silence   time.Duration     // a stream without a byte for this long is dead; 0: 90 s
	Pace      *pace.Pace        // shared by the clients of the same servers; nil: this client's own
	Dialect   *Dialect          // shared by the clients of the same servers; nil: this client's own
}

// Client calls EWS. It is safe for concurrent use.
type Client struct {
	o       Options
	few     chan struct{} // the calls at once to an Exchange 2010
	header  http.Header   // of every request
	bodies  requestBodies
	parsers sync.Pool // of *parser: their buffers are used again
}

// New returns a client.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	if o.Pace == nil {
		o.Pace = pace.New(0, 0)
	}
	if o.Dialect == nil {
		o.Dialect = &Dialect{}
	}
	return &Client{o: o, few: make(chan struct{}, inFlight2010), header: http.Header{
		"Content-Type":             {"text/xml; charset=utf-8"},
		"Accept":                   {"text/xml"},
		"User-Agent":               {o.UserAgent},
		"Return-Client-Request-Id": {"true"},
	}}
}

// Listings is how many listings it is worth to have under way at once, by all clients of the same servers.
func (c *Client) Listings() int { return c.o.Pace.Worth(pace.Listing) }

// Reads is how many calls of GetItem it is worth to have under way at once, by all clients of the same servers.
func (c *Client) Reads() int { return c.o.Pace.Worth(pace.Reading) }

// Subscribes is how many calls of Subscribe it is worth to have under way at once.
func (c *Client) Subscribes() int { return c.o.Pace.Worth(pace.Subscribing) }

// Target is the mailbox of an operation, and the URL.
type Target struct {
	URL      string // of EWS: https://mail.contoso.com/EWS/Exchange.asmx
	Mailbox  string // impersonated, by its primary SMTP address; "": none
	Anchor   string // X-AnchorMailbox; "": Mailbox
	Affinity bool   // X-PreferServerAffinity: true
	Cookie   string // the value of X-BackEndOverrideCookie that the anchor of the group got; "": none
}

// Answer is what an answer says about the server.
type Answer struct {
	ServerTime   time.Time // the server's clock: its Date header, whole seconds; zero: it sent none
	Began, Ended time.Time // by our clock: before the request, and after the answer was read
	Backend      string    // X-CalculatedBETarget: the mailbox server that answered, where Exchange says so
	Cookie       string    // X-BackEndOverrideCookie as this answer set it; "": it did not
	RequestID    string    // client-request-id: what to look for in the server's logs
}

// maxServerName bounds the name of a server; a name of DNS has 253 characters.
const maxServerName = 253

// Server is the mailbox server that answered: the backend, else the one in the override cookie (<server>~<number>). Empty:
// the answer names none. What cannot be the name of a server is none: it would be stored and shown.
func (a Answer) Server() string {
	cookie, _, _ := strings.Cut(a.Cookie, "~")
	for _, name := range [...]string{a.Backend, cookie} {
		if name != "" && len(name) <= maxServerName && !strings.ContainsFunc(name, notOfName) {
			return name
		}
	}
	return ""
}

// notOfName reports whether a character cannot be in the name of a server.
func notOfName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
}

// Notifications are the events of one envelope of a stream. Without events the envelope is a heartbeat.
type Notifications struct {
	Events []Event
	At     time.Time // when it was complete, on our clock
	Closed bool      // the server ends the stream with it, as it is to do after the connection timeout
}

// Event is a NewMailEvent.
type Event struct {
	Subscription, ItemID string
	Time                 time.Time // as the server reports it; zero: it did not
}

// Item is one answer of GetItem: a message, or why there is none.
type Item struct {
	ID      string
	Message *mail.Message
	Err     error // an *Error that concerns this item, or at most its mailbox
}

// Listing is one page of the Inbox, newest first by received time. Its messages have neither sender nor preview.
type Listing struct {
	Answer
	Messages []mail.Message
	Last     bool // IncludesLastItemInRange: nothing older follows
	Next     int  // the offset behind this page
	Total    int  // of the view, as the server tells it
}
