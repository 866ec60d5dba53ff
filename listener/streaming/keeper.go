package streaming

// The streams of a group.
//
// A live stream takes no other id, and to open another in its place leaves its members without notifications for a moment. So there are two
// lines. Members that come have theirs on the one that is not open or serves fewer, and join the others when the larger stream ends as it
// does every half hour: it is opened again with all, and the server ends the smaller. Members that leave stay on theirs until it ends,
// and are ignored. Within half an hour a live stream is followed by another only to take members in that came after those of the small one,
// and to be rid of an id that the server does not know.

import (
	"context"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// lines is how many streams of a group are open at once. While one follows another there is one more: with three the group is within
	// what Exchange 2013 allows the mailbox that they are charged to; later versions allow ten.
	lines = 2
	// settle is how long nobody may have joined, left or been subscribed before a stream is opened, and gather how long that is waited for
	// at most: a company that enrols does not have a stream opened for each phone.
	settle = 200 * time.Millisecond
	gather = 2 * time.Second
	// gatherFirst is the same where no stream of the group is open yet and its members are being subscribed.
	gatherFirst = 10 * time.Second
)

// keeper keeps the streams of a group open. One goroutine has it.
type keeper struct {
	group *group
	lines [lines]*line
	old   sync.WaitGroup // streams that are handed over; each takes handOver at most, and nobody waits for it
}

func newKeeper(g *group) *keeper {
	k := &keeper{group: g}
	for i := range k.lines {
		k.lines[i] = &line{group: g, keeper: k}
	}
	return k
}

// run works until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer k.old.Wait()
	defer k.close()
	k.gather(ctx) // a mailbox seldom comes alone
	for ctx.Err() == nil {
		anew := k.group.anew.Swap(false)
		var next time.Time
		for _, l := range k.lines {
			if anew {
				l.reopen = time.Time{}
			}
			next = sooner(next, l.tend(ctx))
			next = sooner(next, l.envelopeDue())
		}
		k.wait(ctx, next)
	}
}

func (k *keeper) close() {
	for _, l := range k.lines {
		if l.open != nil {
			l.open.close()
		}
	}
}

// wait waits until something is to be done, and deals with what the open streams say.
func (k *keeper) wait(ctx context.Context, next time.Time) {
	timer := alarm(next)
	defer timer.Stop()
	a, b := k.lines[0].signals(), k.lines[1].signals()
	select {
	case <-ctx.Done():
	case <-timer.C:
		for _, l := range k.lines {
			l.overdue()
		}
	case <-k.group.ready:
		k.gather(ctx)
	case <-a.dead:
		k.lines[0].replace()
	case <-b.dead:
		k.lines[1].replace()
	case <-a.reported:
		k.lines[0].reports(ctx)
	case <-b.reported:
		k.lines[1].reports(ctx)
	case <-a.end:
		k.lines[0].over(ctx)
	case <-b.end:
		k.lines[1].over(ctx)
	}
}

// streaming says whether a stream of the group is open. It is called by the one goroutine, or with mu held.
func (k *keeper) streaming() bool { return k.lines[0].open != nil || k.lines[1].open != nil }

// gather waits until nothing has changed for a while.
func (k *keeper) gather(ctx context.Context) {
	first := !k.streaming()
	for began := time.Now(); pause.For(ctx, settle); {
		changed := false
		select {
		case <-k.group.ready:
			changed = true
		default:
		}
		took := time.Since(began)
		more := changed && took < gather || first && took < gatherFirst && k.group.gettingOn()
		if !more {
			return
		}
	}
}

// share is the members that a line is to serve, by their subscriptions. needed: somebody is served by the stream that it has open.
func (k *keeper) share(l *line) (want map[string]*Member, needed bool) {
	g := k.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	other := l.other()
	mine, others := l.healthy(), other.healthy()
	want = map[string]*Member{}
	for m := range g.members {
		id := m.subscription
		if id == "" {
			continue
		}
		needed = needed || m.stream == l.open
		here, there := mine.has(m, id), others.has(m, id)
		var serve bool
		switch {
		case mine == nil && others == nil: // nothing is open: one line has them all
			serve = l == k.lines[0]
		case mine == nil: // the larger one, when it is opened again, has them all
			serve = !there || l.size >= len(others.by)
		case others == nil:
			serve = here
		default:
			serve = here && m.stream == mine || !here && !there && l.smaller(other)
		}
		if serve {
			want[id] = m
		}
	}
	return want, needed
}

// other is the other line of the group.
func (l *line) other() *line {
	if l == l.keeper.lines[0] {
		return l.keeper.lines[1]
	}
	return l.keeper.lines[0]
}

// healthy is the open stream of a line; nil: there is none, or it is to be replaced.
func (l *line) healthy() *reading {
	if l.open == nil || l.open.spoilt {
		return nil
	}
	return l.open
}

// smaller says which of two lines with an open stream takes in members that come.
func (l *line) smaller(other *line) bool {
	if len(l.open.by) == len(other.open.by) {
		return l == l.keeper.lines[1]
	}
	return len(l.open.by) < len(other.open.by)
}
