package listener

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// maxHints bounds the items that a mailbox remembers from hints (rule 7): beyond it a listing is cheaper.
	maxHints = 64
	// maxDecisions is how many decisions are shown of a mailbox.
	maxDecisions = 50

	firstRetry = 250 * time.Millisecond
	maxRetry   = 30 * time.Second // for what passes within seconds
	firstWait  = 5 * time.Second
	maxWait    = 4 * time.Minute // what can pass by itself is tried within five minutes, jitter included,
	person     = time.Hour       // what needs a person hourly
	maxJitter  = time.Minute
)

// mailbox is a mailbox at work. Its marks are the set of rule 7: what came since a worker last took them.
type mailbox struct {
	l   *Listener
	box *subscriptions.Mailbox

	mu sync.Mutex
	// e is the entry whose workers serve it: the one that has it, or that it waits for room at, else the first that covers it; nil: none
	// does. It changes in a turn only, while the mailbox is in no worker's queue.
	e *entry
	// marks
	hints map[string]time.Time // item id -> when it was hinted
	list  bool
	// whose turn it is
	queued, running bool
	woken           bool        // what it fails of may have ended within this turn: it does not back off
	notBefore       time.Time   // back-off
	retry           *time.Timer // when notBefore is over
	poll            *time.Timer // the safety poll
	closed          bool
	// how it is heard
	asked     []*entry      // who was asked for it, or would have been, when it was last looked for
	account   *account      // of e
	place     mail.Location // at e; zero: not known
	lost      time.Time     // it had a place, and has been looked for since then; zero: it has one, or never had
	group     *group
	open      bool         // its stream is open
	since     time.Time    // it is open, or was handed over, since then
	listed    bool         // a complete listing was done since it was last marked for one
	waits     bool         // in the queue of e for room at an account
	failing   *fault.Error // why it is parked
	fails     int
	subFault  *fault.Error // why it has no subscription
	subNext   time.Time
	subFails  int
	hinted    time.Time
	listing   time.Time
	message   time.Time
	tries     map[string]*tries // items that could not be read, by id
	decisions []subscriptions.Decision
	newest    int // index of the newest decision, once there are maxDecisions
	// devices
	lines    map[string]*line
	awaiting map[string]time.Time // devices whose sender tells when they can be rung again -> when they are tried all the same
	catching bool
	catchup  *time.Timer
}

// line is what goes on for one device. It ends when the device is removed: then no alert begins any more.
type line struct {
	ctx     context.Context
	cancel  context.CancelFunc
	pushing int            // bells without an answer
	calls   sync.WaitGroup // the same, to wait for
}

func newMailbox(l *Listener, box *subscriptions.Mailbox) *mailbox {
	m := &mailbox{l: l, box: box, lines: map[string]*line{}}
	s := l.search(box)
	for _, e := range s.entries {
		if m.e == nil || e.Name == s.known.Entry {
			m.e = e
		}
	}
	return m
}

func (m *mailbox) entry() *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.e
}

// hint marks the mailbox: it may have this new item.
func (m *mailbox) hint(item string, at time.Time) {
	m.mu.Lock()
	m.hinted = at
	switch _, known := m.hints[item]; {
	case known:
	case len(m.hints) >= maxHints:
		m.list = true
	default:
		if m.hints == nil {
			m.hints = map[string]time.Time{}
		}
		m.hints[item] = at
	}
	m.ready()
}

// markListing marks the mailbox: anything may have come.
func (m *mailbox) markListing() {
	m.mu.Lock()
	m.list, m.listed = true, false
	m.ready()
}

// ready queues a marked mailbox, unless it is at work, queued, or backing off. It is called with mu held and releases it.
func (m *mailbox) ready() {
	wait, e := time.Until(m.notBefore), m.e
	queue := !m.queued && !m.running && !m.closed && m.e != nil && wait <= 0
	if queue {
		m.queued = true
	} else if wait > 0 && !m.closed && m.retry == nil {
		m.retry = time.AfterFunc(wait, m.retryNow)
	}
	m.mu.Unlock()
	if queue {
		e.ready(m)
	}
}

