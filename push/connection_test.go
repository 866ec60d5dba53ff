package push

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/push/h2"
	"github.com/mailbell/mailbell/subscriptions"
	"golang.org/x/net/http2"
)

func TestColdBurstGoesOverOneConnectionAndNothingIsRefused(t *testing.T) {
	b := overSockets(t, func(arrived) act { return act{delay: 10 * time.Millisecond} })
	got := count(b.burst(t.Context(), 200))
	if diff := cmp.Diff(map[string]int{"accepted": 200}, got); diff != "" {
		t.Error(diff)
	}
	if _, _, connections, refused := b.apns.seen(); connections != 1 || refused != 0 {
		t.Errorf("%d connections and %d refused streams, want 1 and 0", connections, refused)
	}
}

func TestColdBurstOfWhichAllIsRejectedEnds(t *testing.T) {
	b := overSockets(t, func(arrived) act { return refusing(400, "BadDeviceToken") })
	got := count(b.burst(t.Context(), 50))
	if diff := cmp.Diff(map[string]int{"refused BadDeviceToken": 50}, got); diff != "" {
		t.Error(diff)
	}
	if alerts, _, connections, _ := b.apns.seen(); connections != 1 || len(alerts) != 50 {
		t.Errorf("%d requests over %d connections, want 50 over 1", len(alerts), connections)
	}
}

func TestLimitThatFallsWithEachRejectionStallsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number%10 == 5 {
				return refusing(400, "BadDeviceToken")
			}
			return act{delay: 10 * time.Millisecond}
		})
		const workers, each = 64, 20
		var all sync.WaitGroup
		var mu sync.Mutex
		var answers []subscriptions.Answer
		var longest time.Duration
		start := time.Now()
		for w := range workers {
			all.Go(func() {
				for i := range each {
					start := time.Now()
					a := b.Push(t.Context(), alert(w*each+i, i))
					mu.Lock()
					answers, longest = append(answers, a), max(longest, time.Since(start))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		got := count(answers)
		if got["accepted"]+got["refused BadDeviceToken"] != workers*each || got["refused BadDeviceToken"] < workers*each/20 {
			t.Errorf("got %v", got)
		}
		if _, _, connections, _ := b.apns.seen(); connections != 1 {
			t.Errorf("%d connections, want 1", connections)
		}
		if longest > time.Second {
			t.Errorf("an alert took %v", longest)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("all took %v", took)
		}
		if b.metric(t, "mailbell_resent_total", "") != 0 {
			t.Error("a stream that was refused counts as resent")
		}
	})
}

func TestConnectionsNeverPassTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{delay: time.Second, limit: 5000} })
		ctx := t.Context()
		b.burst(ctx, 1)
		var all sync.WaitGroup
		for i := range gate + 100 {
			all.Go(func() { b.Push(ctx, alert(i, i)) })
		}
		<-time.After(time.Second / 2)
		synctest.Wait()
		if alerts, _, _, _ := b.apns.seen(); len(alerts) != 1+gate {
			t.Errorf("%d requests are under way, want %d", len(alerts)-1, gate)
		}
		all.Wait()
		if _, _, connections, refused := b.apns.seen(); connections != 1 || refused != 0 {
			t.Errorf("%d connections, %d refused", connections, refused)
		}
	})
}

// A connection whose numbers of streams are used up stands, and takes nothing any more. So does one that APNs allows no stream on.
func TestAConnectionThatHasNoStreamLeftIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{noMore: a.connection == 1} })
		for i := range 2 {
			start := time.Now()
			if a := b.Push(t.Context(), alert(i, i)); a.Result != subscriptions.Accepted || a.Resent != 0 || time.Since(start) > answerTimeout {
				t.Errorf("got %+v after %v", a, time.Since(start))
			}
		}
		if _, _, connections, _ := b.apns.seen(); connections != 2 {
			t.Errorf("%d connections, want 2", connections)
		}
	})
}

// A server that takes no requests for a short time says so by a limit of 0, and by another one later (RFC 9113, section 6.5.2).
func TestAConnectionThatHasNoStreamForAWhileIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const while = answerTimeout - time.Second
		b := overMemory(t, func(a arrived) act { return act{noMore: a.number%2 == 1, more: while} })
		for i := range 6 {
			start := time.Now()
			a, took := b.Push(t.Context(), alert(i, i)), time.Since(start)
			if a.Result != subscriptions.Accepted || a.Resent != 0 || took > while {
				t.Errorf("got %+v after %v", a, took)
			}
		}
		if _, _, connections, _ := b.apns.seen(); connections != 1 {
			t.Errorf("%d connections, want 1", connections)
		}
	})
}

