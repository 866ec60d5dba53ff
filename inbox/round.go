package inbox

// Sending the alerts of some messages to the devices in step, and the one write of what became of them (rules 2, 5, 6, 8).

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// writeAfter is how long after the first acceptance the outcome is written at the latest (rule 6): what APNs had answered a
	// second before a kill is never sent again.
	writeAfter = 500 * time.Millisecond
	// firstAnswer is how long a round waits for a first answer. A device that has none by then is behind, and the mailbox goes on.
	firstAnswer = 5 * time.Second
	// expires is how long APNs keeps an alert for a phone that is off: older mail leads to no alert.
	expires = alerts.Window
	// soonest is when a device that cannot be reached now is tried again at the earliest.
	soonest = 250 * time.Millisecond
)

// alert is one alert for one device.
type alert struct {
	device       *subscriptions.Device
	keys         []mail.Key // newest first; several are summed up
	came         time.Time
	told         time.Time      // when a notification named its message; zero: none did
	reason       outcome.Reason // why it says less than it could
	id           subscriptions.Correlation
	notification subscriptions.Notification
}

// topic of the phone that it is for.
func (a *alert) topic() topicOf {
	return topicOf{a.notification.Phone.Topic, a.notification.Phone.Environment}
}

// line is the phone that it is for.
func (a *alert) line() subscriptions.Line { return a.notification.Phone.Line() }

