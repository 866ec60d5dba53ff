package check

// All steps of an alert, for one mailbox and one device, with the calls of the service. The command line and the API use this code. It changes
// nothing: it ends its subscription, leaves the message unread, and the answer of APNs is reported and has no other consequence.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// The steps, in their order.
const (
	StepEnrolment     = "enrolment"     // the device is enrolled, for this mailbox
	StepLocation      = "location"      // where the mailbox is, and by which account it is listened to
	StepCredential    = "credential"    // a token, where the account needs one
	StepSignIn        = "sign_in"       // the server lets the account in
	StepImpersonation = "impersonation" // and lets it act as the mailbox
	StepSubscription  = "subscription"  // a subscription
	StepStream        = "stream"        // a stream with it, up to its first envelope; then the subscription is given back
	StepCallback      = "callback"      // or, of an entry that listens by push: the first callback
	StepRead          = "read"          // a listing of one message, and that message
	StepDecide        = "decide"        // the alert that is to be sent
	StepAPNs          = "apns"          // APNs accepts it
)

// Steps lists them: of an entry that listens by push, callback stands where stream stands for the others.
func Steps() []string {
	return []string{StepEnrolment, StepLocation, StepCredential, StepSignIn, StepImpersonation, StepSubscription, StepStream, StepCallback, StepRead, StepDecide, StepAPNs}
}

// The bounds of a walk through the steps. The API has to answer within a minute.
const (
	wayTimeout    = 45 * time.Second // all steps
	giveBackAfter = 5 * time.Second  // to give the subscription back, also where the way's own time is over
	// envelopeWithin is how long the first envelope of a stream may take: Exchange writes it at once, and a gateway that buffers keeps it
	// for minutes.
	envelopeWithin = 10 * time.Second
	// callbackWithin is how long the first callback of a push subscription may take: Exchange posts at once, and again after 30 s only.
	callbackWithin = 10 * time.Second
)

// Exchange makes the calls of a listener account for a mailbox at its location, as the service does. Its errors are *fault.Error.
type Exchange interface {
	// Look opens the Inbox. Without a primary address it is the account's own.
	Look(ctx context.Context, at mail.Location) error
	// Subscribe subscribes; the first of a group notes in its affinity where the server wants the others.
	Subscribe(ctx context.Context, at mail.Location, a *Affinity) (id string, err error)
	Unsubscribe(ctx context.Context, at mail.Location, a Affinity, id string) error
	// Stream opens a stream of subscriptions as the mailbox at this location, waits for its first envelope, and closes it.
	Stream(ctx context.Context, at mail.Location, a Affinity, ids []string) error
	// Newest returns the item id of the newest message; empty if the Inbox has none.
	Newest(ctx context.Context, at mail.Location) (item string, err error)
	Read(ctx context.Context, at mail.Location, item string) error
}

// Pusher makes the calls of a listener account that listens by push, or by Microsoft Graph.
type Pusher interface {
	// SubscribePush makes a push subscription. That of Graph has called already when it is made.
	SubscribePush(ctx context.Context, at mail.Location) (Called, error)
}

// Called waits so long for the first callback of a push subscription, and ends it. Its error says at which URL none came.
type Called func(ctx context.Context, within time.Duration) error

// Affinity keeps the subscriptions of a stream on one mailbox server.
type Affinity struct {
	Anchor string // the mailbox that leads there
	Cookie string // that its answer brought
}

// Route is the location of a mailbox, and the account that reaches it.
type Route struct {
	Account  Account
	Location mail.Location
	Online   bool // Exchange Online, which has other errors than Exchange on premises
}

// Enrolments looks devices up; *subscriptions.Book is one.
type Enrolments interface {
	Device(id string) (subscriptions.Device, bool)
}

// Tester sends a test to a device, even if it holds other alerts back; *push.Sender is one. Its error is a *fault.Error that says why the test
// was not accepted; the answer then still has what APNs answered.
type Tester interface {
	Test(ctx context.Context, n subscriptions.Notification) (subscriptions.Answer, error)
}

// Way is what the steps need.
type Way struct {
	Enrolments Enrolments
	// Locate returns the location and account that a mailbox would get now, and changes nothing. exchange chooses the entry; empty: any.
	Locate func(ctx context.Context, address, exchange string) (Route, error)
	Push   Tester
	// Beside returns another mailbox that shares a stream with the one of this route, if one is known; nil: none is.
	Beside func(ctx context.Context, r Route) (mail.Location, bool)
	// After is called with each step when it was tried; nil: nobody watches.
	After func(Step)
}

