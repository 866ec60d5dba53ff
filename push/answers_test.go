package push

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
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
		why      outcome.Reason
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
				a := b.Push(t.Context(), alert(1, 1))
				if a.Result != test.want || a.Reason != test.why {
					t.Errorf("got %+v, want %s %s", a, test.want, test.why)
				}
				requests, _, _, _ := b.apns.seen()
				if len(requests) != test.requests {
					t.Errorf("%d requests, want %d", len(requests), test.requests)
				}
				if test.requests == 2 && a.Resent != 0 {
					t.Error("an alert that APNs answered counts as resent")
				}
				<-time.After(2 * time.Minute) // past the probe of a key that was refused
				b.Push(t.Context(), alert(2, 2))
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

// Something between here and APNs may answer in its place: an appliance that filters, a captive portal, a load balancer. Without
// Apple's word it is not Apple's last word.
func TestAnAnswerWithoutAReasonOfApplesSettlesNothing(t *testing.T) {
	bodies := map[string]string{"nothing": "", "a page": "<html>Not Found</html>", "cut JSON": `{"reason":`, "a number": `{"reason":7}`, "a list": `[]`,
		"no time": `{"reason":"Unregistered","timestamp":"soon"}`, "an empty reason": `{"reason":""}`, "other JSON": `{"error":"blocked"}`, "a lot": strings.Repeat("x", 10_000)}
	for _, status := range []int{200, 302, 400, 401, 403, 404, 405, 407, 410, 413, 429, 500, 502, 503, 511} {
		for name, body := range bodies {
			if status == 200 && (body == "" || json.Valid([]byte(body)) && body[0] == '{' && !strings.Contains(body, "7") && !strings.Contains(body, "soon")) {
				continue // an acceptance has no body; one that could be of APNs is taken for one
			}
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := overMemory(t, func(a arrived) act {
						if a.number > 3 {
							return act{}
						}
						return act{status: status, body: body}
					})
					<-time.After(time.Minute) // after the enrolment
					a := b.Push(t.Context(), alert(1, 1))
					if a.Result != subscriptions.Accepted || a.Resent != 0 {
						t.Errorf("got %+v", a)
					}
					requests, _, _, _ := b.apns.seen()
					if sameIDs(t, requests); len(requests) != 4 {
						t.Errorf("%d requests", len(requests))
					}
					if n := len(b.logs.FilterMessage("something answers in the place of APNs").All()); n != 1 {
						t.Errorf("the log was told %d times", n)
					}
				})
			})
		}
	}
}

func TestWhatAnswersInThePlaceOfAPNsForLongIsAnOutageAndNoFaultOfTheCredential(t *testing.T) {
	for _, status := range []int{200, 403, 404, 410, 413} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var through atomic.Bool
				b := overMemory(t, func(arrived) act {
					if through.Load() {
						return act{}
					}
					return act{status: status, body: "<html>blocked</html>"}
				})
				a := b.Push(t.Context(), alert(1, 1))
				if a.Result != subscriptions.NotBefore || a.Reason != outcome.TopicAway || a.Unknown {
					t.Errorf("got %+v", a)
				}
				standing := b.Topics()[0]
				if f := standing.Fault; f == nil || f.Code != fmt.Sprint("HTTP ", status) || f.Scope != fault.Server || !strings.Contains(f.Text, "in its place") {
					t.Errorf("the topic stands as %+v", standing)
				}
				told := b.logs.FilterMessage("nothing can be sent").All()
				if len(told) != 1 || told[0].ContextMap()["reason"] != "topic_away" || !strings.Contains(fmt.Sprint(told[0].ContextMap()), "in its place") {
					t.Errorf("the log has %v", told)
				}
				if err := b.Probe(t.Context(), topic, production); fault.Of(err).Scope != fault.Server {
					t.Errorf("a probe says %v", err)
				}
				got, err := b.Test(t.Context(), alert(1, 1))
				if got.Result != subscriptions.NotBefore || got.Status != status || fault.Of(err).Remedy != fault.Wait {
					t.Errorf("a test is answered %+v: %v", got, err)
				}
				through.Store(true)
				<-time.After(2 * time.Minute) // past the next probe
				if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted {
					t.Errorf("once the way is free: %+v", a)
				}
			})
		})
	}
}

func TestAcceptedIsAcceptedWhateverTheBodySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refusing(200, "BadDeviceToken") })
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Accepted || a.Reason != "" {
			t.Errorf("got %+v", a)
		}
	})
}

