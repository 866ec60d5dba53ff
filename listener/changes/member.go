package changes

import (
	"crypto/rand"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/agenda"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/marks"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// listAnyway is how long a mailbox that may have lost notifications waits for its subscription before it is listed all the same.
	listAnyway = 5 * time.Second
	// hintDelay is how old a message is that a notification has had the time to tell of: Graph promises none, and delays those of a slow
	// endpoint.
	hintDelay = 3 * time.Minute
	// Two messages within lateWindow that no notification told of replace a subscription: one may be a slip.
	lateWindow = time.Hour
	// parkedFor is how long the subscription is kept of a mailbox that may live elsewhere: mostly it does not, and comes back. Else, if Graph
	// found no mailbox for a minute, 15,000 subscriptions would have to be made anew.
	parkedFor = 10 * time.Minute
)

// CodeUntold is the fault.Error.Code of a mailbox whose subscription was replaced and tells nothing all the same.
const CodeUntold = "no notification"

// Member is a mailbox of a listener account. It joins where it lives, leaves when it may live elsewhere, and may join again.
type Member struct {
	keeper *Keeper
	box    *subscriptions.Mailbox
	sink   Sink

	// What follows is guarded by keeper.mu.

	at      *mail.Location // nil: it never joined
	in      bool           // it has joined
	joined  int            // how often: an answer that comes after it left finds another number
	now     *subscription  // nil: it has none
	asking  *subscription  // that a call under way is making; nil: there is none
	parked  *subscription  // that it had when it left, kept in case it comes back; nil: none
	until   time.Time      // then the parked one is removed
	writing bool           // a write for it waits or is under way
	refusal refusal.Refusal
	denied  bool // it was denied a right that others are granted: that concerns this mailbox only

	since    time.Time    // when notifications began to reach us, without a break since then; zero: they do not
	doubted  bool         // the subscription is to be replaced
	late     time.Time    // when a message was found that no notification told of; zero: not within lateWindow
	replaced bool         // the subscription was replaced for that, and no notification has come since
	fault    *fault.Error // why none comes, though it is subscribed; nil: they do, or it is too early to say
	listBy   time.Time    // when it is listed; zero: nothing is to be listed
	polls    polls

	allowance marks.Allowance // of the marks that notifications may set
	recent    *recent         // nil: nothing was told of yet

	agenda.Entry // when something is to be done
}

// subscription is one at Graph, or one that is being made.
type subscription struct {
	nonce, state string // the client state and what it is made of
	id           string // empty: not known yet
	certificate  string // for which its messages are encrypted; empty: they do not come
	expires      time.Time
	renewAt      time.Time
	replaceAt    time.Time // it is replaced then, as its messages do not come; zero: when it would be renewed, if it is to be
	failures     int       // to renew it, in a row
	authorising  bool      // it is renewed for its access token
	renewed      time.Time // or made
	lastPost     time.Time // zero: nothing was posted yet
}

// newSubscription is one with this nonce, or with a new one.
func (m *Member) newSubscription(nonce string) *subscription {
	if nonce == "" {
		nonce = rand.Text()
	}
	return &subscription{nonce: nonce, state: m.keeper.o.Receiver.secret.ClientState(m.box.Record().ID, nonce)}
}

// Join has the mailbox listened to at a location. Where that is not the last one, what was wrong there is forgotten.
func (m *Member) Join(at *mail.Location) {
	k := m.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.in || k.closed {
		return
	}
	if m.at != nil && (at.URL != m.at.URL || at.Primary != m.at.Primary) {
		m.refusal, m.denied = refusal.Refusal{}, false
	}
	m.at, m.in = at, true
	m.joined++
	k.members++
	m.doubted, m.replaced, m.fault, m.late = false, false, nil, time.Time{}
	now := time.Now()
	m.listBy = now.Add(listAnyway)
	m.takeUp(now)
	k.begin()
	m.plan()
	k.changed()
}

