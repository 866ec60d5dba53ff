// Package exchange has the simulator's hosts of Exchange: their mailboxes, EWS, Autodiscover, SMTP, and the authentication methods.
package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/faults"
)

// Domain is the mail domain of the organisation. It is reserved (RFC 2606).
const Domain = "contoso.example"

// The listener account, which may impersonate every mailbox.
const (
	ListenerName    = `CONTOSO\svc-bell`
	ListenerAddress = "svc-bell@" + Domain // its user name in Entra ID and at the other provider
)

// DefaultHeartbeat of a stream is what clients of real servers expect.
const DefaultHeartbeat = 45 * time.Second

// Options of New.
type Options struct {
	Hybrid             bool          // Online and Other too, not only OnPremises
	Heartbeat          time.Duration // of a stream; 0: DefaultHeartbeat
	Personality        string        // of OnPremises: one of Personalities
	Servers            int           // mailbox servers on premises; 0: one
	Auth               []string      // how one signs in on premises: AuthBasic, AuthNTLM, or both; empty: AuthBasic
	ExtendedProtection bool          // NTLM needs the channel binding of the TLS connection; else it may be left out
	SchemaForm         bool          // stream answers as the schema has them (t:Notification, t:SubscriptionId)
	DefaultNamespace   bool          // envelopes of a stream in the other form that Exchange has for them: see release.streamEnvelope

	Password string           // of the listener account and of every mailbox
	Tokens   *entra.Tenant    // whose tokens Online takes; may be nil without it
	Faults   *faults.Registry // with the kinds of Faults
	Closing  <-chan struct{}  // ends the streams that are open

	PushRetry time.Duration  // the first wait before a push notification is posted again; 0: DefaultPushRetry
	PushRoots *x509.CertPool // the authorities of https URLs that they are posted to; nil: the system's

	Logf      func(format string, args ...any)                   // may be nil
	OnMessage func(direction, operation string, envelope []byte) // sees every EWS envelope; may be nil
}

// check reports options that are wrong.
func (o Options) check() error {
	if !slices.Contains(Personalities(), o.Personality) {
		return fmt.Errorf("the personality %q: must be empty%s", o.Personality, strings.Join(Personalities(), ", "))
	}
	if o.Servers < 0 || o.Servers > maxServers {
		return fmt.Errorf("%d mailbox servers: must be 0 to %d", o.Servers, maxServers)
	}
	if i := slices.IndexFunc(o.Auth, func(way string) bool { return way != AuthBasic && way != AuthNTLM }); i >= 0 {
		return fmt.Errorf("the way to sign in %q: must be %s or %s", o.Auth[i], AuthBasic, AuthNTLM)
	}
	return nil
}

// New makes an organisation without a mailbox. The error says which option is wrong.
func New(o Options) (*Organisation, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	org := &Organisation{objects: map[string]string{}}
	names := []string{OnPremises}
	if o.Hybrid {
		names = append(names, Online, Other)
	}
	for _, name := range names {
		org.hosts = append(org.hosts, newHost(name, org, o))
	}
	org.actOut(o.Faults)
	return org, nil
}

// Host is one host of Exchange. Everything behind mu is held for short moments only; items and messages
// never change, so they are written out without it.
type Host struct {
	name       string        // OnPremises, Online or Other
	org        *Organisation // that it belongs to
	release    release
	answers    envelope // around an answer
	streamed   envelope // around each answer of a stream
	servers    []string // the mailbox servers; none if the host does not name them
	clock      faults.Clock
	faults     faults.Host
	logf       func(string, ...any)
	onMessage  func(direction, operation string, envelope []byte)
	url        string        // https://host:port, without a path
	basic      bool          // one may sign in so
	negotiates bool          // one may sign in by NTLM
	protected  bool          // Options.ExtendedProtection
	ntlm       *ntlmServer   // nil: not so
	password   atomic.Value  // a string; of the listener account and of every mailbox
	tokens     *entra.Tenant // of Online
	schema     bool          // t:Notification
	gromox     bool          // the personality
	heartbeat  time.Duration
	closing    <-chan struct{}
	pusher     *pusher
	watcher    Watcher // of Online; nil: nobody

	mu        sync.Mutex
	boxes     map[string]*mailbox // by address
	aliases   map[string]string
	redirects map[string]Redirect
	subs      map[string]*subscription
	streams   map[*stream]struct{}
	conns     map[net.Conn]struct{}
	away      time.Time // the host accepts no connection before
	requests  map[string]int
	refused   int // 401s
	calls     int // ever
	lastSub   int // the newest subscription of a gromox
	placed    int // mailboxes on servers, ever
}

func newHost(name string, org *Organisation, o Options) *Host {
	here := faults.Host{Registry: o.Faults, Name: name}
	x := &Host{
		name: name, org: org, release: releaseOf(name, o.Personality), servers: serversOf(name, o.Servers),
		clock: faults.Clock{Faults: here}, faults: here, logf: o.Logf, onMessage: o.OnMessage, schema: o.SchemaForm,
		gromox: name == OnPremises && o.Personality == Gromox, heartbeat: o.Heartbeat, tokens: o.Tokens, closing: o.Closing,
		pusher: newPusher(o.PushRetry, o.PushRoots), basic: true, protected: o.ExtendedProtection,
		boxes: map[string]*mailbox{}, aliases: map[string]string{}, redirects: map[string]Redirect{},
		subs: map[string]*subscription{}, streams: map[*stream]struct{}{}, conns: map[net.Conn]struct{}{}, requests: map[string]int{},
	}
	if name == OnPremises && len(o.Auth) > 0 {
		x.basic, x.negotiates = slices.Contains(o.Auth, AuthBasic), slices.Contains(o.Auth, AuthNTLM)
	}
	x.password.Store(o.Password)
	x.answers = x.release.envelope()
	if x.gromox {
		x.answers = x.release.gromoxEnvelope()
	}
	x.streamed = x.answers
	if o.DefaultNamespace {
		x.streamed = x.release.streamEnvelope()
	}
	return x
}

// Name is OnPremises, Online or Other.
func (x *Host) Name() string { return x.name }

// URL is the URL of the host without a path, once Listen was called.
func (x *Host) URL() string { return x.url }

// EWSURL is the URL of EWS.
func (x *Host) EWSURL() string { return x.url + "/EWS/Exchange.asmx" }

// AutodiscoverURL is the URL of Autodiscover as plain XML.
func (x *Host) AutodiscoverURL() string { return x.url + "/autodiscover/autodiscover.xml" }

// Close ends the posts of push subscriptions. It is called after the last call was answered.
func (x *Host) Close() { x.pusher.close() }

// Listen returns the HTTP server of the host, and a listener over l on which the caller runs it. It is called once, before the host
// is used.
func (x *Host) Listen(l net.Listener, certificate tls.Certificate) (*http.Server, net.Listener, error) {
	x.url = "https://" + l.Addr().String()
	if x.negotiates {
		if err := x.takeNTLM(certificate); err != nil {
			return nil, nil, err
		}
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	server := &http.Server{Handler: x, ConnContext: withConn, ConnState: x.track, Protocols: &http1}
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	return server, tls.NewListener(awayListener{l, x}, secure), nil
}
