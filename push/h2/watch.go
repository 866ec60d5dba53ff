package h2

// This file is the one timer of a connection. It fires at least each time that the server has been silent for a while, and no request may
// wait for less than that: so nothing has to be set when one is sent.

import (
	"time"

	"golang.org/x/net/http2"
)

// slept is by how much the timer has to be late for this process, and not the server, to have been silent: it was paused, and has not read
// yet what came meanwhile. It has that long again to do so, for an answer that is there must not be taken for one that is lost. A request that
// was allowed to begin that long ago, and is not written yet, was allowed by what held before: it does not go out.
const slept = time.Second

// passed is how long a request has waited at least when another is answered, for it to be late alone. What was under way with that other when
// a connection stalled has waited for less.
const passed = time.Second

// look ends what has taken too long, asks a silent server whether it is there, and comes back when there is the next to see to.
func (c *Conn) look() {
	now := time.Now()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if now.Sub(c.due) >= slept {
		c.lookIn(slept)
		c.mu.Unlock()
		return
	}
	if !c.pinged.IsZero() && now.Sub(c.pinged) >= c.times.PingTimeout {
		c.mu.Unlock()
		c.end(ErrLost)
		return
	}
	if c.pinged.IsZero() && now.Sub(c.heard) >= c.times.PingAfter {
		c.pinged = now
		_ = c.control.framer().WritePing(false, [8]byte{})
		c.work.Signal()
	}
	next := c.heard.Add(c.times.PingAfter)
	if !c.pinged.IsZero() {
		next = c.pinged.Add(c.times.PingTimeout)
	}
	unwritten, streams, stalls := c.overdue(now)
	if until, some := c.firstUntil(); some && until.Before(next) {
		next = until
	}
	c.lookIn(next.Sub(now))
	c.mu.Unlock()
	if stalls {
		c.watch.Stalled()
	}
	for _, s := range streams {
		s.request.End(s.ending(ErrStalled))
	}
	for _, r := range unwritten {
		r.End(Ending{Err: ErrStalled})
	}
}

// lookIn has the timer fire. It is called with mu held.
func (c *Conn) lookIn(d time.Duration) {
	c.due = time.Now().Add(d)
	c.timer.Reset(d)
}

// overdue takes out what has waited for too long, and says whether the connection stalls: a single request that is late says nothing of it.
// It is called with mu held.
func (c *Conn) overdue(now time.Time) (unwritten []Request, streams []*stream, stalls bool) {
	for !c.waiting.isEmpty() && now.Sub(c.waiting.head().since) >= c.times.Answer {
		unwritten = append(unwritten, c.waiting.take())
	}
	stalls = len(unwritten) > 0
	for id, s := range c.streams {
		if now.Before(s.until) {
			continue
		}
		begun := s.until.Add(-c.times.Answer)
		if !s.late && c.answered.Sub(begun) >= passed {
			s.late, s.until = true, begun.Add(c.times.Late)
			continue
		}
		stalls = stalls || !s.late
		streams = append(streams, s)
		delete(c.streams, id)
		c.reset(id, http2.ErrCodeCancel)
	}
	return unwritten, streams, stalls
}

// firstUntil is when the next request will have waited for too long. It is called with mu held.
func (c *Conn) firstUntil() (first time.Time, some bool) {
	if !c.waiting.isEmpty() {
		first, some = c.waiting.head().since.Add(c.times.Answer), true
	}
	for _, s := range c.streams {
		if !some || s.until.Before(first) {
			first, some = s.until, true
		}
	}
	return first, some
}
