package push

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// insist brings an alert again when it may be sent again, as an inbox does, until ctx ends. It reports whether it was accepted.
func (b *bench) insist(ctx context.Context, phone, message int) (accepted bool) {
	for ctx.Err() == nil {
		a := b.Push(ctx, alert(phone, message))
		if a.Result == subscriptions.Accepted {
			return true
		}
		wait := time.Second // it is told that the topic is ready
		if !a.Next.IsZero() {
			wait = max(time.Until(a.Next), time.Millisecond)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return false
}

// In quiet hours nobody else shows that APNs does its work. A phone that it failed had its topic shut again and again, and one that was
// answered late had the only stream of each new connection to itself.
func TestPhonesThatAPNsFailsInQuietHoursDelayNoOther(t *testing.T) {
	for name, c := range map[string]struct {
		do   act
		sick int
	}{
		"late": {act{delay: 7 * time.Second}, 1}, "never": {act{silent: true}, 3},
		"a fault": {refusing(500, "InternalServerError"), 3}, "away": {refusing(503, "ServiceUnavailable"), 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sick := []string{tokenOf(10), tokenOf(11), tokenOf(12)}[:c.sick]
				b := overMemory(t, func(a arrived) act {
					switch {
					case slices.Contains(sick, a.token()):
						return c.do
					case a.token() == tokenOf(2):
						return refusing(400, "BadDeviceToken") // and one stream is all that there is
					}
					return refuseProbe(a)
				})
				b.Push(t.Context(), alert(1, 0))
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				var all sync.WaitGroup
				for i := range sick {
					all.Go(func() {
						for m := 0; ctx.Err() == nil; m++ {
							b.insist(ctx, 10+i, m)
						}
					})
				}
				all.Go(func() {
					for ; ctx.Err() == nil; <-time.After(10 * time.Millisecond) {
						if reason := b.Topics()[0].Reason; reason != "" {
							t.Errorf("the topic is %s", reason)
							return
						}
					}
				})
				for m := 1; ctx.Err() == nil; m++ {
					<-time.After(12 * time.Second)
					began := time.Now()
					a := b.Push(t.Context(), alert(1+m%3, m))
					if took := time.Since(began); a.Result == subscriptions.NotBefore || a.Resent != 0 || took > 2*redialSpacing {
						t.Errorf("another, after %v: %+v", took, a)
					}
				}
				all.Wait()
				if n := b.logs.FilterMessage("nothing can be sent").Len(); n != 0 || len(b.readied()) != 0 {
					t.Errorf("the topic was shut %d times", n)
				}
			})
		})
	}
}

// APNs ends connections from time to time. The first alerts on a new one may be for phones that are always answered late, or never.
func TestPhonesThatAPNsFailsDelayNoOtherOnANewConnection(t *testing.T) {
	for name, do := range map[string]act{"late": {delay: 7 * time.Second}, "never": {silent: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var well atomic.Bool
				b := overMemory(t, func(a arrived) act {
					if !well.Load() && slices.Contains([]string{tokenOf(10), tokenOf(11), tokenOf(12)}, a.token()) {
						return do
					}
					return refuseProbe(a)
				})
				var all sync.WaitGroup
				night := func(n int) {
					for i := range 3 {
						all.Go(func() { b.Push(t.Context(), alert(10+i, n)) })
					}
					<-time.After(redialSpacing / 10)
				}
				over := func() {
					all.Wait()
					b.apns.cutAll()
					<-time.After(time.Hour)
				}
				night(0) // it is known of none of them
				over()
				for n := range 2 {
					night(1 + n)
					for m := range 20 {
						all.Go(func() {
							began := time.Now()
							a := b.Push(t.Context(), alert(1, 100*n+m))
							if took := time.Since(began); a.Result != subscriptions.Accepted || a.Resent != 0 || took > 2*redialSpacing {
								t.Errorf("another, after %v: %+v", took, a)
							}
						})
						<-time.After(time.Second)
					}
					over()
				}
				if n := b.logs.FilterMessage("nothing can be sent").Len(); n > 1 { // that of the first night
					t.Errorf("the topic was shut %d times", n)
				}
				well.Store(true)
				night(3)
				over()
				if len(b.late.phones) != 0 {
					t.Errorf("%d phones yield yet", len(b.late.phones))
				}
			})
		})
	}
}

