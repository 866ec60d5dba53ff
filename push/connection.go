package push

// This file is one HTTP/2 connection to APNs, and how many requests are in flight on it (pool.go).

import (
	"encoding/json"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/push/h2"
	"golang.org/x/net/http2"
)

const (
	// gate is how many requests are in flight on a connection: below the 1,000 streams that APNs is known to allow, so that
	// a limit somewhat lower is not hit at every burst.
	gate = 900
	// answerTimeout is how long a request that was sent may stay without an answer before its connection is given up as
	// stalled, unless others are answered. APNs answers in tens of milliseconds.
	answerTimeout = 5 * time.Second
	// lateTimeout is how long it may stay so while others are answered: to send it again would alert twice. Two tries fit into the time for
	// which a notification is held.
	lateTimeout = holdFor / 2
	// pingAfter and pingTimeout find a peer that is dead without a word within 10 seconds, also while nothing is sent.
	pingAfter   = 5 * time.Second
	pingTimeout = 4 * time.Second
)

// Ends of a connection, as the log has them.
const (
	cut        = "cut"
	byTheOther = "closed by the other end"
	crowded    = "crowded by late ones"
	paused     = "this process was paused"
	noStreams  = "no streams allowed"
)

// isOurs says whether a connection was ended from here, and not for what APNs did. Then it says nothing of APNs that nothing was answered
// on it.
func isOurs(why string) bool { return why == crowded || why == paused }

// connection is one connection to APNs. It is told of by h2 (h2.Watcher).
type connection struct {
	pool    *pool
	conn    *h2.Conn
	dialled time.Time
	spoilt  chan struct{} // closed: it is to be replaced
	retired chan struct{} // closed: nothing more is sent on it

	mu       sync.Mutex
	inFlight int
	most     int       // in flight at once: one until an answer has come, then the gate, or what the refusals of streams show
	primed   bool      // an answer has come
	moved    time.Time // when a request took a stream, or was answered, last
	// What holds the streams may be late by itself: since the last request took one, another was answered; or that request is alone on a
	// connection that has answered before, or yields.
	overtaken bool
	spoiltBy  string    // why it is to be replaced
	dry       time.Time // since when APNs allows no stream; zero: it does
	over      bool
	why       string
	reason    outcome.Reason // what APNs said when it ended it; empty: nothing

	bearer, header string // the last provider token and its header field; of the goroutine that writes
}

func newConnection(p *pool, nc net.Conn) *connection {
	c := &connection{pool: p, dialled: time.Now(), spoilt: make(chan struct{}), retired: make(chan struct{}), most: 1}
	c.conn = h2.New(nc, h2.Times{Answer: answerTimeout, Late: lateTimeout, PingAfter: pingAfter, PingTimeout: pingTimeout}, c)
	return c
}

// reserve takes a stream for a request where one is free: the first on a connection runs alone, for only its answer tells the true limit.
func (c *connection) reserve(r *request) bool {
	told := int(c.conn.MaxStreams())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.inFlight >= min(c.most, told) {
		return false
	}
	c.inFlight++
	c.moved, c.overtaken = time.Now(), r.yields || c.primed && c.inFlight == 1
	return true
}

// givenUpIn is how long what waits for a stream still waits for this connection, and why not longer. Either APNs allows no stream, which a
// server is to do for a short time only (RFC 9113, section 6.5.2); or all streams, of which there may be one, are held by requests that are
// answered late or never.
func (c *connection) givenUpIn() (in time.Duration, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inFlight == 0 && !c.dry.IsZero():
		return max(0, answerTimeout-time.Since(c.dry)), noStreams
	case !c.overtaken:
		return redialSpacing, crowded
	}
	return max(0, redialSpacing-time.Since(c.moved)), crowded
}

func (c *connection) isDry() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dry.IsZero()
}

func (c *connection) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight == 0
}

