package graph

// How notifications are posted to a URL: in batches, again where they were not accepted, and later or not at all where the endpoint is
// slow.

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

const (
	// DefaultRetry is the first wait before a notification is posted again; each further one is twice as long, up to maxRetry.
	DefaultRetry = 10 * time.Second
	maxRetry     = 10 * time.Minute
	// giveUp is how long a notification is posted again, and how long one is held for a token.
	giveUp = 4 * time.Hour

	maxPosts    = 16      // at a time to a URL
	maxPerPost  = 100     // notifications
	maxQueue    = 200_000 // notifications that wait for a URL; the rest is lost
	maxResponse = 64 << 10
)

// The punishment of a slow endpoint: within a window, by the share of its answers that take longer than answerTime.
const (
	slowWindow = 10 * time.Minute
	slowSample = 10   // answers at least, before it is judged
	slowShare  = 0.10 // above: its notifications come slowDelay later
	dropShare  = 0.15 // above: they are dropped until the window ends
	slowDelay  = 10 * time.Second
)

// endpoint is a URL that notifications are posted to. It is guarded by Server.mu.
type endpoint struct {
	url    string
	queue  []notification
	posts  int // open
	window time.Time
	told   int // answers in the window
	slow   int // of these
}

// judge says what an endpoint has earned: a delay, or that it gets nothing.
func (e *endpoint) judge(now time.Time) (delay time.Duration, drop bool) {
	if now.Sub(e.window) >= slowWindow {
		e.window, e.told, e.slow = now, 0, 0
	}
	if e.told < slowSample {
		return 0, false
	}
	switch share := float64(e.slow) / float64(e.told); {
	case share > dropShare:
		return 0, true
	case share > slowShare:
		return slowDelay, false
	}
	return 0, false
}

// enqueue queues a notification for a URL, unless its endpoint is too slow. s.mu is held.
func (s *Server) enqueue(at string, n notification) {
	e := s.endpoints[at]
	if e == nil {
		e = &endpoint{url: at, window: s.clock.Now()}
		s.endpoints[at] = e
	}
	delay, drop := e.judge(s.clock.Now())
	switch {
	case drop:
		s.logf("graph: %s: too slow, a notification is dropped", n.sub.box.Address)
	case delay > 0:
		s.after(delay, func() { s.put(e, n) })
	default:
		s.put(e, n)
	}
}

// put queues a notification, and sees that somebody posts it. s.mu is held.
func (s *Server) put(e *endpoint, n notification) {
	if len(e.queue) >= maxQueue {
		return
	}
	e.queue = append(e.queue, n)
	if e.posts < maxPosts {
		e.posts++
		s.run(func() { s.postAll(e) })
	}
}

// postAll posts until nothing waits.
func (s *Server) postAll(e *endpoint) {
	for {
		list := s.take(e)
		if list == nil {
			return
		}
		body, err := s.bodyOf(s.withForeign(list))
		if err != nil {
			s.logf("graph: notification: %v", err)
			continue
		}
		s.post(e, list, body)
	}
}

// take takes the next post of an endpoint; nothing waits: its poster ends.
func (s *Server) take(e *endpoint) []notification {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		n := min(len(e.queue), maxPerPost)
		if n == 0 {
			break
		}
		list := s.ready(e.queue[:n])
		e.queue = e.queue[n:]
		if len(list) > 0 {
			return list
		}
	}
	e.posts--
	if e.posts == 0 && len(e.queue) == 0 {
		e.queue = nil
	}
	return nil
}

// ready sorts out what is not to be posted now: notifications of a subscription that has gone, or whose token has run out. s.mu is held.
func (s *Server) ready(list []notification) []notification {
	now := s.clock.Now()
	out := make([]notification, 0, len(list))
	for _, n := range list {
		switch {
		case now.Sub(n.at) > giveUp || n.sub.removed && n.lifecycle == "":
		case n.lifecycle == "" && !now.Before(n.sub.token):
			if len(n.sub.held) < maxHeld {
				n.sub.held = append(n.sub.held, n)
			}
			if !n.sub.warned {
				n.sub.warned = true
				s.tell(n.sub, reauthorizationRequired)
			}
		default:
			n.expires = n.sub.expires
			out = append(out, n)
		}
	}
	return out
}

// withForeign puts items around a post that are not for the receiver, where the fault is set.
func (s *Server) withForeign(list []notification) []notification {
	if _, ok := s.faults.Hit(foreign, list[0].sub.box.Address, ""); !ok {
		return list
	}
	other := func(state string) notification {
		n := list[0]
		sub := &subscription{
			id: guid.New().String(), app: n.sub.app, state: state, resource: n.sub.resource,
			box: exchange.Box{Object: guid.New().String(), Address: n.sub.box.Address}, changes: n.sub.changes,
		}
		n.sub = sub
		return n
	}
	return append(append([]notification{other(""), other("someone-else")}, list...), other(list[0].sub.state))
}

// post posts once. What is not accepted is queued again.
func (s *Server) post(e *endpoint, list []notification, body []byte) {
	accepted, slow := s.send(e.url, list[0].sub.box.Address, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.judge(s.clock.Now())
	e.told++
	if slow {
		e.slow++
	}
	if accepted {
		s.counts.Notifications += len(list)
		return
	}
	for _, n := range list {
		wait := min(maxRetry, s.retry<<min(n.attempts, 16))
		n.attempts++
		s.after(wait, func() { s.put(e, n) })
	}
}

// send posts a body; slow: there was no answer in time.
func (s *Server) send(at, address string, body []byte) (accepted, slow bool) {
	if _, ok := s.faults.Hit(unreachable, address, ""); ok {
		return false, false
	}
	ctx, cancel := context.WithTimeout(s.ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return false, false
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := s.client.Do(req)
	if err != nil {
		if s.ctx.Err() == nil {
			s.logf("graph: %s: a notification is not accepted: %v", address, err)
		}
		return false, os.IsTimeout(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponse)); err != nil {
		return false, os.IsTimeout(err)
	}
	return resp.StatusCode >= 200 && resp.StatusCode < 300, false
}
