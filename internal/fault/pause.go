package fault

import (
	"cmp"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
)

// The pauses between tries, by remedy.
var (
	retrying = backoff.Policy{First: 250 * time.Millisecond, Max: 30 * time.Second} // it passes by itself, within seconds
	waiting  = backoff.Policy{First: 5 * time.Second, Max: 4 * time.Minute}         // in minutes; with the jitter it is tried within five
	proving  = backoff.Policy{First: 15 * time.Second, Max: 4 * time.Minute}        // what takes a person, while nobody knows that it does
)

const (
	byPerson = time.Hour // if an administrator has to act, mailbell tries hourly
	// provings is how often something unproven is tried again within minutes: within eight minutes in all.
	provings = 5
	// byAccount is the pause after an error of a listener account; the account itself says who may try, and when.
	byAccount = 30 * time.Second
)

// Pause is how long to wait after the nth failure in a row. For a temporary error it doubles each time. It is never less than the server
// asked for, and has a jitter, so that mailboxes that failed together are not tried together.
func (e *Error) Pause(n int) time.Duration {
	switch {
	case e.Unproven && n <= provings:
		return min(proving.Wait(n, 0), backoff.Jitter(cmp.Or(e.After, byPerson)))
	case e.After > 0 && (e.Scope == Account || e.Remedy == Fix): // the word of who refused
		return backoff.Jitter(e.After)
	case e.Scope == Account:
		return backoff.Jitter(byAccount)
	case e.Remedy == Retry:
		return retrying.Wait(n, e.After)
	case e.Remedy == Wait:
		return waiting.Wait(n, e.After)
	}
	return backoff.Jitter(max(e.After, byPerson))
}
