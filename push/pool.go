package push

// This file is the connection layer: explicit HTTP/2 connections to one APNs host, and the turns on them.
//
// APNs allows one stream until it has seen a valid token, some hundreds after that, and one again after each push that it
// rejected, until it accepts one. Stock transports answer that with refused streams, more connections, stalls of a second, or a
// deadlock (golang/go#70809). So here a request goes out only when the connection has a stream for it:
//
//   - Whoever wants to send takes a turn. A connection gives out one turn at a time, and the next only when the one before has
//     become a stream: never more waiters than streams reach net/http.
//   - The first request on a connection runs alone: only its answer tells the true limit.
//   - What APNs surely did not process is sent again here. What it may have processed is returned: only the caller knows that the
//     apns-id and the collapse id make a repeat harmless.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
	"golang.org/x/net/http2"
)

const (
	// maxConnections to one host with one credential. Two carried 20,000 pushes a second in tests; more is for slow links.
	maxConnections = 4
	// pingAfter and pingTimeout find a peer that is dead without a word within 10 seconds, also while nothing is sent.
	pingAfter   = 5 * time.Second
	pingTimeout = 4 * time.Second
	// dialTimeout bounds connect, proxy and TLS together. A dial is nobody's request: no caller's end cancels it for the others.
	dialTimeout = 10 * time.Second
	// redialSpacing is the least time between two dials after a connection that worked. Apple takes quick reconnects for an attack.
	redialSpacing = time.Second
	// maxUnprocessed is how often a request is sent again here. Each time it has cost a round trip, and APNs has refused it
	// unread; after that many it waits with the caller's back-off.
	maxUnprocessed = 64
)

// redial is the pause before a dial after a connection that was not had, or answered nothing.
var redial = backoff.Policy{First: time.Second, Max: time.Minute}

var (
	errStalled = errors.New("no answer in time, though the connection is alive")
	errClosed  = errors.New("the sender is closed")
	errLeft    = errors.New("these connections are not used any more")
)

// CodeHTTP2 is the fault.Error.Code of a server that does not speak HTTP/2, which Apple's does.
const CodeHTTP2 = "no HTTP/2"

var errNoHTTP2 = &fault.Error{Op: "connect to APNs", Code: CodeHTTP2, Scope: fault.Server, Remedy: fault.Fix, Text: "the server does not speak HTTP/2: something between here and APNs ends TLS",
	Evidence: fault.Evidence{Peer: fault.APNs, Detail: fault.Intercepted}}

// pool gives out the turns on all connections to one host.
type pool struct {
	scheme, host string // host with its port
	transport    *http.Transport
	turns        chan *connection // each with one stream reserved
	waiting      atomic.Int32     // who waits for a turn
	wanted       chan struct{}    // holds one signal: somebody waits since now
	closing      <-chan struct{}  // closed: no turn is waited for any more
	left         chan struct{}    // closed: likewise, as other connections have taken over
	watch        watcher
}

// watcher is told what becomes of the connections.
type watcher interface {
	connected()
	notConnected(err error)
	disconnected(why string, said outcome.Reason, answered bool)
}

// newPool makes a pool of connections to a URL of scheme https, with a client certificate unless that is nil. Its lines dial them
// when they are needed. Who makes it sets watch before the first line.
func newPool(u *url.URL, out proxy.Settings, certificate *tls.Certificate, closing <-chan struct{}, countError func(string)) *pool {
	t := out.Transport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, CountError: countError}
	t.IdleConnTimeout = 0 // Apple wants connections kept open; the pings find those that died
	if certificate != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*certificate}
	}
	seen := t.TLSClientConfig.VerifyConnection
	t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != "h2" {
			return errNoHTTP2
		}
		if seen == nil {
			return nil
		}
		return seen(s)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	return poolOf(u.Scheme, host, t, closing)
}

func poolOf(scheme, host string, t *http.Transport, closing <-chan struct{}) *pool {
	return &pool{scheme: scheme, host: host, transport: t, closing: closing,
		turns: make(chan *connection), wanted: make(chan struct{}, 1), left: make(chan struct{})}
}

// with makes a pool that connects in the same way with another client certificate; nil: none.
func (p *pool) with(certificate *tls.Certificate) *pool {
	t := p.transport.Clone()
	t.TLSClientConfig.Certificates = nil
	if certificate != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*certificate}
	}
	return poolOf(p.scheme, p.host, t, p.closing)
}

