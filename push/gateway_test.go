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
			s.decide = func(arrived) act { return refusing(503, "ServiceUnavailable") }
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
					if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" {
						t.Errorf("the alert that was held: %+v", a)
					}
				})
				<-time.After(2*awayAfter + answerTimeout)
				for range 1000 {
					start := time.Now()
					if a := b.Push(t.Context(), alert(2, 2)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" || !a.Next.IsZero() || time.Since(start) > 0 {
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
				if a := b.Push(t.Context(), alert(2, 2)); a.Result != subscriptions.Accepted || !b.Ready(topic, "production") {
					t.Errorf("got %+v", a)
				}
				if requests, _, _, _ := b.apns.seen(); requests[len(requests)-1].token() != tokenOf(2) {
					t.Error("the alert that was turned away was sent later")
				}
			})
		})
	}
}

// refuseProbe accepts all but the probe, as APNs does.
func refuseProbe(a arrived) act {
	if a.token() == probeToken {
		return refusing(400, "BadDeviceToken")
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
				b.Push(t.Context(), alert(0, 0))
				b.apns.set(func(s *standIn) { away(s, true) })
				b.apns.cutAll()
				start := time.Now()
				var all sync.WaitGroup
				send := func(n int) {
					if a := b.Push(t.Context(), alert(n, n)); a.Result != subscriptions.NotBefore || a.Reason != "topic_away" {
						t.Errorf("got %+v", a)
					}
				}
				// They come at an even pace. In the first minute some are held, and all are given back before it ends.
				const pace = time.Hour / calls
				const first = int(time.Minute / pace)
				for n := range first {
					all.Go(func() { send(n) })
					<-time.After(pace)
				}
				all.Wait()
				if took := time.Since(start); took > time.Minute {
					t.Errorf("some were held for longer than %v", took-time.Minute)
				}
				goroutines, heap := runtime.NumGoroutine(), heapInUse()
				for n := first; n < calls; n++ {
					called := time.Now()
					send(n)
					if time.Since(called) != 0 {
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
					b.Push(t.Context(), alert(0, 0)) // the connection stands, and takes many
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
	for name, first := range map[string]int{"of a connection that answered nothing": 1, "of one that worked": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act { return act{silent: a.connection == 1 && a.number >= first} })
				for range first - 1 {
					b.Push(t.Context(), alert(0, 0))
				}
				ctx, cancel := context.WithTimeout(t.Context(), answerTimeout+time.Millisecond)
				defer cancel()
				if a := b.Push(ctx, alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
					t.Errorf("got %+v", a)
				}
				<-time.After(time.Minute)
				if diff := cmp.Diff(map[string]int{"accepted": 3}, count(b.burst(t.Context(), 3))); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A connection that worked and now stalls is not replaced before its time, and what was sent on it has failed all the same.
func TestAPNsThatStallsAfterItHasWorkedIsAwayAfterTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.Push(t.Context(), alert(0, 0))
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return act{silent: true} } })
		var all sync.WaitGroup
		all.Go(func() { b.Push(t.Context(), alert(1, 1)) })
		<-time.After(answerTimeout + awayAfter + time.Second)
		start := time.Now()
		if a := b.Push(t.Context(), alert(2, 2)); a.Reason != "topic_away" || time.Since(start) > 0 {
			t.Errorf("got %+v after %v", a, time.Since(start))
		}
		all.Wait()
	})
}

func TestAPNsThatComesBackAndRefusesTheCredentialIsNotAwayAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refusing(503, "Shutdown") })
		if a := b.Push(t.Context(), alert(1, 1)); a.Reason != "topic_away" {
			t.Errorf("got %+v", a)
		}
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return refusing(403, "InvalidProviderToken") } })
		<-time.After(2 * time.Minute)
		if a := b.Push(t.Context(), alert(1, 1)); a.Reason != "credentials" {
			t.Errorf("got %+v", a)
		}
		if b.Ready(topic, production) || len(b.readied()) != 0 {
			t.Error("it says that it is ready")
		}
		_, before, _, _ := b.apns.seen()
		<-time.After(time.Hour)
		if _, after, _, _ := b.apns.seen(); len(after)-len(before) > 60 {
			t.Errorf("%d probes in an hour: there are two that ask", len(after)-len(before))
		}
	})
}

