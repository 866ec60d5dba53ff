package listener

// Mailboxes that were just enrolled. To look one up, to subscribe and to list it is several times the work of its enrolment: an MDM portal
// that enrols thousands would wait for that with each answer. It is answered first. The last of its mailboxes is listened to no later.

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// atOnce is how many mailboxes a second are looked up as they come: enough for people who try, and for a normal day. The others wait for a
	// lull.
	atOnce = 16
	// lull is how long nobody must have enrolled before those that wait are looked up: an MDM portal that goes on does so within milliseconds.
	lull = 50 * time.Millisecond
	// longestWait is how long a mailbox waits at most, where the enrolments do not end: 15,000 of them take less, also on a machine that has
	// other work. Mail that comes meanwhile is found by the first listing.
	longestWait = 10 * time.Second
)

// newcomers are the mailboxes that wait for a lull.
type newcomers struct {
	l    *Listener
	pace *rate.Limiter // of those that do not wait

	mu       sync.Mutex
	underWay int        // enrolments
	last     time.Time  // when one ended
	waiting  []newcomer // first in first out; each at most once
	serving  bool       // somebody looks after those that wait
}

type newcomer struct {
	*mailbox
	came time.Time
}

func newNewcomers(l *Listener) *newcomers {
	return &newcomers{l: l, pace: rate.NewLimiter(atOnce, atOnce)}
}

// enrolling notes that a device is being enrolled, of whatever mailbox, until ended is called.
func (n *newcomers) enrolling() (ended func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.underWay++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.underWay--
		n.last = time.Now()
	}
}

// add has a mailbox looked up, now or in a lull.
func (n *newcomers) add(m *mailbox) {
	if n.pace.Allow() {
		m.seek()
		return
	}
	n.mu.Lock()
	n.waiting = append(n.waiting, newcomer{m, time.Now()})
	serve := !n.serving
	n.serving = true
	n.mu.Unlock()
	if serve {
		n.l.run(n.serve) // false: all ends, and nobody is looked up any more
	}
}

// serve has those that wait looked up, until none is left.
func (n *newcomers) serve() {
	for pause.For(n.l.looking, lull) {
		due, more := n.due()
		for _, m := range due {
			m.seek()
		}
		if !more {
			return
		}
	}
}

// due takes those whose time has come, the first first, and says whether others are left.
func (n *newcomers) due() (list []newcomer, more bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	quiet := n.underWay == 0 && now.Sub(n.last) >= lull
	end := 0
	for end < len(n.waiting) && (quiet || now.Sub(n.waiting[end].came) >= longestWait) {
		end++
	}
	if end > 0 {
		list, n.waiting = n.waiting[:end], append([]newcomer(nil), n.waiting[end:]...) // a copy, so that the memory of 15,000 is not kept
	}
	n.serving = len(n.waiting) > 0
	return list, n.serving
}
