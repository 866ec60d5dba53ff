package api

// The question of the person with the phone: do alerts come to me? The app asks it, signed as a receipt is.

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// selfCheck answers for one device.
func (a *API) selfCheck(r *http.Request) (answer, error) {
	body, err := readSigned(r)
	if err != nil {
		return answer{}, err
	}
	device, at, err := readSelfCheck(body)
	if err != nil {
		return answer{}, err
	}
	d, err := a.signed(r, signedSelfCheck, device, body)
	if err != nil {
		return answer{}, err
	}
	// A question that somebody has recorded is answered for minutes only.
	if off := time.Since(at); off.Abs() > mail.Tolerance {
		detail := fmt.Sprintf("the clock of the phone and that of mailbell differ by %s: want less than %s", off.Abs().Round(time.Second), mail.Tolerance)
		return answer{}, invalid(FieldError{"at", codeInvalid, detail})
	}
	return answer{status: http.StatusOK, body: a.standingOf(r.Context(), d)}, nil
}

// readSelfCheck reads the body of a self-check.
func readSelfCheck(body []byte) (device string, at time.Time, err error) {
	fields, err := readObject(body)
	if err != nil {
		return "", at, err
	}
	f := &form{fields: fields}
	device = f.text("d", true, pattern.Device.Check)
	at = f.moment("at")
	return device, at, f.end()
}

// standingOf tells how a device stands, and nothing of any other.
func (a *API) standingOf(ctx context.Context, d subscriptions.Device) SelfCheck {
	s := a.standing(d.ID)
	c := SelfCheck{
		Device: d.ID, Token: d.Token[:min(shownToken, len(d.Token))], Topic: d.Topic, Environment: d.Environment, Enrolled: d.Enrolled.UTC(),
		Alerts: s.State == subscriptions.Listening || s.State == subscriptions.Polling, State: s.State, Says: says(s.State),
		Cause: a.Advise(s).Name, Since: s.Since.UTC(), NextTry: s.Next.UTC(), LastReceipt: a.Receipts.Last(d.ID).UTC(),
	}
	if c.Alerts && a.SendOff {
		c.Alerts, c.Says = false, "Your administrator has switched alerts off here, so new mail is not announced."
		c.Cause = check.Advise(&fault.Error{Code: string(outcome.SendOff)}, check.Circumstances{}).Name
	}
	status, _, ok := a.Mailboxes.Mailbox(ctx, d.Mailbox)
	if !ok { // removed meanwhile
		return c
	}
	for _, one := range status.Decisions {
		if one.Device == d.ID && one.Status != 0 {
			last := decision(one)
			c.LastAlert = &last
			break
		}
	}
	return c
}

// says is a state for the person with the phone.
func says(s subscriptions.State) string {
	switch s {
	case subscriptions.Listening:
		return "New mail is announced on this phone at once."
	case subscriptions.Polling:
		return "New mail is announced on this phone, but late: the mail server does not report it at once."
	case subscriptions.Resolving:
		return "Your mailbox is being looked up. This takes seconds, and some minutes after a restart."
	case subscriptions.WaitingForCapacity:
		return "There is no room for your mailbox yet. Your administrator knows."
	case subscriptions.OutOfScope:
		return "Your mailbox is on a mail server for which alerts are not set up here."
	case subscriptions.BehindState:
		return "Alerts for this phone are held up, and come later."
	case subscriptions.RefusedState, subscriptions.QuarantinedState:
		return "Apple refuses alerts for this phone. Open the app, so that it reports its token again."
	}
	return "Your mailbox cannot be read at the moment, so new mail is not announced. It is tried again by itself."
}