// What yields waits longest for its turn. That is not the time that APNs takes to answer.
func TestAPhoneThatIsAnsweredInTimeYieldsNoMoreHoweverLongItsTurnTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = time.Second
		b := overMemory(t, func(arrived) act { return act{delay: answer, limit: 1} })
		late := alert(10, 0)
		b.late.remember(late.Phone)
		var all sync.WaitGroup
		for m := range 2 * int(answerTimeout/answer) {
			all.Go(func() { b.Push(t.Context(), alert(1, m)) })
		}
		<-time.After(answer / 2)
		began := time.Now()
		if a := b.Push(t.Context(), late); a.Result != subscriptions.Accepted || time.Since(began) < answerTimeout {
			t.Errorf("after %v: %+v", time.Since(began), a)
		}
		all.Wait()
		if b.late.has(late.Phone) {
			t.Error("it yields yet")
		}
	})
}

// APNs allows one stream after each push that it rejects. Where that is taken by a phone that is answered slowly, the others do not wait
// for it.
func TestAPhoneThatIsAnsweredSlowlyDelaysNoOtherWhereThereIsOneStream(t *testing.T) {
	for name, isLast := range map[string]bool{"it was there before": false, "it comes after": true} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { besideASlowPhone(t, isLast) }) })
	}
}

func besideASlowPhone(t *testing.T, isLast bool) {
	b := overMemory(t, func(a arrived) act {
		switch a.token() {
		case tokenOf(0):
			return act{delay: answerTimeout - time.Second}
		case tokenOf(2):
			return refusing(400, "BadDeviceToken")
		}
		return act{}
	})
	b.Push(t.Context(), alert(1, 0))
	<-time.After(redialSpacing)
	if isLast {
		b.Push(t.Context(), alert(2, 0))
	}
	var all sync.WaitGroup
	all.Go(func() {
		if a := b.Push(t.Context(), alert(0, 0)); a.Result != subscriptions.Accepted || a.Resent != 0 {
			t.Errorf("the phone: %+v", a)
		}
	})
	synctest.Wait()
	if !isLast {
		b.Push(t.Context(), alert(2, 0))
	}
	began := time.Now()
	if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || time.Since(began) > redialSpacing+time.Millisecond {
		t.Errorf("another, after %v: %+v", time.Since(began), a)
	}
	all.Wait()
}

// A phone that APNs never answers has a new connection to itself, until somebody else waits for it. That it is left says nothing of APNs: another
// is dialled as after one that worked, and it is not from then on that APNs fails.
func TestAConnectionThatIsCrowdedSaysNothingAgainstAPNs(t *testing.T) {
	const gaveUp = answerTimeout + redialSpacing
	for name, c := range map[string]struct {
		first int           // who comes next
		after time.Duration // and then another
		most  time.Duration // that it takes
	}{
		"another waits no longer":             {3, 0, 0},
		"and beside one that is not answered": {11, awayAfter + redialSpacing/4, 2 * redialSpacing},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act { return act{silent: a.token() == tokenOf(10) || a.token() == tokenOf(11)} })
				b.Push(t.Context(), alert(1, 0))
				ctx, cancel := context.WithTimeout(t.Context(), gaveUp+retrying.First)
				defer cancel()
				b.Push(ctx, alert(10, 0)) // its second try is the first on its connection
				<-time.After(redialSpacing)
				var all sync.WaitGroup
				all.Go(func() { b.Push(t.Context(), alert(c.first, 0)) })
				<-time.After(c.after)
				began := time.Now()
				if a := b.Push(t.Context(), alert(2, 0)); a.Result != subscriptions.Accepted || time.Since(began) > c.most {
					t.Errorf("another, after %v: %+v", time.Since(began), a)
				}
				all.Wait()
			})
		})
	}
}

