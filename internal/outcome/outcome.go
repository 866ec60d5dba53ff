// Package outcome names what became of a message for a device, and why: one word for each fact, with the sentence that explains it.
// Decisions, metrics, the log, `mailbell why` and docs/why-no-alert.md take their words from the one table in reasons.go.
package outcome

// Outcome is what became of a message for a device, or for all devices of its mailbox.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted" // APNs accepted the alert: here the promise ends
	Refused  Outcome = "refused"  // APNs will never accept it, or is not asked
	NotSent  Outcome = "not_sent" // there is no alert, for the reason beside it
	Behind   Outcome = "behind"   // not now: the device catches up from the mailbox
	Waiting  Outcome = "waiting"  // the message cannot be read yet; it is tried again
)

// Reason says why an outcome is what it is. It is one of the table, so that it may stand in a label of a metric. Empty: nothing is
// to be said.
type Reason string

// Sentence explains the reason to an administrator.
func (r Reason) Sentence() string { return find(r).Sentence }

// Final says whether a message with this reason is dealt with for the device; else the device catches up with it.
func (r Reason) Final() bool { return find(r).Final }

// Known says whether the reason stands in the table.
func (r Reason) Known() bool { return find(r).Reason == r }

// Row is a line of the table.
type Row struct {
	Reason   Reason
	Final    bool // the message is dealt with for the device
	Sentence string
}

// Reasons returns the table.
func Reasons() []Row { return table[:] }

func find(r Reason) Row {
	for _, row := range table {
		if row.Reason == r {
			return row
		}
	}
	return Row{}
}
