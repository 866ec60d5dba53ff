package listener

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// settle is how long a group waits for more mailboxes to join or leave before its stream is opened anew.
	settle = 200 * time.Millisecond
	// handOver is how long the old stream may take to end after the new one was opened: the server ends it at once, with ErrorNewEventStreamConnectionOpened.
	handOver = 5 * time.Second
	// subscribing bounds the Subscribe and Unsubscribe calls of a group at once: below the 10 that Exchange 2010 allows an account.
	subscribing = 8
	// welcome bounds a Subscribe: while one mailbox hangs, its group does not reopen its stream.
	welcome = 15 * time.Second
	// lived is how long a stream has to have been open for its end to count as the first failure and not as one more.
	lived     = 10 * time.Second
	maxReopen = time.Minute
	// farewell bounds giving a subscription back: one that is not given back expires at the server.
	farewell = 10 * time.Second
)

// groupKey is what mailboxes that may share a stream have in common, within one account: the owner of their subscriptions.
type groupKey struct{ url, group string }

// group is the mailboxes of one account whose subscriptions share a stream; its goroutine keeps it open.
type group struct {
	a    *account
	key  groupKey
	log  *zap.Logger
	wake chan struct{} // a mailbox joined or left
	deaf chan struct{} // the stream tells too little: it is to be replaced

	mu      sync.Mutex
	members map[*mailbox]struct{}
	leaving []*subscriptions.Record // of mailboxes that left, with a subscription to give back
	ended   bool
	late    []time.Time  // when messages were found that the stream should have told of
	fault   *fault.Error // why the stream is not open
	next    time.Time    // when it is tried again

	beat atomic.Int64 // when the stream last brought anything, in Unix nanoseconds
	anew atomic.Bool  // the account has a new credential: nothing is waited for

	// The goroutine's own.
	affinity Affinity
	turn     int // who the stream is opened as: the anchor, then the next after it
	tried    int // others in a row
	fails    int
	missed   bool      // the last stream ended, or failed to open, without a word: what it was to bring is lost
	reopen   time.Time // not before
}

func newGroup(a *account, k groupKey) *group {
	return &group{
		a: a, key: k, wake: make(chan struct{}, 1), deaf: make(chan struct{}, 1), members: map[*mailbox]struct{}{},
		log: a.e.l.log.With(zap.String("exchange", a.e.Name), zap.String("account", a.Name)),
	}
}

// add takes a mailbox in, where there is room.
func (g *group) add(m *mailbox) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || len(g.members) >= g.a.e.SubscriptionsPerConnection {
		return false
	}
	g.members[m] = struct{}{}
	g.poke()
	return true
}

// remove takes a mailbox out; r is its record from when it was in.
func (g *group) remove(m *mailbox, r *subscriptions.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.members[m]; !ok {
		return
	}
	delete(g.members, m)
	if r.Subscription != "" {
		g.leaving = append(g.leaving, r)
	}
	g.poke()
}

// leave has a subscription given back.
func (g *group) leave(r *subscriptions.Record) {
	g.mu.Lock()
	g.leaving = append(g.leaving, r)
	g.mu.Unlock()
	g.poke()
}

func (g *group) poke() { signal(g.wake) }

// signal leaves a signal where none waits yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// hintDelay is how old a message is that a stream has had the time to tell of.
	hintDelay = time.Minute
	// maxLate within lateWindow replace a stream: one may be a slip, two are a stream that is dead though it beats.
	maxLate    = 2
	lateWindow = time.Hour
)

// missedOne notes that a listing found a message that the stream should have told of.
func (g *group) missedOne() {
	now := time.Now()
	g.mu.Lock()
	g.late = slices.DeleteFunc(g.late, func(t time.Time) bool { return now.Sub(t) > lateWindow })
	g.late = append(g.late, now)
	dead := len(g.late) >= maxLate
	if dead {
		g.late = nil
	}
	g.mu.Unlock()
	if dead {
		signal(g.deaf)
	}
}

