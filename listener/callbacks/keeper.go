package callbacks

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// DefaultFrequency is how often Exchange posts though nothing is new, and for how long it repeats a post that is not answered: mailbell
	// may be away for some minutes without losing its subscriptions, and a dead one is noticed within ten. 15,000 mailboxes are 50 posts a
	// second.
	DefaultFrequency = 5 * time.Minute
	// firstCallback is how long the first post of a new subscription may take, which is due at once.
	firstCallback = 30 * time.Second
	// listAnyway is how long a mailbox that may have lost callbacks waits for one before it is listed all the same.
	listAnyway = 5 * time.Second
	// subscribing bounds the calls of an account at once. The client of Exchange 2010 has a bound of its own below that.
	subscribing = 16
	// settle is how long the loop waits for more to do: 1,250 mailboxes that join, or are answered, are not looked through for each.
	settle = 20 * time.Millisecond
	// leading is how long the others of a group wait for the answer to the one that leads it.
	leading = 2 * time.Second

	// hintDelay is how old a message is that a callback has had the time to tell of.
	hintDelay = time.Minute
)

// CodeUnreached is the fault.Error.Code of a mailbox that is subscribed and whose callbacks do not come.
const CodeUnreached = "no callback"

// Options of a Keeper.
type Options struct {
	Server    Server
	Receiver  *Receiver
	PublicURL string        // where Exchange reaches mailbell, without Path
	Frequency time.Duration // 0: DefaultFrequency
	Polls     *polling.Pace // of the mailboxes that no callback tells of; it may be nil
	Log       *zap.Logger
}

// Keeper keeps the mailboxes of one listener account subscribed.
type Keeper struct {
	o     Options
	ctx   context.Context // of the calls
	stop  context.CancelFunc
	tasks sync.WaitGroup
	wake  chan struct{} // members, their subscriptions or their waits have changed

	mu      sync.Mutex
	closed  bool
	begun   bool
	members map[*Member]struct{}
	groups  map[groupKey]*group
	calls   int
}

// groupKey is what the mailboxes of a group have in common.
type groupKey struct{ url, group string }

// group is mailboxes that a server wants to have together: where the first is subscribed, the others are too.
type group struct {
	affinity Affinity
	leads    *Member   // whose answer is to bring the affinity; nil: nobody's
	since    time.Time // since when it leads
}

// NewKeeper returns a keeper without a member.
func NewKeeper(o Options) *Keeper {
	if o.Frequency <= 0 {
		o.Frequency = DefaultFrequency
	}
	k := &Keeper{o: o, wake: make(chan struct{}, 1), members: map[*Member]struct{}{}, groups: map[groupKey]*group{}}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// Close ends the calls. Subscriptions are kept, for the next start.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true // under mu: from now on nobody joins
	k.mu.Unlock()
	k.stop()
	k.tasks.Wait()
}

// Open is how many connections are kept open: none.
func (k *Keeper) Open() int { return 0 }

// Member returns a mailbox that may join.
func (k *Keeper) Member(box *subscriptions.Mailbox, s Sink) *Member {
	return &Member{keeper: k, box: box, sink: s}
}

// Retry has tried at once what waits because of the account or its server: credentials or connections have changed.
func (k *Keeper) Retry() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m := range k.members {
		m.refusal.Excuse()
	}
	k.changed()
}

// Answers has tried at once what waits at a server only because it did not answer, which it does again.
func (k *Keeper) Answers(url string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m := range k.members {
		if m.at.URL == url {
			m.answers = m.asking != nil
			m.refusal.Answers()
		}
	}
	k.changed()
}

// group returns the group that a mailbox at this location belongs to. It is called with mu held.
func (k *Keeper) group(at *mail.Location) *group {
	if !k.begun {
		k.begun = true
		k.tasks.Go(k.run)
	}
	key := groupKey{at.URL, at.Group}
	g := k.groups[key]
	if g == nil {
		g = &group{}
		k.groups[key] = g
	}
	return g
}

// left forgets a mailbox that led the others.
func (g *group) left(m *Member) {
	if g.leads == m {
		g.leads = nil
	}
	if g.affinity.Anchor == m.at.Primary {
		g.affinity = Affinity{}
	}
}

// changed wakes the loop.
func (k *Keeper) changed() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// attempt is a member that is to be subscribed.
type attempt struct {
	member   *Member
	joined   int
	at       *mail.Location
	affinity Affinity
	made     *subscription
}

