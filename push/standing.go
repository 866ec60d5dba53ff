package push

// This file is what is asked about topics and phones: whether anything can be sent to them now, and why not. It is read, not told.

import (
	"errors"
	"sync"
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

	Refused map[outcome.Reason]int // phones whose last alert was refused for good, by why
}

// Topics says how each topic stands.
func (s *Sender) Topics() []TopicStanding {
	var list []TopicStanding
	refused := s.refusals.count()
	for _, g := range s.gateways {
		reason, since, f := g.standing()
		for _, a := range g.apps {
			list = append(list, TopicStanding{Topic: a.topic, Environment: a.environment, Reason: reason, Since: since, Fault: f, Refused: refused[a]})
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
		return outcome.NoTopic, time.Time{}, fault.Of(noTopic(appOf(p)))
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
	if reason == "" && !g.failing.IsZero() && time.Since(g.failing) > awayAfter {
		reason = outcome.TopicAway
	}
	if reason == "" {
		return "", time.Time{}, nil
	}
	return reason, g.failing, g.last
}

// cameBack notes what came back instead of an answer that shows that APNs does its work. It is called with mu held.
func (g *gateway) cameBackLocked(err error) {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		g.last = f
	}
}

// maxRefusals bounds the phones whose refusal is remembered; of one that is forgotten the next alert tells again.
const maxRefusals = 10_000

// refusals remembers the phones whose last alert APNs refused for good.
type refusals struct {
	mu     sync.Mutex
	phones map[subscriptions.Phone]refusal
}

type refusal struct {
	reason   outcome.Reason
	enrolled time.Time // of the phone; one that enrolled later is not concerned
}

func newRefusals() refusals { return refusals{phones: make(map[subscriptions.Phone]refusal)} }

// note takes in how a notification ended.
func (r *refusals) note(n *subscriptions.Notification, a subscriptions.Answer) {
	about := a.Reason != outcome.SendOff && a.Reason != outcome.Quarantined && a.Reason != outcome.NotSendable
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case a.Result == subscriptions.Accepted || a.Result == subscriptions.Gone:
		delete(r.phones, n.Phone)
	case a.Result == subscriptions.Refused && about:
		if _, known := r.phones[n.Phone]; !known {
			makeRoom(r.phones, maxRefusals)
		}
		r.phones[n.Phone] = refusal{a.Reason, n.Enrolled}
	}
}

// of is why the last alert of a phone was refused; empty: it was not.
func (r *refusals) of(p subscriptions.Phone, enrolled time.Time) outcome.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.phones[p]
	if !ok || enrolled.After(last.enrolled) {
		return ""
	}
	return last.reason
}

// count counts the phones by their topic and why they were refused.
func (r *refusals) count() map[app]map[outcome.Reason]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[app]map[outcome.Reason]int{}
	for p, last := range r.phones {
		a := appOf(p)
		if n[a] == nil {
			n[a] = map[outcome.Reason]int{}
		}
		n[a][last.reason]++
	}
	return n
}
