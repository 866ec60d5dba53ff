package graph

// Throttling: what Graph allows an app of one mailbox at once, and how long nothing is asked for after it has refused.
//
// Graph counts for each app and mailbox (4 requests at once, 10,000 in ten minutes), for each app, and for the subscriptions of an app in a
// tenant. It says by a 429 that a limit was met, and not which. So each mailbox has a gate, the subscriptions have one, and where the gates
// of several mailboxes close together, it is the app's. The Retry-After of a 429 is often 1 whatever the cause, so that each refusal in a
// row also closes the gate for twice as long.

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// atOnce is how many requests at once a mailbox answers to an app.
	atOnce = 4
	// roomier is how long after a refusal of too much at once one more is tried.
	roomier = time.Minute
	// witnesses is how many mailboxes have to be refused within appWindow, and appShare one of how many requests, before that counts as the
	// app's.
	witnesses = 5
	appShare  = 10
	appWindow = 10 * time.Second
	// probing is how long one request has to find out whether there are answers again before the next one may, and probed how long the
	// others wait at least.
	probing = 10 * time.Second
	probed  = 500 * time.Millisecond
	// patience is how long a call waits while nothing may be asked for of any mailbox. Where that is so for its mailbox only, it does not
	// wait: it would keep a worker that others need.
	patience = 30 * time.Second
	// forgotten is how long after its gate opened again a mailbox, or the app, is taken as never refused.
	forgotten = 10 * time.Minute
	// maxGates bounds the mailboxes whose gates are remembered: more than one instance listens to.
	maxGates = 20_000
)

// holding are the times that a gate is closed, by refusals in a row: with the jitter, it is tried again within five minutes.
var holding = backoff.Policy{First: time.Second, Max: 4 * time.Minute}

// ofSubscriptions is the gate of the calls about subscriptions, whichever mailbox they are for.
const ofSubscriptions = ""

// gates are those of one app.
type gates struct {
	mu   sync.Mutex
	kept map[string]*gate // by mailbox; a gate that is as good as new is not kept
	app  hold

	// What was answered since began: whether refusals are the app's.
	began    time.Time
	answers  int
	refusals int
	refused  map[string]struct{} // mailboxes, witnesses at most
	asked    time.Duration       // the least wait that Graph has asked for: a longer one may be that of a mailbox
}

// gate of a mailbox.
type gate struct {
	room    int // requests that may be under way at once
	open    int // requests under way
	queue   []*waiter
	hold    hold
	resized time.Time // when room was last changed; zero: it is atOnce
}

type waiter struct {
	n     int
	ready chan struct{}
}

// hold is until when nothing is asked for. Then one request finds out whether there will be answers again.
type hold struct {
	until  time.Time
	last   time.Time // of the last refusal that counted
	times  int       // refused in a row
	tested time.Time // when that one request was made; zero: there is none
}

// closed is for how long nothing is to be asked for, or how long to wait for the request that tests whether there are answers again. tests:
// the caller is that request.
func (h *hold) closed(now time.Time, tests bool) time.Duration {
	switch {
	case now.Before(h.until):
		return h.until.Sub(now)
	case h.times > 0 && now.Sub(h.tested) < probing && !tests:
		return probed
	}
	return 0
}

// pass takes in that a request is made.
func (h *hold) pass(now time.Time) {
	if h.times > 0 {
		h.tested = now
	}
}

// refuse takes in a refusal of a request that began then, and returns for how long nothing is asked for. Of requests that were under way
// together one counts.
func (h *hold) refuse(began time.Time, asked time.Duration, now time.Time) time.Duration {
	if h.times == 0 || !began.Before(h.last) {
		h.times++
		h.last = now
	}
	h.tested = time.Time{}
	if until := now.Add(holding.Wait(h.times, asked)); until.After(h.until) {
		h.until = until
	}
	return h.until.Sub(now)
}

// accept takes in an answer to a request that began then.
func (h *hold) accept(began time.Time) {
	if h.times > 0 && !began.Before(h.until) {
		h.times, h.tested = 0, time.Time{}
	}
}

func newGates() gates { return gates{kept: map[string]*gate{}, refused: map[string]struct{}{}} }

// enter waits until there is room for n more requests at a gate. Where the gate is closed, c says so, and they have not entered. Its error
// is that of ctx.
func (g *gates) enter(ctx context.Context, key string, n int) (c closing, err error) {
	g.mu.Lock()
	now := time.Now()
	at := g.gate(key, now)
	if c := g.closed(at, now, false); c.held > 0 {
		g.tidy(key, now)
		g.mu.Unlock()
		return c, nil
	}
	if len(at.queue) == 0 && at.fits(n) {
		at.open += n
		g.mu.Unlock()
		return closing{}, nil
	}
	w := &waiter{n, make(chan struct{})}
	at.queue = append(at.queue, w)
	g.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		g.leave(key, n, w)
		return closing{}, ctx.Err()
	}
	return closing{}, nil
}

