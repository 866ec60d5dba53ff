package pace

// How many calls are worth being under way at once: what a server's own answers say of that.

import "time"

const (
	// firstReads is how many reads of live mail are made at once before anything is known of the servers, and firstWindow how many calls
	// of another purpose.
	firstReads  = 64
	firstWindow = 16
	// leastWindow is how few calls at once there are at least: fewer would tell nothing of a server that has recovered.
	leastWindow = 2
	// Answers are quick while a call usually takes no longer than alwaysQuick, or twice what it takes at best, but never where that is
	// longer than neverQuick. Then more calls are made at once.
	alwaysQuick = 5 * time.Millisecond
	neverQuick  = time.Second
	// Answers are slow where a call usually takes four times what it takes at best, but never where that is less than neverSlow: the
	// calls wait for each other, and live mail waits with them.
	neverSlow = 300 * time.Millisecond
	// rest is how long nothing is concluded anew from answers after the window was made smaller: those on their way say nothing of that.
	rest = time.Second
	// bestFor is how long what a call took at best is believed: a mailbox may move to a server that is farther away.
	bestFor = 10 * time.Minute
	// settled is how many answers it takes until what a call usually takes is known.
	settled = 8
)

// window is how many calls of one purpose are to be under way at once. It grows while answers stay quick, and shrinks where they get slow
// or a server says that it is busy.
type window struct {
	most  float64 // at once, as it is configured
	first float64 // what it begins with: so far it grows back also where answers are never quick, as over a slow line
	size  float64
	full  bool // it was once too large: from then on it grows by one with as many answers as it has calls

	usual  time.Duration // the median of what a call takes: each answer moves it by a tenth
	best   time.Duration // the least that this was
	since  time.Time     // when best was taken
	known  int           // answers so far, up to settled
	shrunk time.Time
}

func newWindow(most, first int) window {
	return window{most: float64(most), first: float64(first), size: float64(first)}
}

// room is how many calls may be under way at once.
func (w *window) room() int { return int(w.size) }

// answered takes in how long a call took that has ended well. used: all of the window was in use.
func (w *window) answered(took time.Duration, used bool, now time.Time) {
	switch {
	case w.known == 0:
		w.usual = took
	case took > w.usual:
		w.usual += w.usual/10 + 1
	default:
		w.usual -= w.usual / 10
	}
	w.known = min(w.known+1, settled)
	if w.known < settled {
		return
	}
	if w.best == 0 || w.usual < w.best || now.Sub(w.since) > bestFor {
		w.best, w.since = w.usual, now
	}
	quick := w.usual <= min(neverQuick, max(alwaysQuick, 2*w.best))
	switch {
	case w.usual > max(neverSlow, 4*w.best):
		w.shrink(0.75, now)
	case !used || !quick && w.size >= w.first:
	case w.full:
		w.size = min(w.most, w.size+1/w.size)
	default:
		w.size = min(w.most, w.size+1)
	}
}

// refused takes in that a server was too busy for a call.
func (w *window) refused(now time.Time) { w.shrink(0.5, now) }

func (w *window) shrink(to float64, now time.Time) {
	if now.Sub(w.shrunk) < max(rest, w.usual) {
		return
	}
	w.full, w.shrunk = true, now
	w.size = max(min(leastWindow, w.most), w.size*to)
}
