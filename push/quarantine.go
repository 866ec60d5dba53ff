package push

// This file remembers the phones whose token APNs accepts in no environment. Each rejected push costs all others a round trip: APNs
// then allows one stream, until it accepts a push. So such a token is not asked about again for a while.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// quarantineBase, doubled each time up to quarantineMax: how long APNs is not asked about a token again. A bad token does
	// not mend by itself: the app reports another one, and the phone enrols again. The rest is for faults of APNs.
	quarantineBase = time.Hour
	quarantineMax  = 24 * time.Hour
	// maxQuarantined bounds the phones that are remembered. APNs is asked again about one that is forgotten, and it comes back here.
	maxQuarantined = 10_000
)

// quarantine remembers phones.
type quarantine struct {
	mu     sync.Mutex
	phones map[subscriptions.Phone]quarantined
}

type quarantined struct {
	times    int
	until    time.Time
	enrolled time.Time // of the phone; one that enrolled later tells that the token is good
}

func newQuarantine() quarantine {
	return quarantine{phones: make(map[subscriptions.Phone]quarantined)}
}

// holds reports whether APNs is not to be asked about the phone of a notification.
func (q *quarantine) holds(n *subscriptions.Notification) bool {
	return !q.until(n.Phone, n.Enrolled).IsZero()
}

// until is when APNs is asked about a phone again; zero: it may be asked now.
func (q *quarantine) until(p subscriptions.Phone, enrolled time.Time) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.phones[p]
	if !time.Now().Before(e.until) || enrolled.After(e.enrolled) {
		return time.Time{}
	}
	return e.until
}

// begin takes a phone in, for longer than the last time, and returns when APNs may be asked again.
func (q *quarantine) begin(n *subscriptions.Notification) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, known := q.phones[n.Phone]
	if !known {
		makeRoom(q.phones, maxQuarantined)
	}
	if n.Enrolled.After(e.enrolled) {
		e = quarantined{enrolled: n.Enrolled}
	}
	now := time.Now()
	if now.Before(e.until) { // another notification was under way
		return e.until
	}
	e.until = now.Add(min(quarantineBase<<min(e.times, 10), quarantineMax))
	e.times++
	q.phones[n.Phone] = e
	return e.until
}

// forget forgets a phone: APNs accepts its token.
func (q *quarantine) forget(p subscriptions.Phone) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.phones, p)
}
