package subscriptions

// Devices come and go. Enrolments of different devices in different mailboxes are written together; what concerns one device, or one
// mailbox, is written in turn.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mailbell/mailbell/mail"
)

// Enrolled says what an enrolment did.
type Enrolled struct {
	Device  Device
	Created bool
	Mailbox *Mailbox
	Left    *Mailbox // the mailbox that the device had before, where it is another; its place there is gone
	Ousted  []string // the id that the same token, topic and mailbox had before
	Renewed bool     // it had another token or topic in this mailbox
}

// Precondition says why a device is not to be changed as it is; nil: it may be. It is asked while nobody else can change the device, up to
// the end of the write; and the state is this process's own. known: the device is enrolled.
type Precondition func(d Device, known bool) error

// FieldError says that an enrolment cannot be taken because of one of its fields. The API answers it with 422.
type FieldError struct {
	Field  string // as the API names it: mailbox, token, topic
	Code   string // stable, for programs: not_covered, too_many_devices
	Detail string // for people
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Detail }

// Enrol makes an enrolment or changes one (DESIGN section 4): a changed token keeps its place, a changed mailbox starts anew,
// and the same token, topic and mailbox under another id takes over. since is now on the server's clock less the tolerance (rule
// 5); zero where that clock is not known yet. A mailbox that is asleep is woken, with its log.
func (b *Book) Enrol(ctx context.Context, e Enrolment, now, since time.Time) (Enrolled, error) {
	return b.EnrolIf(ctx, e, nil, Beginning{Now: now, Since: since})
}

// EnrolIf is Enrol with a precondition; nil: none.
func (b *Book) EnrolIf(ctx context.Context, e Enrolment, only Precondition, at Beginning) (Enrolled, error) {
	if err := b.ofDevice.take(ctx, e.ID); err != nil {
		return Enrolled{}, err
	}
	defer b.ofDevice.giveBack(e.ID)
	if err := b.ofAddress.take(ctx, e.Mailbox); err != nil { // a new address gets one mailbox
		return Enrolled{}, err
	}
	defer b.ofAddress.giveBack(e.Mailbox)
	oneText(&e.ID, &e.Mailbox, &e.Token, &e.Label, &e.ReceiptKey) // not parts of the request, which need not stay
	for {
		enrolled, err := b.enrol(ctx, e, only, at)
		if !errors.Is(err, ErrNoMailbox) { // else a mailbox went, or was joined to another, meanwhile
			return enrolled, err
		}
	}
}

// enrol is EnrolIf, whose turns the caller has. ErrNoMailbox says that the device or its mailbox is elsewhere by now.
func (b *Book) enrol(ctx context.Context, e Enrolment, only Precondition, at Beginning) (Enrolled, error) {
	m := b.at(e.Mailbox)
	fresh := m == nil
	if fresh {
		m = b.newMailbox(e.Mailbox, at)
	}
	old, known := b.Device(e.ID)
	done := Enrolled{Mailbox: m}
	if known && old.Record != m.Record().ID { // a changed mailbox: the device leaves the one it had, in the same write
		if err := b.moving.take(ctx); err != nil {
			return Enrolled{}, err
		}
		defer b.moving.giveBack()
		var err error
		if done.Left, err = b.take(ctx, old); err != nil {
			return Enrolled{}, err
		}
		defer done.Left.writing.giveBack()
	}
	if err := m.writing.take(ctx); err != nil {
		return Enrolled{}, err
	}
	defer m.writing.giveBack()
	if m.gone {
		return Enrolled{}, ErrNoMailbox
	}
	was := &Device{} // as it is now that nobody else changes it
	if known {
		if d, ok := cmp.Or(done.Left, m).Device(e.ID); ok {
			was = d
		} else {
			known = false // another id with its phone has taken it over meanwhile
		}
	}
	if only != nil {
		if err := only(*was, known); err != nil {
			return Enrolled{}, err
		}
	}
	var change Change
	var left *snapshot
	if done.Left != nil {
		change, left = leave(done.Left, was)
	}
	done.Created = !known
	d := e.device(m.Record().ID, at)
	done.Renewed = known && done.Left == nil && was.Phone().Line() != d.Phone().Line()
	r, devices, ousted := m.enter(d)
	if len(devices) > MaxDevices {
		return Enrolled{}, &FieldError{Field: "mailbox", Code: "too_many_devices",
			Detail: fmt.Sprintf("the mailbox has %d devices already, which is the most", MaxDevices)}
	}
	if r != m.Record() || fresh {
		change.Put = append(change.Put, r)
	}
	change.PutDevices = []*Device{d}
	for _, o := range ousted {
		done.Ousted = append(done.Ousted, o.ID)
	}
	change.DropDevices = append(change.DropDevices, ousted...)
	if err := b.write(ctx, change); err != nil {
		b.unsure(e.Mailbox, r.ID)
		return Enrolled{}, err
	}
	if done.Left != nil {
		done.Left.now.Store(left)
	}
	b.showEnrolled(d, ousted)
	b.show(m, r, devices)
	done.Device = *d
	return done, nil
}

// device is what an enrolment makes, in a record.
func (e Enrolment) device(record string, at Beginning) *Device {
	d := &Device{
		ID: e.ID, Mailbox: e.Mailbox, Token: e.Token, Topic: e.Topic, Environment: e.Environment, Exchange: e.Exchange, Label: e.Label, ReceiptKey: e.ReceiptKey,
		Record: record, Created: at.Now, Since: at.Since, Enrolled: at.Now,
	}
	d.share()
	return d
}

// showEnrolled publishes a device that is written, in the place of those that it has ousted.
func (b *Book) showEnrolled(d *Device, ousted []*Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.unsureIDs, d.Mailbox)
	for _, o := range ousted {
		delete(b.devices, o.ID)
	}
	if b.devices[d.ID] == nil || len(ousted) > 0 {
		b.sorted = nil
	}
	b.devices[d.ID] = d
}