// retryNow ends a back-off, also the one that a turn under way is about to begin.
func (m *mailbox) retryNow() {
	m.mu.Lock()
	m.woken = m.running
	if m.retry != nil {
		m.retry.Stop()
		m.retry = nil
	}
	m.notBefore = time.Time{}
	if !m.list && len(m.hints) == 0 && m.group != nil {
		m.mu.Unlock()
		return
	}
	m.ready()
}

// serve is one turn of a worker: it takes the marks, and what could not be done goes back to them.
func (m *mailbox) serve(ctx context.Context) {
	m.mu.Lock()
	hints, list, placed := m.hints, m.list, m.group != nil
	m.hints, m.list = nil, false
	m.queued, m.running, m.woken = false, true, false
	if m.retry != nil { // this is it
		m.retry.Stop()
		m.retry = nil
	}
	if m.closed {
		m.running = false
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()

	var err error
	if !placed {
		was := m.box.Record().Location.Entry
		err = m.find(m.l.hearing) //nolint:contextcheck // placing ends with hearing, before what is being rung
		m.cover(ctx)              // it may have been pinned meanwhile
		r := m.box.Record()
		if r.Location.Entry != was { // another Exchange has other ids for the same items, and is listed
			clear(hints)
		}
		list = r.Subscription != "" || m.unsubscribable() // else the group marks it once it has one: subscribe, then list (rule 11)
	}
	doubted := map[string]due{}
	if err == nil {
		err = m.read(ctx, hints, doubted)
	}
	if list = list || len(doubted) > 0 || m.box.Record().Crowded(); err == nil && list {
		err = m.listInbox(ctx, hints, doubted)
	}
	if err == nil && m.strayed() {
		m.relocate(ctx)
	}
	err = m.doubted(ctx, err)

	m.mu.Lock()
	m.running = false
	if err != nil {
		m.putBack(hints, list || !placed)
	}
	m.rate(err)
	if m.list || len(m.hints) > 0 {
		m.ready()
		return
	}
	m.mu.Unlock()
}

// putBack returns marks that could not be served. It is called with mu held.
func (m *mailbox) putBack(hints map[string]time.Time, list bool) {
	m.list = m.list || list
	for item, at := range m.hints {
		if hints == nil {
			hints = map[string]time.Time{}
		}
		hints[item] = at
	}
	if m.hints = hints; len(hints) > maxHints {
		m.hints, m.list = nil, true
	}
	if m.list {
		m.listed = false
	}
}

// rate sets the back-off after a turn. It is called with mu held.
func (m *mailbox) rate(err error) {
	if err == nil {
		m.failing, m.fails = nil, 0
		return
	}
	if m.l.stopping.Load() || m.closed {
		m.notBefore = time.Now().Add(person) // nothing is tried any more
		return
	}
	m.fails++
	m.failing = fault.Of(err)
	m.notBefore = time.Now()
	if !m.woken {
		m.notBefore = m.notBefore.Add(backOff(m.failing, m.fails))
	}
	switch {
	case m.fails > 1 || m.failing.Scope > fault.Mailbox: // what concerns more is said once, by the account or the group
	case m.failing.Code == codeOutOfScope: // as it is configured
		m.l.log.Info("a mailbox is out of scope", zap.String("mailbox", m.address()), zap.String("reason", m.failing.Text))
	default:
		m.l.log.Warn("a mailbox is parked", zap.String("mailbox", m.address()), zap.Time("next_try", m.notBefore), zap.Error(err))
	}
}

// unsubscribable says whether its group does not try to subscribe it yet.
func (m *mailbox) unsubscribable() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.subNext)
}

// answers tells the mailbox that its server answers: what failed because it did not is tried at once.
func (m *mailbox) answers() {
	m.mu.Lock()
	waits := m.failing != nil && m.failing.Scope == fault.Server
	if m.subFault != nil && m.subFault.Scope == fault.Server {
		m.subNext = time.Time{}
	}
	m.mu.Unlock()
	if waits {
		m.retryNow()
	}
}

