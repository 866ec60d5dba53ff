package streaming

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
)

const (
	// settle is how long nobody may have joined, left or been subscribed before the stream is opened anew, and gather how long that is
	// waited for at most: a company that enrols does not have its stream opened for each phone.
	settle = 200 * time.Millisecond
	gather = 2 * time.Second
	// lasting is how long a stream has to have been open for its end to count as the first failure and not as one more.
	lasting = 10 * time.Second
	// firstRetry is the wait before a stream is tried as another member.
	firstRetry = 250 * time.Millisecond
	// firstWait is the longest wait before a stream is opened anew whose server works: it has said what is wrong.
	firstWait = 5 * time.Second
	// firstEnvelope is how long an open stream may take to bring its first envelope, which is due at once. It is what tells a stream
	// that a gateway buffers.
	firstEnvelope = 10 * time.Second
	// maxOthers is how many members, one after the other, the stream is tried as before the fault is taken for the group's.
	maxOthers = 3
)

var reopening = backoff.Policy{First: firstRetry, Max: time.Minute}

// keeper keeps the stream of a group open. All of it is its goroutine's own.
type keeper struct {
	group   *group
	open    *reading       // nil: none
	old     sync.WaitGroup // streams that are handed over; each takes handOver at most, and nobody waits for it
	turn    int            // whom the stream is opened as where the anchor fails, and nobody is known to be better: the next after it
	tried   int            // others in a row
	refused int            // streams in a row whose other subscriptions were all refused
	reopen  time.Time      // not before
}

// run works until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer k.old.Wait()
	defer k.close()
	k.gather(ctx) // a mailbox seldom comes alone
	for ctx.Err() == nil {
		if k.group.anew.Swap(false) {
			k.reopen = time.Time{}
		}
		want := k.subscribed()
		var next time.Time
		if len(want) > 0 && (k.open == nil || !k.open.serves(want)) {
			if !time.Now().Before(k.reopen) {
				k.reopenWith(ctx, want)
				continue
			}
			next = k.reopen
		}
		k.wait(ctx, next)
	}
}