// Step is one step that was tried.
type Step struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	MS     int64  `json:"ms"`
	Error  string `json:"error,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// Report has the steps that were tried. Only the last one can have failed.
type Report struct {
	OK    bool   `json:"ok"`
	Steps []Step `json:"steps"`
}

// Walk tries the steps for a device, to an alert on it. It ends with the first step that fails.
func (w Way) Walk(ctx context.Context, device string) Report {
	ctx, cancel := context.WithTimeout(ctx, wayTimeout)
	defer cancel()
	r := &walk{ctx: ctx, way: w}
	var d subscriptions.Device
	if !r.step(StepEnrolment, func() error {
		enrolled, ok := w.Enrolments.Device(device)
		if !ok {
			return ErrNotEnrolled
		}
		d = enrolled
		return nil
	}) {
		return r.report
	}
	if !r.locate(d.Mailbox, d.Exchange) || !r.step(StepCredential, func() error { return prepare(ctx, r.at.Account.Credential) }) || !r.open() {
		return r.report
	}
	var n subscriptions.Notification
	r.report.OK = r.step(StepDecide, func() error {
		n = testOf(&d)
		return nil
	}) && r.step(StepAPNs, func() error {
		_, err := w.Push.Test(ctx, n)
		return err
	})
	return r.report
}

// testExpires is how long APNs keeps a test for a phone that is off: short, because whoever asked for it is looking at the phone.
const testExpires = 10 * time.Minute

// testOf is a test notification for a device. A later one replaces it on the screen.
func testOf(d *subscriptions.Device) subscriptions.Notification {
	var key mail.Key
	copy(key[:], "test")
	n := subscriptions.Notification{
		Device: d.ID, Phone: d.Phone(), Enrolled: d.Enrolled, CollapseID: key.String(), Expires: time.Now().Add(testExpires),
		Payload: alerts.Payload(alerts.Alert{Test: true, Device: d.ID}, alerts.Generic),
	}
	rand.Read(n.PushID[:])
	n.PushID[6] = n.PushID[6]&0x0f | 0x40 // version and variant of RFC 9562: a random id
	n.PushID[8] = n.PushID[8]&0x3f | 0x80
	return n
}

// ErrNotEnrolled says that a device is unknown.
var ErrNotEnrolled = &fault.Error{Op: "enrolment", Code: "not_enrolled", Scope: fault.Mailbox, Remedy: fault.Fix,
	Text: "no device is enrolled with this id"}

// walk is one walk through the steps.
type walk struct {
	ctx    context.Context // of the call
	way    Way
	at     Route
	after  func(step string, took time.Duration, err error) // called after each step; may be nil
	report Report
}

// step tries one step, and returns whether it succeeded.
func (w *walk) step(name string, try func() error) bool {
	began := time.Now()
	err := w.ctx.Err()
	if err == nil {
		err = try()
	}
	w.tell(name, time.Since(began), err)
	return err == nil || doubtful(err)
}

// doubtful reports whether an error is a warning: what was tried works.
func doubtful(err error) bool {
	_, ok := errors.AsType[doubt](err)
	return ok
}

// tell notes the result of a step.
func (w *walk) tell(name string, took time.Duration, err error) {
	s := Step{Name: name, OK: err == nil || doubtful(err), MS: took.Milliseconds()}
	if why, ok := errors.AsType[omitted](err); ok {
		s.OK, s.Advice = true, string(why)
	} else if err != nil {
		s.Error, s.Advice = err.Error(), Advise(err, w.circumstances(name)).Do
		if errors.Is(err, context.DeadlineExceeded) && w.ctx.Err() != nil {
			s.Error = fmt.Sprintf("the steps took longer than %s: %s", wayTimeout, s.Error)
		}
	}
	w.report.Steps = append(w.report.Steps, s)
	if w.way.After != nil {
		w.way.After(s)
	}
	if w.after != nil {
		w.after(name, took, err)
	}
}

func (w *walk) circumstances(step string) Circumstances {
	return Circumstances{Step: step, Online: w.at.Online, Method: w.at.Account.Method}
}

// locate finds the location of the mailbox.
func (w *walk) locate(address, exchange string) bool {
	return w.step(StepLocation, func() (err error) {
		w.at, err = w.way.Locate(w.ctx, address, exchange)
		return err
	})
}

// open signs in, and tries what listening to the mailbox needs.
func (w *walk) open() bool {
	x, at := w.at.Account.Exchange, w.at.Location
	return w.signIn(x, at) &&
		w.listen(x, at) &&
		w.step(StepRead, func() error { return read(w.ctx, x, at) })
}

// signIn tries sign_in and impersonation by one call: EWS itself answers only after the server has accepted the sign-in.
func (w *walk) signIn(x Exchange, at mail.Location) bool {
	began := time.Now()
	err := x.Look(w.ctx, at)
	took := time.Since(began)
	if err != nil && !answered(err) {
		w.tell(StepSignIn, took, err)
		return false
	}
	w.tell(StepSignIn, took, nil)
	w.tell(StepImpersonation, 0, err)
	return err == nil
}

// answered reports whether an error is an answer of EWS or Graph itself, which means that the sign-in was accepted.
func answered(err error) bool {
	f := fault.Of(err)
	if f.Peer == fault.Graph {
		return f.Status != 0 && f.Status != http.StatusUnauthorized
	}
	return strings.HasPrefix(f.Code, "Error")
}

func prepare(ctx context.Context, c auth.Credential) error { return c.Prepare(ctx) }

// CodeNoEnvelope is the fault.Error.Code of a stream that is open and on which nothing arrives.
const CodeNoEnvelope = "no envelope"

// codeUnreached is the code of a push subscription whose callbacks do not come (package callbacks).
const codeUnreached = "no callback"

// codeOneEach is the code of a server that accepts no second mailbox on a stream.
const codeOneEach = "one mailbox a stream"

// calledBack subscribes by push, as the service does, and waits for the first callback. Where Graph lets the app read, and not subscribe, the
// mailbox is polled.
func (w *walk) calledBack(p Pusher, at mail.Location) bool {
	var called Called
	return w.step(StepSubscription, func() (err error) {
		called, err = p.SubscribePush(w.ctx, at)
		if err != nil && fault.Of(err).Code == graph.CodeDenied {
			return doubt{err}
		}
		return err
	}) && (called == nil || w.step(StepCallback, func() error { return called(w.ctx, callbackWithin) }))
}

// listen subscribes and opens a stream, as the service does, with two mailboxes if a second one is known. It ends its subscriptions.
func (w *walk) listen(x Exchange, at mail.Location) bool {
	switch a := w.at.Account; {
	case a.NoCallbacks != "":
		w.tell(StepCallback, 0, omitted(a.NoCallbacks))
		return true
	case a.Pusher != nil:
		return w.calledBack(a.Pusher, at)
	}
	id, group := "", Affinity{Anchor: at.Primary}
	if !w.step(StepSubscription, func() (err error) {
		id, err = x.Subscribe(w.ctx, at, &group)
		return err
	}) {
		return false
	}
	ids := []string{id}
	defer func() { giveBack(w.ctx, x, at, group, id) }()
	if w.way.Beside != nil {
		if other, ok := w.way.Beside(w.ctx, w.at); ok {
			if second, err := x.Subscribe(w.ctx, other, &group); err == nil { // what is wrong with the other mailbox is its own matter
				ids = append(ids, second)
				defer func() { giveBack(w.ctx, x, other, group, second) }()
			}
		}
	}
	return w.step(StepStream, func() error { return stream(w.ctx, x, at, group, ids) })
}

func giveBack(ctx context.Context, x Exchange, at mail.Location, group Affinity, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackAfter)
	defer cancel()
	_ = x.Unsubscribe(ctx, at, group, id) // else it expires by itself, within half an hour
}

// stream opens a stream of one or two mailboxes and waits for its first envelope.
func stream(ctx context.Context, x Exchange, at mail.Location, group Affinity, ids []string) error {
	err := envelope(ctx, x, at, group, ids)
	if err == nil || len(ids) == 1 || ctx.Err() != nil {
		return err
	}
	alone := envelope(ctx, x, at, group, ids[:1])
	if alone != nil {
		return err
	}
	return doubt{&fault.Error{Op: "GetStreamingEvents", Code: codeOneEach, Scope: fault.Group, Remedy: fault.Fix, Err: err,
		Text: "the stream opens with one mailbox, and not with two", Evidence: fault.Evidence{Peer: fault.Exchange}}}
}

func envelope(ctx context.Context, x Exchange, at mail.Location, group Affinity, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, envelopeWithin)
	defer cancel()
	err := x.Stream(ctx, at, group, ids)
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		return &fault.Error{Op: "GetStreamingEvents", Code: CodeNoEnvelope, Scope: fault.Group, Remedy: fault.Fix, Err: err,
			Text: fmt.Sprintf("the stream was opened, and nothing came on it within %s", envelopeWithin), Evidence: fault.Evidence{Peer: fault.Exchange}}
	}
	return err
}

// read lists one message and reads it, if there is one. It keeps nothing of it.
func read(ctx context.Context, x Exchange, at mail.Location) error {
	item, err := x.Newest(ctx, at)
	if err != nil || item == "" {
		return err
	}
	err = x.Read(ctx, at, item)
	if err != nil && fault.Of(err).Scope <= fault.Message { // a message that was moved or cannot be read does not mean that the mailbox cannot be read
		return nil
	}
	return err
}