func TestAPauseOfThisProcessSaysNothingAgainstAPNs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = 2 * redialSpacing
		b := overMemory(t, nil)
		n := alert(1, 0)
		var once sync.Once
		n.May = func() bool {
			once.Do(func() { <-time.After(pause) })
			return true
		}
		began := time.Now()
		if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted || time.Since(began) >= pause+2*retrying.First {
			t.Errorf("after %v: %+v", time.Since(began), a)
		}
	})
}

// Where APNs itself is slow, another connection would only lose the streams that this one has.
func TestAConnectionIsNotCrowdedWhereAPNsIsSlowForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{delay: 3 * time.Second} })
		began := time.Now()
		for _, a := range b.burst(t.Context(), 50) {
			if a.Result != subscriptions.Accepted || a.Resent != 0 {
				t.Errorf("got %+v", a)
			}
		}
		if _, _, connections, _ := b.apns.seen(); connections != 1 || time.Since(began) > 7*time.Second {
			t.Errorf("%d connections, after %v", connections, time.Since(began))
		}
	})
}

// Others show that APNs does its work, so what is late for one phone is waited for: an alert that is sent again comes twice.
func TestAnAlertThatIsAnsweredLateIsSentOnceWhileOthersAreAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		do   act
		want subscriptions.Result
		sent int // how often
	}{
		"late":  {act{delay: 8 * time.Second}, subscriptions.Accepted, 1},
		"never": {act{silent: true}, subscriptions.NotBefore, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const answer = 50 * time.Millisecond
				b := overMemory(t, func(a arrived) act {
					if a.token() == tokenOf(0) {
						return c.do
					}
					return act{delay: answer}
				})
				var all sync.WaitGroup
				for i := range 10 {
					all.Go(func() {
						<-time.After(time.Duration(i) * 20 * time.Millisecond)
						for m := range 300 {
							began := time.Now()
							a := b.Push(t.Context(), alert(1+i, m))
							if took := time.Since(began); a.Result != subscriptions.Accepted || a.Resent != 0 || took > 4*answer {
								t.Errorf("another, after %v: %+v", took, a)
							}
							<-time.After(200 * time.Millisecond)
						}
					})
				}
				<-time.After(2 * redialSpacing)
				for m := range 2 {
					a := b.Push(t.Context(), alert(0, m))
					if a.Result != c.want || a.Resent != c.sent-1 {
						t.Errorf("the phone: %+v", a)
					}
				}
				all.Wait()
				requests, _, connections, _ := b.apns.seen()
				requests = slices.DeleteFunc(requests, func(a arrived) bool { return a.token() != tokenOf(0) })
				if len(requests) != 2*c.sent || connections != 1 {
					t.Errorf("%d requests for the phone, %d connections", len(requests), connections)
				}
			})
		})
	}
}

// A push that APNs rejects leaves one stream to those under way, of which one is late.
func TestAPhoneThatIsAnsweredLateDelaysNoOtherWherePushesAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = 50 * time.Millisecond
		b := overMemory(t, func(a arrived) act {
			switch a.token() {
			case tokenOf(0):
				return act{delay: 8 * time.Second}
			case tokenOf(100):
				return act{status: 400, body: `{"reason":"DeviceTokenNotForTopic"}`, delay: answer}
			}
			return act{delay: answer}
		})
		b.Push(t.Context(), alert(1, 0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			<-time.After(2 * redialSpacing)
			for m := 0; ctx.Err() == nil; m++ {
				b.insist(ctx, 0, m)
			}
		})
		for i := range 10 {
			all.Go(func() {
				<-time.After(time.Duration(i) * 20 * time.Millisecond)
				for m := range 240 {
					phone := 1 + i
					if (m+i)%10 == 0 {
						phone = 100
					}
					began := time.Now()
					a := b.Push(t.Context(), alert(phone, m))
					if took := time.Since(began); a.Result == subscriptions.NotBefore || a.Resent != 0 || took > redialSpacing+10*answer {
						t.Errorf("another, after %v: %+v", took, a)
					}
					<-time.After(200 * time.Millisecond)
				}
			})
		}
		all.Wait()
		if _, _, connections, _ := b.apns.seen(); connections > 60 {
			t.Errorf("%d connections within a minute", connections)
		}
	})
}
