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
	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestAlertIsSentAsAppleAsksForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		secret := mail.Secret{1}
		one, summary := bell(1), subscriptions.Bell{Record: "r1", Keys: []mail.Key{{9}, {8}}, Summary: true}
		first := b.Ring(t.Context(), device(1), one)
		b.Ring(t.Context(), device(1), summary)
		b.Ring(t.Context(), device(1), subscriptions.Bell{Record: "r1", Keys: []mail.Key{{7}}})

		got, _, _, _ := b.apns.seen()
		if len(got) != 3 {
			t.Fatalf("%d requests", len(got))
		}
		if !strings.HasPrefix(got[0].header["authorization"], "bearer ey") {
			t.Error("no provider token")
		}
		delete(got[0].header, "authorization")
		want := map[string]string{":method": "POST", ":scheme": "https", ":authority": "apns.example", ":path": "/3/device/" + device(1).Token,
			"content-type": "application/json; charset=utf-8", "content-length": fmt.Sprint(len(got[0].payload)), "user-agent": "mailbell",
			"apns-topic": topic, "apns-push-type": "alert", "apns-priority": "10", "apns-expiration": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()),
			"apns-id": uuid(secret.PushID(one.Keys[0], "phone-1")), "apns-collapse-id": one.Keys[0].String()}
		if diff := cmp.Diff(want, got[0].header); diff != "" {
			t.Error(diff)
		}
		if first.PushID != want["apns-id"] || first.Status != 200 || first.At.IsZero() || first.Reason != "" {
			t.Errorf("got %+v", first)
		}
		wantPayload := `{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"},"sound":"default","thread-id":"` + b.thread("r1", "AAQkAD=") +
			`","category":"MAIL","mutable-content":1},"mailbell":{"v":1,"k":"mail","m":"` + one.Keys[0].String() + `","d":"phone-1","i":"AAMkAD=","s":"ews"}}`
		if diff := cmp.Diff(wantPayload, got[0].payload); diff != "" {
			t.Error(diff)
		}

		place := secret.SummaryKey("r1")
		if id := got[1].header["apns-collapse-id"]; id != place.String() {
			t.Errorf("the summary collapses by %s, want %s", id, place)
		}
		if id, want := got[1].header["apns-id"], uuid(secret.PushID(place, "phone-1", mail.Key{9}.String(), "2")); id != want {
			t.Errorf("the summary has the id %s, want %s", id, want)
		}
		if !strings.Contains(got[2].payload, `"loc-key":"MAILBELL_NEW_MAIL"`) {
			t.Errorf("what could not be read rings as %s", got[2].payload)
		}
	})
}

func TestSendOffSendsNothing(t *testing.T) {
	b := overSockets(t, nil, func(o *Options) { o.Send = false })
	if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.Refused || a.Reason != "send_off" {
		t.Errorf("got %+v", a)
	}
	if _, _, connections, _ := b.apns.seen(); connections != 0 {
		t.Errorf("%d connections", connections)
	}
}

func TestDeviceOfAnotherTopicWaitsForAPerson(t *testing.T) {
	b := overSockets(t, nil)
	d := device(1)
	d.Environment = "sandbox"
	if a := b.Ring(t.Context(), d, bell(1)); a.Result != subscriptions.NotBefore || a.Reason != "no_topic" || time.Until(a.Next) < 50*time.Minute {
		t.Errorf("got %+v", a)
	}
}

func TestNoAttemptBeginsAfterTheContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act { return act{delay: time.Second} })
		before, cancelBefore := context.WithCancel(t.Context())
		cancelBefore()
		if a := b.Ring(before, device(0), bell(0)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" || a.Next.IsZero() {
			t.Errorf("got %+v", a)
		}
		var all sync.WaitGroup
		all.Go(func() { b.Ring(t.Context(), device(1), bell(1)) })
		synctest.Wait() // its request is under way, and the connection takes no other until it is answered
		waiting, cancelWaiting := context.WithCancel(t.Context())
		for i := range 10 {
			all.Go(func() {
				if a := b.Ring(waiting, device(10+i), bell(i)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
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
		"unavailable": func(arrived) act { return refuse(503, "ServiceUnavailable") },
		"fault":       func(arrived) act { return refuse(500, "InternalServerError") },
		"stalled":     func(arrived) act { return act{silent: true} },
		"cut":         func(arrived) act { return act{cut: true} },
		"nonsense":    func(arrived) act { return act{status: 302, body: "<html>"} },
		"a day":       func(arrived) act { a := refuse(503, "Shutdown"); a.retryAfter = "86400"; return a },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, decide)
				start := time.Now()
				a := b.Ring(t.Context(), device(1), bell(1))
				if a.Result != subscriptions.NotBefore || a.Reason != "topic_away" || !a.Next.IsZero() {
					t.Errorf("got %+v", a)
				}
				if took := time.Since(start); took > holdFor+time.Second {
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
						return refuse(500, reason)
					}
					return act{}
				})
				a := b.Ring(t.Context(), device(1), bell(1))
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

func TestDeviceThatIsRungTooOftenWaitsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.token() == device(1).Token && a.number < 5 {
				return refuse(429, "TooManyRequests")
			}
			return act{}
		})
		var pauses []time.Duration
		for {
			a := b.Ring(t.Context(), device(1), bell(1))
			if a.Result == subscriptions.Accepted {
				break
			}
			if a.Result != subscriptions.NotBefore || a.Reason != "throttled" || a.Next.IsZero() {
				t.Fatalf("got %+v", a)
			}
			requests, _, _, _ := b.apns.seen()
			if again := b.Ring(t.Context(), device(1), bell(2)); again.Reason != "throttled" || !again.Next.Equal(a.Next) {
				t.Errorf("got %+v before its time", again)
			}
			if now, _, _, _ := b.apns.seen(); len(now) != len(requests) {
				t.Error("it was rung before its time")
			}
			if other := b.Ring(t.Context(), device(2), bell(1)); other.Result != subscriptions.Accepted {
				t.Errorf("another device: %+v", other)
			}
			pauses = append(pauses, time.Until(a.Next))
			<-time.After(time.Until(a.Next))
		}
		if len(pauses) == 0 || pauses[0] < throttleBase/2 {
			t.Errorf("it waited for %v", pauses)
		}
	})
}

func TestThrottledDevicesAreBounded(t *testing.T) {
	s := newThrottle()
	for i := range maxThrottled + 100 {
		s.slowDown(fmt.Sprint(i))
	}
	if len(s.devices) > maxThrottled {
		t.Errorf("%d are remembered", len(s.devices))
	}
}

func TestCloseWaitsForAnswersAndBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{delay: time.Second} })
		var all sync.WaitGroup
		all.Go(func() {
			if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.Accepted {
				t.Errorf("the alert under way: %+v", a)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if a := b.Ring(t.Context(), device(2), bell(2)); a.Result != subscriptions.NotBefore || a.Reason != "unanswered" {
				t.Errorf("the alert that waits: %+v", a)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		b.Close(ctx)
		all.Wait()
		if a := b.Ring(t.Context(), device(3), bell(3)); a.Result != subscriptions.NotBefore {
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
			if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.NotBefore {
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
		replies := []act{refuse(400, "BadDeviceToken"), refuse(400, "Lunch on Friday?"), {status: 410, body: `{"reason":"Unregistered","timestamp":1}`},
			{status: 418, body: "Lunch on Friday?"}, {cut: true}, refuse(500, "InternalServerError"), {silent: true}, refuse(403, "InvalidProviderToken")}
		b := overMemory(t, func(a arrived) act { return replies[min(a.number-1, len(replies)-1)] })
		for i := range 6 {
			b.Ring(t.Context(), device(i), bell(i))
		}
		if b.logs.Len() < 5 {
			t.Fatalf("%d lines", b.logs.Len())
		}
		for _, e := range b.logs.All() {
			line := fmt.Sprint(e.Message, e.ContextMap())
			for _, secret := range []string{device(0).Token[:9], "Lunch", "Megan", "megan", "bearer", "eyJ", "PRIVATE", "AAMkAD"} {
				if strings.Contains(line, secret) {
					t.Errorf("%q in %s", secret, line)
				}
			}
		}
	})
}

func TestThreadIsOpaqueAndPerMailbox(t *testing.T) {
	s := &Sender{secret: mail.Secret{1}}
	if a, b := s.thread("r1", "conversation"), s.thread("r2", "conversation"); a == b || len(a) != 16 || strings.Contains(a, "conv") {
		t.Errorf("%s and %s", a, b)
	}
}

func BenchmarkNotification(b *testing.B) {
	s := &Sender{secret: mail.Secret{1}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.notification(device(1), bell(1), alerts.SenderSubject); err != nil {
			b.Fatal(err)
		}
	}
}
