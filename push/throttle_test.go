package push

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

func phone(n int) subscriptions.Phone { return alert(n, 0).Phone }

func TestThrottledPhonesAreBounded(t *testing.T) {
	s := newThrottle()
	for i := range maxThrottled + 100 {
		s.slowDown(phone(i), 0)
		if len(s.phones) > maxThrottled {
			t.Fatalf("%d are remembered", len(s.phones))
		}
	}
	for p := range s.phones {
		s.slowDown(p, 0)
		if len(s.phones) != maxThrottled {
			t.Fatalf("one that is remembered makes another be forgotten: %d are", len(s.phones))
		}
	}
}

func TestAPhoneWaitsLongerEachTimeUpToItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newThrottle()
		for _, want := range []time.Duration{2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600} {
			least, got := want*time.Second, time.Until(s.slowDown(phone(1), 0))
			if got < least || got > least+min(least/4, time.Minute) {
				t.Errorf("it waits for %v, want %v or a little more", got, least)
			}
			<-time.After(got)
		}
		s.forget(phone(1))
		if got := time.Until(s.slowDown(phone(1), 0)); got > 3*time.Second {
			t.Errorf("after an alert that was accepted it waits for %v", got)
		}
	})
}

// A phone that got eight messages within a second was left alone for more than four minutes for one word of APNs.
func TestAPhoneOfWhichSeveralAlertsAreRefusedTogetherWaitsAsForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const together = 8
		b := overMemory(t, func(a arrived) act {
			if a.number <= together {
				return act{status: 429, body: `{"reason":"TooManyRequests"}`, delay: 10 * time.Millisecond}
			}
			return act{}
		})
		answers := make(chan subscriptions.Answer, together)
		for i := range together {
			go func() { answers <- b.Push(t.Context(), alert(1, i)) }()
		}
		for range together {
			a := <-answers
			if wait := time.Until(a.Next); a.Reason != "throttled" || wait > 2*throttling.First {
				t.Errorf("one of %d that were refused together is tried in %v: %+v", together, wait, a)
			}
		}
		<-time.After(2 * throttling.First)
		if a := b.Push(t.Context(), alert(1, together)); a.Result != subscriptions.Accepted {
			t.Errorf("then: %+v", a)
		}
	})
}

func TestAPhoneThatAcceptedAnAlertStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 4 {
				return act{}
			}
			return refusing(429, "TooManyRequests")
		})
		var last time.Duration
		for range 5 {
			a := b.Push(t.Context(), alert(1, 1))
			last = time.Until(a.Next)
			<-time.After(last)
		}
		if last < throttling.First || last > 2*throttling.First {
			t.Errorf("it waits for %v", last)
		}
	})
}

func TestThrottledIsThePhoneWhateverIsEnrolledOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 1 {
				return refusing(429, "TooManyRequests")
			}
			return act{}
		}, both)
		n := alert(1, 1)
		b.Push(t.Context(), n)
		n.Device = "the phone's other mailbox"
		if a := b.Push(t.Context(), n); a.Reason != "throttled" {
			t.Errorf("the other mailbox of the phone: %+v", a)
		}
		n.Phone.Environment = sandbox
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted {
			t.Errorf("its token in the other environment: %+v", a)
		}
	})
}
