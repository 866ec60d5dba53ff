package refusal

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestAMailboxThatHasComeBackIsTriedSoonAndOneThatNeedsAPersonIsNot(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var none Refusal
	none.TryAt(now)
	if none.Listed(now) || none.Fault() != nil || none.Failures() != 0 || !none.Next().IsZero() {
		t.Error("there is no refusal")
	}
	for _, c := range []struct {
		f        *fault.Error
		failures int
		want     time.Duration // 0: when the error says
	}{
		{&fault.Error{Elsewhere: true}, 1, 2 * FirstReturn},
		{&fault.Error{Unproven: true}, 3, 8 * FirstReturn},
		{&fault.Error{Elsewhere: true}, 100, MaxReturn},
		{&fault.Error{}, 1, 0},
	} {
		var r Refusal
		for range c.failures {
			r.Again(c.f, now)
		}
		r.TryAt(now.Add(time.Hour))
		want := c.want
		if want == 0 {
			want = time.Hour
		}
		if sooner := r.Listed(now); sooner != (c.want > 0) || !r.Next().Equal(now.Add(want)) {
			t.Errorf("%+v after %d: %v, sooner %v", c.f, c.failures, r.Next().Sub(now), sooner)
		}
		if r.Listed(now) {
			t.Error("sooner than that")
		}
	}
}
