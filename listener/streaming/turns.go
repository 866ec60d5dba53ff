package streaming

// Whose turn it is to subscribe: the groups of an exchange entry do so one after the other, so that listening grows evenly from the first
// seconds of a start on. Were they to share the server's pace, all would begin to listen at its end.

import (
	"slices"
	"sync"
	"time"
)

const (
	// atOnce is how many groups subscribe their members at once: while the one that leads a group is subscribed, its others wait.
	atOnce = 2
	// stalled is how long nobody is subscribed until further groups have their turn: the members of those that have it hang.
	stalled = 2 * time.Second
	// flows is how long ago at most somebody was subscribed where subscribing gets on.
	flows = 500 * time.Millisecond
)

// turns of the groups of an exchange entry.
type turns struct {
	mu      sync.Mutex
	having  map[*group]struct{} // whose turn it is
	stuck   map[*group]struct{} // the same, but they hang and are not counted
	waiting []*group            // first in first out
	last    time.Time           // when somebody was subscribed, or a turn began
}

// take says whether it is the turn of a group. One whose turn it is not yet waits, and is woken when it is; it asks again every stalled.
func (t *turns) take(g *group, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.has(g) {
		return true
	}
	if !slices.Contains(t.waiting, g) {
		t.waiting = append(t.waiting, g)
	}
	if now.Sub(t.last) >= stalled {
		if t.stuck == nil {
			t.stuck = map[*group]struct{}{}
		}
		for h := range t.having {
			t.stuck[h] = struct{}{}
		}
		clear(t.having)
	}
	if t.waiting[0] != g || len(t.having) >= atOnce {
		return false
	}
	if t.having == nil {
		t.having = map[*group]struct{}{}
	}
	t.having[g], t.last = struct{}{}, now
	t.waiting = slices.Delete(t.waiting, 0, 1)
	t.wake()
	return true
}

func (t *turns) has(g *group) bool {
	_, having := t.having[g]
	_, stuck := t.stuck[g]
	return having || stuck
}

// end ends the turn of a group, or its wait for one.
func (t *turns) end(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.having, g)
	delete(t.stuck, g)
	t.leave(g)
}

// pass ends the wait of a group for its turn: whoever waits first and does not take it would keep all others waiting.
func (t *turns) pass(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.waiting, g) {
		t.leave(g)
	}
}

// leave takes a group out of those that wait. It is called with mu held.
func (t *turns) leave(g *group) {
	t.waiting = slices.DeleteFunc(t.waiting, func(w *group) bool { return w == g })
	t.wake()
}

// wake wakes the group whose turn it is next, where it may begin. It is called with mu held.
func (t *turns) wake() {
	if len(t.waiting) > 0 && len(t.having) < atOnce {
		signal(t.waiting[0].roster)
	}
}

// gotOn takes in that somebody was subscribed.
func (t *turns) gotOn(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = now
}

// flow says whether members are subscribed one after the other just now.
func (t *turns) flow(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Sub(t.last) < flows
}
