package streaming

// One line of a group: a stream that is kept open.

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	// lasting is how long a stream has to have been open for its end to count as the first failure and not as one more.
	lasting = 10 * time.Second
	// firstRetry is the wait before a stream is tried as another member.
	firstRetry = 250 * time.Millisecond
	// firstWait is the longest wait before a stream is opened anew whose server works: it has said what is wrong.
	firstWait = 5 * time.Second
	// firstEnvelope is how long an open stream may take to bring its first envelope, which is due at once. Where it is late, something before
	// the server buffers the stream.
	firstEnvelope = 10 * time.Second
	// maxOthers is how many members, one after the other, the stream is tried as before the fault is taken for the group's.
	maxOthers = 3
	// misleads is how often in a row a stream fails for what may be its server's fault before it is opened at another server. That one does
	// not know the subscriptions; a server that only restarts is back by then, or has forgotten them too.
	misleads = 3
)

var reopening = backoff.Policy{First: firstRetry, Max: time.Minute}

// line keeps one stream of a group open. All of it is its keeper's own, but for open and opens, which change under groups.mu.
type line struct {
	group   *group
	keeper  *keeper
	open    *reading           // nil: none
	opens   map[string]*Member // by subscription: those of the stream that is being opened; nil: none is
	size    int                // how many members the last stream had; 0: it was let go
	turn    int                // so many places after the anchor the stream is tried, where the anchor fails and no member is known to be better
	tried   int                // how many others it was tried as, in a row
	refused int                // streams in a row whose other subscriptions were all refused
	reopen  time.Time          // not before
}

// set changes which stream is open.
func (l *line) set(r *reading) {
	l.group.groups.mu.Lock()
	defer l.group.groups.mu.Unlock()
	l.open, l.opens = r, nil
	if r != nil {
		l.size = len(r.by)
	}
}

// tend opens the stream where it is to be opened now, and lets go of one that nobody needs. It says when it is to be called again; zero:
// when something has changed.
func (l *line) tend(ctx context.Context) time.Time {
	want, needed := l.keeper.share(l)
	switch {
	case !needed && l.open != nil:
		l.letGo(ctx)
		return time.Now()
	case len(want) == 0 || l.open != nil && l.open.serves(want):
		return time.Time{}
	case time.Now().Before(l.reopen):
		return l.reopen
	}
	l.reopenWith(ctx, want)
	return time.Now()
}

// signals are those of the open stream; none where no stream is open.
func (l *line) signals() signals {
	if l.open == nil {
		return signals{}
	}
	return l.open.signals
}

// letGo ends a stream whose members are served by another, or have left.
func (l *line) letGo(ctx context.Context) {
	r := l.open
	l.set(nil)
	l.size, l.tried = 0, 0
	if r.followed() {
		l.keeper.old.Go(func() { r.handOver(ctx) })
	} else {
		r.close()
	}
	signal(l.group.roster) // what has left goes back now
}

// envelopeDue is by when the open stream is to have brought its first envelope; zero: it has, or it was missed already.
func (l *line) envelopeDue() time.Time {
	if l.open == nil || l.open.late || l.open.begun.Load() {
		return time.Time{}
	}
	return l.open.opened.Add(firstEnvelope)
}

// overdue deals with a stream that has not brought its first envelope in time. Perhaps the mailbox that it was opened as hangs, so it is
// tried as others. If that brings nothing either, the fault is told, and the stream stays open, for some servers begin late. Meanwhile its
// members are polled.
func (l *line) overdue() {
	due := l.envelopeDue()
	if due.IsZero() || time.Now().Before(due) {
		return
	}
	l.open.late = true
	g, f := l.group, heldBack()
	if l.another(l.open.as, f, l.open.by) {
		l.open.spoilt = true
		return
	}
	g.groups.mu.Lock()
	g.fault, g.next = f, time.Time{}
	g.groups.mu.Unlock()
	g.groups.o.Log.Warn("a stream is open and brings nothing; its mailboxes are polled", zap.Int("mailboxes", len(l.open.by)), zap.Error(f))
}

// heldBack is the fault of a stream that does not bring its first envelope.
func heldBack() *fault.Error {
	return &fault.Error{Op: "GetStreamingEvents", Code: "stream held back", Scope: fault.Group, Remedy: fault.Wait, Missed: true,
		Text: "the stream is open and brings nothing, not even its first envelope: something before the server buffers it (with nginx: set " +
			"proxy_buffering off)"}
}

// opening is how a stream is to be opened.
type opening struct {
	as       *Member // it is charged, by a copy of its budget, and not the account
	at       *mail.Location
	affinity Affinity
}

