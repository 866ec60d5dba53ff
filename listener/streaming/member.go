package streaming

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// hintDelay is how old a message is that a stream has had the time to tell of.
	hintDelay = time.Minute
	// maxLate messages that were not told of within lateWindow replace a stream, or a subscription: one may be a slip, after two the stream is
	// dead though its heartbeats come.
	maxLate    = 2
	lateWindow = time.Hour
)

// Member is a mailbox of a listener account. It joins where it lives, leaves when it may live elsewhere, and may join again.
type Member struct {
	groups *Groups
	box    *subscriptions.Mailbox
	sink   Sink

	// What follows is guarded by groups.mu.

	at           *mail.Location // nil: it never joined
	group        *group         // nil: it is in none
	joined       int            // how often it has joined: an answer that comes after it left finds another number
	subscription string         // empty: it has none
	subscribed   time.Time      // when that was made; zero: before this start
	subscribing  bool           // a call is under way
	excused      bool           // the account, or its server, may work again before that call has failed
	answers      bool           // the same of its server only, which has answered for others after an outage
	refusal      refusal.Refusal

	// gap: notifications may have been lost since it was last told to be listed. It is listed once its stream is open, and at listBy all the
	// same; zero: it has been.
	gap    bool
	listBy time.Time

	misled int          // how often its name led the group nowhere
	proven time.Time    // when the server last did what was asked for it; zero: since then no stream could be opened as it
	poll   polling.Turn // while nothing tells of its mail
	stream *reading     // the open one that serves it, the newest; nil: none
	since  time.Time    // when notifications began to reach us, without a break since then; zero: they do not
}

// Join has the mailbox listened to at a location. Where that is not the last one, what was wrong there is forgotten.
func (m *Member) Join(at *mail.Location) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	if m.group != nil {
		return
	}
	if m.at != nil && (at.URL != m.at.URL || at.Primary != m.at.Primary) {
		m.refusal = refusal.Refusal{}
	}
	m.joined++
	m.subscribing = false
	m.subscription = ""
	if r := m.box.Record(); r.Callback == "" { // else it is a push subscription
		m.subscription = r.Subscription
	}
	now := time.Now()
	m.gap, m.listBy = true, now.Add(polling.Interval) // a member whose turn to be subscribed comes later than this is listed twice
	if m.subscription != "" {
		m.broken(now)
	}
	m.groups.join(m, at)
	if g := m.group; g != nil && slices.ContainsFunc(g.leaving, func(d departure) bool { return d.id == m.subscription }) {
		m.subscription = "" // it is to be given back
	}
}

// regroup moves the member to another group of the same servers, or to none. What is under way for it was for the old one, and does not
// count. It is called with mu held.
func (m *Member) regroup(to *group) {
	delete(m.group.members, m)
	m.joined++
	m.subscribing = false
	m.unserved()
	m.group = to
	if to != nil {
		to.members[m] = struct{}{}
	}
}

// Leave ends listening. The subscription is given back where it was made; the caller takes it out of the mailbox's record.
func (m *Member) Leave() {
	m.groups.mu.Lock()
	joined := m.joined
	m.groups.mu.Unlock()
	m.leave(joined)
}

// leave does that for one joining: the mailbox may have been found again, and have joined, meanwhile.
func (m *Member) leave(joined int) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	g := m.group
	if g == nil || m.joined != joined {
		return
	}
	delete(g.members, m)
	if m.subscription != "" {
		g.depart(m.at, g.affinity, m.subscription)
	}
	m.group, m.subscription = nil, ""
	m.unserved()
	g.changed()
}

// Listening says since when notifications reach us without a break, and when the server last said anything; zero: they do not.
func (m *Member) Listening() (since, last time.Time) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	if m.since.IsZero() {
		return time.Time{}, time.Time{}
	}
	return m.since, time.Unix(0, m.stream.last.Load())
}

// Failing says why the mailbox is not listened to, and when that is tried again; nil: nothing is wrong.
func (m *Member) Failing() (f *fault.Error, next time.Time) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	switch {
	case m.group == nil:
		return nil, time.Time{}
	case m.refusal.Told() != nil:
		return m.refusal.Fault(), m.refusal.Next()
	case m.since.IsZero():
		return m.group.fault, m.group.next
	}
	return nil, time.Time{}
}

