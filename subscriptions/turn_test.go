package subscriptions

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestTurnsThatNobodyHasAreForgotten(t *testing.T) {
	var all turns
	if err := all.take(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := all.take(over, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that of the context", err)
	}
	if err := all.take(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if len(all.taken) != 2 {
		t.Errorf("%d turns, want those of a and b", len(all.taken))
	}
	all.giveBack("a")
	all.giveBack("b")
	if len(all.taken) > 0 {
		t.Errorf("%d turns are kept", len(all.taken))
	}
}

func TestATurnGoesToWhoHasWaitedForItTheLongestAndStillDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all turns
		if err := all.take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		impatient, giveUp := context.WithCancel(t.Context())
		had := make(chan int, 3)
		for i, ctx := range []context.Context{impatient, t.Context(), t.Context()} {
			go func() {
				if err := all.take(ctx, "a"); err != nil {
					i = -1
				}
				had <- i
			}()
			synctest.Wait() // so that they wait in this order
		}
		giveUp()
		if i := <-had; i != -1 {
			t.Errorf("%d has the turn beside the one who has it", i)
		}
		for want := 1; want <= 2; want++ {
			all.giveBack("a")
			if i := <-had; i != want {
				t.Errorf("%d has the turn, want %d", i, want)
			}
			synctest.Wait()
			if len(had) > 0 {
				t.Error("two have the turn")
			}
		}
		all.giveBack("a")
		if len(all.taken) > 0 {
			t.Errorf("%d turns are kept", len(all.taken))
		}
	})
}

func TestATurnThatComesToWhoHasJustGoneIsGivenBack(t *testing.T) {
	var all turns
	if err := all.take(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	next := all.enter("a")
	all.giveBack("a")
	all.with("a", func(q *queue) { q.leave(next) })
	if len(all.taken) > 0 {
		t.Errorf("%d turns are kept", len(all.taken))
	}
}