// send decides about messages for the devices in step, sends the alerts, and enters the outcomes: one call and one write.
func (m *Mailbox) send(ctx context.Context, link *attachment, dues []due, clock time.Time) error {
	record := m.box.Record()
	dues = m.once(dues, record)
	if len(dues) == 0 {
		return nil
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	newestFirst(dues)
	r := newRound(m.in.accepting)
	m.last.message.Store(time.Now().UnixNano()) // before a decision about it can be seen
	devices := slices.DeleteFunc(slices.Clone(m.box.Devices()), func(d *subscriptions.Device) bool {
		return record.BehindOf(d.ID) != nil // live mail passes it by
	})
	sending, ok := link.lane.send(ctx, len(devices)*len(dues))
	if !ok {
		return ctx.Err()
	}
	defer sending.end()
	list := make([]alert, 0, len(devices)*len(dues))
	for _, device := range devices {
		list = m.alertsFor(list, device, link.Source(), dues, clock, r.skip)
	}
	m.pushAll(ctx, r, list)
	err := m.enter(ctx, r, dues)
	m.debug("outcomes recorded", dues[0].id, func() []zap.Field {
		return []zap.Field{zap.Int("messages", len(dues)), zap.Int("alerts", len(list)), zap.Error(err)}
	})
	return err
}

// once leaves each message that has no outcome yet, and of several copies one. Live mail is read while a listing is dealt with.
func (m *Mailbox) once(dues []due, record *subscriptions.Record) []due {
	keys := map[mail.Key]bool{}
	return slices.DeleteFunc(dues, func(d due) bool {
		if record.Has(d.key) || keys[d.key] {
			m.duplicate(d)
			return true
		}
		keys[d.key] = true
		m.seen.add(m.in.hash(d.item))
		if m.in.o.Observer != nil && d.message != nil {
			m.in.o.Observer.Read(d.key, d.message)
		}
		return false
	})
}

// alertsFor adds what there is for one device, the newest first: an alert for each message, and one for all that grew old. skip is told
// of each that leads to none.
func (m *Mailbox) alertsFor(
	list []alert, device *subscriptions.Device, source mail.Source, dues []due, clock time.Time, skip func(device string, k mail.Key),
) []alert {
	var old []mail.Key
	var newest due
	for _, d := range dues {
		switch decision := alerts.Decide(m.caseOf(device, source, d, clock)); decision.Verdict {
		case alerts.Skip:
			skip(device.ID, d.key)
			m.decide(d.notSent(device.ID, decision.Reason))
		case alerts.SumUp:
			if len(old) == 0 {
				newest = d
			}
			old = append(old, d.key)
		case alerts.Send:
			list = append(list, m.alert(device, []mail.Key{d.key}, d.received, d.id, decision))
			list[len(list)-1].told = d.hinted
		}
	}
	if len(old) > 0 {
		list = append(list, m.summary(device, old, newest.received, newest.id))
	}
	return list
}

// caseOf is a message for a device, as it is decided about.
func (m *Mailbox) caseOf(device *subscriptions.Device, source mail.Source, d due, clock time.Time) alerts.Case {
	c := alerts.Case{View: m.view(d, device.Since, clock), Device: m.shown(device), Key: d.key, Message: d.message, Source: source}
	if d.message != nil {
		c.Thread = m.in.secret.Thread(device.Record, d.message.Thread)
	}
	return c
}

// shown is what a device may see.
func (m *Mailbox) shown(device *subscriptions.Device) alerts.Device {
	return alerts.Device{ID: device.ID, Content: m.in.o.Content}
}

// alert of one message.
func (m *Mailbox) alert(device *subscriptions.Device, keys []mail.Key, came time.Time, id subscriptions.Correlation, d alerts.Decision) alert {
	return alert{device: device, keys: keys, came: came, reason: d.Reason, id: id, notification: subscriptions.Notification{
		Device: device.ID, Phone: device.Phone(), Enrolled: device.Enrolled,
		PushID: m.in.secret.PushID(keys[0], device.Token, device.Topic), CollapseID: keys[0].String(),
		Expires: time.Now().Add(expires), Payload: d.Payload, Smaller: d.Smaller,
	}}
}

// summary is the alert that sums up several messages. All summaries of a mailbox on a phone replace each other, and each is a push of its
// own (rule 8).
func (m *Mailbox) summary(device *subscriptions.Device, keys []mail.Key, newest time.Time, id subscriptions.Correlation) alert {
	a := m.alert(device, keys, newest, id, alerts.Summarize(m.shown(device), keys))
	key := m.in.secret.SummaryKey(device.Record)
	a.notification.CollapseID = key.String()
	a.notification.PushID = m.in.secret.PushID(key, device.Token, device.Topic, keys[0].String(), strconv.Itoa(len(keys)))
	return a
}

// round is the sending of the alerts of some messages. Answers that come once its outcome is drafted are late: they enter the record by
// themselves.
type round struct {
	accepting *alarm        // after writeAfter
	over      chan struct{} // closed with the round

	mu       sync.Mutex
	closed   bool // no push begins any more, and none is waited for
	drafted  bool // an answer is late from now on
	accepted bool
	left     int                                         // pushes without an answer
	write    uint64                                      // the call of accepting, once one is accepted
	sent     []answered                                  // what came in time
	late     []answered                                  // what came after the draft, and before its write had ended
	entered  bool                                        // it has ended
	none     map[unsent]struct{}                         // alerts that there are not; nil: every device has one of every message
	held     map[subscriptions.Line]subscriptions.Answer // of phones that cannot be reached now; nil: there are none
}

// answered is an alert with the answer to it.
type answered struct {
	*alert
	answer subscriptions.Answer
}

// unsent is a message of which there is no alert for a device.
type unsent struct {
	device string
	key    mail.Key
}

func newRound(accepting *alarm) *round {
	return &round{accepting: accepting, over: make(chan struct{})}
}

// open says whether a push may still begin: after the write the device is behind, and its catch-up sends.
func (r *round) open() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed
}

func (r *round) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

// closeUnanswered closes a round in which nothing is accepted yet.
func (r *round) closeUnanswered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.accepted {
		r.closeLocked()
	}
}

func (r *round) closeLocked() {
	if !r.closed {
		r.closed = true
		close(r.over)
	}
}

