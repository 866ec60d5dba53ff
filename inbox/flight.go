package inbox

// What is being sent to the phones of a mailbox (rule 6): a push is in flight until the write that holds its answer has ended, whatever
// becomes of the enrolment meanwhile.

import (
	"slices"
	"sync"

	"github.com/mailbell/mailbell/subscriptions"
)

// flight counts the pushes in flight, by phone. It is a list, because nearly every mailbox has one phone or two, and a map would keep half a
// kilobyte for each of 15,000 mailboxes.
type flight struct {
	mu   sync.Mutex
	list []flying
}

type flying struct {
	phone  subscriptions.Line
	pushes int
}

// at is the place of a phone in the list; below 0: it has none. It is called with mu held.
func (f *flight) at(l subscriptions.Line) int {
	return slices.IndexFunc(f.list, func(o flying) bool { return o.phone == l })
}

// begin counts a push to a phone. The caller calls end when its answer is written.
func (f *flight) begin(l subscriptions.Line) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.at(l); i >= 0 {
		f.list[i].pushes++
		return
	}
	f.list = append(f.list, flying{l, 1})
}

// end says that the answer of a push is written.
func (f *flight) end(l subscriptions.Line) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.at(l)
	f.list[i].pushes--
	if f.list[i].pushes == 0 {
		f.list = slices.Delete(f.list, i, i+1)
	}
	if len(f.list) == 0 {
		f.list = nil // kept for the next message, it would keep a page of memory in use that it shares with many that were let go
	}
}

// has says whether a phone has a push in flight.
func (f *flight) has(l subscriptions.Line) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at(l) >= 0
}

// empty says whether nothing is in flight.
func (f *flight) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list) == 0
}