// run keeps the group heard until it is empty, or ctx ends.
func (g *group) run(ctx context.Context) {
	defer g.a.e.l.tasks.Done()
	var open *reading
	var old sync.WaitGroup // streams that are handed over; each takes handOver at most, and the group does not wait for it
	defer old.Wait()
	defer func() { open.close() }()
	for {
		g.part(ctx)
		if ctx.Err() != nil || g.finish() {
			return
		}
		if g.anew.Swap(false) {
			g.reopen = time.Time{}
		}
		want, retry := g.subscribe(ctx)
		if ctx.Err() != nil {
			return
		}
		if len(want) > 0 && !open.hears(want) && !time.Now().Before(g.reopen) {
			opened, err := g.open(ctx, want)
			if err != nil {
				if !g.astray(ctx, err, want) && !g.another(err, len(want)) {
					g.trouble(ctx, err, want)
				}
				continue
			}
			was := open
			old.Go(func() { was.handOver(ctx) })
			open = opened
			g.opened(want)
		}
		if len(want) > 0 && !open.hears(want) {
			retry = sooner(retry, g.reopen)
		}
		alarm := time.NewTimer(until(retry))
		select {
		case <-ctx.Done():
		case <-alarm.C:
		case <-g.wake:
			pause.For(ctx, settle)
		case <-g.deaf:
			if open != nil {
				g.log.Warn("a stream is open and does not tell of new mail; it is replaced", zap.Int("mailboxes", len(open.by)))
				open.spoilt, g.missed = true, true
			}
		case <-open.words():
			open.spoilt = true
			for i, err := range open.said() {
				if i == 0 {
					g.backOff(open.since, fault.Of(err))
					g.soon() // the server does its work: it has said what is wrong
				}
				g.trouble(ctx, g.a.note(err), open.by)
			}
		case <-open.ended():
			g.over(ctx, open)
			open = nil
		}
		alarm.Stop()
	}
}

// idle is how long a group sleeps when nothing is due; anything that happens wakes it.
const idle = time.Hour

func until(t time.Time) time.Duration {
	if t.IsZero() {
		return idle
	}
	return time.Until(t)
}

// sooner is the earlier of two times, where zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// finish ends an empty group.
func (g *group) finish() bool {
	g.mu.Lock()
	g.ended = len(g.members) == 0 && len(g.leaving) == 0
	ended := g.ended
	g.mu.Unlock()
	if ended {
		g.a.forget(g)
	}
	return ended
}

// part gives the subscriptions of mailboxes that left back (rule 11).
func (g *group) part(ctx context.Context) {
	g.mu.Lock()
	leaving := g.leaving
	g.leaving = nil
	g.mu.Unlock()
	var calls errgroup.Group
	calls.SetLimit(subscribing)
	for _, r := range leaving {
		calls.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, farewell)
			defer cancel()
			if g.a.allowed() != nil {
				return nil
			}
			if err := g.a.note(g.a.Source.Unsubscribe(ctx, r.Location, r.Subscription)); err != nil {
				g.log.Info("a subscription was not given back; it expires at the server", zap.String("mailbox", r.Addresses[0]), zap.Error(err))
			}
			return nil
		})
	}
	_ = calls.Wait() // each has logged its own
}

// sorted are the members by name: the first is the anchor.
func (g *group) sorted() []*mailbox {
	g.mu.Lock()
	list := make([]*mailbox, 0, len(g.members))
	for m := range g.members {
		list = append(list, m)
	}
	g.mu.Unlock()
	slices.SortFunc(list, func(a, b *mailbox) int { return strings.Compare(a.primary(), b.primary()) })
	return list
}

func (g *group) has(m *mailbox) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.members[m]
	return ok
}

// subscribe sees to it that every member has a subscription, the anchor first, for its answer brings the cookie that keeps the
// others on its server. It returns those that have one, and when the next of the others is to be tried.
func (g *group) subscribe(ctx context.Context) (heard map[string]*mailbox, retry time.Time) {
	members := g.sorted()
	if !slices.ContainsFunc(members, func(m *mailbox) bool { return m.primary() == g.affinity.Anchor }) {
		g.affinity = Affinity{}
	}
	for i := 0; g.affinity.Anchor == "" && i < len(members); i++ {
		m := members[i]
		if m.box.Record().Subscription == "" && !g.subscribeOne(ctx, m, Affinity{Anchor: m.primary()}, &g.affinity.Cookie) {
			continue
		}
		g.affinity.Anchor = m.primary()
	}
	var calls errgroup.Group
	calls.SetLimit(subscribing)
	for _, m := range members {
		if m.box.Record().Subscription == "" {
			calls.Go(func() error {
				var own string
				g.subscribeOne(ctx, m, g.affinity, &own)
				return nil
			})
		}
	}
	_ = calls.Wait() // each keeps its own error
	heard = map[string]*mailbox{}
	for _, m := range members {
		if id := m.box.Record().Subscription; id != "" {
			heard[id] = m
			continue
		}
		m.mu.Lock()
		retry = sooner(retry, m.subNext)
		m.mu.Unlock()
	}
	return heard, retry
}