// skip notes that there is no alert of a message for a device.
func (r *round) skip(device string, k mail.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.none == nil {
		r.none = map[unsent]struct{}{}
	}
	r.none[unsent{device, k}] = struct{}{}
}

// settlement is that a phone has an acceptance of a message, or a refusal for good.
type settlement struct {
	line subscriptions.Line
	key  mail.Key
}

func (s settlement) compare(other settlement) int {
	return cmp.Or(cmp.Compare(s.line.Token, other.line.Token), cmp.Compare(s.line.Topic, other.line.Topic), bytes.Compare(s.key[:], other.key[:]))
}

// settled are the settlements of what was sent, in their order. It is called with mu held.
func (r *round) settled() []settlement {
	list := make([]settlement, 0, len(r.sent))
	for _, s := range r.sent {
		if s.answer.Result == subscriptions.NotBefore {
			continue
		}
		for _, k := range s.keys {
			list = append(list, settlement{s.line(), k})
		}
	}
	slices.SortFunc(list, settlement.compare)
	return list
}

// outcomes are those of messages: which devices have an acceptance of each, or a reason why not, as enrolled now, for an answer belongs to
// its phone. It is called with mu held.
func (r *round) outcomes(dues []due, devices []*subscriptions.Device) []subscriptions.Outcome {
	settled := r.settled()
	list := make([]subscriptions.Outcome, len(dues))
	for i, due := range dues {
		done := func(d *subscriptions.Device) bool {
			_, answered := slices.BinarySearchFunc(settled, settlement{d.Phone().Line(), due.key}, settlement.compare)
			_, none := r.none[unsent{d.ID, due.key}]
			return answered || none
		}
		missing := slices.ContainsFunc(devices, func(d *subscriptions.Device) bool { return !done(d) })
		list[i] = subscriptions.Outcome{Key: due.key, Received: due.received, ForAll: !missing}
		if missing {
			list[i].Done = map[string]struct{}{}
			for _, d := range devices {
				if done(d) {
					list[i].Done[d.ID] = struct{}{}
				}
			}
		}
	}
	return list
}

// answer takes an answer in; false: it is late.
func (r *round) answer(a *alert, answer subscriptions.Answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drafted {
		return false
	}
	r.sent = append(r.sent, answered{a, answer})
	r.note(a, answer)
	return true
}

// awaits keeps a late answer until the outcome is written: it is entered into that. false: it is written.
func (r *round) awaits(a *alert, answer subscriptions.Answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.entered {
		r.late = append(r.late, answered{a, answer})
	}
	return !r.entered
}

// note is called with mu held.
func (r *round) note(a *alert, answer subscriptions.Answer) {
	switch answer.Result {
	case subscriptions.NotBefore:
		if r.held == nil {
			r.held = map[subscriptions.Line]subscriptions.Answer{}
		}
		r.held[a.line()] = answer
	case subscriptions.Accepted:
		if !r.accepted && !r.closed && r.left > 1 { // the last answer ends the round by itself
			r.write = r.accepting.set(r.close)
		}
		r.accepted = true
	case subscriptions.Refused, subscriptions.Gone:
	}
}

// leave counts a push out, with its answer or without.
func (r *round) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left--
	if r.left == 0 {
		r.closeLocked()
	}
}

// stopped takes in that a push does not begin because mailbell is stopping: the device is behind, and the next start goes on there.
func (r *round) stopped(a *alert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.drafted {
		r.note(a, subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Stopping, Next: time.Now()})
	}
}

// pushAll begins the pushes of a round and waits: for all answers, half a second from the first acceptance, or for as long as a first
// answer may take. Then the round is closed.
func (m *Mailbox) pushAll(ctx context.Context, r *round, list []alert) {
	defer r.close()
	if len(list) == 0 {
		return
	}
	r.left = len(list)
	r.sent = make([]answered, 0, len(list))
	unanswered := m.in.answering.set(r.closeUnanswered)
	for i := range list {
		a := &list[i]
		m.in.pushersOf(a.topic()).push(true, func() { m.pushInRound(ctx, r, a) })
	}
	<-r.over
	m.in.answering.callOff(unanswered)
	r.accepting.callOff(r.write)
}

