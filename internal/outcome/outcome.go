// Package outcome names what became of a message for a device, and why: one name for each fact, with the sentence that explains it.
// Decisions, metrics, the log, `mailbell why` and docs/why-no-alert.md take the names and sentences from the one table in reasons.go.
package outcome

// Outcome is what became of a message for a device, or for all devices of its mailbox.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted" // APNs accepted the alert: the promise ends here
	Refused  Outcome = "refused"  // APNs will never accept the alert, or mailbell does not ask it
	NotSent  Outcome = "not_sent" // mailbell decided that there is no alert
	Behind   Outcome = "behind"   // the alert cannot be sent now: the device catches up from the mailbox
	Waiting  Outcome = "waiting"  // the message cannot be read yet; mailbell tries again
)

// Reason says why an outcome is what it is. It is one of the table, so that it can be a label of a metric. It is empty where the
// outcome needs no reason.
type Reason string

// Sentence explains the reason to an administrator.
func (r Reason) Sentence() string { return find(r).Sentence }

// Final says whether the device is owed nothing more for the message; else it catches up.
func (r Reason) Final() bool { return find(r).Final }

// Known says whether the reason is in the table.
func (r Reason) Known() bool { return find(r).Reason == r }

// Row is a line of the table.
type Row struct {
	Reason   Reason
	Final    bool // the device is owed nothing more for the message
	Sentence string
}

// Reasons returns the table.
func Reasons() []Row { return table }

func find(r Reason) Row {
	for _, row := range table {
		if row.Reason == r {
			return row
		}
	}
	return Row{}
}
