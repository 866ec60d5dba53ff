package subscriptions

import (
	"context"
	"slices"
	"sync"
)

// turn is a lock that is held over a write to the store, so that waiting for it ends with a context: a store may hang. The zero turn is
// free.
type turn struct {
	mu sync.Mutex
	queue
}

// take waits for the turn. The caller gives it back.
func (t *turn) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // a select takes any case that is ready
		return err
	}
	t.mu.Lock()
	next := t.enter()
	t.mu.Unlock()
	return waitFor(ctx, next, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.leave(next)
	})
}

func (t *turn) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// turns are turns by name. The zero turns are free.
type turns struct {
	mu    sync.Mutex
	taken map[string]*queue // those that somebody has
}

// take waits for the turn of a name. The caller gives it back.
func (t *turns) take(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	next := t.enter(name)
	return waitFor(ctx, next, func() { t.with(name, func(q *queue) { q.leave(next) }) })
}

func (t *turns) enter(name string) (next chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.taken[name]
	if q == nil {
		if t.taken == nil {
			t.taken = map[string]*queue{}
		}
		q = &queue{}
		t.taken[name] = q
	}
	return q.enter()
}

func (t *turns) giveBack(name string) { t.with(name, (*queue).pass) }

// with changes the turn of a name. Where nobody has it then, it is forgotten.
func (t *turns) with(name string, change func(q *queue)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.taken[name]
	change(q)
	if !q.taken {
		delete(t.taken, name)
	}
}

// queue is a turn, which somebody has or nobody, and the channels of those who wait for it, the longest first. Closing one gives the turn.
type queue struct {
	taken   bool
	waiting []chan struct{}
}

// enter takes the turn, or joins those who wait for it. nil: it was free.
func (q *queue) enter() (next chan struct{}) {
	if q.taken {
		next = make(chan struct{})
		q.waiting = append(q.waiting, next)
	}
	q.taken = true
	return next
}

// waitFor waits until a turn comes, or calls leave where ctx ends before. next is nil where the turn was free.
func waitFor(ctx context.Context, next <-chan struct{}, leave func()) error {
	if next == nil {
		return nil
	}
	select {
	case <-next:
		return nil
	case <-ctx.Done():
		leave()
		return ctx.Err()
	}
}

// leave ends a wait. A turn that has come meanwhile is given back.
func (q *queue) leave(next chan struct{}) {
	i := slices.Index(q.waiting, next)
	if i < 0 {
		q.pass()
		return
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
}

// pass gives the turn to who has waited for it the longest.
func (q *queue) pass() {
	if len(q.waiting) == 0 {
		q.taken, q.waiting = false, nil
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}
