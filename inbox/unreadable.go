package inbox

// Messages that cannot be read, or are not found, while their mailbox can be read (rule 9).

import (
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// readAgain is when a message is tried again: three times within ten minutes.
var readAgain = [...]time.Duration{time.Minute, 5 * time.Minute}

// secondLook is when a message is looked for once more that its server has told of and did not find: another front end may have told of it.
const secondLook = 2 * time.Second

// maxUnreadable bounds the items of a mailbox that are tried again; one more is given up at once.
const maxUnreadable = maxHints

// unreadable counts the tries of items that cannot be read, and has those that were not found looked for once more.
type unreadable struct {
	mu     sync.Mutex
	items  map[string]*tries
	closed bool
}

type tries struct {
	n       int
	next    time.Time // a failed read before this does not count
	timer   *time.Timer
	missing bool      // it was not found, and is looked for once more
	hinted  time.Time // of what is missing; zero: it was listed only
	listed  bool      // the same: a listing waits for it
}

func (t *tries) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// try counts a failed read, unless it came before its time, and has again called when it is time for the next one. last: the item is given
// up.
func (u *unreadable) try(item string, again func()) (last, counted bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.items[item]
	if t == nil {
		if len(u.items) >= maxUnreadable {
			return true, true
		}
		if u.items == nil {
			u.items = map[string]*tries{}
		}
		t = &tries{}
		u.items[item] = t
	} else if time.Now().Before(t.next) {
		return false, false
	}
	if t.n >= len(readAgain) {
		delete(u.items, item)
		return true, true
	}
	t.next, t.missing = time.Now().Add(readAgain[t.n]), false
	if !u.closed {
		t.timer = time.AfterFunc(readAgain[t.n], again)
	}
	t.n++
	return false, true
}

// look says whether an item that was not found is looked for once more, and has again called when it is time for that.
func (u *unreadable) look(item string, hinted time.Time, again func(hinted time.Time, listed bool)) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.items[item]
	switch {
	case t == nil && len(u.items) < maxUnreadable:
	case t != nil && t.missing && time.Now().Before(t.next):
		t.waitedFor(hinted)
		return true
	default:
		return false
	}
	if u.items == nil {
		u.items = map[string]*tries{}
	}
	t = &tries{missing: true, next: time.Now().Add(secondLook)}
	t.waitedFor(hinted)
	u.items[item] = t
	if !u.closed {
		t.timer = time.AfterFunc(secondLook, func() {
			u.mu.Lock()
			hinted, listed := t.hinted, t.listed
			u.mu.Unlock()
			again(hinted, listed)
		})
	}
	return true
}

// waitedFor notes who waits for what is missing: a hint, or a listing.
func (t *tries) waitedFor(hinted time.Time) {
	if hinted.IsZero() {
		t.listed = true
	} else {
		t.hinted = hinted
	}
}

// forget forgets an item that could be read in the end, or is gone, and says whether a listing may wait for it.
func (u *unreadable) forget(item string) (waited bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.items[item]
	if t == nil {
		return false
	}
	t.stop()
	delete(u.items, item)
	return !t.missing || t.listed
}

// listed forgets what was missing when a complete listing is done: it did not show it any more, or the item has its outcome.
func (u *unreadable) listed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(u.items, func(_ string, t *tries) bool { return t.missing && !now.Before(t.next) })
}

// forgetAll forgets all items: their ids mean nothing any more.
func (u *unreadable) forgetAll() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.items {
		t.stop()
	}
	u.items = nil
}

// open begins anew.
func (u *unreadable) open() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		u.closed, u.items = false, nil
	}
}

// close stops the timers.
func (u *unreadable) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, t := range u.items {
		t.stop()
	}
}

// giveUp counts a failed read of an item and says whether it was the last: then its alert is generic. Until then the item is
// hinted again from here, and the mailbox listed, for no listing is complete without it.
func (m *Mailbox) giveUp(item Item, d due) bool {
	last, counted := m.unreadable.try(item.ID, func() {
		if l := m.link.Load(); l != nil {
			m.marks.hint(item.ID, l.Source(), d.hinted, m.in.correlation()) // and not m.Hint: the status shows hints from outside only
		}
		m.List()
	})
	if counted {
		f := fault.Of(item.Err)
		m.decide(subscriptions.Decision{Key: d.key, Outcome: outcome.Waiting, Reason: outcome.Unreadable, Code: f.Code, Came: d.received, At: time.Now(), Correlation: d.correlation})
		m.in.log.Warn("a message cannot be read", append(m.about(d.correlation), zap.Bool("generic_alert", last), zap.Error(f))...)
	}
	return last
}

// lookAgain says whether an item that its server did not find is looked for once more: by a hint of it, or by a listing where it has none. One that
// the server has found elsewhere is gone.
func (m *Mailbox) lookAgain(item Item, hinted time.Time) bool {
	return fault.Of(item.Err).Remedy != fault.GiveUp && m.unreadable.look(item.ID, hinted, func(hinted time.Time, listed bool) {
		if l := m.link.Load(); l != nil && !hinted.IsZero() {
			m.marks.hint(item.ID, l.Source(), hinted, m.in.correlation())
		}
		if listed {
			m.List()
		}
	})
}
