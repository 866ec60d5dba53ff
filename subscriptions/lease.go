package subscriptions

// This file is for how long an instance may take the state for its own (rule 13). While the instance is stopped, or does not reach Redis,
// nobody can tell it that another has taken the state over. So it asks its own clocks, directly before each attempt of a push.

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// leaseLife is how long a lease outlives its last renewal: with leasePoll, a standby takes over within 15 s.
	leaseLife  = 10 * time.Second
	leaseRenew = time.Second // between two renewals
	// leaseNew is how long a state that seems new is watched before it is taken. Where Redis has just lost it, its holder, which has all of
	// it in memory, renews its lease within that time.
	leaseNew = leaseRenew + 500*time.Millisecond
	// renewTimeout bounds one renewal, well below leaseTrust: where a connection has died without a word, another one is opened while the
	// lease can still be saved.
	renewTimeout = 2 * time.Second
	// leaseTrust is how long after a renewal was asked for something may begin. What has begun then ends long before leaseLife is over.
	leaseTrust = leaseLife / 3
	// maxWaiting is how long a renewal or a write may wait before nothing more begins: what cannot be written down would be sent
	// again by the instance that takes over.
	maxWaiting = time.Second
)

// ErrFollowed says that another instance has taken the state over: this one must not send any more.
var ErrFollowed = errors.New("another instance has taken the state over")

var (
	errStale   = fmt.Errorf("no renewal of the lease was granted within %v: another instance may hold the state by now; nothing is sent until one is", leaseTrust.Round(100*time.Millisecond))
	errWaiting = fmt.Errorf("a renewal of the lease has waited for more than %v; nothing is sent until it is granted", maxWaiting)
	errSlow    = fmt.Errorf("a write of the state has waited for more than %v; nothing is sent until it is done", maxWaiting)
)

// instant is a moment by both clocks. The monotonic one stands still while the machine sleeps; the other can be set.
type instant struct {
	up   time.Duration // by the monotonic clock
	wall time.Time     // by the other alone
}

// clocks reads both clocks.
func clocks() func() instant {
	began := time.Now()
	return func() instant {
		now := time.Now()
		return instant{now.Sub(began), now.Round(0)}
	}
}

// since is how long ago an instant was, by the clock that says more.
func (i instant) since(then instant) time.Duration { return max(i.up-then.up, i.wall.Sub(then.wall)) }

// lease is what an instance knows of its lease.
type lease struct {
	now  func() instant
	lost chan struct{} // closed when another instance has taken the state over

	mu      sync.Mutex
	granted *instant // when the last renewal that was granted was asked for; nil: none was, or the lease was given back
	wanted  *instant // since when a renewal is waited for; nil: none is
}

func newLease() *lease { return &lease{now: clocks(), lost: make(chan struct{})} }

// ask notes that a renewal is waited for, and returns when it was asked for. A renewal that failed is still waited for, from when it was
// asked for.
func (l *lease) ask() instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.now()
	if l.wanted == nil {
		l.wanted = &asked
	}
	return asked
}

// grant notes that the renewal that was asked for then is granted.
func (l *lease) grant(asked instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.granted, l.wanted = &asked, nil
}

// giveBack ends the lease, before Redis is told.
func (l *lease) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.granted, l.wanted = nil, nil
}

// follow notes that another instance has taken the state over.
func (l *lease) follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLost() {
		close(l.lost)
	}
}

func (l *lease) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// held says whether something may begin now.
func (l *lease) held() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	switch {
	case l.isLost():
		return ErrFollowed
	case l.granted == nil || now.since(*l.granted) >= leaseTrust:
		return errStale
	case l.wanted != nil && now.since(*l.wanted) > maxWaiting:
		return errWaiting
	}
	return nil
}