// ended gives back the stream of a request.
func (c *connection) ended(e h2.Ending) {
	c.mu.Lock()
	c.inFlight--
	if e.Status != 0 {
		c.moved, c.overtaken = time.Now(), true
	}
	switch {
	case errors.Is(e.Err, h2.ErrRefused): // a limit that it did not announce; it is tried for more with each answer
		c.most = max(1, c.inFlight)
	case e.Status != 0 && !c.primed:
		c.primed, c.most = true, gate
	case e.Status != 0:
		c.most = min(gate, c.most+1)
	}
	last := c.over && c.inFlight == 0
	c.mu.Unlock()
	_, isReset := errors.AsType[http2.StreamError](e.Err)
	switch {
	case errors.Is(e.Err, h2.ErrRefused):
		c.pool.watch.http2Error("refused_stream")
	case isReset:
		c.pool.watch.http2Error("stream_error")
		c.replace(endOf(e.Err))
	}
	if last {
		c.conn.Close()
	}
}

// authorization is the header field of a provider token; empty: there is none, but a certificate.
func (c *connection) authorization(bearer string) string {
	if bearer != c.bearer {
		c.bearer, c.header = bearer, "bearer "+bearer
	}
	return c.header
}

// replace retires it as soon as another may be dialled. Until then it serves the others, which would only have to wait: what went wrong may
// be about one request alone, as with a phone that APNs answers with a fault each time.
func (c *connection) replace(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spoiltBy == "" {
		c.spoiltBy = why
		close(c.spoilt)
	}
}

// replacedIn is how long it still serves until it is replaced; 0: it is not to be, or it is time.
func (c *connection) replacedIn() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spoiltBy == "" {
		return 0
	}
	return max(0, redialSpacing-time.Since(c.dialled))
}

// retire has nothing more sent on it; it is replaced when one is wanted. What is in flight goes on, and the last of it closes the
// connection.
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
		c.conn.Close()
	}
}

// Changed, GoneAway, Stalled and Closed are what h2 tells.

// Changed sends what the connection takes now, or has it watched while APNs allows no stream.
func (c *connection) Changed() {
	isDry := c.conn.MaxStreams() == 0
	c.mu.Lock()
	switch {
	case !isDry:
		c.dry = time.Time{}
	case c.dry.IsZero():
		c.dry = time.Now()
	}
	c.mu.Unlock()
	if isDry {
		signal(c.pool.wanted) // watchOver looks how long what waits already may still wait for it
		return
	}
	c.pool.dispatch()
}

// Stalled gives the connection up.
func (c *connection) Stalled() {
	c.pool.watch.http2Error("stalled")
	c.retire(endOf(h2.ErrStalled))
}

// Closed tells that it has ended.
func (c *connection) Closed(err error) {
	if errors.Is(err, h2.ErrLost) {
		c.pool.watch.http2Error("ping_timeout")
	} else if _, ok := errors.AsType[http2.ConnectionError](err); ok {
		c.pool.watch.http2Error("connection_error")
	}
	why := endOf(err)
	if why == cut && c.isIdle() {
		why = byTheOther
	}
	c.retire(why)
}

// GoneAway keeps the reason that APNs gives for the end, as {"reason":"…"}. A GOAWAY without one leaves that of an earlier GOAWAY.
func (c *connection) GoneAway(debug []byte) {
	var told struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(debug, &told) == nil && told.Reason != "" {
		c.mu.Lock()
		c.reason = known(told.Reason)
		c.mu.Unlock()
	}
	c.retire(endOf(h2.ErrGoneAway))
}

// said is the reason of the last GOAWAY that gave one; empty: none did.
func (c *connection) said() outcome.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// end is why nothing more is sent on it, and whether any answer ever came.
func (c *connection) end() (why string, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why, c.primed
}

// endOf names the end of a connection in a word or two; the text of an error could hold what is not ours to log.
func endOf(err error) string {
	switch {
	case errors.Is(err, h2.ErrGoneAway):
		return "going away"
	case errors.Is(err, h2.ErrStalled):
		return "stalled"
	case errors.Is(err, h2.ErrPaused):
		return paused
	case errors.Is(err, h2.ErrClosed):
		return "closed"
	}
	// With TLS 1.3, APNs looks at a client certificate when the connection stands already. The alert is a word of crypto/tls.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return e.Err.Error()
	}
	return cut
}
