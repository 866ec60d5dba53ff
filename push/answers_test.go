package push

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/subscriptions"
)

// Each answer that Apple documents, what becomes of the alert, and on which connection the next one goes. The stand-in gives the
// answer to the first alert only, so what is tried again is accepted.
func TestEachAnswerHasItsReaction(t *testing.T) {
	const refused, gone, accepted, later = subscriptions.Refused, subscriptions.Gone, subscriptions.Accepted, subscriptions.NotBefore
	for _, test := range []struct {
		status   int
		reason   string
		want     subscriptions.Result
		why      string
		requests int
		replaced bool
	}{
		{200, "", accepted, "", 1, false},
		{400, "BadCollapseId", refused, "BadCollapseId", 1, false},
		{400, "BadDeviceToken", refused, "BadDeviceToken", 1, false},
		{400, "BadExpirationDate", refused, "BadExpirationDate", 1, false},
		{400, "BadMessageId", refused, "BadMessageId", 1, false},
		{400, "BadPriority", refused, "BadPriority", 1, false},
		{400, "BadTopic", refused, "BadTopic", 1, false},
		{400, "DeviceTokenNotForTopic", refused, "DeviceTokenNotForTopic", 1, false},
		{400, "DuplicateHeaders", refused, "DuplicateHeaders", 1, false},
		{400, "IdleTimeout", accepted, "", 2, true},
		{400, "InvalidPushType", refused, "InvalidPushType", 1, false},
		{400, "MissingDeviceToken", refused, "MissingDeviceToken", 1, false},
		{400, "MissingTopic", refused, "MissingTopic", 1, false},
		{400, "PayloadEmpty", refused, "PayloadEmpty", 1, false},
		{400, "TopicDisallowed", refused, "TopicDisallowed", 1, false},
		{400, "SomethingNew", refused, "other", 1, false},
		{403, "BadCertificate", later, "credentials", 1, true},
		{403, "BadCertificateEnvironment", later, "credentials", 1, true},
		{403, "BadEnvironmentKeyIdInToken", later, "credentials", 1, false},
		{403, "BadEnvironmentKeyInToken", later, "credentials", 1, false},
		{403, "ExpiredProviderToken", later, "credentials", 1, true}, // the token is new: the clock is wrong
		{403, "Forbidden", later, "credentials", 1, false},
		{403, "InvalidProviderToken", later, "credentials", 1, false},
		{403, "MissingProviderToken", later, "credentials", 1, false},
		{403, "UnrelatedKeyIdInToken", accepted, "", 2, true},
		{403, "SomethingNew", later, "credentials", 1, false},
		{404, "BadPath", refused, "BadPath", 1, false},
		{405, "MethodNotAllowed", refused, "MethodNotAllowed", 1, false},
		{410, "ExpiredToken", gone, "ExpiredToken", 1, false},
		{410, "Unregistered", gone, "Unregistered", 1, false},
		{413, "PayloadTooLarge", accepted, "", 2, false},
		{429, "TooManyProviderTokenUpdates", accepted, "", 2, true},
		{429, "TooManyRequests", later, "throttled", 1, false},
		{500, "InternalServerError", accepted, "", 2, true},
		{503, "ServiceUnavailable", accepted, "", 2, true},
		{503, "Shutdown", accepted, "", 2, true},
		{502, "", accepted, "", 2, true},
		{302, "", accepted, "", 2, true},
	} {
		t.Run(strings.TrimSpace(fmt.Sprint(test.status, " ", test.reason)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					if a.number > 1 {
						return act{}
					}
					do := act{status: test.status}
					if test.reason != "" {
						do.body = fmt.Sprintf(`{"reason":%q,"timestamp":%d}`, test.reason, time.Now().UnixMilli())
					}
					return do
				})
				<-time.After(time.Minute) // after the enrolment
				a := b.Ring(t.Context(), device(1), bell(1))
				if a.Result != test.want || a.Reason != test.why {
					t.Errorf("got %+v, want %s %s", a, test.want, test.why)
				}
				if a.PushID == "" {
					t.Error("no apns-id")
				}
				requests, _, _, _ := b.apns.seen()
				if len(requests) != test.requests {
					t.Errorf("%d requests, want %d", len(requests), test.requests)
				}
				if test.requests == 2 && a.Resent != 0 {
					t.Error("an alert that APNs answered counts as resent")
				}
				<-time.After(2 * time.Minute) // past the probe of a key that was refused
				b.Ring(t.Context(), device(2), bell(2))
				if _, _, connections, _ := b.apns.seen(); (connections == 2) != test.replaced {
					t.Errorf("%d connections, replaced should be %t", connections, test.replaced)
				}
				label := test.reason
				if label == "SomethingNew" {
					label = "other"
				}
				if n := b.metric(t, "mailbell_apns_answers_total", label+" "+fmt.Sprint(test.status)); n == 0 {
					t.Error("the answer is not counted")
				}
			})
		})
	}
}

