package changes

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/subscriptions"
)

// attempt is a subscription that is being made for a member.
type attempt struct {
	write
	made *subscription
	had  *subscription // that it replaces; nil: none
}

// subscribe subscribes a member and writes that down. Then the mailbox is listed.
func (k *Keeper) subscribe(w write) {
	a := k.attempt(w)
	if a == nil {
		return
	}
	m := w.member
	err := m.box.Subscribable(k.ctx) // what cannot be written down would be lost at the next start
	if err == nil {
		err = k.recordAsked(a)
	}
	var got graph.Subscribed
	if err == nil {
		got, err = k.post(a)
	}
	if err == nil {
		err = k.recordMade(a, got)
		if err != nil {
			k.discard(a, got.ID)
		}
	}
	k.ended(m, outcome(err))
	if err != nil {
		k.refused(a, err)
		return
	}
	m.sink.Answers()
	if k.subscribed(a, got) {
		m.sink.List()
	}
}

// outcome is the error of a call as ended takes it.
func outcome(err error) *fault.Error {
	if err == nil {
		return nil
	}
	return fault.Of(err)
}

// attempt begins one; nil: the member does not need it any more.
func (k *Keeper) attempt(w write) *attempt {
	m := w.member
	k.mu.Lock()
	defer k.mu.Unlock()
	if !m.in || m.joined != w.joined {
		return nil
	}
	w.at = m.at
	nonce := ""
	if r := m.box.Record().Graph; r != nil && r.To == k.o.Receiver.to { // of a subscription that was asked for, and perhaps made
		nonce = r.Asked
	}
	a := &attempt{write: w, made: m.newSubscription(nonce), had: m.now}
	m.asking = a.made
	k.o.Receiver.add(a.made.state, m) // before the call: the first notification may come before its answer
	return a
}

// recordAsked writes the nonce down before anything is asked with it: a notification can be matched whatever becomes of this process.
func (k *Keeper) recordAsked(a *attempt) error {
	to := k.o.Receiver.to
	if r := a.member.box.Record().Graph; r != nil && r.Asked == a.made.nonce && r.To == to {
		return nil
	}
	return k.record(a, func(was *subscriptions.GraphSubscription) *subscriptions.GraphSubscription {
		next := &subscriptions.GraphSubscription{To: to, Asked: a.made.nonce}
		if was != nil && was.To == to {
			*next = *was
			next.Asked = a.made.nonce
		}
		return next
	})
}

// recordMade writes a new subscription down.
func (k *Keeper) recordMade(a *attempt, got graph.Subscribed) error {
	made := &subscriptions.GraphSubscription{ID: got.ID, Nonce: a.made.nonce, To: k.o.Receiver.to, Certificate: a.made.certificate, Made: time.Now(), Expires: got.Expires}
	return k.record(a, func(*subscriptions.GraphSubscription) *subscriptions.GraphSubscription { return made })
}

// record changes what the record has of the subscription. It fails where the mailbox has left.
func (k *Keeper) record(a *attempt, change func(was *subscriptions.GraphSubscription) *subscriptions.GraphSubscription) error {
	left := false
	err := a.member.box.Update(k.ctx, func(d *subscriptions.Draft) {
		k.mu.Lock()
		defer k.mu.Unlock()
		left = len(d.Devices) == 0 || !a.member.in || a.member.joined != a.joined
		if !left {
			d.Graph = change(d.Graph)
		}
	})
	switch {
	case err == nil && left:
		return subscriptions.ErrNoMailbox
	case errors.Is(err, subscriptions.ErrNoMailbox):
		return err
	}
	return subscriptions.Unwritable(err)
}

// post asks Graph for the subscription: with content where that is configured, and without where Graph refuses that.
func (k *Keeper) post(a *attempt) (graph.Subscribed, error) {
	rich, err := k.rich()
	if err != nil {
		return graph.Subscribed{}, err
	}
	got, refused := k.postAs(a, rich)
	if rich == nil || refused != nil && !fault.Of(refused).Unsupported {
		return got, refused
	}
	if refused != nil {
		if failed := k.o.Writes.Wait(k.ctx); failed != nil {
			return got, refused
		}
		if got, err = k.postAs(a, nil); err != nil { // it is not the content
			return got, err
		}
	}
	k.tookContent(outcome(refused))
	return got, nil
}