// wait waits until something is to be done, and deals with what the open stream says.
func (k *keeper) wait(ctx context.Context, next time.Time) {
	var reported, ended <-chan struct{}
	if k.open != nil {
		reported, ended = k.open.reported, k.open.end
	}
	timer := alarm(sooner(next, k.envelopeDue()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		k.overdue()
	case <-k.group.ready:
		k.gather(ctx)
	case <-k.group.dead:
		k.replace()
	case <-reported:
		k.reports(ctx)
	case <-ended:
		k.over(ctx)
	}
}

// envelopeDue is by when the open stream is to have brought its first envelope; zero: it has, or it was missed already.
func (k *keeper) envelopeDue() time.Time {
	if k.open == nil || k.open.late || k.open.begun.Load() {
		return time.Time{}
	}
	return k.open.opened.Add(firstEnvelope)
}

// overdue deals with a stream that has not brought its first envelope in time. Perhaps the mailbox hangs as which it was opened: it is tried
// as others. Where that brings nothing either, it is named as what it is, and stays open, for some servers begin late. Meanwhile its
// members are polled.
func (k *keeper) overdue() {
	due := k.envelopeDue()
	if due.IsZero() || time.Now().Before(due) {
		return
	}
	k.open.late = true
	g, f := k.group, heldBack()
	if k.another(k.open.as, f, k.open.by) {
		k.open.spoilt = true
		return
	}
	g.groups.mu.Lock()
	g.fault, g.next = f, time.Time{}
	g.groups.mu.Unlock()
	g.groups.o.Log.Warn("a stream is open and brings nothing; its mailboxes are polled", zap.Int("mailboxes", len(k.open.by)), zap.Error(f))
}

// heldBack is the fault of a stream that does not bring its first envelope.
func heldBack() *fault.Error {
	return &fault.Error{Op: "GetStreamingEvents", Code: "stream held back", Scope: fault.Group, Remedy: fault.Wait, Missed: true,
		Text: "the stream is open and brings nothing, not even its first envelope: something before the server buffers it (with nginx: set " +
			"proxy_buffering off)"}
}

// gather waits until nothing has changed for a while.
func (k *keeper) gather(ctx context.Context) {
	for end := time.Now().Add(gather); pause.For(ctx, settle) && time.Now().Before(end); {
		select {
		case <-k.group.ready:
		default:
			return
		}
	}
}

func (k *keeper) close() {
	if k.open != nil {
		k.open.close()
	}
}

// subscribed are the members that have a subscription, by that.
func (k *keeper) subscribed() map[string]*Member {
	g := k.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	list := map[string]*Member{}
	for m := range g.members {
		if m.subscription != "" {
			list[m.subscription] = m
		}
	}
	return list
}

// opening is how a stream is to be opened.
type opening struct {
	as       *Member // that charges a copy of its budget and not the account's
	at       mail.Location
	affinity Affinity
}

// plan says how a stream for these members is to be opened; false: none of them is here any more.
func (k *keeper) plan(want map[string]*Member) (opening, bool) {
	g := k.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	var list []*Member
	for id, m := range want {
		if g.has(m, id) {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return opening{}, false
	}
	slices.SortFunc(list, byName)
	first := max(slices.IndexFunc(list, func(m *Member) bool { return m.at.Primary == g.affinity.Anchor }), 0)
	m := list[first]
	if k.tried > 0 || m.proven.IsZero() { // rather one for which the server has worked lately: for those that hang it has not
		next := (first + k.turn) % len(list)
		m = slices.MaxFunc(slices.Concat(list[next:], list[:next]), func(a, b *Member) int { return a.proven.Compare(b.proven) })
	}
	return opening{as: m, at: m.at, affinity: Affinity{Anchor: m.at.Primary, Cookie: g.affinity.Cookie}}, true
}

// reopenWith opens a stream for these members. It takes over from the one that is open.
func (k *keeper) reopenWith(ctx context.Context, want map[string]*Member) {
	g := k.group
	o, ok := k.plan(want)
	if !ok {
		return
	}
	own, stop := context.WithCancel(ctx)
	s, err := g.groups.o.Server.Stream(own, o.at, o.affinity, slices.Collect(maps.Keys(want)))
	if err != nil {
		stop()
		if ctx.Err() == nil {
			k.notOpened(ctx, o.as, fault.Of(err), want)
		}
		return
	}
	r := &reading{group: g, stream: s, stop: stop, by: want, as: o.as, opened: time.Now(), reported: make(chan struct{}, 1), end: make(chan struct{})}
	r.last.Store(r.opened.UnixNano())
	g.opened(r)
	go r.run()
	if was := k.open; was != nil {
		if was.shared() {
			k.refused = 0
		}
		k.old.Go(func() { was.handOver(ctx) })
	}
	k.open = r
}

// opened notes that a stream is open.
func (g *group) opened(r *reading) {
	g.groups.o.Metrics.streams.Inc()
	g.groups.open.Add(1)
	g.groups.mu.Lock()
	for id, m := range r.by {
		if g.has(m, id) {
			m.stream = r
		}
	}
	g.excuse(fault.Server)
	members := slices.Collect(maps.Keys(g.members))
	g.groups.mu.Unlock()
	signal(g.roster)
	for _, m := range members {
		m.sink.Answers()
	}
}

// notOpened deals with a stream that could not be opened as m.
func (k *keeper) notOpened(ctx context.Context, m *Member, f *fault.Error, want map[string]*Member) {
	if f.Elsewhere && k.goesOn(m, f, want) {
		return
	}
	if k.another(m, f, want) {
		k.group.broken(want)
		return
	}
	k.failed(0, f)
	k.trouble(ctx, f, want)
	k.meanwhile()
}

// meanwhile lists the members that are to be listed where their stream is not opened soon: mail does not wait for that.
func (k *keeper) meanwhile() {
	if time.Until(k.reopen) > listAnyway {
		k.group.listOverdue(true)
	}
}

// goesOn has the stream opened without m, where the server says that m does not live there; false: that is not doubted.
func (k *keeper) goesOn(m *Member, f *fault.Error, want map[string]*Member) bool {
	wait := firstRetry
	switch k.group.doubt(m, f) {
	case Stays:
		return false
	case Later: // meanwhile as another, where there is one
		k.next(m)
		if k.tried >= len(want) { // as each of them
			k.tried, wait = 0, firstWait
		}
		m.sink.List()
	case Leaves:
	}
	k.group.broken(want)
	k.reopen = time.Now().Add(wait)
	return true
}

// next has the next try made as another than m, for which the server has not done what it was asked to.
func (k *keeper) next(m *Member) {
	k.turn++
	k.tried++
	k.group.groups.mu.Lock()
	m.proven = time.Time{}
	k.group.groups.mu.Unlock()
}

// another has the stream opened as another member than m, at once: what is wrong may concern only m, and must not silence the others.
func (k *keeper) another(m *Member, f *fault.Error, want map[string]*Member) bool {
	others := min(len(want)-1, maxOthers)
	if len(f.Subscriptions) > 0 || f.Scope == fault.Account {
		others = 0
	}
	if k.tried >= others {
		k.tried = 0
		return false
	}
	k.next(m)
	k.reopen = time.Now().Add(firstRetry)
	k.group.groups.mu.Lock()
	k.group.fault, k.group.next = f, k.reopen
	k.group.groups.mu.Unlock()
	k.group.groups.o.Log.Info("a stream is tried as another mailbox", zap.Error(f))
	return true
}

// replace has a stream that is open and tells too little opened anew.
func (k *keeper) replace() {
	if k.open == nil {
		return
	}
	k.group.groups.o.Log.Warn("a stream is open and does not tell of new mail; it is replaced", zap.Int("mailboxes", len(k.open.by)))
	k.open.spoilt = true
	k.group.broken(k.open.by)
}

// reports deals with errors about single subscriptions, and says whether there were any. The stream is opened anew soon, for the server
// does its work.
func (k *keeper) reports(ctx context.Context) bool {
	list := k.open.takeReports()
	refused := false
	for _, f := range list {
		refused = k.open.refusedOthers(f, time.Now()) || refused
	}
	if refused {
		k.alone() // before they lose their subscriptions, which serve them in streams of their own
	}
	for i, f := range list {
		if i == 0 {
			k.open.spoilt = true
			k.failed(time.Since(k.open.opened), f)
			k.soon()
		}
		k.trouble(ctx, f, k.open.by)
	}
	return len(list) > 0
}

// over deals with the end of the open stream. After one as it should be, what comes meanwhile waits at the server and nothing is lost.
// After any other, what was under way is lost with no error and a subscription that is still valid.
func (k *keeper) over(ctx context.Context) {
	r, g := k.open, k.group
	reported := ctx.Err() == nil && k.reports(ctx) // gromox ends a stream with the envelope that names subscriptions
	k.open = nil
	g.groups.mu.Lock()
	for _, m := range r.by {
		if m.stream == r {
			m.unserved()
		}
	}
	g.groups.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if r.begun.Load() {
		k.tried = 0
	}
	lived := time.Since(r.opened)
	if errors.Is(r.err, io.EOF) {
		if !reported {
			k.ended(lived)
		}
		return
	}
	f := fault.Of(r.err)
	g.broken(r.by)
	if !r.begun.Load() && k.another(r.as, f, r.by) {
		return
	}
	k.failed(lived, f)
	g.groups.o.Log.Info("listening stopped", zap.Int("mailboxes", len(r.by)), zap.Duration("after", lived.Round(time.Millisecond)),
		zap.Duration("retry_in", time.Until(k.reopen).Round(time.Millisecond)), zap.Error(f))
	k.trouble(ctx, f, r.by)
	k.meanwhile()
}

// ended sets when a stream that ended as it should is opened again: at once, unless it was hardly open.
func (k *keeper) ended(lived time.Duration) {
	g := k.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if lived >= lasting {
		g.failures = 0
	} else {
		g.failures++
	}
	k.reopen = time.Now().Add(reopening.Wait(g.failures, 0))
}

// failed counts a failure and sets when the stream may be opened again.
func (k *keeper) failed(lived time.Duration, f *fault.Error) {
	g := k.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if lived >= lasting {
		g.failures = 0
	}
	g.failures++
	wait := reopening.Wait(g.failures, f.After)
	if f.Unproven {
		wait = f.Pause(g.failures)
	}
	k.reopen = time.Now().Add(wait)
	g.fault, g.next = f, k.reopen
}

// soon shortens the wait for the next try.
func (k *keeper) soon() {
	soon := time.Now().Add(firstWait)
	if !k.reopen.After(soon) {
		return
	}
	k.reopen = soon
	k.group.groups.mu.Lock()
	k.group.next = soon
	k.group.groups.mu.Unlock()
}

// trouble sorts out what an error means for the subscriptions that it names, or for all where it names none.
func (k *keeper) trouble(ctx context.Context, f *fault.Error, by map[string]*Member) {
	g := k.group
	if f.Misled {
		g.groups.mu.Lock()
		g.affinity = Affinity{}
		g.groups.mu.Unlock()
	}
	concerned, named := f.Subscriptions, len(f.Subscriptions) > 0
	if !named {
		concerned = slices.Collect(maps.Keys(by))
		if f.Missed {
			g.broken(by)
		}
	}
	g.groups.o.Log.Info("subscriptions failed", zap.Int("subscriptions", len(concerned)), zap.Error(f))
	for _, id := range concerned {
		m := by[id]
		if m == nil || !g.serving(m, id) {
			continue
		}
		switch {
		case f.Moved && g.doubt(m, f) == Leaves:
			k.soon() // what is left is not at fault, and it may come back
		case f.Unsubscribed:
			m.lose(ctx, id)
		case f.Missed && named:
			m.sink.List()
		}
	}
}

func (g *group) serving(m *Member, id string) bool {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	return g.has(m, id)
}
