package push

// This file remembers the device tokens that APNs takes in no environment. Each rejected push costs all others a round trip: APNs
// then allows one stream, until it accepts a push. So such a token is not asked about again for a while.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// quarantineBase, doubled each time up to quarantineMax: how long APNs is not asked about a token again. A bad token does
	// not mend by itself: the app reports another one, and the device enrols again. The rest is for faults of APNs.
	quarantineBase = time.Hour
	quarantineMax  = 24 * time.Hour
	// maxQuarantined bounds the tokens that are remembered. APNs is asked again about one that is forgotten, and it comes back here.
	maxQuarantined = 10_000
)

// quarantine remembers tokens, each as enrolled for a topic in an environment.
type quarantine struct {
	mu     sync.Mutex
	tokens map[enrolledToken]quarantined
}

type enrolledToken struct {
	token string
	name
}

type quarantined struct {
	times    int
	until    time.Time
	enrolled time.Time // of the device; one that enrolled later tells that the token is good
}

func newQuarantine() quarantine {
	return quarantine{tokens: make(map[enrolledToken]quarantined)}
}

func enrolledTokenOf(d subscriptions.Device) enrolledToken {
	return enrolledToken{d.Token, name{d.Topic, d.Environment}}
}

// holds reports whether APNs is not to be asked about the token of a device.
func (q *quarantine) holds(d subscriptions.Device) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tokens[enrolledTokenOf(d)]
	return time.Now().Before(e.until) && !d.Enrolled.After(e.enrolled)
}

// begin takes a token in, for longer than the last time, and returns when APNs may be asked again.
func (q *quarantine) begin(d subscriptions.Device) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := enrolledTokenOf(d)
	e, known := q.tokens[t]
	if !known {
		makeRoom(q.tokens, maxQuarantined)
	}
	if d.Enrolled.After(e.enrolled) {
		e = quarantined{enrolled: d.Enrolled}
	}
	now := time.Now()
	if now.Before(e.until) { // another alert was under way
		return e.until
	}
	e.until = now.Add(min(quarantineBase<<min(e.times, 10), quarantineMax))
	e.times++
	q.tokens[t] = e
	return e.until
}

// passed forgets a token: APNs took it.
func (q *quarantine) passed(d subscriptions.Device) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.tokens, enrolledTokenOf(d))
}
