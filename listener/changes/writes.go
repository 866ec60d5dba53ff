package changes

import (
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// writesASecond bounds the calls that make, renew and remove subscriptions: Graph allows 1,000 in 20 s for an app in a tenant, and some
	// are left for whoever else uses the app. 15,000 mailboxes are subscribed within 6.5 minutes.
	writesASecond = 40
	// writesAtOnce is how many of them may follow each other at once: they start evenly.
	writesAtOnce = 4
	// maxWriting bounds those under way: a new subscription takes a second or two, for Graph asks at our URL meanwhile.
	maxWriting = 96
	// writeTimeout bounds one: Graph gives our URL 10 s, twice.
	writeTimeout = 45 * time.Second
	// witnesses is how many mailboxes in a row have to be refused for what can be the whole app's before the others wait.
	witnesses = 3
	// While all wait, one is tried after these, longer each time: what takes a person, and what passes.
	firstHold  = time.Minute
	maxHold    = 15 * time.Minute
	firstPause = 5 * time.Second
	maxPause   = 4 * time.Minute
)

// NewWrites returns the rate of writes.
func NewWrites() *rate.Limiter { return rate.NewLimiter(writesASecond, writesAtOnce) }

// The kinds of writes, the most urgent first: what is not renewed falls silent, and what is not removed costs nobody anything.
const (
	renewal = iota
	creation
	removal
	kinds // how many there are; as the kind of a write: none
)

// write is one that is to be made.
type write struct {
	member *Member // nil: a removal
	joined int
	at     *mail.Location // of a removal
	id     string
	tries  int
}

// writes are those that are to be made: one for each member at most, and those that remove what members have left, or an earlier start.
type writes struct {
	waiting [kinds][]write // first in first out
	workers int
	claimed int // of those that wait: a worker has its turn soon
}

func (w *writes) len() (n int) {
	for _, list := range w.waiting {
		n += len(list)
	}
	return n
}

// take takes the most urgent. There is one.
func (w *writes) take() (kind int, next write) {
	kind = slices.IndexFunc(w.waiting[:], func(list []write) bool { return len(list) > 0 })
	next = w.waiting[kind][0]
	w.waiting[kind][0] = write{}
	w.waiting[kind] = w.waiting[kind][1:]
	return kind, next
}

// hold says that all writes wait, since what refuses one would refuse all.
type hold struct {
	fault   *fault.Error // nil: nothing is held
	until   time.Time
	again   time.Duration
	refused map[*Member]struct{} // in a row
}

// add has a write made. It is called with mu held.
func (k *Keeper) add(kind int, w write) {
	k.writes.waiting[kind] = append(k.writes.waiting[kind], w)
	k.changed()
}

// hire starts workers for the writes that wait: as many as may be at once, or one where all are held and it is time to try. It is called
// with mu held.
func (k *Keeper) hire(now time.Time) {
	most := maxWriting
	if k.hold.fault != nil {
		most = 1
		if k.hold.until.After(now) {
			most = 0
		} else if k.writes.workers == 0 && k.writes.len() == 0 {
			k.volunteer()
		}
	}
	for !k.closed && k.writes.workers < most && k.writes.claimed < k.writes.len() {
		k.writes.workers++
		k.writes.claimed++
		k.tasks.Go(k.writing)
	}
}

// volunteer has a refused member try, the one that would be the next to: where all were refused, nobody else finds out whether the cause is
// over. It is called with mu held.
func (k *Keeper) volunteer() {
	var first *Member
	for m := range k.agenda.All() {
		if kind, next := m.wants(); kind == creation && !m.writing && m.in && !m.denied && m.refusal.Fault() != nil && common(m.refusal.Fault()) &&
			(first == nil || next.Before(first.refusal.Next())) {
			first = m
		}
	}
	if first == nil {
		return
	}
	first.writing = true
	first.plan()
	k.add(creation, write{member: first, joined: first.joined})
}

// writing makes writes, each in its turn, until there are none.
func (k *Keeper) writing() {
	for {
		err := k.o.Writes.Wait(k.ctx)
		k.mu.Lock()
		k.writes.claimed--
		if err != nil || k.writes.len() == 0 || k.hold.until.After(time.Now()) {
			k.writes.workers--
			k.mu.Unlock()
			return
		}
		kind, w := k.writes.take()
		k.mu.Unlock()
		switch kind {
		case renewal:
			k.renew(w)
		case creation:
			k.subscribe(w)
		case removal:
			k.remove(w)
		}
		k.mu.Lock()
		if k.closed || k.writes.len() <= k.writes.claimed || k.hold.fault != nil {
			k.writes.workers--
			k.changed()
			k.mu.Unlock()
			return
		}
		k.writes.claimed++
		k.mu.Unlock()
	}
}

// common says whether an error can be the whole app's, and not only that of one mailbox.
func common(f *fault.Error) bool {
	return f.Scope >= fault.Account || f.Unproven || f.Code == graph.CodeHandshake || f.Code == graph.CodeDenied
}

// release has the members tried again that were refused for what concerned all, but for those that are denied what others are granted. It
// is called with mu held.
func (k *Keeper) release() {
	for m := range k.agenda.All() {
		if f := m.refusal.Fault(); f != nil && common(f) && !m.denied {
			m.refusal.TryAt(time.Time{})
			m.plan()
		}
	}
	k.changed()
}

// disown notes that what mailboxes are denied concerns only them, for another was granted it: nobody waits for them any more. It is called
// with mu held.
func (k *Keeper) disown() {
	for m := range k.agenda.All() {
		if f := m.refusal.Fault(); f != nil && f.Code == graph.CodeDenied {
			m.denied = true
		}
	}
}

// enough is how many mailboxes have to be refused before what refuses them is taken to refuse all. It is called with mu held.
func (k *Keeper) enough() int {
	n := 0
	for m := range k.agenda.All() {
		if m.in && !m.denied {
			n++
		}
		if n == witnesses {
			break
		}
	}
	return max(n, 1)
}

// ended takes in how a write for a member ended: all wait where what refuses one would refuse all.
func (k *Keeper) ended(m *Member, f *fault.Error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case f == nil:
		if k.hold.fault != nil {
			k.release()
		}
		if len(k.hold.refused) > 0 {
			k.disown()
		}
		k.hold = hold{}
		return
	case !common(f) || m.denied && f.Code == graph.CodeDenied:
		return
	}
	if k.hold.refused == nil {
		k.hold.refused = map[*Member]struct{}{}
	}
	if len(k.hold.refused) < witnesses {
		k.hold.refused[m] = struct{}{}
	}
	if f.Scope != fault.Account && len(k.hold.refused) < k.enough() { // that an error is the account's own was proven before, in package listener
		return
	}
	now := time.Now()
	if k.hold.until.After(now) { // one that was under way
		return
	}
	if f.Remedy == fault.Fix {
		k.hold.again = min(max(2*k.hold.again, firstHold), maxHold)
	} else { // the wait that Graph itself names has been seen to be a second, whatever was wrong
		k.hold.again = max(min(max(2*k.hold.again, firstPause), maxPause), f.After)
	}
	if k.hold.fault == nil {
		k.o.Log.Warn("subscriptions at Microsoft Graph cannot be made; the mailboxes are polled", zap.Int("mailboxes", k.members),
			zap.Duration("next_try", k.hold.again), zap.Error(f))
	}
	k.hold.fault, k.hold.until = f, now.Add(k.hold.again)
	k.changed()
}
