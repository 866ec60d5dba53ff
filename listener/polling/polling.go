// Package polling says how often mailboxes are listed while nothing tells of their mail: their stream cannot be opened, their callbacks do
// not come, or their server refuses notifications.
package polling

import (
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
)

// Interval is how often a mailbox is listed, as long as not too many are polled.
const Interval = time.Minute

// Pace spreads the polls of an exchange entry: of N mailboxes each is listed every N/perSecond seconds, and not more often than every
// Interval. The nil Pace has no other bound.
type Pace struct {
	every time.Duration // Interval, or what it is for these mailboxes
	gap   time.Duration // between two polls

	mu   sync.Mutex
	last time.Time // the latest poll that is planned
}

// New returns a pace of so many polls a second.
func New(perSecond float64) *Pace { return NewEvery(Interval, perSecond) }

// NewEvery returns a pace for mailboxes that are listed at another interval.
func NewEvery(interval time.Duration, perSecond float64) *Pace {
	return &Pace{every: interval, gap: time.Duration(float64(time.Second) / perSecond)}
}

// Next is when a mailbox is to be polled that is polled from now on, or has been polled now. A mailbox has one such time at once, so nobody
// waits longer than for one poll of each of the others.
func (p *Pace) Next(now time.Time) time.Time {
	every := Interval
	if p != nil {
		every = p.every
	}
	jitter := backoff.Jitter(every) - every
	return p.turn(now.Add(every)).Add(jitter)
}

// turn is when there is room for one more poll, not before a time.
func (p *Pace) turn(next time.Time) time.Time {
	if p == nil {
		return next
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if after := p.last.Add(p.gap); after.After(next) {
		next = after
	}
	p.last = next
	return next
}
