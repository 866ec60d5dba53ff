package inbox

// The complete listing of an Inbox (rules 3, 4, 5, 8): the only thing that moves a mailbox forward.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	firstPage = 50  // the mail of a day fits
	nextPage  = 200 // well below EWSFindCountLimit, 1,000
	// strays is how many items from before since a page may show that is not the last: one may stand out of order, or be shown twice.
	strays = 1
	// maxStale is how many pages in a row may show nothing new: mail that arrives meanwhile shifts short pages. A server that gives more of
	// them gives the same page whatever it is asked for.
	maxStale = 5
	// maxRestarts is how often a listing is tried that deletions overtake.
	maxRestarts = 5
	// maxListed bounds what a listing keeps in memory, 100 bytes each. Beyond it, only mail of the last day is looked at.
	maxListed = 50_000
	// maxPages bounds a listing whose pages do not end: a source may name a next page again and again. It is the mail of months.
	maxPages = 2000
)

// shown is a message of a listing.
type shown struct {
	subscriptions.Shown
	item string
}

// listInbox lists the Inbox and deals with all that it shows. It decides about the hints that are left in the turn: unbelieved is what was
// read of them. listed is called once the Inbox has been read.
func (m *Mailbox) listInbox(ctx context.Context, t *turn, unbelieved []due, listed func()) error {
	link := t.link
	end := m.box.Record().End // of the log, before the Inbox is read
	list, clock, err := m.pages(ctx, t.correlation, link.List)
	listed()
	if err != nil {
		return err
	}
	r := m.box.Record()
	if clock.Unix() < r.Since {
		return m.restart(ctx, t.correlation, link, list, clock)
	}
	fresh, old, none := m.sortOut(m.unknown(t, list, clock, r), clock)
	none = append(none, m.forgotten(unbelieved, list, r)...)
	if err := m.skip(ctx, none); err != nil {
		return err
	}
	pending, err := m.sendListed(ctx, link, fresh, clock)
	if err != nil {
		return err
	}
	m.recovered(link, old, clock)
	if err := m.send(ctx, link, old, clock); err != nil {
		return err
	}
	if pending { // an item that cannot be read yet has no outcome: listed stays
		return nil
	}
	return m.complete(ctx, t.correlation, link, list, clock, end)
}

// unknown are the messages shown that have no outcome yet.
func (m *Mailbox) unknown(t *turn, list []shown, clock time.Time, r *subscriptions.Record) (dues []due) {
	for _, s := range list {
		if r.Has(s.Key) || r.Has(m.itemKey(s.item)) {
			m.seen.add(m.in.hash(s.item)) // no decision is made of it (duplicate): listing after listing shows it
			continue
		}
		at := cmp.Or(t.hints.at(s.item), m.unreadable.hintedAt(s.item))
		hinted := hintTime(t.link.Source(), at, s.Received, clock)
		dues = append(dues, due{key: s.Key, item: s.item, received: s.Received, hinted: hinted, correlation: t.correlation})
	}
	return dues
}

// recovered counts messages that only a listing told of. Each is counted when it is sent, for one that cannot be read yet is shown by
// listing after listing.
func (m *Mailbox) recovered(link Link, dues []due, clock time.Time) {
	devices := m.box.Devices()
	for _, d := range dues {
		if d.hinted.IsZero() && slices.ContainsFunc(devices, func(device *subscriptions.Device) bool { return !before(d.received, device) }) {
			m.in.metrics.recovered.Inc()
			link.Unhinted(d.received, clock)
		}
	}
}

// forgotten are the messages that hints named and the listing does not show: they are dated before since, or left the Inbox meanwhile.
func (m *Mailbox) forgotten(unbelieved []due, list []shown, r *subscriptions.Record) (none []skipped) {
	for _, d := range unbelieved {
		if r.Has(d.key) || slices.ContainsFunc(list, func(s shown) bool { return s.item == d.item }) {
			continue
		}
		if d.received.Unix() > r.Since {
			d.received = time.Unix(r.Since, 0)
		}
		none = append(none, skipped{d, outcome.Late})
	}
	return none
}

// pages lists the Inbox newest first, back to since, or to a clock that fell behind it. Where pages overlap (rule 3) a further one starts
// with an item already seen, else the listing starts again: a deletion meanwhile has shifted them.
func (m *Mailbox) pages(ctx context.Context, id subscriptions.Correlation, page Lister) ([]shown, time.Time, error) {
	for range maxRestarts {
		began := time.Now()
		list, clock, whole, err := m.tryPages(ctx, page)
		m.debug("inbox listed", id, func() []zap.Field {
			return []zap.Field{zap.Int("messages", len(list)), zap.Bool("whole", whole), zap.Duration("took", time.Since(began)), zap.Error(err)}
		})
		if whole || err != nil {
			return list, clock, err
		}
	}
	return nil, time.Time{}, errPages("the Inbox changes faster than it can be listed")
}

