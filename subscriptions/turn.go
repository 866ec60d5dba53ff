package subscriptions

import (
	"context"
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
	taken map[string]*namedTurn // those that somebody has or waits for
}

type namedTurn struct {
	turn
	users int // who have it or wait for it; guarded by turns.mu
}

// take waits for the turn of a name. The caller gives it back.
func (t *turns) take(ctx context.Context, name string) (giveBack func(), err error) {
	t.mu.Lock()
	n := t.taken[name]
	if n == nil {
		n = &namedTurn{turn: newTurn()}
		if t.taken == nil {
			t.taken = map[string]*namedTurn{}
		}
		t.taken[name] = n
	}
	n.users++
	t.mu.Unlock()
	if err := n.take(ctx); err != nil {
		t.leave(name, n)
		return nil, err
	}
	return func() {
		n.giveBack()
		t.leave(name, n)
	}, nil
}

func (t *turns) leave(name string, n *namedTurn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.users--
	if n.users == 0 {
		delete(t.taken, name)
	}
}
