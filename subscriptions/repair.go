package subscriptions

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// latestTry is how far ahead the next try of a device may be at a start: no reason lasts longer before it is looked at again.
const latestTry = time.Hour

// once leaves each device in the mailbox of its last enrolment only, and each phone of a mailbox under the id of its last enrolment only.
// It returns the others, which are to be dropped. A Redis that went back to an older state, and was not wholly written again, has a device
// also in the mailbox that it has left, and a device beside the one that took its place.
func (c *Contents) once() (others []*Device) {
	type reached struct {
		record string
		line   Line
	}
	others = last(c, func(d *Device) string { return d.ID }, errEnrolledElsewhere)
	return append(others, last(c, func(d *Device) reached { return reached{d.Record, d.Phone().Line()} }, errReplaced)...)
}

// last leaves of the devices that are alike the one that was enrolled last, and returns the others.
func last[K comparable](c *Contents, like func(d *Device) K, why error) (others []*Device) {
	kept := map[K]*Device{}
	for _, d := range c.Devices {
		if o := kept[like(d)]; o == nil || d.Enrolled.After(o.Enrolled) {
			kept[like(d)] = d
		}
	}
	c.Devices = slices.DeleteFunc(c.Devices, func(d *Device) bool {
		if kept[like(d)] == d {
			return false
		}
		others = append(others, d)
		return true
	})
	for _, d := range others {
		c.Damaged = append(c.Damaged, Damaged{What: fmt.Sprintf("device %q in the mailbox %s", d.ID, d.Mailbox), Err: why})
	}
	return others
}

var (
	errEnrolledElsewhere = errors.New("it has left that mailbox for another: it was dropped there")
	errReplaced          = errors.New("its phone was enrolled there under another id later: it was dropped")
)

// repair gives devices whose record is missing a new one under the same id, so that keys stay as they were: an enrolment is worth more than
// where its mailbox stood. The mailbox begins anew. A record whose devices are missing falls asleep, as after its last device. Times from a
// clock that was ahead are cut: nothing is to wait for years. A device that is not enrolled is not behind: the answer to its removal may
// have been lost, and its record written again as it was.
func (c *Contents) repair(now time.Time) {
	type place struct{ record, device string }
	devices, enrolled := map[string]bool{}, map[place]bool{}
	for _, d := range c.Devices {
		devices[d.Record], enrolled[place{d.Record, d.ID}] = true, true
	}
	for _, r := range c.Records {
		if !devices[r.ID] && r.Dies.IsZero() {
			r.Dies = now.Add(Asleep)
		}
		r.Dies = earlier(r.Dies, now.Add(Asleep))
		r.Behind = slices.DeleteFunc(r.Behind, func(b Behind) bool { return !enrolled[place{r.ID, b.Device}] })
		for i := range r.Behind {
			r.Behind[i].Next = earlier(r.Behind[i].Next, now.Add(latestTry))
		}
	}
	missing := map[string][]string{} // by record that devices name, the addresses that they were enrolled with
	for _, d := range c.Devices {
		if !slices.Contains(missing[d.Record], d.Mailbox) {
			missing[d.Record] = append(missing[d.Record], d.Mailbox)
		}
	}
	for _, r := range c.Records {
		delete(missing, r.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		c.Records = append(c.Records, &Record{ID: id, Addresses: missing[id]})
		c.Damaged = append(c.Damaged, Damaged{What: fmt.Sprintf("where the mailbox %s stood", missing[id][0]), Err: errBegunAnew})
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

var errBegunAnew = errors.New("its record is missing: its devices stay enrolled, and are alerted for what comes from now on")

// Damaged is what could not be read when the book was opened.
func (b *Book) Damaged() []Damaged { return b.damaged }

// Migrated says from which version the state was migrated when the book was opened, and to which; 0: it was not.
func (b *Book) Migrated() (from, to int) { return b.migratedFrom, schema }

// New says whether the state was made when the book was opened.
func (b *Book) New() bool { return b.isNew }
