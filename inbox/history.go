package inbox

// What was decided, for whoever asks why a phone did not ring.

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// maxDecisions is how many decisions are shown of a mailbox.
const maxDecisions = 50

// history is the last decisions about a mailbox.
type history struct {
	mu     sync.Mutex
	list   []subscriptions.Decision // a ring, once there are maxDecisions
	newest int
}

func (h *history) add(d subscriptions.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) < maxDecisions {
		h.list = append(h.list, d)
		h.newest = len(h.list) - 1
		return
	}
	h.newest = (h.newest + 1) % maxDecisions
	h.list[h.newest] = d
}

// all returns the decisions, the newest first.
func (h *history) all() []subscriptions.Decision {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]subscriptions.Decision, 0, len(h.list))
	for i := range h.list {
		list = append(list, h.list[(h.newest+len(h.list)-i)%len(h.list)])
	}
	return list
}

// maxSeen bounds the items of a mailbox that are remembered as dealt with: enough for the notifications of one message, which come within
// seconds.
const maxSeen = 64

// seen remembers the newest items that had their outcome, so that a copy of a message is told from another notification of it.
type seen struct {
	mu    sync.Mutex
	items []uint64 // hashes of their ids; a ring, once there are maxSeen
	next  int
}

// add remembers an item by its hash, and says whether it was known.
func (s *seen) add(h uint64) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.items, h) {
		return true
	}
	if len(s.items) < maxSeen {
		s.items = append(s.items, h)
		return false
	}
	s.items[s.next] = h
	s.next = (s.next + 1) % maxSeen
	return false
}

func (in *Inbox) hash(item string) uint64 { return maphash.String(in.seed, item) }

// duplicate decides about an item that a hint named and whose message has its outcome already. Where it is another item than that one,
// it is a copy, and nobody is alerted of it.
func (m *Mailbox) duplicate(d due) {
	if !m.seen.add(m.in.hash(d.item)) {
		m.decide(subscriptions.Decision{Key: d.key, Outcome: outcome.NotSent, Reason: outcome.Known, Came: d.received, At: time.Now()})
	}
}

// decide keeps decisions and counts them.
func (m *Mailbox) decide(list ...subscriptions.Decision) {
	for _, d := range list {
		m.in.metrics.outcome(d)
		m.history.add(d)
	}
}