func TestDeviceIsGoneOnlyIfItEnrolledBeforeItsTokenWas(t *testing.T) {
	found := func(at time.Time) string {
		return fmt.Sprintf(`{"reason":"Unregistered","timestamp":%d}`, at.UnixMilli())
	}
	for name, test := range map[string]struct {
		enrolled time.Time // the zero time: on the second
		body     string
		want     subscriptions.Result
		why      outcome.Reason
	}{
		"found a second after":          {body: found(enrolled.Add(time.Second)), want: subscriptions.Gone, why: "Unregistered"},
		"found a second before":         {body: found(enrolled.Add(-time.Second)), want: subscriptions.Refused, why: "stale_410"},
		"found when it enrolled":        {body: found(enrolled), want: subscriptions.Refused, why: "stale_410"},
		"found in the second before it": {enrolled.Add(time.Second / 2), found(enrolled), subscriptions.Refused, "stale_410"},
		"found in the second after it":  {enrolled.Add(time.Second / 2), found(enrolled.Add(900 * time.Millisecond)), subscriptions.Refused, "stale_410"},
		"found in the next second":      {enrolled.Add(time.Second / 2), found(enrolled.Add(time.Second)), subscriptions.Gone, "Unregistered"},
		"it is not said when":           {body: `{"reason":"ExpiredToken"}`, want: subscriptions.Refused, why: "stale_410"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return act{status: 410, body: test.body} })
				n := alert(1, 1)
				if !test.enrolled.IsZero() {
					n.Enrolled = test.enrolled
				}
				if a := b.Push(t.Context(), n); a.Result != test.want || a.Reason != test.why || a.Status != 410 {
					t.Errorf("got %+v, want %s %s", a, test.want, test.why)
				}
			})
		})
	}
}

func TestPayloadThatIsTooLargeIsSentOnceMoreAsTheSmaller(t *testing.T) {
	large := alert(1, 1)
	alone := large
	alone.Smaller = nil
	for name, test := range map[string]struct {
		n    subscriptions.Notification
		sent []string
	}{
		"there is a smaller": {large, []string{string(large.Payload), string(large.Smaller)}},
		"there is none":      {alone, []string{string(alone.Payload)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return refusing(413, "PayloadTooLarge") })
				began := time.Now()
				if a := b.Push(t.Context(), test.n); time.Since(began) > 2*retrying.First || a.Result != subscriptions.Refused || a.Reason != "PayloadTooLarge" || a.Status != 413 {
					t.Errorf("got %+v", a)
				}
				requests, _, _, _ := b.apns.seen()
				var sent []string
				for _, r := range requests {
					sent = append(sent, r.payload)
					if r.header["apns-id"] != requests[0].header["apns-id"] || r.header["apns-collapse-id"] != requests[0].header["apns-collapse-id"] {
						t.Error("the smaller one has other ids")
					}
				}
				if diff := cmp.Diff(test.sent, sent); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestConnectionWithAnotherKeyIsReplacedOnceAndThenItIsTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, func(arrived) act { return refusing(403, "UnrelatedKeyIdInToken") })
		if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.NotBefore || a.Reason != "credentials" {
			t.Errorf("got %+v", a)
		}
		if requests, _, _, _ := b.apns.seen(); len(requests) != 2 {
			t.Errorf("%d requests, want 2", len(requests))
		}
	})
}

func TestWhatIsNoNotificationIsRefusedAndNotSent(t *testing.T) {
	broken := alert(1, 1)
	broken.Payload = []byte("Lunch on Friday?")
	nowhere := alert(1, 1)
	nowhere.Phone.Token = "\x7f"
	for name, n := range map[string]subscriptions.Notification{"a payload that is no JSON": broken, "a token that is no path": nowhere} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, nil)
				if a := b.Push(t.Context(), n); a.Result != subscriptions.Refused || a.Reason != outcome.NotSendable || a.Status != 0 {
					t.Errorf("got %+v", a)
				}
				if got := told(b.Test(t.Context(), n)); got != "refused not_sendable: not_sendable" {
					t.Errorf("a test: %s", got)
				}
				if requests, _, _, _ := b.apns.seen(); len(requests) != 0 {
					t.Errorf("%d requests", len(requests))
				}
				for _, e := range b.logs.All() {
					if line := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(line, "Lunch") || e.Message != "an alert cannot be sent" {
						t.Errorf("the log has %s", line)
					}
				}
			})
		})
	}
}

func TestTableNamesEachAnswerOnceAndEachReasonHasItsSentence(t *testing.T) {
	type answer struct {
		status int
		reason outcome.Reason
	}
	seen := make(map[answer]int)
	for _, r := range rules {
		seen[answer{r.status, r.reason}]++
		if r.reaction == 0 {
			t.Errorf("%+v asks for nothing", r)
		}
		if r.reason != "" && !r.reason.Known() {
			t.Errorf("no table has a sentence for %s", r.reason)
		}
	}
	for a, n := range seen {
		if n != 1 {
			t.Errorf("%v stands there %d times", a, n)
		}
	}
	if diff := cmp.Diff(unknown.reaction, ruleFor(599, "").reaction); diff != "" {
		t.Error(diff)
	}
}

// What mailbell itself says is not APNs' to say: a peer that answers "throttled" has given no reason.
func TestWhatAPeerMakesUpIsNoReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, word := range []string{"throttled", "gone", "Lunch on Friday?"} {
			b := overMemory(t, func(arrived) act { return refusing(400, word) })
			if a := b.Push(t.Context(), alert(1, 1)); a.Result != subscriptions.Refused || a.Reason != outcome.Other {
				t.Errorf("got %+v for %q", a, word)
			}
		}
	})
}

func TestWhatAPNsAsksForInRetryAfterIsBounded(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "0": 0, "7": 7 * time.Second, "3600": time.Hour, "3601": maxRetryAfter, "86400": maxRetryAfter,
		"-1": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0} {
		if got := retryAfter(text); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
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
