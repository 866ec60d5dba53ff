// Package fault types errors by what to do about them and by whom they concern, so that whoever meets one decides by its
// type and never by its text. Rooms that talk to a server (ews, autodiscover, auth, push) return errors that wrap an *Error.
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

// Scope is whom an error concerns, and so how far its remedy reaches. One sick thing harms only itself.
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

// Error is a typed error. Its text names what failed and why; it never holds a secret or anything of a message.
type Error struct {
	Op     string // what was tried: "GetItem", "Autodiscover", "connect"
	Code   string // the protocol's own name: ErrorServerBusy, "HTTP 401", "certificate"
	Text   string // one sentence for the administrator
	Scope  Scope
	Remedy Remedy
	After  time.Duration // not before this; 0: no word about it

	// What follows from it, beside the remedy.
	Elsewhere     bool     // the mailbox does not live where it was asked for; the next exchange entry that covers it is asked
	Moved         bool     // the mailbox may live elsewhere now: its location is to be looked up again
	Gone          bool     // the item is not in the Inbox any more
	Missed        bool     // notifications may be lost: the mailbox is to be listed
	Unsubscribed  bool     // the subscription is lost: a new one is needed
	Misled        bool     // the group's affinity leads to the wrong server: its anchor is to be subscribed anew
	Superseded    bool     // another connection reads the same subscriptions
	Subscriptions []string // that it concerns; none: all that were asked about

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

// Of returns the typed error in err's chain. What is not typed is taken as passing and as concerning the mailbox alone:
// a wrong guess there costs a retry, the other way round it costs mail.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Op: "internal", Code: "unknown", Scope: Mailbox, Remedy: Retry, Err: err}
}
