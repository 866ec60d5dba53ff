// Package simulator is an Exchange (EWS, Autodiscover, SMTP) and an APNs on loopback that behave as the real ones are
// documented to, faults included. The demo, the tests and the benchmark run the real service against it, and developers of
// mail apps can run their own clients.
//
// It imports nothing of this module and has wire code of its own, so that one mistake cannot hide on both sides.
package simulator

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Domain is the mail domain of the mailboxes that Start makes up. It is reserved (RFC 2606).
const Domain = "contoso.example"

// Bounds and defaults.
const (
	DefaultHeartbeat = 45 * time.Second // of a stream; what clients of real servers expect
	DefaultAlertLog  = 100_000          // alerts kept, about 1 KiB each
)

// Options of Start. The zero value is a simulator without a mailbox.
type Options struct {
	Dir       string        // the CA certificate, the secrets and mailbell.yaml are written there; empty: nothing is written
	Mailboxes int           // how many are made up: user0001@contoso.example, user0002@…
	Addresses []string      // further mailboxes
	Heartbeat time.Duration // 0: DefaultHeartbeat
	// Personality is whose server Exchange is like: empty, Microsoft's; or Gromox.
	Personality string
	SchemaForm  bool // stream answers as the schema has them (t:Notification, t:SubscriptionId); real servers send m:
	AlertLog    int  // the newest alerts that are kept; 0: DefaultAlertLog, below 0: none

	// Logf tells what the simulator does, one line each; may be nil.
	Logf func(format string, args ...any)
	// OnMessage sees every EWS envelope, in either direction ("request", "response"), with the operation's name. It is
	// called from many goroutines and must not keep the bytes. May be nil.
	OnMessage func(direction, operation string, envelope []byte)
	// OnAlert sees every alert as it is recorded, one call at a time, before its answer is sent. May be nil.
	OnAlert func(Alert)
}

// ErrNoMailbox is returned for an address that has no mailbox here.
var ErrNoMailbox = errors.New("no such mailbox")

// ErrMailboxExists is wrapped by the error for an address that is taken.
var ErrMailboxExists = errors.New("has a mailbox already")

// ErrNoItem is returned for an item id that its mailbox does not hold.
var ErrNoItem = errors.New("no such item")

// Server is a running simulator. Its fields are set by Start and only read afterwards.
type Server struct {
	EWSURL          string // https://127.0.0.1:…/EWS/Exchange.asmx
	AutodiscoverURL string // https://127.0.0.1:…/autodiscover/autodiscover.xml
	APNsURL         string // https://127.0.0.1:…
	TokenURL        string // of Entra ID; empty, there is none yet
	SMTPAddr        string // host:port
	ControlURL      string // http://127.0.0.1:…
	Username        string // of the listener account, which may impersonate every mailbox
	Password        string // of that account and of each mailbox
	Topic           string // the app's bundle id
	KeyID, TeamID   string // of the APNs key
	APNsKeyPEM      []byte // PKCS #8, as Apple's .p8 files
	CAPEM           []byte

	CAFile       string // the rest is empty without Options.Dir
	ConfigFile   string
	APIURL       string // where a service with that configuration listens
	APITokenFile string // of the client with the role admin

	logf   func(string, ...any)
	faults *faults
	store  *exchange
	pushes *apns

	end      sync.Once
	stop     context.CancelFunc
	running  sync.WaitGroup
	handlers sync.RWMutex // held for reading by each HTTP handler, so that Close can wait for them
	closers  []func() error
	failed   error // of Close
}

// Names and limits of what Start makes up.
const (
	topic        = "com.contoso.mail"
	keyID        = "SIM1234567"
	teamID       = "CONTOSO123"
	listenerName = `CONTOSO\svc-bell`

	headerTime = 30 * time.Second // for the head of a request
	idleTime   = 5 * time.Minute  // of a connection without one
	maxMadeUp  = 1_000_000
)

