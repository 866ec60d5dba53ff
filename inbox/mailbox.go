package inbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Mailbox is a mailbox at work. Its parts have their own locks, and know nothing of each other.
type Mailbox struct {
	in  *Inbox
	box *subscriptions.Mailbox

	link       atomic.Pointer[attachment] // nil: it cannot be read
	marks      marks
	unreadable unreadable
	flight     flight  // what is being sent
	late       late    // answers that are to be entered
	doubts     doubts  // pushes that were not answered
	waiting    waiting // devices that are behind, and when they catch up
	seen       seen    // items that had their outcome
	last       times
	unwritten  atomic.Pointer[fault.Error] // why a write is tried again; nil: none is
}

// attachment is a link with the lane of its exchange entry.
type attachment struct {
	Link
	lane *lane
}

// times are when things happened last, in Unix nanoseconds; 0: never.
type times struct{ hint, listing, message atomic.Int64 }

func newMailbox(in *Inbox, box *subscriptions.Mailbox) *Mailbox {
	m := &Mailbox{in: in, box: box}
	m.marks.queue, m.marks.polls = m.enqueue, &in.polls
	return m
}

// Hint marks the mailbox: it may have this new item, by the id that a source has for it. at is on our clock.
func (m *Mailbox) Hint(item string, source mail.Source, at time.Time) {
	m.last.hint.Store(at.UnixNano())
	id := m.marks.hint(item, source, at, m.in.correlation())
	m.debug("hint", id, func() []zap.Field { return nil })
}

// List marks the mailbox: anything may have come.
func (m *Mailbox) List() { m.marks.listing() }

// Attach has the mailbox read through a link from now on, and tried at once. Another Exchange has other ids for the same items:
// there the mailbox is listed.
func (m *Mailbox) Attach(l Link) {
	a := &attachment{Link: l, lane: m.in.lane(l.Exchange())}
	if elsewhere(m.link.Swap(a), a) {
		m.unreadable.forgetAll()
	}
	m.marks.attach(a)
	m.waiting.attach()
	m.catchUpSoon()
}

// Detach says that the location of the mailbox is looked up: no turn begins, and no catch-up, until it is attached again.
func (m *Mailbox) Detach() {
	m.marks.detach()
	m.waiting.detach()
}

// unfinished is the pause between two looks whether a mailbox has finished. That is waited for only where two are found to be one.
const unfinished = 100 * time.Millisecond

// Lister returns a page of the Inbox, as Link.List does.
type Lister func(ctx context.Context, p Part) (Page, error)

// Finish ends the work on a mailbox that is detached and is joined to another: it waits until what has begun has ended, and is written.
// Then it lists the Inbox, for the keys of a message in the two records differ. Where this record knows nothing that the other may not,
// there is no need.
func (m *Mailbox) Finish(ctx context.Context, list Lister, other *subscriptions.Mailbox) (twins []subscriptions.Twin, err error) {
	for m.atWork() {
		if !pause.For(ctx, unfinished) {
			return nil, ctx.Err()
		}
	}
	there, here := m.box.Record(), other.Record()
	if !there.Started() || len(there.Outcomes) == 0 && there.Since >= here.Since {
		return nil, nil
	}
	keys := map[mail.Key]mail.Key{} // from those in this record to those in the other
	shown, _, err := m.pages(ctx, m.in.correlation(), func(ctx context.Context, p Part) (Page, error) {
		page, err := list(ctx, p)
		for i := range page.Messages {
			keys[m.key(&page.Messages[i])] = m.in.secret.Key(here.ID, &page.Messages[i])
		}
		return page, err
	})
	here = other.Record()
	for _, s := range shown {
		twins = append(twins, m.twin(s, there, here, keys[s.Key]))
	}
	return twins, err
}

// twin is a message with the keys that it has there, in the record of this mailbox, and here, in the other. A record that has a message
// which could not be read has it under the key of its item (rule 9).
func (m *Mailbox) twin(s shown, there, here *subscriptions.Record, key mail.Key) subscriptions.Twin {
	t := subscriptions.Twin{There: s.Key, Here: key, Received: s.Received}
	if k := m.itemKey(s.item); there.Has(k) {
		t.There = k
	}
	item := m.in.secret.ItemKey(here.ID, s.item)
	if here.Has(item) || t.There != s.Key && !here.Has(t.Here) {
		t.Here = item
	}
	return t
}

// atWork says whether anything of the mailbox is under way. The order matters: turns and catch-ups begin pushes, so pushes are looked at
// last.
func (m *Mailbox) atWork() bool {
	return m.marks.areTaken() || !m.waiting.isOver() || !m.flight.empty()
}

// Retry ends a back-off at once where its reason fits, also the one that a turn under way may be about to begin. Devices that wait because
// the mailbox could not be read wait no longer either.
func (m *Mailbox) Retry(fits func(*fault.Error) bool) {
	if f, _, _ := m.marks.fault(); f == nil || fits(f) {
		m.marks.wake()
		m.releaseSoon()
	}
}