// takeUp takes up the subscription that the mailbox has from the last start: it goes on at Graph, so the mailbox is listed at once. One that
// posts elsewhere is removed. It is called with mu held.
func (m *Member) takeUp(now time.Time) {
	had := m.box.Record().Graph
	if p := m.parked; p != nil && had != nil && had.ID == p.id {
		m.parked = nil // it goes on
	}
	m.unpark()
	if had == nil || had.ID == "" {
		return
	}
	if m.keeper.o.Receiver == nil || had.To != m.keeper.o.Receiver.to {
		m.keeper.add(removal, write{member: m, at: m.at, id: had.ID})
		return
	}
	if !had.Expires.After(now) {
		return
	}
	m.now = m.newSubscription(had.Nonce)
	m.now.id, m.now.certificate, m.now.renewed = had.ID, had.Certificate, now
	m.now.expire(now, had.Expires)
	m.keeper.current[had.ID] = m
	m.keeper.o.Receiver.add(m.now.state, m)
	m.since, m.listBy = now, now
}

// unpark has a parked subscription removed. It is called with mu held.
func (m *Member) unpark() {
	if p := m.parked; p != nil {
		m.parked = nil
		m.keeper.add(removal, write{at: m.at, id: p.id, member: m})
	}
}

// Forsake says that a mailbox that has left does not come back: what was kept for that is removed.
func (m *Member) Forsake() {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if !m.in {
		m.unpark()
		m.plan()
	}
}

// Leave ends listening. The subscription is kept for a while, for the mailbox may come back; without a device it is removed at once.
func (m *Member) Leave() {
	m.keeper.mu.Lock()
	joined := m.joined
	m.keeper.mu.Unlock()
	m.leave(joined)
}

// leave does that for one joining: the mailbox may have been found again, and have joined, meanwhile.
func (m *Member) leave(joined int) {
	k := m.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if !m.in || m.joined != joined {
		return
	}
	m.in = false
	k.members--
	stays := m.now != nil && !k.closed && len(m.box.Devices()) > 0
	if stays {
		m.parked, m.until = m.now, time.Now().Add(parkedFor)
	}
	m.drop(m.now, !stays)
	m.drop(m.asking, false) // its call removes what it makes
	m.now, m.asking = nil, nil
	m.writing = false
	m.since, m.listBy = time.Time{}, time.Time{}
	m.polls = polls{}
	m.plan()
	k.changed()
}

// drop forgets a subscription. remove: at Graph too. It is called with mu held.
func (m *Member) drop(s *subscription, remove bool) {
	if s == nil {
		return
	}
	k := m.keeper
	m.forget(s)
	if k.current[s.id] == m {
		delete(k.current, s.id)
	}
	if remove && s.id != "" {
		k.add(removal, write{at: m.at, id: s.id, member: m})
	}
}

// forget has notifications with the client state of a subscription ignored, unless another subscription of the mailbox has the same: one
// that is asked for again has the nonce of before. It is called with mu held.
func (m *Member) forget(s *subscription) {
	for _, other := range []*subscription{m.now, m.asking} {
		if other != nil && other != s && other.state == s.state {
			return
		}
	}
	m.keeper.o.Receiver.forget(s.state)
}

// act does what is due, and says whether the mailbox is to be listed. It is called with mu held.
func (m *Member) act(now time.Time) (list bool) {
	if !m.in {
		m.unpark()
		return false
	}
	if s := m.now; s != nil && !s.expires.After(now) {
		m.keeper.o.Log.Warn("a subscription at Microsoft Graph has expired", zap.String("mailbox", m.at.Primary), zap.Int("failed_renewals", s.failures))
		m.lose()
	}
	if kind, at := m.wants(); !m.writing && kind != kinds && !at.After(now) {
		m.writing = true
		m.keeper.add(kind, write{member: m, joined: m.joined})
	}
	if !m.listBy.IsZero() && !m.listBy.After(now) {
		m.listBy = time.Time{}
		list = true
	}
	return m.poll(now) || list
}

// wants says which write the member needs next, and when; kinds: none. It is called with mu held.
func (m *Member) wants() (kind int, at time.Time) {
	switch {
	case m.keeper.o.Receiver == nil:
		return kinds, time.Time{}
	case m.now == nil || m.doubted:
		return creation, m.refusal.Next()
	}
	return renewal, m.now.renewAt
}

