package listener

import (
	"context"
	"errors"
	"fmt"
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
	turn     atomic.Uint32                 // of the accounts: who is asked where a mailbox lives

	mu      sync.Mutex
	marked  []*mailbox // ready for a worker, first in first out; each at most once
	active  int
	waiting []*mailbox // that found no room at an account, first in first out; each at most once
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

	streams atomic.Int32 // open

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
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) { // of ours: the server has said nothing
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

// asker is the account that asks where a mailbox lives, which costs no room: the one that it had, else one after the other, and rather one
// that can work.
func (e *entry) asker(had string) *account {
	first := slices.IndexFunc(e.accounts, func(a *account) bool { return a.Name == had })
	if first < 0 {
		first = int(e.turn.Add(1)) % len(e.accounts)
	}
	for i := range e.accounts {
		if a := e.accounts[(first+i)%len(e.accounts)]; a.state().Blocked == "" {
			return a
		}
	}
	return e.accounts[first]
}

// room finds the account for a mailbox: the one that it had, where there is room, else the one with the most room; nil: all are full. It is
// called with mu held.
func (e *entry) room(had string) (best *account) {
	for _, a := range e.accounts {
		load := a.mailboxes()
		if load < e.MailboxesPerAccount && (a.Name == had || best == nil || best.Name != had && load < best.mailboxes()) {
			best = a
		}
	}
	return best
}

// take gives a mailbox room at an account; nil: it is in the queue for some.
func (e *entry) take(m *mailbox, had string) *account {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.room(had)
	if a == nil {
		e.waiting = append(e.waiting, m)
		return nil
	}
	a.charge(1)
	return a
}

// full is the error of a mailbox that found no room.
func (e *entry) full() *fault.Error {
	return &fault.Error{Op: "location", Code: codeNoCapacity, Scope: fault.Mailbox, Remedy: fault.Fix,
		Text: fmt.Sprintf("every listener account of %s has its %d mailboxes", e.Name, e.MailboxesPerAccount)}
}

// release gives a mailbox's room at an account back: to the one that has waited for it the longest.
func (e *entry) release(a *account) {
	for {
		e.mu.Lock()
		if len(e.waiting) == 0 {
			a.charge(-1)
			e.mu.Unlock()
			return
		}
		next := e.waiting[0]
		e.waiting = slices.Delete(e.waiting, 0, 1)
		e.mu.Unlock()
		if next.offer(a) {
			return
		}
	}
}

// quit takes a mailbox out of the queue for room.
func (e *entry) quit(m *mailbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = slices.DeleteFunc(e.waiting, func(o *mailbox) bool { return o == m })
}

func (a *account) mailboxes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.load
}

func (a *account) charge(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.load += n
}

// changed takes in that the account's credential was replaced: what waits for the account is tried at once.
func (a *account) changed() {
	a.mu.Lock()
	a.blocked, a.again = nil, 0
	var groups []*group
	for _, list := range a.groups {
		groups = append(groups, list...)
	}
	a.mu.Unlock()
	for _, m := range a.e.l.watched() {
		m.accountChanged(a)
	}
	for _, g := range groups {
		g.anew.Store(true)
		g.poke()
	}
}

// join puts a mailbox into a group with room, and begins one where there is none.
func (a *account) join(m *mailbox, p mail.Location) *group {
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