// newMailbox is one that nobody sees before it is written.
func (b *Book) newMailbox(address string, at Beginning) *Mailbox {
	m := &Mailbox{book: b}
	r := &Record{ID: b.recordID(address), Addresses: []string{address}, Account: at.Account}
	if location := at.Location; location != (mail.Location{}) { // a copy: else all of at would stay in memory
		r.At = &location
	}
	if !at.Since.IsZero() {
		r.Start(at.Since.Add(-mail.Tolerance))
	}
	m.now.Store(&snapshot{record: r})
	return m
}

// enter makes the record and the devices of the mailbox with d among them: in its own place, or in that of the same phone under another
// id, which is ousted. The record is the same where it does not change. The caller holds writing.
func (m *Mailbox) enter(d *Device) (r *Record, devices, ousted []*Device) {
	was := m.now.Load()
	devices = make([]*Device, 0, len(was.devices)+1)
	known, waits := false, false
	for _, o := range was.devices {
		switch {
		case o.ID == d.ID:
			known = true
			waits = o.Phone().Line() != d.Phone().Line() && was.record.BehindOf(d.ID) != nil
			d.Created, d.Since = o.Created, o.Since
		case o.Phone().Line() == d.Phone().Line(): // in whichever environment: APNs says where it is
			ousted = append(ousted, o)
		default:
			devices = append(devices, o)
		}
	}
	r = was.record
	if len(ousted) > 0 || !r.Dies.IsZero() || waits {
		r = r.Clone()
		r.Dies = time.Time{}
	}
	if waits { // it was the old phone that could not be reached
		r.BehindOf(d.ID).Next = time.Time{}
	}
	for _, o := range ousted {
		if known {
			r.takeUp(d, o)
		} else {
			r.takeOver(d, o)
		}
	}
	return r, append(devices, d), ousted
}

// Remove ends an enrolment. With its last device a mailbox falls asleep (rule 5); Bury ends that. It returns the mailbox that the device
// had.
func (b *Book) Remove(ctx context.Context, id string) (*Mailbox, bool, error) {
	return b.RemoveIf(ctx, id, func(Device) bool { return true })
}

// RemoveIf is Remove for a device that fits: it stays as it is from the question to its removal. fits is to change nothing.
func (b *Book) RemoveIf(ctx context.Context, id string, fits func(Device) bool) (*Mailbox, bool, error) {
	if err := b.ofDevice.take(ctx, id); err != nil {
		return nil, false, err
	}
	defer b.ofDevice.giveBack(id)
	for {
		d, ok := b.Device(id)
		if !ok {
			return nil, false, nil
		}
		m, dropped, err := b.drop(ctx, d, fits)
		if !errors.Is(err, ErrNoMailbox) { // else it is elsewhere by now
			return m, dropped, err
		}
	}
}

// drop removes a device that fits from its mailbox. The caller has the turn of the device.
func (b *Book) drop(ctx context.Context, was Device, fits func(Device) bool) (*Mailbox, bool, error) {
	m, err := b.take(ctx, was)
	if err != nil {
		return nil, false, err
	}
	defer m.writing.giveBack()
	d, is := m.Device(was.ID) // as it is now that nobody else changes it
	if !is || !fits(*d) {
		return nil, false, nil
	}
	change, left := leave(m, d)
	if err := b.write(ctx, change); err != nil {
		return nil, false, err
	}
	m.now.Store(left)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.devices, d.ID)
	b.sorted = nil
	return m, true, nil
}

// take takes the writing of the mailbox that a device is in. ErrNoMailbox: it is in another by now, or in none.
func (b *Book) take(ctx context.Context, d Device) (*Mailbox, error) {
	m := b.box(d.Record)
	if m == nil {
		return nil, ErrNoMailbox
	}
	if err := m.writing.take(ctx); err != nil {
		return nil, err
	}
	if _, here := m.Device(d.ID); !here || m.gone {
		m.writing.giveBack()
		return nil, ErrNoMailbox
	}
	return m, nil
}

// leave is the change by which a device leaves its mailbox, and what the mailbox is then. The caller holds m.writing.
func leave(m *Mailbox, d *Device) (Change, *snapshot) {
	was := m.now.Load()
	devices := slices.DeleteFunc(slices.Clone(was.devices), func(o *Device) bool { return o.ID == d.ID })
	r := was.record.Clone()
	r.Remove(d.ID)
	if len(devices) == 0 {
		r.Dies = time.Now().Add(Asleep)
		r.Subscription, r.Graph = "", nil // nobody listens: it is given back
	}
	return Change{DropDevices: []*Device{d}, Put: []*Record{r}}, &snapshot{record: r, devices: devices}
}

// Bury drops the records that have been asleep for long enough.
func (b *Book) Bury(ctx context.Context, now time.Time) error {
	for _, m := range b.all() {
		if !m.Record().dead(now) {
			continue
		}
		if err := b.bury(ctx, m, now); err != nil {
			return err
		}
	}
	return nil
}

func (b *Book) bury(ctx context.Context, m *Mailbox, now time.Time) error {
	if err := m.writing.take(ctx); err != nil {
		return err
	}
	defer m.writing.giveBack()
	r := m.Record()
	if m.gone || !r.dead(now) { // it was woken meanwhile
		return nil
	}
	if err := b.write(ctx, Change{Drop: []string{r.ID}}); err != nil {
		return err
	}
	m.gone = true
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.boxes, r.ID)
	b.disown(m)
	for _, a := range r.Addresses {
		if b.addresses[a] == m {
			delete(b.addresses, a)
		}
	}
	return nil
}
