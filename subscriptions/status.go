package subscriptions

import (
	"fmt"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
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

// The states that a device has beside those of its mailbox.
const (
	BehindState      State = "behind"      // it does not stand at the end of its mailbox's log
	RefusedState     State = "refused"     // APNs refused its last alert for good
	QuarantinedState State = "quarantined" // APNs accepts its token in no environment, and is not asked about it
)

// States lists the states of a mailbox.
func States() []State {
	return []State{Resolving, Listening, Polling, WaitingForCapacity, OutOfScope, Failing}
}

// Standing is how a mailbox or a device stands.
type Standing struct {
	State  State
	Reason string       // a code, then words; empty where all is well
	Next   time.Time    // the next try; zero: none is waited for
	Since  time.Time    // when it came into this state, where that is not as it should be; zero: not known
	Fault  *fault.Error // what is wrong; nil: nothing, or the reason says it all

	Exchange string // the exchange entry; empty: not known yet
	Account  string // the listener account
}

// Status says how a mailbox is listened to, for "why no alert?". It never holds content.
type Status struct {
	Standing
	Location      mail.Location
	Subscribed    time.Time
	LastHeartbeat time.Time
	LastHint      time.Time
	LastListing   time.Time
	LastMessage   time.Time
	Decisions     []Decision // the last ones, newest first, at most MaxDecisions
	Unread        error      // why decisions that the store has are not among them; nil: they all are
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
	Shown   time.Time // when the phone showed the alert, by its receipt; zero: it has sent none

	Correlation Correlation // of the work that came to it
}

// Correlation is the id of some work on a mailbox, from a hint to the answers of APNs. The log has it in each line of that work. It is unique for
// as long as a process has made fewer than four billion, which no search in a log goes back to; 0: none.
type Correlation uint32

// String is the id in eight hexadecimal digits; empty: none.
func (c Correlation) String() string {
	if c == 0 {
		return ""
	}
	return fmt.Sprintf("%08x", uint32(c))
}
