package inbox

// What is being sent to the phones of a mailbox (rule 6): a push is in flight until the write that holds its answer has ended, whatever
// becomes of the enrolment meanwhile.

import (
	"sync"

	"github.com/mailbell/mailbell/subscriptions"
)

// flight counts the pushes in flight, by phone. A phone without one costs nothing.
type flight struct {
	mu    sync.Mutex
	lines map[subscriptions.Line]int
}

// begin counts a push to a phone. The caller calls end when its answer is written.
func (f *flight) begin(l subscriptions.Line) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lines == nil {
		f.lines = map[subscriptions.Line]int{}
	}
	f.lines[l]++
}

// end says that the answer of a push is written.
func (f *flight) end(l subscriptions.Line) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines[l]--
	if f.lines[l] == 0 {
		delete(f.lines, l)
	}
}

// has says whether a phone has a push in flight.
func (f *flight) has(l subscriptions.Line) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lines[l] > 0
}

// empty says whether nothing is in flight.
func (f *flight) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lines) == 0
}
