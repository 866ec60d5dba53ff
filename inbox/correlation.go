package inbox

// What the log says of the work on a mailbox: each line has the id of that work, from the hint to the answers of APNs, and the decisions
// have it too. The lines are of the level debug. Where that level is not logged, each costs a comparison and allocates nothing.

import (
	"cmp"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/subscriptions"
)

// correlation is a new id.
func (in *Inbox) correlation() subscriptions.Correlation {
	return cmp.Or(subscriptions.Correlation(in.correlated.Add(1)), 1) // 0 is none
}

// debug writes a line of the log, where the level is logged. more makes the other fields, in a function of its own: in its caller they
// would take half a kilobyte of the stack, for every message under way.
func (m *Mailbox) debug(what string, id subscriptions.Correlation, more func() []zap.Field) {
	if e := m.in.log.Check(zap.DebugLevel, what); e != nil {
		e.Write(append(m.about(id), more()...)...)
	}
}

// about are the fields that say whom a line is about.
func (m *Mailbox) about(id subscriptions.Correlation) []zap.Field {
	return []zap.Field{zap.String("mailbox", m.address()), zap.Stringer("correlation_id", id)}
}

// decided are the fields of a decision.
func decided(d subscriptions.Decision) []zap.Field {
	return []zap.Field{
		zap.Stringer("message", d.Key), zap.String("device", d.Device), zap.String("outcome", string(d.Outcome)), zap.String("reason", string(d.Reason)),
		zap.String("code", d.Code), zap.Int("apns_status", d.Status), zap.Stringer("apns_id", d.PushID), zap.Time("received", d.Came), zap.Time("decided", d.At),
	}
}

// joinedBy names the id under which hints came that now go on under the id of a turn that failed.
func joinedBy(id subscriptions.Correlation) zap.Field {
	if id == 0 {
		return zap.Skip()
	}
	return zap.Stringer("joined_by", id)
}
