package push

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestNotificationIsSentAsAppleAsksForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		n := alert(1, 1)
		n.PushID = [16]byte{0x12, 0x3e, 0x45, 0x67, 0xe8, 0x9b, 0x82, 0xd3, 0xa4, 0x56, 0x42, 0x66, 0x55, 0x44, 0x00, 0x01}
		a := b.Push(t.Context(), n)
		got, _, _, _ := b.apns.seen()
		if len(got) != 1 {
			t.Fatalf("%d requests", len(got))
		}
		if !strings.HasPrefix(got[0].header["authorization"], "bearer ey") {
			t.Error("no provider token")
		}
		delete(got[0].header, "authorization")
		want := map[string]string{":method": "POST", ":scheme": "https", ":authority": "apns.example", ":path": "/3/device/" + tokenOf(1),
			"content-type": "application/json; charset=utf-8", "content-length": fmt.Sprint(len(n.Payload)), "user-agent": "mailbell",
			"apns-topic": topic, "apns-push-type": "alert", "apns-priority": "10", "apns-expiration": fmt.Sprint(n.Expires.Unix()),
			"apns-id": "123e4567-e89b-82d3-a456-426655440001", "apns-collapse-id": n.CollapseID}
		if diff := cmp.Diff(want, got[0].header); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(string(n.Payload), got[0].payload); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(subscriptions.Answer{Result: subscriptions.Accepted, Status: 200, At: time.Now()}, a); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatANotificationDoesNotHaveIsNotSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		n := alert(1, 1)
		n.CollapseID, n.Expires = "", time.Time{}
		b.Push(t.Context(), n)
		requests, _, _, _ := b.apns.seen()
		for _, name := range []string{"apns-collapse-id", "apns-expiration"} {
			if value, said := requests[0].header[name]; said {
				t.Errorf("%s: %q", name, value)
			}
		}
	})
}

// A token is a part of the path of its request: what is no letter and no digit could make another path of it.
func TestATokenIsLettersAndDigits(t *testing.T) {
	for token, want := range map[string]bool{"09azAZ": true, "": false, "a/b": false, "a:": false, "@": false, "[": false, "`": false, "{": false,
		"..": false, "a?b": false, "a%2fb": false, "\u00e9": false, " ": false} {
		if got := (&request{token: token, payload: []byte("{}")}).isSendable(); got != want {
			t.Errorf("%q: %t", token, got)
		}
	}
	for payload, want := range map[string]bool{"{}": true, "": false, "{": false, "Lunch on Friday?": false} {
		if got := (&request{token: "00", payload: []byte(payload)}).isSendable(); got != want {
			t.Errorf("%q: %t", payload, got)
		}
	}
}

func TestSendOffSendsNothing(t *testing.T) {
	b := overSockets(t, nil, func(o *Options) { o.Send = false })
	if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Refused || a.Reason != "send_off" {
		t.Errorf("got %+v", a)
	}
	if _, _, connections, _ := b.apns.seen(); connections != 0 {
		t.Errorf("%d connections", connections)
	}
}

func TestDeviceOfAnotherTopicWaitsForAPerson(t *testing.T) {
	b := overSockets(t, nil)
	n := alert(1, 1)
	n.Phone.Environment = "sandbox"
	if a := b.Push(t.Context(), n); a.Result != subscriptions.NotBefore || a.Reason != "no_topic" || time.Until(a.Next) < 50*time.Minute {
		t.Errorf("got %+v", a)
	}
}

func TestNoAttemptBeginsAfterTheContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{delay: time.Second} })
		before, cancelBefore := context.WithCancel(t.Context())
		cancelBefore()
		if a := b.Push(before, alert(0, 0)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" || a.Next.IsZero() {
			t.Errorf("got %+v", a)
		}
		var all sync.WaitGroup
		all.Go(func() { b.Push(t.Context(), alert(1, 1)) })
		synctest.Wait() // its request is under way, and the connection takes no other until it is answered
		waiting, cancelWaiting := context.WithCancel(t.Context())
		for i := range 10 {
			all.Go(func() {
				if a := b.Push(waiting, alert(10+i, i)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
					t.Errorf("got %+v", a)
				}
			})
		}
		synctest.Wait()
		cancelWaiting()
		all.Wait()
		<-time.After(5 * time.Second)
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests, want 1", len(requests))
		}
	})
}

