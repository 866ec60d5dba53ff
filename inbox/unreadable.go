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

// maxUnreadable bounds the items of a mailbox that are tried again. One more that cannot be read is given up at once; those more that are not
// found wait for a listing, under the id noRoom.
const (
	maxUnreadable = maxHints
	noRoom        = ""
)

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
	hinted  time.Time // when a hint named it; zero: only a listing showed it
	listed  bool      // of a missing item: a listing is incomplete without it
}

func (t *tries) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// try counts a failed read, unless it came before its time, and has again called when it is time for the next one. last: the item is given
// up.
func (u *unreadable) try(item string, hinted time.Time, again func()) (last, counted bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.items[item]
	if t == nil {
		if len(u.items) >= maxUnreadable {
			return true, true
		}
		t = u.add(item, &tries{})
	} else if time.Now().Before(t.next) {
		return false, false
	}
	if t.n >= len(readAgain) {
		delete(u.items, item)
		return true, true
	}
	t.next, t.missing, t.hinted = time.Now().Add(readAgain[t.n]), false, hinted
	if !u.closed {
		t.timer = time.AfterFunc(readAgain[t.n], again)
	}
	t.n++
	return false, true
}

// look says whether an item that was not found is looked for once more, and has again called when it is time for that: with the time at which
// a hint named it, and whether the mailbox is to be listed. False: this was the second look.
func (u *unreadable) look(item string, hinted time.Time, again func(hinted time.Time, list bool)) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	t, wait := u.items[item], secondLook
	if t == nil && len(u.items) >= maxUnreadable {
		item, hinted, t, wait = noRoom, time.Time{}, u.items[noRoom], readAgain[0]
	}
	switch {
	case t != nil && t.missing && time.Now().Before(t.next):
		t.neededBy(hinted)
		return true
	case t != nil && item != noRoom:
		return false
	}
	t = u.add(item, &tries{missing: true, next: time.Now().Add(wait)})
	t.neededBy(hinted)
	if !u.closed {
		t.timer = time.AfterFunc(wait, func() {
			u.mu.Lock()
			hinted, list := t.hinted, t.listed
			u.mu.Unlock()
			again(hinted, list)
		})
	}
	return true
}

// add has an item tried again. It is called with mu held.
func (u *unreadable) add(item string, t *tries) *tries {
	if u.items == nil {
		u.items = map[string]*tries{}
	}
	u.items[item] = t
	return t
}

// neededBy notes who needs a missing item: a hint that named it then or, where that is zero, a listing.
func (t *tries) neededBy(hinted time.Time) {
	if hinted.IsZero() {
		t.listed = true
	} else {
		t.hinted = hinted
	}
}

// hintedAt is when a hint named an item that is tried again; zero: none did, or it is not tried.
func (u *unreadable) hintedAt(item string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t := u.items[item]; t != nil {
		return t.hinted
	}
	return time.Time{}
}

// forget forgets an item that could be read in the end, or is gone, and says whether a listing may wait for it.
func (u *unreadable) forget(item string) (awaited bool) {
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

// forgetMissing forgets the items whose second look is due. A complete listing has been done: either it did not show them, or they have their
// outcome.
func (u *unreadable) forgetMissing() {
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
	last, counted := m.unreadable.try(item.ID, d.hinted, func() {
		m.hintAgain(item.ID, d.hinted)
		m.List()
	})
	if counted {
		f := fault.Of(item.Err)
		m.decide(subscriptions.Decision{Key: d.key, Outcome: outcome.Waiting, Reason: outcome.Unreadable, Code: f.Code, Came: d.received, At: time.Now(), Correlation: d.correlation})
		m.in.log.Warn("a message cannot be read", append(m.about(d.correlation), zap.Bool("generic_alert", last), zap.Error(f))...)
	}
	return last
}

// hintAgain hints an item from here. Hint would show it in the status, which has hints from outside only.
func (m *Mailbox) hintAgain(item string, hinted time.Time) {
	if l := m.link.Load(); l != nil {
		m.marks.hint(item, l.Source(), hinted, m.in.correlation())
	}
}

// lookAgain says whether an item is missing, and is looked for once more: by a hint of it, or by a listing where it has none.
func (m *Mailbox) lookAgain(item Item, hinted time.Time) bool {
	return missing(item) && m.unreadable.look(item.ID, hinted, func(hinted time.Time, list bool) {
		if !hinted.IsZero() {
			m.hintAgain(item.ID, hinted)
		}
		if list {
			m.List()
		}
	})
}