// accountChanged has what failed for an account be tried at once, also where it was only asked where the mailbox lives.
func (m *mailbox) accountChanged(a *account) {
	m.mu.Lock()
	concerned := m.account == a || m.group == nil && slices.Contains(m.asked, a.e)
	failed := concerned && m.failing != nil && m.failing.Scope == fault.Account
	if concerned && m.subFault != nil && m.subFault.Scope == fault.Account {
		m.subNext = time.Time{}
	}
	m.mu.Unlock()
	if failed {
		m.retryNow()
	}
}

// backOff is how long to wait after the nth failure in a row, with a jitter so that mailboxes that failed together do not come back together.
func backOff(f *fault.Error, n int) time.Duration {
	var d time.Duration
	switch {
	case f.Scope == fault.Account: // the account itself says who may try, and when
		d = firstBlock
	case f.Remedy == fault.Retry:
		d = min(firstRetry<<min(n-1, 10), maxRetry)
	case f.Remedy == fault.Wait:
		d = min(firstWait<<min(n-1, 10), maxWait)
	default:
		d = person
	}
	if f.After > 0 && (f.After > d || f.Scope == fault.Account || f.Remedy == fault.Fix) {
		d = f.After
	}
	return d + rand.N(min(d/4, maxJitter)+1)
}

// completed notes a complete listing, and when the next one is due if no hint comes: the safety poll, for a subscription can die in silence.
func (m *mailbox) completed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listing = time.Now()
	m.listed = !m.list
	if f := m.subFault; f != nil && f.Elsewhere && m.group != nil { // it lives here after all: it was away, and has come back
		if again := time.Now().Add(min(firstWait<<min(m.subFails, 10), maxWait)); again.Before(m.subNext) {
			m.subNext = again
			m.group.poke()
		}
	}
	if m.closed {
		return
	}
	wait := m.e.SafetyPoll - rand.N(m.e.SafetyPoll/8+1)
	if m.poll == nil {
		m.poll = time.AfterFunc(wait, m.markListing)
		return
	}
	m.poll.Reset(wait)
}

// rest stops the timers: nothing is marked any more.
func (m *mailbox) rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range []*time.Timer{m.retry, m.poll, m.catchup} {
		if t != nil {
			t.Stop()
		}
	}
	for _, t := range m.tries {
		if t.again != nil {
			t.again.Stop()
		}
	}
	m.closed = true
}

// close ends the watch of a mailbox that has no device any more: its subscription is given back.
func (m *mailbox) close() {
	m.rest()
	m.mu.Lock()
	group := m.group
	m.group, m.open = nil, false
	var lines []*line
	for id, l := range m.lines {
		delete(m.lines, id)
		lines = append(lines, l)
	}
	m.mu.Unlock()
	for _, l := range lines {
		l.cancel()
		l.calls.Wait()
	}
	if group != nil {
		group.remove(m, m.box.Record())
	}
	m.leave()
}

// dial returns the line to a device for one more bell; nil when the device is no longer enrolled. hungUp ends the bell.
func (m *mailbox) dial(device string) *line {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.box.Device(device); !ok || m.l.stopping.Load() {
		return nil
	}
	l := m.lines[device]
	if l == nil {
		l = &line{}
		l.ctx, l.cancel = context.WithCancel(m.l.working)
		m.lines[device] = l
	}
	l.pushing++
	l.calls.Add(1)
	return l
}

func (m *mailbox) hungUp(device string, l *line) {
	m.mu.Lock()
	l.pushing--
	if l.pushing == 0 && m.lines[device] == l { // idle devices cost nothing
		l.cancel()
		delete(m.lines, device)
	}
	m.mu.Unlock()
	l.calls.Done()
}

// hangUp ends what goes on for a device that is removed, and waits for its end.
func (m *mailbox) hangUp(device string) {
	m.mu.Lock()
	l := m.lines[device]
	delete(m.lines, device)
	delete(m.awaiting, device)
	m.mu.Unlock()
	if l != nil {
		l.cancel()
		l.calls.Wait()
	}
}

// pushing says whether a device has bells without an answer.
func (m *mailbox) pushing(device string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lines[device]
	return l != nil && l.pushing > 0
}