// subscribeOne subscribes a member when its time has come, and has it listed: in this order nothing falls between (rule 11).
func (g *group) subscribeOne(ctx context.Context, m *mailbox, a Affinity, cookie *string) bool {
	m.mu.Lock()
	p, due := m.place, !time.Now().Before(m.subNext)
	m.mu.Unlock()
	if !due || p.URL != g.key.url || ctx.Err() != nil { // it may be on its way to another: these credentials go nowhere else
		return false
	}
	err := m.writable(ctx) // what cannot be written down would be left behind at the server
	if err == nil {
		err = g.a.allowed()
	}
	if err == nil {
		var id string
		short, cancel := context.WithTimeout(ctx, welcome)
		id, *cookie, err = g.a.Source.Subscribe(short, p, a)
		cancel()
		if g.a.note(err) == nil {
			member := true
			err = m.box.Update(ctx, func(d *subscriptions.Draft) {
				if member = g.has(m); member {
					d.Subscription, d.Subscribed = id, time.Now()
				}
			})
			if err != nil || !member {
				r := m.box.Record().Clone()
				r.Subscription, r.Location = id, p
				g.leave(r)
			}
			if !member { // it left meanwhile
				return false
			}
		}
	}
	if err != nil {
		g.refused(ctx, m, err)
		return false
	}
	m.mu.Lock()
	m.subFault, m.subFails, m.subNext = nil, 0, time.Time{}
	m.mu.Unlock()
	m.markListing()
	return true
}

// refused notes that a mailbox could not be subscribed. It is still listed at its safety poll.
func (g *group) refused(ctx context.Context, m *mailbox, err error) {
	if ctx.Err() != nil || !g.has(m) || errors.Is(err, subscriptions.ErrNoMailbox) { // it left meanwhile
		return
	}
	f := fault.Of(err)
	m.mu.Lock()
	m.subFails++
	m.subFault, m.subNext = f, time.Now().Add(backOff(f, m.subFails))
	poll := !m.listed
	m.mu.Unlock()
	if poll {
		m.markListing() // mail rings all the same
	}
	if f.Scope < fault.Account { // else the account has said it, once for all
		g.log.Warn("a mailbox cannot be subscribed", zap.String("mailbox", m.address()), zap.Error(err))
	}
	e, ok := errors.AsType[*ews.Error](err)
	switch {
	case !ok:
	case m.doubts(e.Row, g.fails):
		m.relocate(ctx)
	case m.doubtsLater(e.Row): // the listing meets the same error, and waits until it may be doubted
		m.markListing()
	}
}

// maxOthers is how many members, one after the other, the stream is tried as before the fault is taken for the group's.
const maxOthers = 3

// another has the stream opened as another member, at once: what is wrong may concern only the one that it was opened as, and
// must not silence the others.
func (g *group) another(err error, members int) bool {
	f := fault.Of(err)
	if e, ok := errors.AsType[*ews.Error](err); !ok || len(e.Subscriptions) > 0 || f.Scope == fault.Account || g.tried >= min(members-1, maxOthers) {
		g.tried = 0
		return false
	}
	g.turn++
	g.tried++
	g.missed = true
	g.reopen = time.Now().Add(firstRetry)
	g.log.Info("a stream is tried as another mailbox", zap.Error(err))
	return true
}

// astray looks up the member again that the stream was to be opened as, where the server says that it does not live there. The others go on.
func (g *group) astray(ctx context.Context, err error, want map[string]*mailbox) bool {
	e, ok := errors.AsType[*ews.Error](err)
	if !ok || !e.Row.Elsewhere || ctx.Err() != nil {
		return false
	}
	switch m := g.as(want); {
	case m.doubts(e.Row, g.fails):
		g.reopen = time.Now().Add(firstRetry)
		m.relocate(ctx)
	case m.doubtsLater(e.Row): // meanwhile as another, where there is one
		wait := firstRetry
		if g.tried++; g.tried >= len(want) { // as each of them
			g.tried, wait = 0, firstWait
		}
		g.reopen = time.Now().Add(wait)
		g.turn++
		m.markListing()
	default:
		return false
	}
	g.missed = true
	return true
}

