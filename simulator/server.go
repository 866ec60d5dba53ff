// Package simulator is an Exchange (EWS, Autodiscover, SMTP), a Microsoft Graph, an Entra ID and an APNs on loopback. They behave as the real ones are
// documented, and faults can be switched on. The demo, the tests and the benchmark run the real service against it, and developers of
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
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/mailbell/mailbell/simulator/apns"
	"github.com/mailbell/mailbell/simulator/control"
	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/graph"
	"github.com/mailbell/mailbell/simulator/internal/authority"
)

// Options of Start. The zero value is a simulator without a mailbox.
type Options struct {
	Dir       string   // the CA certificate, the secrets and mailbell.yaml are written there; empty: nothing is written
	Redis     string   // host:port of the Redis that mailbell.yaml has for the state; empty: a file in Dir
	Mailboxes int      // how many are made up: user0001@contoso.example, user0002@…
	Addresses []string // further mailboxes, on premises
	// Hybrid starts two more hosts of Exchange, Online and Other, and Microsoft Graph for the mailboxes at Online.
	Hybrid bool
	// Hosts are those that the made-up mailboxes are dealt to in turn; a host may be there several times. Empty: each once.
	Hosts     []string
	Heartbeat time.Duration // 0: exchange.DefaultHeartbeat
	// Personality is which Exchange it is like, on premises: empty, Exchange Server SE; or one of Personalities.
	Personality string
	// Servers is how many mailbox servers are on premises, EXCH01.contoso.example and so on; the mailboxes are dealt to them in
	// turn. 0: one.
	Servers int
	// Auth is how one signs in on premises: AuthBasic, AuthNTLM, or both. Empty: AuthBasic.
	Auth []string
	// ExtendedProtection makes NTLM require the channel binding of the TLS connection, as Exchange does by default since 2019 CU14;
	// else a client may leave it out.
	ExtendedProtection bool

	SchemaForm bool // stream answers as the schema has them (t:Notification, t:SubscriptionId); real servers send m:
	// DefaultNamespace has the envelopes of a stream in the other form that Exchange has for them: <Envelope xmlns="…"> with
	// soap11:Header and soap11:Body, and no XML declaration.
	DefaultNamespace bool

	// ListenBy is how the service listens with the mailbell.yaml of Dir: ByStreaming or ByPush. Empty: ByStreaming.
	ListenBy string
	// Graph has the service listen to the mailboxes at Online by Microsoft Graph. It needs Hybrid.
	Graph     bool
	PushRetry time.Duration // the first wait before a push notification is posted again; 0: exchange.DefaultPushRetry
	// GraphRoles are the application permissions that the app has at Microsoft Graph. Empty: Mail.Read, with which it cannot send.
	GraphRoles []string
	// GraphRetry is the first wait before a notification of Graph is posted again; 0: graph.DefaultRetry.
	GraphRetry time.Duration

	AlertLog int // the newest alerts that are kept; 0: apns.DefaultAlertLog, below 0: none

	// Logf logs what the simulator does; may be nil.
	Logf func(format string, args ...any)
	// OnMessage sees every EWS envelope, in either direction ("request", "response"), with the operation's name. It is
	// called from many goroutines and must not keep the bytes. May be nil.
	OnMessage func(direction, operation string, envelope []byte)
	// OnAlert sees every alert as it is recorded, one call at a time, before its answer is sent. May be nil.
	OnAlert func(Alert)
}

// The kinds of listening of Options.ListenBy.
const (
	ByStreaming = "streaming"
	ByPush      = "push"
	ByGraph     = "graph" // of the entry for Online, with Options.Graph
)

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
	GraphURL              string // https://127.0.0.1:…, without a path

	CAFile       string // the rest is empty without Options.Dir
	ConfigFile   string
	APIURL       string // where a service with that configuration listens
	CallbackAddr string // host:port; where it takes callbacks over TLS, with Options.Graph
	APITokenFile string // of the client with the role admin

	logf   func(string, ...any)
	faults *faults.Registry
	org    *exchange.Organisation
	tenant *entra.Tenant
	pushes *apns.Server
	graph  *graph.Server // nil without Options.Hybrid

	options    Options
	callbacks  tls.Certificate // of the service, for its callbacks over TLS
	secretEnds time.Time       // ClientSecret

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
	topic  = "com.contoso.mail"
	keyID  = "SIM1234567"
	teamID = "CONTOSO123"

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
	if o.Graph && !o.Hybrid {
		return nil, errors.New("simulator: Graph is for Exchange Online, which only a hybrid organisation has")
	}
	s := &Server{Username: exchange.ListenerName, Password: rand.Text(), Topic: topic, KeyID: keyID, TeamID: teamID, logf: o.Logf, options: o}
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
	ca, err := authority.New()
	if err != nil {
		return err
	}
	certificate, err := ca.Issue()
	if err != nil {
		return err
	}
	s.CAPEM = ca.PEM
	if s.callbacks, err = ca.Issue(); err != nil {
		return err
	}

	inner, stop := context.WithCancel(ctx)
	s.stop, s.ended = stop, inner.Done()
	s.faults = faults.New(slices.Concat(exchange.Faults(), graph.Faults(), entra.Faults(), apns.Faults())...)
	s.pushes, err = apns.New(inner, apns.Options{
		Topic: topic, KeyID: keyID, TeamID: teamID, AlertLog: o.AlertLog, Faults: s.faults, Logf: s.logf, OnAlert: o.OnAlert,
	})
	if err != nil {
		return err
	}
	s.APNsKeyPEM = s.pushes.KeyPEM()
	if err := s.startEntra(inner, certificate); err != nil {
		return err
	}
	if err := s.startHosts(inner, o, ca); err != nil {
		return err
	}
	if o.Hybrid {
		if err := s.startGraph(inner, certificate); err != nil {
			return err
		}
	}
	hosts := o.Hosts
	if len(hosts) == 0 {
		for _, x := range s.org.Hosts() {
			hosts = append(hosts, x.Name())
		}
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
	s.running.Go(func() { s.pushes.Serve(push, certificate) })

	smtpListener, err := s.listen(inner)
	if err != nil {
		return err
	}
	s.SMTPAddr = smtpListener.Addr().String()
	mailServer := s.org.SMTP()
	s.closers = append(s.closers, mailServer.Close, smtpListener.Close) // Close misses a listener that Serve has not seen yet
	s.running.Go(func() {
		if err := mailServer.Serve(smtpListener); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			s.logf("smtp: %v", err)
		}
	})

	l, err := s.listen(inner)
	if err != nil {
		return err
	}
	s.ControlURL = "http://" + l.Addr().String()
	calls := control.New(control.Parts{Mailboxes: s, Alerts: s, Faults: s, Counts: s, Tenant: s.tenant})
	s.serveHTTP(l, &http.Server{Handler: calls, BaseContext: func(net.Listener) context.Context { return inner }})

	context.AfterFunc(inner, s.shut)
	if o.Dir == "" {
		return nil
	}
	return s.writeFiles(ctx, o.Dir)
}