// pushInRound pushes one alert and takes its answer in, however late it comes. The write of the round holds what comes in time.
func (m *Mailbox) pushInRound(ctx context.Context, r *round, a *alert) {
	defer r.leave()
	answer, begun := m.push(a, r.open)
	switch {
	case !begun && m.in.stopping.Load():
		r.stopped(a)
	case begun && !r.answer(a, answer) && !r.awaits(a, answer):
		m.enterLate(ctx, a, answer, func() {})
	}
}

// push pushes an alert, if its device is still enrolled. It is in flight until landed is called, once its answer is entered: until then
// nothing else is sent to the device. may is asked once the push is counted: whoever looks then either sees it, or has kept it from
// beginning.
func (m *Mailbox) push(a *alert, may func() bool) (answer subscriptions.Answer, begun bool) {
	if !m.enrolled(a) || m.in.stopping.Load() {
		return answer, false
	}
	m.flight.begin(a.line())
	if !may() {
		m.landed(a)
		m.settled()
		return answer, false
	}
	answer = m.pushOnce(a)
	m.note(a, answer)
	return answer, true
}

// follow does what answers ask for, now that they are entered.
func (m *Mailbox) follow(list []answered) {
	for _, l := range list {
		if l.answer.Environment == "" && l.answer.Result != subscriptions.Gone {
			m.landed(l.alert)
		} else {
			m.obeySoon(l)
		}
	}
	m.settled()
}

// obeySoon does what an answer asks for beyond the outcome: that is a write of its own, and rare.
func (m *Mailbox) obeySoon(l answered) {
	m.in.crew.run(func() {
		m.obey(l.alert, l.answer)
		m.landed(l.alert)
		m.settled()
	})
}

// landed says that the answer of a push is entered.
func (m *Mailbox) landed(a *alert) { m.flight.end(a.line()) }

// settled goes on with what waited for pushes: the catching up of their devices, and nobody else's, and the end of a mailbox whose last
// device was removed meanwhile.
func (m *Mailbox) settled() {
	m.catchUpSoon()
	m.in.forget(m)
}

// pushOnce has the sender send an alert, and remembers where APNs may have it all the same.
func (m *Mailbox) pushOnce(a *alert) subscriptions.Answer {
	a.notification.May = func() bool { return m.enrolled(a) }
	a.notification.Repeat = m.doubts.has(a.line(), a.keys)
	m.debug("alert sent", a.id, func() []zap.Field {
		return []zap.Field{zap.String("device", a.device.ID), zap.String("collapse_id", a.notification.CollapseID),
			zap.Stringer("apns_id", a.notification.PushID), zap.Bool("repeat", a.notification.Repeat)}
	})
	answer := m.in.o.Sender.Push(m.in.working, &a.notification)
	m.doubts.settle(a.line(), a.keys, answer.Unknown)
	return answer
}

// enrolled says whether the phone of an alert is enrolled for the mailbox, as the device that it was or as another.
func (m *Mailbox) enrolled(a *alert) bool {
	if d, ok := m.box.Device(a.device.ID); ok && d.Phone().Line() == a.line() {
		return true
	}
	_, ok := m.box.Reached(a.line())
	return ok
}

// obey does what an answer asks for beyond the outcome.
func (m *Mailbox) obey(a *alert, answer subscriptions.Answer) {
	if answer.Environment != "" {
		m.environment(a.notification.Phone, answer.Environment)
	}
	if answer.Result != subscriptions.Gone {
		return
	}
	d, ok := m.box.Reached(a.line())
	if !ok || !d.Enrolled.Equal(a.notification.Enrolled) { // it has enrolled anew since: APNs tells it again where that is no better
		return
	}
	if err := m.in.o.Unenrol(m.in.working, *d, answer.Reason); err != nil {
		m.in.log.Error("a device that APNs declared gone could not be removed", zap.String("mailbox", m.address()), zap.Error(err))
	}
}

