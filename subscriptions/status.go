package subscriptions

import (
	"time"

	"github.com/mailbell/mailbell/mail"
)

// State of a mailbox, as the API tells it.
type State string

// The states of DESIGN section 4. Listening means both: its stream is open and its listing done.
const (
	Resolving          State = "resolving" // being placed: Autodiscover, subscription or first listing under way
	Listening          State = "listening"
	Polling            State = "polling" // cannot be subscribed, or its stream is being reopened: listed at intervals
	WaitingForCapacity State = "waiting_for_capacity"
	OutOfScope         State = "out_of_scope"
	Failing            State = "failing"
)

// Hearing says how a mailbox is heard, for "why did this phone not ring?". It never holds content.
type Hearing struct {
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

// Decision is what was decided about one message for one device, or for all where Device is empty.
type Decision struct {
	Key     mail.Key
	Device  string
	Outcome string // rung, summed_up, settled, behind, gone, removed
	Reason  string
	Came    time.Time // the received time as it was believed
	At      time.Time
	PushID  string
	Status  int
}
