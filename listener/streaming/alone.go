package streaming

// Servers that allow one impersonated mailbox on a stream, as gromox: they refuse the subscriptions of all the others.

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// fresh is how old a subscription may be so that its refusal says something about the stream: an older one may have expired, or the server
	// was restarted.
	fresh = 2 * time.Minute
	// maxRefused is how many streams in a row have all subscriptions refused but that of the mailbox that they were opened as, until each
	// mailbox gets a stream of its own.
	maxRefused = 2
	// unopposed is how long a stream of several mailboxes is read without a word against any of them until it shows that the server lets
	// mailboxes share one. A server that does not says so at once.
	unopposed = time.Minute
)

// Sharing is what the accounts of an exchange entry share: whether mailboxes may share a stream, and which groups subscribe their members
// now. The zero Sharing is one to begin with.
type Sharing struct {
	refused atomic.Bool // each mailbox has a stream of its own
	proven  atomic.Bool // mailboxes share one: a server that refuses some later has lost their subscriptions
	turns   turns
}

// prove notes that the stream has brought something. others: new mail of another mailbox than the one that it was opened as.
func (r *reading) prove(others bool, at time.Time) {
	s := r.group.groups.o.Sharing
	if others || len(r.by) > 1 && !r.opposed.Load() && at.Sub(r.opened) >= unopposed {
		if !s.proven.Load() { // nearly always it is, and streams do not wait for each other
			s.proven.Store(true)
		}
	}
}

// refusedOthers takes in an error about subscriptions of the stream, and says whether by now all fresh ones are refused but that of the
// mailbox that it was opened as, which the server serves.
func (r *reading) refusedOthers(f *fault.Error, now time.Time) bool {
	if !f.Unsubscribed || len(r.by) < 2 {
		return false
	}
	if r.refused == nil {
		r.refused = map[string]struct{}{}
	}
	for _, id := range f.Subscriptions {
		m := r.by[id]
		if m == nil || m == r.as || now.Sub(m.subscribed) > fresh {
			return false
		}
		r.refused[id] = struct{}{}
	}
	return len(r.refused) == len(r.by)-1
}

// shared says whether several mailboxes shared the stream: it has begun, and nothing was said against a subscription. One that was replaced
// before its server could say that proves nothing.
func (r *reading) shared() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.by) > 1 && r.begun.Load() && len(r.refused) == 0 && len(r.reports) == 0
}

// alone counts a stream that was refused to all but one, and gives each mailbox of the account a stream of its own after the second. Where
// mailboxes have shared a stream, their server allows that: of a stream of two it may well lose one subscription twice.
func (l *line) alone() {
	gs := l.group.groups
	if gs.o.Sharing.proven.Load() {
		return
	}
	l.refused++
	if l.refused < maxRefused {
		return
	}
	l.refused = 0
	if !gs.o.Sharing.refused.Swap(true) {
		gs.o.Log.Info("the server allows one mailbox on a stream; from now on each mailbox of this exchange entry has a stream of its own")
	}
	gs.split()
}

// size is how many members a group may have.
func (g *Groups) size() int {
	if g.o.Sharing.refused.Load() {
		return 1
	}
	return g.o.Size
}

// split leaves each group its first member, and gives the others groups of their own.
func (g *Groups) split() {
	g.mu.Lock()
	defer g.mu.Unlock()
	var full []*group
	for _, list := range g.groups {
		full = append(full, list...)
	}
	for _, gr := range full {
		members := slices.SortedFunc(maps.Keys(gr.members), byName)
		for _, m := range members[min(1, len(members)):] {
			m.regroup(nil)
			m.broken(time.Now())
			g.join(m, m.at)
		}
		gr.changed()
	}
}
