package listener

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// maxWorkers bounds the mailboxes of an entry that are read and rung at once; the others stay marked. At 1,000 messages a
	// second and 100 ms a message 100 are at work; the rest is room for a slow server or APNs.
	maxWorkers = 1024
	// maxRinging bounds the bells of an entry under way at once, so that one message to a mailbox of many devices, times the
	// workers, stays within memory (8 KiB each).
	maxRinging = 4096
	// maxCatchUps bounds the mailboxes of an entry whose devices catch up at once: live mail goes first.
	maxCatchUps = 32
)

// entry is an exchange entry at work: its accounts, and its workers.
type entry struct {
	*Entry
	l        *Listener
	accounts []*account
	ringing  chan struct{}
	catching chan struct{}
	skew     atomic.Pointer[time.Duration] // the server's clock minus ours, as the last answer showed it
	waiting  atomic.Int32                  // mailboxes that found no room at an account

	mu     sync.Mutex
	marked []*mailbox // ready for a worker, first in first out; each at most once
	active int
}

func newEntry(l *Listener, e *Entry, accounts int) *entry {
	n := &entry{Entry: e, l: l, ringing: make(chan struct{}, maxRinging), catching: make(chan struct{}, maxCatchUps)}
	for i := range min(len(e.Accounts), accounts) {
		n.accounts = append(n.accounts, &account{Account: &e.Accounts[i], e: n, groups: map[groupKey][]*group{}})
	}
	return n
}

// tell takes in what an answer says about the server's clock, and returns that clock as it is now.
func (e *entry) tell(c Clock) time.Time {
	if !c.Server.IsZero() {
		skew := c.Server.Sub(c.Ours)
		e.skew.Store(&skew)
	}
	return e.now()
}

// now is the server's clock; ours as long as no answer has told it.
func (e *entry) now() time.Time {
	if skew := e.skew.Load(); skew != nil {
		return time.Now().Add(*skew)
	}
	return time.Now()
}

// enrolment is what a device that enrols now rings from (rule 5): now on the server's clock, less a minute, for rather one bell
// from just before than none. Zero while that clock is not known.
func (e *entry) enrolment(now time.Time) time.Time {
	skew := e.skew.Load()
	if skew == nil {
		return time.Time{}
	}
	return now.Add(*skew - time.Minute).Truncate(time.Second)
}

// ready queues a mailbox for a worker.
func (e *entry) ready(m *mailbox) {
	e.mu.Lock()
	e.marked = append(e.marked, m)
	more := e.active < maxWorkers && e.l.begin()
	if more {
		e.active++
	}
	e.mu.Unlock()
	if more {
		go e.work()
	}
}

// work is a worker: it serves marked mailboxes until there are none.
func (e *entry) work() {
	defer e.l.tasks.Done()
	for {
		e.mu.Lock()
		if len(e.marked) == 0 || e.l.stopping.Load() {
			e.active--
			e.mu.Unlock()
			return
		}
		m := e.marked[0]
		e.marked[0] = nil
		e.marked = e.marked[1:]
		e.mu.Unlock()
		m.serve(e.l.working)
	}
}

// account is a listener account at work.
type account struct {
	*Account
	e *entry

	mu      sync.Mutex
	load    int // mailboxes
	groups  map[groupKey][]*group
	blocked *fault.Error // what is wrong with the account itself
	until   time.Time
	again   time.Duration
}

// The account as a whole is tried again after these: a wrong password must not be tried by 1,250 mailboxes, or the directory
// locks the account out.
const (
	firstBlock = 30 * time.Second
	maxBlock   = maxWait
	// probe is how long one caller has to find out whether the account works again before the next may try.
	probe = 30 * time.Second
)

// allowed says whether a call may be made; when the time of a block is over, one caller is let through to try.
func (a *account) allowed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.blocked == nil {
		return nil
	}
	now := time.Now()
	if wait := a.until.Sub(now); wait > 0 {
		e := *a.blocked
		e.After = wait
		return &e
	}
	a.until = now.Add(probe)
	return nil
}

// note takes in how a call ended.
func (a *account) note(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var f *fault.Error
	if err != nil {
		f = fault.Of(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case f == nil || f.Scope < fault.Account:
		a.blocked, a.again = nil, 0 // the server let it in
	case f.Scope == fault.Account:
		a.again = min(max(2*a.again, firstBlock), maxBlock)
		if f.After > maxBlock { // a policy: it takes a person
			a.again = f.After
		}
		a.blocked, a.until = f, time.Now().Add(a.again)
		a.e.l.log.Error("a listener account cannot work", zap.String("exchange", a.e.Name), zap.String("account", a.Name),
			zap.Duration("next_try", a.again), zap.Error(f))
	}
	return err
}

// pick finds the account for a mailbox: the one that it had, where there is room, else the one with the most room.
func (e *entry) pick(had string) *account {
	e.mu.Lock()
	defer e.mu.Unlock()
	var best *account
	for _, a := range e.accounts {
		load := a.mailboxes()
		if load < e.MailboxesPerAccount && (a.Name == had || best == nil || best.Name != had && load < best.mailboxes()) {
			best = a
		}
	}
	if best != nil {
		best.mu.Lock()
		best.load++
		best.mu.Unlock()
	}
	return best
}

func (a *account) mailboxes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.load
}

// release gives a mailbox's place at an account back, and wakes one that waits for it.
func (e *entry) release(a *account) {
	a.mu.Lock()
	a.load--
	a.mu.Unlock()
	if e.waiting.Load() == 0 {
		return
	}
	var next *mailbox
	e.l.mu.Lock()
	for _, m := range e.l.boxes {
		if m.e == e && m.waits() {
			next = m
			break
		}
	}
	e.l.mu.Unlock()
	if next != nil {
		next.retryNow()
	}
}

// join puts a mailbox into a group with room, and begins one where there is none.
func (a *account) join(m *mailbox, p mail.Place) *group {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := groupKey{url: p.URL, group: p.Group}
	for _, g := range a.groups[k] {
		if g.add(m) {
			return g
		}
	}
	if !a.e.l.begin() {
		return nil
	}
	g := newGroup(a, k)
	g.add(m)
	a.groups[k] = append(a.groups[k], g)
	go g.run(a.e.l.hearing)
	return g
}

// forget takes out a group that ended.
func (a *account) forget(g *group) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.groups[g.key] = slices.DeleteFunc(a.groups[g.key], func(o *group) bool { return o == g }); len(a.groups[g.key]) == 0 {
		delete(a.groups, g.key)
	}
}
