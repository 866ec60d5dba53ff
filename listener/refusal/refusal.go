// Package refusal is why a mailbox cannot be subscribed, and when that is tried again, whatever the kind of listening.
package refusal

import (
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// A mailbox that a server did not know and that has been listed there is subscribed again soon: it was away, and has come back.
const (
	FirstReturn = 5 * time.Second
	MaxReturn   = 4 * time.Minute
)

// Refusal is that of one mailbox. The zero Refusal is none. Its owner guards it.
type Refusal struct {
	Fault    *fault.Error
	Failures int // in a row
	Next     time.Time
}

// Again notes that the mailbox was refused once more.
func (r *Refusal) Again(f *fault.Error, now time.Time) {
	r.Fault = f
	r.Failures++
	r.Next = now.Add(f.Pause(r.Failures))
}

// Listed takes in that the mailbox has been listed at its location: if the server said that it does not live there, or did not let it in, it
// does now. true: it is tried sooner for that.
func (r *Refusal) Listed(now time.Time) (sooner bool) {
	if r.Fault == nil || !r.Fault.Elsewhere && !r.Fault.Unproven {
		return false
	}
	again := now.Add(min(FirstReturn<<min(r.Failures, 10), MaxReturn))
	if !again.Before(r.Next) {
		return false
	}
	r.Next = again
	return true
}