// errPages says why the pages of a listing lead to no end.
func errPages(text string) error {
	return &fault.Error{Op: "list the Inbox", Code: "pages", Text: text, Scope: fault.Mailbox, Remedy: fault.Wait}
}

// tryPages lists the Inbox once. whole is false where a deletion has shifted the pages.
func (m *Mailbox) tryPages(ctx context.Context, page Lister) (list []shown, clock time.Time, whole bool, err error) {
	seen := map[string]bool{}
	part := Part{Limit: firstPage}
	if r := m.box.Record(); r.Started() {
		part.Since = time.Unix(r.Since, 0)
	}
	var from int64 // Unix seconds: what was received before is not listed
	overlaps, stale := false, 0
	for range maxPages {
		if m.in.stopping.Load() {
			return nil, clock, false, errStopping
		}
		p, err := page(ctx, part)
		if err != nil {
			return nil, clock, false, err
		}
		if part.After == "" {
			clock = p.Clock
			if err := m.start(ctx, clock); err != nil {
				return nil, clock, false, err
			}
			from = listedFrom(m.box.Record(), clock)
			if !part.Since.IsZero() && from < part.Since.Unix() { // the page was asked for less
				part.Since = time.Unix(from, 0)
				continue
			}
		} else if overlaps && !continues(p, seen) {
			return nil, clock, false, nil
		}
		old, before := 0, len(seen)
		for _, msg := range p.Messages {
			switch {
			case msg.Received.IsZero(): // such an item may stand anywhere: it ends nothing
			case msg.Received.Unix() < from, len(list) >= maxListed && clock.Sub(msg.Received) > mail.Window:
				old++
			case !seen[msg.ItemID]:
				list = append(list, shown{subscriptions.Shown{Key: m.key(&msg), Received: msg.Received}, msg.ItemID})
			}
			seen[msg.ItemID] = true
		}
		if p.Next == "" || old > strays {
			return list, clock, true, nil
		}
		stale++
		if !p.Overlaps || len(seen) > before {
			stale = 0
		}
		if stale == maxStale {
			return nil, clock, false, errPages("the server shows the same messages on page after page")
		}
		overlaps = p.Overlaps
		part.After, part.Limit = p.Next, nextPage
	}
	return nil, clock, false, errPages(fmt.Sprintf("the listing has not ended after %d pages", maxPages))
}

// listedFrom is how far back a listing reads: to since, or where the server's clock fell behind that, to where the log then begins anew
// (restart).
func listedFrom(r *subscriptions.Record, clock time.Time) int64 {
	if clock.Unix() < r.Since {
		return clock.Add(-2 * mail.Tolerance).Unix()
	}
	return r.Since
}

// continues says whether a further page goes on where the one before it ended: it starts with an item already seen.
func continues(p Page, seen map[string]bool) bool {
	return len(p.Messages) > 0 && seen[p.Messages[0].ItemID]
}

// start gives the record, and the devices that enrolled before the server's clock was known, their times on that clock (rule 5).
func (m *Mailbox) start(ctx context.Context, clock time.Time) error {
	missing := !m.box.Record().Started()
	for _, d := range m.box.Devices() {
		missing = missing || d.Since.IsZero()
	}
	if !missing {
		return nil
	}
	skew := time.Until(clock)
	return m.box.Update(ctx, func(draft *subscriptions.Draft) {
		first := clock
		for _, device := range draft.Devices {
			d := *device
			if d.Since.IsZero() {
				d.Since = d.Created.Add(skew - mail.Tolerance).Truncate(time.Second)
				draft.Put(d)
			}
			if d.Since.Before(first) {
				first = d.Since
			}
		}
		if !draft.Started() {
			draft.Start(first.Add(-mail.Tolerance))
		}
	})
}

// sendListed reads the messages that are fresh and sends their alerts, newest first. Live mail that comes meanwhile goes before the next
// batch. pending: one of them could not be read yet.
func (m *Mailbox) sendListed(ctx context.Context, link *attachment, fresh []due, clock time.Time) (pending bool, err error) {
	for some := range slices.Chunk(fresh, batch) {
		if m.in.stopping.Load() {
			return pending, errStopping
		}
		if err := m.readLive(ctx, link); err != nil {
			return pending, err
		}
		dues, none, waits, unread := m.readListed(ctx, link, some)
		if unread != nil && len(dues)+len(none) == 0 {
			return pending, unread
		}
		pending = pending || waits
		if err := m.skip(ctx, none); err != nil {
			return pending, err
		}
		m.recovered(link, dues, clock)
		if err := m.send(ctx, link, dues, clock); err != nil {
			return pending, err
		}
		if unread != nil { // of the other items
			return pending, unread
		}
	}
	return pending, nil
}