// line keeps one connection until ctx ends: it dials when one is wanted, or when the last one failed, serves it until it has to
// be replaced, and goes on.
func (p *pool) line(ctx context.Context) {
	var dialled time.Time
	failures := 0 // connections in a row that were not had, or answered nothing
	for {
		if failures == 0 && (!p.isWanted(ctx) || !pause.For(ctx, redialSpacing-time.Since(dialled))) {
			return
		}
		if !pause.For(ctx, redial.Wait(failures, 0)) {
			return
		}
		dialled = time.Now()
		c, err := p.dial(ctx)
		if ctx.Err() != nil && err != nil {
			return
		}
		failures++
		if err != nil {
			p.watch.notConnected(err)
			continue
		}
		p.watch.connected()
		why := c.serve(ctx, p.turns)
		answered := c.answered()
		p.watch.disconnected(why, c.heard.said(), answered)
		if answered {
			failures = 0
		}
	}
}

// isWanted waits until somebody waits for a turn, and reports whether that was before ctx ended.
func (p *pool) isWanted(ctx context.Context) bool {
	for p.waiting.Load() == 0 {
		select {
		case <-p.wanted:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (p *pool) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var o opener
	if err := o.open(ctx, p.transport, p.scheme, p.host); err != nil {
		return nil, proxy.Explain("connect to APNs", err).From(fault.APNs)
	}
	cc := o.connected
	c := &connection{cc: cc, heard: o.heard, changed: make(chan struct{}, 1), opened: make(chan struct{}, 1), retired: make(chan struct{})}
	cc.SetStateHook(func(*http.ClientConn) { signal(c.changed) })
	return c, nil
}

// turn waits for a connection with a free stream. The caller calls send on it, or giveBack.
func (p *pool) turn(ctx context.Context) (*connection, error) {
	select {
	case c := <-p.turns:
		return c, nil
	default:
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	signal(p.wanted)
	select {
	case c := <-p.turns:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closing:
		return nil, errClosed
	case <-p.left:
		return nil, errLeft
	}
}

// answer is what APNs answered, with the whole body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request, again where APNs surely did not process it. written says whether the payload of the last try left:
// with an error, APNs may then have accepted it. No try begins after ctx has ended, or unless allowed says so. The
// connection is the one that answered.
func (p *pool) send(ctx context.Context, req *http.Request, payload []byte, allowed func() error) (
	a *answer, c *connection, written bool, err error,
) {
	for range maxUnprocessed {
		c, err = p.turn(ctx)
		if err != nil {
			return nil, nil, false, err
		}
		err = cmp.Or(ctx.Err(), allowed())
		if err != nil {
			c.giveBack()
			return nil, nil, false, err
		}
		a, written, err = c.send(ctx, req, payload)
		if err == nil {
			return a, c, written, nil
		}
		refused, leave := unprocessed(err)
		said := c.heard.said()
		holds := ruleFor(0, said).reaction == hold // said also to whom the end of the connection has cancelled
		if ctx.Err() != nil && !holds {
			return nil, c, written, err
		}
		if written && !refused || holds {
			c.retire(endOf(err))
			if said != "" {
				err = &goneAway{said, err}
			}
			return nil, c, written && !refused, err
		}
		if leave || !written {
			c.retire(endOf(err))
		} else {
			c.pause()
		}
	}
	return nil, nil, false, err
}

// The errors of net/http that have no exported value; a test holds them against the Go that is used.
const (
	textGoAway     = "http2: Transport received Server's graceful shutdown GOAWAY" // the stream is above the last one that APNs will process
	textGoAwayCode = "http2: Transport received GOAWAY from server ErrCode:"       // the same, for the first stream of a connection
	textUnusable   = "http2: client conn not usable"                               // nothing was written
)

// unprocessed reports whether an error says that the server did not look at the request, and whether the connection is to be left.
func unprocessed(err error) (refused, leave bool) {
	if e, ok := errors.AsType[http2.StreamError](err); ok {
		return e.Code == http2.ErrCodeRefusedStream, false
	}
	text := err.Error()
	goAway := text == textGoAway || text == textUnusable || strings.HasPrefix(text, textGoAwayCode)
	return goAway, goAway
}

// endOf names the end of a connection in a word or two; the text of an error could hold what is not ours to log.
func endOf(err error) string {
	if refused, _ := unprocessed(err); refused {
		return "going away"
	}
	if errors.Is(err, errStalled) {
		return "stalled"
	}
	// With TLS 1.3, APNs looks at a client certificate when the connection stands already. The alert is a word of crypto/tls.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return e.Err.Error()
	}
	return "cut"
}