// What waits while APNs allows no stream may have to leave the connection for another reason before that would be one.
func TestAConnectionThatHadNoStreamForAWhileIsLeftWhereALatePhoneHoldsItsOnlyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const while = answerTimeout / 5
		b := overMemory(t, func(a arrived) act {
			switch {
			case a.number == 1:
				return act{noMore: true, more: while}
			case a.token() == tokenOf(10):
				return act{silent: true}
			case a.token() == tokenOf(2):
				return refusing(400, "BadDeviceToken")
			}
			return refuseProbe(a)
		})
		b.Push(t.Context(), alert(1, 0))
		var all sync.WaitGroup
		all.Go(func() { b.Push(t.Context(), alert(10, 0)) })
		all.Go(func() { b.Push(t.Context(), alert(2, 0)) })
		<-time.After(while + redialSpacing/10)
		began := time.Now()
		a, took := b.Push(t.Context(), alert(3, 0)), time.Since(began)
		if a.Result != subscriptions.Accepted || took > redialSpacing {
			t.Errorf("after %v: %+v", took, a)
		}
		all.Wait()
	})
}

// sameIDs checks that whatever arrived twice for a device came with the same ids, and returns how many repeats there were.
func sameIDs(t *testing.T, requests []arrived) (repeats int) {
	t.Helper()
	first := make(map[string]arrived)
	for _, r := range requests {
		f, again := first[r.token()]
		if !again {
			first[r.token()] = r
			continue
		}
		repeats++
		if f.header["apns-id"] != r.header["apns-id"] || f.header["apns-collapse-id"] != r.header["apns-collapse-id"] || f.payload != r.payload {
			t.Errorf("%v was sent again as %v", f, r)
		}
	}
	return repeats
}

func TestCutConnectionIsRetriedWithTheSameIDsAndCounted(t *testing.T) {
	for name, abort := range map[string]bool{"closed": false, "reset": true} {
		t.Run(name, func(t *testing.T) {
			b := overSockets(t, func(a arrived) act { return act{delay: 5 * time.Millisecond, cut: a.number == 60, abort: abort} })
			answers := b.burst(t.Context(), 200)
			if diff := cmp.Diff(map[string]int{"accepted": 200}, count(answers)); diff != "" {
				t.Error(diff)
			}
			resent := 0
			for _, a := range answers {
				resent += a.Resent
			}
			alerts, _, connections, _ := b.apns.seen()
			repeats := sameIDs(t, alerts)
			if repeats == 0 || resent < repeats {
				t.Errorf("%d counted as resent, %d arrived again", resent, repeats)
			}
			if got := b.metric(t, "mailbell_resent_total", ""); got != float64(resent) {
				t.Errorf("mailbell_resent_total is %v, want %d", got, resent)
			}
			if connections != 2 {
				t.Errorf("%d connections, want 2", connections)
			}
		})
	}
}

// The status comes first: an alert whose acceptance was cut short is accepted, and is not sent again. A refusal whose reason was cut
// off is no refusal yet.
func TestAnAcceptanceThatBreaksOffAfterItsStatusIsOne(t *testing.T) {
	for status, want := range map[int]int{200: 1, 404: 2, 410: 2, 429: 2, 403: 2} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.number > 1 {
						return act{}
					}
					return act{status: status, breakOff: true}
				})
				a := b.Push(t.Context(), alert(1, 1))
				if a.Result != subscriptions.Accepted || a.Resent != 0 {
					t.Errorf("got %+v", a)
				}
				if requests, _, _, _ := b.apns.seen(); len(requests) != want {
					t.Errorf("%d requests", len(requests))
				}
			})
		})
	}
}

func TestAnswerWithoutAnEndIsReadNoFurtherThanItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := `{"reason":"BadPath"}` + strings.Repeat(" ", 2*h2.MaxBody)
		b := overMemory(t, func(arrived) act { return act{status: 404, body: body, endless: true} })
		start := time.Now()
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Refused || a.Status != 404 {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it was read for %v", took)
		}
	})
}

