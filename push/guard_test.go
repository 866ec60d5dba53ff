package push

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/subscriptions"
)

func gone(reason string) act {
	return act{status: 410, body: fmt.Sprintf(`{"reason":%q,"timestamp":%d}`, reason, time.Now().UnixMilli())}
}

// from makes a stand-in that accepts the devices below n and refuses the others.
func from(n int, do func() act) func(arrived) act {
	return func(a arrived) act {
		if a.token() < tokenOf(n) {
			return act{}
		}
		return do()
	}
}

// each sends to phones one after the other and returns the answers.
func (b *bench) each(t *testing.T, first, n int) []subscriptions.Answer {
	answers := make([]subscriptions.Answer, n)
	for i := range n {
		answers[i] = b.Push(t.Context(), alert(first+i, 1))
	}
	return answers
}

func TestNoDeviceIsRemovedWhileManyFailAlike(t *testing.T) {
	for name, test := range map[string]struct {
		accepted int
		failing  string // what the first devices fail with
		status   int
		removed  int // of 40 more that are gone
		held     int
	}{
		"ten of a few":                       {accepted: 0, removed: 10, held: 30},
		"ten of two hundred":                 {accepted: 180, removed: 10, held: 30},
		"one in twenty of four hundred":      {accepted: 400, removed: 21, held: 19}, // 21 of 421
		"forty of a thousand":                {accepted: 1000, removed: 40, held: 0},
		"after many bad tokens":              {failing: "BadDeviceToken", status: 400, held: 40},
		"after many tokens of another app":   {failing: "DeviceTokenNotForTopic", status: 400, held: 40},
		"after a topic that is not allowed":  {failing: "TopicDisallowed", status: 400, held: 40},
		"after a topic that is none":         {failing: "BadTopic", status: 400, held: 40},
		"after many alerts that were broken": {failing: "BadPriority", status: 400, removed: 10, held: 30}, // that is our fault alone
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, from(1000, func() act { return gone("Unregistered") }))
				<-time.After(time.Minute) // after the enrolment
				if test.failing != "" {
					b.apns.set(func(s *standIn) {
						s.decide = from(1000, func() act { return refusing(test.status, test.failing) })
					})
					want := map[string]int{"refused " + test.failing: 20}
					if diff := cmp.Diff(want, count(b.each(t, 2000, 20))); diff != "" {
						t.Error(diff)
					}
					b.apns.set(func(s *standIn) { s.decide = from(1000, func() act { return gone("Unregistered") }) })
				}
				b.burst(t.Context(), test.accepted)
				got := count(b.each(t, 1000, 40))
				if got["gone Unregistered"] != test.removed || got["refused removal_held"] != test.held {
					t.Errorf("got %v, want %d removed and %d held", got, test.removed, test.held)
				}
				if n := b.metric(t, "mailbell_removals_held_total", ""); n != float64(test.held) {
					t.Errorf("mailbell_removals_held_total is %v, want %d", n, test.held)
				}
				if n := b.logs.FilterMessageSnippet("many devices fail alike").Len(); (n == 1) != (test.held > 0) || n > 1 {
					t.Errorf("%d loud lines in the log", n)
				}
			})
		})
	}
}

func TestRemovalsGoOnWhenTheShareIsNormalAgain(t *testing.T) {
	for name, normal := range map[string]func(*testing.T, *bench){
		"by time":             func(*testing.T, *bench) { <-time.After(guardWindow + time.Second) },
		"by many that accept": func(t *testing.T, b *bench) { b.burst(t.Context(), 500) },
		"by tokens that do": func(t *testing.T, b *bench) {
			b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return act{} } })
			b.each(t, 1000, 20)
		},
		"by time, with mail": func(t *testing.T, b *bench) { everyMinute(t, b) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fails := from(1000, func() act { return gone("ExpiredToken") })
				b := overMemory(t, fails)
				<-time.After(time.Minute)
				b.each(t, 1000, 20)
				if a := b.Push(t.Context(), alert(1000, 1)); a.Result != subscriptions.Refused || a.Reason != "removal_held" || a.Status != 410 {
					t.Errorf("got %+v", a)
				}
				normal(t, b)
				b.apns.set(func(s *standIn) { s.decide = fails })
				if a := b.Push(t.Context(), alert(1000, 1)); a.Result != subscriptions.Gone {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

func TestTheGuardLooksBackTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		g.note("long ago", true)
		<-time.After(guardWindow)
		if answered, failing, _ := g.note("now", false); answered != 2 || failing != 1 || guardWindow != 10*time.Minute {
			t.Errorf("at the end of the window %d are watched, and %d failed", answered, failing)
		}
		<-time.After(guardWindow / 5)
		if answered, failing, _ := g.note("now", false); answered != 1 || failing != 0 {
			t.Errorf("after it %d are watched, and %d failed", answered, failing)
		}
	})
}

func TestTheGuardKeepsNoRoomForThePhonesOfABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		for i := range 1000 {
			g.note(fmt.Sprint(i), false)
		}
		<-time.After(guardWindow + guardWindow/5)
		if g.note("now", false); g.most != 1 || len(g.phones) != 1 {
			t.Errorf("there is room for %d phones, and %d are watched", g.most, len(g.phones))
		}
	})
}

func TestThatManyFailIsToldOnceInAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refusing(400, "DeviceTokenNotForTopic") })
		for range 25 {
			b.each(t, 1000, 20)
			<-time.After(time.Minute)
		}
		told := b.logs.FilterMessageSnippet("many devices fail alike").All()
		if len(told) != 3 {
			t.Fatalf("%d lines in 25 minutes", len(told))
		}
		for i := range told[1:] {
			if after := told[i+1].Time.Sub(told[i].Time); after != guardWindow {
				t.Errorf("told again after %v", after)
			}
		}
	})
}

// everyMinute sends to a few phones that accept it, while those that failed are left alone.
func everyMinute(t *testing.T, b *bench) {
	for range 12 {
		b.burst(t.Context(), 5)
		<-time.After(time.Minute)
	}
}

func TestDeviceThatFailsAgainAndAgainCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return gone("Unregistered") })
		<-time.After(time.Minute)
		for range 50 {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Gone {
				t.Fatalf("got %+v", a)
			}
		}
	})
}

func TestGuardIsOfOneGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.in() == sandbox && a.token() == tokenOf(1) {
				return gone("Unregistered")
			}
			return refusing(400, "BadDeviceToken") // of production devices in both environments
		}, both)
		<-time.After(time.Minute)
		b.each(t, 100, 30)
		n := alert(1, 1)
		n.Phone.Environment = sandbox
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Gone {
			t.Errorf("the sandbox pays for production: %+v", a)
		}
	})
}

func TestDevicesThatAreWatchedAreBounded(t *testing.T) {
	g := newGuard()
	for i := range maxGuarded + 100 {
		g.note(fmt.Sprint(i), i%2 == 0)
	}
	for range 2 { // one that is watched stays so
		if answered, failing, mass := g.note("0", false); answered != maxGuarded || failing != maxGuarded/2-1 || !mass {
			t.Errorf("%d are watched, %d failed, %t", answered, failing, mass)
		}
	}
}
