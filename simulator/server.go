// Package simulator is an Exchange (EWS, Autodiscover, SMTP), an Entra ID and an APNs on loopback that behave as the real ones
// are documented to, faults included. The demo, the tests and the benchmark run the real service against it, and developers of
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
	Dir       string   // the CA certificate, the secrets and mailbell.yaml are written there; empty: nothing is written
	Mailboxes int      // how many are made up: user0001@contoso.example, user0002@…
	Addresses []string // further mailboxes, on premises
	// Hybrid starts two more hosts of Exchange, Online and Other. The mailboxes that are made up are dealt to the three in turn.
	Hybrid    bool
	Heartbeat time.Duration // 0: DefaultHeartbeat
	// Personality is which Exchange it is like, on premises: empty, Exchange Server SE; or one of Personalities.
	Personality string
	// Servers is how many mailbox servers are on premises, EXCH01.contoso.example and so on; the mailboxes are dealt to them in
	// turn. 0: one.
	Servers int
	// Auth is how one signs in on premises: AuthBasic, AuthNTLM, or both. Empty: AuthBasic.
	Auth []string
	// ExtendedProtection has NTLM need the channel binding of the TLS connection, as Exchange has by default since 2019 CU14; else
	// it may be left out.
	ExtendedProtection bool

	SchemaForm bool // stream answers as the schema has them (t:Notification, t:SubscriptionId); real servers send m:
	AlertLog   int  // the newest alerts that are kept; 0: DefaultAlertLog, below 0: none

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
	EWSURL          string // https://127.0.0.1:…/EWS/Exchange.asmx; on premises
	AutodiscoverURL string // https://127.0.0.1:…/autodiscover/autodiscover.xml
	APNsURL         string // https://127.0.0.1:…
	Authority       string // of Entra ID: https://127.0.0.1:…
	TokenURL        string // https://127.0.0.1:…/{tenant}/oauth2/v2.0/token
	TenantID        string
	ClientID        string // of the app, which may act on every mailbox of Online
	ClientSecret    string
	SMTPAddr        string // host:port
	ControlURL      string // http://127.0.0.1:…
	Username        string // of the listener account, which may impersonate every mailbox
	Password        string // of that account and of each mailbox
	Topic           string // the app's bundle id
	KeyID, TeamID   string // of the APNs key
	APNsKeyPEM      []byte // PKCS #8, as Apple's .p8 files
	CAPEM           []byte

	OnlineURL             string // https://127.0.0.1:…/EWS/Exchange.asmx; the hosts of Options.Hybrid, else empty
	OnlineAutodiscoverURL string // https://127.0.0.1:…, without a path
	OtherURL              string // https://127.0.0.1:…/EWS/Exchange.asmx
	OtherUsername         string // of the listener account at Other: its mail address, with the same Password

	CAFile       string // the rest is empty without Options.Dir
	ConfigFile   string
	APIURL       string // where a service with that configuration listens
	APITokenFile string // of the client with the role admin

	logf   func(string, ...any)
	faults *faults
	org    *organisation
	entra  *entra
	pushes *apns

	secretEnds time.Time // ClientSecret

	end      sync.Once
	stop     context.CancelFunc
	running  sync.WaitGroup
	handlers sync.RWMutex // held for reading by each HTTP handler, so that Close can wait for them
	ended    <-chan struct{}
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
	if !slices.Contains(Personalities(), o.Personality) {
		return nil, fmt.Errorf("simulator: the personality %q: must be empty%s", o.Personality, strings.Join(Personalities(), ", "))
	}
	if o.Servers < 0 || o.Servers > maxServers {
		return nil, fmt.Errorf("simulator: %d mailbox servers: must be 0 to %d", o.Servers, maxServers)
	}
	if i := slices.IndexFunc(o.Auth, func(way string) bool { return way != AuthBasic && way != AuthNTLM }); i >= 0 {
		return nil, fmt.Errorf("simulator: the way to sign in %q: must be %s or %s", o.Auth[i], AuthBasic, AuthNTLM)
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
	ca, err := newCA()
	if err != nil {
		return err
	}
	certificate, err := ca.issue()
	if err != nil {
		return err
	}
	pushKey, keyPEM, err := newPushKey()
	if err != nil {
		return err
	}
	s.CAPEM, s.APNsKeyPEM = ca.pem, keyPEM

	inner, stop := context.WithCancel(ctx)
	s.stop, s.ended = stop, inner.Done()
	s.faults = newFaults(s.faultChanged)
	tokens := &tokenChecker{key: pushKey, keyID: keyID, team: teamID, issued: map[string]time.Time{}}
	s.pushes = newAPNs(inner, s.faults, tokens, topic, newAlertLog(o.AlertLog, o.OnAlert), s.logf)
	if err := s.startEntra(inner, certificate); err != nil {
		return err
	}
	if err := s.startHosts(inner, o, ca); err != nil {
		return err
	}
	hosts := []string{OnPremises}
	if o.Hybrid {
		hosts = append(hosts, Online, Other)
	}
	for i := range o.Mailboxes {
		if err := s.AddMailboxAt(fmt.Sprintf("user%04d@%s", i+1, Domain), hosts[i%len(hosts)]); err != nil {
			return err
		}
	}
	for _, address := range o.Addresses {
		if err := s.AddMailbox(address); err != nil {
			return err
		}
	}

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
	mailServer := newSMTP(s.org)
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

// startEntra starts the token service.
func (s *Server) startEntra(ctx context.Context, certificate tls.Certificate) error {
	s.ClientSecret, s.secretEnds = rand.Text(), time.Now().Add(secretLife).UTC()
	var err error
	s.entra, err = newEntra(entraOptions{
		Domains: []string{Domain, RoutingDomain}, FullAccess: true, PublicClient: true, Consent: true,
		Secrets: []entraSecret{{Value: s.ClientSecret, Expires: s.secretEnds}},
		Users:   []entraUser{{Address: listenerAddress, Password: s.Password}},
		Faults:  s.faults, Stop: ctx.Done(),
	})
	if err != nil {
		return err
	}
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.TenantID, s.ClientID = s.entra.tenant, s.entra.clientID
	s.Authority = "https://" + l.Addr().String()
	s.TokenURL = s.Authority + "/" + s.TenantID + "/oauth2/v2.0/token"
	s.serveHTTP(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}), &http.Server{Handler: s.entra})
	return nil
}

