package push

// This file is what an administrator asks of APNs: a test notification on one device, and whether a credential is taken. Both go
// by the connections of all alerts and move nothing: nobody is held, throttled, quarantined or removed for their answers.

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// testExpires is how long APNs keeps a test for a phone that is off: whoever asked for it is looking at the phone.
const testExpires = 10 * time.Minute

// Test sends a test notification to a device, also while alerts are held back from it or from all. The answer tells what APNs
// said, its status, reason and apns-id; where it was not accepted the error, a *fault.Error, says why. A token that the device's environment does
// not know is tried in the other, as an alert is.
func (s *Sender) Test(ctx context.Context, d subscriptions.Device, payload []byte) (subscriptions.Answer, error) {
	if !s.begin() {
		return notBefore(reasonUnanswered, time.Now()), outcome{err: errClosed}.fault()
	}
	defer s.rings.Done()
	if !s.send {
		return subscriptions.Answer{Result: subscriptions.Refused, Reason: reasonSendOff}, &fault.Error{Op: "APNs", Code: reasonSendOff, Scope: fault.Server,
			Remedy: fault.Fix, Text: "the configuration says that nothing is sent (alerts.send: false)"}
	}
	own := name{d.Topic, d.Environment}
	g := s.topics[own]
	if g == nil {
		return notBefore(reasonNoTopic, time.Now().Add(notConfigured)), noTopic(own)
	}
	n := &apns2.Notification{ApnsID: newID(), CollapseID: uuid(s.secret.PushID(mail.Key{}, d.ID, "test")), DeviceToken: d.Token, Topic: d.Topic,
		Expiration: time.Now().Add(testExpires), Priority: apns2.PriorityHigh, PushType: apns2.PushTypeAlert, Payload: payload}
	out := s.ask(ctx, g, n)
	a := subscriptions.Answer{PushID: n.ApnsID}
	if other := s.topics[own.elsewhere()]; out.reason == apns2.ReasonBadDeviceToken && other != nil && other != g {
		if there := s.ask(ctx, other, n); there.fault() == nil {
			out, a.Environment = there, own.elsewhere().environment
		}
	}
	a.Status, a.At = out.status, time.Now()
	err := out.fault()
	if err == nil {
		a.Result = subscriptions.Accepted
		return a, nil
	}
	a.Result, a.Reason = subscriptions.Refused, label(out.reason)
	if out.status == 0 {
		a.Result, a.Reason = subscriptions.NotBefore, reasonUnanswered
	}
	return a, err
}

// Probe asks APNs whether it takes the credential of a topic; nil: it does. Nothing is rung. Its error is a *fault.Error.
func (s *Sender) Probe(ctx context.Context, topic, environment string) error {
	if !s.begin() {
		return outcome{err: errClosed}.fault()
	}
	defer s.rings.Done()
	g := s.topics[name{topic, environment}]
	if g == nil {
		return noTopic(name{topic, environment})
	}
	return s.ask(ctx, g, probeOf(topic)).refusal()
}

// ask asks once, and a second time where a new provider token or a new connection may bring another answer.
func (s *Sender) ask(ctx context.Context, g *gateway, n *apns2.Notification) outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)() //nolint:contextcheck // the sender's life bounds the question as well as the caller's ctx does
	a := g.access.Load()
	out := a.ask(ctx, n)
	does := meaningOf(out.status, out.reason).does
	if does == reconnect || does == renew && a.credential.renew(out.bearer) || errors.Is(out.err, errLeft) {
		out = g.access.Load().ask(ctx, n)
	}
	return out
}

func noTopic(n name) error {
	return &fault.Error{Op: "APNs", Code: reasonNoTopic, Scope: fault.Message, Remedy: fault.Fix,
		Text: "no apns entry of the configuration has the topic " + n.topic + " in the environment " + n.environment}
}

// newID makes an apns-id that no other push has (RFC 9562, version 4).
func newID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return uuid(id)
}
