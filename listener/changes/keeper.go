package changes

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/internal/agenda"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// settle is how long the loop waits for more to do: 15,000 mailboxes that join wake it once and not 15,000 times.
	settle = 20 * time.Millisecond
	// rest is the longest that the loop sleeps.
	rest = time.Hour
)

// Options of a Keeper.
type Options struct {
	Server    Server
	Receiver  *Receiver                  // nil: there is no public URL, and the mailboxes are polled
	Writes    *rate.Limiter              // of all accounts; nil: NewWrites
	Polls     *polling.Pace              // of the mailboxes that nothing tells of; it may be nil
	BusyPolls *polling.Pace              // of those of them that have got mail lately
	Content   Content                    // nil: notifications come without content
	Known     func() map[string]struct{} // the subscriptions that the records of all mailboxes have
	Log       *zap.Logger
}

// Keeper keeps the mailboxes of one listener account subscribed.
type Keeper struct {
	o     Options
	ctx   context.Context // of the calls
	stop  context.CancelFunc
	tasks sync.WaitGroup
	wake  chan struct{} // what is due has changed

	mu      sync.Mutex
	closed  bool
	begun   bool
	members int                    // that have joined
	agenda  agenda.Agenda[*Member] // what is due for them
	writes  writes
	hold    hold
	plain   withoutContent
	current map[string]*Member // the members by the ids of their subscriptions
}

// NewKeeper returns a keeper without a member.
func NewKeeper(o Options) *Keeper {
	if o.Writes == nil {
		o.Writes = NewWrites()
	}
	k := &Keeper{o: o, wake: make(chan struct{}, 1), current: map[string]*Member{}}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// Close ends the calls. Subscriptions are kept, for the next start.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true // under mu: from now on nobody joins, and no call begins
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

// Retry has tried at once what waits because of the account or its server: credentials, permissions or connections have changed.
func (k *Keeper) Retry() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hold = hold{}
	for m := range k.agenda.All() {
		m.denied = false
	}
	k.release()
}

// Answers has tried at once what waits only because Graph did not answer, which it does again. Where all are held for that, one finds out.
func (k *Keeper) Answers(string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.hold.fault; f != nil && f.Outage() {
		k.hold.until = time.Time{}
	}
	for m := range k.agenda.All() {
		if m.refusal.Answers() {
			m.plan()
		}
	}
	k.changed()
}

// begin starts the work with the first member. It is called with mu held.
func (k *Keeper) begin() {
	if k.begun {
		return
	}
	k.begun = true
	k.tasks.Go(k.run)
	if k.o.Receiver != nil {
		k.tasks.Go(k.sweep)
	}
}

// changed wakes the loop.
func (k *Keeper) changed() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run sees to it that what is due is done, until the keeper is closed. It waits for none of the calls.
func (k *Keeper) run() {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-timer.C:
		}
		lists, next := k.work(time.Now())
		for _, m := range lists {
			m.sink.List()
		}
		timer.Reset(max(time.Until(next), settle))
		select {
		case <-k.ctx.Done():
			return
		case <-timer.C:
			timer.Reset(0)
		case <-k.wake:
			timer.Reset(settle)
		}
	}
}

// work has done what is due, and says which members are to be listed and when the next is due.
func (k *Keeper) work(now time.Time) (lists []*Member, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m, due := k.agenda.Take(now); due; m, due = k.agenda.Take(now) {
		if m.act(now) {
			lists = append(lists, m)
		}
		m.plan()
	}
	k.hire(now)
	next = now.Add(rest)
	for _, t := range []time.Time{k.agenda.Next(), k.hold.until} {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	return lists, next
}
