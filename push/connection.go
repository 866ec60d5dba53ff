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
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
	"golang.org/x/net/http2"
)

const (
	// gate is how many requests are in flight on a connection: below the 1,000 streams that APNs is known to allow, so that
	// a limit somewhat lower is not hit at every burst.
	gate = 900
	// maxConnections to one host with one credential. Two carried 20,000 pushes a second in tests; more is for slow links.
	maxConnections = 4
	// answerTimeout is how long a request that was sent may stay without an answer before its connection is given up as
	// stalled. APNs answers in tens of milliseconds.
	answerTimeout = 5 * time.Second
	// pingAfter and pingTimeout find a peer that is dead without a word within 10 seconds, also while nothing is sent.
	pingAfter   = 5 * time.Second
	pingTimeout = 4 * time.Second
	// writeTimeout gives up a connection that takes no bytes.
	writeTimeout = 10 * time.Second
	// dialTimeout bounds connect, proxy and TLS together. A dial is nobody's request: no caller's end cancels it for the others.
	dialTimeout = 10 * time.Second
	// redialSpacing is the least time between two dials after a connection that worked; redialBase and redialMax bound the
	// back-off after one that did not. Apple takes quick reconnects for an attack.
	redialSpacing = time.Second
	redialBase    = time.Second
	redialMax     = time.Minute
	// maxUnprocessed is how often a request is sent again here. Each time it has cost a round trip, and APNs has refused it
	// unread; after that many it waits with the caller's back-off.
	maxUnprocessed = 64
	// maxAnswer bounds the body of an answer; APNs sends less than 100 bytes.
	maxAnswer = 4 << 10
)

var (
	errStalled = errors.New("no answer in time, though the connection is alive")
	errClosed  = errors.New("the sender is closed")
	errLeft    = errors.New("these connections are not used any more")
)

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
	disconnected(why string, answered bool)
}

// newPool makes a pool of connections to a URL of scheme https, with a client certificate unless that is nil. Its lines dial them
// when they are needed. Who makes it sets watch before the first line.
func newPool(u *url.URL, out proxy.Settings, certificate *tls.Certificate, closing <-chan struct{}, countError func(string)) *pool {
	t := out.Transport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: writeTimeout, CountError: countError}
	t.IdleConnTimeout = 0 // Apple wants connections kept open; the pings find those that died
	if certificate != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*certificate}
	}
	seen := t.TLSClientConfig.VerifyConnection
	t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != "h2" {
			return errors.New("the server does not speak HTTP/2: something between here and APNs ends TLS")
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
	return &pool{scheme: scheme, host: host, transport: t, turns: make(chan *connection), wanted: make(chan struct{}, 1), closing: closing, left: make(chan struct{})}
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
		for failures == 0 && p.waiting.Load() == 0 {
			select {
			case <-p.wanted:
			case <-ctx.Done():
				return
			}
		}
		if failures == 0 && !pause.For(ctx, redialSpacing-time.Since(dialled)) {
			return
		}
		var c *connection
		for c == nil {
			if !pause.For(ctx, redialDelay(failures)) {
				return
			}
			dialled = time.Now()
			var err error
			if c, err = p.dial(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				failures++
				p.watch.notConnected(err)
			}
		}
		p.watch.connected()
		why := c.serve(ctx, p.turns)
		answered := c.answered()
		p.watch.disconnected(why, answered)
		if answered {
			failures = 0
		} else {
			failures++
		}
	}
}

// redialDelay is the back-off after so many failures, with full jitter; none after none.
func redialDelay(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return rand.N(min(redialBase<<min(failures-1, 10), redialMax))
}

func (p *pool) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	cc, err := proxy.ClientConn(ctx, p.transport, p.scheme, p.host)
	if err != nil {
		return nil, proxy.Explain("connect to APNs", err)
	}
	c := &connection{cc: cc, changed: make(chan struct{}, 1), opened: make(chan struct{}, 1), retired: make(chan struct{})}
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

