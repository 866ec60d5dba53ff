// Package backoff says how long to wait before a new try after a failure: longer with each failure in a row, up to a bound, at least as
// long as the server asked for, and with a jitter.
package backoff

import (
	"math/rand/v2"
	"time"
)

// A jitter is up to a quarter of the wait, at most a minute: it spreads the tries of thousands of mailboxes that failed together, and
// delays none noticeably.
const (
	jitterShare = 4
	maxJitter   = time.Minute
)

// Policy is a wait that doubles from First to Max.
type Policy struct {
	First, Max time.Duration
}

// Wait returns how long to wait after so many failures in a row, with jitter: First after the first one, 0 after none. It is not shorter
// than asked, the time that the server asked for, or 0; the caller bounds asked.
func (p Policy) Wait(failures int, asked time.Duration) time.Duration {
	return Jitter(max(p.step(failures), asked))
}

// step is the wait without jitter.
func (p Policy) step(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	wait := p.First
	for n := 1; n < failures && 0 < wait && wait < p.Max; n++ {
		wait = min(2*wait, p.Max)
	}
	return min(wait, p.Max)
}

// Jitter returns d or a little more, never less, because a server may have asked for d.
func Jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(min(d/jitterShare, maxJitter)+1)
}
