package inbox

// Messages that cannot be read while their mailbox can (rule 9).

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// readAgain is when a message is tried again: three times within ten minutes.
var readAgain = [...]time.Duration{time.Minute, 5 * time.Minute}

// maxUnreadable bounds the items of a mailbox that are tried again; one more is given up at once.
const maxUnreadable = maxHints

// unreadable counts the tries of items that cannot be read.
type unreadable struct {
	mu     sync.Mutex
	items  map[string]*tries
	closed bool
}

type tries struct {
	n     int
	next  time.Time // a read before does not count
	timer *time.Timer
}

func (t *tries) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// try counts a failed read, unless it came before its time, and has again called when it is time for the next. last: the item is given up.
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
	t.next = time.Now().Add(readAgain[t.n])
	if !u.closed {
		t.timer = time.AfterFunc(readAgain[t.n], again)
	}
	t.n++
	return false, true
}

// forget forgets an item that could be read in the end, or is gone, and says whether it was to be tried again.
func (u *unreadable) forget(item string) (waited bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.items[item]
	if t == nil {
		return false
	}
	t.stop()
	delete(u.items, item)
	return true
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
// hinted again by itself, and the mailbox listed, for no listing is complete without it.
func (m *Mailbox) giveUp(item Item, d due) bool {
	last, counted := m.unreadable.try(item.ID, func() {
		if l := m.link.Load(); l != nil {
			m.marks.hint(item.ID, l.Source(), d.hinted, m.in.correlation()) // nobody told of it: it is no hint in the status
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
