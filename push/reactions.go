package push

// This file is what is done about each answer to a notification.

import (
	"net/http"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

// shownOfToken is how much of a device token a log line holds.
const shownOfToken = 8

// react acts on an answer of APNs and reports whether it settles the notification, and how.
func (d *delivery) react(r response) (answer subscriptions.Answer, settled bool) {
	does := d.reactionTo(r)
	switch {
	case does.works():
		d.gateway.worked(d.failed)
	case does == again || does == keepToken:
		d.fails(r)
	}
	if r.foreign {
		d.gateway.tellForeign(r)
	}
	switch does {
	case accept:
		return d.accepted(), true
	case refuse, remove, defect:
		return d.refused(does, r), true
	case elsewhere:
		return d.elsewhere(r)
	case slowDown:
		return d.notBefore(outcome.Throttled, d.sender.throttle.slowDown(d.notification.Phone, r.retryAfter)), true
	case hold:
		if d.gateway.credentialRefused(r) {
			return d.notBefore(outcome.Credentials, time.Time{}), true
		}
	case shrink:
		d.shrunk = true
		d.request.payload = d.notification.Smaller
	case reconnect:
		d.reconnected = true
	case keepToken:
		r.access.credential.keep()
	}
	return subscriptions.Answer{}, false
}

// reactionTo is what an answer asks for; where that was done in vain already, or cannot be done, what comes after it.
func (d *delivery) reactionTo(r response) reaction {
	does := r.rule().reaction
	switch {
	case does == reconnect && d.reconnected:
		return hold
	case does == renew && !r.access.credential.renew(r.bearer):
		return hold
	case does == shrink && (d.shrunk || d.notification.Smaller == nil):
		return defect
	}
	return does
}

// accepted answers for a notification that APNs has. Here the promise ends.
func (d *delivery) accepted() subscriptions.Answer {
	n := d.notification
	d.gateway.guard.note(n.Phone.Token, false)
	d.sender.throttle.forget(n.Phone)
	d.sender.quarantine.forget(n.Phone)
	a := d.answer(subscriptions.Accepted, "")
	if d.moved {
		a.Environment = appOf(n.Phone).elsewhere().environment
		d.sender.log.Warn("a device token belongs to the other environment", append(d.fields(), zap.String("environment", a.Environment))...)
	}
	return a
}

// refused answers for what APNs will never accept, and says whether the phone's enrolment is to be removed.
func (d *delivery) refused(does reaction, r response) subscriptions.Answer {
	if d.moved {
		return d.quarantine()
	}
	n := d.notification
	mass := d.gateway.guarded(n.Phone.Token, r, does != defect)
	a := d.answer(subscriptions.Refused, r.why())
	switch {
	case does != remove:
	case !n.Enrolled.Before(r.gone):
		// APNs found the token gone then. A phone that enrolled with it since, or in that second, has it back, so it stays; APNs
		// tells a later time when it is gone again.
		a.Reason = outcome.Stale
	case mass:
		a.Reason = outcome.RemovalHeld
		d.sender.metrics.removals.Inc()
	default:
		a.Result = subscriptions.Gone
	}
	d.logRefused(a)
	return a
}

// refuseUnsendable answers for what is no notification.
func (d *delivery) refuseUnsendable() subscriptions.Answer {
	a := d.answer(subscriptions.Refused, outcome.NotSendable)
	d.sender.log.Error("an alert cannot be sent", append(d.fields(), because(a.Reason)...)...)
	return a
}

// elsewhere goes on in the other environment, or settles the notification. A refusal there does not count for that gateway's guard:
// what one environment has wrong is not held against the phones of the other.
func (d *delivery) elsewhere(r response) (answer subscriptions.Answer, settled bool) {
	if d.moved {
		return d.quarantine(), true
	}
	n := d.notification
	d.gateway.guarded(n.Phone.Token, r, true)
	other := d.sender.apps[appOf(n.Phone).elsewhere()]
	if other == nil || other == d.gateway {
		return d.quarantine(), true
	}
	d.moved = true
	shut := other.enter()
	if shut != "" {
		return d.notBefore(shut, time.Time{}), true
	}
	d.gateway.leave()
	d.gateway = other
	d.failed, d.unknown, d.reconnected = false, false, false // where the token is not known, no attempt can have been accepted
	return subscriptions.Answer{}, false
}

// quarantine answers for a phone whose token APNs accepts nowhere. It stays enrolled, whatever the other environment said.
func (d *delivery) quarantine() subscriptions.Answer {
	until := d.sender.quarantine.begin(d.notification)
	a := d.answer(subscriptions.Refused, apns2.ReasonBadDeviceToken)
	a.Status = http.StatusBadRequest
	d.logRefused(a, zap.Time("not_asked_before", until))
	return a
}

func (d *delivery) logRefused(a subscriptions.Answer, more ...zap.Field) {
	fields := slices.Concat(d.fields(), []zap.Field{zap.Int("status", a.Status)}, because(a.Reason), more)
	d.sender.log.Warn("APNs refused an alert", fields...)
}

// because tells a reason in the log.
func because(r outcome.Reason) []zap.Field {
	return []zap.Field{zap.String("reason", string(r)), zap.String("because", r.Sentence())}
}

// fields tell in the log whom it is about.
func (d *delivery) fields() []zap.Field {
	n := d.notification
	return []zap.Field{zap.String("device", n.Device), zap.String("token", n.Phone.Token[:min(len(n.Phone.Token), shownOfToken)]),
		zap.String("topic", n.Phone.Topic)}
}
