package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
)

// backend is what the API works on: it reads the book, and enrols through the listener, which listens to a new mailbox at once.
type backend struct{ *rooms }

func (d *backend) Enrol(ctx context.Context, e subscriptions.Enrolment, only subscriptions.Precondition) (subscriptions.Device, bool, error) {
	if err := d.topic(&e); err != nil {
		return subscriptions.Device{}, false, err
	}
	return d.listener.Enrol(ctx, e, only)
}

// topic fills in topic and environment if only one apns entry fits, and refuses an enrolment that none fits.
func (d *backend) topic(e *subscriptions.Enrolment) error {
	var fit []*config.APNs
	for i := range d.built.APNs {
		a := &d.built.APNs[i]
		if (e.Topic == "" || e.Topic == a.Topic) && (e.Environment == "" || e.Environment == a.Environment) {
			fit = append(fit, a)
		}
	}
	switch {
	case len(fit) == 1:
		e.Topic, e.Environment = fit[0].Topic, fit[0].Environment
		return nil
	case len(fit) > 1:
		return &subscriptions.FieldError{Field: "topic", Code: "ambiguous", Detail: "several apns entries of the configuration fit: name topic and environment"}
	case e.Environment != "" && slices.ContainsFunc(d.built.APNs, func(a config.APNs) bool { return e.Topic == "" || e.Topic == a.Topic }):
		return &subscriptions.FieldError{Field: "environment", Code: "not_configured", Detail: fmt.Sprintf("no apns entry of the configuration has the environment %q for this topic", e.Environment)}
	}
	return &subscriptions.FieldError{Field: "topic", Code: "not_configured", Detail: fmt.Sprintf("no apns entry of the configuration has the topic %q", e.Topic)}
}

// test is the way to an alert for a device, as a person asks for it. Where it is good to the end, nothing waits any more.
func (d *backend) test(ctx context.Context, device string, after func(check.Step)) check.Report {
	way := d.way()
	way.After = after
	report := way.Walk(ctx, device)
	if enrolled, ok := d.book.Device(device); ok && report.OK {
		d.listener.Worked(enrolled.Mailbox)
	}
	return report
}

// move has mailboxes listened to another way.
func (d *backend) move(ctx context.Context, m api.Move) (int, error) {
	n, err := d.listener.ListenBy(ctx, m.Exchange, m.ListenBy, m.Mailbox)
	refused, typed := errors.AsType[*fault.Error](err)
	switch {
	case errors.Is(err, listener.ErrNoExchange):
		return 0, api.ErrNoExchange
	case typed:
		why := "Microsoft Graph lets mailbell in to none of the mailboxes that it was asked for, so nothing was changed: " + refused.Error()
		if advice := check.Advise(refused, d.links.circumstances(m.Exchange, "")).Do; advice != "" {
			why += ". " + advice
		}
		return 0, api.NotMoved(why)
	}
	return n, err
}

func (d *backend) Remove(ctx context.Context, id string, only subscriptions.Precondition) (bool, error) {
	return d.listener.Remove(ctx, id, only)
}

func (d *backend) Device(id string) (subscriptions.Device, bool) { return d.book.Device(id) }

func (d *backend) Devices(mailbox, after string, limit int) ([]subscriptions.Device, string) {
	return d.book.Devices(mailbox, after, limit)
}

// Standing returns the state of a device: its mailbox's, or behind with a reason of its own, or with what APNs says of it.
func (d *backend) Standing(id string) subscriptions.Standing {
	device, ok := d.book.Device(id)
	if !ok {
		return subscriptions.Standing{}
	}
	m := d.book.Mailbox(device.Mailbox)
	if m == nil { // removed meanwhile
		return subscriptions.Standing{}
	}
	s := d.listener.Standing(m, id)
	s.Since = d.outages.since(m.Record().Addresses[0], s.State)
	reason, next, f := d.sender.Standing(device.Phone(), device.Enrolled)
	switch {
	case reason == "":
		if s.State == subscriptions.BehindState {
			s.Fault = reasonFault(s.Reason)
		}
		return s
	case s.State == subscriptions.BehindState && s.Reason != string(reason): // what it waits for, and not what would come then
		s.Fault = reasonFault(s.Reason)
		return s
	case s.State == subscriptions.BehindState:
	case reason == outcome.Quarantined:
		s.State, s.Next = subscriptions.QuarantinedState, next
	case reason == outcome.TopicAway, reason == outcome.Credentials, reason == outcome.NoTopic:
		s.State, s.Next = subscriptions.Failing, next
	default:
		s.State, s.Next = subscriptions.RefusedState, next
	}
	s.Reason, s.Fault, s.Since = string(reason), f, time.Time{}
	if f == nil {
		s.Fault = reasonFault(s.Reason)
	}
	return s
}

