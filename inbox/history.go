package inbox

// What was decided, for whoever asks why a phone did not ring.

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// maxDecisions is how many decisions are shown of a mailbox.
const maxDecisions = 50

// history is the last decisions about a mailbox. With 15,000 mailboxes it is most of what is kept in memory.
type history struct {
	mu     sync.Mutex
	list   []kept // a ring, once there are maxDecisions
	newest int
	ids    []subscriptions.Correlation // of each of list: in it they would take twice their space
}

// kept is a decision in a third of the space: 64 bytes.
type kept struct {
	key    mail.Key
	push   mail.PushID
	at     int64  // Unix microseconds; 0: not known
	came   uint32 // Unix seconds, which is all that Exchange tells; 0: not known
	shown  int32  // milliseconds after at; 0: the phone has not said so
	device unique.Handle[string]
	why    unique.Handle[why]
}

// why is what many decisions have in common.
type why struct {
	outcome outcome.Outcome
	reason  outcome.Reason
	code    string
	status  int
}

func keep(d subscriptions.Decision) kept {
	k := kept{key: d.Key, push: d.PushID, device: unique.Make(d.Device), why: unique.Make(why{d.Outcome, d.Reason, d.Code, d.Status})}
	if !d.At.IsZero() {
		k.at = d.At.UnixMicro()
	}
	if at := d.Came.Unix(); at > 0 && at <= math.MaxUint32 {
		k.came = uint32(at)
	}
	return k
}

func (k kept) decision() subscriptions.Decision {
	w := k.why.Value()
	d := subscriptions.Decision{Key: k.key, PushID: k.push, Device: k.device.Value(), Outcome: w.outcome, Reason: w.reason, Code: w.code, Status: w.status}
	if k.at != 0 {
		d.At = time.UnixMicro(k.at)
	}
	if k.came != 0 {
		d.Came = time.Unix(int64(k.came), 0)
	}
	if k.shown != 0 {
		d.Shown = d.At.Add(time.Duration(k.shown) * time.Millisecond)
	}
	return d
}

// show keeps with the newest accepted alert for a message and a device when the phone showed it. known: there is one; first: nobody said so
// before.
func (h *history) show(key mail.Key, device string, at time.Time) (d subscriptions.Decision, first, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.list {
		n := (h.newest + len(h.list) - i) % len(h.list)
		k := &h.list[n]
		if k.key != key || k.device.Value() != device || k.why.Value().outcome != outcome.Accepted {
			continue
		}
		first = k.shown == 0
		if first {
			k.shown = after(time.UnixMicro(k.at), at)
		}
		return h.at(n), first, true
	}
	return d, false, false
}

// at is one of the decisions. It is called with mu held.
func (h *history) at(i int) subscriptions.Decision {
	d := h.list[i].decision()
	d.Correlation = h.ids[i]
	return d
}

// after are the milliseconds between two times that are days apart at most. They are never 0: the clocks of a phone and of this machine
// differ.
func after(from, to time.Time) int32 {
	ms := to.Sub(from).Milliseconds()
	if ms == 0 {
		return 1
	}
	return int32(min(max(ms, math.MinInt32), math.MaxInt32))
}

func (h *history) add(d subscriptions.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.list)
	if n == maxDecisions {
		h.newest = (h.newest + 1) % maxDecisions
		h.list[h.newest], h.ids[h.newest] = keep(d), d.Correlation
		return
	}
	if n == cap(h.list) { // append would take a quarter more than there will ever be
		room := min(max(2*n, 2), maxDecisions)
		h.list = append(make([]kept, 0, room), h.list...)
		h.ids = append(make([]subscriptions.Correlation, 0, room), h.ids...)
	}
	h.list, h.ids = append(h.list, keep(d)), append(h.ids, d.Correlation)
	h.newest = n
}

// all returns the decisions, the newest first.
func (h *history) all() []subscriptions.Decision {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]subscriptions.Decision, 0, len(h.list))
	for i := range h.list {
		list = append(list, h.at((h.newest+len(h.list)-i)%len(h.list)))
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
		m.decide(subscriptions.Decision{Key: d.key, Outcome: outcome.NotSent, Reason: outcome.Known, Came: d.received, At: time.Now(), Correlation: d.id})
	}
}

// decide keeps decisions and counts them.
func (m *Mailbox) decide(list ...subscriptions.Decision) {
	for _, d := range list {
		m.in.metrics.outcome(d)
		m.history.add(d)
		if m.in.o.Observer != nil {
			m.in.o.Observer.Decided(d)
		}
		if e := m.debug("outcome"); e != nil {
			e.Write(append(m.about(d.Correlation), decided(d)...)...)
		}
	}
}
