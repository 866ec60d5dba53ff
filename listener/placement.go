package listener

// Room at the accounts of an exchange entry, and who waits for some.

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/mail"
)

// grouping is what mailboxes have in common that may share a stream: streams are few where an account has few groupings.
type grouping struct{ url, group string }

func groupingOf(at mail.Location) grouping { return grouping{at.URL, at.Group} }

// seat is the room of one mailbox. The zero seat is none.
type seat struct {
	account *account
	crowd   *crowd
}

// crowd is the mailboxes of one grouping that have a seat: how many at each account.
type crowd struct {
	grouping
	load map[*account]int
}

// seats are the room at the accounts of an entry. A mailbox has one seat, or waits for one. Accounts are filled grouping by grouping; a
// grouping has several accounts only where it does not fit into one. Who has a seat keeps it, for a new one costs a new subscription.
type seats struct {
	size     int // of each account
	stream   int // mailboxes on a stream at most
	accounts []*account

	mu      sync.Mutex // of the mailboxes' seats too
	load    map[*account]int
	crowds  map[grouping]*crowd
	waiting []*mailbox // first in first out; each at most once
}

func newSeats(accounts []*account, size, stream int) *seats {
	return &seats{size: size, stream: stream, accounts: accounts, load: map[*account]int{}, crowds: map[grouping]*crowd{}}
}

// keep gives a mailbox the seat that it had before the start, or that was free at its enrolment; nil: there is no such account, or no room any
// more.
func (s *seats) keep(m *mailbox, had string, g grouping) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.best(had, g)
	if a == nil || a.Name != had {
		return nil
	}
	s.sit(m, a, g)
	return a
}

// take gives a mailbox a seat, preferably at the account that it had; nil: it waits for one.
func (s *seats) take(m *mailbox, had string, g grouping) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := m.room
	switch {
	case at.account != nil && at.crowd.grouping == g:
		return at.account
	case at.account != nil: // it has moved, and is subscribed anew wherever it sits. Others wait only while all accounts are full: then it gets back the seat that it frees
		s.rise(m)
		had = ""
	case slices.Contains(s.waiting, m):
		return nil
	}
	a := s.best(had, g)
	if a == nil {
		s.waiting = append(s.waiting, m)
		return nil
	}
	s.sit(m, a, g)
	return a
}

// leave takes back a mailbox's seat, or ends its wait for one. The seat goes to the mailbox that has waited the longest, which
// it returns; nil: to none.
func (s *seats) leave(m *mailbox) (next *mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(o *mailbox) bool { return o == m })
	at := m.room
	if at.account == nil {
		return nil
	}
	s.rise(m)
	if len(s.waiting) == 0 {
		return nil
	}
	next = s.waiting[0]
	s.waiting = slices.Delete(s.waiting, 0, 1)
	s.sit(next, at.account, grouping{}) // its own is known once it is looked up
	return next
}

// sit gives a mailbox a seat. It is called with mu held.
func (s *seats) sit(m *mailbox, a *account, g grouping) {
	c := s.crowds[g]
	if c == nil {
		c = &crowd{g, map[*account]int{}}
		s.crowds[g] = c
	}
	c.load[a]++
	s.load[a]++
	m.room = seat{a, c}
}

// rise takes back a seat. It is called with mu held.
func (s *seats) rise(m *mailbox) {
	a, c := m.room.account, m.room.crowd
	m.room = seat{}
	s.load[a]--
	c.load[a]--
	if c.load[a] == 0 {
		delete(c.load, a)
	}
	if len(c.load) == 0 {
		delete(s.crowds, c.grouping)
	}
}

// free is the account that a mailbox would be given; nil: there is no room.
func (s *seats) free(had string, g grouping) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.best(had, g)
}

// best is, of the accounts with room, the one that the mailbox had, else the one with the most of its grouping, else the one with the most
// room. Where an account is half full and the grouping would need another stream there, it has that stream at an account with more room, so
// that small groupings find room at theirs for longer. It is called with mu held.
func (s *seats) best(had string, g grouping) *account {
	var best *account
	for _, a := range s.accounts {
		if s.load[a] >= s.size {
			continue
		}
		if a.Name == had {
			return a
		}
		if best == nil || cmp.Or(cmp.Compare(s.draws(a, g), s.draws(best, g)), cmp.Compare(s.load[best], s.load[a])) > 0 {
			best = a
		}
	}
	return best
}

// draws is how strongly an account draws a mailbox of a grouping: by how many of it are there. It is called with mu held.
func (s *seats) draws(a *account, g grouping) int {
	n := 0
	if c := s.crowds[g]; c != nil {
		n = c.load[a]
	}
	switch {
	case n == 0:
		return 0
	case n%s.stream == 0 && 2*s.load[a] >= s.size:
		return -1
	}
	return n
}

// taken is how many mailboxes an account has.
func (s *seats) taken(a *account) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load[a]
}

// queue is how many mailboxes wait.
func (s *seats) queue() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// lowRoom is the part of an entry's places, in hundredths, from which on the room counts as little: time to add an account before mailboxes
// wait.
const lowRoom = 80

// Scarce says that the accounts have little room for mailboxes, or none; nil: they have enough.
func (l Load) Scarce() *fault.Error {
	taken := 0
	for _, a := range l.Accounts {
		taken += a.Mailboxes
	}
	if 100*taken < lowRoom*l.Places || l.Places == 0 {
		return nil
	}
	f := &fault.Error{Op: "location", Code: codeLow, Scope: fault.Mailbox, Remedy: fault.Fix,
		Text: fmt.Sprintf("%d of the %d places at the listener accounts of %s are taken", taken, l.Places, l.Exchange)}
	if taken >= l.Places {
		f.Code = codeNoCapacity
	}
	return f
}

// full is the error of a mailbox that found no room.
func (e *entry) full() *fault.Error {
	text := fmt.Sprintf("every listener account of %s has its %s", e.Name, quantity.Of(e.MailboxesPerAccount, "mailbox", "mailboxes"))
	switch unused := len(e.Accounts) - len(e.accounts); {
	case len(e.accounts) == 0:
		text = fmt.Sprintf("no listener account of %s is used: an instance owns %d at most, and other entries have them", e.Name, MaxAccounts)
	case unused > 0:
		text += fmt.Sprintf("; %s not used, for an instance owns %d at most", quantity.Of(unused, "more is", "more are"), MaxAccounts)
	}
	return &fault.Error{Op: "location", Code: codeNoCapacity, Scope: fault.Mailbox, Remedy: fault.Fix, Text: text}
}
