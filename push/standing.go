package push

// This file is what is asked about topics and phones: whether anything can be sent to them now, and why not. It is read, not told.

import (
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// TopicStanding is whether notifications for a topic go out.
type TopicStanding struct {
	Topic, Environment string
	Reason             outcome.Reason // why none do, TopicAway or Credentials; empty: they do
	Since              time.Time      // when they went out last
	Fault              *fault.Error   // what came back last; nil with a Reason: nothing
	NotTakenUp         *fault.Error   // why a changed credential does not work, while the one before serves on; nil: none is refused

	Refused map[outcome.Reason]int // phones whose last alert was refused for good, by why
}

// Topics says how each topic stands.
func (s *Sender) Topics() []TopicStanding {
	var list []TopicStanding
	refused := s.refusals.count()
	for _, g := range s.gateways {
		reason, since, f := g.standing()
		changed := g.notTakenUp()
		for _, a := range g.apps {
			list = append(list, TopicStanding{Topic: a.topic, Environment: a.environment, Reason: reason, Since: since, Fault: f, NotTakenUp: changed, Refused: refused[a]})
		}
	}
	return list
}

// Standing says why a phone cannot be sent to now, or was refused the last time; no reason: nothing is known against it.
func (s *Sender) Standing(p subscriptions.Phone, enrolled time.Time) (reason outcome.Reason, next time.Time, f *fault.Error) {
	if until := s.quarantine.until(p, enrolled); !until.IsZero() {
		return outcome.Quarantined, until, refusalFault(apns2.ReasonBadDeviceToken)
	}
	g := s.apps[appOf(p)]
	if g == nil {
		return outcome.NoTopic, time.Time{}, noTopic(appOf(p))
	}
	if reason := s.refusals.of(p, enrolled); reason != "" {
		return reason, time.Time{}, refusalFault(reason)
	}
	reason, _, f = g.standing()
	return reason, time.Time{}, f
}

// refusalFault is a reason as an error: what APNs said of a phone some time ago.
func refusalFault(reason outcome.Reason) *fault.Error {
	return &fault.Error{Op: "APNs", Code: string(reason), Text: reason.Sentence(), Scope: fault.Message, Remedy: fault.Fix, Evidence: fault.Evidence{Peer: fault.APNs}}
}

// standing is why nothing goes out through the gateway, since when, and what came back last.
func (g *gateway) standing() (reason outcome.Reason, since time.Time, f *fault.Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	reason = g.shut
	if reason == "" && g.isAwayLocked() {
		reason = outcome.TopicAway
	}
	if reason == "" {
		return "", time.Time{}, nil
	}
	return reason, g.failing, g.last
}
