// Package listener is about listener accounts: which mailbox is listened to where and how. It finds where a mailbox lives, gives it room at
// an account there, has that account listen for new mail, and has the inbox read the mailbox through a link. Of a mailbox that is not
// listened to it says why, and when it tries again.
//
// A mailbox is followed while it has a device. A look-up (mailbox.lookUp, one at a time) asks the entries that cover its address where it
// lives, and takes a seat at an account there. From then on the inbox reads the mailbox through its link, and a kind of listening has it as
// a member, which marks it through a sink. An error is kept where it belongs: with the quest for the mailbox's location, the inbox's turn,
// the membership, or the health of the account. An error that says that the mailbox may live elsewhere (link.doubt) leads to the next
// look-up.
//
//	mailbox.go     one followed mailbox: where it is looked for, and what it has there
//	lookup.go      where a mailbox lives: which entries are asked, and what they say
//	lookups.go     who looks up, within a bound; newcomers.go: those that were just enrolled
//	entry.go       an exchange entry at work
//	placement.go   room at the accounts of an entry, and who waits for some
//	account.go     a listener account at work
//	health.go      whether a refusal is a mailbox's or its account's, and who may try that again
//	outage.go      what waits for a server that fails
//	link.go        how the inbox reads a mailbox at its location, and what its errors say about that
//	told.go        messages that came in notifications, and need not be read
//	source.go      what an account reads with; ews.go, graph.go: the two there are
//	listening.go   the seam to the kinds of listening, each a folder of its own: packages streaming, callbacks and changes
//	fallback.go    from streaming to push, where there is no streaming
//	listenby.go    from EWS to Microsoft Graph, and back
//	enrolment.go   devices come and go
//	status.go      what is asked about all this
//
// Lock order: a lock of this package is held for a few lines, which take no other, with three exceptions. Listener.mu is held while a
// mailbox is opened in the inbox and gets its seat back, and while it is closed there; mailbox.mu while link.mu is taken; and either.mu
// while a mailbox joins or leaves.
package listener

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/subscriptions"
)

// MaxAccounts is how many listener accounts one instance owns: the first of each entry, so that no entry is left without one, then the
// others in the order of the configuration. With 1,250 mailboxes each they have 15,000.
const MaxAccounts = 12

// shares returns how many accounts of each entry this instance owns.
func shares(entries []Entry) []int {
	owned, left := make([]int, len(entries)), MaxAccounts
	for _, most := range []int{1, MaxAccounts} {
		for i := range entries {
			more := min(most, len(entries[i].Accounts)-owned[i], left)
			owned[i] += more
			left -= more
		}
	}
	return owned
}

// Options of a Listener.
type Options struct {
	Book      *subscriptions.Book
	Inbox     *inbox.Inbox // it is closed after the Listener
	Entries   []Entry
	PublicURL string // where Exchange reaches the callbacks of mailbell; empty: nowhere, and no entry listens by push
	Log       *zap.Logger
	Metrics   prometheus.Registerer
}

// Entry is an exchange entry of the configuration.
type Entry struct {
	Name                       string
	Domains                    []string     // several entries may have a domain: they are asked in their order
	URL                        string       // of EWS, where it is configured; else the accounts have a Finder
	MailboxServers             []string     // only their mailboxes are listened to, by short or full names; none: all
	ListenBy                   string       // ByStreaming, ByPush or ByGraph; empty: ByStreaming
	Dialect                    *ews.Dialect // that the accounts' clients speak, for Load; may be nil
	Accounts                   []Account
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	RequestsPerSecond          int // as configured; 0: no rate is
	SafetyPoll                 time.Duration
}

// Account is a listener account.
type Account struct {
	Name    string
	Source  Source
	Streams streaming.Server
	Pushes  callbacks.Server // where the entry listens by push
	Finder  Finder

	// Microsoft Graph, where the entry has it.
	Graph       Source // nil: it has none
	Changes     changes.Server
	GraphFinder Finder
	Content     changes.Content // opens that of notifications; nil: they come without
}

// The kinds of listening of an entry.
const (
	ByStreaming = "streaming"
	ByPush      = "push"
	ByGraph     = "graph"
)