// postAs asks for it with content or, where rich is nil, without. One of ours that stands in the way is removed.
func (k *Keeper) postAs(a *attempt, rich *graph.Rich) (graph.Subscribed, error) {
	got, err := k.postOnce(a, rich)
	if err == nil || fault.Of(err).Code != graph.CodeExists {
		return got, err
	}
	old := fault.Of(err).Subscriptions
	if len(old) == 0 && a.had != nil {
		old = []string{a.had.id}
	}
	if len(old) == 0 || k.others(a.member, old) {
		return got, err
	}
	for _, id := range old {
		if failed := k.delete(id); failed != nil {
			return got, failed
		}
		k.removed(a.member, id)
	}
	if failed := k.o.Writes.Wait(k.ctx); failed != nil {
		return got, err
	}
	return k.postOnce(a, rich)
}

// removed takes in that a subscription was removed at Graph: nothing tells of new mail if that was the one of the mailbox.
func (k *Keeper) removed(m *Member, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.now != nil && m.now.id == id {
		m.lose()
	}
}

// others says whether one of these subscriptions is that of another mailbox.
func (k *Keeper) others(m *Member, ids []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(ids, func(id string) bool {
		of := k.current[id]
		return of != nil && of != m
	})
}

func (k *Keeper) postOnce(a *attempt, rich *graph.Rich) (graph.Subscribed, error) {
	short, cancel := context.WithTimeout(k.ctx, writeTimeout)
	defer cancel()
	url, life := k.o.Receiver.url, graph.Longest
	a.made.certificate = ""
	if rich != nil {
		life, a.made.certificate = graph.LongestRich, rich.CertificateID
	}
	got, err := k.o.Server.Subscribe(short, *a.at, graph.Subscription{
		NotificationURL: url, LifecycleURL: url, ClientState: a.made.state, Until: time.Now().Add(life), Rich: rich,
	})
	return got, k.timedOut("POST subscriptions", err)
}

// timedOut makes a fault of the end of our own timeout.
func (k *Keeper) timedOut(op string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && k.ctx.Err() == nil {
		return &fault.Error{Op: op, Code: "timeout", Scope: fault.Mailbox, Remedy: fault.Wait, Untold: true,
			Text: "Microsoft Graph has not answered within " + writeTimeout.String()}
	}
	return err
}

// subscribed takes a new subscription up, and says whether the mailbox is to be listed.
func (k *Keeper) subscribed(a *attempt, got graph.Subscribed) bool {
	m := a.member
	k.mu.Lock()
	defer k.mu.Unlock()
	if !m.in || m.joined != a.joined { // it left meanwhile
		m.forget(a.made)
		k.add(removal, write{at: a.at, id: got.ID, member: m})
		return false
	}
	now := time.Now()
	s := a.made
	s.id, s.renewed = got.ID, now
	k.keepPlain(s, now)
	s.expire(now, got.Expires)
	m.drop(m.now, m.now != nil && m.now.id != got.ID)
	m.now, m.asking, m.writing, m.refusal, m.doubted, m.denied = s, nil, false, refusal.Refusal{}, false, false
	k.current[got.ID] = m
	m.listBy = time.Time{}
	if m.fault == nil { // else the last ones told nothing, and this one counts once it tells something
		m.since = now
	}
	m.polls.turn.Told()
	m.plan()
	k.changed()
	return true
}

// discard removes what was made and cannot be written down.
func (k *Keeper) discard(a *attempt, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(removal, write{at: a.at, id: id, member: a.member})
}

// refused notes that a member could not be subscribed.
func (k *Keeper) refused(a *attempt, err error) {
	m, f := a.member, fault.Of(err)
	k.mu.Lock()
	m.forget(a.made)
	if k.ctx.Err() != nil || !m.in || m.joined != a.joined { // it left, or all ends
		k.mu.Unlock()
		return
	}
	m.asking, m.writing = nil, false
	if !m.since.IsZero() { // it was to be replaced only because it is outdated (renew), and goes on until that can be done
		m.doubted = false
	}
	first := m.refusal.Fault() == nil
	m.refusal.Again(f, time.Now())
	next, held := m.refusal.Next(), k.hold.fault != nil
	m.plan()
	k.changed()
	k.mu.Unlock()
	if errors.Is(err, subscriptions.ErrNoMailbox) { // it is about to leave, unless it gets another device
		return
	}
	if first && !held { // else it was said once, for all
		k.o.Log.Warn("a mailbox cannot be subscribed at Microsoft Graph", zap.String("mailbox", a.at.Primary), zap.Time("next_try", next), zap.Error(err))
	}
	if f.Moved && m.sink.Doubt(f) {
		m.leave(a.joined)
	}
}