// plan enters in the agenda when the member is to be looked at next. It is called with mu held.
func (m *Member) plan() {
	if !m.in {
		due := time.Time{}
		if m.parked != nil {
			due = m.until
		}
		m.keeper.agenda.Put(m, due)
		return
	}
	due := time.Time{}
	by := func(t time.Time) {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	if kind, at := m.wants(); !m.writing && kind != kinds {
		if at.IsZero() {
			at = time.Now()
		}
		by(at)
	}
	if m.now != nil {
		by(m.now.expires)
	}
	by(m.listBy)
	if m.untold() {
		now := time.Now()
		by(m.polls.turn.At(m.pace(now), now))
	}
	m.keeper.agenda.Put(m, due)
}

// lose forgets a subscription that Graph does not have any more: another one is made, and the mailbox is listed. It is called with mu held.
func (m *Member) lose() {
	m.drop(m.now, false)
	m.now = nil
	m.since = time.Time{}
	m.broken(time.Now())
}

// broken notes that notifications may be lost. It is called with mu held.
func (m *Member) broken(now time.Time) { m.listSoon(now.Add(listAnyway)) }

// listSoon has the mailbox listed at a time at the latest. It is called with mu held.
func (m *Member) listSoon(by time.Time) {
	if m.listBy.IsZero() || by.Before(m.listBy) {
		m.listBy = by
	}
	m.plan()
	m.keeper.changed()
}

// Listening says since when notifications reach us without a break, and when the last one came; zero: they do not, or none has.
func (m *Member) Listening() (since, last time.Time) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.now != nil {
		last = m.now.lastPost
	}
	return m.since, last
}

// Failing says why the mailbox is not listened to, and when that is tried again; nil: nothing is wrong. What keeps the app from subscribing
// keeps nobody from reading: so it is shown as the mailbox's, whomever else it concerns.
func (m *Member) Failing() (f *fault.Error, next time.Time) {
	k := m.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !m.in || !m.since.IsZero():
		return nil, time.Time{}
	case k.o.Receiver == nil:
		f = nowhere()
	case m.fault != nil && m.now != nil:
		f, next = m.fault, m.now.renewAt
	case k.hold.fault != nil:
		f, next = k.hold.fault, k.hold.until
	case m.refusal.Told() != nil:
		f, next = m.refusal.Fault(), m.refusal.Next()
	default:
		return nil, time.Time{}
	}
	told := *f
	told.Scope, told.Untold = fault.Mailbox, true
	if now := time.Now(); m.untold() {
		told.Text += "; the mailbox is listed every " + m.pace(now).Every(now).String()
	}
	return &told, next
}

// Awaits says what is awaited of a mailbox that is not listened to yet, though nothing is wrong.
func (m *Member) Awaits() string { return "subscription: being made" }

// Unhinted tells that a listing showed a message of this age that no hint had named. Where notifications should have told of two within an
// hour, the subscription is replaced: Graph may have forgotten it, or hold its notifications back.
func (m *Member) Unhinted(age time.Duration) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	now := time.Now()
	m.polls.found(m, age, now)
	if m.since.IsZero() || age < hintDelay || age > now.Sub(m.since) {
		return
	}
	if first := m.late; first.IsZero() || now.Sub(first) > lateWindow {
		m.late = now
		return
	}
	m.late = time.Time{}
	m.doubted = true
	if m.replaced {
		m.fault = m.keeper.o.Receiver.unreached()
	}
	m.replaced = true
	m.since = time.Time{}
	m.keeper.o.Log.Info("a subscription at Microsoft Graph does not tell of new mail; it is replaced", zap.String("mailbox", m.at.Primary))
	m.plan()
	m.keeper.changed()
}

// Answered tells that its server has just done for the mailbox what it was asked.
func (m *Member) Answered() {}

// Listed tells that the mailbox has been listed at its location: if Graph said that it does not live there, or did not let it in, it does now.
func (m *Member) Listed() {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.in && m.refusal.Listed(time.Now()) {
		m.plan()
		m.keeper.changed()
	}
}
