package streaming

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Options of the groups of a listener account.
type Options struct {
	Server  Server
	Size    int           // the most members of a group
	Sharing *Sharing      // of the exchange entry; nil: of these groups alone
	Polls   *polling.Pace // of the mailboxes that no stream tells of; it may be nil
	Log     *zap.Logger
	Metrics *Metrics
}

// Groups are the mailboxes that one listener account listens to.
type Groups struct {
	o     Options
	ctx   context.Context // of the groups
	stop  context.CancelFunc
	tasks sync.WaitGroup // the groups; grows only while mu is held and closed is false
	open  atomic.Int32   // streams

	mu     sync.Mutex
	closed bool
	groups map[key][]*group
}

// key is what mailboxes that may share a stream have in common, within one account: the owner of their subscriptions.
type key struct{ url, group string }

// New returns groups without a member.
func New(o Options) *Groups {
	if o.Sharing == nil {
		o.Sharing = &Sharing{}
	}
	g := &Groups{o: o, groups: map[key][]*group{}}
	g.ctx, g.stop = context.WithCancel(context.Background())
	return g
}

// Close ends all streams. Subscriptions are kept, for the next start.
func (g *Groups) Close() {
	g.mu.Lock()
	g.closed = true // under mu: from now on no group begins
	g.mu.Unlock()
	g.stop()
	g.tasks.Wait()
}

// Open is how many streams are open.
func (g *Groups) Open() int { return int(g.open.Load()) }

// Member returns a mailbox that may join.
func (g *Groups) Member(box *subscriptions.Mailbox, s Sink) *Member {
	return &Member{groups: g, box: box, sink: s}
}

// Retry has tried at once what waits because of the account or its server: credentials or connections have changed.
func (g *Groups) Retry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, list := range g.groups {
		for _, gr := range list {
			gr.anew.Store(true)
			gr.excuse()
			gr.changed()
		}
	}
}

// Answers has tried at once what waits at a server only because it did not answer, which it does again.
func (g *Groups) Answers(url string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, list := range g.groups {
		if k.url != url {
			continue
		}
		for _, gr := range list {
			if gr.fault != nil && gr.fault.Outage() {
				gr.anew.Store(true)
			}
			gr.answers()
			gr.changed()
		}
	}
}

// join puts a member into a group with room, and begins one where there is none. It is called with mu held.
func (g *Groups) join(m *Member, at *mail.Location) {
	k := key{url: at.URL, group: at.Group}
	i := slices.IndexFunc(g.groups[k], func(gr *group) bool { return len(gr.members) < g.size() })
	if i < 0 {
		if g.closed {
			return
		}
		i = len(g.groups[k])
		gr := newGroup(g)
		g.groups[k] = append(g.groups[k], gr)
		g.tasks.Go(func() { gr.run(g.ctx) })
	}
	gr := g.groups[k][i]
	gr.members[m] = struct{}{}
	m.group, m.at = gr, at
	gr.anchorAnew()
	gr.changed()
}

// merge has the members of a group join another of the same servers that has room for all of them. Its stream has ended as it should, and
// what comes meanwhile waits at the server. So the streams stay few, though mailboxes come and go.
func (g *Groups) merge(from *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from.keeper.streaming() {
		return
	}
	for _, list := range g.groups {
		if !slices.Contains(list, from) {
			continue
		}
		i := slices.IndexFunc(list, func(to *group) bool { return to != from && len(to.members)+len(from.members) <= g.size() })
		if i < 0 {
			return
		}
		for m := range from.members {
			m.regroup(list[i])
		}
		from.changed()
		list[i].changed()
		return
	}
}

// forget takes out a group that is empty. It is called with mu held.
func (g *Groups) forget(gr *group) {
	for k, list := range g.groups {
		if i := slices.Index(list, gr); i >= 0 {
			g.groups[k] = slices.Delete(list, i, i+1)
		}
		if len(g.groups[k]) == 0 {
			delete(g.groups, k)
		}
	}
}

// signal leaves a signal where none waits yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sooner is the earlier of two times, where zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// alarm goes off at a time; zero: never.
func alarm(at time.Time) *time.Timer {
	if at.IsZero() {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(time.Until(at))
}
