// Package refusal is why a mailbox cannot be subscribed, and when that is tried again, whatever the kind of listening.
package refusal

import (
	"errors"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// A mailbox that its server did not know, and that has been listed there since, is subscribed again soon: it was away, and has come back.
const (
	FirstReturn = 5 * time.Second
	MaxReturn   = 4 * time.Minute
)

// Refusal is that of one mailbox. The zero Refusal is none, and nearly all mailboxes have none. Its owner guards it.
type Refusal struct{ last *refused }

type refused struct {
	fault    *fault.Error
	failures int // in a row
	next     time.Time
}

// Fault is why the mailbox was refused; nil: it was not.
func (r Refusal) Fault() *fault.Error {
	if r.last == nil {
		return nil
	}
	return r.last.fault
}

// Told is the same for people, to whom it is no fault that the last device has just gone.
func (r Refusal) Told() *fault.Error {
	if f := r.Fault(); f != nil && !errors.Is(f, subscriptions.ErrNoMailbox) {
		return f
	}
	return nil
}

// Failures is how often it was, in a row.
func (r Refusal) Failures() int {
	if r.last == nil {
		return 0
	}
	return r.last.failures
}

// Next is when it is tried again; zero: that need not be waited for.
func (r Refusal) Next() time.Time {
	if r.last == nil {
		return time.Time{}
	}
	return r.last.next
}

// Again notes that the mailbox was refused once more.
func (r *Refusal) Again(f *fault.Error, now time.Time) {
	failures := r.Failures() + 1
	r.last = &refused{fault: f, failures: failures, next: now.Add(f.Pause(failures))}
}

// TryAt has it tried again at another time, where it was refused.
func (r Refusal) TryAt(next time.Time) {
	if r.last != nil {
		r.last.next = next
	}
}

// Excuse has it tried again at once where it was refused for what concerns its account or its server, or may concern them.
func (r Refusal) Excuse() {
	if f := r.Fault(); f != nil && (f.Scope >= fault.Account || f.Unproven) {
		r.TryAt(time.Time{})
	}
}

// Answers has it tried again at once where it was refused only because its server did not answer, and says whether it was.
func (r Refusal) Answers() bool {
	f := r.Fault()
	waits := f != nil && f.Outage()
	if waits {
		r.TryAt(time.Time{})
	}
	return waits
}

// Listed takes in that the mailbox has been listed at its location: if the server said that it does not live there, or did not let it in, it
// does now. true: it is tried sooner for that.
func (r Refusal) Listed(now time.Time) (sooner bool) {
	if r.last == nil || !r.last.fault.Elsewhere && !r.last.fault.Unproven {
		return false
	}
	again := now.Add(min(FirstReturn<<min(r.last.failures, 10), MaxReturn))
	if !again.Before(r.last.next) {
		return false
	}
	r.last.next = again
	return true
}
