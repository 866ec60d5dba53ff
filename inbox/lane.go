package inbox

// The places that the mailboxes of one exchange entry share, so that a sick Exchange harms its own mailboxes only.

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxWorkers bounds the mailboxes of an entry that are read at once; the others stay marked. At 1,000 messages a second and 100 ms
	// a message 100 are at work; the rest is room for a slow server.
	maxWorkers = 1024
	// maxListers bounds those of them that begin with a listing: half, so that new mail that a hint named always has the others.
	maxListers = maxWorkers / 2
	// maxAlerts bounds the alerts of an entry that are made and not answered, those of new mail and those of catch-ups each: 16 MiB of
	// them. It is more than one mailbox has at once.
	maxAlerts = 16 << 10
	// maxCatchUps bounds the mailboxes of an entry whose devices catch up at once: live mail goes first.
	maxCatchUps = 32
	// A catch-up that takes longer than brisk gives its place to the next, as long as fewer than maxSlow do: a mailbox that hangs keeps
	// no others waiting.
	brisk   = 2 * time.Second
	maxSlow = 256
	// stuck is after how long another Inbox is read in addition to one that is still being read: a mailbox that hangs keeps no others
	// waiting.
	stuck = 500 * time.Millisecond
	// maxAhead bounds the mailboxes of an entry that are being read, or were read and wait for APNs and the state: twice as many as may
	// have pushes under way. To read further ahead in a burst would alert nobody earlier, and each has a goroutine. A mailbox that has
	// waited for longer than stuck does not count, so that a topic that APNs keeps waiting does not hold the reading of others.
	maxAhead = 2 * maxPushes
)

// lane is the workers of an exchange entry, and the marked mailboxes that wait for one.
type lane struct {
	in       *Inbox
	alerts   *semaphore.Weighted // room for those of new mail
	owed     *semaphore.Weighted // room for those of devices that catch up
	catchUps chan struct{}
	slow     chan struct{} // catch-ups that take long
	hangs    *alarm        // after stuck

	mu      sync.Mutex
	hinted  []*Mailbox // with new mail, first in first out
	listed  []*Mailbox // to be listed only, first in first out
	active  int        // workers, without those that are sending
	ahead   int        // workers that are sending, for no longer than stuck yet
	listers int        // workers that serve a mailbox of listed
	paging  int        // listers that are still reading its Inbox, for no longer than stuck yet
	taken   uint64     // how many mailboxes workers ever took
	waited  bool       // when idles looked last, a mailbox waited though a worker might have taken it
	before  uint64     // taken, when idles looked last
}

func newLane(in *Inbox) *lane {
	return &lane{in: in, alerts: semaphore.NewWeighted(maxAlerts), owed: semaphore.NewWeighted(maxAlerts),
		catchUps: make(chan struct{}, maxCatchUps), slow: make(chan struct{}, maxSlow), hangs: newAlarm(stuck)}
}

// sending is a mailbox that was read, and whose alerts wait for APNs and then for the state. Its worker does not count as active meanwhile,
// so that others may be read, but as ahead, which bounds how many are.
type sending struct {
	lane  *lane
	room  int64  // of the alerts
	hangs uint64 // the call of its lane's alarm
	ahead bool   // it counts as that; guarded by the lock of the lane
}

// send begins the sending of so many alerts; end ends it. false: ctx has ended.
func (l *lane) send(ctx context.Context, alerts int) (s *sending, ok bool) {
	s = &sending{lane: l, room: int64(min(alerts, maxAlerts)), ahead: true}
	l.mu.Lock()
	l.active--
	l.ahead++
	l.mu.Unlock()
	l.start()
	s.hangs = l.hangs.set(s.hang)
	if l.alerts.Acquire(ctx, s.room) != nil {
		s.back()
		return nil, false
	}
	return s, true
}

func (s *sending) end() {
	s.lane.alerts.Release(s.room)
	s.back()
}

// hang notes that it takes long. It does not count as ahead any more: another mailbox may be read in its place.
func (s *sending) hang() {
	s.lane.mu.Lock()
	s.notAhead()
	s.lane.mu.Unlock()
	s.lane.start()
}

// back has the worker go on with its mailbox, even where there are as many active ones as there may be.
func (s *sending) back() {
	s.lane.hangs.callOff(s.hangs)
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	s.notAhead()
	s.lane.active++
}

// notAhead counts it out of those that are ahead. It is called with the lock of the lane held.
func (s *sending) notAhead() {
	if s.ahead {
		s.ahead = false
		s.lane.ahead--
	}
}

