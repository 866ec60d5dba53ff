package inbox

// The places that the mailboxes of one exchange entry share, so that a sick Exchange harms its own mailboxes only.

import (
	"context"
	"sync"
)

const (
	// maxWorkers bounds the mailboxes of an entry that are read and whose alerts are sent at once; the others stay marked. At
	// 1,000 messages a second and 100 ms a message 100 are at work; the rest is room for a slow server or APNs.
	maxWorkers = 1024
	// maxPushes bounds the pushes of an entry under way at once, so that one message to a mailbox of many devices, times the
	// workers, stays within memory (8 KiB each).
	maxPushes = 4096
	// maxCatchUps bounds the mailboxes of an entry whose devices catch up at once: live mail goes first.
	maxCatchUps = 32
)

// lane is the workers of an exchange entry, and the marked mailboxes that wait for one.
type lane struct {
	in       *Inbox
	pushes   chan struct{}
	catchUps chan struct{}

	mu     sync.Mutex
	marked []*Mailbox // first in first out; each at most once
	active int
}

func newLane(in *Inbox) *lane {
	return &lane{in: in, pushes: make(chan struct{}, maxPushes), catchUps: make(chan struct{}, maxCatchUps)}
}

// enterPush waits for a place for a push; leave gives it back. false: ctx has ended.
func (l *lane) enterPush(ctx context.Context) (leave func(), ok bool) {
	select {
	case l.pushes <- struct{}{}:
		return sync.OnceFunc(func() { <-l.pushes }), true
	case <-ctx.Done():
		return nil, false
	}
}

// queue gives a mailbox to the next worker that is free.
func (l *lane) queue(m *Mailbox) {
	l.mu.Lock()
	l.marked = append(l.marked, m)
	more := l.active < maxWorkers
	if more {
		l.active++
	}
	l.mu.Unlock()
	if more && !l.in.run(l.work) {
		l.mu.Lock()
		l.active--
		l.mu.Unlock()
	}
}

// work is a worker: it serves marked mailboxes until there are none.
func (l *lane) work() {
	for {
		m := l.next()
		if m == nil {
			return
		}
		m.serve(l.in.working)
	}
}

// next takes the mailbox that has waited the longest; nil: there is none, and the worker has ended.
func (l *lane) next() *Mailbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.marked) == 0 || l.in.stopping.Load() {
		l.active--
		return nil
	}
	m := l.marked[0]
	l.marked[0] = nil
	l.marked = l.marked[1:]
	return m
}
