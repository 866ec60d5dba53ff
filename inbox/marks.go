package inbox

// The marks of a mailbox (rule 7): what came since a worker last took them, and whose turn it is.

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/agenda"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// maxHints bounds the items that a mailbox remembers from hints: beyond it a listing is cheaper.
const maxHints = 64

// hints are items that a source told of, each once, and when it did: maxHints and a few more at most, and nearly always one.
type hints []hint

type hint struct {
	item string
	at   time.Time
}

// find returns the place of an item, and -1 where it is not among them.
func (h hints) find(item string) int {
	return slices.IndexFunc(h, func(o hint) bool { return o.item == item })
}

// at is when an item was hinted; zero: it was not.
func (h hints) at(item string) time.Time {
	if i := h.find(item); i >= 0 {
		return h[i].at
	}
	return time.Time{}
}

// put adds an item, or changes when it was hinted.
func (h *hints) put(o hint) {
	if i := h.find(o.item); i >= 0 {
		(*h)[i] = o
		return
	}
	*h = append(*h, o)
}

// drop takes an item out.
func (h *hints) drop(item string) {
	if i := h.find(item); i >= 0 {
		*h = slices.Delete(*h, i, i+1)
	}
}

// ids of the items, in the order in which they were hinted.
func (h hints) ids() []string {
	slices.SortFunc(h, func(a, b hint) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.item, b.item)) })
	ids := make([]string, len(h))
	for i, o := range h {
		ids[i] = o.item
	}
	return ids
}

// marks of one mailbox. A mailbox is marked while it has a hint or is to be listed. At most one worker has it at a time.
type marks struct {
	queue        func(hinted bool) // gives the mailbox to a worker; hinted: it has new mail
	polls        *polls
	agenda.Entry // its safety poll, in the agenda of polls and guarded by its lock

	mu      sync.Mutex
	hints   hints
	link    *attachment // by which it is read, and whose item ids the hints have; nil: it was never attached
	failure *failure    // of the last turn; nil: it did not fail

	correlation subscriptions.Correlation // of the hints, and of what a turn gave back; 0: there are none
	joined      subscriptions.Correlation // of hints that came during a turn that failed: they go on under the correlation of that turn

	list     bool // anything may have come
	listed   bool // a complete listing was done since it was last marked for one
	attached bool // it can be read now
	closed   bool

	turn  turnState
	woken bool // the back-off was ended during the turn under way: where that fails, its reason may be over by now, so it does not back off
}

// turnState is where a mailbox is on its way to a worker and back.
type turnState uint8

const (
	idle         turnState = iota
	queuedToList           // it waits for a worker, and only to be listed
	queuedHinted           // it waits with new mail, before those that are only to be listed
	underWay               // a worker has it
)

// failure is that of a turn.
type failure struct {
	why       *fault.Error
	times     int         // in a row
	notBefore time.Time   // the end of the back-off
	retry     *time.Timer // at notBefore
}

// turn is the marks that a worker has taken, with the link that they are for. It gives them back as far as it could not serve them.
type turn struct {
	link  *attachment
	hints hints
	list  bool

	correlation, joined subscriptions.Correlation
}

// change changes the marks, and queues the mailbox where that makes it due.
func (m *marks) change(change func()) {
	m.mu.Lock()
	change()
	queue, hinted := m.due(), len(m.hints) > 0
	switch {
	case queue && hinted:
		m.turn = queuedHinted
	case queue:
		m.turn = queuedToList
	}
	m.mu.Unlock()
	if queue {
		m.queue(hinted)
	}
}

// due says whether the mailbox is to be queued now.
func (m *marks) due() bool {
	marked := m.list || len(m.hints) > 0
	switch {
	case !marked || !m.attached || m.closed:
		return false
	case m.turn == queuedToList: // with new mail by now, it is queued for that as well; the later of its turns then finds nothing (take)
		return len(m.hints) > 0
	}
	return m.turn == idle && (m.failure == nil || !m.failure.waits(m.wake))
}

// waits says whether the back-off has not ended yet, and has wake called when it has.
func (f *failure) waits(wake func()) bool {
	wait := time.Until(f.notBefore)
	if wait > 0 && f.retry == nil {
		f.retry = time.AfterFunc(wait, wake)
	}
	return wait > 0
}

// hint marks the mailbox: it may have this new item. It returns the id of the work on it: the offered one, unless there is one already.
func (m *marks) hint(item string, source mail.Source, at time.Time, offered subscriptions.Correlation) (id subscriptions.Correlation) {
	m.change(func() {
		if m.correlation == 0 {
			m.correlation = offered
		}
		id = m.correlation
		switch {
		case m.link != nil && m.link.Source() != source: // the link does not know this id
			m.list, m.listed = true, false
		case m.hints.find(item) >= 0:
		case len(m.hints) >= maxHints:
			m.list = true
		default:
			m.hints.put(hint{item, at})
		}
	})
	return id
}

