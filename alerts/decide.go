package alerts

// What becomes of a message for a device: an alert of its own, a place in the alert that sums up what is old, or none and why.

import (
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// Window is how old mail may be that leads to an alert at all (rule 8 of the log).
const Window = 24 * time.Hour

// shrinkFrom is the size from which a payload has a smaller one in reserve. APNs takes 4096 bytes and ours stay below that; what is
// no longer than this can hardly be refused as too large, and most alerts are not.
const shrinkFrom = 1024

// Verdict is what becomes of a message for a device.
type Verdict uint8

// The verdicts.
const (
	Send  Verdict = iota + 1 // in an alert of its own
	SumUp                    // in the one alert that sums up what grew old
	Skip                     // in none, for a reason
)

// View is what the log of the mailbox, and the two clocks, say of a message for a device.
type View struct {
	Known     bool // the log has an outcome for it
	Gone      bool // the Inbox has it no more
	Restarted bool // the server's clock fell back behind what was dealt with (rule 4)
	Forgotten bool // it is dated before the time back to which the log reaches (rule 2)

	Received time.Time // as it is believed, on the server's clock
	Hinted   time.Time // on ours; zero: no hint named it
	Enrolled time.Time // since when the device gets alerts, on the server's clock; zero: its enrolment is not over

	Ours, Server time.Time     // now, on our clock and on the server's
	MaxAge       time.Duration // older mail is summed up
}

// Judge says what may be sent. It is the whole of that decision: the first line that fits holds.
func Judge(v View) (Verdict, outcome.Reason) {
	age := v.age()
	switch {
	case v.Known:
		return Skip, outcome.Known
	case v.Gone:
		return Skip, outcome.Gone
	case v.Restarted:
		return Skip, outcome.Clock
	case v.Enrolled.IsZero() || v.Received.Unix() < v.Enrolled.Unix():
		return Skip, outcome.BeforeEnrolment
	case v.Hinted.IsZero() && v.Received.After(v.Server.Add(mail.Tolerance)):
		return Skip, outcome.Future
	case v.Forgotten || age > Window:
		return Skip, outcome.Late
	case age > v.MaxAge:
		return SumUp, outcome.Summary
	}
	return Send, ""
}

// age counts from the hint, or from the received time where there was none (rule 8).
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

// Decision is what becomes of a message for a device: the alert with its payloads, or the reason why there is none.
type Decision struct {
	Verdict Verdict
	Reason  outcome.Reason
	Payload []byte
	Smaller []byte // where APNs calls Payload too large
}

// Decide decides about one message, and builds what is sent in an alert of its own. What is to be summed up has no payload yet:
// Summarize builds that of all of them.
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

// Summarize builds the one alert that sums up messages; keys are theirs, the newest first.
func Summarize(d Device, keys []mail.Key) Decision {
	return Decision{Verdict: SumUp, Reason: outcome.Summary, Payload: Payload(Alert{Keys: keys, Summary: true, Device: d.ID}, Generic)}
}