// Each refused stream costs a round trip. Who is refused again and again waits in between.
// A connection after whose fault another may not be dialled yet was given up all the same: for one phone all others waited for a second, again
// and again.
func TestAPhoneThatAPNsAnswersWithAFaultDelaysNoOther(t *testing.T) {
	for name, do := range map[string]act{
		"a fault": refusing(500, "InternalServerError"), "away": refusing(503, "ServiceUnavailable"), "no answer of APNs": {status: 502, body: "<html>"},
		"a reset": {reset: http2.ErrCodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const answer = 50 * time.Millisecond
				b := overMemory(t, func(a arrived) act {
					if a.token() == tokenOf(0) {
						return do
					}
					return act{delay: answer}
				})
				var all sync.WaitGroup
				all.Go(func() {
					if a := b.Push(t.Context(), alert(0, 0)); a.Result != subscriptions.NotBefore || a.Reason != outcome.Unanswered {
						t.Errorf("the phone: %+v", a)
					}
				})
				for i := range 10 {
					all.Go(func() {
						<-time.After(time.Duration(i) * 20 * time.Millisecond)
						for m := range 100 {
							began := time.Now()
							if a := b.Push(t.Context(), alert(i+1, m)); a.Result != subscriptions.Accepted || a.Resent != 0 || time.Since(began) > 4*answer {
								t.Errorf("another, after %v: %+v", time.Since(began), a)
							}
							<-time.After(200 * time.Millisecond)
						}
					})
				}
				all.Wait()
				if _, _, connections, _ := b.apns.seen(); connections < 5 || connections > 30 {
					t.Errorf("%d connections: each fault but those within a second has another opened", connections)
				}
			})
		})
	}
}

func TestAConnectionThatIsToBeReplacedAndIsCutIsReplacedNoLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			switch a.number {
			case 1:
				return act{reset: http2.ErrCodeInternal}
			case 2:
				return act{cut: true}
			}
			return act{}
		})
		began := time.Now()
		for _, a := range b.burst(t.Context(), 2) {
			if a.Result != subscriptions.Accepted {
				t.Errorf("got %+v", a)
			}
		}
		if took := time.Since(began); took > redial.First+redial.First/2 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestStreamThatIsRefusedEachTimeIsTriedSoOftenAndThenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const roundTrip = time.Millisecond
		b := overMemory(t, func(arrived) act { return act{delay: roundTrip, reset: http2.ErrCodeRefusedStream} })
		ctx, cancel := context.WithTimeout(t.Context(), maxUnprocessed*roundTrip+retrying.First/2)
		defer cancel()
		if a := b.Push(ctx, alert(1, 1)); a.Result != subscriptions.NotBefore || a.Resent != 0 {
			t.Errorf("got %+v", a)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != maxUnprocessed {
			t.Errorf("%d requests without a pause, want %d", len(requests), maxUnprocessed)
		}
	})
}

// A limit that APNs does not announce shows in streams that it refuses. Then the rest waits for an answer.
func TestLimitThatIsNotAnnouncedCostsFewRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const alerts, roundTrip = 50, 10 * time.Millisecond
		var busy time.Time // until then
		refused := 0
		b := overMemory(t, func(a arrived) act {
			if a.at.Before(busy) {
				refused++
				return act{reset: http2.ErrCodeRefusedStream}
			}
			busy = a.at.Add(roundTrip)
			return act{delay: roundTrip}
		})
		if diff := cmp.Diff(map[string]int{"accepted": alerts}, count(b.burst(t.Context(), alerts))); diff != "" {
			t.Error(diff)
		}
		if refused > 20*alerts { // some hundreds; without a pause there are more than ten thousand
			t.Errorf("%d refusals for %d alerts", refused, alerts)
		}
	})
}

func TestDialThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.apns.set(func(s *standIn) { s.hangs = true })
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
				t.Errorf("got %+v", a)
			}
		})
		synctest.Wait()
		b.apns.set(func(s *standIn) { s.hangs = false })
		<-time.After(dialTimeout + time.Second/2)
		if got := b.metric(t, "mailbell_apns_dials_total", "failed"); got != 1 {
			t.Errorf("%v dials were given up, want 1", got)
		}
		all.Wait()
	})
}

func TestADialThatTheEndCutsShortSaysNothingAgainstAPNs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.apns.set(func(s *standIn) { s.hangs = true })
		var all sync.WaitGroup
		all.Go(func() { b.Push(t.Context(), alert(1, 1)) })
		synctest.Wait()
		b.Close(t.Context())
		all.Wait()
		if got := b.metric(t, "mailbell_apns_dials_total", "failed"); got != 0 || b.logs.FilterMessage("APNs cannot be reached").Len() != 0 {
			t.Errorf("%v dials count as failed, and the log has %v", got, b.logs.All())
		}
	})
}

