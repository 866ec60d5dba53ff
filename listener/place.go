package listener

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// placeAge is how long an answer of Autodiscover is taken as true without a reason to doubt it.
const placeAge = 24 * time.Hour

// find gives a mailbox its account, its place and its group.
func (m *mailbox) find(ctx context.Context) error {
	r := m.box.Record()
	a, err := m.assigned(r.Account)
	if err != nil {
		return err
	}
	p, err := m.locate(ctx, a, r)
	if err != nil {
		return err
	}
	if p.Primary != m.address() {
		same, joined, err := m.l.o.Book.Name(ctx, m.box, p.Primary)
		if err != nil {
			return err
		}
		if joined { // another address of a mailbox that is heard already: its devices have gone over
			m.l.unwatch(m.box)
			m.l.watch(same)
			return nil
		}
	}
	if p != r.Place || a.Name != r.Account {
		err := m.box.Update(ctx, func(d *subscriptions.Draft) {
			if d.Account != a.Name || d.Place.URL != p.URL { // an id belongs to the account and the place that made it
				d.Subscription = ""
			}
			d.Place, d.Account = p, a.Name
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.place = p
	m.mu.Unlock()
	g := a.join(m, p)
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.group = g
	}
	m.mu.Unlock()
	if closed && g != nil { // the last device went meanwhile
		g.remove(m)
	}
	return nil
}

// assigned returns the mailbox's account, or gives it one.
func (m *mailbox) assigned(had string) (*account, error) {
	m.mu.Lock()
	a, waited := m.account, m.noRoom
	m.mu.Unlock()
	if a != nil {
		return a, nil
	}
	a = m.e.pick(had)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.account, m.noRoom = a, a == nil
	switch {
	case a == nil && !waited:
		m.e.waiting.Add(1)
	case a != nil && waited:
		m.e.waiting.Add(-1)
	}
	if a == nil {
		return nil, &fault.Error{Op: "place", Code: "no_capacity", Scope: fault.Mailbox, Remedy: fault.Fix}
	}
	return a, nil
}

func (m *mailbox) address() string { return m.box.Record().Addresses[0] }

// locate tells where the mailbox lives: as configured, as known, or by Autodiscover.
func (m *mailbox) locate(ctx context.Context, a *account, r *subscriptions.Record) (mail.Place, error) {
	if m.e.URL != "" {
		return mail.Place{Entry: m.e.Name, URL: m.e.URL, Primary: m.address()}, nil
	}
	if r.Place.Entry == m.e.Name && time.Since(r.Place.Found) < placeAge {
		return r.Place, nil
	}
	if err := a.allowed(); err != nil {
		return mail.Place{}, err
	}
	p, err := a.Finder.Find(ctx, m.address())
	return p, a.note(err)
}

// relocate takes the mailbox out of its group, for it may live elsewhere now.
func (m *mailbox) relocate(ctx context.Context) {
	m.mu.Lock()
	g := m.group
	m.group, m.open = nil, false
	m.mu.Unlock()
	if g == nil {
		return
	}
	g.remove(m)
	err := m.box.Update(ctx, func(d *subscriptions.Draft) { d.Place.Found, d.Subscription = time.Time{}, "" })
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) { // then it is tried once more where it was
		m.l.log.Warn("a doubtful place could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
	m.markListing()
}
