package push

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/push/h2"
	"github.com/mailbell/mailbell/subscriptions"
	"golang.org/x/net/http2"
)

const testPayload = `{"aps":{"alert":{"loc-key":"MAILBELL_TEST"}}}`

// trial is a test notification for a phone.
func trial(phone int) subscriptions.Notification {
	n := alert(phone, 0)
	n.CollapseID, n.Payload, n.Smaller = "test", []byte(testPayload), nil
	return n
}

// told sums up what came of a test.
func told(a subscriptions.Answer, err error) string {
	s := strings.TrimSpace(a.Result.String() + " " + string(a.Reason))
	if a.Environment != "" {
		s += " in " + a.Environment
	}
	if err != nil {
		s += ": " + fault.Of(err).Code
	}
	return s
}

func TestATestIsSentAsItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		n := trial(1)
		a, err := b.Test(t.Context(), n)
		if told(a, err) != "accepted" || a.Status != 200 || a.At.IsZero() {
			t.Errorf("got %+v, %v", a, err)
		}
		requests, _, _, _ := b.apns.seen()
		got := requests[0]
		if got.payload != testPayload || got.header["apns-push-type"] != "alert" || got.header["apns-priority"] != "10" || got.token() != tokenOf(1) ||
			got.header["apns-id"] != n.PushID.String() || got.header["apns-collapse-id"] != n.CollapseID || got.header["apns-expiration"] != fmt.Sprint(n.Expires.Unix()) {
			t.Errorf("sent was %v with %s", got.header, got.payload)
		}
	})
}

func TestARefusedTestMovesNothing(t *testing.T) {
	for _, c := range []struct {
		status       int
		reason, want string
	}{
		{400, "BadDeviceToken", "refused BadDeviceToken: BadDeviceToken"},
		{410, "Unregistered", "refused Unregistered: Unregistered"},
		{429, "TooManyRequests", "refused TooManyRequests: TooManyRequests"},
		{403, "InvalidProviderToken", "refused InvalidProviderToken: InvalidProviderToken"},
		{403, "", "not_before unanswered: HTTP 403"},
		{503, "ServiceUnavailable", "refused ServiceUnavailable: ServiceUnavailable"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.payload == testPayload {
						return refusing(c.status, c.reason)
					}
					return act{}
				})
				a, err := b.Test(t.Context(), trial(1))
				if got := told(a, err); got != c.want || a.Status != c.status {
					t.Errorf("got %s with %+v, want %s", got, a, c.want)
				}
				if !b.Ready(topic, production) {
					t.Error("the topic is held")
				}
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
					t.Errorf("an alert behind it: %+v", a)
				}
				if devices := len(b.gateways[0].guard.phones); devices != 1 {
					t.Errorf("%d devices count for the guard, want that of the alert", devices)
				}
			})
		})
	}
}

func TestATestGoesOutWhereAlertsAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := map[outcome.Reason]act{"throttled": refusing(429, "TooManyRequests"), "quarantined": refusing(400, "BadDeviceToken"), "credentials": refusing(403, "InvalidProviderToken")}
		for _, reason := range []outcome.Reason{"throttled", "quarantined", "credentials"} {
			b := overMemory(t, func(a arrived) act {
				if a.payload == testPayload {
					return act{}
				}
				return refused[reason]
			})
			b.Push(t.Context(), alert(1, 1))
			if a := b.Push(t.Context(), alert(1, 2)); a.Reason != reason {
				t.Fatalf("an alert is %s %s, want %s", a.Result, a.Reason, reason)
			}
			if got := told(b.Test(t.Context(), trial(1))); got != "accepted" {
				t.Errorf("%s: %s", reason, got)
			}
			if a := b.Push(t.Context(), alert(1, 3)); a.Reason != reason {
				t.Errorf("after the test an alert is %s %s, want %s", a.Result, a.Reason, reason)
			}
		}
	})
}

func TestATestIsTriedInTheOtherEnvironmentAsAnAlertIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.in() == production {
				return refusing(400, "BadDeviceToken")
			}
			return act{}
		}, both)
		if got := told(b.Test(t.Context(), trial(1))); got != "accepted in sandbox" {
			t.Error(got)
		}
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return refusing(400, "BadDeviceToken") } })
		if got := told(b.Test(t.Context(), trial(1))); got != "refused BadDeviceToken: BadDeviceToken" {
			t.Error(got)
		}
	})
}

func TestATestThatCannotGoOutSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		other := trial(1)
		other.Phone.Topic = "com.contoso.other"
		if got := told(b.Test(t.Context(), other)); got != "not_before no_topic: no_topic" {
			t.Error(got)
		}
		off := overMemory(t, nil, func(o *Options) { o.Send = false })
		if got := told(off.Test(t.Context(), trial(1))); got != "refused send_off: send_off" {
			t.Error(got)
		}
		b.apns.set(func(s *standIn) { s.down = true })
		began := time.Now()
		a, err := b.Test(t.Context(), trial(1))
		if got := told(a, err); !strings.HasPrefix(got, "not_before unanswered: ") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", got, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("that there is no connection took %v to say", took)
		}
		b.apns.set(func(s *standIn) { s.down, s.decide = false, func(arrived) act { return act{silent: true} } })
		<-time.After(time.Minute) // the line has tried again
		a, err = b.Test(t.Context(), trial(1))
		if got := told(a, err); !strings.HasPrefix(got, "not_before unanswered: ") || !errors.Is(err, h2.ErrStalled) {
			t.Errorf("%s: %v", got, err)
		}
		b.Close(t.Context())
		if got := told(b.Test(t.Context(), trial(1))); got != "not_before unanswered: closed" {
			t.Error(got)
		}
		requests, _, _, _ := off.apns.seen()
		if len(requests) != 0 {
			t.Error("something was sent though nothing is to be")
		}
	})
}

func TestATestAsksTheSameAPNsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refusing(400, "BadDeviceToken") }, func(o *Options) {
			both(o)
			o.Topics[1].URL = o.Topics[0].URL
		})
		if got := told(b.Test(t.Context(), trial(1))); got != "refused BadDeviceToken: BadDeviceToken" {
			t.Error(got)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 1 {
			t.Errorf("%d requests, want 1", len(requests))
		}
	})
}

func TestATestEndsWithItsSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{silent: true} })
		var all sync.WaitGroup
		all.Go(func() {
			if got := told(b.Test(t.Context(), trial(1))); !strings.HasPrefix(got, "not_before unanswered") {
				t.Error(got)
			}
		})
		synctest.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		b.Close(ended)
		if took := time.Since(began); took != 0 {
			t.Errorf("the end took %v", took)
		}
		all.Wait()
	})
}

func TestATestIsAnsweredWithinItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{delay: time.Second, reset: http2.ErrCodeRefusedStream} })
		began := time.Now()
		if got := told(b.Test(t.Context(), trial(1))); !strings.HasPrefix(got, "not_before unanswered") {
			t.Error(got)
		}
		if took := time.Since(began); took != askTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

func TestProbeTellsWhetherTheCredentialIsTaken(t *testing.T) {
	for _, c := range []struct {
		name string
		do   act
		want string // the code of the fault; empty: it is taken
		who  fault.Scope
	}{
		{"a device token that nobody has", refusing(400, "BadDeviceToken"), "", 0},
		{"a wrong key", refusing(403, "InvalidProviderToken"), "InvalidProviderToken", fault.Account},
		{"a clock that is wrong", refusing(403, "ExpiredProviderToken"), "ExpiredProviderToken", fault.Account},
		{"a sandbox key at production", refusing(403, "BadEnvironmentKeyInToken"), "BadEnvironmentKeyInToken", fault.Account},
		{"the same by its other name", refusing(403, "BadEnvironmentKeyIdInToken"), "BadEnvironmentKeyIdInToken", fault.Account},
		{"a certificate of the other environment", refusing(403, "BadCertificateEnvironment"), "BadCertificateEnvironment", fault.Account},
		{"a topic of somebody else", refusing(400, "TopicDisallowed"), "TopicDisallowed", fault.Message},
		{"a proxy in its place", act{status: 403, body: "<html>"}, "HTTP 403", fault.Server},
		{"an APNs that has a fault", refusing(500, "InternalServerError"), "InternalServerError", fault.Server},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return c.do })
				err := b.Probe(t.Context(), topic, production)
				if c.want == "" {
					if err != nil {
						t.Error(err)
					}
				} else if f := fault.Of(err); f.Code != c.want || f.Scope != c.who {
					t.Errorf("got %v, of %s; want %s, of %s", err, f.Scope, c.want, c.who)
				}
				if alerts, probes, _, _ := b.apns.seen(); len(alerts) != 0 || len(probes) == 0 {
					t.Errorf("%d alerts and %d probes went out", len(alerts), len(probes))
				}
				if !b.Ready(topic, production) {
					t.Error("the topic is held")
				}
			})
		})
	}
}

func TestProbeEndsWithItsCallerAndKnowsItsTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return act{silent: true} })
		if f := fault.Of(b.Probe(t.Context(), "com.contoso.other", production)); f.Code != "no_topic" {
			t.Error(f)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := b.Probe(ctx, topic, production); err == nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		b.Close(t.Context())
		if diff := cmp.Diff("closed", fault.Of(b.Probe(t.Context(), topic, production)).Code); diff != "" {
			t.Error(diff)
		}
	})
}
