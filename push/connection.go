package push

// This file is one HTTP/2 connection to APNs, and the turns on it (pool.go).

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// gate is how many requests are in flight on a connection: below the 1,000 streams that APNs is known to allow, so that
	// a limit somewhat lower is not hit at every burst.
	gate = 900
	// answerTimeout is how long a request that was sent may stay without an answer before its connection is given up as
	// stalled. APNs answers in tens of milliseconds.
	answerTimeout = 5 * time.Second
	// maxAnswer bounds the body of an answer; APNs sends less than 100 bytes.
	maxAnswer = 4 << 10
)

// connection is one connection to APNs and the turns on it.
type connection struct {
	cc      *http.ClientConn
	heard   *overheard    // what APNs says when it ends the connection; nil: nobody listens
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

// send uses a turn: it sends one request and reads its answer, with the whole body. written says whether the payload left.
func (c *connection) send(ctx context.Context, req *http.Request, payload []byte) (a *answer, written bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
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
		c.done(a != nil)
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
	a = &answer{status: resp.StatusCode, header: resp.Header}
	if resp.ContentLength != 0 { // an acceptance has no body
		// The status is the answer. A body that breaks off tells less, and changes nothing.
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	return a, true, nil
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
