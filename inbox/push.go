package inbox

// One push of an alert, and what its answer asks for: live mail and catch-ups push alike.

import (
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// soonest is when a device that cannot be reached now is tried again at the earliest.
const soonest = 250 * time.Millisecond

// push pushes an alert, if its phone is still enrolled. The push is in flight until landed is called, once its answer is entered: until
// then the device does not catch up. may is asked after the push was counted as in flight. So whoever first forbids pushes and then looks
// at what is in flight misses none: one that is not counted by then does not begin.
func (m *Mailbox) push(a *alert, may func() bool) (answer subscriptions.Answer, begun bool) {
	if !m.enrolled(a) || m.in.stopping.Load() {
		return answer, false
	}
	m.flight.begin(a.line())
	if !may() {
		m.landed(a)
		m.afterPush()
		return answer, false
	}
	answer = m.pushOnce(a)
	m.note(a, answer)
	return answer, true
}

// follow does what answers ask for, now that they are entered. What asks for a write of its own is rare, and does not hold the others.
func (m *Mailbox) follow(list []answered) {
	for _, l := range list {
		if l.answer.Environment == "" && l.answer.Result != subscriptions.Gone {
			m.landed(l.alert)
		} else {
			m.in.crew.run(func() {
				m.obey(l.alert, l.answer)
				m.landed(l.alert)
				m.afterPush()
			})
		}
	}
	m.afterPush()
}

// landed says that the answer of a push is entered.
func (m *Mailbox) landed(a *alert) { m.flight.end(a.line()) }

// afterPush goes on with what waits for a push to end: the catch-up of its device, and the end of a mailbox that was closed meanwhile.
func (m *Mailbox) afterPush() {
	m.catchUpSoon()
	m.in.forget(m)
}

// pushOnce has the sender send an alert, and remembers it where nobody knows whether APNs has it.
func (m *Mailbox) pushOnce(a *alert) subscriptions.Answer {
	a.notification.May = func() bool { return m.enrolled(a) }
	a.notification.Repeat = m.doubts.has(a.line(), a.keys)
	m.debug("alert sent", a.correlation, func() []zap.Field {
		return []zap.Field{zap.String("device", a.device.ID), zap.String("collapse_id", a.notification.CollapseID),
			zap.Stringer("apns_id", a.notification.PushID), zap.Bool("repeat", a.notification.Repeat)}
	})
	answer := m.in.o.Sender.Push(m.in.working, &a.notification)
	m.doubts.note(a.line(), a.keys, answer.Unknown)
	return answer
}

// enrolled says whether the phone of an alert is enrolled for the mailbox, as the same device or as another.
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
		m.moveEnrolment(a.notification.Phone, answer.Environment)
	}
	if answer.Result != subscriptions.Gone {
		return
	}
	d, ok := m.box.Reached(a.line())
	if !ok || !d.Enrolled.Equal(a.notification.Enrolled) { // it has enrolled again since: if it is gone still, APNs says so again
		return
	}
	if err := m.in.o.Unenrol(m.in.working, *d, answer.Reason); err != nil {
		m.in.log.Error("a device that APNs declared gone could not be removed", zap.String("mailbox", m.address()), zap.Error(err))
	}
}

// moveEnrolment moves an enrolment to the environment in which APNs knows its token, unless it was changed meanwhile. Where that cannot be
// written, the answer to the next alert leads here again.
func (m *Mailbox) moveEnrolment(was subscriptions.Phone, environment string) {
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

// nextTry is when a device that cannot be reached now is tried again; zero: when the sender says that it is ready.
func nextTry(a subscriptions.Answer) time.Time {
	if a.Next.IsZero() {
		return a.Next
	}
	if soon := time.Now().Add(soonest); a.Next.Before(soon) {
		return soon
	}
	return a.Next
}

// note keeps an answer as a decision, counts it, and tells of an alert that is lost.
func (m *Mailbox) note(a *alert, answer subscriptions.Answer) {
	d := subscriptions.Decision{Key: a.keys[0], Device: a.device.ID, Reason: answer.Reason, Came: a.received, At: answer.At,
		PushID: a.notification.PushID, Status: answer.Status, Correlation: a.correlation}
	if d.At.IsZero() {
		d.At = time.Now()
	}
	switch answer.Result {
	case subscriptions.Accepted:
		d.Outcome, d.Reason = outcome.Accepted, a.reason
		if !a.hinted.IsZero() {
			m.in.metrics.alert.Observe(d.At.Sub(a.hinted).Seconds())
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
