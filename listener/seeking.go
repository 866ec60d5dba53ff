package listener

// Who asks for a look-up of a mailbox, and when the next one is made.

import (
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// quest is what is known of a mailbox that is looked for.
type quest struct {
	lost    time.Time // it had a location, and has been looked for since then; zero: it never had one
	asked   []*entry  // the entries of the last look-up, asked or not; nil: there was none yet
	failure failure
}

// failure is that of the last look-up. The zero failure is none.
type failure struct {
	why        *fault.Error
	where      *entry      // which of those that were asked said so; nil: none
	outOfScope bool        // it said so because of mailbox_servers
	times      int         // in a row
	next       time.Time   // the next look-up; zero: it is asked for
	wake       *time.Timer // at next
}

// sought is the quest for the mailbox, which begins where there is none. It is called with mu held.
func (m *mailbox) sought() *quest {
	if m.quest == nil {
		m.quest = &quest{}
	}
	return m.quest
}

// seek asks for a look-up, without further waiting.
func (m *mailbox) seek() {
	m.mu.Lock()
	queue := m.ask()
	m.mu.Unlock()
	if queue {
		m.queue()
	}
}

// ask notes that a look-up is asked for, and says whether the mailbox is to be queued. It is called with mu held.
func (m *mailbox) ask() (queue bool) {
	m.due = true
	m.noBackOff()
	queue = !m.busy && !m.closed
	m.busy = m.busy || queue
	return queue
}

// noBackOff ends the wait for the next look-up. It is called with mu held.
func (m *mailbox) noBackOff() {
	if m.quest == nil {
		return
	}
	f := &m.quest.failure
	f.next = time.Time{}
	if f.wake != nil {
		f.wake.Stop()
		f.wake = nil
	}
}

// queue queues the mailbox for its look-up: at the entry that is asked first, or, where no server has to be asked, at Listener.known.
func (m *mailbox) queue() {
	s := m.search()
	if _, ok := s.settled(); ok {
		m.l.known.add(m)
		return
	}
	s.entries[0].lookups.add(m)
}

// relocate has the mailbox looked up again, for it may live elsewhere than this link leads. It does nothing where that is already asked
// for.
func (m *mailbox) relocate(k *link) {
	m.mu.Lock()
	queue := false
	if m.link == k && !m.doubted {
		m.doubted = true
		m.sought().lose()
		queue = m.ask()
	}
	m.mu.Unlock()
	if queue {
		m.queue()
	}
}

// confirm has the mailbox looked up again, for the server to which this link leads may be gone for good. Until it is found elsewhere it stays
// there, with its subscription: mostly the server comes back. It does nothing where the mailbox is looked up already.
func (m *mailbox) confirm(k *link) {
	m.mu.Lock()
	queue := false
	if m.link == k && !m.busy {
		m.unsure = true
		queue = m.ask()
	}
	m.mu.Unlock()
	if queue {
		m.queue()
	}
}

// lose notes that a mailbox that had a location has none.
func (q *quest) lose() {
	if q.lost.IsZero() {
		q.lost = time.Now()
	}
}

// cover has the mailbox looked up again where other entries are to be asked for it than before, since a device that came or went may have
// pinned it, or where it is to be read by another protocol.
func (m *mailbox) cover() {
	s := m.search()
	m.mu.Lock()
	k := m.link
	others := m.quest != nil && m.quest.asked != nil && !slices.Equal(m.quest.asked, s.entries)
	m.mu.Unlock()
	switch {
	case k != nil && (!slices.Contains(s.entries, k.way.account.entry) || k.at.ReadBy() != s.by(k.way.account.entry)):
		m.relocate(k)
	case k == nil && others: // what it waits for was said by the others
		m.seek()
	}
}

// concerns says whether what is wrong with an account may keep the mailbox from being read, or from being found.
func (m *mailbox) concerns(a *account) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.account == a || m.link == nil && m.quest != nil && slices.Contains(m.quest.asked, a.entry)
}

// retry has what failed tried at once, where the reason fits.
func (m *mailbox) retry(fits func(*fault.Error) bool) {
	m.mu.Lock()
	failing, busy := m.failing(), m.busy
	m.mu.Unlock()
	if busy && failing == nil || failing != nil && fits(failing) { // a look-up under way may be about to fail of it
		m.seek()
	}
	m.work.Retry(fits)
}

// failing is why the last look-up failed; nil: it did not. It is called with mu held.
func (m *mailbox) failing() *fault.Error {
	if m.quest == nil {
		return nil
	}
	return m.quest.failure.why
}