// startEntra starts the token service.
func (s *Server) startEntra(ctx context.Context, certificate tls.Certificate) error {
	s.ClientSecret, s.secretEnds = rand.Text(), time.Now().Add(secretLife).UTC()
	roles := s.options.GraphRoles
	if len(roles) == 0 {
		roles = []string{"Mail.Read"}
	}
	var err error
	s.tenant, err = entra.New(entra.Options{
		Domains: []string{Domain, RoutingDomain}, FullAccess: true, PublicClient: true, Consent: true,
		GraphRoles: roles,
		Secrets:    []entra.Secret{{Value: s.ClientSecret, Expires: s.secretEnds}},
		Users:      []entra.User{{Address: exchange.ListenerAddress, Password: s.Password}},
		Faults:     s.faults, Stop: ctx.Done(),
	})
	if err != nil {
		return err
	}
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.TenantID, s.ClientID = s.tenant.ID(), s.tenant.ClientID()
	s.Authority = "https://" + l.Addr().String()
	s.TokenURL = s.Authority + "/" + s.TenantID + "/oauth2/v2.0/token"
	s.serveHTTP(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}), &http.Server{Handler: s.tenant})
	return nil
}

// secretLife is how long the client secret is valid: longer than any run, and too long for a warning that it expires.
const secretLife = 180 * 24 * time.Hour

// startGraph starts Microsoft Graph for the mailboxes at Online.
func (s *Server) startGraph(ctx context.Context, certificate tls.Certificate) error {
	s.graph = graph.New(graph.Options{ //nolint:contextcheck // its posts end with Close
		Mail: s.org, Tokens: s.tenant, Faults: s.faults, Roots: s.RootCAs(), Retry: s.options.GraphRetry, Logf: s.logf,
	})
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.GraphURL = "https://" + l.Addr().String()
	s.graph.Locate(s.GraphURL)
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}
	s.serveHTTP(tls.NewListener(l, secure), &http.Server{Handler: s.graph})
	return nil
}

// startHosts starts the hosts of Exchange.
func (s *Server) startHosts(ctx context.Context, o Options, ca *authority.Authority) error {
	var err error
	s.org, err = exchange.New(exchange.Options{
		Hybrid: o.Hybrid, Heartbeat: o.Heartbeat, Personality: o.Personality, Servers: o.Servers, Auth: o.Auth,
		ExtendedProtection: o.ExtendedProtection, SchemaForm: o.SchemaForm, DefaultNamespace: o.DefaultNamespace,
		Password: s.Password, Tokens: s.tenant, Faults: s.faults, Closing: ctx.Done(), Logf: s.logf, OnMessage: o.OnMessage,
		PushRetry: o.PushRetry, PushRoots: s.RootCAs(),
	})
	if err != nil {
		return err
	}
	for _, host := range s.org.Hosts() {
		if err := s.startHost(ctx, host, ca); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) startHost(ctx context.Context, host *exchange.Host, ca *authority.Authority) error {
	certificate, err := ca.Issue()
	if err != nil {
		return err
	}
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server, secure, err := host.Listen(l, certificate)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	switch host.Name() {
	case OnPremises:
		s.EWSURL, s.AutodiscoverURL = host.EWSURL(), host.AutodiscoverURL()
	case Online:
		s.OnlineURL, s.OnlineAutodiscoverURL = host.EWSURL(), host.URL()
		s.tenant.AddResource(host.URL())
	case Other:
		s.OtherURL, s.OtherUsername = host.EWSURL(), exchange.ListenerAddress
	}
	s.serveHTTP(secure, server)
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

// logWriter passes the lines of a log.Logger to Logf.
type logWriter func(string, ...any)

func (w logWriter) Write(p []byte) (int, error) {
	w("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// shut closes what listens, and every connection.
func (s *Server) shut() {
	s.end.Do(func() {
		s.stop()
		s.faults.Close()
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
	if s.graph != nil {
		s.graph.Close() // a handler may wait for a handshake
	}
	s.handlers.Lock() // the last handler has ended
	defer s.handlers.Unlock()
	if s.org != nil {
		for _, x := range s.org.Hosts() {
			x.Close()
		}
	}
	return s.failed
}

// RootCAs is a pool that trusts this simulator and nothing else.
func (s *Server) RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CAPEM)
	return pool
}
