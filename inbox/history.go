package inbox

// What was decided, for whoever asks why a phone did not ring.

import (
	"sync"

	"github.com/mailbell/mailbell/subscriptions"
)

// maxDecisions is how many decisions are shown of a mailbox.
const maxDecisions = 50

// history is the last decisions about a mailbox.
type history struct {
	mu     sync.Mutex
	list   []subscriptions.Decision // a ring, once there are maxDecisions
	newest int
}

func (h *history) add(d subscriptions.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) < maxDecisions {
		h.list = append(h.list, d)
		h.newest = len(h.list) - 1
		return
	}
	h.newest = (h.newest + 1) % maxDecisions
	h.list[h.newest] = d
}

// all returns the decisions, the newest first.
func (h *history) all() []subscriptions.Decision {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]subscriptions.Decision, 0, len(h.list))
	for i := range h.list {
		list = append(list, h.list[(h.newest+len(h.list)-i)%len(h.list)])
	}
	return list
}

// decide keeps decisions and counts them.
func (m *Mailbox) decide(list ...subscriptions.Decision) {
	for _, d := range list {
		m.in.metrics.outcome(d)
		m.history.add(d)
	}
}
