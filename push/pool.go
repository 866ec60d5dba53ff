package push

// This file is the connection layer: explicit HTTP/2 connections to one APNs host (connection.go), and the queue for them.
//
// APNs allows one stream until it has seen a valid token, some hundreds after that, and one again after each push that it
// rejected, until it accepts one. Stock transports answer that with refused streams, more connections, stalls of a second, or a
// deadlock (golang/go#70809). So here a request goes out only when a connection has a stream for it:
//
//   - What has to wait for a stream waits in one queue for all connections, and each stream that becomes free takes the next.
//   - The first request on a connection runs alone: only its answer tells the true limit.
//   - What APNs surely did not process is sent again here. What it may have processed is returned: only the caller knows that the
//     apns-id and the collapse id make a repeat harmless.

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push/h2"
)

const (
	// dialTimeout bounds connect, proxy and TLS together. A dial is nobody's request: no caller's end cancels it for the others.
	dialTimeout = 10 * time.Second
	// redialSpacing is the least time between two dials after a connection that worked. Apple takes quick reconnects for an attack.
	redialSpacing = time.Second
	// maxUnprocessed is how often a request is sent again here. Each time it has cost a round trip, and APNs has refused it
	// unread; after that many it waits with the caller's back-off.
	maxUnprocessed = 64
)

// redial is the pause before a dial after one that failed, or a connection that answered nothing.
var redial = backoff.Policy{First: time.Second, Max: time.Minute}

var (
	errClosed = errors.New("the sender is closed")
	errLeft   = errors.New("these connections are not used any more")
)

// CodeHTTP2 is the fault.Error.Code of a server that does not speak HTTP/2, which Apple's does.
const CodeHTTP2 = "no HTTP/2"

var errNoHTTP2 = &fault.Error{Op: "connect to APNs", Code: CodeHTTP2, Scope: fault.Server, Remedy: fault.Fix,
	Text:     "the server does not speak HTTP/2: something between here and APNs ends TLS",
	Evidence: fault.Evidence{Peer: fault.APNs, Detail: fault.Intercepted}}

// pool is all connections to one host, and what waits for them.
type pool struct {
	scheme, host string // host with its port
	authority    string // as requests name the host
	transport    *http.Transport
	wanted       chan struct{}   // holds one signal: something has begun to wait
	closing      <-chan struct{} // closed: nothing waits any more
	left         chan struct{}   // closed: likewise, because other connections have taken over
	watch        watcher

	mu          sync.Mutex
	queue       []*post // what waits for a stream
	connections []*connection
}

// watcher is told what becomes of the connections.
type watcher interface {
	connected()
	notConnected(err error)
	disconnected(why string, said outcome.Reason, answered bool)
	http2Error(kind string)
}

// newPool makes a pool of connections to a URL of scheme https, with a client certificate unless that is nil. Its lines dial them
// when they are needed. Whoever makes it sets watch before the first line.
func newPool(u *url.URL, out proxy.Settings, certificate *tls.Certificate, closing <-chan struct{}) *pool {
	t := out.Transport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	verify := t.TLSClientConfig.VerifyConnection
	t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != "h2" {
			return errNoHTTP2
		}
		if verify == nil {
			return nil
		}
		return verify(s)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	return (&pool{scheme: u.Scheme, host: host, authority: u.Host, transport: t, closing: closing}).with(certificate)
}

// with makes a pool that connects in the same way with another client certificate; nil: none.
func (p *pool) with(certificate *tls.Certificate) *pool {
	t := p.transport.Clone()
	t.TLSClientConfig.NextProtos = nil // else net/http would append to one array for all pools
	t.TLSClientConfig.Certificates = nil
	if certificate != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*certificate}
	}
	return &pool{scheme: p.scheme, host: p.host, authority: p.authority, transport: t, closing: p.closing,
		wanted: make(chan struct{}, 1), left: make(chan struct{})}
}