// Listener follows the mailboxes of a book.
type Listener struct {
	o        Options
	log      *zap.Logger
	entries  []*entry
	receiver *callbacks.Receiver // nil: nobody listens by push
	changes  *changes.Receiver   // nil: Graph has nowhere to post to
	writes   *rate.Limiter       // of subscriptions at Graph, by all accounts
	known    *lookups            // of mailboxes whose location the configuration or their record tells
	new      *newcomers          // mailboxes that nobody has looked up yet
	looking  context.Context     // of the look-ups
	stop     context.CancelFunc
	stopping atomic.Bool
	told     atomic.Int64   // messages that came in notifications and are not taken yet
	located  atomic.Bool    // every mailbox has been looked up once
	tasks    sync.WaitGroup // look-ups; grows only while mu is held and stopping is false

	mu       sync.Mutex
	followed map[*subscriptions.Mailbox]*mailbox
}

// New returns a listener that follows nothing yet.
func New(o Options) *Listener {
	l := &Listener{o: o, log: o.Log, followed: map[*subscriptions.Mailbox]*mailbox{}, writes: changes.NewWrites()}
	l.looking, l.stop = context.WithCancel(context.Background())
	l.known, l.new = newLookups(l, maxKnown), newNewcomers(l)
	if o.PublicURL != "" {
		l.receiver = callbacks.NewReceiver(o.Book.Secret(), o.Metrics)
		for _, m := range o.Book.Mailboxes() {
			l.receiver.Keep(m)
		}
	}
	if strings.HasPrefix(o.PublicURL, "https://") && slices.ContainsFunc(o.Entries, Entry.hasGraph) {
		l.changes = changes.NewReceiver(o.PublicURL, o.Book.Secret(), o.Metrics)
	}
	metrics := streaming.NewMetrics(o.Metrics)
	for i, owned := range shares(o.Entries) {
		e := newEntry(l, &o.Entries[i], owned, metrics)
		if more := len(e.Accounts) - len(e.accounts); more > 0 {
			l.log.Warn("listener accounts are left unused: an instance owns 12 at most", zap.String("exchange", e.Name), zap.Int("unused", more))
		}
		l.entries = append(l.entries, e)
	}
	if o.Metrics != nil {
		o.Metrics.MustRegister(states{l})
	}
	return l
}

// Callbacks answers what Exchange posts to callbacks.Path; nil: nobody listens by push.
func (l *Listener) Callbacks() *callbacks.Receiver { return l.receiver }

// Changes answers what Microsoft Graph posts to changes.Path; nil: nobody is listened to by its notifications.
func (l *Listener) Changes() *changes.Receiver { return l.changes }

// hasGraph says whether mailboxes of the entry can be read by Graph, with every account.
func (e Entry) hasGraph() bool {
	return len(e.Accounts) > 0 && !slices.ContainsFunc(e.Accounts, func(a Account) bool { return a.Graph == nil })
}

// subscriptionsAtGraph returns the ids of those that the records of the mailboxes have.
func (l *Listener) subscriptionsAtGraph() map[string]struct{} {
	all := map[string]struct{}{}
	for _, m := range l.o.Book.Mailboxes() {
		if g := m.Record().Graph; g != nil {
			all[g.ID] = struct{}{}
		}
	}
	return all
}

// Start follows every mailbox of the book. Each keeps its seat. They are looked up in the order in which they were subscribed, so that
// those that shared a stream share one again.
func (l *Listener) Start() {
	boxes := l.o.Book.Mailboxes()
	slices.SortStableFunc(boxes, func(a, b *subscriptions.Mailbox) int {
		r, s := a.Record(), b.Record()
		return cmp.Or(cmp.Compare(r.Account, s.Account), cmp.Compare(r.Location().URL, s.Location().URL), cmp.Compare(r.Location().Group, s.Location().Group),
			r.Subscribed.Compare(s.Subscribed))
	})
	var list []*mailbox
	for _, b := range boxes {
		if m, known := l.begin(b); m != nil && !known {
			list = append(list, m)
		}
	}
	for _, m := range list { // no look-up begins before each has its seat back
		m.seek()
	}
}