// plan says how a stream for these members is to be opened, as far as they are still here; false: none is.
func (l *line) plan(want map[string]*Member) (opening, bool) {
	g := l.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	var list []*Member
	for id, m := range want {
		if g.has(m, id) {
			list = append(list, m)
		} else {
			delete(want, id)
		}
	}
	if len(list) == 0 {
		return opening{}, false
	}
	l.opens = want
	slices.SortFunc(list, byName)
	first := max(slices.IndexFunc(list, func(m *Member) bool { return m.at.Primary == g.affinity.Anchor }), 0)
	m := list[first]
	if l.tried > 0 || m.proven.IsZero() { // rather one for which the server has worked lately: for those that hang it has not
		next := (first + l.turn) % len(list)
		m = slices.MaxFunc(slices.Concat(list[next:], list[:next]), func(a, b *Member) int { return a.proven.Compare(b.proven) })
	}
	// Whoever it is opened as, the group's anchor leads to the server that has the subscriptions: without a cookie nothing else does.
	affinity := g.affinity
	affinity.Anchor = cmp.Or(affinity.Anchor, m.at.Primary)
	return opening{as: m, at: m.at, affinity: affinity}, true
}

// reopenWith opens a stream for these members. It takes over from the one that is open.
func (l *line) reopenWith(ctx context.Context, want map[string]*Member) {
	g := l.group
	o, ok := l.plan(want)
	if !ok {
		return
	}
	own, stop := context.WithCancel(ctx)
	s, err := g.groups.o.Server.Stream(own, *o.at, o.affinity, slices.Collect(maps.Keys(want)))
	if err != nil {
		stop()
		l.set(l.open)    // none is being opened any more
		signal(g.roster) // what has left goes back now
		if ctx.Err() == nil {
			l.notOpened(ctx, o.as, fault.Of(err), want)
		}
		return
	}
	r := newReading(g, s, stop, want, o.as)
	if was := l.open; was != nil {
		if was.shared() {
			l.refused = 0
		}
		l.keeper.old.Go(func() { was.handOver(ctx) })
	}
	l.set(r)
	g.opened(r)
	go r.run()
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
	g.answers()
	members := slices.Collect(maps.Keys(g.members))
	g.groups.mu.Unlock()
	signal(g.roster)
	for _, m := range members {
		m.sink.Answers()
	}
}

// notOpened deals with a stream that could not be opened as m.
func (l *line) notOpened(ctx context.Context, m *Member, f *fault.Error, want map[string]*Member) {
	if f.Elsewhere && l.goesOn(m, f, want) {
		return
	}
	if l.another(m, f, want) {
		l.group.broken(want)
		return
	}
	l.failed(0, f)
	l.trouble(ctx, f, want)
	l.meanwhile()
}

// meanwhile lists the members that are to be listed where their stream is not opened soon: mail does not wait for that.
func (l *line) meanwhile() {
	if time.Until(l.reopen) > listAnyway {
		l.group.listOverdue(true)
	}
}

// goesOn has the stream opened without m, where the server says that m does not live there; false: m's location is not doubted.
func (l *line) goesOn(m *Member, f *fault.Error, want map[string]*Member) bool {
	wait := firstRetry
	switch l.group.doubt(m, f) {
	case Stays:
		return false
	case Later: // meanwhile it is opened as another, where there is one
		l.next(m)
		if l.tried >= len(want) { // it was tried as each of them
			l.tried, wait = 0, firstWait
		}
		m.sink.List()
	case Leaves:
	}
	l.group.broken(want)
	l.reopen = time.Now().Add(wait)
	return true
}

// next has the next try made as another than m, for which the server has not done what it was asked to.
func (l *line) next(m *Member) {
	l.turn++
	l.tried++
	l.group.groups.mu.Lock()
	m.proven = time.Time{}
	l.group.groups.mu.Unlock()
}

// another has the stream opened as another member than m, at once: what is wrong may concern only m, and must not silence the others.
func (l *line) another(m *Member, f *fault.Error, want map[string]*Member) bool {
	others := min(len(want)-1, maxOthers)
	if len(f.Subscriptions) > 0 || f.Scope == fault.Account {
		others = 0
	}
	if l.tried >= others {
		l.tried = 0
		return false
	}
	l.next(m)
	l.reopen = time.Now().Add(firstRetry)
	l.group.groups.mu.Lock()
	l.group.fault, l.group.next = f, l.reopen
	l.group.groups.mu.Unlock()
	l.group.groups.o.Log.Info("a stream is tried as another mailbox", zap.Error(f))
	return true
}

// replace has a stream that is open and tells too little opened anew.
func (l *line) replace() {
	l.group.groups.o.Log.Warn("a stream is open and does not tell of new mail; it is replaced", zap.Int("mailboxes", len(l.open.by)))
	l.open.spoilt = true
	l.group.broken(l.open.by)
}

