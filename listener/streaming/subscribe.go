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
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// subscribing bounds the Subscribe and Unsubscribe calls of a group at once: below the 10 that Exchange 2010 allows an account.
	subscribing = 8
	// A Subscribe that takes longer than brisk is not counted among those any more, as long as fewer than maxSlow take that long: mailboxes
	// that hang keep the others of their group waiting no longer.
	brisk   = 250 * time.Millisecond
	maxSlow = 192
	// subscribeTimeout bounds a Subscribe: a mailbox that hangs holds one of those calls, or the whole group while it may lead it.
	subscribeTimeout = 15 * time.Second
	// unsubscribeTimeout bounds giving a subscription back: one that is not given back expires at the server.
	unsubscribeTimeout = 10 * time.Second
)

// attempt is a member that is to be subscribed.
type attempt struct {
	member   *Member
	joined   int
	at       mail.Location
	affinity Affinity
	leads    bool // its answer brings the cookie that keeps the others on its server
	slow     bool // it takes long, and is not counted any more. Guarded by groups.mu, as over is
	over     bool
}

// keepSubscribed sees to it that every member has a subscription and that those of members that left are given back, until the group is
// empty or ctx ends. It waits for none of the calls.
func (g *group) keepSubscribed(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
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
				late := time.AfterFunc(brisk, func() { g.takesLong(a) })
				defer func() {
					late.Stop()
					g.called(a)
				}()
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

// due takes what is to be called now, within the bound: the end of a call wakes the loop. It says when the next is due by time.
func (g *group) due() (back []departure, attempts []*attempt, next time.Time, ended bool) {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if len(g.members) == 0 && len(g.leaving) == 0 && g.calls == 0 && g.slow == 0 {
		g.groups.forget(g)
		return nil, nil, time.Time{}, true
	}
	for len(g.leaving) > 0 && g.calls < subscribing {
		back = append(back, g.leaving[0])
		g.leaving = g.leaving[1:]
		g.calls++
	}
	members := g.sorted()
	g.checkAnchor(members)
	now := time.Now()
	slices.SortStableFunc(members, func(a, b *Member) int { return cmp.Compare(a.refusal.failures, b.refusal.failures) }) // who failed goes last
	for _, m := range members {
		switch {
		case m.subscription != "":
			if g.affinity.Anchor == "" && g.leading == 0 {
				g.affinity = Affinity{Anchor: m.at.Primary}
			}
		case m.subscribing:
		case now.Before(m.refusal.next):
			next = sooner(next, m.refusal.next)
		case g.calls < subscribing && (g.affinity.Anchor != "" || g.leading < 1<<min(g.hung, 10)): // one leads, unless it hangs
			a := &attempt{member: m, joined: m.joined, at: m.at, affinity: g.affinity}
			if g.affinity.Anchor == "" {
				a.affinity.Anchor, a.leads = m.at.Primary, true
				g.leading++
			}
			m.subscribing, m.excused = true, false
			g.calls++
			attempts = append(attempts, a)
		}
	}
	return back, attempts, next, false
}

// checkAnchor forgets an anchor that has left.
func (g *group) checkAnchor(members []*Member) {
	for _, m := range members {
		if m.at.Primary == g.affinity.Anchor {
			return
		}
	}
	g.affinity = Affinity{}
}

// takesLong has others called beside a call that takes long.
func (g *group) takesLong(a *attempt) {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if a.over || g.slow >= maxSlow {
		return
	}
	a.slow = true
	if a.leads {
		g.leading--
		g.hung++
	}
	g.slow++
	g.calls--
	signal(g.roster)
}

func (g *group) called(a *attempt) {
	g.groups.mu.Lock()
	a.over = true
	if a.slow {
		g.slow--
	} else {
		g.calls--
	}
	if a.leads && !a.slow {
		g.leading--
	}
	g.groups.mu.Unlock()
	g.changed()
}

// giveBack gives a subscription back (rule 11).
func (g *group) giveBack(ctx context.Context, d departure) {
	ctx, cancel := context.WithTimeout(ctx, unsubscribeTimeout)
	defer cancel()
	if err := g.groups.o.Server.Unsubscribe(ctx, d.at, d.id); err != nil {
		g.groups.o.Log.Info("a subscription was not given back; it expires at the server", zap.String("mailbox", d.at.Primary), zap.Error(err))
	}
}

// subscribe subscribes a member and writes that down. It is listed once its stream is open.
func (g *group) subscribe(ctx context.Context, a *attempt) {
	m := a.member
	err := unwritable(m.box.Writable(ctx)) // what cannot be written down would be left behind at the server
	var id, cookie string
	if err == nil {
		id, cookie, err = g.callSubscribe(ctx, a)
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
		g.leaving = append(g.leaving, departure{a.at, id})
		return
	}
	m.subscription, m.subscribed, m.subscribing, m.refusal = id, time.Now(), false, refusal{}
	m.proven = time.Now()
	m.broken(time.Now())
	if a.leads && g.affinity.Anchor == "" {
		g.hung = 0
		g.affinity = Affinity{Anchor: a.at.Primary, Cookie: cookie}
	}
}

func (g *group) callSubscribe(ctx context.Context, a *attempt) (id, cookie string, err error) {
	short, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	id, cookie, err = g.groups.o.Server.Subscribe(short, a.at, a.affinity)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = &fault.Error{Op: "Subscribe", Code: "timeout", Scope: fault.Mailbox, Remedy: fault.Wait,
			Text: "the server has not answered within " + subscribeTimeout.String()}
	}
	return id, cookie, err
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
		g.leaving = append(g.leaving, departure{a.at, id})
		g.groups.mu.Unlock()
	}
	return unwritable(err)
}

// unwritable types an error of the state.
func unwritable(err error) error {
	if err == nil {
		return nil
	}
	return &fault.Error{Op: "state", Code: "state_away", Scope: fault.Mailbox, Remedy: fault.Retry,
		Text: "the state cannot be written", Err: err}
}

// refused notes that a member could not be subscribed. It is listed at its safety poll, and now if it has not been yet.
func (g *group) refused(ctx context.Context, a *attempt, err error) {
	m, f := a.member, fault.Of(err)
	g.groups.mu.Lock()
	if ctx.Err() != nil || m.group != g || m.joined != a.joined || errors.Is(err, subscriptions.ErrNoMailbox) { // it left, or all ends
		g.groups.mu.Unlock()
		return
	}
	m.subscribing = false
	m.refusal.fault = f
	m.refusal.failures++
	m.refusal.next = time.Now().Add(f.Pause(m.refusal.failures))
	if m.excused && (f.Scope >= fault.Account || f.Unproven) {
		m.refusal.next = time.Now()
	}
	next, list := m.refusal.next, !m.listBy.IsZero()
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
