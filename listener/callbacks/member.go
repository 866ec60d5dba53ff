package callbacks

import (
	"crypto/rand"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/marks"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Member is a mailbox of a listener account. It joins where it lives, leaves when it may live elsewhere, and may join again.
type Member struct {
	keeper  *Keeper
	box     *subscriptions.Mailbox
	sink    Sink
	reading atomic.Int32 // posts that are being read

	// What follows is guarded by keeper.mu.

	at      *mail.Location // nil: it never joined
	group   *group         // nil: it has not joined
	joined  int            // how often it has joined: an answer that comes after it left finds another number
	now     *subscription  // nil: it has none
	asking  *subscription  // that a call under way is making; nil: there is none
	answers bool           // its server has answered for others before that call has failed, after an outage
	refusal refusal.Refusal

	since     time.Time       // when callbacks began to reach us, without a break since then; zero: they do not
	fault     *fault.Error    // why not, though it is subscribed; nil: it is too early to say
	doubted   bool            // callbacks did not tell of a message: the subscription is to be replaced
	gap       bool            // it is to be listed once its first callback has come
	listBy    time.Time       // when it is listed all the same; zero: nothing is to be listed
	poll      polling.Turn    // while nothing tells of its mail
	allowance marks.Allowance // of the marks that callbacks may set
}

// subscription is one at the server, or one that is being made.
type subscription struct {
	nonce, secret string    // the nonce only of one that is being made
	id            string    // empty: not known yet
	watermark     string    // where the last post ended; empty: not known
	made          time.Time // when it was made, or taken up from the last start
	kept          bool      // it was taken up from the last start
	lastPost      time.Time // zero: nothing was posted yet
}

// newSubscription makes the secret of one.
func (m *Member) newSubscription() *subscription {
	nonce := rand.Text()
	return &subscription{nonce: nonce, secret: m.keeper.o.Receiver.secret.Callback(m.box.Record().ID, nonce)}
}

// keptSecret is that of the push subscription that a record has from the last start; empty: it has none.
func keptSecret(s mail.Secret, r *subscriptions.Record) string {
	if r.Subscription == "" || r.Callback == "" {
		return ""
	}
	return s.Callback(r.ID, r.Callback)
}

// Join has the mailbox listened to at a location. Where that is not the last one, what was wrong there is forgotten.
func (m *Member) Join(at *mail.Location) {
	k := m.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.group != nil || k.closed {
		return
	}
	if m.at != nil && (at.URL != m.at.URL || at.Primary != m.at.Primary) {
		m.refusal = refusal.Refusal{}
	}
	m.joined++
	m.at, m.group = at, k.group(at)
	k.members[m] = struct{}{}
	m.doubted = false
	now := time.Now()
	m.broken(now)
	r := m.box.Record()
	if secret := keptSecret(k.o.Receiver.secret, r); secret != "" { // it goes on at the server, so the mailbox is listed at once
		m.now = &subscription{secret: secret, id: r.Subscription, made: now, kept: true}
		m.now.lastPost = k.o.Receiver.add(secret, m)
		m.gap, m.listBy = false, now
		if !m.now.lastPost.IsZero() {
			m.since = now
		}
	}
	k.changed()
}

// Leave ends listening. Exchange ends the subscription when it posts the next time.
func (m *Member) Leave() {
	m.keeper.mu.Lock()
	joined := m.joined
	m.keeper.mu.Unlock()
	m.leave(joined)
}

// leave does that for one joining: the mailbox may have been found again, and have joined, meanwhile.
func (m *Member) leave(joined int) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.group == nil || m.joined != joined {
		return
	}
	delete(m.keeper.members, m)
	m.group.left(m)
	m.group = nil
	m.drop(m.now)
	m.drop(m.asking)
	m.now, m.asking = nil, nil
	m.unreached()
	m.listBy = time.Time{}
	m.poll.Told()
}

// drop has a subscription end when its server posts the next time. It is called with mu held.
func (m *Member) drop(s *subscription) {
	if s != nil {
		m.keeper.o.Receiver.forget(s.secret)
	}
}

// unreached notes that callbacks do not reach us, or not any more. It is called with mu held.
func (m *Member) unreached() { m.since, m.fault = time.Time{}, nil }

// Listening says since when callbacks reach us without a break, and when the last one came; zero: they do not.
func (m *Member) Listening() (since, last time.Time) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.since.IsZero() || m.now == nil {
		return time.Time{}, time.Time{}
	}
	return m.since, m.now.lastPost
}

// Failing says why the mailbox is not listened to, and when that is tried again; nil: nothing is wrong.
func (m *Member) Failing() (f *fault.Error, next time.Time) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	switch {
	case m.group == nil || !m.since.IsZero():
		return nil, time.Time{}
	case m.refusal.Told() != nil:
		return m.refusal.Fault(), m.refusal.Next()
	case m.fault != nil:
		return m.fault, m.now.silentAt(m.keeper.o.Frequency)
	}
	return nil, time.Time{}
}

// Awaits says what is awaited of a mailbox that is not listened to yet, though nothing is wrong.
func (m *Member) Awaits() string {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.now == nil {
		return "subscription: being made"
	}
	return "callback: awaited"
}

// untold says whether the mailbox is to be polled. It is called with mu held.
func (m *Member) untold() bool {
	f := m.refusal.Fault()
	return m.since.IsZero() && (m.now != nil || f != nil && f.Untold)
}

// Unhinted tells that a listing showed a message of this age that no hint had named. Where a callback should have told of it, the
// subscription is replaced: its server may have forgotten it, which nobody else would notice before twice the StatusFrequency.
func (m *Member) Unhinted(age time.Duration) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.since.IsZero() || age < hintDelay || age > time.Since(m.since) {
		return
	}
	m.unreached()
	m.doubted = true
	m.keeper.changed()
}

// Answered tells that its server has just done for the mailbox what it was asked. No call for others is made in its name.
func (m *Member) Answered() {}

// Listed tells that the mailbox has been listed at its location: if the server said that it does not live there, or did not let it in, it
// does now.
func (m *Member) Listed() {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.group != nil && m.refusal.Listed(time.Now()) {
		m.keeper.changed()
	}
}

// broken notes that callbacks may be lost. It is called with mu held.
func (m *Member) broken(now time.Time) {
	m.gap = true
	m.listSoon(now.Add(listAnyway))
}

// listSoon has the mailbox listed at a time at the latest. It is called with mu held.
func (m *Member) listSoon(by time.Time) {
	if m.listBy.IsZero() || by.Before(m.listBy) {
		m.listBy = by
		m.keeper.changed()
	}
}

// silentAt is when the subscription counts as dead unless a callback comes.
func (s *subscription) silentAt(frequency time.Duration) time.Time {
	switch {
	case s.lastPost.After(s.made):
		return s.lastPost.Add(2 * frequency)
	case !s.kept && s.lastPost.IsZero(): // by then the server has given up the post that never came
		return s.made.Add(frequency + firstCallback)
	}
	return s.made.Add(2 * frequency)
}
