package subscriptions

import (
	"time"

	"github.com/mailbell/mailbell/mail"
)

// Bell is one alert for one device: what a message means, or, where Message is nil and Keys has several, a summary of messages
// that grew too old to ring one by one; where Message is nil and Keys has one, a message that could not be read.
type Bell struct {
	Record  string        // the id of the mailbox's record: all its summaries on a device have one collapse id
	Keys    []mail.Key    // newest first
	Message *mail.Message // nil: nothing of it is known, the alert is generic
	Summary bool
}

// Result is what became of a bell on one device.
type Result uint8

// The results. Everything but NotBefore is final.
const (
	Accepted  Result = iota + 1 // APNs accepted it: the promise ends here
	Refused                     // it will never be taken; Reason says why. The device stays enrolled
	Gone                        // refused, and the device is gone for good: its enrolment is to be removed
	NotBefore                   // cannot be rung now; Next says when, or the sender tells when it is ready again
)

var results = [...]string{"", "accepted", "refused", "gone", "not_before"}

func (r Result) String() string { return results[r] }

// Answer is the result of a bell with its reason.
type Answer struct {
	Result Result
	Reason string    // the named reason of what was not accepted: unanswered, throttled, topic_away, BadDeviceToken, quarantined, removal_held, …
	Next   time.Time // for NotBefore: not earlier; zero: when the sender says that it is ready
	PushID string    // the apns-id
	Status int       // the HTTP status of APNs; 0: none came
	At     time.Time // when the answer came
	Resent int       // how often it was sent again without knowing whether the time before was taken

	// Environment is where an alert was accepted, production or sandbox, if that is not the device's own: its enrolment
	// belongs there. Empty: the device's own.
	Environment string
}
