package push

import (
	"context"
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/subscriptions"
)

const answersWithFaults = "answers with faults"

// waysToBeAway make APNs go away and come back.
var waysToBeAway = map[string]func(*standIn, bool){
	"cannot be reached":    func(s *standIn, away bool) { s.down = away },
	"accepts and hangs up": func(s *standIn, away bool) { s.slams = away },
	answersWithFaults: func(s *standIn, away bool) {
		if s.decide = refuseProbe; away {
			s.decide = func(arrived) act { return refuse(503, "ServiceUnavailable") }
		}
	},
	"stalls": func(s *standIn, away bool) {
		if s.decide = refuseProbe; away {
			s.decide = func(arrived) act { return act{silent: true} }
		}
	},
}

func TestAlertsAreTurnedAwayAtOnceWhileAPNsIsAwayAndItsReturnIsToldOnce(t *testing.T) {
	for name, away := range waysToBeAway {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, refuseProbe)
				b.apns.set(func(s *standIn) { away(s, true) })
				var all sync.WaitGroup
				all.Go(func() {
					if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" {
						t.Errorf("the alert that was held: %+v", a)
					}
				})
				<-time.After(2*awayAfter + answerTimeout)
				for range 1000 {
					start := time.Now()
					if a := b.Ring(t.Context(), device(2), bell(2)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" || !a.Next.IsZero() || time.Since(start) > 0 {
						t.Fatalf("got %+v after %v", a, time.Since(start))
					}
				}
				if b.Ready(topic, "production") {
					t.Error("it says that it is ready")
				}
				<-time.After(time.Hour)
				all.Wait()
				if _, probes, _, _ := b.apns.seen(); len(probes) > 130 {
					t.Errorf("%d probes in an hour", len(probes))
				}
				if len(b.readied()) != 0 {
					t.Errorf("ready: %v", b.readied())
				}
				b.apns.set(func(s *standIn) { away(s, false) })
				<-time.After(2 * time.Minute)
				if diff := cmp.Diff([]string{topic + " production"}, b.readied()); diff != "" {
					t.Error(diff)
				}
				if a := b.Ring(t.Context(), device(2), bell(2)); a.Result != subscriptions.Accepted || !b.Ready(topic, "production") {
					t.Errorf("got %+v", a)
				}
				if requests, _, _, _ := b.apns.seen(); requests[len(requests)-1].token() != device(2).Token {
					t.Error("the alert that was turned away was sent later")
				}
			})
		})
	}
}

// refuseProbe accepts all but the probe, as APNs does.
func refuseProbe(a arrived) act {
	if a.token() == probeToken {
		return refuse(400, "BadDeviceToken")
	}
	return act{}
}

// slowly answers after a round trip.
func slowly(roundTrip time.Duration, decide func(arrived) act) func(arrived) act {
	return func(a arrived) act {
		do := decide(a)
		do.delay = roundTrip
		return do
	}
}

// readyAt notes when it is told that a topic is ready.
type readyAt chan time.Time

func (r readyAt) TopicReady(string, string) { r <- time.Now() }

