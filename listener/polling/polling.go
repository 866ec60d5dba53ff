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
// Interval. The nil Pace has only that last bound.
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

// soonest is how near the turn that a mailbox has kept may be when its notifications stop. A nearer one is given up, for a break that has
// just begun is no reason for a poll.
func (p *Pace) soonest() time.Duration {
	if p == nil {
		return Interval / 2
	}
	return p.every / 2
}

// Turn is the place of one mailbox in the line of those that are polled. It has one turn at a time, and gives up only one that is near, so
// nobody waits for much longer than one poll of each of the others. While notifications tell of its mail again it keeps its turn: did it
// take another at each short break, those that it gave up would make the line longer than there are mailboxes.
type Turn struct {
	at      time.Time // zero: it never had one
	waiting bool      // nothing tells of its mail
}

// At is when the mailbox is to be listed, since nothing tells of its mail.
func (t *Turn) At(p *Pace, now time.Time) time.Time {
	if !t.waiting && t.at.Sub(now) < p.soonest() {
		t.Take(p, now)
	}
	t.waiting = true
	return t.at
}

// Due says whether the mailbox is to be listed now. Then it has its next turn.
func (t *Turn) Due(p *Pace, now time.Time) bool {
	if t.At(p, now).After(now) {
		return false
	}
	t.Take(p, now)
	return true
}

// Take takes a turn at the end of a line, which may be another than before.
func (t *Turn) Take(p *Pace, now time.Time) { t.at = p.next(now) }

// Told notes that something tells of its mail again.
func (t *Turn) Told() { t.waiting = false }

// Every is about how often a mailbox is listed that is polled now, in whole intervals.
func (p *Pace) Every(now time.Time) time.Duration {
	if p == nil {
		return Interval
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.every, p.last.Sub(now).Truncate(p.every))
}

// next plans the next poll of a mailbox that is polled from now on, or was polled just now.
func (p *Pace) next(now time.Time) time.Time {
	every := Interval
	if p != nil {
		every = p.every
	}
	jitter := backoff.Jitter(every) - every
	return p.room(now.Add(every)).Add(jitter)
}

// room plans one more poll, at next or as soon after it as the pace allows.
func (p *Pace) room(next time.Time) time.Time {
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
