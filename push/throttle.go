package push

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// throttleBase and throttleMax bound how long a device waits that APNs says was rung too often.
	throttleBase = 2 * time.Second
	throttleMax  = 10 * time.Minute
	// maxThrottled bounds the devices that are remembered. One that is forgotten is asked for again, and comes back here.
	maxThrottled = 10_000
)

// throttle remembers the devices that have to wait.
type throttle struct {
	mu      sync.Mutex
	devices map[string]throttled // by enrolment id
}

type throttled struct {
	times int
	until time.Time
}

func newThrottle() throttle { return throttle{devices: make(map[string]throttled)} }

// until returns when the device may be rung; a time that has passed, or zero: now.
func (t *throttle) until(device string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.devices[device].until
}

// slowDown doubles the pause of a device and returns when it ends.
func (t *throttle) slowDown(device string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.devices[device]
	if !ok {
		makeRoom(t.devices, maxThrottled)
	}
	wait := min(throttleBase<<min(d.times, 10), throttleMax)
	d.times++
	d.until = time.Now().Add(wait/2 + rand.N(wait/2))
	t.devices[device] = d
	return d.until
}

// passed forgets a device: it was rung.
func (t *throttle) passed(device string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.devices, device)
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
