package inbox

// When the devices that are behind catch up: at the time that the answer of APNs named, or when their sender says that it is ready.

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// unsignalled is after how long a device is tried again though its sender has not said that it is ready, as it should. It is long, for each
// try lists the mailbox, and while APNs is away thousands of devices are behind.
const unsignalled = 15 * time.Minute

// waiting is when the devices of a mailbox catch up.
type waiting struct {
	mu       sync.Mutex
	signal   map[string]time.Time // devices whose sender tells when they can be reached again -> when they are tried all the same
	timer    *time.Timer          // of the first that is due later
	at       time.Time            // when the timer goes off
	catching bool                 // some catch up now, or wait for a place to do so
	placed   bool                 // they have the place
	failures int                  // of catch-ups in a row; only the one under way looks at it
	detached bool                 // the mailbox cannot be read now
	closed   bool
}

// until has a device wait for its sender to say that it is ready, and no longer than to a time.
func (w *waiting) until(device string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.signal == nil {
		w.signal = map[string]time.Time{}
	}
	w.signal[device] = at
}

func (w *waiting) forget(device string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.signal, device)
}

// forgetAll forgets the devices that fit, and says whether there was one.
func (w *waiting) forgetAll(fits func(device string) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	some := false
	for device := range w.signal {
		if fits(device) {
			delete(w.signal, device)
			some = true
		}
	}
	return some
}

// due is when a device that is behind is to catch up.
func (w *waiting) due(b subscriptions.Behind) time.Time {
	if at, waits := w.signal[b.Device]; waits {
		return at
	}
	return b.Next
}

// begin says whether a catch-up of some of these devices begins now; the caller then calls end. Otherwise then is called when the first
// of them is due. A timer that is set for an earlier time stays: a write may have changed who is behind since the caller looked.
func (w *waiting) begin(behind []subscriptions.Behind, then func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.catching || w.isHeld() || len(behind) == 0 {
		return false
	}
	first := w.due(behind[0])
	for _, b := range behind[1:] {
		if at := w.due(b); at.Before(first) {
			first = at
		}
	}
	now := time.Now()
	wait := first.Sub(now)
	switch {
	case wait <= 0:
		w.catching = true
		return true
	case w.at.After(now) && !first.Before(w.at):
		return false
	}
	w.stop()
	w.timer, w.at = time.AfterFunc(wait, then), now.Add(wait)
	return false
}

// stop stops the timer. It is called with mu held.
func (w *waiting) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer, w.at = nil, time.Time{}
}

func (w *waiting) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.catching, w.placed = false, false
}

// isOver says whether no device catches up, nor will one that waits for a place.
func (w *waiting) isOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.catching || !w.placed && w.isHeld()
}

// ready are those of the devices whose time has come, for a catch-up that has its place.
func (w *waiting) ready(behind []subscriptions.Behind) (ready []subscriptions.Behind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.placed = !w.isHeld()
	if !w.placed {
		return nil
	}
	now := time.Now()
	for _, b := range behind {
		if !w.due(b).After(now) {
			delete(w.signal, b.Device)
			ready = append(ready, b)
		}
	}
	return ready
}

// isHeld says that no catch-up begins. It is called with mu held.
func (w *waiting) isHeld() bool { return w.closed || w.detached }

func (w *waiting) attach() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detached = false
}

func (w *waiting) detach() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detached = true
	w.stop()
}

// close ends the waiting. A look-up that was under way, and attaches the mailbox after that, does not begin it again.
func (w *waiting) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.stop()
}

// open has devices catch up again, once the mailbox is attached.
func (w *waiting) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		w.closed, w.detached = false, true
	}
}