func TestAnHourWithoutAPNsGathersNothingAndItsFirstAnswerIsToldAtOnce(t *testing.T) {
	const roundTrip = 50 * time.Millisecond
	const calls = 20_000
	for name, away := range waysToBeAway {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ready := make(readyAt, 10)
				b := overMemory(t, refuseProbe, func(o *Options) { o.Ready = ready })
				b.Ring(t.Context(), device(0), bell(0))
				b.apns.set(func(s *standIn) { away(s, true) })
				b.apns.cutAll()
				start := time.Now()
				var all sync.WaitGroup
				ring := func(n int) {
					if a := b.Ring(t.Context(), device(n), bell(n)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" {
						t.Errorf("got %+v", a)
					}
				}
				// They come at an even pace. In the first minute some are held, and all are given back before it ends.
				const pace = time.Hour / calls
				const first = int(time.Minute / pace)
				for n := range first {
					all.Go(func() { ring(n) })
					<-time.After(pace)
				}
				all.Wait()
				if took := time.Since(start); took > time.Minute {
					t.Errorf("some were held for longer than %v", took-time.Minute)
				}
				goroutines, heap := runtime.NumGoroutine(), heapInUse()
				for n := first; n < calls; n++ {
					called := time.Now()
					if ring(n); time.Since(called) != 0 {
						t.Fatalf("an alert was held for %v", time.Since(called))
					}
					if n%10 == 0 {
						<-time.After(10 * pace)
					}
				}
				if now := runtime.NumGoroutine(); now > goroutines+10 { // those of a dial or a probe that is under way
					t.Errorf("%d goroutines, %d an hour ago", now, goroutines)
				}
				if now := heapInUse(); now > heap+1<<20 {
					t.Errorf("%d KiB more than an hour ago", (now-heap)>>10)
				}
				if len(ready) != 0 {
					t.Error("it says that it is ready")
				}

				var asked time.Time
				b.apns.set(func(s *standIn) {
					away(s, false)
					s.decide = func(a arrived) act {
						if asked.IsZero() {
							asked = time.Now()
						}
						return slowly(roundTrip, refuseProbe)(a)
					}
				})
				back := time.Now()
				told := <-ready
				if took := told.Sub(asked); took > roundTrip+time.Millisecond {
					t.Errorf("told %v after the first question that was answered, want its round trip", took)
				}
				if took := told.Sub(back); took > 2*time.Minute {
					t.Errorf("told %v after APNs was back", took)
				}
				if diff := cmp.Diff(map[string]int{"accepted": 100}, count(b.burst(t.Context(), 100))); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Many alerts wait for the connection, few wait longer and longer between their tries: both go with the first answer.
func TestWhatIsHeldGoesOutWithTheFirstAnswerOfAnAPNsThatFailed(t *testing.T) {
	const roundTrip = 50 * time.Millisecond
	for name, away := range waysToBeAway {
		for load, test := range map[string]struct {
			held    int
			failing time.Duration
		}{"many": {1000, 4 * time.Second}, "few": {4, 21 * time.Second}} {
			t.Run(name+", "+load, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := overMemory(t, slowly(roundTrip, refuseProbe))
					b.Ring(t.Context(), device(0), bell(0)) // the connection stands, and takes many
					b.apns.set(func(s *standIn) { away(s, true) })
					b.apns.cutAll()
					var all sync.WaitGroup
					all.Go(func() {
						<-time.After(test.failing)
						b.apns.set(func(s *standIn) {
							away(s, false)
							s.decide = slowly(roundTrip, refuseProbe)
						})
					})
					answers := b.burst(t.Context(), test.held)
					all.Wait()
					got := count(answers)
					if name != answersWithFaults && got["not_before topic_away"] == test.held {
						return // the next dial came when none was held any more; had there been an answer, all would go
					}
					if diff := cmp.Diff(map[string]int{"accepted": test.held}, got); diff != "" {
						t.Error(diff)
					}
					first, last := answers[0].At, answers[0].At
					for _, a := range answers {
						if a.At.Before(first) {
							first = a.At
						}
						if a.At.After(last) {
							last = a.At
						}
					}
					if took := last.Sub(first); took > roundTrip+250*time.Millisecond {
						t.Errorf("the last went out %v after the first answer", took)
					}
				})
			})
		}
	}
}

func TestOneFailureLongAgoTurnsNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{silent: a.connection == 1} })
		ctx, cancel := context.WithTimeout(t.Context(), answerTimeout+time.Millisecond)
		defer cancel()
		if a := b.Ring(ctx, device(1), bell(1)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
			t.Errorf("got %+v", a)
		}
		<-time.After(time.Minute)
		if diff := cmp.Diff(map[string]int{"accepted": 3}, count(b.burst(t.Context(), 3))); diff != "" {
			t.Error(diff)
		}
	})
}

func TestKeyThatIsRefusedHoldsItsTopicsAndIsProbedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refuse(403, "InvalidProviderToken") }, func(o *Options) {
			second := o.Topics[0]
			second.Environment = "sandbox"
			o.Topics = append(o.Topics, second)
		})
		answers := b.burst(t.Context(), 100)
		if diff := cmp.Diff(map[string]int{"not_before credentials": 100}, count(answers)); diff != "" {
			t.Error(diff)
		}
		requests, _, _, _ := b.apns.seen()
		if len(requests) > 5 { // one, and what had its turn before the answer was read
			t.Errorf("%d alerts went out with a key that was refused", len(requests))
		}
		d := device(1)
		d.Environment = "sandbox"
		if a := b.Ring(t.Context(), d, bell(1)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" || !a.Next.IsZero() {
			t.Errorf("the other topic of the key: %+v", a)
		}
		<-time.After(time.Hour)
		if again, probes, _, _ := b.apns.seen(); len(again) != len(requests) || math.Abs(float64(len(probes))-60*4/3) > 30 {
			t.Errorf("%d alerts and %d probes in an hour", len(again)-len(requests), len(probes))
		}
		if n := b.logs.FilterMessage("nothing can be rung").Len(); n != 1 {
			t.Errorf("%d lines in the log, want 1", n)
		}
		b.apns.set(func(s *standIn) { s.decide = refuseProbe })
		<-time.After(2 * time.Minute)
		if diff := cmp.Diff([]string{topic + " production", topic + " sandbox"}, b.readied()); diff != "" {
			t.Error(diff)
		}
		if a := b.Ring(t.Context(), d, bell(1)); a.Result != subscriptions.Accepted {
			t.Errorf("got %+v", a)
		}
	})
}
