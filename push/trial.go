package push

// This file is what an administrator asks of APNs: a test notification on one phone, and whether a credential is accepted. Both use
// the same connections as alerts and change nothing: nobody is held, throttled, quarantined or removed for their answers.

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// Test sends a test notification to a phone, also while alerts are held back from it or from all. The answer tells what APNs said;
// where it was not accepted the error, a *fault.Error, says why. A token that the phone's environment does not know is tried in the
// other, as Push does it.
func (s *Sender) Test(ctx context.Context, n subscriptions.Notification) (subscriptions.Answer, error) {
	a, err := s.test(ctx, n)
	a.At = time.Now()
	return a, err
}

func (s *Sender) test(ctx context.Context, n subscriptions.Notification) (subscriptions.Answer, error) {
	if !s.begin() {
		return notBefore(outcome.Unanswered, time.Now()), response{err: errClosed}.fault()
	}
	defer s.calls.Done()
	here := appOf(n.Phone)
	g := s.apps[here]
	switch {
	case !s.send:
		return refused(outcome.SendOff), &fault.Error{Op: "APNs", Code: string(outcome.SendOff), Scope: fault.Server, Remedy: fault.Fix,
			Text: outcome.SendOff.Sentence()}
	case g == nil:
		return notBefore(outcome.NoTopic, time.Now().Add(notConfigured)), noTopic(here)
	}
	request := requestOf(&n)
	r := s.ask(ctx, g, &request)
	environment := ""
	other := s.apps[here.elsewhere()]
	if r.reason == apns2.ReasonBadDeviceToken && other != nil && other != g {
		there := s.ask(ctx, other, &request)
		if there.fault() == nil {
			r, environment = there, here.elsewhere().environment
		}
	}
	a := r.testAnswer()
	a.Environment = environment
	return a, r.fault()
}

// testAnswer is a response to somebody who tries once and acts on nothing.
func (r response) testAnswer() subscriptions.Answer {
	switch {
	case r.foreign || r.isUnanswered():
		a := notBefore(outcome.Unanswered, time.Now())
		a.Status = r.status
		return a
	case r.status == http.StatusOK:
		return subscriptions.Answer{Result: subscriptions.Accepted, Status: r.status}
	}
	return subscriptions.Answer{Result: subscriptions.Refused, Reason: r.why(), Status: r.status}
}

// Probe asks APNs whether it accepts the credential of a topic; nil: it does. No phone is asked for. Its error is a *fault.Error.
func (s *Sender) Probe(ctx context.Context, topic, environment string) error {
	if !s.begin() {
		return response{err: errClosed}.fault()
	}
	defer s.calls.Done()
	g := s.apps[app{topic, environment}]
	if g == nil {
		return noTopic(app{topic, environment})
	}
	return s.ask(ctx, g, probeOf(topic)).refusal()
}

// ask asks once, and a second time where a new provider token or a new connection may bring another answer.
func (s *Sender) ask(ctx context.Context, g *gateway, n *request) response {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)() //nolint:contextcheck // the sender's life bounds the question as well as the caller's ctx does
	a := g.access.Load()
	r := a.ask(ctx, n)
	does := r.rule().reaction
	if does == reconnect || does == renew && a.credential.renew(r.bearer) || errors.Is(r.err, errLeft) {
		r = g.access.Load().ask(ctx, n)
	}
	return r
}

func noTopic(a app) *fault.Error {
	return &fault.Error{Op: "APNs", Code: string(outcome.NoTopic), Scope: fault.Message, Remedy: fault.Fix,
		Text: "no apns entry of the configuration has the topic " + a.topic + " in the environment " + a.environment}
}
