package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	defaultLimit = 100  // entries of a page
	maxLimit     = 1000 // a page is built in memory, some 300 bytes an item

	// changeTimeout bounds one write to the state: it takes milliseconds, unless the store cannot be reached.
	changeTimeout = 5 * time.Second

	shownToken = 8 // characters of a device token in answers: enough to distinguish two, too few to send to one
)

// standing is the state of a device that was there just now: one that was removed meanwhile has none any more.
func (a *API) standing(id string) subscriptions.Standing {
	s := a.Enrolments.Standing(id)
	s.State = cmp.Or(s.State, subscriptions.Resolving)
	return s
}

func (a *API) show(d subscriptions.Device) Device {
	s := a.standing(d.ID)
	return Device{
		ID: d.ID, Mailbox: d.Mailbox, Token: d.Token[:min(shownToken, len(d.Token))],
		Topic: d.Topic, Environment: d.Environment, Exchange: d.Exchange, Label: d.Label, ReceiptKey: d.ReceiptKey,
		Created: d.Created.UTC(), Enrolled: d.Enrolled.UTC(), Since: d.Since.UTC(),
		State: s.State, Reason: s.Reason, Advice: a.Advise(s).Do, NextTry: s.Next.UTC(),
	}
}

// change returns the context of a write to the state. It does not end when the client hangs up, so that the write is completed.
func change(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
}

func (a *API) enrol(r *http.Request, who caller) (_ answer, err error) {
	event := audit.Event{Action: audit.DeviceEnrolled, Client: who.name, Device: r.PathValue("id")}
	defer func() { a.Record(r, event, err) }()
	body, err := readBody(r)
	if err != nil {
		return answer{}, err
	}
	e, err := readEnrolment(r.PathValue("id"), body)
	if err != nil {
		return answer{}, err
	}
	event.Mailbox = e.Mailbox
	only, err := precondition(r)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := change(r)
	defer cancel()
	d, created, err := a.Enrolments.Enrol(ctx, e, only)
	if err != nil {
		return answer{}, err
	}
	if created {
		return answer{http.StatusCreated, a.show(d), etag(d)}, nil
	}
	event.Action = audit.DeviceChanged
	return answer{http.StatusOK, a.show(d), etag(d)}, nil
}

func (a *API) device(r *http.Request, _ caller) (answer, error) {
	d, ok := a.Enrolments.Device(r.PathValue("id"))
	if !ok {
		return answer{}, errNoDevice
	}
	only, err := precondition(r)
	if err != nil {
		return answer{}, err
	}
	if only != nil {
		if err := only(d, true); err != nil {
			return answer{}, err
		}
	}
	return answer{http.StatusOK, a.show(d), etag(d)}, nil
}

func (a *API) remove(r *http.Request, who caller) (_ answer, err error) {
	id := r.PathValue("id")
	event := audit.Event{Action: audit.DeviceRemoved, Client: who.name, Device: id}
	if d, ok := a.Enrolments.Device(id); ok {
		event.Mailbox = d.Mailbox
	}
	defer func() { a.Record(r, event, err) }()
	only, err := precondition(r)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := change(r)
	defer cancel()
	switch was, err := a.Enrolments.Remove(ctx, id, only); {
	case err != nil:
		return answer{}, err
	case !was:
		return answer{}, errNoDevice
	}
	return answer{status: http.StatusNoContent}, nil
}

func (a *API) devices(r *http.Request, _ caller) (answer, error) {
	q := r.URL.Query()
	var errs []FieldError
	var err error
	mailbox := q.Get("mailbox")
	if mailbox != "" {
		if mailbox, err = mail.ParseAddress(mailbox); err != nil {
			errs = append(errs, FieldError{"mailbox", codeInvalid, err.Error()})
		}
	}
	limit, err := readLimit(q)
	if err != nil {
		errs = append(errs, FieldError{"limit", codeInvalid, err.Error()})
	}
	if len(errs) > 0 {
		return answer{}, invalid(errs...)
	}
	list, next := a.Enrolments.Devices(mailbox, q.Get("after"), limit)
	page := DevicePage{Devices: make([]Device, len(list)), Next: next}
	for i, d := range list {
		page.Devices[i] = a.show(d)
	}
	return answer{status: http.StatusOK, body: page}, nil
}

// checkQuery says what is wrong with the query of a request, which may have each of the given names once: what is not known was meant to
// change what is done.
func checkQuery(r *http.Request, names []string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errQuery
	}
	f := &form{}
	for name, values := range q {
		switch {
		case !slices.Contains(names, name):
			f.fail(name, codeUnknown, "there is no such parameter")
		case len(values) > 1:
			f.fail(name, codeInvalid, "given twice")
		}
	}
	if len(f.errs) > 0 {
		return invalid(f.errs...)
	}
	return nil
}

func readLimit(q url.Values) (int, error) {
	s := q.Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, errors.New("want 1 to " + strconv.Itoa(maxLimit))
	}
	return n, nil
}
