package inbox

// Waiting for what takes too long. Nearly nothing does, and with a timer for each there would be three for a message.

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// alarm calls functions after a time that is the same for all, unless they are called off before. It has one timer, which runs while there
// is something to call.
type alarm struct {
	after time.Duration

	mu    sync.Mutex
	calls []call // in the order of their times; those that were called off are taken out once they are half of them
	off   int    // how many of them were called off
	last  uint64 // the number of the newest
	timer *time.Timer
	runs  bool // the timer does
}

// call is a function that is to be called; nil: it was called off.
type call struct {
	number   uint64
	at       time.Time
	function func()
}

func newAlarm(after time.Duration) *alarm { return &alarm{after: after} }

// set has a function called after the time of the alarm. The function must not wait for anything. The number is for callOff.
func (a *alarm) set(function func()) (number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	a.calls = append(a.calls, call{a.last, time.Now().Add(a.after), function})
	if !a.runs {
		a.run(a.after)
	}
	return a.last
}

// callOff ends the wait of a function, unless it has been called already.
func (a *alarm) callOff(number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, waits := slices.BinarySearchFunc(a.calls, number, func(c call, number uint64) int { return cmp.Compare(c.number, number) })
	if !waits || a.calls[i].function == nil {
		return
	}
	a.calls[i].function = nil
	a.off++
	if 2*a.off >= len(a.calls) {
		a.calls = slices.DeleteFunc(a.calls, func(c call) bool { return c.function == nil })
		a.off = 0
	}
}

// run starts the timer. It is called with mu held.
func (a *alarm) run(after time.Duration) {
	a.runs = true
	if a.timer == nil {
		a.timer = time.AfterFunc(after, a.callDue)
		return
	}
	a.timer.Reset(after)
}

// callDue calls what is due, and waits for the next.
func (a *alarm) callDue() {
	for _, function := range a.due() {
		function()
	}
}

// due takes out what is to be called now.
func (a *alarm) due() (functions []func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	n := 0
	for ; n < len(a.calls) && !a.calls[n].at.After(now); n++ {
		if a.calls[n].function == nil {
			a.off--
			continue
		}
		functions = append(functions, a.calls[n].function)
	}
	a.calls = slices.Delete(a.calls, 0, n)
	a.runs = len(a.calls) > 0
	if a.runs {
		a.run(a.calls[0].at.Sub(now))
	}
	return functions
}
