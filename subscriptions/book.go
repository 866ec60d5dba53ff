package subscriptions

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// MaxDevices bounds the devices of one mailbox: a message is sent to all of them at once.
const MaxDevices = 1000

// Book is all enrolments and records, in memory; every change is durable in the Store before it shows.
//
// Lock order: Book.ofDevice, Book.ofAddress, Book.ofReceipt, Book.moving, Mailbox.writing, Book.mu.
type Book struct {
	store        Store
	secret       mail.Secret
	damaged      []Damaged
	isNew        bool
	migratedFrom int
	failing      atomic.Bool // the last write failed

	// Each is held over a write.
	ofDevice  turns // one enrolment or removal at a time of a device
	ofAddress turns // one enrolment at a time with an address
	ofReceipt turns // one receipt at a time of a record
	moving    turn  // one at a time changes two mailboxes at once

	mu        sync.RWMutex
	devices   map[string]*Device
	boxes     map[string]*Mailbox   // by record id
	addresses map[string]*Mailbox   // by the addresses that devices were enrolled with
	primaries map[string][]*Mailbox // by the primary address, which a server has told: see identity
	unsureIDs map[string]string     // by address: see recordID
	sorted    []string              // device ids in order; nil where one has come or gone since
}

// Mailbox is one mailbox of the book.
type Mailbox struct {
	book     *Book
	writing  turn     // one change at a time, held over its write
	gone     bool     // guarded by writing: it was buried, or joined to another
	identity identity // guarded by Book.mu; zero: none is known
	now      atomic.Pointer[snapshot]

	undelivered undelivered
}

// snapshot is what a mailbox shows to readers: never changed, only replaced.
type snapshot struct {
	record  *Record
	devices []*Device // by id
}

// ErrNoMailbox says that the record is gone: its last device was removed.
var ErrNoMailbox = errors.New("the mailbox has no device any more")

// Open reads the store.
func Open(ctx context.Context, store Store) (*Book, error) {
	all, err := store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	if others := all.once(); len(others) > 0 {
		if err := store.Write(ctx, Change{DropDevices: others}); err != nil {
			return nil, fmt.Errorf("repairing the state: %w", err)
		}
	}
	all.repair(time.Now())
	b := &Book{
		store: store, secret: all.Secret, damaged: all.Damaged, isNew: all.New, migratedFrom: all.MigratedFrom,
		devices: map[string]*Device{}, boxes: map[string]*Mailbox{},
		addresses: map[string]*Mailbox{}, primaries: map[string][]*Mailbox{}, unsureIDs: map[string]string{},
	}
	devices := map[string][]*Device{}
	for _, d := range all.Devices {
		d.share()
		oneText(&d.ID, &d.Mailbox, &d.Token, &d.Label, &d.ReceiptKey)
		b.devices[d.ID] = d
		devices[d.Record] = append(devices[d.Record], d)
	}
	for _, r := range all.Records {
		if r.At != nil {
			*r.At = r.At.Shared()
		}
		for _, d := range devices[r.ID] {
			d.Record = r.ID
		}
		m := &Mailbox{book: b}
		b.show(m, r, devices[r.ID])
		b.recognise(m)
	}
	return b, nil
}

// show publishes what a mailbox is now. The caller holds m.writing, or nobody else knows m yet.
func (b *Book) show(m *Mailbox, r *Record, devices []*Device) {
	slices.SortFunc(devices, func(x, y *Device) int { return cmp.Compare(x.ID, y.ID) })
	m.now.Store(&snapshot{record: r, devices: devices})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boxes[r.ID] = m
	b.addresses[r.Addresses[0]] = m
	for _, d := range devices {
		b.addresses[d.Mailbox] = m
	}
}

// Secret of this installation.
func (b *Book) Secret() mail.Secret { return b.secret }

// Ping asks the store.
func (b *Book) Ping(ctx context.Context) error { return b.store.Ping(ctx) }

