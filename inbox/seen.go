package inbox

// Items that were dealt with: another notification of one is no copy of its message.

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/internal/outcome"
)

// maxSeen bounds the items of a mailbox that are remembered as dealt with: enough for the notifications of some messages, which come within
// seconds.
const maxSeen = 16

// seen remembers the newest items that had their outcome, so that a copy of a message is told from another notification of it.
type seen struct {
	mu    sync.Mutex
	items [maxSeen]uint32 // hashes of their ids, a ring; 0: none
	next  uint8
}

// add remembers an item by its hash, and says whether it was known.
func (s *seen) add(h uint32) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.items[:], h) {
		return true
	}
	s.items[s.next] = h
	s.next = (s.next + 1) % maxSeen
	return false
}

// hash of an item's id, never 0. That another item of sixteen has the same would show one copy less.
func (in *Inbox) hash(item string) uint32 { return uint32(maphash.String(in.seed, item)) | 1 }

// duplicate decides about an item that a hint named and whose message has its outcome already. Where it is another item than that one,
// it is a copy, and nobody is alerted of it.
func (m *Mailbox) duplicate(d due) {
	if !m.seen.add(m.in.hash(d.item)) {
		m.decide(d.notSent("", outcome.Known))
	}
}
