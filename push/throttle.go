package push

// This file remembers the phones that have to wait, because APNs says that they get too many notifications.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/subscriptions"
)

// throttling is how long a phone waits. APNs does not document how long it should be.
var throttling = backoff.Policy{First: 2 * time.Second, Max: 10 * time.Minute}

// maxThrottled bounds the phones that are remembered. APNs is asked again about one that is forgotten, and it comes back here.
const maxThrottled = 10_000

// throttle remembers the phones that have to wait.
type throttle struct {
	mu     sync.Mutex
	phones map[subscriptions.Phone]throttled
}

type throttled struct {
	times int // in a row
	until time.Time
}

func newThrottle() throttle { return throttle{phones: make(map[subscriptions.Phone]throttled)} }

// until returns when a notification may go to the phone; a time that has passed, or zero: now.
func (t *throttle) until(p subscriptions.Phone) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.phones[p].until
}

// slowDown doubles the pause of a phone, which is not shorter than asked, and returns when it ends. Of notifications that were under way
// together one counts.
func (t *throttle) slowDown(p subscriptions.Phone, asked time.Duration) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.phones[p]
	if !ok {
		makeRoom(t.phones, maxThrottled)
	}
	now := time.Now()
	if now.Before(e.until) {
		return e.until
	}
	e.times++
	e.until = now.Add(throttling.Wait(e.times, asked))
	t.phones[p] = e
	return e.until
}

// forget forgets a phone: APNs accepted a notification for it.
func (t *throttle) forget(p subscriptions.Phone) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.phones, p)
}

// makeRoom forgets any one entry where there are as many as there may be.
func makeRoom[K comparable, V any](entries map[K]V, most int) {
	if len(entries) < most {
		return
	}
	for k := range entries {
		delete(entries, k)
		return
	}
}
