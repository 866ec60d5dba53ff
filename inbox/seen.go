package inbox

// Items that were dealt with. A notification of another item with the same message tells of a copy; one of the same item does not.

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/internal/outcome"
)

// maxSeen bounds the items of a mailbox that are remembered as dealt with: enough for the notifications of some messages, which come within
// seconds.
const maxSeen = 16

// seen remembers the newest items that have their outcome.
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

// hash of an item's id, never 0. Where another of the sixteen items has the same hash, the decision about one copy is missing.
func (in *Inbox) hash(item string) uint32 { return uint32(maphash.String(in.seed, item)) | 1 }

// duplicate decides about an item whose message has its outcome already. If it is another item than the one that had it, it is a copy, and
// leads to no alert.
func (m *Mailbox) duplicate(d due) {
	if !m.seen.add(m.in.hash(d.item)) {
		m.decide(d.notSent("", outcome.Known))
	}
}