// as is the member that the stream is opened as.
func (g *group) as(want map[string]*mailbox) *mailbox {
	list := make([]*mailbox, 0, len(want))
	for _, m := range want {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *mailbox) int { return strings.Compare(a.primary(), b.primary()) })
	first := max(slices.IndexFunc(list, func(m *mailbox) bool { return m.primary() == g.affinity.Anchor }), 0)
	return list[(first+g.turn)%len(list)]
}

// open opens the stream. Its listings are not waited for.
func (g *group) open(ctx context.Context, want map[string]*mailbox) (*reading, error) {
	if err := g.a.allowed(); err != nil {
		return nil, err
	}
	m := g.as(want)
	m.mu.Lock()
	p := m.place
	m.mu.Unlock()
	p.URL = g.key.url // it may be on its way to another: these credentials go nowhere else
	s, err := g.a.Source.Stream(ctx, p, Affinity{Anchor: p.Primary, Cookie: g.affinity.Cookie}, ids(want))
	if g.a.note(err) != nil {
		return nil, err
	}
	r := &reading{g: g, stream: s, by: want, since: time.Now(), word: make(chan struct{}, 1), end: make(chan struct{})}
	g.beat.Store(r.since.UnixNano())
	g.tell(nil, time.Time{})
	for _, m := range want {
		m.mu.Lock()
		if !m.open {
			m.open, m.since = true, r.since
		}
		m.mu.Unlock()
	}
	g.a.e.l.metrics.streams.Inc()
	g.a.streams.Add(1)
	go r.run()
	return r, nil
}

// opened lists the members whose last stream ended without a word. Not before now: until this one was opened, the server may have
// gone on writing into the one that was gone.
func (g *group) opened(want map[string]*mailbox) {
	if g.missed {
		g.list(want)
		g.missed = false
	}
	for _, m := range g.sorted() {
		m.answers()
	}
}

func ids(m map[string]*mailbox) []string {
	list := make([]string, 0, len(m))
	for id := range m {
		list = append(list, id)
	}
	return list
}

// over is what the end of a stream means. After a clean one, on the server's word, events wait at the server and nothing is
// lost. After any other, what was under way is lost with no error and a subscription that is still valid: the members are listed.
func (g *group) over(ctx context.Context, r *reading) {
	err := r.err
	clean := errors.Is(err, io.EOF)
	for _, m := range r.by {
		m.mu.Lock()
		m.open = m.open && m.group != g
		m.mu.Unlock()
	}
	if ctx.Err() != nil {
		return
	}
	if r.heard.Load() {
		g.tried = 0
	}
	if clean {
		g.backOff(r.since, nil)
		return
	}
	g.log.Info("a stream ended", zap.Int("mailboxes", len(r.by)), zap.Duration("after", time.Since(r.since).Round(time.Millisecond)), zap.Error(err))
	g.missed = true
	if !r.heard.Load() && g.another(err, len(r.by)) {
		return
	}
	g.backOff(r.since, fault.Of(err))
	g.trouble(ctx, g.a.note(err), r.by)
	if time.Until(g.reopen) > firstWait { // mail rings meanwhile
		g.list(r.by)
	}
}

func (g *group) list(by map[string]*mailbox) {
	for _, m := range by {
		if g.has(m) {
			m.markListing()
		}
	}
}

// backOff sets when the stream may be opened again.
func (g *group) backOff(since time.Time, f *fault.Error) {
	if time.Since(since) >= lived {
		g.fails = 0
	}
	var wait time.Duration
	if g.fails > 0 {
		wait = min(firstRetry<<min(g.fails-1, 10), maxReopen)
		wait += rand.N(wait/4 + 1)
	}
	if f != nil {
		wait = max(wait, f.After)
	}
	g.fails++
	g.reopen = time.Now().Add(wait)
	g.tell(f, g.reopen)
}

// soon shortens the wait for the next try.
func (g *group) soon() {
	if soon := time.Now().Add(firstWait); g.reopen.After(soon) {
		g.reopen = soon
	}
}

// tell keeps why the stream is not open, for who asks.
func (g *group) tell(f *fault.Error, next time.Time) {
	g.mu.Lock()
	g.fault, g.next = f, next
	g.mu.Unlock()
}

func (g *group) told() (f *fault.Error, next time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fault, g.next
}

