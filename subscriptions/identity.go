package subscriptions

// When two addresses are one mailbox. A device is enrolled with an address, on the administrator's word; that two of them are one mailbox
// is a server's word, its primary address. A server speaks for the mailboxes of its own exchange entry only: what one says makes no
// mailbox of another entry its own, whoever was enrolled first.

import (
	"context"
	"slices"
	"time"

	"github.com/mailbell/mailbell/mail"
)

// identity is what a server calls a mailbox: its primary address within an exchange entry.
type identity struct{ entry, primary string }

// Known returns the mailbox of an address that a device was enrolled with, or else the only one that a server calls so; nil where there
// is none, or it has no device. It is for questions about a mailbox, and not for enrolments.
func (b *Book) Known(address string) *Mailbox {
	if m := b.Mailbox(address); m != nil {
		return m
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if named := b.primaries[address]; len(named) == 1 && len(named[0].Devices()) > 0 {
		return named[0]
	}
	return nil
}

// Twin is a message as the Inbox shows it whose mailbox is joined to another, with its keys in both records.
type Twin struct {
	There, Here mail.Key // in the record that goes, and in the one that stays
	Received    time.Time
}

// Name says that a server of an exchange entry calls the mailbox by this primary address. Where it calls another mailbox of the book so,
// the two are one: the devices of this one go over to the other, behind with what they are owed here, and the other is returned with joined
// true. Of two devices with one phone, the one that was enrolled last stays. Before that, finish waits until nothing is sent for this
// mailbox any more, for the other knows nothing of what is in flight and would send it too; and then it lists the Inbox.
func (b *Book) Name(
	ctx context.Context, m *Mailbox, entry, primary string, finish func(ctx context.Context, other *Mailbox) ([]Twin, error),
) (same *Mailbox, joined bool, err error) {
	id := identity{entry, primary}
	for {
		other, err := b.claim(m, id)
		if other == nil {
			return m, false, err
		}
		twins, err := finish(ctx, other)
		if err != nil {
			return nil, false, err
		}
		if joined, err = b.joinAs(ctx, m, other, id, twins); joined || err != nil {
			return other, joined, err
		}
	}
}

// joinAs joins m to another mailbox, if a server still calls that one so once its turn to be joined has come.
func (b *Book) joinAs(ctx context.Context, m, other *Mailbox, id identity, twins []Twin) (joined bool, err error) {
	if err := b.moving.take(ctx); err != nil {
		return false, err
	}
	defer b.moving.giveBack()
	if now, err := b.claim(m, id); now != other {
		return false, err
	}
	return true, b.join(ctx, m, other, twins)
}

// Forget says that nobody knows any more what a server calls the mailbox.
func (b *Book) Forget(m *Mailbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disown(m)
}

// claim gives a mailbox its identity, or returns the one that has it.
func (b *Book) claim(m *Mailbox, id identity) (other *Mailbox, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.boxes[m.Record().ID] != m {
		return nil, ErrNoMailbox
	}
	if m.identity == id {
		return nil, nil
	}
	for _, named := range b.primaries[id.primary] {
		if named.identity == id {
			return named, nil
		}
	}
	b.disown(m)
	m.identity = id
	b.primaries[id.primary] = append(b.primaries[id.primary], m)
	return nil, nil
}

// recognise gives a mailbox the identity under which it was found last. Where another has it, the two are joined once this one is looked
// up.
func (b *Book) recognise(m *Mailbox) {
	at := m.Record().Location()
	if at.Entry == "" || at.Primary == "" || at.Found.IsZero() {
		return
	}
	_, _ = b.claim(m, identity{at.Entry, at.Primary})
}

// disown takes a mailbox's identity from it. The caller holds mu.
func (b *Book) disown(m *Mailbox) {
	primary := m.identity.primary
	m.identity = identity{}
	named := slices.DeleteFunc(b.primaries[primary], func(o *Mailbox) bool { return o == m })
	if len(named) == 0 {
		delete(b.primaries, primary)
		return
	}
	b.primaries[primary] = named
}

// join has the devices of m go over to another mailbox. The caller holds moving.
func (b *Book) join(ctx context.Context, m, into *Mailbox, twins []Twin) error {
	for _, one := range []*Mailbox{m, into} {
		if err := one.writing.take(ctx); err != nil {
			return err
		}
		defer one.writing.giveBack()
	}
	if m.gone || into.gone || len(m.Devices()) == 0 {
		return ErrNoMailbox
	}
	from, to := m.now.Load(), into.now.Load()
	r := to.record.Clone()
	for _, a := range from.record.Addresses {
		if !slices.Contains(r.Addresses, a) {
			r.Addresses = append(slices.Clip(r.Addresses), a)
		}
	}
	r.Dies = time.Time{}
	change := Change{Put: []*Record{r}, Drop: []string{from.record.ID}}
	devices := slices.Clone(to.devices)
	comes := map[string]coming{} // by the ids that they have from now on
	for _, d := range from.devices {
		c := *d
		c.Record = r.ID
		debts := from.record.debts(d, twins)
		i := slices.IndexFunc(devices, func(o *Device) bool { return o.Phone().Line() == c.Phone().Line() })
		switch {
		case i < 0:
			r.Backdate(c.ID, from.record, debts)
			devices = append(devices, &c)
		case c.Enrolled.After(devices[i].Enrolled): // the newer id of a phone takes over, as if it was enrolled here
			r.takeOver(&c, devices[i])
			change.DropDevices = append(change.DropDevices, devices[i])
			devices[i] = &c
		default:
			c = *devices[i]
			change.DropDevices = append(change.DropDevices, d)
			devices[i] = &c
		}
		comes[c.ID] = coming{d.ID, debts}
		change.PutDevices = append(change.PutDevices, &c)
	}
	r.adopt(from.record, twins, devices, comes)
	if err := b.write(ctx, change); err != nil {
		return err
	}
	m.gone = true
	m.now.Store(&snapshot{record: from.record})
	b.showJoined(m, into, change)
	b.show(into, r, devices)
	return nil
}

// showJoined publishes that m was joined to another mailbox by a change that is written.
func (b *Book) showJoined(m, into *Mailbox, change Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gone := m.Record()
	delete(b.boxes, gone.ID)
	b.disown(m)
	for _, a := range gone.Addresses {
		if b.addresses[a] == m {
			b.addresses[a] = into
		}
	}
	for _, d := range change.PutDevices {
		b.devices[d.ID] = d
	}
	for _, d := range change.DropDevices {
		delete(b.devices, d.ID)
		b.sorted = nil
	}
}
