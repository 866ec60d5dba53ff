package ews

// The places of calls: how many of one purpose are under way at once, and what becomes of those that hang.

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// purpose of calls. Each has places of its own, so that look-ups, subscribing and listings that hang leave those of live mail alone.
type purpose uint8

const (
	reading     purpose = iota // GetItem: live mail waits for it
	listing                    // FindItem
	subscribing                // Subscribe and Unsubscribe
	looking                    // GetFolder: where a mailbox lives
	purposes
)

// otherShare is the part of the calls in flight that the calls of each purpose but reading have: reading has the other five eighths.
const otherShare = 8

const (
	// patience is how long a call waits for a place before one that hangs is given up for it, and hanging is how long that one has to
	// have been under way: many times what a server takes that is well.
	patience = 50 * time.Millisecond
	hanging  = 500 * time.Millisecond
	// suspectShare is the part of the places that mailboxes may have whose last call hung.
	suspectShare = 4
	// maxSuspects bounds the mailboxes that are remembered for that; beyond it they are forgotten and met anew.
	maxSuspects = 20_000
)

// errHangs is the cause with which a call is given up for others.
var errHangs = errors.New("given up, as others wait")

// places of the calls of one purpose.
type places struct {
	size int

	mu       sync.Mutex
	held     []*place // the oldest first
	queue    []*place // first in first out
	suspects map[string]struct{}
	slow     bool // the last success took long: the server is slow for all, and giving up its calls would not help
}

// place is that of a call, or its wait for one.
type place struct {
	mailbox string
	began   time.Time
	givenUp bool
	ready   chan struct{} // closed when it has a place; nil: it had one at once
	cancel  context.CancelCauseFunc
}

func newPlaces(inFlight int) (all [purposes]*places) {
	if inFlight < otherShare { // too few to share out
		one := &places{size: inFlight, suspects: map[string]struct{}{}}
		for k := range all {
			all[k] = one
		}
		return all
	}
	others := inFlight / otherShare
	for k := range all {
		all[k] = &places{size: others, suspects: map[string]struct{}{}}
	}
	all[reading].size = inFlight - (int(purposes)-1)*others
	return all
}

// enter waits for a place. The context is the call's from then on; it ends with errHangs where the call is given up for others. leave gives
// the place back, with how the call ended. false: the mailbox hung before, and there is no place for such.
func (p *places) enter(ctx context.Context, mailbox string) (own context.Context, leave func(ok bool), entered bool) {
	own, cancel := context.WithCancelCause(ctx)
	c := &place{mailbox: mailbox, cancel: cancel}
	p.mu.Lock()
	if _, suspect := p.suspects[mailbox]; suspect && p.suspected() >= max(1, p.size/suspectShare) {
		p.mu.Unlock()
		cancel(errHangs)
		return own, nil, false
	}
	if len(p.held) < p.size {
		p.take(c)
		p.mu.Unlock()
		return own, func(ok bool) { p.leave(c, ok) }, true
	}
	c.ready = make(chan struct{})
	p.queue = append(p.queue, c)
	p.mu.Unlock()
	waited := time.NewTimer(patience)
	defer waited.Stop()
	for {
		select {
		case <-c.ready:
			return own, func(ok bool) { p.leave(c, ok) }, true
		case <-waited.C:
			p.giveUpOne()
			waited.Reset(patience)
		case <-ctx.Done():
			p.withdraw(c)
			return own, func(bool) {}, true // the call finds its context ended
		}
	}
}

// take gives a call a place. It is called with mu held.
func (p *places) take(c *place) {
	c.began = time.Now()
	p.held = append(p.held, c)
}

// suspected is how many places mailboxes have that hung before. It is called with mu held.
func (p *places) suspected() (n int) {
	for _, c := range p.held {
		if _, suspect := p.suspects[c.mailbox]; suspect {
			n++
		}
	}
	return n
}

// leave gives a place back; whoever has waited the longest gets it.
func (p *places) leave(c *place, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.cancel(nil)
	took := time.Since(c.began)
	if ok {
		delete(p.suspects, c.mailbox)
		p.slow = took >= hanging
	}
	p.free(c)
}

// free takes the place of a call back. It is called with mu held.
func (p *places) free(c *place) {
	i := slices.Index(p.held, c)
	p.held = slices.Delete(p.held, i, i+1)
	if len(p.queue) > 0 {
		next := p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		p.take(next)
		close(next.ready)
	}
}

// withdraw ends a wait, or gives back the place that has come meanwhile.
func (p *places) withdraw(c *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.cancel(nil)
	if i := slices.Index(p.queue, c); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return
	}
	p.free(c)
}

// giveUpOne gives up the oldest call where it hangs, for the one that waits.
func (p *places) giveUpOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || p.slow {
		return
	}
	i := slices.IndexFunc(p.held, func(c *place) bool { return !c.givenUp })
	if i < 0 || time.Since(p.held[i].began) < hanging {
		return
	}
	c := p.held[i]
	c.givenUp = true // its place is free once it has gone
	p.suspect(c.mailbox)
	c.cancel(errHangs)
}

// hung notes a mailbox whose call was not answered in time.
func (p *places) hung(mailbox string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect(mailbox)
}

// suspect remembers a mailbox. It is called with mu held.
func (p *places) suspect(mailbox string) {
	if len(p.suspects) >= maxSuspects {
		clear(p.suspects)
	}
	p.suspects[mailbox] = struct{}{}
}