// line keeps one connection until ctx ends: it dials when one is wanted, or when the last one failed, serves it until it has to
// be replaced, and goes on. What is in flight on those that were replaced goes on, but not past the end of life.
func (p *pool) line(ctx, life context.Context) {
	var connections sync.WaitGroup
	defer connections.Wait()
	var dialled time.Time
	failures := 0 // dials in a row that failed, or whose connection ended without an answer
	for {
		if failures == 0 && (!p.untilWanted(ctx) || !pause.For(ctx, redialSpacing-time.Since(dialled))) {
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
		connections.Go(func() {
			defer context.AfterFunc(life, c.conn.Close)()
			c.conn.Run()
		})
		p.serve(ctx, c)
		why, answered := c.end()
		p.watch.disconnected(why, c.said(), answered)
		if answered || isOurs(why) {
			failures = 0
		}
	}
}

// serve has a connection take what waits until it is retired.
func (p *pool) serve(ctx context.Context, c *connection) {
	p.mu.Lock()
	p.connections = append(p.connections, c)
	p.mu.Unlock()
	p.dispatch()
	p.watchOver(ctx, c)
	p.mu.Lock()
	p.connections = slices.DeleteFunc(p.connections, func(other *connection) bool { return other == c })
	p.mu.Unlock()
}

// watchOver waits until a connection is retired, and retires it where it is to be replaced. While something waits for it that must not wait
// for long, it looks whether the connection is to be given up.
func (p *pool) watchOver(ctx context.Context, c *connection) {
	wanted := p.wanted        // nil while look is set
	var look <-chan time.Time // nil while nothing waits
	for {
		select {
		case <-c.retired:
			return
		case <-ctx.Done():
			c.retire("closed")
			return
		case <-c.spoilt:
			select {
			case <-c.retired:
			case <-ctx.Done():
			case <-time.After(c.replacedIn()):
			}
			c.retire(c.spoiltBy)
			return
		case <-wanted:
		case <-look:
		}
		wanted, look = p.wanted, nil
		if p.isUrgent() || c.isDry() && p.isWaitedFor() {
			in, why := c.givenUpIn()
			if in == 0 {
				c.retire(why)
				return
			}
			wanted, look = nil, time.After(min(in, redialSpacing)) // by then there may be another reason to give it up
		}
	}
}

// untilWanted waits until something waits for a connection, and reports whether that was before ctx ended.
func (p *pool) untilWanted(ctx context.Context) bool {
	for !p.isWaitedFor() {
		select {
		case <-p.wanted:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (p *pool) isWaitedFor() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) > 0
}

// isUrgent says whether anything waits that does not yield. What yields may have to wait for others that do.
func (p *pool) isUrgent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) > 0 && !p.queue[0].request.yields
}

func (p *pool) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := connect(ctx, p.transport, p.scheme, p.host)
	if err != nil {
		return nil, proxy.Explain("connect to APNs", err).From(fault.APNs)
	}
	return newConnection(p, nc), nil
}

// enqueue has a post go out, at once where a connection has a stream for it; first: before those that wait. What yields goes last. It
// reports whether it is out.
func (p *pool) enqueue(po *post, first bool) (out bool) {
	p.mu.Lock()
	at := len(p.queue)
	switch {
	case po.request.yields:
	case first:
		at = 0
	default:
		for at > 0 && p.queue[at-1].request.yields {
			at--
		}
	}
	p.queue = slices.Insert(p.queue, at, po)
	p.mu.Unlock()
	p.dispatch()
	p.mu.Lock()
	out = po.by != nil
	p.mu.Unlock()
	if !out {
		signal(p.wanted)
	}
	return out
}

// dispatch gives what waits to the connections, as far as they have streams for it.
func (p *pool) dispatch() {
	for {
		po := p.next()
		if po == nil {
			return
		}
		po.by.conn.Send(po)
	}
}

// next takes the first post that waits, if a connection has a stream for it, and gives it to that one; nil: there is none.
func (p *pool) next() *post {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	po := p.queue[0]
	free := slices.IndexFunc(p.connections, func(c *connection) bool { return c.reserve(po.request) })
	if free < 0 {
		return nil
	}
	p.queue[0] = nil
	p.queue = p.queue[1:]
	po.by = p.connections[free]
	return po
}

// withdraw takes a post out of the queue and reports whether it was there.
func (p *pool) withdraw(po *post) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.queue)
	p.queue = slices.DeleteFunc(p.queue, func(other *post) bool { return other == po })
	return len(p.queue) < before
}

// send sends a request, again where APNs surely did not process it. No try begins after ctx has ended, or where allowed objects. It waits
// for the end until ctx ends, or until a time; zero: there is none. written says whether the payload of the last try left: with an error,
// APNs may then have accepted it. The connection is the one that answered.
func (p *pool) send(ctx context.Context, until time.Time, r *request, bearer string, allowed func() error) (
	a h2.Ending, c *connection, written bool, err error,
) {
	for try := range maxUnprocessed {
		po := &post{request: r, bearer: bearer, ctx: ctx, allowed: allowed, done: make(chan struct{})}
		if err = p.wait(ctx, until, po, p.enqueue(po, try > 0)); err != nil {
			return a, nil, po.giveUp(), err
		}
		a, c, err = po.ending, po.by, po.ending.Err
		if err == nil || po.refused != nil {
			return a, c, a.Err == nil, err
		}
		said := c.said()
		holds := ruleFor(0, said).reaction == hold
		if said != "" {
			err = &goneAway{said, err}
		}
		if a.Unknown || holds || ctx.Err() != nil {
			return a, c, a.Unknown, err
		}
	}
	return a, c, false, err
}

// wait waits for the end of a post, which is out already or waits for a stream. An error says why it does not wait any longer.
func (p *pool) wait(ctx context.Context, until time.Time, po *post, out bool) error {
	if out && (until.IsZero() || time.Until(until) > answerTimeout+lateTimeout) { // its end comes before that, so there is no need for a timer
		select {
		case <-po.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	closing, left := p.closing, p.left
	for {
		var end error
		select {
		case <-po.done:
			return nil
		case <-ctx.Done():
			p.withdraw(po)
			return ctx.Err()
		case <-over:
			p.withdraw(po)
			return context.DeadlineExceeded
		case <-closing:
			end = errClosed
		case <-left:
			end = errLeft
		}
		if p.withdraw(po) {
			return end
		}
		closing, left = nil, nil // it is out
	}
}

// signal leaves a signal where none waits yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