// run sees to it that every member is subscribed and hears callbacks, until the keeper is closed. It waits for none of the calls.
func (k *Keeper) run() {
	var calls sync.WaitGroup
	defer calls.Wait()
	for k.ctx.Err() == nil {
		attempts, lists, next := k.due(time.Now())
		for _, a := range attempts {
			calls.Go(func() {
				k.subscribe(a)
				k.called()
			})
		}
		for _, m := range lists {
			m.sink.List()
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-k.ctx.Done():
		case <-timer.C:
		case <-k.wake:
		}
		timer.Stop()
		pause.For(k.ctx, settle)
	}
}

func (k *Keeper) called() {
	k.mu.Lock()
	k.calls--
	k.mu.Unlock()
	k.changed()
}

// rest is the longest that the loop sleeps.
const rest = time.Hour

// due takes what is to be done now, and says when the next is due.
func (k *Keeper) due(now time.Time) (attempts []*attempt, lists []*Member, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next = now.Add(rest)
	at := func(t time.Time) bool { // whether that time has come; if not, the loop wakes for it
		if t.After(now) && t.Before(next) {
			next = t
		}
		return !t.After(now)
	}
	var needy []*Member
	for m := range k.members {
		m.watch(now, at)
		if m.needs(now) && m.asking == nil && at(m.refusal.Next()) {
			needy = append(needy, m)
		}
		if m.listDue(now, at) {
			lists = append(lists, m)
		}
	}
	if k.calls >= subscribing { // the end of a call wakes the loop
		return nil, lists, next
	}
	slices.SortFunc(needy, func(a, b *Member) int { // who failed goes last; of the others the first by name leads its group
		return cmp.Or(cmp.Compare(a.refusal.Failures(), b.refusal.Failures()), cmp.Compare(a.at.Primary, b.at.Primary))
	})
	for _, m := range needy {
		if a := k.attempt(m, now, at); a != nil {
			attempts = append(attempts, a)
		}
	}
	return attempts, lists, next
}

// needs says whether a member needs a subscription, or another one. It is called with mu held.
func (m *Member) needs(now time.Time) bool {
	return m.now == nil || m.doubted || m.since.IsZero() && !m.now.silentAt(m.keeper.o.Frequency).After(now)
}

// watch looks whether callbacks come as they should. It is called with mu held.
func (m *Member) watch(now time.Time, at func(time.Time) bool) {
	s, frequency := m.now, m.keeper.o.Frequency
	if s == nil {
		return
	}
	switch silent := at(s.silentAt(frequency)); {
	case silent && !m.since.IsZero():
		m.unreached()
		m.broken(now)
		m.keeper.o.Log.Info("callbacks have stopped; the mailbox is subscribed anew", zap.String("mailbox", m.at.Primary),
			zap.Duration("silent_for", now.Sub(s.lastPost).Round(time.Second)))
	case m.since.IsZero() && m.fault == nil && at(s.made.Add(firstCallback)):
		m.fault = Unreached(m.keeper.o.PublicURL)
		m.keeper.o.Log.Warn("a mailbox is subscribed, and its callbacks do not come", zap.String("mailbox", m.at.Primary), zap.Error(m.fault))
	}
}

// Unreached is the fault of a subscription whose callbacks do not come.
func Unreached(publicURL string) *fault.Error {
	return &fault.Error{Op: "Subscribe", Code: CodeUnreached, Scope: fault.Mailbox, Remedy: fault.Wait, Missed: true,
		Evidence: fault.Evidence{Peer: fault.Exchange},
		Text: "Exchange accepted the subscription, and its callback does not reach " + publicURL + Path + "…: the mailbox servers must reach " +
			"this address (firewall; their proxy is Set-ExchangeServer -InternetWebProxy) and trust its certificate"}
}

// listDue says whether a member is to be listed now. It is called with mu held.
func (m *Member) listDue(now time.Time, at func(time.Time) bool) bool {
	list := false
	if m.untold() {
		list = m.poll.Due(m.keeper.o.Polls, now)
		at(m.poll.At(m.keeper.o.Polls, now))
	}
	if !m.listBy.IsZero() && at(m.listBy) {
		m.listBy = time.Time{}
		list = true
	}
	return list
}

