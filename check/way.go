package check

// This file is the whole way of one alert: for one mailbox and one device, step by step, as it really goes. The command line and
// the API walk it with the same code. It moves nothing: what it subscribes it gives back, what it reads stays unread, and what
// APNs says of the test is told and has no consequence.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// The steps of the way, in their order.
const (
	StepEnrolment     = "enrolment"     // the device is enrolled, for this mailbox
	StepLocation      = "location"      // where the mailbox lives, and by which account it is listened to
	StepCredential    = "credential"    // a token, where the account needs one
	StepSignIn        = "sign_in"       // the server lets the account in
	StepImpersonation = "impersonation" // and lets it act as the mailbox
	StepSubscription  = "subscription"  // a subscription, given back at once
	StepRead          = "read"          // a listing of one message, and that message
	StepDecide        = "decide"        // the alert that is to be sent
	StepAPNs          = "apns"          // APNs accepts it
)

// Steps lists them.
func Steps() []string {
	return []string{StepEnrolment, StepLocation, StepCredential, StepSignIn, StepImpersonation, StepSubscription, StepRead, StepDecide, StepAPNs}
}

// The bounds of a walk. An answer of the API has to be there within a minute.
const (
	wayTimeout    = 45 * time.Second // the whole way
	giveBackAfter = 5 * time.Second  // to give the subscription back, also where the way's own time is over
)

// Exchange is what a listener account does with a mailbox at its location, as the service does it. Its errors are *fault.Error.
type Exchange interface {
	// Look looks at the Inbox. Without a primary address it is the account's own.
	Look(ctx context.Context, at mail.Location) error
	Subscribe(ctx context.Context, at mail.Location) (id string, err error)
	Unsubscribe(ctx context.Context, at mail.Location, id string) error
	// Newest is the item id of the newest message; empty where the Inbox has none.
	Newest(ctx context.Context, at mail.Location) (item string, err error)
	Read(ctx context.Context, at mail.Location, item string) error
}

// Route is where a mailbox lives and how it is reached.
type Route struct {
	Account  Account
	Location mail.Location
	Online   bool // Exchange Online, where other things go wrong than on premises
}

// Enrolments are looked up; *subscriptions.Book is one.
type Enrolments interface {
	Device(id string) (subscriptions.Device, bool)
}

// Tester sends a test to a device, whatever else it holds back; *push.Sender is one. Its error is a *fault.Error and says why
// the test was not accepted; the answer then still has what APNs said.
type Tester interface {
	Test(ctx context.Context, n subscriptions.Notification) (subscriptions.Answer, error)
}

// Way is what the whole way needs.
type Way struct {
	Enrolments Enrolments
	// Locate says where placing a mailbox would lead now, and changes nothing. exchange pins the entry; empty: none.
	Locate func(ctx context.Context, address, exchange string) (Route, error)
	Push   Tester
}

// Step is one step that was tried.
type Step struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	MS     int64  `json:"ms"`
	Error  string `json:"error,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// Report is how far the way went: the steps that were tried, of which only the last can have failed.
type Report struct {
	OK    bool   `json:"ok"`
	Steps []Step `json:"steps"`
}

// Walk goes the way for a device, to an alert on it. It ends with the first step that fails.
func (w Way) Walk(ctx context.Context, device string) Report {
	ctx, cancel := context.WithTimeout(ctx, wayTimeout)
	defer cancel()
	r := &walk{ctx: ctx, way: w}
	d, ok := subscriptions.Device{}, false
	if !r.step(StepEnrolment, func() (err error) {
		if d, ok = w.Enrolments.Device(device); !ok {
			return errNotEnrolled
		}
		return nil
	}) {
		return r.report
	}
	if !r.place(d.Mailbox, d.Exchange) || !r.step(StepCredential, func() error { return prepare(ctx, r.at.Account.Credential) }) || !r.open() {
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

// testExpires is how long APNs keeps a test for a phone that is off: whoever asked for it is looking at the phone.
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

var errNotEnrolled = &fault.Error{Op: "enrolment", Code: "not_enrolled", Scope: fault.Mailbox, Remedy: fault.Fix,
	Text: "no device is enrolled with this id"}

// walk is one walk under way.
type walk struct {
	ctx    context.Context // of the one call that the walk lasts
	way    Way
	at     Route
	told   func(step string, took time.Duration, err error) // of each step; nil: nobody
	report Report
}

// step tries one step and reports whether it went well.
func (w *walk) step(name string, try func() error) bool {
	began := time.Now()
	err := w.ctx.Err()
	if err == nil {
		err = try()
	}
	w.tell(name, time.Since(began), err)
	return err == nil
}

// tell notes what became of a step.
func (w *walk) tell(name string, took time.Duration, err error) {
	s := Step{Name: name, OK: err == nil, MS: took.Milliseconds()}
	if err != nil {
		s.Error, s.Advice = err.Error(), Advise(err, w.circumstances(name)).Do
		if errors.Is(err, context.DeadlineExceeded) && w.ctx.Err() != nil {
			s.Error = fmt.Sprintf("the way took longer than %s: %s", wayTimeout, s.Error)
		}
	}
	w.report.Steps = append(w.report.Steps, s)
	if w.told != nil {
		w.told(name, took, err)
	}
}

func (w *walk) circumstances(step string) Circumstances {
	return Circumstances{Step: step, Online: w.at.Online, Method: w.at.Account.Method}
}

// place finds where the mailbox lives.
func (w *walk) place(address, exchange string) bool {
	return w.step(StepLocation, func() (err error) {
		w.at, err = w.way.Locate(w.ctx, address, exchange)
		return err
	})
}

// open signs in and does what listening to the mailbox needs.
func (w *walk) open() bool {
	x, at := w.at.Account.Exchange, w.at.Location
	return w.knock(x, at) &&
		w.step(StepSubscription, func() error { return subscribe(w.ctx, x, at) }) &&
		w.step(StepRead, func() error { return read(w.ctx, x, at) })
}

// knock tells sign_in and impersonation by one call: what EWS itself answers, it answers to who is signed in.
func (w *walk) knock(x Exchange, at mail.Location) bool {
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

// answered reports whether an error is a word of EWS itself: whoever gets one is signed in.
func answered(err error) bool { return strings.HasPrefix(fault.Of(err).Code, "Error") }

func prepare(ctx context.Context, c auth.Credential) error { return c.Prepare(ctx) }

// subscribe makes a subscription and gives it back.
func subscribe(ctx context.Context, x Exchange, at mail.Location) error {
	id, err := x.Subscribe(ctx, at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackAfter)
	defer cancel()
	return x.Unsubscribe(ctx, at, id)
}

// read lists one message and reads it, where there is one. Of what it reads nothing is kept.
func read(ctx context.Context, x Exchange, at mail.Location) error {
	item, err := x.Newest(ctx, at)
	if err != nil || item == "" {
		return err
	}
	err = x.Read(ctx, at, item)
	if err != nil && fault.Of(err).Scope <= fault.Message { // one that was moved or cannot be read says nothing against the way to the mailbox
		return nil
	}
	return err
}
