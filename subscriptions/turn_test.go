package subscriptions

import (
	"context"
	"errors"
	"testing"
)

func TestTurnsThatNobodyHasAreForgotten(t *testing.T) {
	var all turns
	done, err := all.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.take(over, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that of the context", err)
	}
	other, err := all.take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if len(all.taken) != 2 {
		t.Errorf("%d turns, want those of a and b", len(all.taken))
	}
	done()
	other()
	if len(all.taken) > 0 {
		t.Errorf("%d turns are kept", len(all.taken))
	}
}
