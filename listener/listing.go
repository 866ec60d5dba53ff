package listener

import (
	"context"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	firstPage = 50  // the mail of a day fits
	nextPage  = 200 // well below EWSFindCountLimit, 1,000
	// overlap is how many items of a page the next one shows again (rule 3): a deletion meanwhile shifts the pages.
	overlap = 1
	// maxRestarts bounds a listing that is overtaken by deletions again and again.
	maxRestarts = 5
	// maxListed bounds what a listing keeps in memory, 100 bytes each. Beyond it, only mail of the last day is looked at.
	maxListed = 50_000
)

// shown is a message of a listing.
type shown struct {
	subscriptions.Shown
	item string
}

// listInbox is the complete listing (rules 3, 4, 5, 8): the only thing that moves a mailbox forward. hinted are the items that
// hints named and that it has to decide, doubted what reading them told.
func (m *mailbox) listInbox(ctx context.Context, hinted map[string]time.Time, doubted map[string]due) error {
	list, clock, err := m.pages(ctx)
	if err != nil {
		return err
	}
	r := m.box.Record()
	if clock.Unix() < r.Since {
		return m.restart(ctx, list, clock)
	}
	late, future, early, fresh, old := m.sort(list, clock, hinted, r)
	for item, d := range doubted { // read, and not shown: it is dated before since, or gone again
		if d.received.Unix() > r.Since {
			d.received = time.Unix(r.Since, 0)
		}
		if !r.Has(d.key) && !containsItem(list, item) {
			late = append(late, d)
		}
	}
	if err := m.settle(ctx, late, "late"); err != nil {
		return err
	}
	if err := m.settle(ctx, future, "future"); err != nil {
		return err
	}
	if err := m.settle(ctx, early, "before_enrolment"); err != nil {
		return err
	}
	pending, err := m.ringListed(ctx, fresh)
	if err != nil {
		return err
	}
	if err := m.ring(ctx, old, true); err != nil {
		return err
	}
	if pending { // an item that cannot be read yet has no outcome: listed stays
		return nil
	}
	return m.complete(ctx, list, clock)
}

func containsItem(list []shown, item string) bool {
	return slices.ContainsFunc(list, func(s shown) bool { return s.item == item })
}

// pages lists the Inbox newest first, back to since, or to a clock that fell behind it. A further page starts with an item
// already seen, else the listing starts again.
func (m *mailbox) pages(ctx context.Context) ([]shown, time.Time, error) {
	for range maxRestarts {
		list, clock, whole, err := m.tryPages(ctx)
		if whole || err != nil {
			return list, clock, err
		}
	}
	return nil, time.Time{}, &fault.Error{Op: "FindItem", Code: "pages", Text: "the Inbox changes faster than it can be listed", Scope: fault.Mailbox, Remedy: fault.Wait}
}

func (m *mailbox) tryPages(ctx context.Context) (list []shown, clock time.Time, whole bool, err error) {
	seen := map[string]bool{}
	var from int64
	limit := firstPage
	for offset := 0; ; {
		if m.l.stopping.Load() {
			return nil, clock, false, errStopping
		}
		p, at, err := m.page(ctx, offset, limit)
		if err != nil {
			return nil, clock, false, err
		}
		if offset == 0 {
			if err := m.start(ctx, at); err != nil {
				return nil, at, false, err
			}
			clock, from = at, min(m.box.Record().Since, at.Unix())
		} else if len(p.Messages) == 0 || !seen[p.Messages[0].ItemID] || len(p.Messages) == overlap && !p.Last {
			return nil, clock, false, nil
		}
		for _, msg := range p.Messages {
			if msg.Received.Unix() < from || len(list) >= maxListed && clock.Sub(msg.Received) > subscriptions.Window {
				return list, clock, true, nil
			}
			if !seen[msg.ItemID] {
				seen[msg.ItemID] = true
				list = append(list, shown{subscriptions.Shown{Key: m.key(&msg), Received: msg.Received}, msg.ItemID})
			}
		}
		if p.Last || len(p.Messages) == 0 {
			return list, clock, true, nil
		}
		offset += len(p.Messages) - overlap
		limit = nextPage
	}
}

func (m *mailbox) page(ctx context.Context, offset, limit int) (Page, time.Time, error) {
	a, p := m.where()
	if a == nil {
		return Page{}, time.Time{}, errStopping
	}
	if err := a.allowed(); err != nil {
		return Page{}, time.Time{}, err
	}
	page, err := a.Source.List(ctx, p, offset, limit)
	if a.note(err) != nil {
		return Page{}, time.Time{}, err
	}
	return page, m.answered(a, page.Clock), nil
}

// start gives the record and the devices that enrolled before the server's clock was known their place on it (rule 5).
func (m *mailbox) start(ctx context.Context, clock time.Time) error {
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
		for _, d := range draft.Devices {
			if d.Since.IsZero() {
				d.Since = d.Created.Add(skew - time.Minute).Truncate(time.Second)
				draft.Put(d)
			}
			if d.Since.Before(first) {
				first = d.Since
			}
		}
		if !draft.Started() {
			draft.Start(first)
		}
	})
}

