package subscriptions

// What was decided about a mailbox, for whoever asks why a phone got no alert. It stands in the store beside the record, so that a restart
// forgets nothing, and is read when somebody asks: in memory is only what no write has taken along yet.

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// MaxDecisions is how many decisions are kept of a mailbox.
const MaxDecisions = 50

// Decided are the decisions about the mailbox of a record that a write adds or replaces. Where there is no such record, it does neither.
type Decided struct {
	Record    string
	Decisions []DecisionPut
}

// DecisionPut adds a decision, or replaces one.
type DecisionPut struct {
	Was []byte // the one to replace, which differs from Is; where it is not there any more, nothing is put. nil: Is is added
	Is  []byte
}

// On returns the decisions, the oldest first, as they are after the write. Each stands there once: a write that hung is tried again and
// again, and may have been made each time.
func (d Decided) On(list [][]byte) [][]byte {
	at := func(decision []byte) int {
		return slices.IndexFunc(list, func(o []byte) bool { return bytes.Equal(o, decision) })
	}
	for _, p := range d.Decisions {
		is := at(p.Is)
		if p.Was == nil {
			if is < 0 {
				list = append(list, p.Is)
			}
			continue
		}
		if was := at(p.Was); was >= 0 {
			list[was] = p.Is
			if is >= 0 {
				is = at(p.Is)
				list = slices.Delete(list, is, is+1)
			}
		}
	}
	return list[max(0, len(list)-MaxDecisions):]
}

// undelivered is the decisions that are not in the store yet, the oldest first.
type undelivered struct {
	mu    sync.Mutex
	list  [][]byte // never changed, but replaced or added to: a write holds the beginning of it
	taken int      // so many of the first are in the write under way
	early []early  // the oldest first, at most MaxDecisions
}

// early is a receipt that may have come before the decision that it belongs to: a phone may show an alert before APNs' answer is here.
type early struct {
	key    mail.Key
	device string
	at     time.Time
}

// expect keeps a receipt for the next decision that says that its alert was accepted, unless the phone showed the alert too long ago for
// the answer of APNs to be under way. It reports whether it does.
func (u *undelivered) expect(e early) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	isOver := func(e early) bool { return time.Since(e.at) > mail.Tolerance }
	u.early = slices.DeleteFunc(u.early, isOver)
	switch {
	case isOver(e):
		return false
	case u.at(e.key, e.device) < 0: // else a receipt of the alert is kept already
		u.early = append(u.early[max(0, len(u.early)+1-MaxDecisions):], e)
	}
	return true
}

// at is the place of a receipt that is kept; below 0: there is none. The mutex is held.
func (u *undelivered) at(key mail.Key, device string) int {
	return slices.IndexFunc(u.early, func(e early) bool { return e.key == key && e.device == device })
}

// takeBack takes out a receipt that is kept, and returns when the phone showed the alert; zero: none is kept, or a decision has taken it
// along.
func (u *undelivered) takeBack(key mail.Key, device string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.takeBackLocked(key, device)
}

func (u *undelivered) takeBackLocked(key mail.Key, device string) time.Time {
	i := u.at(key, device)
	if i < 0 {
		return time.Time{}
	}
	at := u.early[i].at
	u.early = slices.Delete(u.early, i, i+1)
	if len(u.early) == 0 {
		u.early = nil
	}
	return at
}

// add keeps a decision until a write takes it along. While none can be written, the oldest go.
func (u *undelivered) add(d Decision) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if d.Outcome == outcome.Accepted {
		d.Shown = u.takeBackLocked(d.Key, d.Device)
	}
	u.list = append(u.list, d.pack())
	if len(u.list) > MaxDecisions {
		u.list = slices.Clone(u.list[1:])
		u.taken = max(0, u.taken-1)
	}
}

// take returns what a write takes along. One write at a time does.
func (u *undelivered) take() []DecisionPut {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken = len(u.list)
	return added(u.list)
}

// added says of decisions that they are new.
func added(list [][]byte) []DecisionPut {
	puts := make([]DecisionPut, len(list))
	for i, d := range list {
		puts[i].Is = d
	}
	return puts
}

// written says that what was taken is in the store.
func (u *undelivered) written() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = u.list[u.taken:]
	if len(u.list) == 0 {
		u.list = nil // most mailboxes have nothing here, most of the time
	}
	u.taken = 0
}

func (u *undelivered) empty() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.list) == 0
}

