package subscriptions

import (
	"context"
	"slices"
	"sync"
)

// turn is a lock that is held over a write to the store, so that waiting for it ends with a context: a store may hang.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn. The caller gives it back.
func (t turn) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // a select takes any case that is ready
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) giveBack() { <-t }

// turns are turns by name. The zero turns are free.
type turns struct {
	mu    sync.Mutex
	taken map[string][]chan struct{} // those that somebody has, with those who wait for them; the channel of who is next is closed
}

// take waits for the turn of a name. The caller gives it back.
func (t *turns) take(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	next := t.wait(name)
	if next == nil {
		return nil
	}
	select {
	case <-next:
		return nil
	case <-ctx.Done():
		t.leave(name, next)
		return ctx.Err()
	}
}

// wait takes a turn that is free, or joins those who wait for it. nil: it was free.
func (t *turns) wait(name string) (next chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken == nil {
		t.taken = map[string][]chan struct{}{}
	}
	waiting, taken := t.taken[name]
	if taken {
		next = make(chan struct{})
		waiting = append(waiting, next)
	}
	t.taken[name] = waiting
	return next
}

// leave ends a wait. A turn that has come meanwhile is given back.
func (t *turns) leave(name string, next chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.taken[name], next)
	if i < 0 {
		t.pass(name)
		return
	}
	t.taken[name] = slices.Delete(t.taken[name], i, i+1)
}

func (t *turns) giveBack(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass(name)
}

// pass gives a turn to who has waited for it the longest. It is called with mu held.
func (t *turns) pass(name string) {
	waiting := t.taken[name]
	if len(waiting) == 0 {
		delete(t.taken, name)
		return
	}
	close(waiting[0])
	t.taken[name] = waiting[1:]
}
