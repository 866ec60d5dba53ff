package subscriptions

import (
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// State of a mailbox, as the API tells it.
type State string

// The states of DESIGN section 4.
const (
	Resolving          State = "resolving" // its location is looked up, or its first subscription or listing is under way
	Listening          State = "listening" // notifications reach us, and the listing after that is done
	Polling            State = "polling"   // no notifications: listed at intervals only
	WaitingForCapacity State = "waiting_for_capacity"
	OutOfScope         State = "out_of_scope"
	Failing            State = "failing" // cannot be read now
)

// BehindState is the state of a device that does not stand at the end of its mailbox's log; else it has the state of its mailbox.
const BehindState State = "behind"

// States lists the states of a mailbox.
func States() []State {
	return []State{Resolving, Listening, Polling, WaitingForCapacity, OutOfScope, Failing}
}

// Status says how a mailbox is listened to, for "why did this phone not ring?". It never holds content.
type Status struct {
	State         State
	Reason        string    // a code, then words; empty where all is well
	Next          time.Time // the next try; zero: none is waited for
	Location      mail.Location
	Account       string // the listener account
	Subscribed    time.Time
	LastHeartbeat time.Time
	LastHint      time.Time
	LastListing   time.Time
	LastMessage   time.Time
	Decisions     []Decision // the last ones, newest first, at most 50
}

// Decision is what was decided about one message for one device, or for all where Device is empty, and what came of it.
type Decision struct {
	Key     mail.Key
	Device  string
	Outcome outcome.Outcome
	Reason  outcome.Reason
	Code    string    // where the outcome is waiting: the server's code
	Came    time.Time // the received time as it was believed
	At      time.Time
	PushID  mail.PushID
	Status  int
}