// Unhinted tells that a listing showed a message of this age that no hint had named. Where the stream should have told of it, that counts
// against the stream; where it has told of other mail since then, against the mailbox's subscription.
func (m *Member) Unhinted(age time.Duration) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	if m.since.IsZero() || age < hintDelay || age > time.Since(m.since) {
		return
	}
	m.groups.o.Metrics.late.Inc()
	g := m.group
	now := time.Now()
	l := lateness{now, m}
	if m.stream.told.Load() < now.Add(hintDelay-age).UnixNano() { // the stream has told nothing since
		l.of = nil
	}
	g.late = slices.DeleteFunc(g.late, func(t lateness) bool { return now.Sub(t.at) > lateWindow })
	g.late = append(g.late, l)
	n := 0
	for _, t := range g.late {
		if t.of == l.of {
			n++
		}
	}
	if n < maxLate {
		return
	}
	g.late = slices.DeleteFunc(g.late, func(t lateness) bool { return t.of == l.of })
	if l.of == nil {
		signal(m.stream.dead)
		return
	}
	m.groups.o.Log.Info("a subscription does not tell of new mail; it is replaced", zap.String("mailbox", m.at.Primary))
	g.depart(m.at, g.affinity, m.subscription)
	m.unsubscribed(now)
}

// lateness is that of a message which was found although a stream was open.
type lateness struct {
	at time.Time
	of *Member // whose subscription is at fault; nil: the stream is
}

// Answered tells that its server has just done for the mailbox what it was asked: for those that hang it does nothing.
func (m *Member) Answered() {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	m.proven = time.Now()
}

// Listed tells that the mailbox has been listed at its location: if the server said that it does not live there, or did not let it in, it
// does now.
func (m *Member) Listed() {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	m.proven = time.Now()
	if m.group != nil && m.refusal.Listed(m.proven) {
		m.group.changed()
	}
}

// in says whether the mailbox is in a group: elsewhere its items have other ids.
func (m *Member) in(g *group) bool {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	return m.group == g
}

// broken notes that notifications may be lost. It is called with mu held.
func (m *Member) broken(now time.Time) {
	m.gap = true
	if by := now.Add(listAnyway); m.listBy.IsZero() || by.Before(m.listBy) {
		m.listBy = by
	}
}

// listing notes that the mailbox is told to be listed. It is called with mu held.
func (m *Member) listing(gap bool) {
	m.gap, m.listBy = gap, time.Time{}
}

// unserved notes that no stream serves the mailbox any more. It is called with mu held.
func (m *Member) unserved() {
	m.stream, m.since = nil, time.Time{}
}

// untold says whether the mailbox is to be polled: it has a subscription and no stream that brings anything, or its refusal says that no
// notification comes while that lasts. Any other mailbox that cannot be subscribed has its safety poll. It is called with mu held.
func (m *Member) untold() bool {
	f := m.refusal.Fault()
	return m.since.IsZero() && (m.subscription != "" || f != nil && f.Untold)
}

// Awaits says what is awaited of a mailbox that is not listened to yet, though nothing is wrong.
func (m *Member) Awaits() string { return "stream: being opened" }

// unsubscribed notes that the mailbox, which is in a group, has no subscription any more: it gets another, and is listed. It is called with mu
// held.
func (m *Member) unsubscribed(now time.Time) {
	m.subscription = ""
	m.unserved()
	m.broken(now)
	m.group.changed()
}

// lose forgets a subscription that the server does not know any more. One that it names in an error that does not end it is given back, and
// another is made when that error says. It is called with mu held.
func (m *Member) lose(id string, f *fault.Error, now time.Time) {
	if m.group == nil || m.subscription != id {
		return
	}
	if !f.Unsubscribed {
		m.group.depart(m.at, m.group.affinity, id)
		m.refusal.Again(f, now)
	}
	m.unsubscribed(now)
}

// unrecord takes a lost subscription out of the record.
func (m *Member) unrecord(ctx context.Context, id string) {
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		if d.Subscription == id {
			d.Subscription = ""
		}
	})
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) && ctx.Err() == nil {
		m.groups.o.Log.Warn("a lost subscription could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
}

func (m *Member) address() string { return m.box.Record().Addresses[0] }