// listing marks the mailbox: anything may have come.
func (m *marks) listing() {
	m.change(func() { m.list, m.listed = true, false })
}

// attach says that the mailbox can be read by a link from now on, and tried at once. Another Exchange has other item ids, and so has another
// source.
func (m *marks) attach(l *attachment) {
	m.change(func() {
		if elsewhere(m.link, l) {
			m.hints = nil
			m.list, m.listed = true, false
		}
		m.link, m.attached = l, true
		m.noBackOff()
	})
}

// elsewhere says whether the item ids of one link mean nothing to another.
func elsewhere(a, b *attachment) bool {
	return a != nil && b != nil && (a.Exchange() != b.Exchange() || a.Source() != b.Source())
}

// detach says that the mailbox cannot be read until it is attached again.
func (m *marks) detach() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached = false
	m.noBackOff()
}

// wake ends a back-off, also the one that a turn under way is about to begin.
func (m *marks) wake() {
	m.change(m.noBackOff)
}

func (m *marks) noBackOff() {
	m.woken = m.turn == underWay
	if m.failure != nil {
		m.failure.notBefore = time.Time{}
		m.stopRetry()
	}
}

func (m *marks) stopRetry() {
	if m.failure != nil && m.failure.retry != nil {
		m.failure.retry.Stop()
		m.failure.retry = nil
	}
}

// take begins a turn. false: there is none, for it was taken already, or the mailbox cannot be read now.
func (m *marks) take() (turn, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn != queuedToList && m.turn != queuedHinted { // it was queued twice, and that turn was taken already
		return turn{}, false
	}
	t := turn{link: m.link, hints: m.hints, list: m.list, correlation: m.correlation, joined: m.joined}
	m.turn, m.woken = idle, false
	if m.closed || !m.attached {
		return turn{}, false
	}
	m.hints, m.list = nil, false
	m.correlation, m.joined = 0, 0
	m.turn = underWay
	m.stopRetry() // this turn is what it was for
	return t, true
}

// takeHints takes the hints that came while a turn by a link is under way, with their correlation.
func (m *marks) takeHints(l *attachment) (taken hints, id subscriptions.Correlation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link != l {
		return nil, 0
	}
	taken, id = m.hints, m.correlation
	m.hints, m.correlation = nil, 0
	return taken, id
}

// giveBack returns marks that could not be dealt with.
func (m *marks) giveBack(t turn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merge(t)
}

// merge joins the marks that a turn gives back with those that came meanwhile. It is called with mu held.
func (m *marks) merge(t turn) {
	if elsewhere(t.link, m.link) { // it has moved meanwhile
		t.hints, t.list = nil, true
	}
	m.list = m.list || t.list
	if t.list || len(t.hints) > 0 {
		if m.correlation != 0 {
			m.joined = m.correlation
		}
		m.correlation = t.correlation
	}
	for _, o := range m.hints {
		t.hints.put(o)
	}
	m.hints = t.hints
	if len(m.hints) > maxHints {
		m.hints, m.list = nil, true
	}
	if m.list {
		m.listed = false
	}
}

// done ends a turn, and sets the back-off where it failed. It says whether it is the first failure in a row, and when the next try is.
func (m *marks) done(t turn, f *fault.Error) (first bool, next time.Time) {
	m.change(func() {
		m.turn = idle
		before := m.failure
		m.failure = nil
		if f == nil {
			return
		}
		m.merge(t)
		m.failure = &failure{why: f, times: 1, notBefore: time.Now()}
		if before != nil {
			m.failure.times += before.times
		}
		if !m.woken {
			m.failure.notBefore = m.failure.notBefore.Add(f.Pause(m.failure.times))
		}
		first, next = before == nil, m.failure.notBefore
	})
	return first, next
}

// completed notes a complete listing, and plans the next after poll at the latest.
func (m *marks) completed(poll time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed = !m.list
	if !m.closed {
		m.polls.plan(m, poll)
	}
}

// close has nothing queued any more.
func (m *marks) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.stopRetry()
	m.polls.forget(m)
}

// open takes marks again.
func (m *marks) open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		m.closed, m.attached = false, false
	}
}

func (m *marks) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// areTaken says that a worker has the mailbox.
func (m *marks) areTaken() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.turn == underWay
}

// fault of the last turn and when the next one is, and whether a complete listing was done since the mailbox was last marked for one.
func (m *marks) fault() (failing *fault.Error, next time.Time, listed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		failing, next = m.failure.why, m.failure.notBefore
	}
	return failing, next, m.listed
}
