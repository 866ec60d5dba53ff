package listener

// A followed mailbox: where it is looked for, and what it has there.

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// confirmed is for how long a location that was just found is not doubted: else, where two servers contradict each other, each look-up
	// would cause the next one at once.
	confirmed = 30 * time.Second
	// moving is for how long a mailbox that had a location, and that no entry has any more, is looked for every few minutes: it is probably
	// being moved. After that it takes a person.
	moving = time.Hour
)

// mailbox is a mailbox that is followed. One look-up at a time finds its location, gives it a seat and has it listened to; everybody else
// asks for a look-up.
type mailbox struct {
	l    *Listener
	box  *subscriptions.Mailbox
	work *inbox.Mailbox
	room seat // guarded by the mu of the seats of its entry

	mu      sync.Mutex
	due     bool   // a look-up is asked for
	busy    bool   // a look-up is queued or under way
	doubted bool   // the next look-up begins by giving its location up
	unsure  bool   // the next look-up is made though its location is known, which is kept until it is found elsewhere
	closed  bool   // it has no device any more
	quest   *quest // nil: it has its location, or was not looked up yet

	// What follows is changed only by the look-up under way, or by close while there is none.

	entry   *entry     // where it has a seat or waits for one; nil: nowhere
	account *account   // of its seat; nil: it waits for one
	link    *link      // how the inbox reads it; nil: its location is not known
	host    *way       // where it was to be listened to last; nil: nowhere yet
	member  membership // at host, whether it has joined or not
}

func newMailbox(l *Listener, box *subscriptions.Mailbox) *mailbox {
	return &mailbox{l: l, box: box, work: l.o.Inbox.Open(box)}
}

func (m *mailbox) address() string { return m.box.Record().Addresses[0] }

// linked is how the mailbox is read; nil: its location is not known.
func (m *mailbox) linked() *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link
}

// search is the search for the mailbox as its devices are enrolled now.
func (m *mailbox) search() search {
	s := m.l.search(m.box)
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.failing()
	s.unsure, s.waited = m.unsure, f != nil && ofOutage(f)
	if m.quest != nil && !m.quest.lost.IsZero() {
		s.known = mail.Location{}
	}
	return s
}

// lookUp is one look-up.
func (m *mailbox) lookUp(ctx context.Context) {
	k, closed := m.begin()
	if k != nil {
		m.giveUp(ctx, k)
	}
	var found answered
	if !closed {
		found = m.find(ctx)
	}
	m.end(ctx, found)
}

// begin begins a look-up. It returns the link that is to be given up; nil: there is none. closed: the mailbox is not followed any more, its
// record may be that of one that was enrolled anew, and end cleans up.
func (m *mailbox) begin() (k *link, closed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, true
	}
	if m.doubted || !m.unsure {
		k = m.link
		m.unlink()
	}
	m.due, m.doubted = false, false
	return k, false
}

// unlink forgets how the mailbox was read. It is called with mu held.
func (m *mailbox) unlink() {
	if m.link != nil {
		m.link.way.links.Add(-1)
		m.link.dropTold(true)
	}
	m.link = nil
}

