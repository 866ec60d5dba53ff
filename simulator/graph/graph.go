// Package graph is the simulator's Microsoft Graph, as far as mail needs it: messages, batches and change notifications of the mailboxes
// at Exchange Online, version 1.0 of the API. It has wire code of its own.
//
//   - bearer.go: what Graph says to an access token
//   - answer.go: answers and errors
//   - messages.go, query.go, properties.go: folders and messages
//   - send.go: sendMail
//   - batch.go: $batch
//   - subscriptions.go, handshake.go: the life of a subscription
//   - notify.go, endpoint.go: how notifications are posted
//   - rich.go: notifications with encrypted content
//   - throttle.go, faults.go
package graph

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
)

// version is the path of the API.
const version = "/v1.0"

// Mail is the store of Exchange Online.
type Mail interface {
	AtOnline(name string) (exchange.Box, error)
	FolderAtOnline(name, folder string) (exchange.Folder, error)
	MessagesAtOnline(name, folder string, from, before time.Time) ([]exchange.Message, error)
	MessageAtOnline(name, id string) (exchange.Message, error)
	Submit(from, to, subject, text string) error
	Watch(w exchange.Watcher)
}

// Options of New.
type Options struct {
	Mail   Mail
	Tokens *entra.Tenant
	Faults *faults.Registry // with the kinds of Faults

	Roots *x509.CertPool    // the authorities of the URLs that notifications are posted to; nil: the system's
	Post  http.RoundTripper // posts notifications instead of a transport of its own; may be nil
	Retry time.Duration     // the first wait before a notification is posted again; 0: DefaultRetry

	Logf func(format string, args ...any) // may be nil
}

// Server is a Microsoft Graph. Its handler is itself. Locks are taken in the order exchange, Server.mu.
type Server struct {
	mail   Mail
	tokens *entra.Tenant
	faults faults.Host
	clock  faults.Clock
	logf   func(string, ...any)
	retry  time.Duration

	client    *http.Client // posts notifications
	transport *http.Transport
	ctx       context.Context
	stop      context.CancelFunc
	work      sync.WaitGroup // the posts

	mu        sync.Mutex
	url       string // https://host:port
	closed    bool
	subs      map[string]*subscription   // by id
	boxes     map[string][]*subscription // by the GUID of the mailbox
	endpoints map[string]*endpoint       // by URL
	counts    Counts
	limits    limits
}

// Counts is what has happened, and what is open.
type Counts struct {
	Requests      map[string]int // ever, by operation: GraphMessages, GraphSubscribe and so on
	Unauthorized  int            // answers 401, ever
	Throttled     int            // answers 429, ever
	Subscriptions int            // alive
	Notifications int            // change and lifecycle notifications that were accepted, ever
}

// New makes a Graph, which watches the mail.
func New(o Options) *Server {
	s := &Server{
		mail: o.Mail, tokens: o.Tokens, faults: faults.Host{Registry: o.Faults, Name: exchange.Online}, logf: o.Logf, retry: o.Retry,
		subs: map[string]*subscription{}, boxes: map[string][]*subscription{}, endpoints: map[string]*endpoint{},
		counts: Counts{Requests: map[string]int{}}, limits: newLimits(),
	}
	s.clock = faults.Clock{Faults: s.faults}
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	if s.retry <= 0 {
		s.retry = DefaultRetry
	}
	post := o.Post
	if post == nil {
		s.transport = &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: o.Roots}, MaxIdleConnsPerHost: maxPosts, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}
		post = s.transport
	}
	s.client = &http.Client{
		Timeout: answerTime, Transport: post,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.actOut(o.Faults)
	o.Mail.Watch(s)
	return s
}

// Locate says where Graph is: its URL, without a path. It is called once, before the first request.
func (s *Server) Locate(url string) {
	s.mu.Lock()
	s.url = url
	s.mu.Unlock()
	s.tokens.AddGraph(url)
}

