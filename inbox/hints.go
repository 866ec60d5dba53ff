package inbox

// Reading what hints named (rule 2).

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// batch is how many items are read, and their alerts sent, together: the most that Exchange advises for one GetItem.
const batch = 10

// due is a message whose turn has come.
type due struct {
	key      mail.Key
	item     string
	received time.Time     // as it is believed (rule 4), on the server's clock
	hinted   time.Time     // on ours, as hintTime has it; zero: no hint named it
	message  *mail.Message // nil: not read yet, or it cannot be
	givenUp  bool          // it was given up as unreadable

	correlation subscriptions.Correlation
}

func newestFirst(dues []due) {
	slices.SortStableFunc(dues, func(a, b due) int { return b.received.Compare(a.received) })
}

// notSent is the decision that no alert of the message is sent, to a device or, where that is empty, to any.
func (d due) notSent(device string, reason outcome.Reason) subscriptions.Decision {
	return subscriptions.Decision{Key: d.key, Device: device, Outcome: outcome.NotSent, Reason: reason, Came: d.received, At: time.Now(), Correlation: d.correlation}
}

// view is what the log and the clocks say of the message, for a device that gets alerts since enrolled.
func (m *Mailbox) view(d due, enrolled, clock time.Time) alerts.View {
	return alerts.View{Received: d.received, Hinted: d.hinted, Enrolled: enrolled, Ours: time.Now(), Server: clock, MaxAge: m.in.o.MaxAge}
}

// judge says what becomes of a message for the device that was enrolled first: where that one gets no alert, no device does.
func (m *Mailbox) judge(d due, clock time.Time) (alerts.Verdict, outcome.Reason) {
	var first time.Time
	for _, device := range m.box.Devices() {
		if s := device.Since; !s.IsZero() && (first.IsZero() || s.Before(first)) {
			first = s
		}
	}
	return alerts.Judge(m.view(d, first, clock))
}

// readHints deals with the items that hints named, and drops them from hints. Those whose received time is not believed stay there, and are
// returned: a listing has to decide about them.
func (m *Mailbox) readHints(ctx context.Context, id subscriptions.Correlation, link *attachment, hints *hints) (unbelieved []due, err error) {
	for ids := range slices.Chunk(hints.ids(), batch) {
		if m.in.stopping.Load() {
			return unbelieved, errStopping
		}
		found, unread := m.fetch(ctx, id, link, ids)
		if unread != nil && len(found.Items) == 0 {
			return unbelieved, unread
		}
		dues := make([]due, 0, len(found.Items))
		r := m.box.Record()
		for _, item := range found.Items {
			d, ok := m.dueOf(id, link.Source(), item, hints.at(item.ID), found.Clock)
			switch {
			case !ok:
				hints.drop(item.ID)
			case r.Has(d.key) || r.Has(m.itemKey(item.ID)):
				m.duplicate(d)
				hints.drop(item.ID)
			case !believed(d.received, found.Clock, r, m.box.Devices()):
				unbelieved = append(unbelieved, d)
			default:
				dues = append(dues, d)
			}
		}
		if err := m.deal(ctx, link, dues, found.Clock); err != nil {
			return unbelieved, err
		}
		for _, item := range found.Items {
			if !slices.ContainsFunc(unbelieved, func(d due) bool { return d.item == item.ID }) {
				hints.drop(item.ID)
			}
		}
		if unread != nil { // of the other items
			return unbelieved, unread
		}
	}
	return unbelieved, nil
}

// dueOf is the message of an item that a hint named. false: it is gone, or cannot be read or is not found now, and is tried again without
// another hint.
func (m *Mailbox) dueOf(id subscriptions.Correlation, source mail.Source, item Item, at, clock time.Time) (due, bool) {
	d := due{item: item.ID, hinted: at, correlation: id}
	if m.lookAgain(item, at) {
		return d, false
	}
	if (item.Err == nil || gone(item)) && m.unreadable.forget(item.ID) {
		m.List() // as its next try would have done: a listing may wait for this item, and until one is complete no safety poll is planned
	}
	switch {
	case item.Err == nil:
		d.key, d.received, d.message = m.key(item.Message), item.Message.Received, item.Message
		if d.received.IsZero() && source == mail.EWS { // no listing finds such an item; NewMail tells of what has just come
			d.received = clock
		}
		d.hinted = hintTime(source, at, d.received, clock)
		return d, true
	case gone(item):
		m.decide(d.notSent("", outcome.Gone))
		return d, false
	}
	d.key, d.received = m.itemKey(item.ID), clock
	return d, m.box.Record().Has(d.key) || m.giveUp(item, d)
}