// write writes, and remembers how that went. Its error is one of Unwritable.
func (b *Book) write(ctx context.Context, c Change) error {
	err := b.store.Write(ctx, c)
	if failed := err != nil; failed != b.failing.Load() {
		b.failing.Store(failed)
	}
	return Unwritable(err)
}

// Device returns an enrolment.
func (b *Book) Device(id string) (Device, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if d := b.devices[id]; d != nil {
		return *d, true
	}
	return Device{}, false
}

// Devices pages through the enrolments by id. mailbox is an address, empty for all.
func (b *Book) Devices(mailbox, after string, limit int) (list []Device, next string) {
	var ids []string
	if mailbox == "" {
		ids = b.ids()
	} else if m := b.Known(mailbox); m != nil {
		for _, d := range m.Devices() {
			ids = append(ids, d.ID)
		}
	}
	i, found := slices.BinarySearch(ids, after)
	if found {
		i++
	}
	for ; i < len(ids) && len(list) < limit; i++ {
		if d, ok := b.Device(ids[i]); ok {
			list = append(list, d)
		}
	}
	if i < len(ids) && len(list) > 0 {
		next = list[len(list)-1].ID
	}
	return list, next
}

func (b *Book) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sorted == nil {
		b.sorted = make([]string, 0, len(b.devices))
		for id := range b.devices {
			b.sorted = append(b.sorted, id)
		}
		slices.Sort(b.sorted)
	}
	return b.sorted // replaced as a whole, never changed
}

// Mailbox returns the mailbox of an address that a device was enrolled with; nil where there is none, or it has no device.
func (b *Book) Mailbox(address string) *Mailbox {
	m := b.at(address)
	if m == nil || len(m.Devices()) == 0 {
		return nil
	}
	return m
}

// at returns the mailbox of an address, also one that is asleep.
func (b *Book) at(address string) *Mailbox {
	b.mu.RLock()
	defer b.mu.RUnlock()
	m := b.addresses[address]
	if m == nil || b.boxes[m.Record().ID] != m { // it was buried
		return nil
	}
	return m
}

// Mailboxes returns all mailboxes with a device, in no order.
func (b *Book) Mailboxes() []*Mailbox {
	return slices.DeleteFunc(b.all(), func(m *Mailbox) bool { return len(m.Devices()) == 0 })
}

// all returns all mailboxes, also those that are asleep.
func (b *Book) all() []*Mailbox {
	b.mu.RLock()
	defer b.mu.RUnlock()
	list := make([]*Mailbox, 0, len(b.boxes))
	for _, m := range b.boxes {
		list = append(list, m)
	}
	return list
}

// Record is where the mailbox stands. It is not to be changed.
func (m *Mailbox) Record() *Record { return m.now.Load().record }

// Devices are the enrolments of the mailbox, by id. They are not to be changed.
func (m *Mailbox) Devices() []*Device { return m.now.Load().devices }

// Device returns one of its enrolments.
func (m *Mailbox) Device(id string) (*Device, bool) {
	devices := m.Devices()
	i, ok := slices.BinarySearchFunc(devices, id, func(d *Device, id string) int { return cmp.Compare(d.ID, id) })
	if !ok {
		return nil, false
	}
	return devices[i], true
}

// Reached returns the enrolment of the mailbox that has a phone now.
func (m *Mailbox) Reached(l Line) (*Device, bool) {
	devices := m.Devices()
	i := slices.IndexFunc(devices, func(d *Device) bool { return d.Token == l.Token && d.Topic == l.Topic })
	if i < 0 {
		return nil, false
	}
	return devices[i], true
}

// Draft is a change under way: the record is a copy, and devices are put back with Put.
type Draft struct {
	*Record
	Devices []*Device // of the mailbox at this moment; not to be changed
	put     []*Device
	whole   bool // all devices are put
}

// Put changes one of the devices with the same write.
func (d *Draft) Put(device Device) { d.put = append(d.put, &device) }