func TestAlertIsHeldForHalfAMinuteAndNoLonger(t *testing.T) {
	for name, decide := range map[string]func(arrived) act{
		"unavailable": func(arrived) act { return refusing(503, "ServiceUnavailable") },
		"fault":       func(arrived) act { return refusing(500, "InternalServerError") },
		"stalled":     func(arrived) act { return act{silent: true} },
		"cut":         func(arrived) act { return act{cut: true} },
		"nonsense":    func(arrived) act { return act{status: 302, body: "<html>"} },
		"a day":       func(arrived) act { a := refusing(503, "Shutdown"); a.retryAfter = "86400"; return a },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, decide)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*holdFor)
				defer cancel()
				a := b.Push(ctx, alert(1, 1))
				if a.Result != subscriptions.NotBefore || a.Reason != "topic_away" || !a.Next.IsZero() {
					t.Errorf("got %+v", a)
				}
				if took := time.Since(start); took != holdFor || holdFor != 30*time.Second {
					t.Errorf("held for %v", took)
				}
				requests, _, _, _ := b.apns.seen()
				if sameIDs(t, requests); len(requests) > 12 {
					t.Errorf("tried %d times", len(requests))
				}
			})
		})
	}
}

func TestFaultOfAPNsIsRetriedOnANewConnection(t *testing.T) {
	for _, reason := range []string{"InternalServerError", "ServiceUnavailable", "Shutdown"} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.number == 1 {
						return refusing(500, reason)
					}
					return act{}
				})
				a := b.Push(t.Context(), alert(1, 1))
				if a.Result != subscriptions.Accepted || a.Resent != 0 {
					t.Errorf("got %+v", a)
				}
				if requests, _, connections, _ := b.apns.seen(); sameIDs(t, requests) != 1 || connections != 2 {
					t.Errorf("%d connections", connections)
				}
			})
		})
	}
}

func TestFaultOfAPNsOnAnOldConnectionIsRetriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 2 {
				return refusing(500, "InternalServerError")
			}
			return act{}
		})
		b.Push(t.Context(), alert(1, 1))
		<-time.After(redialSpacing)
		began := time.Now()
		if a := b.Push(t.Context(), alert(1, 2)); a.Result != subscriptions.Accepted || time.Since(began) > 2*retrying.First {
			t.Errorf("after %v: %+v", time.Since(began), a)
		}
		if _, _, connections, _ := b.apns.seen(); connections != 2 {
			t.Errorf("%d connections", connections)
		}
	})
}

func TestPhoneThatGetsTooManyWaitsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.token() == tokenOf(1) && a.number < 5 {
				return refusing(429, "TooManyRequests")
			}
			return act{}
		})
		var pauses []time.Duration
		for {
			a := b.Push(t.Context(), alert(1, 1))
			if a.Result == subscriptions.Accepted {
				break
			}
			if a.Result != subscriptions.NotBefore || a.Reason != "throttled" || a.Next.IsZero() {
				t.Fatalf("got %+v", a)
			}
			requests, _, _, _ := b.apns.seen()
			if again := b.Push(t.Context(), alert(1, 2)); again.Reason != "throttled" || !again.Next.Equal(a.Next) {
				t.Errorf("got %+v before its time", again)
			}
			if now, _, _, _ := b.apns.seen(); len(now) != len(requests) {
				t.Error("it was sent to before its time")
			}
			if other := b.Push(t.Context(), alert(2, 1)); other.Result != subscriptions.Accepted {
				t.Errorf("another device: %+v", other)
			}
			pauses = append(pauses, time.Until(a.Next))
			<-time.After(time.Until(a.Next))
		}
		if len(pauses) == 0 || pauses[0] < throttling.First {
			t.Errorf("it waited for %v", pauses)
		}
	})
}

func TestNothingIsTriedAgainEarlierThanAPNsAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 1 {
				return act{status: 503, retryAfter: "20"}
			}
			return act{}
		})
		start := time.Now()
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
			t.Errorf("got %+v", a)
		}
		if took := time.Since(start); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("it was tried again after %v", took)
		}
	})
}

func TestAPhoneThatIsToWaitIsNotTriedEarlierThanAPNsAsksFor(t *testing.T) {
	for name, c := range map[string]struct {
		act    act
		reason outcome.Reason
		least  time.Duration
	}{
		"too many, seconds": {act{status: 429, body: `{"reason":"TooManyRequests"}`, retryAfter: "120"}, outcome.Throttled, 2 * time.Minute},
		"too many, a date":  {act{status: 429, body: `{"reason":"TooManyRequests"}`, retryAfter: "Sat, 01 Jan 2000 00:02:01 GMT"}, outcome.Throttled, 2 * time.Minute},
		"a fault":           {act{status: 503, body: `{"reason":"ServiceUnavailable"}`, retryAfter: "120"}, outcome.Unanswered, 2 * time.Minute},
		"it is not APNs":    {act{status: 503, body: "<html>", retryAfter: "3600"}, outcome.Unanswered, heldNext},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.token() == tokenOf(1) {
						return c.act
					}
					return act{}
				})
				var others sync.WaitGroup
				defer others.Wait()
				others.Go(func() { // APNs is not away
					for range 29 {
						b.Push(t.Context(), alert(2, 2))
						<-time.After(time.Second)
					}
				})
				a := b.Push(t.Context(), alert(1, 1))
				if wait := time.Until(a.Next); a.Reason != c.reason || wait < c.least || wait > c.least+time.Minute {
					t.Errorf("it is tried again in %v: %+v", wait, a)
				}
			})
		})
	}
}