func TestGoAwayLosesAndRepeatsNothing(t *testing.T) {
	b := overSockets(t, func(a arrived) act {
		return act{delay: 5 * time.Millisecond, goAway: a.connection == 1 && a.stream == 101}
	})
	answers := b.burst(t.Context(), 300)
	if diff := cmp.Diff(map[string]int{"accepted": 300}, count(answers)); diff != "" {
		t.Error(diff)
	}
	for _, a := range answers {
		if a.Resent != 0 {
			t.Errorf("%+v counts as resent", a)
		}
	}
	if _, _, connections, _ := b.apns.seen(); connections != 2 {
		t.Errorf("%d connections, want 2", connections)
	}
}

func TestStalledConnectionIsReplacedWithinFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{silent: a.connection == 1 && a.number > 1} })
		b.Push(t.Context(), alert(0, 0))
		start := time.Now()
		a := b.Push(t.Context(), alert(1, 1))
		if a.Result != subscriptions.Accepted || a.Resent != 1 {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(start); took < answerTimeout || took > answerTimeout+time.Second {
			t.Errorf("took %v, want a little over %v", took, answerTimeout)
		}
		alerts, _, connections, _ := b.apns.seen()
		if sameIDs(t, alerts) != 1 || connections != 2 {
			t.Errorf("%d connections", connections)
		}
	})
}

// A request that does not even leave has the time of one that is not answered.
func TestAConnectionThatTakesNoBytesIsReplacedWithinFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.Push(t.Context(), alert(0, 0))
		b.apns.set(func(s *standIn) { s.clogged = true })
		start := time.Now()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if a := b.Push(t.Context(), alert(1+i, i)); a.Result != subscriptions.Accepted {
					t.Errorf("got %+v", a)
				}
			})
		}
		<-time.After(time.Second)
		b.apns.set(func(s *standIn) { s.clogged = false })
		all.Wait()
		if took := time.Since(start); took > answerTimeout+time.Second {
			t.Errorf("took %v", took)
		}
		if _, _, connections, _ := b.apns.seen(); connections != 2 {
			t.Errorf("%d connections, want 2", connections)
		}
	})
}

func TestDeadPeerIsFoundWithinTenSecondsWhileNothingIsSent(t *testing.T) {
	for name, dies := range map[string]func(s *standIn, dead bool){
		"it answers no ping": func(s *standIn, dead bool) { s.silent = dead },
		"it takes no bytes":  func(s *standIn, dead bool) { s.clogged = dead },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, nil)
				b.Push(t.Context(), alert(0, 0))
				b.apns.set(func(s *standIn) { dies(s, true) })
				<-time.After(10 * time.Second)
				synctest.Wait()
				if got := b.metric(t, "mailbell_apns_connections", ""); got != 0 {
					t.Errorf("%v connections are kept, want none", got)
				}
				b.apns.set(func(s *standIn) { dies(s, false) })
				start := time.Now()
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Resent != 0 || time.Since(start) > time.Second {
					t.Errorf("got %+v after %v", a, time.Since(start))
				}
			})
		})
	}
}

func TestIdleConnectionThatWasClosedIsReplacedWithoutLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		for i := range 3 {
			if a := b.Push(t.Context(), alert(i, i)); a.Result != subscriptions.Accepted || a.Resent != 0 {
				t.Errorf("got %+v", a)
			}
			b.apns.cutAll()
			<-time.After(time.Minute) // that it was closed says nothing against APNs, however long it is ago
		}
	})
}

func TestRedialsBackOffAndDoNotHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.apns.set(func(s *standIn) { s.down = true })
		b.Push(t.Context(), alert(0, 0))
		<-time.After(30 * time.Minute)
		got := b.metric(t, "mailbell_apns_dials_total", "failed")
		if got < 20 || got > 150 {
			t.Errorf("%v dials in half an hour, want about one in half a minute", got)
		}
	})
}

func TestConnectionsThatWorkAreNotOpenedMoreThanOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{cut: a.stream > 1} })
		start := time.Now()
		for i := range 10 {
			if a := b.Push(t.Context(), alert(i, i)); a.Result != subscriptions.Accepted {
				t.Errorf("got %+v", a)
			}
		}
		took := time.Since(start)
		if _, _, connections, _ := b.apns.seen(); float64(connections) > took.Seconds()+2 {
			t.Errorf("%d connections in %v", connections, took)
		}
	})
}

func TestPeerThatDoesNotSpeakHTTP2IsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.apns.tls.NextProtos = nil
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if a := b.Push(ctx, alert(0, 0)); a.Result != subscriptions.NotBefore || a.Status != 0 {
			t.Errorf("got %+v", a)
		}
		if n := b.logs.FilterMessage("APNs cannot be reached").Len(); n == 0 {
			t.Error("nothing is logged")
		}
	})
}
