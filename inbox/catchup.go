package inbox

// The devices that are behind, and their catching up from the mailbox, outside its worker (rule 6).

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// postponed is the least time until devices are tried again whose mailbox could not be read.
const postponed = 5 * time.Second

// owedAgain are the pauses after which a message that a device is owed, and that cannot be read, is read again.
var owedAgain = [...]time.Duration{time.Second, 3 * time.Second}

// behind are the devices that are behind, without those that have something in flight: they wait for its answer.
func (m *Mailbox) behind() []subscriptions.Behind {
	list := m.box.Record().Behind
	if len(list) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(list), func(b subscriptions.Behind) bool {
		d, ok := m.box.Device(b.Device)
		return !ok || m.flight.has(d.Phone().Line())
	})
}

// await has the device of a phone wait until the sender tells that its topic is ready, where the answer asks for that. The sender may have
// told it before this, so it is asked. The wait is in memory only: the process that is started next tries the device at once.
func (m *Mailbox) await(l subscriptions.Line, a subscriptions.Answer) {
	d, ok := m.box.Reached(l)
	if !ok || a.Result != subscriptions.NotBefore || !a.Next.IsZero() {
		return
	}
	m.waiting.until(d.ID, time.Now().Add(unsignalled))
	if m.in.o.Sender.Ready(d.Topic, d.Environment) {
		m.topicReady(d.Topic, d.Environment)
	}
}

// topicReady ends the waiting of the devices of a topic (rule 12).
func (m *Mailbox) topicReady(topic, environment string) {
	ready := m.waiting.forgetAll(func(device string) bool {
		d, ok := m.box.Device(device)
		return !ok || d.Topic == topic && d.Environment == environment
	})
	if ready {
		m.catchUpSoon()
	}
}

// catchUpSoon sees to it that the devices behind catch up when their reasons have ended. It is called whenever one may have ended.
func (m *Mailbox) catchUpSoon() {
	link := m.link.Load()
	if link == nil || !m.waiting.begin(m.behind(), m.catchUpSoon) {
		return
	}
	if !m.in.run(func() { m.catchUp(m.in.working) }) {
		m.waiting.end()
	}
}

// catchUp catches up the devices whose time has come, until there are none.
func (m *Mailbox) catchUp(ctx context.Context) {
	link := m.link.Load()
	if leave, ok := link.lane.enterCatchUp(ctx); ok {
		m.catchUpReady(ctx, link)
		leave()
	}
	m.waiting.end()
	m.catchUpSoon()
	m.in.forget(m)
}

func (m *Mailbox) catchUpReady(ctx context.Context, link *attachment) {
	for !m.in.stopping.Load() {
		ready := m.waiting.ready(m.behind())
		if len(ready) == 0 {
			return
		}
		if err := m.catchUpOnce(ctx, link, ready); err != nil {
			if m.link.Load() != link { // it has moved meanwhile
				f := *fault.Of(err)
				f.Remedy, f.After = fault.Retry, 0
				err = &f
			}
			m.waiting.failures++
			m.postpone(ctx, ready, err)
			return
		}
		m.waiting.failures = 0
	}
}

// postpone holds devices whose mailbox could not be read, for as long as its worker would wait.
func (m *Mailbox) postpone(ctx context.Context, ready []subscriptions.Behind, err error) {
	if errors.Is(err, errStopping) || errors.Is(err, subscriptions.ErrNoMailbox) || ctx.Err() != nil {
		return
	}
	next := time.Now().Add(max(fault.Of(err).Pause(m.waiting.failures), postponed))
	m.in.log.Info("devices could not catch up", zap.String("mailbox", m.address()), zap.Int("devices", len(ready)), zap.Error(err))
	_ = m.write(ctx, func(d *subscriptions.Draft) { // it fails only where nothing of the mailbox catches up here any more
		for _, b := range ready {
			if now := d.BehindOf(b.Device); now != nil && !now.Next.After(time.Now()) { // else an answer has named a later time
				d.Hold(b.Device, outcome.MailboxFailing, next)
			}
		}
	})
}