// giveUp ends reading and listening at a location. The subscription is given back where it was made.
func (m *mailbox) giveUp(ctx context.Context, k *link) {
	m.work.Detach()
	k.member.Leave()
	m.l.o.Book.Forget(m.box)
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		at := d.Location()
		at.Found = time.Time{}
		d.At, d.Subscription = &at, ""
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, subscriptions.ErrNoMailbox) { // the next start will look where it was
		m.l.log.Warn("a doubtful location could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
}

// find finds the mailbox, gives it a seat and has it listened to.
func (m *mailbox) find(ctx context.Context) answered {
	s := m.search()
	m.mu.Lock()
	m.sought().asked = append([]*entry{}, s.entries...)
	m.mu.Unlock()
	found := s.run(ctx)
	if k := m.linked(); k != nil && !k.leadsTo(found) { // it was looked up without giving its location up
		m.mu.Lock()
		m.unlink()
		m.mu.Unlock()
		m.giveUp(ctx, k)
	}
	if found.err != nil {
		return m.missing(found)
	}
	a := m.seat(found.entry, s.account, groupingOf(found.at))
	if a == nil {
		return answered{entry: found.entry, err: found.entry.full()}
	}
	const uncounted = "a primary address does not count, since it is in none of the domains of the exchange entry that tells it"
	if found.other != "" && m.box.Record().Location().How != found.at.How { // once, and not with each look-up
		m.l.log.Warn(uncounted, zap.String("mailbox", m.address()), zap.String("exchange", found.entry.Name),
			zap.String("primary", found.other), zap.String("instead", found.at.Primary))
	}
	finish := func(ctx context.Context, other *subscriptions.Mailbox) ([]subscriptions.Twin, error) {
		return m.work.Finish(ctx, a.way(found.at.Source).lister(found.at), other)
	}
	same, joined, err := m.l.o.Book.Name(ctx, m.box, found.entry.Name, found.at.Primary, finish)
	if err != nil {
		return answered{err: fault.Of(err)}
	}
	if joined { // another address of a mailbox that is followed already: its devices have gone over
		m.l.unfollow(m.box)
		m.l.arrived(same)
		return found
	}
	if err := m.settle(ctx, a, found.at); err != nil {
		return answered{err: fault.Of(err)}
	}
	return found
}

// missing says what it means that a mailbox was not found. One that no entry has gives its seat back; one that had a location until now is
// on its way, and looked for again soon.
func (m *mailbox) missing(found answered) answered {
	if !found.err.Elsewhere {
		return found
	}
	m.unseat()
	m.mu.Lock()
	defer m.mu.Unlock()
	q, f := m.sought(), *found.err
	found.err = &f
	if m.box.Record().Location().URL == "" || found.outOfScope {
		if q.failure.why == nil && len(q.asked) > 1 { // it may have moved from one to the other between the questions
			f.Remedy, f.After = fault.Wait, confirmed
		}
		return found
	}
	q.lose()
	if time.Since(q.lost) <= moving {
		f.Remedy, f.After = fault.Wait, 0
	}
	return found
}

// keep gives the mailbox the seat that its record tells of, before it is looked up.
func (m *mailbox) keep() {
	r := m.box.Record()
	for _, e := range m.l.entries {
		if e.Name != r.Location().Entry || r.Account == "" {
			continue
		}
		if a := e.seats.keep(m, r.Account, groupingOf(r.Location())); a != nil {
			m.entry, m.account = e, a
		}
	}
}

// seat gives the mailbox a seat at an entry; nil: it waits for one. What it had at another goes back.
func (m *mailbox) seat(e *entry, had string, g grouping) *account {
	m.mu.Lock()
	elsewhere := m.entry != nil && m.entry != e
	m.mu.Unlock()
	if elsewhere {
		m.unseat()
	}
	a := e.seats.take(m, had, g)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry, m.account = e, a
	return a
}

// unseat gives back the mailbox's seat, or ends its wait for one. Whoever gets the seat is looked up.
func (m *mailbox) unseat() {
	m.mu.Lock()
	e := m.entry
	m.entry, m.account = nil, nil
	m.mu.Unlock()
	if e == nil {
		return
	}
	if next := e.seats.leave(m); next != nil {
		next.seek()
	}
}

// settle writes down where the mailbox lives, and has it read and listened to there.
func (m *mailbox) settle(ctx context.Context, a *account, at mail.Location) error {
	at = at.Shared()
	r := m.box.Record()
	there, was := r.At, r.Location()
	if at != was {
		there = &at
	}
	if moved := r.Account != a.Name || was.Entry != at.Entry || was.URL != at.URL; moved || at != was {
		err := m.box.Update(ctx, func(d *subscriptions.Draft) {
			if moved { // an id belongs to the account and the location that made it
				d.Subscription, d.Graph = "", nil
			}
			d.At, d.Account = there, a.Name
			if at.ReadBy() == mail.Graph && a.entry.ListenBy != ByGraph && d.ListenBy == "" { // it went where all others of the entry are, and stays there
				d.ListenBy = ByGraph
			}
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	way := a.way(at.Source)
	var before membership // it is left for good
	if m.host != way {
		before = m.member
		m.host, m.member = way, way.listening.member(m)
	}
	k := &link{m: m, way: way, member: m.member, at: there, outage: a.entry.outages.of(there.URL), server: at.Server}
	m.unlink()
	way.links.Add(1)
	m.link, m.quest = k, nil
	m.mu.Unlock()
	forsake(before)
	m.work.Attach(k)
	k.member.Join(k.at)
	return nil
}

// end ends a look-up: the next one is made at once if it is asked for meanwhile, and after a back-off if this one failed.
func (m *mailbox) end(ctx context.Context, found answered) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		m.cleanUp()
		return
	}
	if ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	f := found.err
	m.unsure = false
	again := m.due && (f != nil || m.doubted)
	m.due, m.busy = again, again
	first, next := m.note(found, again)
	m.mu.Unlock()
	if again {
		m.queue()
	} else {
		m.cover() // it may have been pinned meanwhile, or told to go over
	}
	switch {
	case f == nil || !first || f.Scope > fault.Mailbox: // what concerns more is said once, by the account
	case found.outOfScope: // as it is configured
		m.l.log.Info("a mailbox is out of scope", zap.String("mailbox", m.address()), zap.String("reason", f.Text))
	default:
		m.l.log.Warn("a mailbox cannot be located", zap.String("mailbox", m.address()), zap.Time("next_try", next), zap.Error(f))
	}
}

// note notes how a look-up ended, and sets when the next is made where it failed; again: it is made at once anyway. It says whether it is
// the first failure in a row. It is called with mu held.
func (m *mailbox) note(found answered, again bool) (first bool, next time.Time) {
	if found.err == nil {
		return false, time.Time{}
	}
	q := m.sought()
	f := failure{why: found.err, where: found.entry, outOfScope: found.outOfScope, times: q.failure.times + 1}
	if !again && len(q.asked) > 0 { // where no entry covers it, only a restart with another configuration helps
		wait := f.why.Pause(f.times)
		f.next, f.wake = time.Now().Add(wait), time.AfterFunc(wait, m.seek)
	}
	q.failure = f
	return f.times == 1, f.next
}

// rest stops the timer of the next look-up, since the listener is stopping.
func (m *mailbox) rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noBackOff()
}

// close ends following a mailbox that has no device any more. A look-up under way cleans up after itself.
func (m *mailbox) close() {
	m.mu.Lock()
	m.closed = true
	m.noBackOff()
	busy := m.busy
	m.mu.Unlock()
	if !busy {
		m.cleanUp()
	}
}

// cleanUp gives back what the mailbox has: its subscription, and its seat.
func (m *mailbox) cleanUp() {
	m.mu.Lock()
	member := m.member
	m.unlink()
	m.member, m.host = nil, nil
	m.mu.Unlock()
	if member != nil {
		member.Leave()
		forsake(member)
	}
	m.unseat()
}
