package subscriptions

import "context"

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
