package streaming

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// group is the members that share a stream. Two goroutines work for it: one keeps the members subscribed, the other keeps the stream open.
type group struct {
	groups *Groups
	roster chan struct{} // wakes the first: members, their subscriptions or their waits have changed
	ready  chan struct{} // wakes the second, for the same
	dead   chan struct{} // the stream tells too little: it is to be replaced
	anew   atomic.Bool   // credentials or connections have changed: the stream is opened without further waiting

	// What follows is guarded by groups.mu.

	members  map[*Member]struct{}
	leaving  []departure
	calls    int // of Subscribe and Unsubscribe, under way
	slow     int // of Subscribe, that take long
	leading  int // of them, those of members that may come to lead the group
	hung     int // of those, who took long, since the group was last without anybody who leads it
	affinity Affinity
	late     []time.Time  // when messages were found that the stream should have told of
	failures int          // of the stream, in a row
	fault    *fault.Error // why it is not open
	next     time.Time    // when it is tried again
}

// departure is a subscription that is to be given back.
type departure struct {
	at mail.Location
	id string
}

func newGroup(g *Groups) *group {
	return &group{
		groups: g, roster: make(chan struct{}, 1), ready: make(chan struct{}, 1), dead: make(chan struct{}, 1), members: map[*Member]struct{}{},
	}
}

// run works until the group is empty, or ctx ends.
func (g *group) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	var stream sync.WaitGroup
	stream.Go(func() { (&keeper{group: g}).run(ctx) })
	g.keepSubscribed(ctx)
	stop()
	stream.Wait()
}

// changed wakes both goroutines.
func (g *group) changed() {
	signal(g.roster)
	signal(g.ready)
}

// sorted are the members by name: the first leads the group. It is called with mu held.
func (g *group) sorted() []*Member {
	list := make([]*Member, 0, len(g.members))
	for m := range g.members {
		list = append(list, m)
	}
	slices.SortFunc(list, byName)
	return list
}

func byName(a, b *Member) int { return cmp.Compare(a.at.Primary, b.at.Primary) }

// excuse has members that failed for the account, or for more, subscribed without further waiting. It is called with mu held.
func (g *group) excuse(least fault.Scope) {
	for m := range g.members {
		m.excused = m.subscribing && least == fault.Account
		if f := m.refusal.fault; f != nil && (f.Scope >= least || f.Unproven) {
			m.refusal.next = time.Time{}
		}
	}
}

// has says whether a member is still here with this subscription. It is called with mu held.
func (g *group) has(m *Member, subscription string) bool {
	return m.group == g && m.subscription == subscription
}

// listAnyway is how long a mailbox that may have lost notifications waits for its stream to be open before it is listed all the same.
const listAnyway = 5 * time.Second

// polling is how often a mailbox is listed while its stream cannot be opened, or brings nothing.
const polling = time.Minute

// listOverdue lists the members whose stream has not opened by their time; all: whose stream is not open. It says when the next is due.
func (g *group) listOverdue(all bool) (next time.Time) {
	var overdue []*Member
	now := time.Now()
	g.groups.mu.Lock()
	for m := range g.members {
		if m.subscription != "" && m.since.IsZero() { // a mailbox that cannot be subscribed has its safety poll
			if m.pollAt.IsZero() {
				m.pollAt = now.Add(backoff.Jitter(polling))
			}
			if !now.Before(m.pollAt) {
				m.pollAt = now.Add(backoff.Jitter(polling))
				m.listBy = now
			}
			next = sooner(next, m.pollAt)
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
	failures, joined := g.failures, m.joined
	g.groups.mu.Unlock()
	v := m.sink.Doubt(f, failures)
	if v == Leaves {
		m.leave(joined)
	}
	return v
}
