package pace

// The places of calls: how many of one purpose are under way at once, and what becomes of those that hang.

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Purpose of calls. Each has places of its own, so that look-ups, subscribing and listings that hang leave those of live mail alone.
type Purpose uint8

// The purposes.
const (
	Reading     Purpose = iota // messages by their ids: live mail waits for it
	Listing                    // of an Inbox
	Subscribing                // making subscriptions and giving them back
	Looking                    // where a mailbox lives
	purposes
)

// otherShare is the part of the calls in flight that the calls of each purpose but reading have: reading has the other five eighths.
const otherShare = 8

const (
	// patience is how long a call waits for a place before one that hangs is given up for it, and hanging is how long that one has to
	// have been under way at least; a server that is slow has manyTimes what a call usually takes.
	patience  = 50 * time.Millisecond
	hanging   = 500 * time.Millisecond
	manyTimes = 8
	// stalls is how many times that long a call hangs until it is given up where no call is answered: the server may stall.
	stalls = 4
	// suspectShare is the part of the places that mailboxes may have whose last call hung.
	suspectShare = 4
	// maxSuspects bounds the mailboxes that are remembered for that; beyond it they are forgotten and met anew.
	maxSuspects = 20_000
	// ahead is how many calls may wait for a place so that none stays free. Each passes one that hangs in every patience: with 100 that
	// hang, the others have places within three seconds.
	ahead = 8
)

// places of the calls of one purpose.
type places struct {
	mu       sync.Mutex
	window   window
	lent     int      // places beyond the window, beside calls that hang
	held     []*place // the oldest first
	queue    []*place // first in first out
	suspects map[string]struct{}
	slow     bool      // the last success took long: the server is slow for all, and giving up its calls would not help
	answered time.Time // when the last call ended well: where that is long ago, perhaps all of them wait for a server that stalls
}

// place is that of a call, or its wait for one.
type place struct {
	mailbox string
	taken   time.Time
	began   time.Time // when the request was made; zero: the rate does not allow it yet
	lent    bool      // it hangs, and another call is made beside it
	givenUp bool
	ready   chan struct{}      // closed when it has a place; nil: it had one at once
	giveUp  context.CancelFunc // ends the request
}

// hangs says whether a call has been under way for that long.
func (c *place) hangs(now time.Time, long time.Duration) bool {
	return !c.began.IsZero() && now.Sub(c.began) >= long
}

func newPlaces(inFlight int) (all [purposes]*places) {
	of := func(most, first int) *places {
		return &places{window: newWindow(most, min(most, first)), suspects: map[string]struct{}{}}
	}
	if inFlight < otherShare { // too few to share out
		one := of(inFlight, inFlight)
		for k := range all {
			all[k] = one
		}
		return all
	}
	others := inFlight / otherShare
	for k := range all {
		all[k] = of(others, firstWindow)
	}
	live := inFlight - (int(purposes)-1)*others
	all[Reading] = of(live, firstReads)
	return all
}

// worth is how many calls it is worth to have under way or waiting for a place: with more, each only waits longer.
func (p *places) worth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.room() + ahead
}

// room is how many calls may be under way. It is called with mu held.
func (p *places) room() int { return min(int(p.window.most), p.window.room()+p.lent) }

// enter waits for a place; one that others wait for is the first to get it. nil: the mailbox hung before, and there is no place for such.
func (p *places) enter(ctx context.Context, mailbox string, first bool) *place {
	c := &place{mailbox: mailbox}
	p.mu.Lock()
	if _, suspect := p.suspects[mailbox]; suspect && p.suspected() >= max(1, int(p.window.most)/suspectShare) {
		p.mu.Unlock()
		return nil
	}
	if len(p.queue) == 0 && len(p.held) < p.room() {
		p.take(c)
		p.mu.Unlock()
		return c
	}
	c.ready = make(chan struct{})
	if first {
		p.queue = slices.Insert(p.queue, 0, c)
	} else {
		p.queue = append(p.queue, c)
	}
	p.mu.Unlock()
	waited := time.NewTimer(patience)
	defer waited.Stop()
	for {
		select {
		case <-c.ready:
			return c
		case <-waited.C:
			p.passOne()
			waited.Reset(patience)
		case <-ctx.Done():
			return c // the call finds its context ended
		}
	}
}

// begin notes that the request of a call is made.
func (p *places) begin(c *place, giveUp context.CancelFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.began, c.giveUp = time.Now(), giveUp
	if c.givenUp { // an earlier request of it was
		giveUp()
	}
}

func (p *places) wasGivenUp(c *place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.givenUp
}

// take gives a call a place. It is called with mu held.
func (p *places) take(c *place) {
	c.taken = time.Now()
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

// Ending is how a call ended, as far as it says something of the server's pace.
type Ending uint8

// The endings.
const (
	Failed Ending = iota // it says nothing
	Well
	Busy // the server is too busy
)

// leave gives a place back, or ends the wait for it; whoever has waited the longest gets it.
func (p *places) leave(c *place, how Ending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, c); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return
	}
	now := time.Now()
	switch how {
	case Well:
		delete(p.suspects, c.mailbox)
		p.slow, p.answered = now.Sub(c.began) >= hanging, now
		p.window.answered(now.Sub(c.taken), len(p.queue) > 0 || len(p.held) >= p.room(), now)
	case Busy:
		p.window.refused(now)
	case Failed:
	}
	if c.lent {
		p.lent--
	}
	i := slices.Index(p.held, c)
	p.held = slices.Delete(p.held, i, i+1)
	p.admit()
}

// admit gives those a place that have waited the longest. It is called with mu held.
func (p *places) admit() {
	for len(p.queue) > 0 && len(p.held) < p.room() {
		next := p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		p.take(next)
		close(next.ready)
	}
}

// passOne lets one that waits pass the oldest call that hangs: a call is made beside it, or where there are as many as may be, that one is
// given up.
func (p *places) passOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return
	}
	now := time.Now()
	long := max(hanging, manyTimes*p.window.usual)
	silent := now.Sub(p.answered)
	if p.slow && silent <= long {
		return
	}
	first := func(fits func(c *place) bool) int {
		return slices.IndexFunc(p.held, func(c *place) bool { return c.hangs(now, long) && fits(c) })
	}
	if p.room() < int(p.window.most) {
		if i := first(func(c *place) bool { return !c.lent }); i >= 0 {
			p.held[i].lent = true
			p.lent++
			p.admit()
		}
		return
	}
	if silent > long {
		long *= stalls
	}
	if i := first(func(c *place) bool { return !c.givenUp }); i >= 0 {
		c := p.held[i]
		c.givenUp = true // its place is free once it has gone
		p.suspect(c.mailbox)
		c.giveUp()
	}
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
