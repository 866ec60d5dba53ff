package streaming

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// group is the members that share streams. Two goroutines work for it: one keeps the members subscribed, the other keeps the streams open.
type group struct {
	groups *Groups
	roster chan struct{} // wakes the first: members, their subscriptions or their waits have changed
	ready  chan struct{} // wakes the second, for the same
	anew   atomic.Bool   // credentials or connections have changed: the streams are opened without further waiting
	keeper *keeper

	// What follows is guarded by groups.mu.

	members  map[*Member]struct{}
	leaving  []departure
	calls    int // of Subscribe and Unsubscribe, under way
	leading  int // of these calls, those that may make their member the anchor, and have not taken long yet
	hung     int // how many such calls took long, since the last one that brought an anchor
	affinity Affinity
	late     []lateness   // of messages that the stream should have told of
	failures int          // of streams, in a row
	fault    *fault.Error // why one is not open
	next     time.Time    // when it is tried again
}

// depart has a subscription given back. It is called with mu held.
func (g *group) depart(at *mail.Location, a Affinity, subscription string) {
	for i := range g.leaving {
		if g.leaving[i].at.Primary == at.Primary {
			g.leaving[i].now = true
		}
	}
	g.leaving = append(g.leaving, departure{at: at, affinity: a, id: subscription})
}

// departure is a subscription that is to be given back, once no open stream has it any more: there it would be a bad id.
type departure struct {
	at       *mail.Location
	affinity Affinity // that leads to the server which has it
	id       string
	now      bool // do so at once: its mailbox has come and left again since then, and must not have ever more of them
}

func newGroup(g *Groups) *group {
	n := &group{groups: g, roster: make(chan struct{}, 1), ready: make(chan struct{}, 1), members: map[*Member]struct{}{}}
	n.keeper = newKeeper(n)
	return n
}

// run works until the group is empty, or ctx ends.
func (g *group) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	var stream sync.WaitGroup
	stream.Go(func() { g.keeper.run(ctx) })
	g.keepSubscribed(ctx)
	stop()
	stream.Wait()
}

// changed wakes both goroutines.
func (g *group) changed() {
	signal(g.roster)
	signal(g.ready)
}

func byName(a, b *Member) int { return cmp.Compare(a.at.Primary, b.at.Primary) }

// excuse has members subscribed without further waiting whose last try failed for what concerns the account, or its server. It is called with
// mu held.
func (g *group) excuse() {
	for m := range g.members {
		m.excused = m.excused || m.subscribing
		m.refusal.Excuse()
	}
}

// answers has members subscribed without further waiting whose last try failed only because the server did not answer. It is called with mu
// held.
func (g *group) answers() {
	for m := range g.members {
		m.answers = m.answers || m.subscribing
		m.refusal.Answers()
	}
}

// carries says whether a stream that is open, or is being opened, has a subscription. It is called with mu held.
func (g *group) carries(subscription string) bool {
	for _, l := range g.keeper.lines {
		if l.opens[subscription] != nil || l.open != nil && l.open.by[subscription] != nil {
			return true
		}
	}
	return false
}

// gettingOn says whether members are being subscribed, here and now.
func (g *group) gettingOn() bool {
	g.groups.mu.Lock()
	calls := g.calls
	g.groups.mu.Unlock()
	return calls > 0 && g.groups.o.Sharing.turns.flow(time.Now())
}

// has says whether a member is still here with this subscription. It is called with mu held.
func (g *group) has(m *Member, subscription string) bool {
	return m.group == g && m.subscription == subscription
}

// listAnyway is how long a mailbox that may have lost notifications waits for its stream to be open before it is listed all the same.
const listAnyway = 5 * time.Second

// listOverdue lists the members that have waited for their stream until listBy; all: whatever listBy is. It says when the next is due.
func (g *group) listOverdue(all bool) (next time.Time) {
	var overdue []*Member
	now := time.Now()
	g.groups.mu.Lock()
	for m := range g.members {
		if m.untold() {
			if m.poll.Due(g.groups.o.Polls, now) {
				m.listBy = now
			}
			next = sooner(next, m.poll.At(g.groups.o.Polls, now))
		}
		switch {
		case m.listBy.IsZero():
		case all || !now.Before(m.listBy):
			m.listing(m.gap)
			overdue = append(overdue, m)
		default:
			next = sooner(next, m.listBy)
		}
	}
	g.groups.mu.Unlock()
	for _, m := range overdue {
		m.sink.List()
	}
	return next
}

// broken notes that notifications for these members may be lost: they are listed once a stream has been opened.
func (g *group) broken(by map[string]*Member) {
	now := time.Now()
	g.groups.mu.Lock()
	for id, m := range by {
		if g.has(m, id) {
			m.broken(now)
		}
	}
	g.groups.mu.Unlock()
	signal(g.roster)
}

// brokenBefore notes that a stream that was handed over was not whole. Members whose stream has begun since then are listed now.
func (g *group) brokenBefore(r *reading) {
	g.broken(r.by)
	var list []*Member
	g.groups.mu.Lock()
	for id, m := range r.by {
		if g.has(m, id) && m.stream != nil && m.stream != r && m.stream.begun.Load() {
			m.listing(false)
			list = append(list, m)
		}
	}
	g.groups.mu.Unlock()
	for _, m := range list {
		m.sink.List()
	}
}

// doubt has the location of a member doubted.
func (g *group) doubt(m *Member, f *fault.Error) Verdict {
	g.groups.mu.Lock()
	joined := m.joined
	g.groups.mu.Unlock()
	v := m.sink.Doubt(f)
	if v == Leaves {
		m.leave(joined)
	}
	return v
}