// Close ends the posts, and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, sub := range s.subs {
		sub.stopTimers()
	}
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}

// run starts a goroutine that Close waits for, unless Close was called. s.mu is held.
func (s *Server) run(f func()) {
	if !s.closed {
		s.work.Go(f)
	}
}

// after calls f with s.mu held, later, unless Close was called meanwhile.
func (s *Server) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			f()
		}
	})
}

// Counts tells what happened so far; without a server, nothing.
func (s *Server) Counts() Counts {
	if s == nil {
		return Counts{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Requests = maps.Clone(s.counts.Requests)
	c.Subscriptions = len(s.subs)
	return c
}

// Subscription is one that is alive, with its secret, which Graph shows nobody.
type Subscription struct {
	ID, Mailbox, NotificationURL, ClientState string
	Expires                                   time.Time
}

// Subscriptions lists those that are alive, by their mailboxes; without a server, none.
func (s *Server) Subscriptions() []Subscription {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Subscription, 0, len(s.subs))
	for _, sub := range s.inOrder() {
		list = append(list, Subscription{sub.id, sub.box.Address, sub.url, sub.state, sub.expires})
	}
	return list
}

// call is one request, alone or of a batch.
type call struct {
	s         *Server
	w         http.ResponseWriter
	r         *http.Request
	bearer    entra.Bearer
	requestID string
	clientID  string // client-request-id
	immutable bool   // Prefer: IdType="ImmutableId"
	batched   bool
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := s.newCall(w, r)
	if !c.reachable() || !c.authorised() {
		return
	}
	if path, ok := strings.CutPrefix(r.URL.Path, version); ok && strings.EqualFold(path, "/$batch") {
		c.batch() //nolint:contextcheck // a notification does not end with the request that made its subscription
		return
	}
	c.route() //nolint:contextcheck // as above
}

// Operations, as they are counted.
const (
	opUser        = "GraphUser"
	opFolder      = "GraphFolder"
	opMessages    = "GraphMessages"
	opMessage     = "GraphMessage"
	opSend        = "GraphSendMail"
	opBatch       = "GraphBatch"
	opSubscribe   = "GraphSubscribe"
	opList        = "GraphSubscriptions"
	opRead        = "GraphSubscription"
	opRenew       = "GraphRenew"
	opReauthorise = "GraphReauthorize"
	opDelete      = "GraphUnsubscribe"
	opUnknown     = "GraphUnknown"
)

// route finds the operation of a path below the version.
func (c *call) route() {
	path, ok := strings.CutPrefix(c.r.URL.Path, version+"/")
	if !ok {
		c.count(opUnknown)
		c.fail(http.StatusBadRequest, "BadRequest", "Invalid version.")
		return
	}
	parts := segments(path)
	switch {
	case len(parts) >= 1 && parts[0] == "subscriptions" && len(parts) <= 3:
		c.subscriptions(parts[1:])
	case len(parts) >= 2 && parts[0] == "users":
		c.user(parts[1], parts[2:])
	default:
		c.count(opUnknown)
		c.fail(http.StatusBadRequest, "BadRequest", "Resource not found for the segment '"+parts[0]+"'.")
	}
}

// segments splits a path; a key in brackets is a segment of its own, as in mailFolders('inbox'). The first and the odd ones are names,
// which are compared without case, and are returned in lower case.
func segments(path string) []string {
	var parts []string
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		name, key, ok := strings.Cut(part, "('")
		if key, closed := strings.CutSuffix(key, "')"); ok && closed {
			parts = append(parts, name, strings.ReplaceAll(key, "''", "'"))
			continue
		}
		parts = append(parts, part)
	}
	for i := range parts {
		if i%2 == 0 {
			parts[i] = strings.ToLower(parts[i])
		}
	}
	return parts
}

func (c *call) count(operation string) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.counts.Requests[operation]++
}