// reports deals with errors about single subscriptions, and says whether there were any. The stream is opened anew soon, for the server
// does its work; not so where it says that it does not for any of them.
func (l *line) reports(ctx context.Context) bool {
	list := l.open.takeReports()
	refused := false
	for _, f := range list {
		refused = l.open.refusedOthers(f, time.Now()) || refused
	}
	if refused {
		l.alone() // before they lose their subscriptions, which serve them in streams of their own
	}
	for i, f := range list {
		if i == 0 {
			l.open.spoilt = true
			l.failed(time.Since(l.open.opened), f)
			if f.Unsubscribed || len(f.Subscriptions) < len(l.open.by) {
				l.soon()
			}
		}
		l.trouble(ctx, f, l.open.by)
	}
	return len(list) > 0
}

// over deals with the end of the open stream. After a proper end, what comes meanwhile waits at the server and nothing is lost. After any
// other, what was under way is lost, without any error and though the subscription is still valid.
func (l *line) over(ctx context.Context) {
	r, g := l.open, l.group
	reported := ctx.Err() == nil && l.reports(ctx) // gromox ends a stream with the envelope that names subscriptions
	l.set(nil)
	g.groups.mu.Lock()
	for _, m := range r.by {
		if m.stream == r {
			m.unserved()
		}
	}
	g.groups.mu.Unlock()
	signal(g.roster) // what has left goes back now
	if ctx.Err() != nil {
		return
	}
	if r.begun.Load() {
		l.tried = 0
	}
	lived := time.Since(r.opened)
	if errors.Is(r.err, io.EOF) {
		if !reported && !r.spoilt { // else it is settled already when it is opened again
			l.ended(lived)
			g.groups.merge(g)
		}
		return
	}
	f := fault.Of(r.err)
	g.broken(r.by)
	if !r.begun.Load() && l.another(r.as, f, r.by) {
		return
	}
	l.failed(lived, f)
	g.groups.o.Log.Info("listening stopped", zap.Int("mailboxes", len(r.by)), zap.Duration("after", lived.Round(time.Millisecond)),
		zap.Duration("retry_in", time.Until(l.reopen).Round(time.Millisecond)), zap.Error(f))
	l.trouble(ctx, f, r.by)
	l.meanwhile()
}

// ended sets when a stream that ended as it should is opened again: at once, unless it was hardly open.
func (l *line) ended(lived time.Duration) {
	g := l.group
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	if lived >= lasting {
		g.failures = 0
	} else {
		g.failures++
	}
	l.reopen = time.Now().Add(reopening.Wait(g.failures, 0))
}

// failed counts a failure and sets when the stream may be opened again.
func (l *line) failed(lived time.Duration, f *fault.Error) {
	g := l.group
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
	l.reopen = time.Now().Add(wait)
	g.fault, g.next = f, l.reopen
}

// soon shortens the wait for the next try.
func (l *line) soon() {
	soon := time.Now().Add(firstWait)
	if !l.reopen.After(soon) {
		return
	}
	l.reopen = soon
	l.group.groups.mu.Lock()
	l.group.next = soon
	l.group.groups.mu.Unlock()
}

// trouble sorts out what an error means for the subscriptions that it names, or for all where it names none.
func (l *line) trouble(ctx context.Context, f *fault.Error, by map[string]*Member) {
	g := l.group
	concerned, named := f.Subscriptions, len(f.Subscriptions) > 0
	if !named {
		concerned = slices.Collect(maps.Keys(by))
		if f.Missed {
			g.broken(by)
		}
	}
	g.groups.o.Log.Info("subscriptions failed", zap.Int("subscriptions", len(concerned)), zap.Error(f))
	lost := map[string]*Member{}
	for _, id := range concerned {
		m := by[id]
		if m == nil || !g.serving(m, id) {
			continue
		}
		switch {
		case f.Moved && g.doubt(m, f) == Leaves:
			l.soon() // the others are not at fault, and this one may come back
		case f.Unsubscribed:
			lost[id] = m
		case f.Missed && named && !f.Moved:
			m.sink.List()
		case named && f.Scope == fault.Mailbox: // as Microsoft's own client does
			lost[id] = m
		}
	}
	misled := f.Misled && len(concerned) >= len(by) && l.other().healthy() == nil // else other subscriptions are served there
	g.lose(ctx, lost, f, misled)
}

// lose forgets subscriptions and, where the group was misled, who leads it: all at once, for one that remained would lead the others.
func (g *group) lose(ctx context.Context, lost map[string]*Member, f *fault.Error, misled bool) {
	now := time.Now()
	g.groups.mu.Lock()
	for id, m := range lost {
		m.lose(id, f, now)
	}
	if misled && (f.Scope == fault.Mailbox || g.failures%misleads == 0) {
		g.misled()
	}
	g.groups.mu.Unlock()
	for id, m := range lost {
		m.unrecord(ctx, id)
	}
}

func (g *group) serving(m *Member, id string) bool {
	g.groups.mu.Lock()
	defer g.groups.mu.Unlock()
	return g.has(m, id)
}