// Each answer to another phone woke the one that APNs had answered with a fault.
func TestAPhoneThatAPNsAnswersWithAFaultKeepsItsPaceWhileOthersAreAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		act  act
		most int // requests within 20 s
	}{
		"it is told when": {act{status: 503, body: `{"reason":"ServiceUnavailable"}`, retryAfter: "20"}, 1},
		"it is not":       {refusing(500, "InternalServerError"), 14},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int32
				began := time.Now()
				b := overMemory(t, func(a arrived) act {
					if a.token() == tokenOf(1) {
						if time.Since(began) < 20*time.Second {
							tries.Add(1)
						}
						return c.act
					}
					return act{}
				})
				var others sync.WaitGroup
				defer others.Wait()
				others.Go(func() {
					for <-time.After(300 * time.Millisecond); time.Since(began) < 20*time.Second; <-time.After(500 * time.Millisecond) {
						b.Push(t.Context(), alert(2, 2))
					}
				})
				b.Push(t.Context(), alert(1, 1))
				if n := int(tries.Load()); n > c.most {
					t.Errorf("%d requests in 20 s, want at most %d", n, c.most)
				}
			})
		})
	}
}

// Once the probe was answered, the fault is about the phone: an answer to another is nothing to it, however long that takes to come.
func TestAPhoneThatAPNsAnswersWithAFaultIsNotWokenInQuietHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.token() == tokenOf(1) {
				return refusing(500, "InternalServerError")
			}
			return act{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), awayAfter)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() { b.Push(ctx, alert(1, 1)) })
		<-time.After(doubtAfter + 100*time.Millisecond)
		before, probes, _, _ := b.apns.seen()
		b.Push(t.Context(), alert(2, 2))
		synctest.Wait()
		if after, _, _, _ := b.apns.seen(); len(probes) != 1 || len(after) != len(before)+1 {
			t.Errorf("%d probes, and with another %d requests", len(probes), len(after)-len(before))
		}
		all.Wait()
	})
}

// Who comes back with an alert whose answer is still under way would send it twice.
func TestWhatWasSentAndNotAnsweredIsNotBroughtAgainBeforeItsAnswerMayCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{silent: a.number == 1, cut: a.number > 1} })
		for range 2 { // the second time the first answer was lost with its connection, and the one that is under way may come
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			a := b.Push(ctx, alert(1, 1))
			if left := time.Until(a.Next); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" || left <= 0 || left > answerTimeout {
				t.Errorf("it is to come again in %v: %+v", left, a)
			}
			<-time.After(answerTimeout)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if a := b.Push(ended, alert(2, 1)); time.Until(a.Next) > 0 {
			t.Errorf("nothing was sent, and it waits: %+v", a)
		}
	})
}

func TestCloseWaitsForAnswersAndBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{delay: time.Second} })
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
				t.Errorf("the alert under way: %+v", a)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if a := b.Push(t.Context(), alert(2, 2)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
				t.Errorf("the alert that waits: %+v", a)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		b.Close(ctx)
		all.Wait()
		if a := b.Push(t.Context(), alert(3, 3)); a.Result != subscriptions.NotBefore {
			t.Errorf("after the end: %+v", a)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests, want 1", len(requests))
		}
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{silent: true} })
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore {
				t.Errorf("got %+v", a)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		b.Close(ctx)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		all.Wait()
	})
}

func TestNoTokenAndNoContentIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replies := []act{refusing(400, "BadDeviceToken"), refusing(400, "Lunch on Friday?"), {status: 410, body: `{"reason":"Unregistered","timestamp":1}`},
			{status: 418, body: "Lunch on Friday?"}, {cut: true}, refusing(500, "InternalServerError"), {silent: true}, refusing(403, "InvalidProviderToken")}
		b := overMemory(t, func(a arrived) act { return replies[min(a.number-1, len(replies)-1)] })
		for i := range 6 {
			b.Push(t.Context(), alert(i, i))
		}
		if b.logs.Len() < 5 {
			t.Fatalf("%d lines", b.logs.Len())
		}
		for _, e := range b.logs.All() {
			line := fmt.Sprint(e.Message, e.ContextMap())
			for _, secret := range []string{tokenOf(0)[:9], "Lunch", "Megan", "megan", "bearer", "eyJ", "PRIVATE", "AAMkAD"} {
				if strings.Contains(line, secret) {
					t.Errorf("%q in %s", secret, line)
				}
			}
		}
	})
}
