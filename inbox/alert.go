package inbox

// The alerts that messages lead to: made for live mail and for catch-ups alike.

import (
	"strconv"
	"time"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// expires is how long APNs keeps an alert for a phone that is off: older mail leads to no alert.
const expires = mail.Window

// alert is one alert for one device.
type alert struct {
	device       *subscriptions.Device
	keys         []mail.Key     // newest first; several are summed up
	received     time.Time      // when its message was received; of several, the newest
	hinted       time.Time      // when a hint named its message; zero: none did, or it is a summary or owed
	reason       outcome.Reason // why it says less than it could
	correlation  subscriptions.Correlation
	notification subscriptions.Notification
}

// app of the phone that it is for.
func (a *alert) app() app {
	return app{a.notification.Phone.Topic, a.notification.Phone.Environment}
}

// line is the phone that it is for.
func (a *alert) line() subscriptions.Line { return a.notification.Phone.Line() }

// alertsFor adds the alerts for one device to a list: one for each message, the newest first, and one for all that grew old. skip is told
// of each message that leads to none.
func (m *Mailbox) alertsFor(
	list []alert, device *subscriptions.Device, source mail.Source, dues []due, clock time.Time, skip func(d *subscriptions.Device, k mail.Key),
) []alert {
	var old []mail.Key
	var newest due
	for _, d := range dues {
		switch decision := alerts.Decide(m.caseOf(device, source, d, clock)); decision.Verdict {
		case alerts.Skip:
			skip(device, d.key)
			m.decide(d.notSent(device.ID, decision.Reason))
		case alerts.SumUp:
			if len(old) == 0 {
				newest = d
			}
			old = append(old, d.key)
		case alerts.Send:
			list = append(list, m.alert(device, []mail.Key{d.key}, d.received, d.correlation, decision))
			list[len(list)-1].hinted = d.hinted
		}
	}
	if len(old) > 0 {
		list = append(list, m.summary(device, old, newest.received, newest.correlation))
	}
	return list
}

// caseOf is a message for a device, as it is decided about.
func (m *Mailbox) caseOf(device *subscriptions.Device, source mail.Source, d due, clock time.Time) alerts.Case {
	c := alerts.Case{View: m.view(d, device.Since, clock), Device: m.alertDevice(device), Key: d.key, Message: d.message, Source: source}
	if d.message != nil {
		c.Thread = m.in.secret.Thread(device.Record, d.message.Thread)
	}
	return c
}

// alertDevice is a device as package alerts knows it: with what it may see.
func (m *Mailbox) alertDevice(device *subscriptions.Device) alerts.Device {
	return alerts.Device{ID: device.ID, Content: m.in.o.Content}
}

// alert of messages under the collapse id of the first: of one, unless summary makes it.
func (m *Mailbox) alert(device *subscriptions.Device, keys []mail.Key, received time.Time, id subscriptions.Correlation, d alerts.Decision) alert {
	return alert{device: device, keys: keys, received: received, reason: d.Reason, correlation: id, notification: subscriptions.Notification{
		Device: device.ID, Phone: device.Phone(), Enrolled: device.Enrolled,
		PushID: m.in.secret.PushID(keys[0], device.Token, device.Topic), CollapseID: keys[0].String(),
		Expires: time.Now().Add(expires), Payload: d.Payload, Smaller: d.Smaller,
	}}
}

// summary is the alert that sums up several messages. All summaries of a mailbox on a phone replace each other, and each is a push of its
// own (rule 8).
func (m *Mailbox) summary(device *subscriptions.Device, keys []mail.Key, newest time.Time, id subscriptions.Correlation) alert {
	a := m.alert(device, keys, newest, id, alerts.Summarize(m.alertDevice(device), keys))
	key := m.in.secret.SummaryKey(device.Record)
	a.notification.CollapseID = key.String()
	a.notification.PushID = m.in.secret.PushID(key, device.Token, device.Topic, keys[0].String(), strconv.Itoa(len(keys)))
	return a
}