// secretLife is how long the client secret is good for: longer than any run, and far from when its end is warned of.
const secretLife = 180 * 24 * time.Hour

// startHosts starts the hosts of Exchange.
func (s *Server) startHosts(ctx context.Context, o Options, ca *authority) error {
	s.org = &organisation{}
	names := []string{OnPremises}
	if o.Hybrid {
		names = append(names, Online, Other)
	}
	for _, name := range names {
		x := newHost(name, s.org, o, s.faults, ctx.Done())
		l, err := s.listen(ctx)
		if err != nil {
			return err
		}
		x.logf, x.tokens = s.logf, s.entra
		x.password.Store(s.Password)
		x.url = "https://" + l.Addr().String()
		certificate, err := ca.issue()
		if err != nil {
			return err
		}
		switch ews := x.url + "/EWS/Exchange.asmx"; name {
		case OnPremises:
			s.EWSURL, s.AutodiscoverURL = ews, x.url+"/autodiscover/autodiscover.xml"
		case Online:
			s.OnlineURL, s.OnlineAutodiscoverURL = ews, x.url
			s.entra.addResource(x.url)
		case Other:
			s.OtherURL, s.OtherUsername = ews, listenerAddress
		}
		if name == OnPremises && len(o.Auth) > 0 {
			if err := x.takeSignIns(o, certificate); err != nil {
				return err
			}
		}
		var http1 http.Protocols
		http1.SetHTTP1(true)
		s.serveHTTP(tls.NewListener(awayListener{l, x}, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}),
			&http.Server{Handler: x, ConnContext: withConn, ConnState: x.track, Protocols: &http1})
	}
	return nil
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
		if s.closed() {
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

func (s *Server) closed() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
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
		for _, x := range s.org.hosts {
			x.wakeStreams()
		}
	case eventsReordered:
		for _, x := range s.org.hosts {
			x.releaseEvents()
		}
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

// Mailboxes lists the primary addresses on all hosts, sorted.
func (s *Server) Mailboxes() []string { return s.org.list() }

// Mailbox says where a mailbox lives. The error is ErrNoMailbox.
func (s *Server) Mailbox(address string) (Mailbox, error) { return s.org.mailbox(address) }

// AddMailbox makes a mailbox, on premises. The error wraps ErrMailboxExists, or says that the address is none.
func (s *Server) AddMailbox(address string) error { return s.AddMailboxAt(address, OnPremises) }

// AddMailboxAt makes a mailbox on a host. The error wraps ErrNoHost or ErrMailboxExists, or says that the address is none. Its
// user has an account in Entra ID too, with Password.
func (s *Server) AddMailboxAt(address, host string) error {
	if err := s.org.addMailbox(address, host); err != nil {
		return err
	}
	s.entra.setUser(entraUser{Address: address, Password: s.Password})
	return nil
}

// RemoveMailbox removes a mailbox with everything in it and its subscriptions. The error is ErrNoMailbox.
func (s *Server) RemoveMailbox(address string) error { return s.org.removeMailbox(address) }

// AddAlias gives a mailbox a further address: for delivery, for Autodiscover, which answers with the primary one, and for
// impersonation by SmtpAddress, but not by PrimarySmtpAddress. The error is ErrNoMailbox, wraps ErrMailboxExists, or says that
// the alias is no address.
func (s *Server) AddAlias(alias, address string) error { return s.org.addAlias(alias, address) }

// Rename gives a mailbox another primary address; the one that it had stays as an alias. The error is ErrNoMailbox, wraps
// ErrMailboxExists, or says that the address is none.
func (s *Server) Rename(address, primary string) error {
	if err := s.org.rename(address, primary); err != nil {
		return err
	}
	s.entra.setUser(entraUser{Address: primary, Password: s.Password})
	return nil
}

// SetPassword changes the password that every host takes with a user name, as an administrator of the directory does.
func (s *Server) SetPassword(password string) {
	for _, x := range s.org.hosts {
		x.password.Store(password)
	}
}

// Move brings a mailbox to another host: its messages are there at the same received times under new item ids, what arrives
// from now on is delivered there, its subscriptions end. The old host knows the mailbox no more. One that lives there already
// stays as it is. The error is ErrNoMailbox or wraps ErrNoHost.
func (s *Server) Move(address, host string) error { return s.org.move(address, host) }

// MoveServer brings a mailbox to another mailbox server of its host, by the server's short or full name: its subscriptions end,
// its item ids stay. The error is ErrNoMailbox or wraps ErrNoServer.
func (s *Server) MoveServer(address, server string) error { return s.org.moveServer(address, server) }

// Deliver puts a message (RFC 5322) into an Inbox, as at the given time; the zero time is now. The message is kept and must not
// be changed afterwards. The error is ErrNoMailbox, or says that the message is too large.
func (s *Server) Deliver(to string, received time.Time, rfc5322 []byte) (itemID string, err error) {
	return s.org.deliver(to, received, rfc5322)
}

// Delete removes an item for good. The error is ErrNoMailbox or ErrNoItem.
func (s *Server) Delete(to, itemID string) error {
	return s.org.at(to, func(x *exchange) error { return x.deleteItem(to, itemID) })
}

// MoveItem moves an item to the Archive folder (away), or back to the Inbox, and returns its new id.
func (s *Server) MoveItem(to, itemID string, away bool) (newID string, err error) {
	folder := inbox
	if away {
		folder = archive
	}
	err = s.org.at(to, func(x *exchange) error {
		newID, err = x.moveItem(to, itemID, folder)
		return err
	})
	return newID, err
}

// MarkRead marks an item as read or unread.
func (s *Server) MarkRead(to, itemID string, read bool) error {
	return s.org.at(to, func(x *exchange) error { return x.markRead(to, itemID, read) })
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
	Requests       map[string]int `json:"requests"`        // ever, by EWS operation, and Autodiscover, GetUserSettings, AutodiscoverV2
	Unauthorized   int            `json:"unauthorized"`    // answers 401, ever
	OpenStreams    int            `json:"open_streams"`    // GetStreamingEvents
	Subscriptions  int            `json:"subscriptions"`   // alive
	Tokens         int            `json:"tokens"`          // issued by the token service, ever
	TokensRefused  int            `json:"tokens_refused"`  // requests that it answered with an error
	APNsOpen       int            `json:"apns_open"`       // connections
	APNsEver       int            `json:"apns_ever"`       // connections
	RefusedStreams int            `json:"refused_streams"` // of APNs, over its limit
	Accepted       int            `json:"accepted"`        // alerts
	Refused        int            `json:"refused"`         // alerts
}

// Counts counts, on all hosts of Exchange.
func (s *Server) Counts() Counts { return s.counts(s.org.hosts...) }

// CountsAt counts, but of the hosts of Exchange only on the one of that name. The error wraps ErrNoHost.
func (s *Server) CountsAt(host string) (Counts, error) {
	x := s.org.host(host)
	if x == nil {
		return Counts{}, fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	return s.counts(x), nil
}

func (s *Server) counts(hosts ...*exchange) Counts {
	c := Counts{Requests: map[string]int{}}
	for _, x := range hosts {
		x.mu.Lock()
		for operation, n := range x.requests {
			c.Requests[operation] += n
		}
		c.Unauthorized += x.refused
		c.OpenStreams += len(x.streams)
		c.Subscriptions += len(x.subs)
		x.mu.Unlock()
	}
	tokens := s.entra.count()
	c.Tokens, c.TokensRefused = tokens.Issued, tokens.Refused
	s.pushes.mu.Lock()
	c.APNsOpen, c.APNsEver, c.RefusedStreams = len(s.pushes.conns), s.pushes.connections, s.pushes.refused
	s.pushes.mu.Unlock()
	c.Accepted, c.Refused = s.pushes.log.counts()
	return c
}

// Subscriptions counts those of a mailbox: all that are alive, and how many of them a stream is open on.
func (s *Server) Subscriptions(address string) (alive, heard int) {
	s.org.mu.RLock()
	defer s.org.mu.RUnlock()
	x, primary := s.org.home(address)
	if x == nil {
		return 0, 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[primary]
	for _, sub := range b.subs {
		if sub.stream != nil {
			heard++
		}
	}
	return len(b.subs), heard
}
