package alerts

// The decision about a message for a device: an alert of its own, a part of the summary of old messages, or none with a reason.

import (
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// shrinkFrom is the size above which a payload has a smaller one in reserve. APNs takes 4096 bytes, and ours stay below that. A payload of
// up to this size is hardly refused as too large, and most are no longer.
const shrinkFrom = 1024

// Verdict is the kind of a decision.
type Verdict uint8

// The verdicts.
const (
	Send  Verdict = iota + 1 // in an alert of its own
	SumUp                    // in the one alert that sums up what grew old
	Skip                     // in none, for a reason
)

// View is what a decision about a message for a device depends on.
type View struct {
	Gone bool // it is no longer in the Inbox

	Received time.Time // on the server's clock, as it is believed (rule 4)
	Hinted   time.Time // on ours; zero: no hint named it
	Enrolled time.Time // since when the device gets alerts, on the server's clock; zero: its enrolment is not complete

	Ours, Server time.Time     // now, on our clock and on the server's
	MaxAge       time.Duration // older mail is summed up
}

// Judge decides whether an alert is sent: the first case that matches counts. Some messages never come here, for package inbox can say for
// all devices what becomes of them: one that has its outcome (known), and one of which the log cannot tell whether it has (late, clock).
func Judge(v View) (Verdict, outcome.Reason) {
	age := v.age()
	switch {
	case v.Gone:
		return Skip, outcome.Gone
	case v.Enrolled.IsZero() || v.Received.Unix() < v.Enrolled.Unix():
		return Skip, outcome.BeforeEnrolment
	case v.Hinted.IsZero() && v.Received.After(v.Server.Add(mail.Tolerance)):
		return Skip, outcome.Future
	case age > mail.Window:
		return Skip, outcome.Late
	case age > v.MaxAge:
		return SumUp, outcome.Summary
	}
	return Send, ""
}

// age counts from the hint, or from the received time if there was none (rule 8).
func (v View) age() time.Duration {
	if !v.Hinted.IsZero() {
		return v.Ours.Sub(v.Hinted)
	}
	return v.Server.Sub(v.Received)
}

// Device is what a device may see and wants.
type Device struct {
	ID      string // of its enrolment
	Content Content
}

// Case is a message for a device.
type Case struct {
	View    View
	Device  Device
	Key     mail.Key
	Message *mail.Message // nil: it cannot be read
	Source  mail.Source   // of the item id
	Thread  string        // groups alerts on the screen; may be empty
}

// Decision is the decision about a message for a device: the payloads of its alert, or the reason why there is none.
type Decision struct {
	Verdict Verdict
	Reason  outcome.Reason
	Payload []byte
	Smaller []byte // used if APNs refuses Payload as too large
}

// Decide decides about one message, and builds the payload if it gets an alert of its own. Summarize builds the payload for messages that
// are summed up.
func Decide(c Case) Decision {
	verdict, reason := Judge(c.View)
	d := Decision{Verdict: verdict, Reason: reason}
	if verdict != Send {
		return d
	}
	if c.Message == nil {
		d.Reason = outcome.Unreadable
	}
	alert := Alert{Message: c.Message, Keys: []mail.Key{c.Key}, Device: c.Device.ID, Source: c.Source, Thread: c.Thread}
	d.Payload = Payload(alert, c.Device.Content)
	if len(d.Payload) > shrinkFrom {
		d.Smaller = Payload(alert, Generic)
	}
	return d
}

// Summarize builds the alert that sums up messages; keys are their keys, the newest first.
func Summarize(d Device, keys []mail.Key) Decision {
	return Decision{Verdict: SumUp, Reason: outcome.Summary, Payload: Payload(Alert{Keys: keys, Summary: true, Device: d.ID}, Generic)}
}
