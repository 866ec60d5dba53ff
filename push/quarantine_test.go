package push

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// onlyIn takes tokens in one environment and calls them bad in the other.
func onlyIn(environment string) func(arrived) act {
	return func(a arrived) act {
		if a.in() == environment {
			return act{}
		}
		return refusing(400, "BadDeviceToken")
	}
}

func TestTokenOfTheOtherEnvironmentIsAcceptedThereAndTheAnswerSaysSo(t *testing.T) {
	for enrolledIn, belongsIn := range map[string]string{production: sandbox, sandbox: production} {
		t.Run("a "+belongsIn+" token in "+enrolledIn, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, onlyIn(belongsIn), both)
				n := alert(1, 1)
				n.Phone.Environment = enrolledIn
				for range 2 { // it is no reason for a quarantine
					a := b.Push(t.Context(), n)
					if a.Result != subscriptions.Accepted || a.Environment != belongsIn || a.Status != 200 || a.Reason != "" || a.Resent != 0 {
						t.Errorf("got %+v", a)
					}
				}
				requests, _, _, _ := b.apns.seen()
				var asked []string
				for _, r := range requests {
					asked = append(asked, r.in())
				}
				if diff := cmp.Diff([]string{enrolledIn, belongsIn, enrolledIn, belongsIn}, asked); diff != "" {
					t.Error(diff)
				}
				sameIDs(t, requests)
				n.Phone.Environment = belongsIn // as its enrolment is then
				if a := b.Push(t.Context(), n); a.Result != subscriptions.Accepted || a.Environment != "" {
					t.Errorf("where it belongs: %+v", a)
				}
			})
		})
	}
}

func TestTokenThatIsTakenNowhereIsNotAskedAboutAgainForAWhile(t *testing.T) {
	bad := func(arrived) act { return refusing(400, "BadDeviceToken") }
	inSandbox := func(do act) func(arrived) act {
		return func(a arrived) act {
			if a.in() == sandbox {
				return do
			}
			return bad(a)
		}
	}
	gone := act{status: 410, body: fmt.Sprintf(`{"reason":"Unregistered","timestamp":%d}`, enrolled.Add(time.Hour).UnixMilli())}
	for name, test := range map[string]struct {
		decide  func(arrived) act
		change  func(*Options)
		askedIn int // environments
	}{
		"there is no other entry":                      {bad, func(*Options) {}, 1},
		"the other entry is the same APNs":             {bad, func(o *Options) { both(o); o.Topics[1].URL = o.Topics[0].URL }, 1},
		"the other environment calls it bad too":       {bad, both, 2},
		"the other environment says that it is gone":   {inSandbox(gone), both, 2},
		"the other environment has it for another app": {inSandbox(refusing(400, "DeviceTokenNotForTopic")), both, 2},
		"the other environment refuses the credential": {inSandbox(refusing(403, "BadEnvironmentKeyIdInToken")), both, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, test.decide, test.change)
				<-time.After(2 * time.Hour) // after the enrolment
				for _, wait := range []time.Duration{time.Hour, 2 * time.Hour} {
					before, _, _, _ := b.apns.seen()
					if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Refused || a.Reason != "BadDeviceToken" || a.Status != 400 || a.Environment != "" {
						t.Errorf("got %+v", a)
					}
					asked, _, _, _ := b.apns.seen()
					if n := len(asked) - len(before); n < 1 || n > test.askedIn {
						t.Errorf("APNs was asked %d times", n)
					}
					<-time.After(wait - time.Second)
					if a := b.Push(t.Context(), alert(1, 2)); a.Result != subscriptions.Refused || a.Reason != "quarantined" || a.Status != 0 {
						t.Errorf("got %+v within %v", a, wait)
					}
					if again, _, _, _ := b.apns.seen(); len(again) != len(asked) {
						t.Errorf("APNs was asked again within %v", wait)
					}
					<-time.After(time.Second)
				}
			})
		})
	}
}

func TestQuarantineDoublesToADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuarantine()
		for _, hours := range []time.Duration{1, 2, 4, 8, 16, 24, 24} {
			until := q.begin(new(alert(1, 1)))
			if got := time.Until(until); got != hours*time.Hour {
				t.Errorf("it lasts for %v, want %d hours", got, hours)
			}
			if again := q.begin(new(alert(1, 1))); !again.Equal(until) {
				t.Errorf("an alert that was under way made it last until %v, want %v", again, until)
			}
			<-time.After(time.Until(until))
			if q.holds(new(alert(1, 1))) {
				t.Error("it does not end")
			}
		}
	})
}