// shown keeps a receipt with the decision that it is about.
func (d *backend) shown(ctx context.Context, device subscriptions.Device, s receipts.Shown) (decision subscriptions.Decision, first, known bool, err error) {
	m := d.book.Mailbox(device.Mailbox)
	if m == nil { // removed meanwhile
		return decision, false, false, nil
	}
	return m.Shown(ctx, s.Key, device.ID, s.At)
}

// reasonFault is the reason of an outcome as an error, for the advice about it.
func reasonFault(reason string) *fault.Error {
	return &fault.Error{Code: reason, Text: outcome.Reason(reason).Sentence(), Remedy: fault.Retry}
}

// Advise names what is wrong with a mailbox or a device, and what to do about it.
func (r *rooms) Advise(s subscriptions.Standing) check.Breakage {
	if s.Fault == nil {
		return check.Breakage{}
	}
	return check.Advise(s.Fault, r.links.circumstances(s.Exchange, s.Account))
}

// maxReading is how long an answer about a mailbox waits for the decisions that the state has: whoever asks in an outage wants the rest.
const maxReading = 2 * time.Second

func (d *backend) Mailbox(ctx context.Context, address string) (subscriptions.Status, []subscriptions.Device, bool) {
	m := d.book.Known(address)
	if m == nil {
		return subscriptions.Status{}, nil, false
	}
	var devices []subscriptions.Device
	for _, device := range m.Devices() {
		devices = append(devices, *device)
	}
	s := d.listener.Status(m)
	ctx, cancel := context.WithTimeout(ctx, maxReading)
	defer cancel()
	s.Decisions, s.Unread = m.Decisions(ctx)
	s.Since = d.outages.since(m.Record().Addresses[0], s.State)
	return s, devices, true
}

func (d *backend) List(state subscriptions.State, after string, limit int) (list []api.MailboxLine, next string) {
	boxes := d.book.Mailboxes()
	address := func(m *subscriptions.Mailbox) string { return m.Record().Addresses[0] }
	slices.SortFunc(boxes, func(a, b *subscriptions.Mailbox) int { return cmp.Compare(address(a), address(b)) })
	i, _ := slices.BinarySearchFunc(boxes, after, func(m *subscriptions.Mailbox, after string) int {
		if strings.Compare(address(m), after) <= 0 {
			return -1
		}
		return 1
	})
	for _, m := range boxes[i:] {
		s := d.listener.Standing(m, "")
		if state != "" && s.State != state {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].Address
		}
		list = append(list, api.MailboxLine{
			Address: address(m), State: s.State, Reason: s.Reason, Advice: d.Advise(s).Do, NextTry: s.Next, Account: s.Account, Devices: len(m.Devices()),
			Exchange: s.Exchange, Source: sourceOf(m.Record().Location()),
		})
	}
	return list, ""
}

// sourceOf is by which a mailbox at a location is read; empty: the location is not known yet.
func sourceOf(at mail.Location) string {
	if at == (mail.Location{}) {
		return ""
	}
	return string(at.ReadBy())
}

func (d *backend) Count() map[subscriptions.State]int { return d.listener.Count() }

// overview returns the state of accounts and credentials, and what is wrong.
func (d *backend) overview() api.Overview {
	o := api.Overview{Webhooks: d.hooks(), Canaries: d.canaries(), Credentials: d.service.calendar.List(), Conditions: d.conditions.now(d.wrong())}
	for _, t := range d.sender.Topics() {
		o.Topics = append(o.Topics, topic(t))
	}
	for _, e := range d.listener.Load() {
		o.Exchange = append(o.Exchange, api.ExchangeEntry{Name: e.Exchange, Version: e.Version, Capacity: e.Places, Waiting: e.Waiting, Skew: e.Skew.Milliseconds(),
			Online: d.links.online(e.Exchange), EWS: e.EWS, Graph: e.Graph})
		for _, a := range e.Accounts {
			account := api.Account{
				Exchange: e.Exchange, Name: a.Name, Mailboxes: a.Mailboxes, Streams: a.Streams, NextTry: a.Next,
			}
			if a.Blocked != nil {
				account.Reason = a.Blocked.Error()
				account.EWSOff = d.links.online(e.Exchange) && listener.SwitchedOff(a.Blocked)
				account.Advice = check.Advise(a.Blocked, d.links.circumstances(e.Exchange, a.Name)).Do
			}
			if own := d.links.find(e.Exchange, a.Name); own != nil {
				account.Kind, account.Capacity = own.described.Load().Method, own.entry.MailboxesPerAccount
			}
			o.Accounts = append(o.Accounts, account)
		}
	}
	return o
}

// topic tells how an APNs topic stands.
func topic(t push.TopicStanding) api.Topic {
	to := api.Topic{Topic: t.Topic, Environment: t.Environment, Reason: t.Reason, Explanation: t.Reason.Sentence()}
	if t.Reason != "" {
		to.Advice, to.Since = adviseAPNs(topicFault(t)).Do, t.Since
	}
	for reason, phones := range t.Refused {
		if to.Refused == nil {
			to.Refused = map[string]int{}
		}
		to.Refused[string(reason)] = phones
	}
	return to
}