// attempt begins a Subscribe for a member; nil: others go first. It is called with mu held.
func (k *Keeper) attempt(m *Member, now time.Time, at func(time.Time) bool) *attempt {
	g := m.group
	if k.calls >= subscribing { // the end of a call wakes the loop
		return nil
	}
	a := &attempt{member: m, joined: m.joined, at: m.at, affinity: g.affinity, made: m.newSubscription()}
	if g.affinity.Anchor == "" {
		if g.leads != nil && !at(g.since.Add(leading)) {
			return nil
		}
		a.affinity.Anchor = m.at.Primary
		g.leads, g.since = m, now
	}
	m.asking, m.answers = a.made, false
	k.calls++
	k.o.Receiver.add(a.made.secret, m) // before the call: the first post comes before its answer
	return a
}

// subscribe subscribes a member and writes that down.
func (k *Keeper) subscribe(a *attempt) {
	m := a.member
	err := m.box.Subscribable(k.ctx) // what cannot be written down would be lost at the next start
	var got Subscribed
	if err == nil {
		push := ews.Push{URL: k.o.PublicURL + Path, Secret: a.made.secret, Frequency: k.o.Frequency}
		got, err = k.o.Server.SubscribePush(k.ctx, *a.at, a.affinity, push)
	}
	if err == nil {
		err = k.record(a, got)
	}
	if err != nil {
		k.refused(a, err)
		return
	}
	m.sink.Answers()
	if k.subscribed(a, got) {
		m.sink.List()
	}
}

// subscribed takes a new subscription up, and says whether the mailbox is to be listed: its first callback has come. Else it is listed when that
// comes.
func (k *Keeper) subscribed(a *attempt, got Subscribed) (list bool) {
	m := a.member
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.group == nil || m.joined != a.joined { // it left meanwhile, and its secret is forgotten
		return false
	}
	now := time.Now()
	s := a.made
	early := s.id == got.ID && !s.lastPost.IsZero() // the first callback came before the answer to Subscribe
	s.id, s.made = got.ID, now
	if !early {
		s.watermark, s.lastPost = "", time.Time{}
	}
	m.drop(m.now)
	m.doubted = false
	m.now, m.asking, m.refusal = s, nil, refusal.Refusal{}
	m.poll.Told()
	m.unreached()
	m.broken(now)
	if m.group.leads == m {
		m.group.leads = nil
	}
	if m.group.affinity.Anchor == "" && a.affinity.Anchor == a.at.Primary { // else another led the group, and has left
		m.group.affinity = Affinity{Anchor: a.affinity.Anchor, Cookie: got.Cookie}
	}
	return early && m.reached(s.lastPost)
}

// record writes a new subscription down.
func (k *Keeper) record(a *attempt, got Subscribed) error {
	asleep := false
	err := a.member.box.Update(k.ctx, func(d *subscriptions.Draft) {
		k.mu.Lock()
		defer k.mu.Unlock()
		asleep = len(d.Devices) == 0 // its last device was removed meanwhile
		if !asleep && a.member.group != nil && a.member.joined == a.joined {
			d.Subscription, d.Subscribed, d.Callback = got.ID, time.Now(), a.made.nonce
		}
	})
	if err == nil && asleep {
		err = subscriptions.ErrNoMailbox
	}
	return subscriptions.Unwritable(err)
}

// refused notes that a member could not be subscribed. What the server may have made of it ends when it posts.
func (k *Keeper) refused(a *attempt, err error) {
	m, f := a.member, fault.Of(err)
	k.mu.Lock()
	m.drop(a.made)
	if k.ctx.Err() != nil || m.group == nil || m.joined != a.joined { // it left, or all ends
		k.mu.Unlock()
		return
	}
	if m.group.leads == m {
		m.group.leads = nil
	}
	if f.Misled && m.group.affinity == a.affinity { // else another leads by now
		m.group.affinity = Affinity{}
	}
	m.asking = nil
	m.refusal.Again(f, time.Now())
	if m.answers {
		m.refusal.Answers()
	}
	if errors.Is(err, subscriptions.ErrNoMailbox) { // it is about to leave, unless it gets another device
		k.mu.Unlock()
		return
	}
	next, list := m.refusal.Next(), !m.listBy.IsZero()
	m.listBy = time.Time{}
	k.mu.Unlock()
	if list {
		m.sink.List()
	}
	if f.Scope < fault.Account { // else the account has said it, once for all
		k.o.Log.Warn("a mailbox cannot be subscribed", zap.String("mailbox", a.at.Primary), zap.Time("next_try", next), zap.Error(err))
	}
	if f.Moved && m.sink.Doubt(f) {
		m.leave(a.joined)
	}
}
