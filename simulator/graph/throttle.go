package graph

// Throttling: how much an app may ask for, in all, of one mailbox, and of the subscriptions.

import (
	"net/http"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
)

// Limits of the real service, for an app in a tenant.
const (
	mailboxWindow   = 10 * time.Minute
	mailboxRequests = 10_000
	mailboxAtOnce   = 4

	appWindow   = 10 * time.Second
	appRequests = 130_000

	subscriptionWindow   = 20 * time.Second
	subscriptionWrites   = 1_000
	subscriptionRequests = 5_000
)

// Names of the limits, for the fault that lowers one.
const (
	limitApp         = "app"
	limitMailbox     = "mailbox"
	limitConcurrency = "concurrency"
	limitWrites      = "subscriptions"
)

// window counts the requests of a fixed span of time.
type window struct {
	began time.Time
	count int
}

// take counts a request, and says how long to wait if it is one too many.
func (w *window) take(now time.Time, span time.Duration, most int) time.Duration {
	if now.Sub(w.began) >= span {
		w.began, w.count = now, 0
	}
	if w.count >= most {
		return w.began.Add(span).Sub(now)
	}
	w.count++
	return 0
}

// limits are the windows. They are guarded by Server.mu.
type limits struct {
	app, writes, subscriptions window
	mailboxes                  map[string]*mailboxLimit // by object id
}

type mailboxLimit struct {
	window
	open int
}

func newLimits() limits { return limits{mailboxes: map[string]*mailboxLimit{}} }

// most is a limit, unless the fault lowers it.
func (s *Server) most(name string, usual int) int {
	if f, ok := s.faults.On(limitLowered, "", ""); ok && f.Reason == name {
		return min(usual, f.Limit)
	}
	return usual
}

// throttled answers 429.
func (c *call) throttled(wait time.Duration, code, text string) {
	c.s.mu.Lock()
	c.s.counts.Throttled++
	c.s.mu.Unlock()
	c.w.Header().Set("Retry-After", faults.RetryAfter(max(wait, time.Second)))
	c.fail(http.StatusTooManyRequests, code, text)
}

const (
	codeThrottled = "ApplicationThrottled"
	codeTooMany   = "TooManyRequests"
)

// enterApp counts a request of the app; it answers and returns false if it is one too many.
func (c *call) enterApp() bool {
	s := c.s
	s.mu.Lock()
	wait := s.limits.app.take(s.clock.Now(), appWindow, s.most(limitApp, appRequests))
	s.mu.Unlock()
	if wait > 0 {
		c.throttled(wait, codeTooMany, "Too many requests.")
	}
	return wait == 0
}

// enterMailbox counts a request to a mailbox, and how many are open. leave ends it.
func (c *call) enterMailbox(box exchange.Box) (leave func(), ok bool) {
	s := c.s
	if f, hit := s.faults.Hit(throttledFault, box.Address, ""); hit {
		c.throttled(f.Duration(), codeThrottled, "Application is over its MailboxRequestRate limit.")
		return nil, false
	}
	s.mu.Lock()
	l := s.limits.mailboxes[box.Object]
	if l == nil {
		l = &mailboxLimit{}
		s.limits.mailboxes[box.Object] = l
	}
	wait := time.Duration(0)
	busy := l.open >= s.most(limitConcurrency, mailboxAtOnce)
	if !busy {
		if wait = l.take(s.clock.Now(), mailboxWindow, s.most(limitMailbox, mailboxRequests)); wait == 0 {
			l.open++
		}
	}
	s.mu.Unlock()
	switch {
	case busy: // Retry-After was seen to be always 1
		c.throttled(time.Second, codeThrottled, "Application is over its MailboxConcurrency limit.")
		return nil, false
	case wait > 0:
		c.throttled(wait, codeThrottled, "Application is over its MailboxRequestRate limit.")
		return nil, false
	}
	leave = func() {
		s.mu.Lock()
		l.open--
		s.mu.Unlock()
	}
	if !c.delay(box.Address) {
		leave()
		return nil, false
	}
	return leave, true
}

// enterSubscriptions counts a request to the subscriptions; it answers and returns false if it is one too many.
func (c *call) enterSubscriptions(write bool) bool {
	s := c.s
	s.mu.Lock()
	now := s.clock.Now()
	wait := s.limits.subscriptions.take(now, subscriptionWindow, subscriptionRequests)
	if wait == 0 && write {
		wait = s.limits.writes.take(now, subscriptionWindow, s.most(limitWrites, subscriptionWrites))
	}
	s.mu.Unlock()
	if wait > 0 {
		c.throttled(wait, codeTooMany, "Too many requests.")
		return false
	}
	return c.delay("")
}

// delay waits where the fault is set; false: the client has gone.
func (c *call) delay(address string) bool {
	f, ok := c.s.faults.Hit(delayed, address, "")
	if !ok {
		return true
	}
	timer := time.NewTimer(f.Duration())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.r.Context().Done():
	case <-c.s.ctx.Done():
	}
	return false
}
