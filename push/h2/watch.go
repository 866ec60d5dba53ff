package h2

// This file is the one timer of a connection. It fires at least each time that the server has been silent for a while, and no request may
// wait for less than that: so nothing has to be set when one is sent.

import (
	"time"

	"golang.org/x/net/http2"
)

// slept is by how much the timer has to be late to show that this process was paused, and not the server silent. What came meanwhile is not
// read yet: there is that long again to read it, for an answer that is there must not be taken for one that is lost. A request that was
// allowed to begin that long ago, and is not written yet, does not go out: what allowed it may not hold any more.
const slept = time.Second

// overtakenAfter is how long a request must have waited when another is answered, for it to be late by itself. What was under way together
// with that other when a connection stalled has waited for less.
const overtakenAfter = time.Second

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
	unwritten, streams, stalls := c.overdue(now)
	c.lookIn(c.nextLook(now))
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

// overdue takes out what has waited for too long, and says whether the connection stalls: a request that is late by itself does not say so.
// That one gets more time, once. It is called with mu held.
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
		if !s.late && c.answered.Sub(begun) >= overtakenAfter {
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

// nextLook is in how long a ping is due, or its answer, or a request will have waited for too long. It is called with mu held.
func (c *Conn) nextLook(now time.Time) time.Duration {
	next := c.times.PingAfter - now.Sub(c.heard)
	if !c.pinged.IsZero() {
		next = c.times.PingTimeout - now.Sub(c.pinged)
	}
	if !c.waiting.isEmpty() {
		next = min(next, c.times.Answer-now.Sub(c.waiting.head().since))
	}
	for _, s := range c.streams {
		next = min(next, s.until.Sub(now))
	}
	return next
}
