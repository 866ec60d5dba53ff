package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/subscriptions"
)

// desk is what the API is given: the book to read, and the listener to enrol with, which listens at once to what is enrolled.
type desk struct{ *rooms }

func (d *desk) Enrol(ctx context.Context, e subscriptions.Enrolment) (subscriptions.Device, bool, error) {
	if err := d.topic(&e); err != nil {
		return subscriptions.Device{}, false, err
	}
	return d.listener.Enrol(ctx, e)
}

// topic fills in topic and environment where one apns entry fits, and refuses what none does.
func (d *desk) topic(e *subscriptions.Enrolment) error {
	var fit []config.APNs
	for _, a := range d.topics {
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
	case e.Environment != "" && slices.ContainsFunc(d.topics, func(a config.APNs) bool { return e.Topic == "" || e.Topic == a.Topic }):
		return &subscriptions.FieldError{Field: "environment", Code: "not_configured", Detail: fmt.Sprintf("no apns entry of the configuration has the environment %q for this topic", e.Environment)}
	}
	return &subscriptions.FieldError{Field: "topic", Code: "not_configured", Detail: fmt.Sprintf("no apns entry of the configuration has the topic %q", e.Topic)}
}

func (d *desk) Remove(ctx context.Context, id string) (bool, error) {
	return d.listener.Remove(ctx, id)
}

func (d *desk) Device(id string) (subscriptions.Device, bool) { return d.book.Device(id) }

func (d *desk) Devices(mailbox, after string, limit int) ([]subscriptions.Device, string) {
	return d.book.Devices(mailbox, after, limit)
}

func (d *desk) Standing(id string) (state subscriptions.State, reason string, next time.Time) {
	device, ok := d.book.Device(id)
	if !ok {
		return "", "", time.Time{}
	}
	m := d.book.Mailbox(device.Mailbox)
	if m == nil { // removed just now
		return "", "", time.Time{}
	}
	return d.listener.Standing(m, id)
}

func (d *desk) Mailbox(address string) (subscriptions.Status, []subscriptions.Device, bool) {
	m := d.book.Mailbox(address)
	if m == nil {
		return subscriptions.Status{}, nil, false
	}
	var devices []subscriptions.Device
	for _, device := range m.Devices() {
		devices = append(devices, *device)
	}
	return d.listener.Status(m), devices, true
}

func (d *desk) List(state subscriptions.State, after string, limit int) (list []api.MailboxLine, next string) {
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
		s := d.listener.Status(m)
		if state != "" && s.State != state {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].Address
		}
		list = append(list, api.MailboxLine{
			Address: address(m), State: s.State, Reason: s.Reason, NextTry: s.Next, Account: s.Account, Devices: len(m.Devices()),
		})
	}
	return list, ""
}

func (d *desk) Count() map[subscriptions.State]int { return d.listener.Count() }

// condition is how the accounts and credentials stand.
func (d *desk) condition() api.Condition {
	c := api.Condition{Credentials: d.service.calendar.List()}
	for _, e := range d.listener.Load() {
		for _, a := range e.Accounts {
			account := api.Account{
				Exchange: e.Exchange, Name: a.Name, Mailboxes: a.Mailboxes, Streams: a.Streams, Reason: a.Blocked, NextTry: a.Next,
			}
			if own := d.links.find(e.Exchange, a.Name); own != nil {
				account.Kind, account.Capacity = own.described.Load().Method, own.entry.MailboxesPerAccount
			}
			c.Accounts = append(c.Accounts, account)
		}
	}
	return c
}