// While nothing is let in, the probes alone see what APNs says of the provider token.
func TestProbesHeedWhatAPNsSaysOfTheToken(t *testing.T) {
	away := func(t *testing.T, b *bench, until time.Duration) (token string) {
		if a := b.Push(t.Context(), alert(1, 1)); a.Reason != "topic_away" {
			t.Errorf("got %+v", a)
		}
		<-time.After(until)
		_, probes, _, _ := b.apns.seen()
		return probes[len(probes)-1].header["authorization"]
	}
	faulty := func(arrived) act { return refusing(503, "Shutdown") }
	t.Run("it is too old", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := overMemory(t, faulty)
			old := away(t, b, tokenFloor+time.Minute)
			b.apns.set(func(s *standIn) {
				s.decide = func(a arrived) act {
					if a.header["authorization"] == old {
						return refusing(403, "ExpiredProviderToken")
					}
					return refuseProbe(a)
				}
			})
			<-time.After(5 * time.Minute)
			if !b.Ready(topic, production) {
				t.Error("it is probed with the old token")
			}
		})
	})
	t.Run("there were too many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := overMemory(t, faulty)
			old := away(t, b, tokenLife-5*time.Minute)
			b.apns.set(func(s *standIn) {
				s.decide = func(arrived) act { return refusing(429, "TooManyProviderTokenUpdates") }
			})
			<-time.After(10 * time.Minute)
			_, probes, _, _ := b.apns.seen()
			if probes[len(probes)-1].header["authorization"] != old {
				t.Error("another token was signed")
			}
		})
	})
}

func TestWhatIsHeldIsGivenBackWhenTheCredentialIsRefusedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.token() == tokenOf(1) {
				return act{status: 503, retryAfter: "10"}
			}
			return refusing(403, "InvalidProviderToken")
		})
		var all sync.WaitGroup
		all.Go(func() {
			start := time.Now()
			if a := b.Push(t.Context(), alert(1, 1)); a.Reason != "credentials" || time.Since(start) > 15*time.Second {
				t.Errorf("got %+v after %v", a, time.Since(start))
			}
		})
		<-time.After(2 * time.Second)
		b.Push(t.Context(), alert(2, 2))
		b.apns.set(func(s *standIn) { s.down = true }) // nobody gets a turn any more
		b.apns.cutAll()
		all.Wait()
	})
}

func TestCallersThatDoNotWaitForTheAnswerSayNothingAgainstAPNs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 1 {
				return act{}
			}
			return act{delay: time.Second}
		})
		b.Push(t.Context(), alert(0, 0))
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
				defer cancel()
				if a := b.Push(ctx, alert(i, 1)); a.Reason != "unanswered" {
					t.Errorf("got %+v", a)
				}
			})
			<-time.After(time.Second / 5)
		}
		if a := b.Push(t.Context(), alert(100, 1)); a.Result != subscriptions.Accepted {
			t.Errorf("who waits: %+v", a)
		}
		all.Wait()
	})
}

func TestKeyThatIsRefusedHoldsItsTopicsAndIsProbedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := refusing(403, "InvalidProviderToken")
		refused.delay = time.Millisecond // until the answer before has been read
		b := overMemory(t, func(arrived) act { return refused }, func(o *Options) {
			second := o.Topics[0]
			second.Environment = "sandbox"
			o.Topics = append(o.Topics, second)
		})
		answers := b.burst(t.Context(), 100)
		if diff := cmp.Diff(map[string]int{"not_before credentials": 100}, count(answers)); diff != "" {
			t.Error(diff)
		}
		requests, _, _, _ := b.apns.seen()
		if len(requests) > 2 { // one, and that which had its turn before the answer was read
			t.Errorf("%d alerts went out with a key that was refused", len(requests))
		}
		n := alert(1, 1)
		n.Phone.Environment = "sandbox"
		if a := b.Push(t.Context(), n); a.Result != subscriptions.NotBefore || a.Reason != "credentials" || !a.Next.IsZero() {
			t.Errorf("the other topic of the key: %+v", a)
		}
		<-time.After(time.Hour) // a minute and up to a quarter of one between them
		if again, probes, _, _ := b.apns.seen(); len(again) != len(requests) || math.Abs(float64(len(probes))-53) > 3 {
			t.Errorf("%d alerts and %d probes in an hour", len(again)-len(requests), len(probes))
		}
		if n := b.logs.FilterMessage("nothing can be sent").Len(); n != 1 {
			t.Errorf("%d lines in the log, want 1", n)
		}
		b.apns.set(func(s *standIn) { s.decide = refuseProbe })
		<-time.After(2 * time.Minute)
		if diff := cmp.Diff([]string{topic + " production", topic + " sandbox"}, b.readied()); diff != "" {
			t.Error(diff)
		}
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted {
			t.Errorf("got %+v", a)
		}
	})
}