// Close ends look-ups and listening: no hint comes any more. Subscriptions are kept for the next start. The inbox is closed after it.
func (l *Listener) Close() {
	l.mu.Lock()
	l.stopping.Store(true) // under mu: from now on nobody is followed, and no look-up begins
	l.mu.Unlock()
	l.stop()
	for _, m := range l.mailboxes() {
		m.rest()
	}
	for _, e := range l.entries {
		for _, a := range e.accounts {
			for _, w := range a.ways() {
				w.listening.Close()
			}
		}
	}
	if l.changes != nil {
		l.changes.Close()
	}
	l.tasks.Wait()
}

// run runs a look-up, unless the listener is stopping.
func (l *Listener) run(task func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() {
		return false
	}
	l.tasks.Go(task)
	return true
}

// follow follows a mailbox that has a device. m is nil where it has none, or the listener is stopping. known: it was followed already.
func (l *Listener) follow(box *subscriptions.Mailbox) (m *mailbox, known bool) {
	m, known = l.begin(box)
	switch {
	case m == nil:
	case known:
		m.cover()
	default:
		l.new.add(m)
	}
	return m, known
}

// begin puts a mailbox among those that are followed, and does nothing else for it yet.
func (l *Listener) begin(box *subscriptions.Mailbox) (m *mailbox, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, known = l.followed[box]
	devices := box.Devices() // under mu: unfollow looks there too, so that neither misses the other
	if !known && !l.stopping.Load() && len(devices) > 0 {
		m = newMailbox(l, box)
		m.keep()
		l.followed[box] = m
	}
	return m, known
}

// unfollow stops following a mailbox that has no device any more, unless one has come since.
func (l *Listener) unfollow(box *subscriptions.Mailbox) {
	l.mu.Lock()
	m := l.followed[box]
	if m != nil && len(box.Devices()) == 0 {
		delete(l.followed, box)
		m.work.Close() // under mu: whoever follows the mailbox again opens it in the inbox after this
	} else {
		m = nil
	}
	l.mu.Unlock()
	if m != nil {
		m.close()
	}
}

// mailbox returns a mailbox that is followed; nil: it is not.
func (l *Listener) mailbox(box *subscriptions.Mailbox) *mailbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.followed[box]
}

// following is how many mailboxes are followed.
func (l *Listener) following() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.followed)
}

func (l *Listener) mailboxes() []*mailbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*mailbox, 0, len(l.followed))
	for _, m := range l.followed {
		list = append(list, m)
	}
	return list
}

// AccountChanged says that the credential of a listener account was replaced: what was refused is tried again at once.
func (l *Listener) AccountChanged(exchange, account string) {
	for _, e := range l.entries {
		for _, a := range e.accounts {
			if e.Name == exchange && a.Name == account {
				l.retry(a)
			}
		}
	}
}

// ConnectionsChanged says that connections are made another way from now on, by another proxy: what failed is tried again at once.
func (l *Listener) ConnectionsChanged() {
	for _, e := range l.entries {
		for _, a := range e.accounts {
			l.retry(a)
		}
	}
	for _, m := range l.mailboxes() {
		m.retry(func(f *fault.Error) bool { return f.Scope == fault.Server })
	}
}

// Worked says that a test went the whole way for a mailbox: what waits for its account, or for it, is tried at once.
func (l *Listener) Worked(address string) {
	m := l.mailbox(l.o.Book.Mailbox(address))
	if m == nil {
		return
	}
	m.retry(func(*fault.Error) bool { return true })
	if k := m.linked(); k != nil {
		k.way.calls.call(k.at.Primary).works()
		k.way.account.finding.call(k.at.Primary).works()
		k.member.Listed()
	}
}

// retry forgets what is known against an account, and has what waits for it tried at once.
func (l *Listener) retry(a *account) {
	for _, w := range a.ways() {
		w.calls.unblock()
	}
	a.finding.unblock()
	l.wake(a)
}

// wake has what waits for an account tried at once.
func (l *Listener) wake(a *account) {
	for _, m := range l.mailboxes() {
		if m.concerns(a) {
			m.retry(func(f *fault.Error) bool { return f.Scope == fault.Account || f.Unproven })
		}
	}
	for _, w := range a.ways() {
		w.listening.Retry()
	}
}
