// Package faults has the registry of the faults that are set. Each part of the simulator has a table of its faults, asks the registry
// whether a fault applies to what it is doing, and registers the acts of the faults that happen at once.
package faults

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault says what a fault applies to, and how often. Every field may be left out; the row of the table says which ones a fault has.
// Without Share and Count it always applies, until it is cleared.
type Fault struct {
	Mailbox string  `json:"mailbox,omitempty"` // only this one
	Host    string  `json:"host,omitempty"`    // only this host of Exchange: onpremises, online or other
	Token   string  `json:"token,omitempty"`   // only this device
	Share   float64 `json:"share,omitempty"`   // of the cases, above 0 to 1
	Count   int     `json:"count,omitempty"`   // so many cases, then it is cleared
	Status  int     `json:"status,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // cleared after that time, unless the row says something else
	Limit   int     `json:"limit,omitempty"`
}

// Duration is Seconds.
func (f Fault) Duration() time.Duration { return duration(f.Seconds) }

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// Concerns reports whether the fault is meant for a case: what happens on a host of Exchange, to a mailbox, or to a device token.
func (f Fault) Concerns(host, mailbox, token string) bool {
	return f.At(host) && (f.Mailbox == "" || f.Mailbox == mailbox) && (f.Token == "" || strings.EqualFold(f.Token, token))
}

// At reports whether the fault is meant for a host of Exchange.
func (f Fault) At(host string) bool { return f.Host == "" || f.Host == host }

// Cases is a fault and how many of its cases are left.
type Cases struct {
	Fault
	left int // of Count
	dice *rand.Rand
}

// newCases draws with a fixed seed, so that a test can be repeated.
func newCases(f Fault) Cases {
	return Cases{Fault: f, left: f.Count, dice: rand.New(rand.NewPCG(1, 2))}
}

// Met draws for Share and counts down Count.
func (c *Cases) Met() bool {
	if c.Share > 0 && c.Share < 1 && c.dice.Float64() >= c.Share {
		return false
	}
	if c.Count > 0 {
		if c.left == 0 {
			return false
		}
		c.left--
	}
	return true
}

// Kind is a row of the table: a fault that can be set.
type Kind struct {
	Name   string
	Fields string // those of Fault that it takes, by their JSON names
	Text   string // what it does, in a sentence

	Valued    bool // its seconds are a value, not the time after which it is cleared
	AnyReason bool // its reason need not be a name of letters
	// Check says what else is wrong with a fault of this kind: the field, and what it must be; empty texts if nothing is. May be nil.
	Check func(Fault) (field, text string)
}

// Info describes a fault, and how it is set if it is.
type Info struct {
	Name   string   `json:"name"`
	Text   string   `json:"text"`
	Fields []string `json:"fields"`
	Set    *Fault   `json:"set"`
}

// Error says why a fault cannot be set.
type Error struct {
	Name, Field string // Field is empty where the name is the mistake
	Text        string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("fault %q: %s", e.Name, e.Text)
	}
	return fmt.Sprintf("fault %q: %s: %s", e.Name, e.Field, e.Text)
}

// maxSeconds is a year: more than any test means, and far from where a time.Duration overflows.
const maxSeconds = 365 * 24 * 3600.0

// maxReason is longer than every reason of Exchange and APNs.
const maxReason = 100

// check reports what is wrong with f as a fault of that kind; nil if nothing is.
func (k Kind) check(f Fault) error {
	takes := strings.Fields(k.Fields)
	for field, given := range map[string]bool{
		"mailbox": f.Mailbox != "", "host": f.Host != "", "token": f.Token != "", "share": f.Share != 0, "count": f.Count != 0,
		"status": f.Status != 0, "reason": f.Reason != "", "seconds": f.Seconds != 0, "limit": f.Limit != 0,
	} {
		if given && !slices.Contains(takes, field) {
			return &Error{k.Name, field, "this fault does not take it"}
		}
	}
	switch {
	case math.IsNaN(f.Share) || f.Share < 0 || f.Share > 1:
		return &Error{k.Name, "share", "must be above 0 and at most 1"}
	case f.Count < 0:
		return &Error{k.Name, "count", "must be above 0"}
	case math.IsNaN(f.Seconds) || math.Abs(f.Seconds) > maxSeconds || f.Seconds < 0 && k.Name != ClockSkew.Name:
		return &Error{k.Name, "seconds", fmt.Sprintf("must be above 0 and at most %d", int(maxSeconds))}
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return &Error{k.Name, "status", "must be an HTTP status, 200 to 599"}
	case f.Limit < 0 || f.Limit > math.MaxInt32:
		return &Error{k.Name, "limit", "must be above 0"}
	}
	if k.Check != nil {
		if field, text := k.Check(f); text != "" {
			return &Error{k.Name, field, text}
		}
	}
	if !k.AnyReason && (len(f.Reason) > maxReason || strings.ContainsFunc(f.Reason, notLetter)) {
		return &Error{k.Name, "reason", "must be a name of letters"}
	}
	return nil
}

func notLetter(r rune) bool { return r < 'A' || r > 'z' || r > 'Z' && r < 'a' }
