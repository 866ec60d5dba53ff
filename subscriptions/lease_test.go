package subscriptions

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hands are two clocks that a test sets.
type hands struct{ at instant }

func (h *hands) lease() *lease {
	h.at = instant{up: time.Hour, wall: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)}
	l := newLease()
	l.now = func() instant { return h.at }
	return l
}

func (h *hands) pass(up, wall time.Duration) {
	h.at.up += up
	h.at.wall = h.at.wall.Add(wall)
}

func TestSomethingBeginsForAThirdOfTheLeaseAfterARenewalWasAskedFor(t *testing.T) {
	const third = 3333 * time.Millisecond
	for name, test := range map[string]struct {
		up, wall time.Duration
		want     error
	}{
		"just before":                   {third, third, nil},
		"just after":                    {third + time.Millisecond, third + time.Millisecond, errStale},
		"a process that was stopped":    {21 * time.Second, 21 * time.Second, errStale},
		"a machine that slept":          {time.Second, 21 * time.Second, errStale},
		"a wall clock set forward":      {time.Second, time.Hour, errStale},
		"a wall clock set back":         {time.Second, -time.Hour, nil},
		"set back while it was stopped": {21 * time.Second, -time.Hour, errStale},
	} {
		t.Run(name, func(t *testing.T) {
			var h hands
			l := h.lease()
			if err := l.held(); !errors.Is(err, errStale) {
				t.Errorf("a lease that was never granted: %v", err)
			}
			asked := l.ask()
			h.pass(500*time.Millisecond, 500*time.Millisecond)
			l.grant(asked)
			h.pass(test.up-500*time.Millisecond, test.wall-500*time.Millisecond)
			if err := l.held(); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			l.grant(l.ask())
			if err := l.held(); err != nil {
				t.Errorf("after the next renewal: %v", err)
			}
		})
	}
}

func TestNothingBeginsOnceARenewalHasWaitedForASecond(t *testing.T) {
	var h hands
	l := h.lease()
	l.grant(l.ask())
	h.pass(time.Second, time.Second)
	l.ask()
	h.pass(time.Second, time.Second)
	if err := l.held(); err != nil {
		t.Errorf("after a second: %v", err)
	}
	h.pass(time.Millisecond, time.Millisecond)
	if err := l.held(); !errors.Is(err, errWaiting) {
		t.Errorf("after more than a second: %v", err)
	}
	asked := l.ask() // the one before was given up
	if err := l.held(); !errors.Is(err, errWaiting) {
		t.Errorf("a renewal that is asked for again has waited no less: %v", err)
	}
	l.grant(asked)
	if err := l.held(); err != nil {
		t.Errorf("once it is granted: %v", err)
	}
}

func TestWhoWasFollowedOrGaveTheLeaseBackHoldsNothing(t *testing.T) {
	var h hands
	l := h.lease()
	l.grant(l.ask())
	l.giveBack()
	if err := l.held(); !errors.Is(err, errStale) {
		t.Errorf("given back: %v", err)
	}
	l.grant(l.ask())
	l.follow()
	l.follow()
	if err := l.held(); !errors.Is(err, ErrFollowed) {
		t.Errorf("followed: %v", err)
	}
	l.grant(l.ask()) // an answer that was on its way
	if err := l.held(); !errors.Is(err, ErrFollowed) {
		t.Errorf("followed, and an older renewal granted: %v", err)
	}
}

func TestTheClocksAreReadApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clocks()
		first := now()
		if strings.Contains(first.wall.String(), " m=") {
			t.Error("the wall clock carries the monotonic one")
		}
		<-time.After(2 * time.Second)
		if second := now(); second.up-first.up != 2*time.Second || second.wall.Sub(first.wall) != 2*time.Second {
			t.Errorf("%+v after %+v", second, first)
		}
	})
}

func TestTheTimesOfTheLeaseLeaveRoomForAFailedRenewal(t *testing.T) {
	if leaseLife != 10*time.Second || leaseRenew != time.Second || leaseTrust != leaseLife/3 {
		t.Errorf("it lives %v, is renewed each %v and believed for %v", leaseLife, leaseRenew, leaseTrust)
	}
	if leaseRenew+renewTimeout >= leaseTrust {
		t.Errorf("a renewal that takes %v ends the lease", renewTimeout)
	}
	if leaseLife+leasePoll+renewTimeout >= 15*time.Second {
		t.Errorf("a standby looks each %v: it takes over after 15 s", leasePoll)
	}
}

func TestNothingBeginsOnceAWriteHasWaitedForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := newCommitter(func([]int) []error {
			<-release
			return nil
		})
		var writes sync.WaitGroup
		writes.Go(func() { _ = c.write(t.Context(), 1) })
		<-time.After(600 * time.Millisecond)
		writes.Go(func() { _ = c.write(t.Context(), 2) })
		<-time.After(400 * time.Millisecond)
		if err := c.prompt(); err != nil {
			t.Errorf("after a second: %v", err)
		}
		<-time.After(time.Millisecond)
		if err := c.prompt(); !errors.Is(err, errSlow) {
			t.Errorf("after more than a second: %v", err)
		}
		release <- struct{}{}
		synctest.Wait()
		if err := c.prompt(); err != nil {
			t.Errorf("the next has waited for 0.4 s: %v", err)
		}
		<-time.After(700 * time.Millisecond)
		if err := c.prompt(); !errors.Is(err, errSlow) {
			t.Errorf("it has waited for 1.1 s, if not always at the store: %v", err)
		}
		release <- struct{}{}
		writes.Wait()
		if err := c.prompt(); err != nil {
			t.Errorf("nothing waits: %v", err)
		}
		c.close()
	})
}

// What Redis, or something before it, answers about the lease may be anything.
func FuzzTheAnswerAboutTheLease(f *testing.F) {
	f.Add(int64(1), int64(0), "", 3)
	f.Add(int64(0), int64(-1), `{"host":"a","pid":1}`, 3)
	f.Add(int64(-5), int64(1<<62), "{", 2)
	f.Fuzz(func(t *testing.T, number, wait int64, held string, n int) {
		answer := []any{number, wait, held, nil}
		got, _, text, err := readTaken(answer[:min(max(n, 0), len(answer))])
		if err == nil && (number < 0 || got != uint64(number) || text != held) {
			t.Errorf("%d, %q", got, text)
		}
		nameOf(held)
	})
}