// all returns what is not known to be in the store.
func (u *undelivered) all() [][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.list)
}

// replace puts a decision where another stands, if it is here.
func (u *undelivered) replace(was, is []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.IndexFunc(u.list, func(d []byte) bool { return bytes.Equal(d, was) }); i >= 0 {
		u.list = slices.Clone(u.list)
		u.list[i] = is
	}
}

// Decide keeps what was decided about the mailbox. The next write of its record takes it along.
func (m *Mailbox) Decide(d Decision) { m.undelivered.add(d) }

// Deliver writes what was decided and has not been written with the record.
func (m *Mailbox) Deliver(ctx context.Context) error {
	if m.undelivered.empty() {
		return nil
	}
	if err := m.writing.take(ctx); err != nil {
		return err
	}
	defer m.writing.giveBack()
	if m.gone {
		return ErrNoMailbox
	}
	return m.deliver(ctx)
}

// deliver writes decisions that replace others, and those that are undelivered. The caller holds writing.
func (m *Mailbox) deliver(ctx context.Context, replaced ...DecisionPut) error {
	puts := append(replaced, m.undelivered.take()...)
	if len(puts) == 0 {
		return nil
	}
	// Not by Book.write: a store may take decisions and write them later, so that says nothing about writing records (Writable).
	if err := m.book.store.Write(ctx, Change{Decided: Decided{m.Record().ID, puts}}); err != nil {
		return err
	}
	m.undelivered.written()
	return nil
}

// Decisions are the last ones about the mailbox, the newest first. Where the store cannot be read, they are those that it does not have
// yet, and an error.
func (m *Mailbox) Decisions(ctx context.Context) ([]Decision, error) {
	packed, err := m.decisions(ctx)
	list := make([]Decision, 0, len(packed))
	for _, p := range slices.Backward(packed) {
		if d, err := unpackDecision(p); err == nil { // else a newer mailbell wrote it
			list = append(list, d)
		}
	}
	return list, err
}

// decisions are those of the store and those that it is not known to have, the oldest first, each of them once.
func (m *Mailbox) decisions(ctx context.Context) ([][]byte, error) {
	mine := m.undelivered.all() // before the store is asked: what is written meanwhile is here, or there
	all, err := m.book.store.Decisions(ctx, m.Record().ID)
	if err != nil {
		err = fmt.Errorf("the state cannot be read: %w", err)
	}
	return Decided{Decisions: added(append(all, mine...))}.On(nil), err
}

// Shown notes when a phone showed the alert for a message, in the newest decision that says that it was accepted for the device. known:
// there is such a decision; first: no receipt of it came before. Where there is none, the answer of APNs may be under way: the receipt is
// kept in memory for some minutes, for the decision about that answer.
func (m *Mailbox) Shown(ctx context.Context, key mail.Key, device string, at time.Time) (d Decision, first, known bool, err error) {
	record := m.Record().ID
	if err := m.book.ofReceipt.take(ctx, record); err != nil {
		return d, false, false, err
	}
	defer m.book.ofReceipt.giveBack(record)
	isExpected := m.undelivered.expect(early{key, device, at}) // before the decision is looked for, which may be made meanwhile
	all, err := m.decisions(ctx)
	if err != nil {
		m.undelivered.takeBack(key, device) // the phone sends the receipt again
		return d, false, false, err
	}
	was, d := newestAccepted(all, key, device)
	if was == nil {
		return d, false, false, nil
	}
	wasTaken := m.undelivered.takeBack(key, device).IsZero() && isExpected // by the decision, made since
	if !d.Shown.IsZero() {
		return d, wasTaken, true, nil
	}
	if err := m.writing.take(ctx); err != nil { // not before: an outcome must not wait for what is read
		return d, false, false, err
	}
	defer m.writing.giveBack()
	if m.gone {
		return d, false, false, nil
	}
	d.Shown = at
	is := d.pack()
	m.undelivered.replace(was, is)
	return d, true, true, m.deliver(ctx, DecisionPut{Was: was, Is: is}) // with an error too: that write may have been made
}

// newestAccepted finds the newest decision that says that an alert was accepted for a device; nil: there is none.
func newestAccepted(list [][]byte, key mail.Key, device string) ([]byte, Decision) {
	for _, p := range slices.Backward(list) {
		d, err := unpackDecision(p)
		if err == nil && d.Key == key && d.Device == device && d.Outcome == outcome.Accepted {
			return p, d
		}
	}
	return nil, Decision{}
}
