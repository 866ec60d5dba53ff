package push

// This file is the way of one notification, from the call to its answer.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/push/h2"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// holdFor is how long a notification is held in memory: long enough for APNs to restart, too short for many to gather.
	holdFor = 30 * time.Second
	// heldNext is when to come back with a notification that could not be sent while others were.
	heldNext = time.Minute
	// notHeldNext is when to come back with a notification that waited for the state for as long as one may.
	notHeldNext = 5 * time.Second
	// notConfigured is when to come back with a phone whose topic is in no apns entry: it takes a person to mend that.
	notConfigured = time.Hour
)

// retrying is the pause before a notification that is held is tried again.
var retrying = backoff.Policy{First: 50 * time.Millisecond, Max: 5 * time.Second}

// Push sends a notification to a phone and returns when it is settled, or cannot be now: when APNs or its way there is away, the
// phone got too many, or ctx ends. No attempt begins after ctx has ended.
//
// A device token that APNs calls bad is tried in the other environment, where the sender has the topic there too. Accepted there,
// the answer names that environment; else APNs is not asked about the token again for an hour or more, unless the phone enrols
// again, and what is for it is refused. Gone is answered only while few phones are.
//
// The answer is NotBefore without a time where the sender tells when it is ready (Readiness); with one in all other cases. Push
// holds the notification for half a minute at most and queues nothing: who calls it bounds how many calls are open.
func (s *Sender) Push(ctx context.Context, n *subscriptions.Notification) subscriptions.Answer {
	a := s.push(ctx, n)
	a.At = time.Now()
	s.refusals.note(n, a)
	return a
}

// push is the whole way: what may not go out now is answered at once. What may is tried until APNs has settled it, or nobody holds
// it any more.
func (s *Sender) push(ctx context.Context, n *subscriptions.Notification) subscriptions.Answer {
	if !s.begin() {
		return notBefore(outcome.Unanswered, time.Now())
	}
	defer s.calls.Done()
	d, why := s.admit(n)
	if d == nil {
		return why
	}
	defer d.leave()
	for failures := 1; ; failures++ {
		shut, recovered := d.gateway.state()
		if shut == outcome.Credentials {
			return d.notBefore(shut, time.Time{})
		}
		r := d.attempt(ctx)
		answer, settled := d.settle(r)
		if settled {
			return answer
		}
		if r.retryAfter > 0 && !r.foreign {
			recovered = nil // APNs has named a time for this phone: its answers to others change nothing
		}
		if !d.wait(ctx, retrying.Wait(failures, max(r.retryAfter, r.replacedIn)), recovered) {
			return d.giveUp(ctx, r)
		}
	}
}

// admit lets a notification in, or says why it does not go out now.
func (s *Sender) admit(n *subscriptions.Notification) (*delivery, subscriptions.Answer) {
	g := s.apps[appOf(n.Phone)]
	throttled := s.throttle.until(n.Phone)
	switch {
	case !s.send:
		return nil, refused(outcome.SendOff)
	case g == nil:
		return nil, notBefore(outcome.NoTopic, time.Now().Add(notConfigured))
	case time.Now().Before(throttled):
		return nil, notBefore(outcome.Throttled, throttled)
	case s.quarantine.holds(n):
		return nil, refused(outcome.Quarantined)
	}
	shut := g.enter()
	if shut != "" {
		return nil, notBefore(shut, time.Time{})
	}
	d := &delivery{sender: s, gateway: g, notification: n, request: requestOf(n), start: time.Now(), unknown: n.Repeat}
	d.request.yields = s.late.has(n.Phone)
	return d, subscriptions.Answer{}
}

func notBefore(reason outcome.Reason, next time.Time) subscriptions.Answer {
	return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: reason, Next: next}
}

func refused(reason outcome.Reason) subscriptions.Answer {
	return subscriptions.Answer{Result: subscriptions.Refused, Reason: reason}
}

// delivery is one notification under way.
type delivery struct {
	sender       *Sender
	gateway      *gateway                    // of the phone's environment, or of the other
	notification *subscriptions.Notification // the caller's; it is not changed
	request      request
	start        time.Time
	begun        time.Time // when the last attempt went out, after it had waited for its turn

	status      int  // of the last answer
	resent      int  // how often it was sent again while unknown
	failed      bool // an attempt came to nothing
	unknown     bool // an attempt, or one of an earlier call, was sent and not answered: APNs may have accepted it
	shrunk      bool
	reconnected bool
	moved       bool // the phone's own environment does not know its token: this is about the other
}

func (d *delivery) leave() { d.gateway.leave() }

var (
	errMayNot  = errors.New("whoever sends it says that it may not begin")
	errNotHeld = errors.New("the state is not certain to be this instance's own")
)

