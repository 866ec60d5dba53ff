package inbox

// What was decided, for whoever asks why a phone did not ring.

import (
	"encoding/binary"
	"iter"
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

// history is the last decisions about a mailbox. With 15,000 mailboxes it is most of what is kept in memory. So they are bytes, one decision
// after the other, in a sixth of the space of the values, and the garbage collector has nothing to follow in them.
type history struct {
	mu     sync.Mutex
	packed []byte // the oldest first
	count  int
	began  int64   // Unix milliseconds: times in packed are told from here
	phones []phone // packed has the places of these
	whys   []unique.Handle[why]
}

// phone is an enrolment with the phone that it had.
type phone struct{ device, token, topic string }

// why is what many decisions have in common.
type why struct {
	outcome outcome.Outcome
	reason  outcome.Reason
	code    string
	status  int
}

// kept is a decision as it is packed.
type kept struct {
	subscriptions.Decision
	phone phone
	own   bool // its apns-id is the one that follows from key and phone, and is not packed: mail.Secret.PushID
}

// What a packed decision has beside its key, its places and its correlation. That is its first byte, and they follow in this order.
const (
	hasOwn    = 1 << iota
	hasPushID // 16 bytes
	hasAt     // milliseconds
	hasCame   // seconds before that
	hasShown  // milliseconds after it
)

const (
	// mostPlaces is the phones, and the reasons, of which the history has places: half of them are of decisions that are forgotten, at least.
	// A place is a byte.
	mostPlaces = 2 * maxDecisions
	// roomForMore is what packed grows by where it is full: eight decisions. To double it would leave a third of it empty.
	roomForMore = 256
	// mostPacked is the bytes of a decision whose times are years apart.
	mostPacked = 72
)

// add keeps a decision. to is the phone of its device now, where it has one.
func (h *history) add(secret mail.Secret, d subscriptions.Decision, to phone) {
	k := kept{Decision: d, phone: to}
	k.own = d.PushID != mail.PushID{} && d.PushID == secret.PushID(d.Key, to.token, to.topic)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count == maxDecisions {
		_, size := h.unpack(h.packed)
		h.packed = slices.Delete(h.packed, 0, size)
		h.count--
	}
	h.pack(k)
	if max(len(h.phones), len(h.whys)) > mostPlaces {
		h.rewrite(func(int, *kept) {})
	}
}

// pack writes a decision behind the others. It is called with mu held.
func (h *history) pack(k kept) {
	if h.count == 0 {
		h.began = k.At.UnixMilli()
	}
	var has byte
	b := append(append(make([]byte, 0, mostPacked), has), k.Key[:]...)
	switch {
	case k.own:
		has |= hasOwn
	case k.PushID != mail.PushID{}:
		has |= hasPushID
		b = append(b, k.PushID[:]...)
	}
	b = append(b, place(&h.phones, k.phone), place(&h.whys, unique.Make(why{k.Outcome, k.Reason, k.Code, k.Status})))
	at := h.began
	if !k.At.IsZero() {
		has |= hasAt
		at = k.At.UnixMilli()
		b = binary.AppendVarint(b, at-h.began)
	}
	if !k.Came.IsZero() {
		has |= hasCame
		b = binary.AppendVarint(b, at/1000-k.Came.Unix()) // Exchange tells no more than seconds
	}
	if !k.Shown.IsZero() {
		has |= hasShown
		b = binary.AppendVarint(b, k.Shown.UnixMilli()-at)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(k.Correlation))
	b[0] = has
	if cap(h.packed)-len(h.packed) < len(b) {
		h.packed = append(make([]byte, 0, len(h.packed)+roomForMore), h.packed...)
	}
	h.packed = append(h.packed, b...)
	h.count++
}

// place is where a list has a value, which it gets where it does not have it yet.
func place[T comparable](list *[]T, v T) byte {
	i := slices.Index(*list, v)
	if i < 0 {
		i = len(*list)
		*list = append(slices.Clip(*list), v) // nearly always it is the only one
	}
	return byte(i)
}

// unpack reads the first decision of b, and how many bytes it has. It is called with mu held.
func (h *history) unpack(b []byte) (k kept, size int) {
	has := b[0]
	size = 1 + copy(k.Key[:], b[1:])
	k.own = has&hasOwn != 0
	if has&hasPushID != 0 {
		size += copy(k.PushID[:], b[size:])
	}
	k.phone = h.phones[b[size]]
	w := h.whys[b[size+1]].Value()
	size += 2
	k.Device, k.Outcome, k.Reason, k.Code, k.Status = k.phone.device, w.outcome, w.reason, w.code, w.status
	next := func(what byte) int64 {
		if has&what == 0 {
			return 0
		}
		v, n := binary.Varint(b[size:])
		size += n
		return v
	}
	at := h.began + next(hasAt)
	came, shown := at/1000-next(hasCame), at+next(hasShown)
	if has&hasAt != 0 {
		k.At = time.UnixMilli(at)
	}
	if has&hasCame != 0 {
		k.Came = time.Unix(came, 0)
	}
	if has&hasShown != 0 {
		k.Shown = time.UnixMilli(shown)
	}
	k.Correlation = subscriptions.Correlation(binary.LittleEndian.Uint32(b[size:]))
	return k, size + 4
}

// unpacked are the decisions, the oldest first. It is called with mu held.
func (h *history) unpacked() iter.Seq2[int, kept] {
	return func(yield func(int, kept) bool) {
		i := 0
		for b := h.packed; len(b) > 0; i++ {
			k, size := h.unpack(b)
			if !yield(i, k) {
				return
			}
			b = b[size:]
		}
	}
}

// rewrite packs the decisions anew, as they are changed. It is called with mu held.
func (h *history) rewrite(change func(i int, k *kept)) {
	var anew history
	for i, k := range h.unpacked() {
		change(i, &k)
		anew.pack(k)
	}
	h.packed, h.began, h.phones, h.whys = anew.packed, anew.began, anew.phones, anew.whys
}

// decision is what was kept, with its apns-id.
func (k kept) decision(secret mail.Secret) subscriptions.Decision {
	if k.own {
		k.PushID = secret.PushID(k.Key, k.phone.token, k.phone.topic)
	}
	return k.Decision
}

// show keeps with the newest accepted alert for a message and a device when the phone showed it. known: there is one; first: nobody said so
// before.
func (h *history) show(secret mail.Secret, key mail.Key, device string, at time.Time) (d subscriptions.Decision, first, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	newest := -1
	for i, k := range h.unpacked() {
		if k.Key == key && k.Device == device && k.Outcome == outcome.Accepted {
			newest, d = i, k.decision(secret)
		}
	}
	if newest < 0 || !d.Shown.IsZero() {
		return d, false, newest >= 0
	}
	h.rewrite(func(i int, k *kept) {
		if i == newest {
			k.Shown = at
		}
	})
	d.Shown = at
	return d, true, true
}

// all returns the decisions, the newest first.
func (h *history) all(secret mail.Secret) []subscriptions.Decision {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]subscriptions.Decision, 0, h.count)
	for _, k := range h.unpacked() {
		list = append(list, k.decision(secret))
	}
	slices.Reverse(list)
	return list
}

// decide keeps decisions and counts them.
func (m *Mailbox) decide(list ...subscriptions.Decision) {
	for _, d := range list {
		m.in.metrics.outcome(d)
		m.history.add(m.in.secret, d, m.phone(d.Device))
		if m.in.o.Observer != nil {
			m.in.o.Observer.Decided(d)
		}
		if e := m.debug("outcome"); e != nil {
			e.Write(append(m.about(d.Correlation), decided(d)...)...)
		}
	}
}

// phone is the one that a device has now.
func (m *Mailbox) phone(device string) phone {
	if d, ok := m.box.Device(device); ok {
		return phone{d.ID, d.Token, d.Topic}
	}
	return phone{device: device}
}
