package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPauseLastsItsTimeOrUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if !For(t.Context(), time.Minute) || time.Since(began) != time.Minute {
			t.Errorf("it lasted %v", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if For(ctx, time.Minute) || time.Since(began) != time.Second {
			t.Errorf("it outlasted its context by %v", time.Since(began)-time.Second)
		}
		if !For(t.Context(), -time.Second) || For(ctx, 0) {
			t.Error("no time at all: it says whether the context is alive")
		}
	})
}
