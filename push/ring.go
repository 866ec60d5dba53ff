package push

// This file is one alert, from the call to its settlement.

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

const (
	// holdFor is how long an alert is held in memory: long enough for APNs to restart, too short for many to gather.
	holdFor = 30 * time.Second
	// expiresAfter is how long APNs keeps an alert for a phone that is off. Mail older than a day rings nowhere (rule 8 of the log).
	expiresAfter = 24 * time.Hour
	// retryBase, times retryFactor, up to retryMax: the pauses before an alert is tried again.
	retryBase   = 50 * time.Millisecond
	retryFactor = 4
	retryMax    = 5 * time.Second
	// heldNext is when to come back with an alert that could not be rung while others were.
	heldNext = time.Minute
	// shownOfToken is how much of a device token a log line holds.
	shownOfToken = 8
	// notConfigured is when to come back with a device whose topic is in no apns entry: it takes a person to mend that.
	notConfigured = time.Hour
)

// The named reasons of answers that are not words of APNs. Those of a gateway that is shut are beside it.
const (
	reasonSendOff    = "send_off"     // the configuration says that nothing is sent
	reasonNoTopic    = "no_topic"     // no apns entry for the device's topic and environment
	reasonUnanswered = "unanswered"   // no answer while the alert was held, or while the caller waited
	reasonThrottled  = "throttled"    // the device was rung too often
	reasonStale      = "stale_410"    // APNs knows the token as gone from before the device enrolled again with it
	reasonUnsendable = "not_sendable" // no request could be made of it
	reasonQuarantine = "quarantined"  // APNs takes the device's token in no environment, and is not asked again yet
	reasonHeld       = "removal_held" // APNs says that the device is gone, as it says of many others: it stays
)

// Ring sends an alert to a device and returns when it is settled, or cannot be now: when APNs or its way there is away, the device
// was rung too often, or ctx ends. No attempt begins after ctx has ended.
//
// A device token that APNs calls bad is tried in the other environment, where the sender has the topic there too. Accepted there,
// the answer names that environment; else APNs is not asked about the token again for an hour or more, unless the device enrols
// again, and its alerts are refused. Gone is answered only while few devices are.
//
// The answer is NotBefore without a time where the sender tells when it is ready (Readiness); with one in all other cases. Ring
// holds the alert for half a minute at most and queues nothing: who calls it bounds how many calls are open.
func (s *Sender) Ring(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer {
	a := s.ring(ctx, d, b)
	a.At = time.Now()
	return a
}

func (s *Sender) ring(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer {
	if !s.begin() {
		return notBefore(reasonUnanswered, time.Now())
	}
	defer s.rings.Done()
	if !s.send {
		return subscriptions.Answer{Result: subscriptions.Refused, Reason: reasonSendOff}
	}
	g := s.topics[name{d.Topic, d.Environment}]
	if g == nil {
		return notBefore(reasonNoTopic, time.Now().Add(notConfigured))
	}
	if until := s.throttle.until(d.ID); time.Now().Before(until) {
		return notBefore(reasonThrottled, until)
	}
	if s.bad.holds(d) {
		return subscriptions.Answer{Result: subscriptions.Refused, Reason: reasonQuarantine}
	}
	if refused := g.enter(); refused != "" {
		return notBefore(refused, time.Time{})
	}
	r := ring{sender: s, gateway: g, device: d, bell: b, start: time.Now()}
	defer func() { r.gateway.leave() }() // the one that it is at then
	n, err := s.notification(d, b, s.content)
	if err != nil {
		s.log.Error("an alert cannot be built", zap.String("device", d.ID), zap.Error(err))
		return subscriptions.Answer{Result: subscriptions.Refused, Reason: reasonUnsendable}
	}
	r.notification, r.answer.PushID = n, n.ApnsID
	return r.run(ctx)
}

// begin counts a call, unless the sender is closing.
func (s *Sender) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return false
	}
	s.rings.Add(1)
	return true
}

func notBefore(reason string, next time.Time) subscriptions.Answer {
	return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: reason, Next: next}
}