// Start starts everything on free ports of loopback. It ends with ctx or with Close, whichever comes first; after ctx, Close
// still waits for the end.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Mailboxes < 0 || o.Mailboxes > maxMadeUp {
		return nil, fmt.Errorf("simulator: %d mailboxes: must be 0 to %d", o.Mailboxes, maxMadeUp)
	}
	if o.Personality != "" && o.Personality != Gromox {
		return nil, fmt.Errorf("simulator: the personality %q: must be empty or %s", o.Personality, Gromox)
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	s := &Server{Username: listenerName, Password: rand.Text(), Topic: topic, KeyID: keyID, TeamID: teamID, logf: o.Logf}
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	if err := s.start(ctx, o); err != nil {
		if s.stop != nil {
			s.Close()
		}
		return nil, fmt.Errorf("simulator: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, o Options) error {
	caPEM, certificate, err := newAuthority()
	if err != nil {
		return err
	}
	pushKey, keyPEM, err := newPushKey()
	if err != nil {
		return err
	}
	s.CAPEM, s.APNsKeyPEM = caPEM, keyPEM

	inner, stop := context.WithCancel(ctx)
	s.stop = stop
	s.faults = newFaults(s.faultChanged)
	x := newExchange(o, s.faults, inner.Done())
	x.logf, x.user, x.password = s.logf, s.Username, s.Password
	s.store = x
	tokens := &tokenChecker{key: pushKey, keyID: keyID, team: teamID, issued: map[string]time.Time{}}
	s.pushes = newAPNs(inner, s.faults, tokens, topic, newAlertLog(o.AlertLog, o.OnAlert), s.logf)

	for i := range o.Mailboxes {
		if err := x.addMailbox(fmt.Sprintf("user%04d@%s", i+1, Domain)); err != nil {
			return err
		}
	}
	for _, address := range o.Addresses {
		if err := x.addMailbox(address); err != nil {
			return err
		}
	}

	mail, err := s.listen(inner)
	if err != nil {
		return err
	}
	x.host = mail.Addr().String()
	x.url = "https://" + x.host + "/EWS/Exchange.asmx"
	s.EWSURL, s.AutodiscoverURL = x.url, "https://"+x.host+"/autodiscover/autodiscover.xml"
	var http1 http.Protocols
	http1.SetHTTP1(true)
	s.serveHTTP(tls.NewListener(awayListener{mail, x}, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}),
		&http.Server{Handler: x, ConnContext: withConn, ConnState: x.track, Protocols: &http1})

	push, err := s.listen(inner)
	if err != nil {
		return err
	}
	s.APNsURL = "https://" + push.Addr().String()
	s.closers = append(s.closers, push.Close)
	s.running.Go(func() {
		s.pushes.serve(tls.NewListener(push, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}))
		s.pushes.running.Wait()
	})

	smtpListener, err := s.listen(inner)
	if err != nil {
		return err
	}
	s.SMTPAddr = smtpListener.Addr().String()
	mailServer := newSMTP(x)
	s.closers = append(s.closers, mailServer.Close, smtpListener.Close) // Close misses a listener that Serve has not seen yet
	s.running.Go(func() {
		if err := mailServer.Serve(smtpListener); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			s.logf("smtp: %v", err)
		}
	})

	control, err := s.listen(inner)
	if err != nil {
		return err
	}
	s.ControlURL = "http://" + control.Addr().String()
	s.serveHTTP(control, &http.Server{Handler: s.control(), BaseContext: func(net.Listener) context.Context { return inner }})

	context.AfterFunc(inner, s.shut)
	if o.Dir == "" {
		return nil
	}
	return s.writeFiles(ctx, o.Dir)
}

func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	var l net.ListenConfig
	return l.Listen(ctx, "tcp", "127.0.0.1:0")
}

// serveHTTP runs a server until shut; Close waits for its handlers.
func (s *Server) serveHTTP(l net.Listener, server *http.Server) {
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.RLock()
		defer s.handlers.RUnlock()
		if s.store.closed() {
			return
		}
		handler.ServeHTTP(w, r)
	})
	server.ReadHeaderTimeout, server.IdleTimeout = headerTime, idleTime
	server.ErrorLog = log.New(logWriter(s.logf), "", 0)
	s.closers = append(s.closers, server.Close)
	s.running.Go(func() {
		if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.logf("http: %v", err)
		}
	})
}

// logWriter hands the lines of a log.Logger on.
type logWriter func(string, ...any)