// Removed says that a device was removed. No push to its phone begins any more. One that has begun is not cut off, and its answer is
// entered for the device that has the phone then.
func (m *Mailbox) Removed(device string) { m.waiting.forget(device) }

// Renewed says that a device has another phone from now on: what it waited for was the old one's.
func (m *Mailbox) Renewed(device string) {
	m.waiting.forget(device)
	m.catchUpSoon()
}

// Close ends the work on a mailbox that has no device any more. What is in flight goes on, and the mailbox may be opened again meanwhile.
func (m *Mailbox) Close() {
	m.rest()
	m.in.forget(m)
}

// rest stops the timers: nothing begins any more.
func (m *Mailbox) rest() {
	m.marks.close()
	m.unreadable.close()
	m.waiting.close()
}

// wake takes up the work on a mailbox that was closed, once it is attached.
func (m *Mailbox) wake() {
	m.marks.open()
	m.unreadable.open()
	m.waiting.open()
}

func (m *Mailbox) enqueue(hinted bool) {
	if l := m.link.Load(); l != nil {
		l.lane.queue(m, hinted)
	}
}

// serve is one turn of a worker: it takes the marks, and what could not be done goes back to them. listed is called when the Inbox has
// been listed, if it is.
func (m *Mailbox) serve(ctx context.Context, listed func()) {
	t, ok := m.marks.take()
	if !ok {
		return
	}
	defer m.in.forget(m)
	if t.correlation == 0 {
		t.correlation = m.in.correlation()
	}
	began := time.Now()
	m.debug("reading begins", t.correlation, func() []zap.Field {
		return []zap.Field{zap.Int("hints", len(t.hints)), zap.Bool("listing", t.list), joinedBy(t.joined)}
	})
	err := m.read(ctx, &t, listed)
	m.deliver(ctx)
	m.debug("reading ended", t.correlation, func() []zap.Field { return []zap.Field{zap.Duration("took", time.Since(began)), zap.Error(err)} })
	if err == nil || m.in.stopping.Load() {
		failed, _, _ := m.marks.fault()
		m.marks.done(t, nil)
		if failed != nil { // devices do not wait any longer for that either
			m.releaseSoon()
		}
		return
	}
	f := fault.Of(err)
	first, next := m.marks.done(t, f)
	if first && f.Scope <= fault.Mailbox { // what concerns more is logged once, by the account or the stream
		m.in.log.Warn("a mailbox cannot be read", append(m.about(t.correlation), zap.Time("next_try", next), zap.Error(err))...)
	}
}

// read does what the marks ask for: the items that hints named, and then a listing where one is due.
func (m *Mailbox) read(ctx context.Context, t *turn, listed func()) error {
	unbelieved, err := m.readHints(ctx, t.correlation, t.link, &t.hints)
	if err != nil {
		return err
	}
	if !t.list && len(unbelieved) == 0 && !m.box.Record().Crowded(time.Now()) {
		return nil
	}
	t.list = true
	return m.listInbox(ctx, t, unbelieved, listed)
}

func (m *Mailbox) address() string { return m.box.Record().Addresses[0] }

func (m *Mailbox) key(msg *mail.Message) mail.Key { return m.in.secret.Key(m.box.Record().ID, msg) }

func (m *Mailbox) itemKey(item string) mail.Key { return m.in.secret.ItemKey(m.box.Record().ID, item) }

// writeAgain is the pause between two tries of a write. It does not grow: what was accepted is to be written as soon as it can be, and
// all that waits is tried in one commit.
const writeAgain = 300 * time.Millisecond

// write makes a change durable for which alerts were accepted: it is tried until it is written, or the process is told to end, or it never
// can be, because the mailbox has no device any more or another instance has taken the state over.
func (m *Mailbox) write(ctx context.Context, change func(d *subscriptions.Draft)) error {
	defer m.unwritten.Store(nil)
	for logged := false; ; logged = true {
		err := m.box.Update(ctx, change)
		if err == nil || errors.Is(err, subscriptions.ErrNoMailbox) || errors.Is(err, subscriptions.ErrFollowed) || ctx.Err() != nil {
			return err
		}
		if !logged {
			m.in.log.Error("the state cannot be written; it is tried until it is", zap.String("mailbox", m.address()), zap.Error(err))
		}
		m.unwritten.Store(fault.Of(subscriptions.Unwritable(err)))
		pause.For(ctx, writeAgain)
	}
}

// writable says whether the outcome of what is sent now could be written. If not, it would be sent again, so nothing is sent.
func (m *Mailbox) writable(ctx context.Context) error {
	err := m.box.Writable(ctx)
	if err == nil || errors.Is(err, subscriptions.ErrNoMailbox) {
		return err
	}
	return subscriptions.Unwritable(err)
}
