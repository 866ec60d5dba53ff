package pace

import (
	"testing"
	"time"
)

// answers are so many that took that long, one after the other, while all of the window was in use.
func (w *window) answers(n int, took time.Duration, from time.Time) time.Time {
	for range n {
		from = from.Add(took / time.Duration(w.room()))
		w.answered(took, true, from)
	}
	return from
}

func TestAServerWhoseAnswersAreNeverQuickGetsBackWhatItBeganWithAfterItWasBusy(t *testing.T) {
	w := newWindow(256, firstWindow)
	const always = 2 * neverQuick
	now := w.answers(100, always, time.Now())
	if w.room() != firstWindow {
		t.Fatalf("%d calls at once, though none is quick", w.room())
	}
	for range 5 {
		now = now.Add(time.Minute)
		w.refused(now)
	}
	if w.room() != leastWindow {
		t.Fatalf("%d calls at once for a server that is busy", w.room())
	}
	now = w.answers(1000, always, now)
	if w.room() != firstWindow {
		t.Errorf("%d calls at once when it is well again, want %d", w.room(), firstWindow)
	}
	w.answers(100, 5*always, now)
	if w.room() >= firstWindow {
		t.Errorf("%d calls at once, though they take five times as long", w.room())
	}
}

func TestMoreCallsAreMadeAtOnceWhileAnswersStayQuickAndFewerWhereTheyGetSlow(t *testing.T) {
	w := newWindow(256, firstWindow)
	now := w.answers(1000, 100*time.Millisecond, time.Now())
	if w.room() != 256 {
		t.Errorf("%d calls at once of a quick server", w.room())
	}
	w.answers(2000, neverSlow*2, now)
	if w.room() >= 256/2 {
		t.Errorf("%d calls at once of one that got slow", w.room())
	}
}
