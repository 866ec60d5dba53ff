package push

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/proxy"
)

func TestAPhoneThatIsRefusedOrQuarantinedStandsSoUntilItEnrolsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := refusing(400, "DeviceTokenNotForTopic")
		b := overMemory(t, func(arrived) act { return answer })
		n := alert(1, 1)
		if reason, _, f := b.Standing(n.Phone, n.Enrolled); reason != "" || f != nil {
			t.Errorf("before anything was sent: %s", reason)
		}
		b.Push(t.Context(), n)
		if reason, next, f := b.Standing(n.Phone, n.Enrolled); reason != "DeviceTokenNotForTopic" || !next.IsZero() || f == nil || f.Peer != fault.APNs {
			t.Errorf("refused: %s, %v, %v", reason, next, f)
		}
		if reason, _, _ := b.Standing(n.Phone, n.Enrolled.Add(time.Second)); reason != "" {
			t.Errorf("enrolled again: %s", reason)
		}
		if refused := b.Topics()[0].Refused; refused["DeviceTokenNotForTopic"] != 1 {
			t.Errorf("%v", refused)
		}
		b.apns.set(func(*standIn) { answer = refusing(400, "BadDeviceToken") })
		b.Push(t.Context(), n)
		if reason, next, f := b.Standing(n.Phone, n.Enrolled); reason != outcome.Quarantined || !next.After(time.Now()) || f == nil || f.Code != "BadDeviceToken" {
			t.Errorf("quarantined: %s, %v, %v", reason, next, f)
		}
		if reason, _, _ := b.Standing(n.Phone, n.Enrolled.Add(time.Second)); reason != "" {
			t.Errorf("quarantined, and enrolled again: %s", reason)
		}
		<-time.After(2 * quarantineBase)
		if reason, next, _ := b.Standing(n.Phone, n.Enrolled); reason != "BadDeviceToken" || !next.IsZero() {
			t.Errorf("after the quarantine: %s, %v", reason, next)
		}
		b.apns.set(func(*standIn) { answer = act{} })
		b.Push(t.Context(), n)
		if reason, _, _ := b.Standing(n.Phone, n.Enrolled); reason != "" {
			t.Errorf("accepted: %s", reason)
		}
	})
}

func TestATopicThatNothingIsSentToSaysWhatCameBack(t *testing.T) {
	for name, c := range map[string]struct {
		answer act
		down   bool
		reason outcome.Reason
		code   string
	}{
		"APNs is gone":           {down: true, reason: outcome.TopicAway, code: proxy.CodeNetwork},
		"APNs has a fault":       {answer: refusing(503, "ServiceUnavailable"), reason: outcome.TopicAway, code: "ServiceUnavailable"},
		"something else is APNs": {answer: act{status: 503, body: "<html>"}, reason: outcome.TopicAway, code: "HTTP 503"},
		"the key is wrong":       {answer: refusing(403, "InvalidProviderToken"), reason: outcome.Credentials, code: "InvalidProviderToken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(arrived) act { return c.answer })
				b.apns.set(func(s *standIn) { s.down = c.down })
				if s := b.Topics()[0]; s.Reason != "" || s.Fault != nil || s.Topic != topic || s.Environment != production {
					t.Errorf("before: %+v", s)
				}
				began := time.Now()
				for i := range 20 { // those that wait for a stream meanwhile say nothing new of APNs
					go b.Push(t.Context(), alert(1, i))
				}
				<-time.After(2 * awayAfter)
				s := b.Topics()[0]
				if s.Reason != c.reason || s.Fault == nil || s.Fault.Code != c.code || s.Since.Sub(began) > awayAfter {
					t.Errorf("%+v", s)
				}
				if reason, _, f := b.Standing(alert(2, 2).Phone, time.Time{}); reason != c.reason || f == nil {
					t.Errorf("another phone of the topic: %s", reason)
				}
				b.apns.set(func(s *standIn) { s.down, s.decide = false, func(arrived) act { return act{} } })
				<-time.After(5 * time.Minute)
				if s := b.Topics()[0]; s.Reason != "" || s.Fault != nil {
					t.Errorf("after: %+v", s)
				}
			})
		})
	}
}

func TestTheRefusalsThatAreRememberedAreBounded(t *testing.T) {
	r := newRefusals()
	for i := range 2 * maxRefusals {
		n := alert(i, i)
		r.note(&n, refused("BadTopic"))
	}
	if len(r.phones) > maxRefusals {
		t.Errorf("%d phones", len(r.phones))
	}
}