// environment moves an enrolment to where APNs knows its token, unless it was changed meanwhile. It is tried again with the next
// alert where it could not be written.
func (m *Mailbox) environment(was subscriptions.Phone, environment string) {
	moved := ""
	err := m.box.Update(m.in.working, func(d *subscriptions.Draft) {
		for _, device := range d.Devices {
			if device.Phone() == was {
				there := *device
				there.Environment = environment
				d.Put(there)
				moved = device.ID
			}
		}
	})
	if err == nil && moved != "" {
		m.in.log.Info("a device was enrolled for the wrong environment of APNs", zap.String("device", moved), zap.String("moved_to", environment))
	}
}

// enter is the one write of what became of the messages of a round. Who is behind is decided in it.
func (m *Mailbox) enter(ctx context.Context, r *round, dues []due) error {
	err := m.write(ctx, func(d *subscriptions.Draft) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drafted = true
		var lines map[string]subscriptions.Line
		d.Enter(r.outcomes(dues, d.Devices), d.Devices, func(id string) (outcome.Reason, time.Time) {
			if lines == nil { // a device is behind, and so may a thousand be
				lines = linesOf(d.Devices)
			}
			return m.why(r, lines[id])
		})
	})
	r.mu.Lock()
	r.drafted, r.entered = true, true
	held, sent, late := r.held, r.sent, r.late
	r.mu.Unlock()
	if err == nil {
		for line, answer := range held { // nothing is added to it any more
			m.await(line, answer)
		}
	}
	m.follow(sent)
	for _, l := range late {
		m.enterLate(ctx, l.alert, l.answer, func() {})
	}
	return err
}

// linesOf devices, by their ids.
func linesOf(devices []*subscriptions.Device) map[string]subscriptions.Line {
	lines := make(map[string]subscriptions.Line, len(devices))
	for _, d := range devices {
		lines[d.ID] = d.Phone().Line()
	}
	return lines
}

// why says why a device is behind: as the sender answered, or because no answer had come when the outcome was written.
func (m *Mailbox) why(r *round, l subscriptions.Line) (outcome.Reason, time.Time) {
	if answer, ok := r.held[l]; ok {
		return answer.Reason, again(answer)
	}
	if m.flight.has(l) {
		return outcome.Unanswered, time.Time{}
	}
	return outcome.Enrolled, time.Time{} // it came, or caught up, while the alerts were sent
}

// again is when a device that cannot be reached now is tried again; zero: when the sender says that it is ready.
func again(a subscriptions.Answer) time.Time {
	if a.Next.IsZero() {
		return a.Next
	}
	if soon := time.Now().Add(soonest); a.Next.Before(soon) {
		return soon
	}
	return a.Next
}

// note keeps the decision that an answer is.
func (m *Mailbox) note(a *alert, answer subscriptions.Answer) {
	d := subscriptions.Decision{Key: a.keys[0], Device: a.device.ID, Reason: answer.Reason, Came: a.came, At: answer.At,
		PushID: a.notification.PushID, Status: answer.Status, Correlation: a.id}
	if d.At.IsZero() {
		d.At = time.Now()
	}
	switch answer.Result {
	case subscriptions.Accepted:
		d.Outcome, d.Reason = outcome.Accepted, a.reason
		if !a.told.IsZero() {
			m.in.metrics.alert.Observe(d.At.Sub(a.told).Seconds())
		}
	case subscriptions.Refused, subscriptions.Gone:
		d.Outcome = outcome.Refused
		if m.in.o.Lost != nil {
			m.in.o.Lost(*a.device, d)
		}
	case subscriptions.NotBefore:
		d.Outcome = outcome.Behind
	}
	m.decide(d)
}
