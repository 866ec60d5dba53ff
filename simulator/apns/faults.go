package apns

// The faults of APNs: the table, and the acts of those that happen at once.

import (
	"context"
	"errors"
	"time"

	"golang.org/x/net/http2"

	"github.com/mailbell/mailbell/simulator/faults"
)

// Names of the faults as the code uses them.
const (
	apnsCut         = "apns_cut"
	apnsGoAway      = "apns_goaway"
	apnsGoAwayClose = "apns_goaway_close"
	apnsDead        = "apns_dead"
	apnsStall       = "apns_stall"
	apnsAnswer      = "apns_answer"
	apnsDelay       = "apns_delay"
	apnsStreams     = "apns_streams"
	apnsLimitKept   = "apns_limit_kept"
)

// Faults is the table of APNs. "At once": the fault happens when it is set, and is then over.
func Faults() []faults.Kind {
	return []faults.Kind{
		{Name: apnsCut, Fields: "token share count",
			Text: "Connections to APNs are closed, answers in flight are lost. Without share and count at once, all connections; else " +
				"whenever it meets a request, which is taken, but not answered."},
		{Name: apnsGoAway, Fields: "", Text: "At once: APNs asks every connection to go away, answers what it has, then closes."},
		{Name: apnsGoAwayClose, Fields: "",
			Text: "At once: APNs asks every connection to go away and closes it there and then; requests in flight may have been taken, " +
				"their answers are lost."},
		{Name: apnsDead, Fields: "seconds",
			Text: "The connections to APNs that are open are dead: neither read nor written nor closed, and PING is not answered; new " +
				"ones work. When the fault is cleared they are cut, and what was sent on them meanwhile never came."},
		{Name: apnsStall, Fields: "token seconds",
			Text: "APNs reads requests but neither takes nor answers them until the fault is cleared; PING is answered."},
		{Name: apnsAnswer, Fields: "token share count seconds status reason",
			Text: "APNs answers `status` and `reason` instead of taking the alert. Each follows from the other where Apple's table has " +
				"it; without both it is 500 InternalServerError. After 500, ExpiredProviderToken and TooManyProviderTokenUpdates the " +
				"connection gives no other answer any more, as at Apple, unless the fault is of one `token`. A 410 comes with a " +
				"timestamp: now, or that of Unregister; a 503 with Retry-After: the time left of `seconds`, or 1 s."},
		{Name: apnsDelay, Fields: "token seconds", Text: "APNs answers `seconds` later.", Valued: true},
		{Name: apnsStreams, Fields: "seconds limit",
			Text: "The stream limit of a connection (MAX_CONCURRENT_STREAMS) is `limit` (1) after an accepted alert, not 1000; open " +
				"connections are told at once."},
		{Name: apnsLimitKept, Fields: "seconds",
			Text: "A refused alert leaves the stream limit as it is. Without this fault the limit falls to 1 until the next accepted one," +
				" as at Apple."},
	}
}

// actOut registers what happens when a fault is set or cleared.
func (s *Server) actOut(fs *faults.Registry) {
	fs.AtOnce(apnsCut, func(f *faults.Cases) bool {
		all := f.Share == 0 && f.Count == 0 && f.Token == ""
		if all {
			s.each((*pushConn).cut)
		}
		return all
	})
	fs.AtOnce(apnsGoAway, func(*faults.Cases) bool {
		s.goAwayAll()
		return true
	})
	fs.AtOnce(apnsGoAwayClose, func(*faults.Cases) bool {
		s.goAwayAndClose()
		return true
	})
	fs.OnChange(apnsStall, func(faults.Fault, bool) { s.resume() })
	fs.OnChange(apnsDead, func(faults.Fault, bool) { s.bury() })
	fs.OnChange(apnsStreams, func(faults.Fault, bool) { s.tellLimit() })
}

// each calls f for every connection.
func (s *Server) each(f func(*pushConn)) {
	s.mu.Lock()
	conns := make([]*pushConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		f(c)
	}
}

// goAwayAll sends GOAWAY on every connection.
func (s *Server) goAwayAll() {
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended || c.goneAway || !c.greeted || c.buried != nil {
			return
		}
		c.leave(http2.ErrCodeNo, `{"reason":"Shutdown"}`)
	})
}

// goAwayAndClose sends GOAWAY on every connection and closes it in the same moment.
func (s *Server) goAwayAndClose() {
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended || !c.greeted || c.buried != nil {
			return
		}
		c.goAway(http2.ErrCodeNo, `{"reason":"Shutdown"}`)
		c.tls.CloseWrite()
		c.severed.CompareAndSwap(0, time.Now().UnixNano()) // where a request has come that was not read, the system resets the connection
		faults.Cut(c.raw, false)
	})
}

var errDead = errors.New("the connection was dead")

// grave is what a dead connection writes to: the answers in it count as lost.
type grave struct{}

func (grave) Write([]byte) (int, error) { return 0, errDead }

// bury makes the open connections dead while the fault is set, and cuts the dead ones when it is cleared.
func (s *Server) bury() {
	_, die := s.faults.On(apnsDead, "", "")
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case !die && c.buried != nil:
			c.exhume()
			c.cut()
		case die && c.buried == nil && c.greeted && !c.ended:
			c.buried, c.exhume = context.WithCancel(s.stop)
			c.out.Reset(grave{})
		}
	})
}

// dead waits for the end of a dead connection, and reports whether the connection was dead.
func (c *pushConn) dead() bool {
	c.mu.Lock()
	buried := c.buried
	c.mu.Unlock()
	if buried == nil {
		return false
	}
	<-buried.Done()
	return true
}

// tellLimit sends the stream limit that a fault has changed to the open connections.
func (s *Server) tellLimit() {
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended || !c.greeted || c.goneAway {
			return
		}
		c.tellLimit()
		c.flush() // an error shows in the read loop too
	})
}

// resume continues with the requests that a fault stalled.
func (s *Server) resume() {
	s.each(func(c *pushConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		waiting := c.stalled
		c.stalled = nil
		for _, st := range waiting {
			if c.proceed(st) != nil {
				return
			}
		}
		c.flush() // an error shows in the read loop too
	})
}
