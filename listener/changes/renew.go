package changes

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// A subscription is renewed when this part of its life is over, or up to renewSpread later: well before its end, so that Graph may be
	// away for two days, and spread, so that those that were made together are not renewed together.
	renewFrom   = 0.5
	renewSpread = 0.2
	// authoriseWithin is the time within which a subscription that needs a new access token is renewed, so that not all are in the same
	// second. It is also the least time since its last renewal, because Graph asks several times. It may soon need another token: the one that
	// it got ends when ours does.
	authoriseWithin = 5 * time.Second
	// removals is how often the removal of a subscription is tried. After that the next start finds it, or it expires.
	removals = 3
)

// expire notes until when a subscription lives, and when it is renewed.
func (s *subscription) expire(now, expires time.Time) {
	if expires.IsZero() {
		expires = now.Add(graph.Longest)
	}
	s.expires = expires
	life := float64(expires.Sub(now))
	s.renewAt = now.Add(time.Duration(life * (renewFrom + renewSpread*rand.Float64())))
	if at := s.replaceAt; !at.IsZero() && at.Before(s.renewAt) {
		s.renewAt = at
	}
}

// reauthorise has the subscription renewed soon, for its access token runs out. It is called with mu held.
func (m *Member) reauthorise(now time.Time) {
	s := m.now
	if s == nil || s.authorising {
		return
	}
	s.authorising = true
	soon := now.Add(rand.N(authoriseWithin))
	if again := s.renewed.Add(authoriseWithin); again.After(soon) {
		soon = again
	}
	if soon.Before(s.renewAt) {
		s.renewAt = soon
	}
	m.plan()
	m.keeper.changed()
}

// renew renews a member's subscription.
func (k *Keeper) renew(w write) {
	m := w.member
	k.mu.Lock()
	s := m.now
	if !m.in || m.joined != w.joined || s == nil || m.doubted {
		m.done(w.joined)
		k.mu.Unlock()
		return
	}
	if now := time.Now(); !s.authorising && k.outdated(s, now) && !m.refusal.Next().After(now) {
		m.doubted = true
		m.done(w.joined)
		k.mu.Unlock()
		return
	}
	at, life := m.at, graph.Longest
	if s.certificate != "" {
		life = graph.LongestRich
	}
	k.mu.Unlock()
	short, cancel := context.WithTimeout(k.ctx, writeTimeout)
	expires, err := k.o.Server.Renew(short, *at, s.id, time.Now().Add(life))
	cancel()
	err = k.timedOut("PATCH subscriptions", err)
	if k.ctx.Err() != nil {
		return
	}
	f := outcome(err)
	// Graph answers 400 also for what passes.
	passes := f != nil && (f.Code == graph.CodeHandshake || f.Code == graph.CodeBehind)
	if f != nil && !passes && (f.Unsubscribed || f.Status == http.StatusBadRequest || f.Status == http.StatusNotFound) {
		k.ended(m, nil)
		k.lost(m, w.joined, s, f)
		return
	}
	k.ended(m, f)
	next, failures, current := k.renewed(w, s, expires, f)
	switch {
	case !current:
	case f == nil:
		k.recordExpiry(m, at.Primary, s.id, expires)
	case failures == 1:
		k.o.Log.Warn("a subscription at Microsoft Graph cannot be renewed", zap.String("mailbox", at.Primary), zap.Time("next_try", next), zap.Error(f))
	}
}

// renewed notes how a renewal ended, and sets when the next is made. current: the mailbox still has this subscription.
func (k *Keeper) renewed(w write, s *subscription, expires time.Time, f *fault.Error) (next time.Time, failures int, current bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, now := w.member, time.Now()
	if m.joined != w.joined || m.now != s {
		m.done(w.joined)
		return time.Time{}, 0, false
	}
	m.writing, s.authorising = false, false
	if f != nil {
		s.failures++
		s.renewAt = now.Add(f.Pause(s.failures))
	} else {
		s.failures, s.renewed = 0, now
		k.keepPlain(s, now)
		if s.certificate != "" {
			k.plain.took = now
		}
		s.expire(now, expires)
	}
	m.plan()
	k.changed()
	return s.renewAt, s.failures, true
}

// done notes that a write for this joining has come to nothing. It is called with mu held.
func (m *Member) done(joined int) {
	if m.joined != joined {
		return
	}
	m.writing = false
	m.plan()
	m.keeper.changed()
}

// recordExpiry writes down until when a subscription lives. Where that fails it is renewed again after the next start.
func (k *Keeper) recordExpiry(m *Member, address, id string, expires time.Time) {
	err := m.box.Update(k.ctx, func(d *subscriptions.Draft) {
		if d.Graph != nil && d.Graph.ID == id {
			next := *d.Graph
			next.Expires = expires
			d.Graph = &next
		}
	})
	if err != nil && k.ctx.Err() == nil && !errors.Is(err, subscriptions.ErrNoMailbox) {
		k.o.Log.Warn("the expiry of a subscription could not be recorded", zap.String("mailbox", address), zap.Error(err))
	}
}

// lost notes that Graph does not have a subscription any more.
func (k *Keeper) lost(m *Member, joined int, s *subscription, f *fault.Error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !m.in || m.joined != joined {
		return
	}
	m.writing = false
	if m.now == s {
		k.o.Log.Info("a subscription at Microsoft Graph is lost; the mailbox is subscribed anew", zap.String("mailbox", m.at.Primary), zap.Error(f))
		m.lose()
	}
	m.plan()
	k.changed()
}

// remove removes a subscription, unless its mailbox has come back and taken it up. The record of the mailbox forgets it first: else the
// next start would take it up.
func (k *Keeper) remove(w write) {
	k.mu.Lock()
	back := k.current[w.id] != nil
	k.mu.Unlock()
	if back {
		return
	}
	err := k.forget(w)
	if err == nil {
		k.mu.Lock()
		if m := k.current[w.id]; m != nil { // it came back while that was written
			m.lose()
		}
		k.mu.Unlock()
		err = k.delete(w.id)
	}
	if err == nil || k.ctx.Err() != nil {
		return
	}
	f := fault.Of(err)
	if f.Code != graph.CodeHeld && f.Code != graph.CodeThrottled { // those say nothing of this one
		w.tries++
	}
	if w.tries >= removals {
		k.o.Log.Warn("a subscription at Microsoft Graph could not be removed; it ends by itself", zap.Error(err))
		return
	}
	k.tasks.Go(func() { // as many wait as the rate of writes lets fail within a pause
		if pause.For(k.ctx, f.Pause(max(1, w.tries))) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.add(removal, w)
		}
	})
}

// forget takes a subscription that is to be removed out of the record of its mailbox.
func (k *Keeper) forget(w write) error {
	if w.member == nil {
		return nil
	}
	r := w.member.box.Record().Graph
	if r == nil || r.ID != w.id {
		return nil
	}
	err := w.member.box.Update(k.ctx, func(d *subscriptions.Draft) {
		if d.Graph != nil && d.Graph.ID == w.id {
			d.Graph = nil
		}
	})
	if errors.Is(err, subscriptions.ErrNoMailbox) {
		return nil
	}
	return err
}

func (k *Keeper) delete(id string) error {
	short, cancel := context.WithTimeout(k.ctx, writeTimeout)
	defer cancel()
	return k.timedOut("DELETE subscriptions", k.o.Server.Delete(short, id))
}
