package api

// What the pages for people ask (package admin): who signed in, and the answers of the calls under /v1 as values. The pages know nothing
// that a program could not ask.

import (
	"context"
	"crypto/sha256"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Key identifies a client by its token without being one: it is the hash of it.
type Key [sha256.Size]byte

// Person is a client of the API whose token a person signed in with.
type Person struct {
	Name string
	Role Role
}

// Reads says whether the person may see the pages.
func (p Person) Reads() bool { return p.Role.may(readAll) }

// Tests says whether the person may send test notifications.
func (p Person) Tests() bool { return p.Role.may(testDevices) }

// Moves says whether the person may have mailboxes listened to another way.
func (p Person) Moves() bool { return p.Role.may(changeListening) }

// ServePages has h answer what is under /admin. It is called before the API answers its first request.
func (a *API) ServePages(h http.Handler) { a.pages = h }

// SignIn finds the client of a token. A wrong token is counted, logged and answered slowly, as with the calls under /v1.
func (a *API) SignIn(r *http.Request, token string) (Key, bool) {
	who, ok := a.find(token)
	if !ok {
		a.failed.counter.WithLabelValues(reasonWrongToken).Inc()
		pause.For(r.Context(), a.failed.note(clientAddress(r), forwardedFor(r)))
	}
	return who.hash, ok
}

// SignInFailed counts in that a provider did not sign somebody in, has it in the audit log, and delays the answer, as with a wrong token.
func (a *API) SignInFailed(r *http.Request) {
	a.failed.counter.WithLabelValues(reasonNotByProvider).Inc()
	pause.For(r.Context(), a.failed.note(clientAddress(r), forwardedFor(r)))
}

// Person returns who has the token of a key now. false: no client has it any more.
func (a *API) Person(k Key) (Person, bool) {
	c, ok := a.ofHash(k)
	return Person{Name: c.name, Role: c.role}, ok
}

// About answers as GET /v1/mailboxes/{address}. false: no device is enrolled for it.
func (a *API) About(ctx context.Context, address string) (Mailbox, bool) {
	address, err := mail.ParseAddress(address)
	if err != nil {
		return Mailbox{}, false
	}
	return a.about(ctx, address)
}

// Enrolment answers as GET /v1/devices/{id}.
func (a *API) Enrolment(id string) (Device, bool) {
	d, ok := a.Enrolments.Device(id)
	if !ok {
		return Device{}, false
	}
	return a.show(d), true
}

// Search finds the devices whose id or label, or whose mailbox's address, has a part, by id. more: there are others than these.
func (a *API) Search(part string, limit int) (list []Device, more bool) {
	part = strings.ToLower(part)
	after := ""
	for {
		all, next := a.Enrolments.Devices("", after, maxLimit)
		for _, d := range all {
			if !strings.Contains(d.Mailbox, part) && !strings.Contains(strings.ToLower(d.ID), part) && !strings.Contains(strings.ToLower(d.Label), part) {
				continue
			}
			if len(list) == limit {
				return list, true
			}
			list = append(list, a.show(d))
		}
		if next == "" {
			return list, false
		}
		after = next
	}
}

// Page answers as GET /v1/mailboxes.
func (a *API) Page(state subscriptions.State, after string) MailboxPage {
	return a.page(state, after, defaultLimit)
}

// Lines are all mailboxes, as GET /v1/mailboxes tells of them.
func (a *API) Lines() iter.Seq[MailboxLine] {
	return func(yield func(MailboxLine) bool) {
		for after := ""; ; {
			list, next := a.Mailboxes.List("", after, maxLimit)
			for _, l := range list {
				if !yield(l) {
					return
				}
			}
			if next == "" {
				return
			}
			after = next
		}
	}
}

// SendTest tests a device, as POST /v1/test-notifications. after is told each step when it was tried; nil: nobody is. The error is a *Problem.
func (a *API) SendTest(r *http.Request, client, device string, after func(check.Step)) (report check.Report, err error) {
	event := audit.Event{Action: audit.TestSent, Client: client, Device: device}
	defer func() { a.Record(r, event, err) }()
	d, ok := a.Enrolments.Device(device)
	if !ok {
		return check.Report{}, errNoDevice
	}
	event.Mailbox = d.Mailbox
	if wait := a.tests.begin(device, time.Now()); wait > 0 {
		busy := *errTooManyTests
		busy.retryAfter = strconv.Itoa(int((wait + time.Second - 1) / time.Second))
		return check.Report{}, &busy
	}
	report = a.Test(r.Context(), device, after)
	if !report.OK {
		event.Outcome = audit.Failed
	}
	return report, nil
}