func (w logWriter) Write(p []byte) (int, error) {
	w("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// shut closes what listens, and every connection.
func (s *Server) shut() {
	s.end.Do(func() {
		s.stop()
		s.faults.close()
		var errs []error
		for _, c := range s.closers {
			if err := c(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		s.failed = errors.Join(errs...)
	})
}

// Close ends everything and waits until all has ended.
func (s *Server) Close() error {
	s.shut()
	s.running.Wait()
	s.handlers.Lock() // the last handler has ended
	defer s.handlers.Unlock()
	return s.failed
}

// faultChanged looks at what waited for a fault to end.
func (s *Server) faultChanged(name string) {
	switch name {
	case streamSilent:
		s.store.wakeStreams()
	case eventsReordered:
		s.store.releaseEvents()
	case apnsStall:
		s.pushes.resume()
	case apnsDead:
		s.pushes.bury()
	case apnsStreams:
		s.pushes.tellLimit()
	}
}

// RootCAs is a pool that trusts this simulator and nothing else.
func (s *Server) RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CAPEM)
	return pool
}

// Mailboxes lists the primary addresses, sorted.
func (s *Server) Mailboxes() []string {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	return slices.Sorted(maps.Keys(s.store.boxes))
}

// AddMailbox makes a mailbox. The error wraps ErrMailboxExists, or says that the address is none.
func (s *Server) AddMailbox(address string) error { return s.store.addMailbox(address) }

// RemoveMailbox removes a mailbox with everything in it and its subscriptions. The error is ErrNoMailbox.
func (s *Server) RemoveMailbox(address string) error { return s.store.removeMailbox(address) }

// AddAlias gives a mailbox a further address: for delivery, for Autodiscover, which answers with the primary one, and for
// impersonation by SmtpAddress, but not by PrimarySmtpAddress.
func (s *Server) AddAlias(alias, address string) error { return s.store.addAlias(alias, address) }

// Deliver puts a message (RFC 5322) into an Inbox, as at the given time; the zero time is now. The message is kept and must not
// be changed afterwards. The error is ErrNoMailbox, or says that the message is too large.
func (s *Server) Deliver(to string, received time.Time, rfc5322 []byte) (itemID string, err error) {
	return s.store.deliver(to, received, rfc5322)
}

// Delete removes an item for good. The error is ErrNoMailbox or ErrNoItem.
func (s *Server) Delete(to, itemID string) error { return s.store.deleteItem(to, itemID) }

// Move moves an item to the Archive folder (away), or back to the Inbox, and returns its new id.
func (s *Server) Move(to, itemID string, away bool) (newID string, err error) {
	if away {
		return s.store.moveItem(to, itemID, archive)
	}
	return s.store.moveItem(to, itemID, inbox)
}

// MarkRead marks an item as read or unread.
func (s *Server) MarkRead(to, itemID string, read bool) error {
	return s.store.markRead(to, itemID, read)
}

// Unregister has APNs answer 410 Unregistered for a device token, with the time since when; the zero time ends that.
func (s *Server) Unregister(token string, since time.Time) {
	s.pushes.mu.Lock()
	defer s.pushes.mu.Unlock()
	if since.IsZero() {
		delete(s.pushes.unregistered, strings.ToLower(token))
		return
	}
	s.pushes.unregistered[strings.ToLower(token)] = since
}

// Counts is what has happened, and what is open.
type Counts struct {
	Requests       map[string]int `json:"requests"`        // ever, by EWS operation, and Autodiscover
	Unauthorized   int            `json:"unauthorized"`    // answers 401, ever
	OpenStreams    int            `json:"open_streams"`    // GetStreamingEvents
	Subscriptions  int            `json:"subscriptions"`   // alive
	APNsOpen       int            `json:"apns_open"`       // connections
	APNsEver       int            `json:"apns_ever"`       // connections
	RefusedStreams int            `json:"refused_streams"` // of APNs, over its limit
	Accepted       int            `json:"accepted"`        // alerts
	Refused        int            `json:"refused"`         // alerts
}

// Counts counts.
func (s *Server) Counts() Counts {
	var c Counts
	x := s.store
	x.mu.Lock()
	c.Requests, c.Unauthorized = maps.Clone(x.requests), x.refused
	c.OpenStreams, c.Subscriptions = len(x.streams), len(x.subs)
	x.mu.Unlock()
	s.pushes.mu.Lock()
	c.APNsOpen, c.APNsEver, c.RefusedStreams = len(s.pushes.conns), s.pushes.connections, s.pushes.refused
	s.pushes.mu.Unlock()
	c.Accepted, c.Refused = s.pushes.log.counts()
	return c
}

// Subscriptions counts those of a mailbox: all that are alive, and how many of them a stream is open on.
func (s *Server) Subscriptions(address string) (alive, heard int) {
	x := s.store
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.find(normal(address))
	if b == nil {
		return 0, 0
	}
	for _, sub := range b.subs {
		if sub.stream != nil {
			heard++
		}
	}
	return len(b.subs), heard
}