// readListed reads messages that a listing showed. waits: one could not be read yet. With an error come the messages that it does not
// concern.
func (m *Mailbox) readListed(ctx context.Context, link Link, some []due) (dues []due, none []skipped, waits bool, err error) {
	ids := make([]string, len(some))
	by := map[string]due{}
	for i, d := range some {
		ids[i], by[d.item] = d.item, d
	}
	found, err := m.fetch(ctx, some[0].correlation, link, ids)
	r := m.box.Record()
	for _, item := range found.Items {
		d := by[item.ID]
		d.message = item.Message
		again := !r.Has(d.key) && m.lookAgain(item, time.Time{})
		if item.Err == nil || gone(item) && !again {
			m.unreadable.forget(item.ID)
		}
		switch {
		case r.Has(d.key) || r.Has(m.itemKey(d.item)): // a hint was quicker
		case again:
			waits = true
		case gone(item):
			none = append(none, skipped{d, outcome.Gone})
		case item.Err == nil:
			dues = append(dues, d)
		case m.giveUp(item, d):
			d.key = m.itemKey(d.item) // rule 9: a hint that names it knows no other
			dues = append(dues, d)
		default:
			waits = true
		}
	}
	return dues, none, waits, err
}

// readLive reads what was hinted while a long listing is dealt with.
func (m *Mailbox) readLive(ctx context.Context, link *attachment) error {
	hints, id := m.marks.takeHints(link)
	if len(hints) == 0 {
		return nil
	}
	unbelieved, err := m.readHints(ctx, id, link, &hints)
	m.marks.giveBack(turn{link: link, hints: hints, list: len(unbelieved) > 0, correlation: id})
	return err
}

// complete is the write at the end of a complete listing, in which listed moves (rules 3 and 4) and enrolments that lie after the
// server's clock are set back to it (rule 5).
func (m *Mailbox) complete(ctx context.Context, id subscriptions.Correlation, link Link, list []shown, clock time.Time, end uint32) error {
	seen := make([]subscriptions.Shown, len(list))
	for i, s := range list {
		seen[i] = s.Shown
	}
	earlier := clock
	if now := time.Now(); now.Before(earlier) {
		earlier = now
	}
	expired := 0
	if m.changes(seen, earlier, clock, end) {
		err := m.box.Update(ctx, func(d *subscriptions.Draft) {
			expired = d.Complete(seen, earlier, end)
			setBack(d, clock)
		})
		if err != nil {
			return err
		}
	}
	for range expired {
		m.decide(due{correlation: id}.notSent("", outcome.Late))
	}
	m.in.metrics.listings.Inc()
	m.completed(link)
	return nil
}

// changes says whether a complete listing changes the record: most safety polls change nothing, and need no write.
func (m *Mailbox) changes(seen []subscriptions.Shown, earlier, clock time.Time, end uint32) bool {
	r := m.box.Record()
	after := r.Clone()
	return after.Complete(seen, earlier, end) > 0 || after.Listed != r.Listed || after.Since != r.Since || after.End != r.End || len(r.Behind) > 0 ||
		!slices.Equal(after.Outcomes, r.Outcomes) ||
		slices.ContainsFunc(m.box.Devices(), func(d *subscriptions.Device) bool { return d.Since.After(clock.Add(-mail.Tolerance)) })
}

// completed notes a complete listing, after what it changed was written.
func (m *Mailbox) completed(link Link) {
	m.last.listing.Store(time.Now().UnixNano())
	m.unreadable.forgetMissing()
	m.marks.completed(link.SafetyPoll())
	link.Listed()
	m.catchUpSoon()
}

// setBack sets enrolments that lie after the server's clock back to it, less the tolerance (rule 5).
func setBack(d *subscriptions.Draft, clock time.Time) {
	latest := clock.Add(-mail.Tolerance)
	for _, device := range d.Devices {
		if device.Since.After(latest) {
			earlier := *device
			earlier.Since = latest.Truncate(time.Second)
			d.Put(earlier)
		}
	}
}

// restart begins the log anew where the server's clock fell behind since (rule 4). Nobody can tell which of the messages shown are new, so
// they lead to no alert.
func (m *Mailbox) restart(ctx context.Context, id subscriptions.Correlation, link Link, list []shown, clock time.Time) error {
	r := m.box.Record()
	var none []skipped
	for _, s := range list {
		if !r.Has(s.Key) {
			none = append(none, skipped{due{key: s.Key, item: s.item, received: s.Received, correlation: id}, outcome.Clock})
		}
	}
	if err := m.skip(ctx, none); err != nil {
		return err
	}
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		d.Start(clock.Add(-2 * mail.Tolerance))
		setBack(d, clock)
	})
	if err != nil {
		return err
	}
	m.completed(link)
	return nil
}