// allowed is asked directly before each attempt, its stream free: by then seconds may have passed since the call, or this process
// may have been stopped for longer than its lease.
func (d *delivery) allowed() error {
	if err := d.gateway.admitted(); err != nil {
		return err
	}
	if may := d.notification.May; may != nil && !may() {
		return errMayNot
	}
	if err := d.sender.held(); err != nil {
		return fmt.Errorf("%w: %w", errNotHeld, err)
	}
	d.begun = time.Now()
	return nil
}

// until is how long it is held.
func (d *delivery) until() time.Time { return d.start.Add(holdFor) }

// isOver says whether it is not held any longer.
func (d *delivery) isOver(ctx context.Context) bool {
	return ctx.Err() != nil || d.sender.life.Err() != nil || !time.Now().Before(d.until())
}

// attempt sends it once.
func (d *delivery) attempt(ctx context.Context) response {
	r := d.gateway.attempt(ctx, d.until(), &d.request, d.allowed)
	if d.unknown && r.written {
		d.resent++
		d.sender.metrics.resent.Inc()
	}
	if r.status == 0 {
		d.unknown = d.unknown || r.written
	}
	switch {
	case errors.Is(r.err, h2.ErrStalled):
		d.request.yields = true
		if r.written {
			d.sender.late.remember(d.notification.Phone)
		}
	case d.request.yields && r.status != 0 && time.Since(d.begun) < answerTimeout:
		d.sender.late.forget(d.notification.Phone)
	}
	if r.isUnanswered() && !d.isOver(ctx) && !r.isOurs() {
		d.fails(r)
	}
	return r
}

// fails notes that an attempt came to nothing.
func (d *delivery) fails(r response) {
	d.failed = true
	d.gateway.failed(r)
}

// settle reports whether what an attempt came to settles the notification, and with which answer.
func (d *delivery) settle(r response) (answer subscriptions.Answer, settled bool) {
	switch {
	case r.reason == outcome.NotSendable:
		return d.refuseUnsendable(), true
	case errors.Is(r.err, errMayNot):
		return d.notBefore(outcome.Unanswered, time.Now()), true
	case errors.Is(r.err, subscriptions.ErrFollowed):
		return d.notBefore(outcome.NotHeld, time.Now()), true
	case r.isUnanswered():
		return subscriptions.Answer{}, false
	}
	d.status = r.status
	answer, settled = d.react(r)
	if settled {
		d.sender.metrics.seconds.Observe(time.Since(d.start).Seconds())
	}
	return answer, settled
}

// wait reports whether the notification may be tried again: after a pause, or as soon as an APNs that was away has answered.
func (d *delivery) wait(ctx context.Context, pause time.Duration, recovered <-chan struct{}) bool {
	over := time.NewTimer(min(pause, time.Until(d.until())))
	defer over.Stop()
	select {
	case <-over.C:
		return !d.isOver(ctx)
	case <-recovered:
		return !d.isOver(ctx)
	case <-ctx.Done():
		return false
	case <-d.sender.closing:
		return false
	}
}

// giveUp answers for a notification that was held for as long as it may be, or that nobody waits for any more.
func (d *delivery) giveUp(caller context.Context, last response) subscriptions.Answer {
	if caller.Err() != nil || d.sender.isClosing() {
		next := time.Now()
		if d.unknown {
			next = next.Add(answerTimeout) // its answer may come until then; one that comes still later is rare, and lost
		}
		return d.notBefore(outcome.Unanswered, next)
	}
	if errors.Is(last.err, errNotHeld) {
		return d.notBefore(outcome.NotHeld, time.Now().Add(notHeldNext))
	}
	shut := d.gateway.shutIfAway() // then no other is let in to be held as long
	if shut != "" {
		return d.notBefore(shut, time.Time{})
	}
	next := heldNext
	if !last.foreign { // what answers in the place of APNs may ask for an hour, though APNs would take the alert
		next = max(next, last.retryAfter)
	}
	return d.notBefore(outcome.Unanswered, time.Now().Add(next))
}

// answer is one with all that is known of the way to it.
func (d *delivery) answer(result subscriptions.Result, reason outcome.Reason) subscriptions.Answer {
	return subscriptions.Answer{Result: result, Reason: reason, Status: d.status, Resent: d.resent}
}

// notBefore answers for a notification that is not settled.
func (d *delivery) notBefore(reason outcome.Reason, next time.Time) subscriptions.Answer {
	if d.moved && reason == outcome.Credentials {
		return d.quarantine() // as if there was no other environment, until a person mends its credential
	}
	if d.moved && next.IsZero() {
		next = time.Now().Add(heldNext) // nobody tells the phone when the other environment is ready
	}
	a := d.answer(subscriptions.NotBefore, reason)
	a.Next, a.Unknown = next, d.unknown
	return a
}