// rewriters bounds the records that are written again at the same time: as many as go well into one round trip.
const rewriters = 64

// Rewrite writes everything again, for a store that has lost some of it. Devices of a record that only the store has are deleted there.
func (b *Book) Rewrite(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rewriters)
	for _, m := range b.all() {
		g.Go(func() error {
			err := m.Update(ctx, func(d *Draft) {
				d.whole = true
				for _, device := range d.Devices {
					d.Put(*device)
				}
			})
			if errors.Is(err, ErrNoMailbox) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// Writable says whether the record can be written, for whoever is about to do what has to be written down. After a failed write, of
// whatever mailbox, a write is tried: a store that answers may take none all the same, because its disk or its memory is full.
func (m *Mailbox) Writable(ctx context.Context) error {
	if err := m.book.store.Held(); err != nil {
		return err
	}
	if !m.book.failing.Load() {
		return nil
	}
	return m.Update(ctx, func(*Draft) {})
}

// Subscribable says whether a subscription of the mailbox could be written down, for whoever is about to make one. ErrNoMailbox: its last
// device was removed.
func (m *Mailbox) Subscribable(ctx context.Context) error {
	if len(m.Devices()) == 0 {
		return ErrNoMailbox
	}
	return Unwritable(m.Writable(ctx))
}

// Unwritable types an error of a write for whoever needed it, as a *fault.Error: the state is away, and the mailbox is tried again.
func Unwritable(err error) error {
	if err == nil || fault.Of(err).Peer == fault.StateStore {
		return err
	}
	return &fault.Error{Op: "state", Code: "state_away", Scope: fault.Mailbox, Remedy: fault.Retry,
		Text: "the state cannot be written", Evidence: fault.Evidence{Peer: fault.StateStore}, Err: err}
}

// Update makes one change of the record, durable before it returns: the one write that the rules of the log speak of.
// change is called once at most, and what it changed shows only after it was written.
func (m *Mailbox) Update(ctx context.Context, change func(d *Draft)) error {
	if err := m.writing.take(ctx); err != nil {
		return err
	}
	defer m.writing.giveBack()
	if m.gone {
		return ErrNoMailbox
	}
	was := m.now.Load()
	draft := &Draft{Record: was.record.Clone(), Devices: was.devices}
	draft.Outcomes = was.record.Outcomes // with the room behind them: no reader looks there, and there is one draft at a time
	change(draft)
	decided := Decided{draft.ID, m.undelivered.take()}
	if err := m.book.write(ctx, Change{Put: []*Record{draft.Record}, PutDevices: draft.put, Whole: draft.whole, Decided: decided}); err != nil {
		return err
	}
	m.undelivered.written()
	devices := was.devices
	if len(draft.put) > 0 {
		devices = slices.Clone(devices)
		m.book.mu.Lock()
		for _, d := range draft.put {
			i := slices.IndexFunc(devices, func(o *Device) bool { return o.ID == d.ID })
			devices[i] = d
			m.book.devices[d.ID] = d
		}
		m.book.mu.Unlock()
	}
	m.now.Store(&snapshot{record: draft.Record, devices: devices})
	return nil
}

func (b *Book) box(record string) *Mailbox {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.boxes[record]
}

// maxUnsure bounds the mailboxes whose first enrolment failed and may have been written all the same.
const maxUnsure = 10_000

// recordID is the id of a new record: random, or the one of an enrolment with this address that failed, and may have been written all the
// same. With another id each time, one device could get the alerts of two records from the next start on.
func (b *Book) recordID(address string) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if id := b.unsureIDs[address]; id != "" {
		return id
	}
	return rand.Text()[:16]
}

// unsure notes the id of a record whose write failed, for recordID.
func (b *Book) unsure(address, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.boxes[id] == nil && len(b.unsureIDs) < maxUnsure {
		b.unsureIDs[address] = id
	}
}