// releaseSoon has the devices catch up that were held because the mailbox could not be read.
func (m *Mailbox) releaseSoon() {
	held := func(b subscriptions.Behind) bool { return b.Reason == outcome.MailboxFailing && !b.Next.IsZero() }
	if !slices.ContainsFunc(m.box.Record().Behind, held) {
		return
	}
	m.in.run(func() {
		if m.box.Update(m.in.working, func(d *subscriptions.Draft) { d.Release() }) == nil { // else they wait until their time has come
			m.catchUpSoon()
		}
	})
}

// owed is what one device that catches up is owed.
type owed struct {
	device  *subscriptions.Device
	fresh   []due       // an alert each
	old     []due       // one alert for all
	stopped atomic.Bool // one of its alerts could not be sent now: the others wait with it
}

// catchUpOnce notes the end of the log, then lists the mailbox: what is numbered after a device's number and up to that end is sent,
// newest first, or summed up; what the listing does not show is gone. Then the device stands at that end.
func (m *Mailbox) catchUpOnce(ctx context.Context, link *attachment, ready []subscriptions.Behind) error {
	lines := linesOf(m.box.Devices()) // before the record: a device that takes over another phone may be owed what that one was
	r := m.box.Record()
	id := m.in.correlation()
	m.debug("catching up begins", id, func() []zap.Field { return []zap.Field{zap.Int("devices", len(ready))} })
	list, clock, err := m.pages(ctx, id, link.List)
	if err != nil {
		return err
	}
	byKey := m.byKey(list)
	var devices []*owed
	for _, b := range ready {
		device, ok := m.box.Device(b.Device)
		now := r.BehindOf(b.Device) // an answer may have been entered since it was found to be behind
		if ok && now != nil && lines[b.Device] == device.Phone().Line() {
			devices = append(devices, m.owed(id, device, r.Owed(now, r.End), byKey, clock))
		}
	}
	for some := range slices.Chunk(freshOf(devices), batch) {
		if err := m.sendOwed(ctx, link, some, devices, clock); err != nil {
			return err
		}
	}
	if err := m.sendSummaries(ctx, devices, id); err != nil {
		return err
	}
	return m.write(ctx, func(d *subscriptions.Draft) {
		lines := linesOf(d.Devices)
		for _, o := range devices {
			if !o.stopped.Load() && lines[o.device.ID] == o.device.Phone().Line() { // else it has another phone, which did not get this
				d.CaughtUp(o.device.ID, r.End)
			}
		}
	})
}

// byKey are the messages of a listing by the keys under which the log may have them.
func (m *Mailbox) byKey(list []shown) map[uint64]shown {
	byKey := map[uint64]shown{}
	for _, s := range list {
		byKey[s.Key.Short()] = s
		s.Key = m.itemKey(s.item) // of one that could not be read
		byKey[s.Key.Short()] = s
	}
	return byKey
}

// sendSummaries sends each device one alert for all that grew old.
func (m *Mailbox) sendSummaries(ctx context.Context, devices []*owed, id subscriptions.Correlation) error {
	if err := m.writable(ctx); err != nil {
		return err
	}
	var pushes sync.WaitGroup
	for _, o := range devices {
		if len(o.old) > 0 && !o.stopped.Load() {
			m.pushOwed(ctx, o, m.summary(o.device, keysOf(o.old), o.old[0].received, id), &pushes)
		}
	}
	pushes.Wait()
	return nil
}

// owed sorts out what a device gets of the entries that it has no outcome for. Where it gets no alert, the reason is kept as a decision.
func (m *Mailbox) owed(
	id subscriptions.Correlation, device *subscriptions.Device, entries []subscriptions.Entry, byKey map[uint64]shown, clock time.Time,
) *owed {
	o := &owed{device: device}
	for _, e := range entries {
		s, seen := byKey[e.Key]
		d := due{key: s.Key, item: s.item, received: s.Received, givenUp: seen && e.Key == m.itemKey(s.item).Short(), correlation: id}
		view := m.view(d, device.Since, clock)
		view.Gone = !seen
		switch verdict, reason := alerts.Judge(view); verdict {
		case alerts.Send:
			o.fresh = append(o.fresh, d)
		case alerts.SumUp:
			o.old = append(o.old, d)
		case alerts.Skip:
			m.decide(d.notSent(device.ID, reason))
		}
	}
	newestFirst(o.old)
	return o
}

func keysOf(dues []due) []mail.Key {
	keys := make([]mail.Key, len(dues))
	for i, d := range dues {
		keys[i] = d.key
	}
	return keys
}

