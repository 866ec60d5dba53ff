package listener

// Who looks up where mailboxes live. These are not the workers that read mail: a look-up that hangs harms no mailbox whose location is
// known.

import (
	"context"
	"sync"
)

const (
	// maxLookups bounds the mailboxes that an entry is asked about at once: well above the 50 that Autodiscover takes in a request, so
	// that a start does not wait for one request after the other.
	maxLookups = 256
	// maxKnown bounds the mailboxes that are placed at once without a question: at most a write of the record each.
	maxKnown = 64
)

// lookups is a queue of mailboxes that are to be looked up, and who does that.
type lookups struct {
	l    *Listener
	most int

	mu     sync.Mutex
	queued []*mailbox // first in first out; each at most once
	active int
}

func newLookups(l *Listener, most int) *lookups { return &lookups{l: l, most: most} }

// add queues a mailbox.
func (q *lookups) add(m *mailbox) {
	q.mu.Lock()
	q.queued = append(q.queued, m)
	more := q.active < q.most
	if more {
		q.active++
	}
	q.mu.Unlock()
	if more && !q.l.run(func() { q.work(q.l.looking) }) {
		q.end()
	}
}

// work looks mailboxes up until none is left.
func (q *lookups) work(ctx context.Context) {
	for m := q.next(); m != nil; m = q.next() {
		m.lookUp(ctx)
	}
}

// next takes the mailbox that has waited the longest; nil: there is none, and the worker has ended.
func (q *lookups) next() *mailbox {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queued) == 0 || q.l.stopping.Load() {
		q.active--
		return nil
	}
	m := q.queued[0]
	q.queued[0] = nil
	q.queued = q.queued[1:]
	return m
}

func (q *lookups) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
}
