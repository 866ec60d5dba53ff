package push

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

const testPayload = `{"aps":{"alert":{"loc-key":"MAILBELL_TEST"}}}`

// told sums up what came of a test.
func told(a subscriptions.Answer, err error) string {
	s := strings.TrimSpace(a.Result.String() + " " + a.Reason)
	if a.Environment != "" {
		s += " in " + a.Environment
	}
	if err != nil {
		s += ": " + fault.Of(err).Code
	}
	return s
}

func TestATestIsAnAlertOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		for range 2 {
			a, err := b.Test(t.Context(), device(1), []byte(testPayload))
			if told(a, err) != "accepted" || a.Status != 200 || a.At.IsZero() {
				t.Errorf("got %+v, %v", a, err)
			}
			requests, _, _, _ := b.apns.seen()
			if got := requests[len(requests)-1].header["apns-id"]; got != a.PushID {
				t.Errorf("the answer names %s, and %s was sent", a.PushID, got)
			}
		}
		b.Ring(t.Context(), device(1), bell(1))
		requests, _, _, _ := b.apns.seen()
		first, second, alert := requests[0], requests[1], requests[2]
		if first.payload != testPayload || first.header["apns-push-type"] != "alert" || first.header["apns-priority"] != "10" || first.token() != device(1).Token {
			t.Errorf("sent was %v with %s", first.header, first.payload)
		}
		if form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`); !form.MatchString(first.header["apns-id"]) {
			t.Errorf("the apns-id is %s", first.header["apns-id"])
		}
		if first.header["apns-id"] == second.header["apns-id"] {
			t.Error("two tests have one apns-id")
		}
		if id := first.header["apns-collapse-id"]; id != second.header["apns-collapse-id"] || id == alert.header["apns-collapse-id"] || len(id) > 64 {
			t.Errorf("collapse ids: %s, %s, and of an alert %s", id, second.header["apns-collapse-id"], alert.header["apns-collapse-id"])
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
		{403, "", "refused: HTTP 403"},
		{503, "ServiceUnavailable", "refused ServiceUnavailable: ServiceUnavailable"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.payload == testPayload {
						return refuse(c.status, c.reason)
					}
					return act{}
				})
				a, err := b.Test(t.Context(), device(1), []byte(testPayload))
				if got := told(a, err); got != c.want || a.Status != c.status || a.PushID == "" {
					t.Errorf("got %s with %+v, want %s", got, a, c.want)
				}
				if !b.Ready(topic, production) {
					t.Error("the topic is held")
				}
				if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.Accepted {
					t.Errorf("an alert behind it: %+v", a)
				}
				if devices := len(b.gateways[0].guard.devices); devices != 1 {
					t.Errorf("%d devices count for the guard, want that of the alert", devices)
				}
			})
		})
	}
}

func TestATestGoesOutWhereAlertsAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := map[string]act{"throttled": refuse(429, "TooManyRequests"), "quarantined": refuse(400, "BadDeviceToken"), "credentials": refuse(403, "InvalidProviderToken")}
		for _, reason := range []string{"throttled", "quarantined", "credentials"} {
			b := overMemory(t, func(a arrived) act {
				if a.payload == testPayload {
					return act{}
				}
				return refused[reason]
			})
			b.Ring(t.Context(), device(1), bell(1))
			if a := b.Ring(t.Context(), device(1), bell(2)); a.Reason != reason {
				t.Fatalf("an alert is %s %s, want %s", a.Result, a.Reason, reason)
			}
			if got := told(b.Test(t.Context(), device(1), []byte(testPayload))); got != "accepted" {
				t.Errorf("%s: %s", reason, got)
			}
			if a := b.Ring(t.Context(), device(1), bell(3)); a.Reason != reason {
				t.Errorf("after the test an alert is %s %s, want %s", a.Result, a.Reason, reason)
			}
		}
	})
}

func TestATestIsTriedInTheOtherEnvironmentAsAnAlertIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.in() == production {
				return refuse(400, "BadDeviceToken")
			}
			return act{}
		}, both)
		if got := told(b.Test(t.Context(), device(1), []byte(testPayload))); got != "accepted in sandbox" {
			t.Error(got)
		}
		b.apns.set(func(s *standIn) { s.decide = func(arrived) act { return refuse(400, "BadDeviceToken") } })
		if got := told(b.Test(t.Context(), device(1), []byte(testPayload))); got != "refused BadDeviceToken: BadDeviceToken" {
			t.Error(got)
		}
	})
}

func TestATestThatCannotGoOutSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		other := device(1)
		other.Topic = "com.contoso.other"
		if got := told(b.Test(t.Context(), other, []byte(testPayload))); got != "not_before no_topic: no_topic" {
			t.Error(got)
		}
		off := overMemory(t, nil, func(o *Options) { o.Send = false })
		if got := told(off.Test(t.Context(), device(1), []byte(testPayload))); got != "refused send_off: send_off" {
			t.Error(got)
		}
		b.apns.set(func(s *standIn) { s.down = true })
		began := time.Now()
		a, err := b.Test(t.Context(), device(1), []byte(testPayload))
		if got := told(a, err); !strings.HasPrefix(got, "not_before unanswered: ") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", got, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("that there is no connection took %v to say", took)
		}
		b.apns.set(func(s *standIn) { s.down, s.decide = false, func(arrived) act { return act{silent: true} } })
		<-time.After(time.Minute) // the line has tried again
		if got := told(b.Test(t.Context(), device(1), []byte(testPayload))); !strings.HasPrefix(got, "not_before unanswered: ") {
			t.Error(got)
		}
		b.Close(t.Context())
		if got := told(b.Test(t.Context(), device(1), []byte(testPayload))); got != "not_before unanswered: closed" {
			t.Error(got)
		}
		requests, _, _, _ := off.apns.seen()
		if len(requests) != 0 {
			t.Error("something was sent though nothing is to be")
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
		{"a device token that nobody has", refuse(400, "BadDeviceToken"), "", 0},
		{"a wrong key", refuse(403, "InvalidProviderToken"), "InvalidProviderToken", fault.Account},
		{"a clock that is wrong", refuse(403, "ExpiredProviderToken"), "ExpiredProviderToken", fault.Account},
		{"a sandbox key at production", refuse(403, "BadEnvironmentKeyInToken"), "BadEnvironmentKeyInToken", fault.Account},
		{"the same by its other name", refuse(403, "BadEnvironmentKeyIdInToken"), "BadEnvironmentKeyIdInToken", fault.Account},
		{"a certificate of the other environment", refuse(403, "BadCertificateEnvironment"), "BadCertificateEnvironment", fault.Account},
		{"a topic of somebody else", refuse(400, "TopicDisallowed"), "TopicDisallowed", fault.Message},
		{"a proxy in its place", act{status: 403, body: "<html>"}, "HTTP 403", fault.Account},
		{"an APNs that has a fault", refuse(500, "InternalServerError"), "InternalServerError", fault.Server},
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
