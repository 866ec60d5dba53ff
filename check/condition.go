package check

// What is wrong with a mailbell that runs: for GET /v1/status, the log, and `mailbell check`.

import (
	"cmp"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/quantity"
)

// The kinds of conditions by what they concern, the worst first.
const (
	KindState         = "state"         // everybody: nothing can be recorded
	KindAPNs          = "apns"          // the devices of a topic
	KindAccount       = "account"       // the mailboxes of a listener account
	KindExchange      = "exchange"      // mailboxes of an exchange entry
	KindCanary        = "canary"        // a mailbox that sends mail to itself
	KindCapacity      = "capacity"      // the room at the listener accounts of an exchange entry
	KindConfiguration = "configuration" // what was changed and not taken up
	KindAudit         = "audit"         // the file of the audit log
	KindWebhook       = "webhook"       // a receiver of events
	KindClock         = "clock"         // the clock of an exchange entry's servers, and ours
)

// kinds lists them, the worst first.
var kinds = []string{KindState, KindAPNs, KindAccount, KindExchange, KindCanary, KindCapacity, KindConfiguration, KindAudit, KindWebhook, KindClock}

// Level is how bad a condition is, as in the log.
type Level string

// The levels.
const (
	LevelError Level = "error" // a person must act now
	LevelWarn  Level = "warn"  // mail may be late, or a person must act soon
	LevelInfo  Level = "info"  // it concerns one mailbox or device, is as it was configured, or waits for a restart
)

var levels = []Level{LevelError, LevelWarn, LevelInfo}

// Condition is one thing that is wrong now.
type Condition struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name,omitempty"` // which of its kind: an exchange entry, "entry/account", "topic environment"
	Level   Level     `json:"level"`
	Since   time.Time `json:"since"`
	Count   int       `json:"count"`             // of the mailboxes that it concerns; of a topic, of the devices
	Example string    `json:"example,omitempty"` // one of them
	Reason  string    `json:"reason"`            // a code, then words
	Cause   string    `json:"cause"`             // what is wrong, from the table of breakages
	Advice  string    `json:"advice"`
	NextTry time.Time `json:"next_try,omitzero"`
}

// SortConditions puts the worst first.
func SortConditions(list []Condition) {
	slices.SortStableFunc(list, func(a, b Condition) int {
		return cmp.Or(
			cmp.Compare(slices.Index(levels, a.Level), slices.Index(levels, b.Level)),
			cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)),
			cmp.Compare(b.Count, a.Count),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Cause, b.Cause))
	})
}

// Things says how many of what the condition concerns; empty: none.
func (c Condition) Things() string {
	switch {
	case c.Count == 0:
		return ""
	case c.Kind == KindAPNs:
		return quantity.Of(c.Count, "device", "devices")
	}
	return quantity.Of(c.Count, "mailbox", "mailboxes")
}

// result is the condition as a result of a check.
func (c Condition) result(tried string) Result {
	r := Result{Name: "running: " + c.Kind, State: Failed, Tried: tried, Error: c.Cause + ": " + c.Reason, Advice: c.Advice}
	if c.Name != "" {
		r.Name += " " + c.Name
	}
	if c.Level == LevelInfo || c.Kind == KindClock || c.Kind == KindCapacity || c.Kind == KindAudit || c.Kind == KindWebhook {
		r.State = Warning
	}
	if things := c.Things(); things != "" {
		r.Error = things + ": " + r.Error
	}
	if !c.Since.IsZero() {
		r.Error += ", since " + c.Since.UTC().Format(time.RFC3339)
	}
	return r
}