// reply is an answer of APNs with its whole body.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request, again where APNs surely did not process it. written says whether the payload of the last try left:
// with an error, APNs may then have taken it. No try begins after req's context has ended, or unless allowed says so. The
// connection is the one that answered.
func (p *pool) send(req *http.Request, payload []byte, allowed func() error) (r *reply, c *connection, written bool, err error) {
	for range maxUnprocessed {
		if c, err = p.turn(req.Context()); err != nil {
			return nil, nil, false, err
		}
		if err = cmp.Or(req.Context().Err(), allowed()); err != nil {
			c.giveBack()
			return nil, nil, false, err
		}
		r, written, err = c.send(req, payload)
		if err == nil || req.Context().Err() != nil {
			return r, c, written, err
		}
		refused, leave := unprocessed(err)
		if written && !refused {
			c.retire(reasonOf(err))
			return nil, c, true, err
		}
		if leave || !written {
			c.retire(reasonOf(err))
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

// reasonOf names the end of a connection in a word or two; the text of an error could hold what is not ours to log.
func reasonOf(err error) string {
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

// connection is one connection to APNs and the turns on it.
type connection struct {
	cc      *http.ClientConn
	changed chan struct{} // holds one signal: a stream may have become free, or the connection ended
	opened  chan struct{} // holds one signal: the turn given out has become a stream, or came back
	retired chan struct{} // closed: no further turn

	mu       sync.Mutex
	inFlight int
	primed   bool // an answer has come
	paused   bool // APNs refused a stream: its limit is lower than was known, until the next answer
	over     bool
	why      string
}

// signal leaves a signal where none waits yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// serve gives out turns until the connection is retired, and says why it was. What is in flight then goes on; the last of it
// closes the connection.
func (c *connection) serve(ctx context.Context, turns chan<- *connection) string {
	defer c.retire("closed")
	for {
		for !c.reserve() {
			select {
			case <-c.changed:
			case <-c.retired:
				return c.reason()
			case <-ctx.Done():
				return "closed"
			}
		}
		for given := false; !given; {
			select {
			case turns <- c:
				given = true
			case <-c.changed:
				if c.cc.Err() != nil {
					c.cc.Release()
					c.retire("closed by the other end")
					return c.reason()
				}
			case <-c.retired:
				c.cc.Release()
				return c.reason()
			case <-ctx.Done():
				c.cc.Release()
				return "closed"
			}
		}
		select {
		case <-c.opened:
		case <-c.retired:
			return c.reason()
		case <-ctx.Done():
			return "closed"
		}
	}
}

// reserve takes a stream where one is free. A connection that has none though nothing is in flight will never have one again.
func (c *connection) reserve() bool {
	c.mu.Lock()
	full := c.inFlight >= gate || (!c.primed || c.paused) && c.inFlight > 0
	c.mu.Unlock()
	if full {
		return false
	}
	if c.cc.Reserve() == nil {
		return true
	}
	if c.cc.Err() != nil || c.cc.InFlight() == 0 && c.cc.Available() == 0 {
		c.retire("closed by the other end")
	}
	return false
}

// giveBack returns a turn unused.
func (c *connection) giveBack() {
	c.cc.Release()
	signal(c.opened)
}

// send uses a turn: it sends one request and reads its answer. written says whether the payload left.
func (c *connection) send(req *http.Request, payload []byte) (r *reply, written bool, err error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	c.mu.Lock()
	c.inFlight++
	c.mu.Unlock()
	b := &body{ctx: ctx, rest: payload, opened: c.opened}
	b.stall = time.AfterFunc(answerTimeout, func() {
		c.retire("stalled")
		cancel(errStalled)
	})
	defer func() {
		written = b.end()
		c.done(r != nil)
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = errStalled
		}
	}()
	req = req.WithContext(ctx)
	req.Body, req.ContentLength = b, int64(len(payload))
	resp, err := c.cc.RoundTrip(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	r = &reply{status: resp.StatusCode, header: resp.Header}
	// The status is the answer. A body that breaks off tells less, and changes nothing.
	r.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return r, true, nil
}

// done ends a turn that was used.
func (c *connection) done(answered bool) {
	c.mu.Lock()
	c.inFlight--
	c.primed = c.primed || answered
	c.paused = c.paused && !answered
	last := c.over && c.inFlight == 0
	c.mu.Unlock()
	signal(c.changed)
	if last {
		c.cc.Close()
	}
}

// pause gives out no turn until the next answer: APNs has refused a stream.
func (c *connection) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
}

// retire ends the giving out of turns; it is replaced when one is wanted.
func (c *connection) retire(why string) {
	c.mu.Lock()
	first := !c.over
	if first {
		c.over, c.why = true, why
		close(c.retired)
	}
	idle := c.inFlight == 0
	c.mu.Unlock()
	if first && idle {
		c.cc.Close()
	}
}

func (c *connection) reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// answered reports whether any answer ever came.
func (c *connection) answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primed
}

// body is a payload on its way out. net/http reads it when the stream is open and its headers are written, so its first read is
// the moment in which an attempt begins: not after the context has ended, and from here on nobody can know whether APNs took it.
type body struct {
	ctx    context.Context
	opened chan struct{}
	stall  *time.Timer

	mu    sync.Mutex
	rest  []byte
	begun bool
	over  bool
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun {
		if b.over || b.ctx.Err() != nil {
			return 0, fmt.Errorf("not begun: %w", context.Canceled)
		}
		b.begun = true
		b.stall.Reset(answerTimeout)
		signal(b.opened)
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) Close() error { return nil }

// end says that the request is over, and returns whether it had begun.
func (b *body) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.stall.Stop()
	if !b.begun {
		signal(b.opened)
	}
	return b.begun
}
