package subscriptions

import (
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// Phone is where an alert goes: a device token, the app's topic, and the environment of APNs that knows both. A push belongs to its
// phone, whatever becomes of the enrolment meanwhile (rule 6).
type Phone struct {
	Token       string // lower-case hex
	Topic       string
	Environment string // production or sandbox
}

// Line is a phone in whichever environment APNs knows it: a push is in flight for a line, and its answer is entered for one (rule 6).
type Line struct{ Token, Topic string }

// Line of the phone.
func (p Phone) Line() Line { return Line{p.Token, p.Topic} }

// Phone of a device.
func (d *Device) Phone() Phone { return Phone{d.Token, d.Topic, d.Environment} }

// Notification is one alert for one phone, ready to be sent: what Apple calls a notification request. Whoever sends it knows
// nothing of mail.
type Notification struct {
	Device   string // the enrolment that it is for; logs name it
	Phone    Phone
	Enrolled time.Time // when the phone's token was last confirmed, on our clock; APNs' 410 is compared with it

	PushID     mail.PushID // the apns-id, the same each time when the same alert is sent
	CollapseID string      // alerts with the same one replace each other on the screen
	Expires    time.Time   // until when APNs keeps it for a phone that is off
	Payload    []byte
	Smaller    []byte // sent instead, once, where APNs calls the payload too large; nil: there is none

	May    func() bool // asked directly before each attempt, its stream free; false: no attempt begins any more. nil: it may
	Repeat bool        // it was sent before, and its answer is not known: the first attempt counts as resent already
}

// Result is what became of a notification.
type Result uint8

// The results. Everything but NotBefore is final.
const (
	Accepted  Result = iota + 1 // APNs accepted it: the promise ends here
	Refused                     // it will never be accepted; Reason says why. The device stays enrolled
	Gone                        // refused, and the phone is gone for good: its enrolment is to be removed
	NotBefore                   // cannot be sent now; Next says when, or the sender tells when it is ready again
)

var results = [...]string{"", "accepted", "refused", "gone", "not_before"}

func (r Result) String() string { return results[r] }

// Answer is what became of a notification, with its reason.
type Answer struct {
	Result Result
	Reason outcome.Reason // of what was not accepted
	Next   time.Time      // for NotBefore: not earlier; zero: when the sender says that it is ready
	Status int            // the HTTP status of APNs; 0: none came
	At     time.Time      // when the answer came
	Resent int            // how often it was sent again without knowing whether the time before was accepted

	// Unknown says that it was sent and not answered: APNs may have it. Only with NotBefore; what is sent again then is a Repeat.
	Unknown bool

	// Environment is where the alert was accepted, production or sandbox, if that is not the phone's own: its enrolment
	// belongs there. Empty: the phone's own.
	Environment string
}
