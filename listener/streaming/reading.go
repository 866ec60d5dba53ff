package streaming

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// handOver is how long a stream may take to end after another was opened with its ids: the server ends it at once, with
	// ErrorNewEventStreamConnectionOpened.
	handOver = 5 * time.Second
	// maxReports bounds the errors about single subscriptions that wait to be dealt with: one for each of a full stream.
	maxReports = 200
	// maxItem bounds an item id: a mailbox remembers those of many hints. Exchange's have some 150 characters.
	maxItem = 1024
)

// reading is an open stream being read.
type reading struct {
	group   *group
	stream  Stream
	stop    context.CancelFunc  // ends the stream
	by      map[string]*Member  // by subscription
	as      *Member             // as which it was opened
	refused map[string]struct{} // of its subscriptions. The keeper's own
	opened  time.Time
	last    atomic.Int64 // when the stream last brought anything, in Unix nanoseconds
	told    atomic.Int64 // the same, of new mail
	begun   atomic.Bool  // the first envelope has come
	opposed atomic.Bool  // the server has said something against a subscription
	late    bool         // that envelope did not come in time. The keeper's own
	spoilt  bool         // the server named a bad id: nobody knows whether the good ones are still served. The keeper's own

	signals
	err error // how it ended, once end is closed; io.EOF: as it should

	mu      sync.Mutex
	reports []*fault.Error
}

// signals are what a stream tells its keeper, who waits for them.
type signals struct {
	reported chan struct{} // errors about single subscriptions have come
	dead     chan struct{} // the stream tells too little: it is to be replaced
	end      chan struct{}
}

func newReading(g *group, s Stream, stop context.CancelFunc, by map[string]*Member, as *Member) *reading {
	r := &reading{group: g, stream: s, stop: stop, by: by, as: as, opened: time.Now()}
	r.signals = signals{reported: make(chan struct{}, 1), dead: make(chan struct{}, 1), end: make(chan struct{})}
	r.last.Store(r.opened.UnixNano())
	return r
}

// run reads until the stream ends.
func (r *reading) run() {
	groups := r.group.groups
	defer groups.o.Metrics.streams.Dec()
	defer groups.open.Add(-1)
	defer close(r.end)
	defer r.stream.Close()
	defer r.stop()
	for {
		e, err := r.stream.Next()
		if f, ok := errors.AsType[*fault.Error](err); ok && len(f.Subscriptions) > 0 {
			r.report(f)
			continue
		}
		if err != nil {
			r.err = err
			return
		}
		r.last.Store(e.At.UnixNano())
		others := false
		for _, event := range e.Events {
			m := r.by[event.Subscription]
			if m == nil {
				continue
			}
			others = others || m != r.as
			if m.in(r.group) {
				r.hint(m, event.Item, e.At)
			}
		}
		r.prove(others, e.At)
		if !r.begun.Swap(true) {
			r.begin()
		}
	}
}

// hint passes on that a member has new mail.
func (r *reading) hint(m *Member, item string, at time.Time) {
	r.told.Store(at.UnixNano())
	r.group.groups.o.Metrics.hints.Inc()
	if item == "" || len(item) > maxItem {
		m.sink.List()
		return
	}
	m.sink.Hint(item, at)
}

// begin notes that the first envelope has come: notifications reach us now. Members that may have lost some before are listed.
func (r *reading) begin() {
	var list []*Member
	now := time.Now()
	mu := &r.group.groups.mu
	mu.Lock()
	r.group.fault, r.group.next = nil, time.Time{}
	r.as.proven = now
	for _, m := range r.by {
		if m.stream != r {
			continue
		}
		if m.since.IsZero() {
			m.since = now
			m.poll.Told()
		}
		if m.gap {
			m.listing(false)
			list = append(list, m)
		}
	}
	mu.Unlock()
	for _, m := range list {
		m.sink.List()
	}
}

func (r *reading) report(f *fault.Error) {
	r.opposed.Store(true)
	r.mu.Lock()
	if len(r.reports) < maxReports {
		r.reports = append(r.reports, f)
	}
	r.mu.Unlock()
	signal(r.reported)
}

// takeReports takes what was reported; there may be nothing left.
func (r *reading) takeReports() []*fault.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.reports
	r.reports = nil
	return list
}

// has says whether a member has its notifications on this stream; nil: there is none.
func (r *reading) has(m *Member, subscription string) bool {
	return r != nil && r.by[subscription] == m
}

// followed says whether members that are still here are served by a newer stream.
func (r *reading) followed() bool {
	mu := &r.group.groups.mu
	mu.Lock()
	defer mu.Unlock()
	for id, m := range r.by {
		if r.group.has(m, id) && m.stream != nil && m.stream != r {
			return true
		}
	}
	return false
}

// serves says whether the stream serves all of these subscriptions.
func (r *reading) serves(want map[string]*Member) bool {
	if r.spoilt {
		return false
	}
	for id, m := range want {
		if r.by[id] != m {
			return false
		}
	}
	return true
}

// handOver lets the stream end after another was opened with its ids. The server ends it, and by then what it had taken out of its queues
// for this stream has come. So mailboxes join and leave without a listing of the others. A stream that does not end in time is cut, and its
// members are listed.
func (r *reading) handOver(ctx context.Context) {
	t := time.NewTimer(handOver)
	defer t.Stop()
	select {
	case <-r.end:
	case <-t.C:
	case <-ctx.Done():
	}
	whole := r.ended() && (errors.Is(r.err, io.EOF) || fault.Of(r.err).Superseded)
	r.close()
	if !whole && ctx.Err() == nil {
		r.group.brokenBefore(r)
	}
}

// ended says whether the stream has ended by itself.
func (r *reading) ended() bool {
	select {
	case <-r.end:
		return true
	default:
		return false
	}
}

// close ends the stream and waits for its goroutine.
func (r *reading) close() {
	r.stop()
	<-r.end
}