// notification makes what is sent. Its ids are the same whenever the same alert is sent again.
func (s *Sender) notification(d subscriptions.Device, b subscriptions.Bell, content alerts.Content) (*apns2.Notification, error) {
	alert := alerts.Alert{Message: b.Message, Keys: b.Keys, Summary: b.Summary, Device: d.ID, Source: alerts.EWS}
	if b.Message != nil && b.Message.Thread != "" {
		alert.Thread = s.thread(b.Record, b.Message.Thread)
	}
	payload, err := alerts.Payload(alert, content)
	if err != nil {
		return nil, err
	}
	key := b.Keys[0]
	var id [16]byte
	if b.Summary {
		key = s.secret.SummaryKey(b.Record)
		// Each summary is another push, though they share their place on the screen.
		id = s.secret.PushID(key, d.ID, b.Keys[0].String(), strconv.Itoa(len(b.Keys)))
	} else {
		id = s.secret.PushID(key, d.ID)
	}
	return &apns2.Notification{ApnsID: uuid(id), CollapseID: key.String(), DeviceToken: d.Token, Topic: d.Topic,
		Expiration: time.Now().Add(expiresAfter), Priority: apns2.PriorityHigh, PushType: apns2.PushTypeAlert, Payload: payload}, nil
}

// thread is the thread-id of a conversation: it groups alerts on the phone and tells nothing else.
func (s *Sender) thread(record, conversation string) string {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write([]byte("thread\x00" + record + "\x00" + conversation))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// uuid writes an id in the canonical form of RFC 9562.
func uuid(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ring is one alert under way.
type ring struct {
	sender       *Sender
	gateway      *gateway // of the device's environment, or of the other
	device       subscriptions.Device
	bell         subscriptions.Bell
	notification *apns2.Notification
	start        time.Time // for the histogram
	answer       subscriptions.Answer
	unknown      bool // an attempt was sent and not answered: APNs may have taken the alert
	shrunk       bool
	reconnected  bool
	moved        bool // the device's own environment does not know its token: this is about the other
}

// run tries until the alert is settled, or was held for too long.
func (r *ring) run(ctx context.Context) subscriptions.Answer {
	held, cancel := context.WithTimeout(ctx, holdFor)
	defer cancel()
	defer context.AfterFunc(r.sender.life, cancel)() //nolint:contextcheck // the sender's life bounds the alert as well as the caller's ctx does
	for pause := retryBase; ; pause = min(pause*retryFactor, retryMax) {
		shut, recovered := r.gateway.state()
		if shut == reasonCredentials {
			return r.notBefore(shut, time.Time{})
		}
		repeat := r.unknown
		out := r.gateway.attempt(held, r.notification, r.gateway.admitted)
		if repeat && out.written {
			r.answer.Resent++
			r.sender.metrics.resent.Inc()
		}
		wait := pause/2 + rand.N(pause)
		if out.status == 0 {
			r.unknown = r.unknown || out.written
			if held.Err() == nil {
				r.gateway.failed()
			}
		} else {
			r.answer.Status = out.status
			if r.settle(out) {
				r.sender.metrics.seconds.Observe(time.Since(r.start).Seconds())
				return r.answer
			}
			wait = max(wait, out.retryAfter)
		}
		select {
		case <-time.After(wait):
		case <-recovered:
		case <-held.Done():
			return r.giveUp(ctx)
		case <-r.sender.closing:
			return r.giveUp(ctx)
		}
	}
}

// settle acts on an answer and reports whether the alert is settled.
func (r *ring) settle(out outcome) bool {
	m := meaningOf(out.status, out.reason)
	r.answer.Reason = label(out.reason)
	does := m.does
	switch {
	case does == reconnect && r.reconnected, does == renew && !out.access.credential.renew(out.bearer):
		does = hold
	case does == shrink && r.shrunk:
		does, m.result = finish, subscriptions.Refused
	}
	switch does {
	case finish:
		r.gateway.worked()
		r.finish(m, out)
		return true
	case slowDown:
		r.gateway.worked()
		r.notBefore(reasonThrottled, r.sender.throttle.slowDown(r.device.ID))
		return true
	case hold:
		if r.gateway.close(out.access, m.text) {
			r.notBefore(reasonCredentials, time.Time{})
			return true
		}
	case shrink:
		r.gateway.worked()
		r.shrunk = true
		if n, err := r.sender.notification(r.device, r.bell, alerts.Generic); err == nil {
			r.notification = n
		}
	case keepToken:
		out.access.credential.keep()
		r.gateway.failed()
	case reconnect:
		r.reconnected = true
	case again:
		r.gateway.failed()
	case elsewhere:
		r.gateway.worked()
		return r.elsewhere(m)
	}
	return false
}

// elsewhere goes on in the other environment, or settles the alert; it reports whether it is settled. A refusal there does not
// count for that gateway's guard: what one environment has wrong is not held against the devices of the other.
func (r *ring) elsewhere(m meaning) bool {
	if r.moved {
		r.quarantine()
		return true
	}
	r.gateway.guarded(r.device.Token, m, true)
	other := r.sender.topics[name{r.device.Topic, r.device.Environment}.elsewhere()]
	if other == nil || other == r.gateway {
		r.quarantine()
		return true
	}
	r.moved = true
	if shut := other.enter(); shut != "" {
		r.notBefore(shut, time.Time{})
		return true
	}
	r.gateway.leave()
	r.gateway, r.unknown, r.reconnected = other, false, false // nothing is unknown: an attempt whose answer was lost cannot have rung
	return false
}

// quarantine settles an alert whose token APNs takes nowhere. The device stays enrolled, whatever the other environment said.
func (r *ring) quarantine() subscriptions.Answer {
	until := r.sender.bad.begin(r.device)
	r.answer.Result, r.answer.Reason, r.answer.Status = subscriptions.Refused, apns2.ReasonBadDeviceToken, http.StatusBadRequest
	r.refused(config, zap.Time("not_asked_before", until))
	return r.answer
}

// finish fills the answer with a final result.
func (r *ring) finish(m meaning, out outcome) {
	accepted := m.result == subscriptions.Accepted
	if r.moved && !accepted {
		r.quarantine()
		return
	}
	mass := r.gateway.guarded(r.device.Token, m, m.concerns == aDevice && !accepted)
	r.answer.Result = m.result
	switch {
	case accepted:
		r.answer.Reason = ""
		r.sender.throttle.passed(r.device.ID)
		r.sender.bad.passed(r.device)
		if r.moved {
			r.answer.Environment = name{r.device.Topic, r.device.Environment}.elsewhere().environment
			r.sender.log.Warn("a device token belongs to the other environment", append(r.fields(), zap.String("environment", r.answer.Environment))...)
		}
		return
	case m.result == subscriptions.Gone && !r.device.Enrolled.Before(out.timestamp):
		// APNs knows the token as gone since then. A device that enrolled with it later has it back, so it stays; APNs
		// tells a later time when it is gone again.
		r.answer.Result, r.answer.Reason = subscriptions.Refused, reasonStale
	case m.result == subscriptions.Gone && mass:
		r.answer.Result, r.answer.Reason = subscriptions.Refused, reasonHeld
		r.sender.metrics.removals.Inc()
	}
	r.refused(m.text)
}

// refused logs an answer that is final.
func (r *ring) refused(because string, more ...zap.Field) {
	fields := append(r.fields(), zap.Int("status", r.answer.Status), zap.String("reason", r.answer.Reason), zap.String("because", because))
	r.sender.log.Warn("APNs refused an alert", append(fields, more...)...)
}

// fields tell in the log whom it is about.
func (r *ring) fields() []zap.Field {
	return []zap.Field{zap.String("device", r.device.ID), zap.String("token", r.device.Token[:min(len(r.device.Token), shownOfToken)]),
		zap.String("topic", r.device.Topic)}
}

// notBefore fills the answer of an alert that is not settled.
func (r *ring) notBefore(reason string, next time.Time) subscriptions.Answer {
	if r.moved && reason == reasonCredentials {
		return r.quarantine() // there is no other environment, until a person mends it
	}
	if r.moved && next.IsZero() {
		next = time.Now().Add(heldNext) // nobody tells the device when the other environment is ready
	}
	r.answer.Result, r.answer.Reason, r.answer.Next = subscriptions.NotBefore, reason, next
	return r.answer
}

// giveUp answers for an alert that was held for as long as it may be, or that nobody waits for any more.
func (r *ring) giveUp(caller context.Context) subscriptions.Answer {
	next := time.Now()
	if caller.Err() == nil && !r.sender.isClosing() {
		if shut := r.gateway.giveUp(); shut != "" {
			return r.notBefore(shut, time.Time{})
		}
		next = next.Add(heldNext)
	} else if r.unknown {
		next = next.Add(answerTimeout) // until then the answer may come
	}
	return r.notBefore(reasonUnanswered, next)
}