// freshOf are the messages of which devices get an alert of its own, each once, newest first.
func freshOf(devices []*owed) (dues []due) {
	seen := map[mail.Key]bool{}
	for _, o := range devices {
		for _, d := range o.fresh {
			if !seen[d.key] {
				seen[d.key] = true
				dues = append(dues, d)
			}
		}
	}
	newestFirst(dues)
	return dues
}

// sendOwed reads a batch and sends it to the devices that it is owed to.
func (m *Mailbox) sendOwed(ctx context.Context, link *attachment, some []due, devices []*owed, clock time.Time) error {
	if m.in.stopping.Load() {
		return errStopping
	}
	to := recipients(some, devices)
	by := map[string]due{}
	var ids []string
	alertsAtMost := 0
	for _, d := range some {
		if len(to[d.key]) > 0 {
			by[d.item] = d
			ids = append(ids, d.item)
			alertsAtMost += len(to[d.key])
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	found, unread := readOwed(ctx, link, ids, by)
	if len(found.Items) == 0 {
		return unread
	}
	done, ok := link.lane.catchingUp(ctx, alertsAtMost)
	if !ok {
		return ctx.Err()
	}
	defer done()
	var pushes sync.WaitGroup
	for _, item := range found.Items {
		d := by[item.ID]
		d.message = item.Message // nil: one that cannot be read leads to a generic alert
		for _, o := range to[d.key] {
			c := m.caseOf(o.device, link.Source(), d, clock)
			c.View.Gone = gone(item)
			decision := alerts.Decide(c)
			if decision.Verdict != alerts.Send { // it is gone since it was listed
				m.decide(d.notSent(o.device.ID, decision.Reason))
				continue
			}
			m.pushOwed(ctx, o, m.alert(o.device, []mail.Key{d.key}, d.received, d.correlation, decision), &pushes)
		}
	}
	pushes.Wait()
	return unread // of the other items
}

// recipients are the devices that are owed each of some messages and still take alerts, by the message's key.
func recipients(some []due, devices []*owed) map[mail.Key][]*owed {
	to := map[mail.Key][]*owed{}
	for _, o := range devices {
		for _, d := range o.fresh {
			if !o.stopped.Load() && slices.ContainsFunc(some, func(b due) bool { return b.key == d.key }) {
				to[d.key] = append(to[d.key], o)
			}
		}
	}
	return to
}

// readOwed reads what devices are owed. What could be read when it came, and cannot be now, is tried again for seconds only, for these
// devices get no other mail meanwhile. What the listing showed and is not found is looked for once more. With an error come the items that
// it does not concern.
func readOwed(ctx context.Context, link Link, ids []string, by map[string]due) (Items, error) {
	waits := func(item Item) bool { return item.Err != nil && !gone(item) && !by[item.ID].givenUp }
	found, err := fetch(ctx, link, ids)
	for n, wait := range owedAgain {
		var failed []string
		for _, item := range found.Items {
			if waits(item) || n == 0 && missing(item) {
				failed = append(failed, item.ID)
			}
		}
		if err != nil || len(failed) == 0 {
			break
		}
		if !pause.For(ctx, wait) {
			return Items{}, ctx.Err()
		}
		var again Items
		again, err = fetch(ctx, link, failed)
		for _, item := range again.Items {
			i := slices.IndexFunc(found.Items, func(old Item) bool { return old.ID == item.ID })
			found.Items[i] = item
		}
	}
	if err != nil { // all that is open is read once more by the next catch-up
		found.Items = slices.DeleteFunc(found.Items, func(item Item) bool { return waits(item) || missing(item) })
	}
	return found, err
}

// pushOwed has one alert of a catch-up pushed, which counts in pushes until its answer is written.
func (m *Mailbox) pushOwed(ctx context.Context, o *owed, a alert, pushes *sync.WaitGroup) {
	always := func() bool { return true }
	pushes.Add(1)
	m.in.pushersOf(a.app()).push(false, func() {
		if o.stopped.Load() {
			pushes.Done()
			return
		}
		answer, begun := m.push(&a, always)
		if !begun || answer.Result == subscriptions.NotBefore {
			o.stopped.Store(true)
		}
		if !begun {
			pushes.Done()
			return
		}
		m.enterLate(ctx, &a, answer, pushes.Done)
	})
}