func TestQuarantineIsOfOneTokenAndEndsWithItsReason(t *testing.T) {
	for name, end := range map[string]func(n *subscriptions.Notification){
		"another token": func(n *subscriptions.Notification) { n.Phone.Token = tokenOf(2) },
		"enrolled again": func(n *subscriptions.Notification) {
			n.Enrolled = n.Enrolled.Add(time.Second)
		},
		"enrolled in the other environment": func(n *subscriptions.Notification) { n.Phone.Environment = sandbox },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return refusing(400, "BadDeviceToken") }, both)
				n := alert(1, 1)
				b.Push(t.Context(), n)
				other := n
				other.Device = "phone-1-other-mailbox"
				if a := b.Push(t.Context(), other); a.Reason != "quarantined" {
					t.Errorf("the other mailbox of the phone: %+v", a)
				}
				end(&n)
				if a := b.Push(t.Context(), n); a.Reason != "BadDeviceToken" {
					t.Errorf("got %+v", a)
				}
				<-time.After(time.Hour)
				if a := b.Push(t.Context(), n); a.Reason != "BadDeviceToken" {
					t.Errorf("it waits for longer than the first time: %+v", a)
				}
			})
		})
	}
}

func TestTokenThatIsTakenAgainStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			if a.number == 3 {
				return act{}
			}
			return refusing(400, "BadDeviceToken")
		})
		var got []outcome.Reason
		for _, wait := range []time.Duration{time.Hour, 2 * time.Hour, 0, time.Hour, 0} {
			got = append(got, b.Push(t.Context(), alert(1, 1)).Reason)
			<-time.After(wait)
		}
		if diff := cmp.Diff([]outcome.Reason{"BadDeviceToken", "BadDeviceToken", "", "BadDeviceToken", "BadDeviceToken"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// What the other environment does not say is not held against the token: it may well belong there.
func TestOtherEnvironmentThatDoesNotAnswerSettlesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		away  func(*bench)
		first outcome.Reason
	}{
		"cannot be reached": {func(b *bench) {
			b.apns.downHost = "sandbox.apns.example"
		}, "topic_away"},
		"has faults": {func(b *bench) {
			b.apns.decide = func(a arrived) act {
				if a.in() == sandbox {
					return refusing(503, "ServiceUnavailable")
				}
				return refusing(400, "BadDeviceToken")
			}
		}, "topic_away"},
		"has enough of the device": {func(b *bench) {
			b.apns.decide = func(a arrived) act {
				if a.in() == sandbox {
					return refusing(429, "TooManyRequests")
				}
				return refusing(400, "BadDeviceToken")
			}
		}, "throttled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, onlyIn(sandbox), both)
				test.away(b)
				for range 3 { // the second time it is shut
					start := time.Now()
					a := b.Push(t.Context(), alert(1, 1))
					if a.Result != subscriptions.NotBefore || a.Reason != test.first || a.Next.Before(time.Now()) {
						t.Errorf("got %+v", a)
					}
					if took := time.Since(start); took > holdFor+time.Second {
						t.Errorf("held for %v", took)
					}
					<-time.After(time.Until(a.Next))
				}
				if a := b.Push(t.Context(), alert(2, 1)); a.Reason == "quarantined" || a.Result == subscriptions.Refused {
					t.Errorf("another device: %+v", a)
				}
				b.apns.set(func(s *standIn) { s.decide, s.downHost = onlyIn(sandbox), "" })
				<-time.After(2 * time.Minute)
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Environment != sandbox {
					t.Errorf("when it is back: %+v", a)
				}
			})
		})
	}
}

func TestAttemptWhoseAnswerWasLostIsNoRepeatInTheOtherEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(a arrived) act {
			switch {
			case a.number == 1:
				return act{cut: true}
			case a.in() == production:
				return refusing(400, "BadDeviceToken")
			}
			return act{}
		}, both)
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Environment != sandbox || a.Resent != 1 {
			t.Errorf("got %+v, want one repeat, in production", a)
		}
	})
}

func TestQuarantinedPhonesAreBounded(t *testing.T) {
	q := newQuarantine()
	for i := range maxQuarantined + 100 {
		q.begin(new(alert(i, 1)))
		if len(q.phones) > maxQuarantined {
			t.Fatalf("%d are remembered", len(q.phones))
		}
	}
	for p := range q.phones {
		n := alert(0, 1)
		n.Phone = p
		q.begin(&n)
		if len(q.phones) != maxQuarantined {
			t.Fatalf("one that is remembered makes another be forgotten: %d are", len(q.phones))
		}
	}
}