// sort says what is to become of everything shown that has no outcome yet.
func (m *mailbox) sort(list []shown, clock time.Time, hinted map[string]time.Time, r *subscriptions.Record) (late, future, early, fresh, old []due) {
	devices := m.box.Devices()
	for _, s := range list {
		if r.Has(s.Key) || r.Has(m.itemKey(s.item)) {
			continue
		}
		d := due{key: s.Key, item: s.item, received: s.Received, hinted: hinted[s.item]}
		hint := !d.hinted.IsZero()
		switch {
		case !slices.ContainsFunc(devices, func(device *subscriptions.Device) bool { return !before(s.Received, device) }):
			early = append(early, d)
			continue
		case !hint && s.Received.After(clock.Add(subscriptions.Slack)): // rings by its hint only
			future = append(future, d)
		case m.class(d, clock) == tooLate:
			late = append(late, d)
		case m.class(d, clock) == sum:
			old = append(old, d)
		default:
			fresh = append(fresh, d)
		}
		if !hint {
			m.found(s.Received, clock)
		}
	}
	return
}

// found counts a message that no hint came for, and tells the group where one should have come: its stream was open then.
func (m *mailbox) found(received, clock time.Time) {
	m.l.metrics.recovered.Inc()
	m.mu.Lock()
	g, open, since := m.group, m.open, m.since
	m.mu.Unlock()
	age := clock.Sub(received)
	if g == nil || !open || age < hintDelay || age > time.Since(since) {
		return
	}
	m.l.metrics.late.Inc()
	g.missedOne()
}

// ringListed reads and rings what is fresh, newest first. Live mail that comes meanwhile goes before the next batch. pending
// says that something could not be read yet.
func (m *mailbox) ringListed(ctx context.Context, fresh []due) (pending bool, err error) {
	for len(fresh) > 0 {
		if m.l.stopping.Load() {
			return pending, errStopping
		}
		if err := m.readLive(ctx); err != nil {
			return pending, err
		}
		now := fresh[:min(batch, len(fresh))]
		fresh = fresh[len(now):]
		items := make([]string, len(now))
		by := map[string]due{}
		for i, d := range now {
			items[i], by[d.item] = d.item, d
		}
		found, _, err := m.fetch(ctx, items)
		if err != nil {
			return pending, err
		}
		r := m.box.Record()
		var dues, vanished []due
		for _, item := range found {
			d := by[item.ID]
			d.message = item.Message
			if item.Err == nil || gone(item.Err) {
				m.readable(item.ID)
			}
			switch {
			case r.Has(d.key) || r.Has(m.itemKey(d.item)): // a hint was quicker
			case gone(item.Err):
				vanished = append(vanished, d)
			case item.Err != nil && !m.giveUp(item, d):
				pending = true
			default:
				dues = append(dues, d)
			}
		}
		if err := m.settle(ctx, vanished, "gone"); err != nil {
			return pending, err
		}
		if err := m.ring(ctx, dues, false); err != nil {
			return pending, err
		}
	}
	return pending, nil
}

// readLive reads what was hinted while a long listing is dealt with.
func (m *mailbox) readLive(ctx context.Context) error {
	m.mu.Lock()
	hints := m.hints
	m.hints = nil
	m.mu.Unlock()
	if len(hints) == 0 {
		return nil
	}
	doubted := map[string]due{}
	err := m.read(ctx, hints, doubted)
	m.mu.Lock()
	m.putBack(hints, len(doubted) > 0)
	m.mu.Unlock()
	return err
}

// complete is the write at the end of a complete listing, in which listed moves (rules 3 and 4) and enrolments that lie after the
// server's clock are set back to it (rule 5).
func (m *mailbox) complete(ctx context.Context, list []shown, clock time.Time) error {
	seen := make([]subscriptions.Shown, len(list))
	for i, s := range list {
		seen[i] = s.Shown
	}
	earlier := clock
	if now := time.Now(); now.Before(earlier) {
		earlier = now
	}
	expired := 0
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		expired = d.Complete(seen, earlier)
		setBack(d, clock)
	})
	if err != nil {
		return err
	}
	for range expired {
		m.decide(subscriptions.Decision{Outcome: "settled", Reason: "late", At: time.Now()})
	}
	m.l.metrics.listings.Inc()
	m.completed()
	m.catchUpSoon()
	return nil
}

func setBack(d *subscriptions.Draft, clock time.Time) {
	for _, device := range d.Devices {
		if device.Since.After(clock) {
			device.Since = clock.Truncate(time.Second)
			d.Put(device)
		}
	}
}

// restart begins the log anew where the server's clock fell behind since (rule 4): nobody can tell what of this is new.
func (m *mailbox) restart(ctx context.Context, list []shown, clock time.Time) error {
	r := m.box.Record()
	var dues []due
	for _, s := range list {
		if !r.Has(s.Key) {
			dues = append(dues, due{key: s.Key, item: s.item, received: s.Received})
		}
	}
	if err := m.settle(ctx, dues, "clock"); err != nil {
		return err
	}
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		d.Start(clock)
		setBack(d, clock)
	})
	if err != nil {
		return err
	}
	m.completed()
	m.catchUpSoon()
	return nil
}

// settle enters outcomes that are the same for every device: no bell, with a reason.
func (m *mailbox) settle(ctx context.Context, dues []due, reason string) error {
	if len(dues) == 0 {
		return nil
	}
	outcomes := make([]subscriptions.Outcome, len(dues))
	decisions := make([]subscriptions.Decision, len(dues))
	now := time.Now()
	for i, d := range dues {
		outcomes[i] = subscriptions.Outcome{Key: d.key, Received: d.received, Settled: true}
		decisions[i] = subscriptions.Decision{Key: d.key, Outcome: "settled", Reason: reason, Came: d.received, At: now}
	}
	if err := m.write(ctx, func(d *subscriptions.Draft) { d.Enter(outcomes, d.Devices, nil) }); err != nil {
		return err
	}
	m.decide(decisions...)
	return nil
}
