package push

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// possession is a state whose holder the test names.
type possession struct {
	mu  sync.Mutex
	err error
}

func (p *possession) held() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *possession) becomes(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *possession) option(o *Options) { o.Held = p.held }

var errSlow = errors.New("the state has not answered for a second")

func TestNothingBeginsWhileTheStateIsNotHeldAndItGoesOnAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &possession{err: errSlow}
		b := overMemory(t, nil, state.option)
		answered := make(chan subscriptions.Answer, 1)
		go func() { answered <- b.Push(t.Context(), alert(1, 1)) }()
		<-time.After(20 * time.Second)
		if requests, _, _, _ := b.apns.seen(); len(requests) != 0 {
			t.Errorf("%d requests while the state is not held", len(requests))
		}
		if !b.Ready(topic, production) {
			t.Error("APNs counts as away, and was not asked")
		}
		state.becomes(nil)
		if a := <-answered; a.Result != subscriptions.Accepted || a.Resent != 0 || a.Unknown {
			t.Errorf("got %+v", a)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests", len(requests))
		}
	})
}

func TestAStateThatIsNotHeldForHalfAMinuteIsNoFaultOfAPNs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &possession{err: errSlow}
		b := overMemory(t, nil, state.option)
		start := time.Now()
		a := b.Push(t.Context(), alert(1, 1))
		if a.Result != subscriptions.NotBefore || a.Reason != outcome.NotHeld || a.Next.Sub(a.At) != notHeldNext || a.Unknown {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(start); took != holdFor {
			t.Errorf("held for %v", took)
		}
		if !b.Ready(topic, production) {
			t.Error("its topic counts as away")
		}
	})
}

func TestWhoWasFollowedGivesUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &possession{err: fmt.Errorf("the lease: %w", subscriptions.ErrFollowed)}
		b := overMemory(t, nil, state.option)
		start := time.Now()
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != outcome.NotHeld || a.Next.IsZero() {
			t.Errorf("got %+v", a)
		}
		if time.Since(start) != 0 {
			t.Errorf("after %v", time.Since(start))
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 0 {
			t.Errorf("%d requests", len(requests))
		}
	})
}

// What waits for its stream is asked when it has it, and not before: seconds may have passed, and the instance may have been stopped.
func TestTheStateIsAskedForDirectlyBeforeEachAttemptItsStreamFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &possession{}
		b := overMemory(t, func(a arrived) act {
			if a.number == 1 {
				return act{delay: time.Second}
			}
			return refusing(503, "ServiceUnavailable")
		}, state.option)
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() { b.Push(t.Context(), alert(i, i)) })
		}
		<-time.After(500 * time.Millisecond) // the first has the only stream
		state.becomes(fmt.Errorf("the lease: %w", subscriptions.ErrFollowed))
		all.Wait()
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests, want the one that had begun", len(requests))
		}
	})
}

func TestARepeatIsGivenUpOnceTheStateIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &possession{}
		b := overMemory(t, func(arrived) act {
			state.becomes(subscriptions.ErrFollowed)
			return act{cut: true}
		}, state.option)
		a := b.Push(t.Context(), alert(1, 1))
		if a.Result != subscriptions.NotBefore || a.Reason != outcome.NotHeld || !a.Unknown || a.Resent != 0 {
			t.Errorf("got %+v", a)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests", len(requests))
		}
	})
}

func TestWhatMayNotBeginIsGivenUpAtOnceAndCountsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		n := alert(1, 1)
		n.May, n.Repeat = func() bool { return false }, true
		start := time.Now()
		a := b.Push(t.Context(), n)
		if a.Result != subscriptions.NotBefore || a.Reason != outcome.Unanswered || a.Next.IsZero() || a.Resent != 0 || time.Since(start) != 0 {
			t.Errorf("got %+v after %v", a, time.Since(start))
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 0 || b.metric(t, "mailbell_resent_total", "") != 0 {
			t.Errorf("%d requests, %v resent", len(requests), b.metric(t, "mailbell_resent_total", ""))
		}
		if !b.Ready(topic, production) {
			t.Error("APNs counts as away, and was not asked")
		}
	})
}

func TestWhatMayBeginIsAskedBeforeEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number < 3 {
				return refusing(503, "ServiceUnavailable")
			}
			return act{}
		})
		n := alert(1, 1)
		asked := 0
		n.May = func() bool { asked++; return true }
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted || asked != 3 {
			t.Errorf("got %+v, asked %d times", a, asked)
		}
	})
}

func TestARepeatCountsAsResentOnceItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		n := alert(1, 1)
		n.Repeat = true
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted || a.Resent != 1 || a.Unknown {
			t.Errorf("got %+v", a)
		}
		if got := b.metric(t, "mailbell_resent_total", ""); got != 1 {
			t.Errorf("%v resent", got)
		}
	})
}

func TestAnAnswerSaysWhetherAPNsMayHaveTheAlert(t *testing.T) {
	for name, test := range map[string]struct {
		do   act
		want bool
	}{
		"cut":         {act{cut: true}, true},
		"silent":      {act{silent: true}, true},
		"unavailable": {refusing(503, "ServiceUnavailable"), false},
		"throttled":   {refusing(429, "TooManyRequests"), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return test.do })
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Unknown != test.want {
					t.Errorf("got %+v, unknown should be %t", a, test.want)
				}
			})
		})
	}
}
