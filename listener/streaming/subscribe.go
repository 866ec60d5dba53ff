package streaming

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// brisk is how long a member that may lead the group is waited for before others are tried beside it.
const brisk = 500 * time.Millisecond

// attempt is a member that is to be subscribed.
type attempt struct {
	member   *Member
	joined   int
	at       *mail.Location
	affinity Affinity
	leads    bool // its answer brings the cookie that keeps the others on its server
	waited   bool // it takes long, and others are tried beside it. Guarded by groups.mu, as over is
	over     bool
}

// keepSubscribed sees to it that every member has a subscription and that those of members that left are given back, until the group is
// empty or ctx ends. It waits for none of the calls; how many are made at once is the server's.
func (g *group) keepSubscribed(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	defer g.turns().end(g)
	for {
		back, attempts, next, ended := g.due()
		if ended || ctx.Err() != nil {
			return
		}
		for _, d := range back {
			calls.Go(func() {
				defer g.called(&attempt{})
				g.giveBack(ctx, d)
			})
		}
		for _, a := range attempts {
			calls.Go(func() {
				if a.leads {
					late := time.AfterFunc(brisk, func() { g.takesLong(a) })
					defer late.Stop()
				}
				defer g.called(a)
				g.subscribe(ctx, a)
			})
		}
		timer := alarm(sooner(next, g.listOverdue(false)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-g.roster:
		}
		timer.Stop()
	}
}

func (g *group) turns() *turns { return &g.groups.o.Sharing.turns }

// due takes what is to be called now: the end of a call wakes the loop. It says when the next is due by time.
func (g *group) due() (back []departure, attempts []*attempt, next time.Time, ended bool) {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if len(g.members) == 0 && len(g.leaving) == 0 && g.calls == 0 {
		g.groups.forget(g)
		return nil, nil, time.Time{}, true
	}
	g.leaving = slices.DeleteFunc(g.leaving, func(d departure) bool {
		free := d.now || !g.carries(d.id)
		if free {
			back = append(back, d)
		}
		return free
	})
	now := time.Now()
	list, next := g.unsubscribed(now)
	switch {
	case len(list) == 0 && g.calls == 0:
		g.turns().end(g)
	case len(list) == 0: // it needs no turn meanwhile, but keeps the one that it has
		g.turns().pass(g)
	case len(list) > 0 && !g.turns().take(g, now):
		next = sooner(next, now.Add(stalled))
		list = nil
	}
	slices.SortFunc(list, byRefusals) // only now, and not above: 200 members come one after the other, and each of them causes a look at the list
	for _, m := range list {
		if g.affinity.Anchor == "" && g.leading >= 1<<min(g.hung, 10) { // one at a time may become the anchor, and twice as many after each that hangs
			break
		}
		a := &attempt{member: m, joined: m.joined, at: m.at, affinity: g.affinity}
		if g.affinity.Anchor == "" {
			a.affinity.Anchor, a.leads = m.at.Primary, true
			g.leading++
		}
		m.subscribing, m.excused, m.answers = true, false, false
		attempts = append(attempts, a)
	}
	g.calls += len(back) + len(attempts)
	return back, attempts, next, false
}

// unsubscribed are the members that are to be subscribed now, and when the next is to be. It also sees to it that the anchor is a member
// with a subscription. It is called with mu held.
func (g *group) unsubscribed(now time.Time) (list []*Member, next time.Time) {
	here := false
	for m := range g.members {
		here = here || m.at.Primary == g.affinity.Anchor
		switch {
		case m.subscription != "" || m.subscribing:
		case now.Before(m.refusal.Next()):
			next = sooner(next, m.refusal.Next())
		default:
			list = append(list, m)
		}
	}
	if !here {
		g.affinity.Anchor = "" // the cookie leads to the server of the others all the same
	}
	if g.affinity.Anchor == "" && (g.leading == 0 || g.affinity.Cookie != "") {
		if m := g.anchor(); m != nil {
			g.affinity.Anchor = m.at.Primary
		} else {
			g.affinity = Affinity{}
		}
	}
	return list, next
}

// anchor is, of the members that have a subscription, the one that had it first: after a restart the others are on the server that it leads to.
// But where it led nowhere, rather another. It is called with mu held.
func (g *group) anchor() (anchor *Member) {
	var since time.Time
	for m := range g.members {
		if m.subscription == "" {
			continue
		}
		at := m.box.Record().Subscribed
		if anchor == nil || cmp.Or(cmp.Compare(m.misled, anchor.misled), at.Compare(since), byName(m, anchor)) < 0 {
			anchor, since = m, at
		}
	}
	return anchor
}

// anchorAnew has the anchor chosen again when somebody comes: they join one by one, and until a stream is open its name has not led to the
// subscriptions yet. It is called with mu held.
func (g *group) anchorAnew() {
	if g.affinity.Cookie == "" && !g.keeper.streaming() {
		g.affinity = Affinity{}
	}
}

// misled has the group led to another server: first where its anchor lives now, then where another member does. It is called with mu held.
func (g *group) misled() {
	if g.affinity.Cookie == "" {
		for m := range g.members {
			if m.at.Primary == g.affinity.Anchor {
				m.misled++
			}
		}
	}
	g.affinity = Affinity{}
}

// byRefusals has those last who failed.
func byRefusals(a, b *Member) int {
	return cmp.Or(cmp.Compare(a.refusal.Failures(), b.refusal.Failures()), byName(a, b))
}

// takesLong has others that may lead called beside one that takes long.
func (g *group) takesLong(a *attempt) {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if a.over {
		return
	}
	a.waited = true
	g.leading--
	g.hung++
	signal(g.roster)
}

func (g *group) called(a *attempt) {
	g.groups.mu.Lock()
	a.over = true
	g.calls--
	if a.leads && !a.waited {
		g.leading--
	}
	g.groups.mu.Unlock()
	g.changed()
}

// giveBack gives a subscription back (rule 11).
func (g *group) giveBack(ctx context.Context, d departure) {
	if err := g.groups.o.Server.Unsubscribe(ctx, *d.at, d.affinity, d.id); err != nil {
		g.groups.o.Log.Info("a subscription was not given back; it expires at the server", zap.String("mailbox", d.at.Primary), zap.Error(err))
	}
}

// subscribe subscribes a member and writes that down. It is listed once its stream is open.
func (g *group) subscribe(ctx context.Context, a *attempt) {
	m := a.member
	err := m.box.Subscribable(ctx) // what cannot be written down would be left behind at the server
	var id, cookie string
	if err == nil {
		id, cookie, err = g.groups.o.Server.Subscribe(ctx, *a.at, a.affinity)
	}
	if err == nil {
		err = g.record(ctx, a, id)
	}
	if err != nil {
		g.refused(ctx, a, err)
		return
	}
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if m.group != g || m.joined != a.joined { // it left meanwhile
		g.depart(a.at, a.affinity, id)
		return
	}
	now := time.Now()
	m.subscription, m.subscribed, m.subscribing, m.refusal = id, now, false, refusal.Refusal{}
	m.proven = now
	m.broken(now)
	g.turns().gotOn(now)
	if a.leads && g.affinity.Anchor == "" {
		g.hung = 0
		g.affinity = Affinity{Anchor: a.at.Primary, Cookie: cookie}
	}
}

// record writes a new subscription down. Where that fails it is given back.
func (g *group) record(ctx context.Context, a *attempt, id string) error {
	asleep := false
	err := a.member.box.Update(ctx, func(d *subscriptions.Draft) {
		g.groups.mu.Lock()
		defer g.groups.mu.Unlock()
		asleep = len(d.Devices) == 0 // its last device was removed meanwhile
		if !asleep && a.member.group == g && a.member.joined == a.joined {
			d.Subscription, d.Subscribed, d.Callback = id, time.Now(), ""
		}
	})
	if err == nil && asleep {
		err = subscriptions.ErrNoMailbox
	}
	if err != nil {
		g.groups.mu.Lock()
		g.depart(a.at, a.affinity, id)
		g.groups.mu.Unlock()
	}
	return subscriptions.Unwritable(err)
}

// refused notes that a member could not be subscribed. It is listed at its safety poll, and now if it has not been yet.
func (g *group) refused(ctx context.Context, a *attempt, err error) {
	m, f := a.member, fault.Of(err)
	g.groups.mu.Lock()
	if ctx.Err() != nil || m.group != g || m.joined != a.joined { // it left, or all ends
		g.groups.mu.Unlock()
		return
	}
	m.subscribing = false
	m.refusal.Again(f, time.Now())
	if errors.Is(err, subscriptions.ErrNoMailbox) { // it is about to leave, unless it gets another device
		g.groups.mu.Unlock()
		return
	}
	if m.excused && (f.Scope >= fault.Account || f.Unproven) || m.answers && f.Outage() {
		m.refusal.TryAt(time.Now())
	}
	if g.affinity == a.affinity && g.calls == 1 && g.anchor() == nil { // it has led no member to a server that works
		g.misled()
	}
	next, list := m.refusal.Next(), !m.listBy.IsZero()
	m.listing(m.gap)
	g.groups.mu.Unlock()
	if list {
		m.sink.List()
	}
	if f.Scope < fault.Account { // else the account has said it, once for all
		g.groups.o.Log.Warn("a mailbox cannot be subscribed", zap.String("mailbox", m.address()), zap.Time("next_try", next), zap.Error(err))
	}
	if f.Moved && g.doubt(m, f) == Later { // its listing meets the same error, and waits until it may be doubted
		m.sink.List()
	}
}