func TestStatusIsKnownWhateverTheBodyIs(t *testing.T) {
	for _, body := range []string{"", "<html>Bad Gateway</html>", `{"reason":`, `{"reason":7}`, `[]`, `{"reason":"Unregistered","timestamp":"soon"}`, strings.Repeat("x", 10_000)} {
		t.Run(body[:min(len(body), 20)], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return act{status: 404, body: body} })
				if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.Refused || a.Status != 404 {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

func TestDeviceIsGoneOnlyIfItEnrolledBeforeItsTokenWas(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want subscriptions.Result
		why  string
	}{
		"enrolled before": {fmt.Sprintf(`{"reason":"Unregistered","timestamp":%d}`, enrolled.Add(time.Second).UnixMilli()), subscriptions.Gone, "Unregistered"},
		"enrolled since":  {fmt.Sprintf(`{"reason":"Unregistered","timestamp":%d}`, enrolled.Add(-time.Second).UnixMilli()), subscriptions.Refused, "stale_410"},
		"no time given":   {`{"reason":"ExpiredToken"}`, subscriptions.Refused, "stale_410"},
		"no body":         {"", subscriptions.Refused, "stale_410"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return act{status: 410, body: test.body} })
				if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != test.want || a.Reason != test.why || a.Status != 410 {
					t.Errorf("got %+v, want %s %s", a, test.want, test.why)
				}
			})
		})
	}
}

func TestPayloadThatIsTooLargeIsSentOnceMoreWithoutContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refuse(413, "PayloadTooLarge") })
		if a := b.Ring(t.Context(), device(1), bell(1)); a.Result != subscriptions.Refused || a.Reason != "PayloadTooLarge" {
			t.Errorf("got %+v", a)
		}
		requests, _, _, _ := b.apns.seen()
		if len(requests) != 2 || strings.Contains(requests[1].payload, "Lunch") || requests[0].header["apns-id"] != requests[1].header["apns-id"] {
			t.Errorf("got %+v", requests)
		}
	})
}

func TestTableNamesEachAnswerOnce(t *testing.T) {
	type answer struct {
		status int
		reason string
	}
	seen := make(map[answer]int)
	for _, m := range meanings {
		seen[answer{m.status, m.reason}]++
		if (m.result != 0) != (m.does == finish) || m.concerns == 0 {
			t.Errorf("%+v is not whole", m)
		}
	}
	for a, n := range seen {
		if n != 1 {
			t.Errorf("%v stands there %d times", a, n)
		}
	}
	if diff := cmp.Diff(unknown.does, meaningOf(599, "").does); diff != "" {
		t.Error(diff)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "7", "-1", "86400", "Fri, 31 Dec 1999 23:59:59 GMT", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s); d < 0 || d > maxRetryAfter {
			t.Errorf("%q is %v", s, d)
		}
	})
}