// trouble sorts out what an error means for the subscriptions that it names, or for all where it names none.
func (g *group) trouble(ctx context.Context, err error, by map[string]*mailbox) {
	if ctx.Err() != nil {
		return
	}
	e, ok := errors.AsType[*ews.Error](err)
	if !ok {
		g.backOff(time.Now(), fault.Of(err))
		return
	}
	if !time.Now().Before(g.reopen) {
		g.backOff(time.Now(), e.Fault)
	}
	if e.Row.DropCookie {
		g.affinity = Affinity{}
	}
	concerned := e.Subscriptions
	if len(concerned) == 0 {
		g.missed = g.missed || e.Row.CatchUp
		concerned = ids(by)
	}
	g.log.Info("subscriptions are in trouble", zap.Int("of", len(concerned)), zap.Error(err))
	for _, id := range concerned {
		m := by[id]
		if m == nil || !g.has(m) {
			continue
		}
		switch {
		case m.doubts(e.Row, g.fails):
			m.relocate(ctx)
			g.soon() // what is left is not at fault, and it may come back
		case e.Row.Resubscribe: // listed once it has a new one
			m.lose(ctx, id)
		case e.Row.CatchUp && len(e.Subscriptions) > 0:
			m.markListing()
		}
	}
}

// lose forgets a subscription that the server does not know any more.
func (m *mailbox) lose(ctx context.Context, id string) {
	m.mu.Lock()
	m.listed = false
	m.mu.Unlock()
	err := m.box.Update(ctx, func(d *subscriptions.Draft) {
		if d.Subscription == id {
			d.Subscription = ""
		}
	})
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) {
		m.l.log.Warn("a lost subscription could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
}

func (m *mailbox) primary() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.place.Primary
}

// reading is an open stream being read. A nil one hears nothing.
type reading struct {
	g      *group
	stream Stream
	by     map[string]*mailbox // by subscription
	since  time.Time
	heard  atomic.Bool   // something came
	spoilt bool          // the server named a bad id: nobody knows whether the good ones are still served
	word   chan struct{} // such words have come
	end    chan struct{}
	err    error // how it ended, once end is closed; io.EOF: clean, on the server's word

	mu  sync.Mutex
	bad []error // those words, at most one for each subscription
}

func (r *reading) run() {
	defer r.g.a.e.l.metrics.streams.Dec()
	defer r.g.a.streams.Add(-1)
	defer close(r.end)
	defer r.stream.Close()
	for {
		n, err := r.stream.Next()
		if e, ok := errors.AsType[*ews.Error](err); ok && len(e.Subscriptions) > 0 {
			r.mu.Lock()
			if len(r.bad) < ews.MaxSubscriptions {
				r.bad = append(r.bad, err)
			}
			r.mu.Unlock()
			signal(r.word)
			continue
		}
		if err != nil {
			r.err = err
			return
		}
		r.heard.Store(true)
		r.g.beat.Store(n.At.UnixNano())
		for _, e := range n.Events {
			if m := r.by[e.Subscription]; m != nil {
				r.g.a.e.l.metrics.hints.Inc()
				m.hint(e.ItemID, n.At)
			}
		}
	}
}

// hears says whether the stream serves all of these subscriptions.
func (r *reading) hears(want map[string]*mailbox) bool {
	if r == nil {
		return len(want) == 0
	}
	for id := range want {
		if r.by[id] == nil {
			return false
		}
	}
	return !r.spoilt
}

func (r *reading) words() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.word
}

// said takes the words that have come; there may be none left.
func (r *reading) said() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	said := r.bad
	r.bad = nil
	return said
}

func (r *reading) ended() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.end
}

// handOver lets a stream end after another was opened with its ids. The server ends it on its word, and what it had taken out of
// its queues for it has come by then: so mailboxes join and leave without a listing of the others. A stream that does not end in
// time is cut, and its members are listed.
func (r *reading) handOver(ctx context.Context) {
	if r == nil {
		return
	}
	t := time.NewTimer(handOver)
	defer t.Stop()
	defer r.close()
	select {
	case <-r.end:
		if e, ok := errors.AsType[*ews.Error](r.err); errors.Is(r.err, io.EOF) || ok && e.Row.Code == "ErrorNewEventStreamConnectionOpened" {
			return
		}
	case <-t.C:
	case <-ctx.Done():
		return
	}
	r.g.list(r.by)
}

// close ends the reading and waits for its goroutine.
func (r *reading) close() {
	if r == nil {
		return
	}
	_ = r.stream.Close() // its reader learns of it
	<-r.end
}
