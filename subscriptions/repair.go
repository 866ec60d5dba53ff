package subscriptions

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// repair gives devices whose record is missing a new one under the same id, so that keys stay as they were: an enrolment is worth
// more than where its mailbox stood. The mailbox begins anew. A record whose devices are missing falls asleep, as after its last one.
func (c *Contents) repair(now time.Time) {
	devices := map[string]bool{}
	for _, d := range c.Devices {
		devices[d.Record] = true
	}
	for _, r := range c.Records {
		if !devices[r.ID] && r.Dies.IsZero() {
			r.Dies = now.Add(Asleep)
		}
	}
	missing := map[string][]string{} // the mailboxes that devices name, by record
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

var errBegunAnew = errors.New("its record is missing: its devices stay enrolled, and are alerted for what comes from now on")

// Damaged is what could not be read when the book was opened.
func (b *Book) Damaged() []Damaged { return b.damaged }

// Migrated says from which version the state was migrated when the book was opened, and to which; 0: it was not.
func (b *Book) Migrated() (from, to int) { return b.migratedFrom, schema }

// New says whether the state was made when the book was opened.
func (b *Book) New() bool { return b.isNew }