// pass lets a request that has entered be made, unless the gate was closed while it waited. again: it has passed before, and may be the one
// that the others wait for.
func (g *gates) pass(key string, again bool) closing {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	at := g.gate(key, now)
	c := g.closed(at, now, again)
	if c.held == 0 {
		g.app.pass(now)
		at.hold.pass(now)
	}
	return c
}

// closing is how long nothing is to be asked for, and whether that is so for all mailboxes.
type closing struct {
	held time.Duration // 0: it is open
	app  bool
}

// closed says how a gate is closed, to the request that tests it or to another. It is called with mu held.
func (g *gates) closed(at *gate, now time.Time, tests bool) closing {
	app, own := g.app.closed(now, tests), at.hold.closed(now, tests)
	return closing{max(app, own), app > 0 && app >= own}
}

// fits says whether n more requests may be made: as many as there is room for, and in any case one batch that is larger.
func (at *gate) fits(n int) bool { return at.open+n <= at.room || at.open == 0 }

// leave ends n requests, or the wait of w for them.
func (g *gates) leave(key string, n int, w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	at := g.gate(key, now)
	if i := slices.Index(at.queue, w); w != nil && i >= 0 {
		at.queue = slices.Delete(at.queue, i, i+1)
	} else {
		at.open -= n
	}
	for len(at.queue) > 0 && at.fits(at.queue[0].n) {
		at.open += at.queue[0].n
		close(at.queue[0].ready)
		at.queue = slices.Delete(at.queue, 0, 1)
	}
	g.tidy(key, now)
}

// gate returns the gate of a mailbox. It is called with mu held.
func (g *gates) gate(key string, now time.Time) *gate {
	at := g.kept[key]
	if at == nil {
		if len(g.kept) >= maxGates {
			for k := range g.kept {
				g.tidy(k, now.Add(forgotten))
			}
		}
		at = &gate{room: atOnce}
		if key == ofSubscriptions {
			at.room = math.MaxInt // the pace bounds them
		}
		g.kept[key] = at
	}
	if !at.resized.IsZero() && now.Sub(at.resized) >= roomier {
		at.room, at.resized = at.room+1, now
		if at.room >= atOnce {
			at.resized = time.Time{}
		}
	}
	return at
}

// tidy forgets a gate that is as good as new. It is called with mu held.
func (g *gates) tidy(key string, now time.Time) {
	at := g.kept[key]
	if at != nil && at.open == 0 && len(at.queue) == 0 && at.resized.IsZero() && now.Sub(at.hold.until) >= forgotten {
		delete(g.kept, key)
	}
}

// room is how many requests of a mailbox may be under way at once.
func (g *gates) room(key string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	room := g.gate(key, now).room
	g.tidy(key, now)
	return room
}

// note takes in how a request that began then ended. Where Graph has refused it for now, note puts into e how long nothing is asked for.
func (g *gates) note(key string, began time.Time, e *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(g.began) >= appWindow {
		g.began, g.answers, g.refusals = now, 0, 0
		clear(g.refused)
	}
	g.answers++
	at := g.gate(key, now)
	defer g.tidy(key, now) // whoever asked may have left
	switch {
	case e == nil || !throttles(e.Fault):
		if e == nil || e.Fault.Status != 0 { // Graph has answered
			at.hold.accept(began)
			g.app.accept(began)
		}
		return
	case e.Fault.Code == CodeCrowded && key != ofSubscriptions:
		at.room, at.resized = max(1, at.room/2), now
	}
	f := e.Fault
	f.After = at.hold.refuse(began, e.asked, now)
	if key == ofSubscriptions {
		return
	}
	if g.refusals == 0 || e.asked < g.asked {
		g.asked = e.asked
	}
	g.refusals++
	if len(g.refused) < witnesses {
		g.refused[key] = struct{}{}
	}
	if len(g.refused) == witnesses && g.refusals*appShare >= g.answers {
		f.After = max(f.After, g.app.refuse(began, g.asked, now))
	}
}

// noteParts takes in how the parts of a batch of one mailbox ended, which was let in itself; nil: well. Only one that was not refused for
// now says that there are answers again.
func (g *gates) noteParts(key string, began time.Time, ended []*Error) {
	held := func(e *Error) bool { return e != nil && throttles(e.Fault) }
	if len(ended) == 0 || slices.ContainsFunc(ended, func(e *Error) bool { return !held(e) }) {
		g.note(key, began, nil)
	}
	for _, e := range ended {
		if held(e) {
			g.note(key, began, e)
		}
	}
}

// throttles says whether an error means that less is to be asked for.
func throttles(f *fault.Error) bool {
	if f.Code == CodeBehind { // one mailbox's
		return false
	}
	return f.Code == CodeThrottled || f.Code == CodeCrowded || f.Code == "ErrorServerBusy" || f.Status == http.StatusServiceUnavailable
}

// heldError is the error of a call that was not made, as Graph has refused others.
func heldError(op operation, c closing) *Error {
	e := newError(op, said{code: CodeHeld, after: c.held})
	e.Fault.Text += fmt.Sprintf("; it is asked again in %v", c.held.Round(time.Second))
	e.app = c.app
	return e
}