// catchingUp waits for room for so many alerts that devices are owed; done gives it back. false: ctx has ended.
func (l *lane) catchingUp(ctx context.Context, alerts int) (done func(), ok bool) {
	room := int64(min(alerts, maxAlerts))
	if l.owed.Acquire(ctx, room) != nil {
		return nil, false
	}
	return func() { l.owed.Release(room) }, true
}

// enterCatchUp waits for a place for a catch-up; leave gives it back. false: ctx has ended.
func (l *lane) enterCatchUp(ctx context.Context) (leave func(), ok bool) {
	select {
	case l.catchUps <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	var mu sync.Mutex
	place := l.catchUps
	t := time.AfterFunc(brisk, func() {
		mu.Lock()
		defer mu.Unlock()
		if place == nil {
			return
		}
		select {
		case l.slow <- struct{}{}:
			<-place
			place = l.slow
		default:
		}
	})
	return func() {
		t.Stop()
		mu.Lock()
		defer mu.Unlock()
		<-place
		place = nil
	}, true
}

// queue gives a mailbox to the next worker that is free. hinted: new mail waits in it.
func (l *lane) queue(m *Mailbox, hinted bool) {
	l.mu.Lock()
	if hinted {
		l.hinted = append(l.hinted, m)
	} else {
		l.listed = append(l.listed, m)
	}
	l.mu.Unlock()
	l.start()
}

// start starts another worker where there is something for it to do.
func (l *lane) start() {
	l.mu.Lock()
	more := l.mayStart()
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

// mayStart says whether there is something to do for another worker. It is called with mu held.
func (l *lane) mayStart() bool {
	return l.active < maxWorkers && (l.mayRead(1) || l.mayList())
}

// mayRead says whether the next mailbox with new mail may be taken now, by another worker (more is 1) or by one that is active already (0).
// So many read at once as it is worth: more would only wait for their turns at the server, each with a goroutine. It is called with mu
// held.
func (l *lane) mayRead(more int) bool {
	if len(l.hinted) == 0 || l.active+l.ahead+more > maxAhead {
		return false
	}
	a := l.hinted[0].link.Load()
	return a == nil || l.active-l.listers+more <= max(1, a.Reads())
}

// mayList says whether the next mailbox that is to be listed may be taken now. Once it is taken, its Inbox has to be read at once: if it
// waited for its turn at the server, a hint that came meanwhile would wait as long. It is called with mu held.
func (l *lane) mayList() bool {
	if len(l.listed) == 0 || l.listers >= maxListers || l.active+l.ahead > maxAhead {
		return false
	}
	a := l.listed[0].link.Load()
	return a == nil || l.paging < max(1, a.Listings())
}

// work is a worker: it serves marked mailboxes until there are none.
func (l *lane) work() {
	for {
		m, lists := l.next()
		if m == nil {
			return
		}
		l.start() // there may be work for another one
		if !lists {
			m.serve(l.in.working, func() {})
			continue
		}
		paged := sync.OnceFunc(l.paged)
		hangs := l.hangs.set(paged)
		m.serve(l.in.working, paged)
		l.hangs.callOff(hangs)
		paged()
		l.mu.Lock()
		l.listers--
		l.mu.Unlock()
	}
}

// paged notes that an Inbox has been read, or has taken long: the next may be read.
func (l *lane) paged() {
	l.mu.Lock()
	l.paging--
	l.mu.Unlock()
	l.start()
}

// next takes the mailbox that has waited the longest, one with new mail before one that is to be listed; nil: there is none, and the worker
// has ended.
func (l *lane) next() (m *Mailbox, lists bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := &l.hinted
	lists = !l.mayRead(0)
	if lists {
		queue = &l.listed
	}
	if l.in.stopping.Load() || l.active > maxWorkers || lists && !l.mayList() {
		l.active--
		return nil, false
	}
	m = (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	l.taken++
	if lists {
		l.listers++
		l.paging++
	}
	return m, lists
}

// idles says whether a mailbox waits though a worker may take it, and did so when this was asked last, and none was taken in between. It
// starts a worker: a server that got quicker meanwhile may be worth another.
func (l *lane) idles() bool {
	l.mu.Lock()
	waits := l.mayStart()
	idles := waits && l.waited && l.taken == l.before
	l.waited, l.before = waits, l.taken
	l.mu.Unlock()
	if waits {
		l.start()
	}
	return idles
}
