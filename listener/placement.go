package listener

// Room at the accounts of an exchange entry, and who waits for some.

import (
	"fmt"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/internal/fault"
)

// seats are the room at the accounts of an entry. A mailbox has one seat, or waits for one.
type seats struct {
	size     int // of each account
	accounts []*account

	mu      sync.Mutex
	load    map[*account]int
	seated  map[*mailbox]*account
	waiting []*mailbox // first in first out; each at most once
}

func newSeats(accounts []*account, size int) *seats {
	return &seats{size: size, accounts: accounts, load: map[*account]int{}, seated: map[*mailbox]*account{}}
}

// take gives a mailbox a seat, rather at the account that it had; nil: it waits for one.
func (s *seats) take(m *mailbox, had string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.seated[m]; a != nil || slices.Contains(s.waiting, m) {
		return a
	}
	a := s.best(had)
	if a == nil {
		s.waiting = append(s.waiting, m)
		return nil
	}
	s.load[a]++
	s.seated[m] = a
	return a
}

// leave takes back a mailbox's seat, or ends its wait for one. The seat goes to the mailbox that has waited the longest, which
// it returns; nil: to none.
func (s *seats) leave(m *mailbox) (next *mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.seated[m]
	delete(s.seated, m)
	s.waiting = slices.DeleteFunc(s.waiting, func(o *mailbox) bool { return o == m })
	switch {
	case a == nil:
		return nil
	case len(s.waiting) == 0:
		s.load[a]--
		return nil
	}
	next = s.waiting[0]
	s.waiting = slices.Delete(s.waiting, 0, 1)
	s.seated[next] = a
	return next
}

// free is the account that a mailbox would be given; nil: there is no room.
func (s *seats) free(had string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.best(had)
}

// best is the account that the mailbox had, where there is room, else the one with the most. It is called with mu held.
func (s *seats) best(had string) (best *account) {
	for _, a := range s.accounts {
		if s.load[a] >= s.size {
			continue
		}
		if a.Name == had {
			return a
		}
		if best == nil || s.load[a] < s.load[best] {
			best = a
		}
	}
	return best
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

// full is the error of a mailbox that found no room.
func (e *entry) full() *fault.Error {
	return &fault.Error{Op: "location", Code: codeNoCapacity, Scope: fault.Mailbox, Remedy: fault.Fix,
		Text: fmt.Sprintf("every listener account of %s has its %d mailboxes", e.Name, e.MailboxesPerAccount)}
}