// hintTime is the time on our clock from which the age of a hinted message counts (rule 8): that of the hint, but for Graph the received
// time where that is earlier. Graph tells in the same words of a message that was moved or restored into the Inbox. Zero: no hint named it.
func hintTime(source mail.Source, hinted, received, clock time.Time) time.Time {
	if source != mail.Graph || hinted.IsZero() {
		return hinted
	}
	if ours := received.Add(time.Since(clock)); ours.Before(hinted) {
		return ours
	}
	return hinted
}

func gone(item Item) bool { return item.Err != nil && fault.Of(item.Err).Gone }

// missing says whether an item that is gone was only not found: another front end may have it. One that its server has found elsewhere is gone for good.
func missing(item Item) bool { return gone(item) && fault.Of(item.Err).Remedy != fault.GiveUp }

// believed says whether a received time that only a read has told can decide (rule 4). One that would decide against an alert cannot: some
// servers tell the sender's Date there.
func believed(received, clock time.Time, r *subscriptions.Record, devices []*subscriptions.Device) bool {
	if !r.Started() || received.Unix() < r.Since || received.After(clock.Add(mail.Tolerance)) {
		return false
	}
	return !slices.ContainsFunc(devices, func(d *subscriptions.Device) bool { return before(received, d) })
}

// before says whether a message is from before an enrolment (rule 5). Each one is, as long as the time of the enrolment on the server's
// clock is not known.
func before(received time.Time, d *subscriptions.Device) bool {
	return d.Since.IsZero() || received.Unix() < d.Since.Unix()
}

// deal sends the alerts of messages that were read, and enters those that lead to none.
func (m *Mailbox) deal(ctx context.Context, link *attachment, dues []due, clock time.Time) error {
	var none []skipped
	dues = slices.DeleteFunc(dues, func(d due) bool {
		verdict, reason := m.judge(d, clock)
		if verdict == alerts.Skip {
			none = append(none, skipped{d, reason})
		}
		return verdict == alerts.Skip
	})
	if err := m.send(ctx, link, dues, clock); err != nil {
		return err
	}
	return m.skip(ctx, none)
}

// skipped is a message that leads to no alert on any device.
type skipped struct {
	due
	reason outcome.Reason
}

// sortOut says what becomes of messages: an alert each, one alert for all that grew old, or none.
func (m *Mailbox) sortOut(dues []due, clock time.Time) (fresh, old []due, none []skipped) {
	for _, d := range dues {
		switch verdict, reason := m.judge(d, clock); verdict {
		case alerts.Send:
			fresh = append(fresh, d)
		case alerts.SumUp:
			old = append(old, d)
		case alerts.Skip:
			none = append(none, skipped{d, reason})
		}
	}
	return fresh, old, none
}

// skip enters outcomes that are the same for every device: no alert, for a reason.
func (m *Mailbox) skip(ctx context.Context, list []skipped) error {
	if len(list) == 0 {
		return nil
	}
	outcomes := make([]subscriptions.Outcome, len(list))
	decisions := make([]subscriptions.Decision, len(list))
	for i, s := range list {
		outcomes[i] = subscriptions.Outcome{Key: s.key, Received: s.received, ForAll: true}
		decisions[i] = s.notSent("", s.reason)
	}
	if err := m.write(ctx, func(d *subscriptions.Draft) { d.Enter(outcomes, d.Devices, nil) }); err != nil {
		return err
	}
	m.decide(decisions...)
	return nil
}

// fetch is the function fetch, with a line in the log.
func (m *Mailbox) fetch(ctx context.Context, id subscriptions.Correlation, link Link, ids []string) (Items, error) {
	began := time.Now()
	found, err := fetch(ctx, link, ids)
	m.debug("messages read", id, func() []zap.Field {
		return []zap.Field{zap.Int("messages", len(ids)), zap.Duration("took", time.Since(began)), zap.Error(err)}
	})
	return found, err
}

// fetch reads items. An error of one item is in that Item; with an error of the call come the items that it does not concern. Items whose
// answer cannot be read as a whole are read one by one, so that one sick message does not hide the others.
func fetch(ctx context.Context, link Link, ids []string) (Items, error) {
	found, err := link.Read(ctx, ids)
	if err == nil || fault.Of(err).Scope != fault.Message {
		return found, err
	}
	if len(ids) == 1 {
		return Items{Items: []Item{{ID: ids[0], Err: err}}, Clock: found.Clock}, nil
	}
	all := Items{}
	for _, id := range ids {
		one, err := fetch(ctx, link, []string{id})
		if err != nil {
			return all, err
		}
		all.Items = append(all.Items, one.Items...)
		all.Clock = one.Clock
	}
	return all, nil
}
