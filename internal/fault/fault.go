// Package fault types errors by what to do about them and by what they concern, so that callers decide by the type and never by the text.
// The rooms that talk to a server (ews, autodiscover, auth, push) return errors that wrap an *Error.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Remedy is what to do about an error.
type Remedy uint8

// The remedies.
const (
	Retry  Remedy = iota + 1 // passes by itself, within seconds
	Wait                     // passes by itself, in minutes: a move, a store that is offline, throttling
	Fix                      // needs a person: a password, a permission, a setting; tried again hourly
	GiveUp                   // never comes right for this one thing: an item that is gone, a request that was wrong
)

// Scope is what an error concerns, and so how far its remedy reaches: a faulty mailbox, for example, harms only itself.
type Scope uint8

// The scopes, from the smallest.
const (
	Message Scope = iota + 1
	Mailbox
	Group   // the subscriptions that share a stream
	Account // the listener account
	Server  // everything behind one host
)

var (
	remedies = [...]string{"", "retry", "wait", "fix", "give up"}
	scopes   = [...]string{"", "message", "mailbox", "group", "account", "server"}
)

func (r Remedy) String() string { return remedies[r] }
func (s Scope) String() string  { return scopes[s] }

// Error is a typed error. Its text says what failed and why; it never has a secret or anything of a message in it.
type Error struct {
	Op     string // what was tried: "GetItem", "Autodiscover", "connect"
	Code   string // the protocol's own name: ErrorServerBusy, "HTTP 401", "certificate"
	Text   string // one sentence for the administrator
	Scope  Scope
	Remedy Remedy
	After  time.Duration // how long to wait at least; 0: unknown
	Asked  bool          // After is the word of who was asked, and not a guess of ours
	// Unproven: one mailbox has met it so far, which may be the only one that it concerns, or it was a slip. So it is tried again within
	// minutes, a few times, whatever After says.
	Unproven bool

	// What follows from the error, besides the remedy.
	Elsewhere     bool     // the mailbox does not live where it was asked for; the next exchange entry that covers it is asked
	Moved         bool     // the mailbox may live elsewhere now: its location is to be looked up again
	Gone          bool     // the item is not in the Inbox any more; with Retry: the server does not find it, and may do so in a moment
	Missed        bool     // notifications may be lost: the mailbox is to be listed
	Unsubscribed  bool     // the subscription is lost: a new one is needed
	Misled        bool     // the group's affinity leads to the wrong server, or to none: another has to lead it
	Untold        bool     // no notification comes of the mailbox while this lasts: it is polled
	Unsupported   bool     // the server does not do this, or not in this form: another way to the same end may work
	Superseded    bool     // another connection reads the same subscriptions
	Subscriptions []string // that the error concerns; none: all of the request

	Evidence // what came back beside the code

	Err error // the cause; may be nil
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Code
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Outage says whether the server failed and did not say for how long: what waits for that need not wait any longer once it answers.
func (e *Error) Outage() bool { return e.Scope == Server && !e.Asked }

// Of returns the typed error in err's chain. It takes an untyped error as temporary and as concerning the mailbox only: if that is wrong,
// it costs a retry; the opposite guess could cost mail.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Op: "internal", Code: "unknown", Scope: Mailbox, Remedy: Retry, Err: err}
}
