package push

// This file remembers the phones whose last alert APNs refused for good, for whoever asks how a phone stands.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// maxRefusals bounds the phones whose refusal is remembered. The next alert tells again of one that was forgotten.
const maxRefusals = 10_000

// refusals remembers phones.
type refusals struct {
	mu     sync.Mutex
	phones map[subscriptions.Phone]refusal
}

type refusal struct {
	reason   outcome.Reason
	enrolled time.Time // of the phone; one that enrolled later is not concerned
}

func newRefusals() refusals { return refusals{phones: make(map[subscriptions.Phone]refusal)} }

// note takes in how a notification ended.
func (r *refusals) note(n *subscriptions.Notification, a subscriptions.Answer) {
	wasAsked := a.Reason != outcome.SendOff && a.Reason != outcome.Quarantined && a.Reason != outcome.NotSendable
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case a.Result == subscriptions.Accepted || a.Result == subscriptions.Gone:
		delete(r.phones, n.Phone)
	case a.Result == subscriptions.Refused && wasAsked:
		if _, known := r.phones[n.Phone]; !known {
			makeRoom(r.phones, maxRefusals)
		}
		r.phones[n.Phone] = refusal{a.Reason, n.Enrolled}
	}
}

// of is why the last alert of a phone was refused; empty: it was not.
func (r *refusals) of(p subscriptions.Phone, enrolled time.Time) outcome.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.phones[p]
	if !ok || enrolled.After(last.enrolled) {
		return ""
	}
	return last.reason
}

// count counts the phones by their topic and why they were refused.
func (r *refusals) count() map[app]map[outcome.Reason]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[app]map[outcome.Reason]int{}
	for p, last := range r.phones {
		a := appOf(p)
		if n[a] == nil {
			n[a] = map[outcome.Reason]int{}
		}
		n[a][last.reason]++
	}
	return n
}
