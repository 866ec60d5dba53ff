package inbox

// What was decided, for whoever asks why a phone got no alert.

import (
	"context"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/subscriptions"
)

// decide keeps decisions and counts them. The next write of the record takes them along; where none comes, the turn ends with one.
func (m *Mailbox) decide(list ...subscriptions.Decision) {
	for _, d := range list {
		m.in.metrics.outcome(d)
		m.box.Decide(d)
		if m.in.o.Observer != nil {
			m.in.o.Observer.Decided(d)
		}
		m.debug("outcome", d.Correlation, func() []zap.Field { return decided(d) })
	}
}

// deliver writes the decisions of a turn that no write of the record has taken along: there was no outcome to be entered.
func (m *Mailbox) deliver(ctx context.Context) {
	_ = m.box.Deliver(ctx) // else the next write takes them along
}
