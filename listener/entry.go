package listener

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// entry is an exchange entry at work.
type entry struct {
	*Entry
	accounts []*account
	seats    *seats
	lookups  *lookups
	exodus   *exodus           // from EWS to Graph; nil: there is no Graph
	sharing  streaming.Sharing // of streams by its mailboxes
	polls    *polling.Pace     // of its mailboxes that no notification tells of
	// The same for mailboxes that are read by Graph, and for those of them that have got mail lately.
	graphPolls, busyPolls *polling.Pace
	fallback              *fallback // from streaming to push; nil: there is none
	outages               outages
	finding               outage                        // of look-ups
	turn                  atomic.Uint32                 // of the accounts: which asks next where a mailbox lives
	skew                  atomic.Pointer[time.Duration] // the server's clock minus ours, as the last answer showed it
}

func newEntry(l *Listener, e *Entry, accounts int, metrics *streaming.Metrics) *entry {
	n := &entry{Entry: e, lookups: newLookups(l, maxLookups), polls: polling.New(pollsPerSecond(e.RequestsPerSecond, mostPolls))}
	perSecond := pollsPerSecond(e.RequestsPerSecond, mostByGraph)
	n.graphPolls, n.busyPolls = polling.New(perSecond), polling.NewEvery(changes.BusyInterval, perSecond/2)
	if e.ListenBy != ByPush && l.receiver != nil {
		n.fallback = newFallback(l.log.With(zap.String("exchange", e.Name)), n.mailboxes, n.answers, l.run)
	}
	if e.hasGraph() {
		n.exodus = &exodus{l: l, entry: n, log: l.log.With(zap.String("exchange", e.Name))}
	}
	for i := range min(len(e.Accounts), accounts) {
		n.accounts = append(n.accounts, newAccount(l, n, &e.Accounts[i], metrics))
	}
	n.seats = newSeats(n.accounts, e.MailboxesPerAccount, e.SubscriptionsPerConnection)
	return n
}

// mostPolls is how many mailboxes of an entry are polled a second: 15,000 in ten minutes, which is what an Exchange answers beside its
// other work. Where a rate is configured it is a quarter of that at most.
const mostPolls = 25

// mostByGraph is the same by Graph: 15,000 a minute. Graph allows an app 13,000 requests a second, and a mailbox 16.
const mostByGraph = 250

func pollsPerSecond(rate int, most float64) float64 {
	if rate <= 0 {
		return most
	}
	return min(most, float64(rate)/4)
}

// source says whether a mailbox that is to be listened to by listenBy is read by EWS or by Graph; empty: as the entry is configured.
func (e *entry) source(listenBy string) mail.Source {
	switch {
	case len(e.accounts) == 0 || !e.hasGraph():
		return mail.EWS
	case cmp.Or(listenBy, e.ListenBy) == ByGraph:
		return mail.Graph
	}
	return mail.EWS
}

// mailboxes is how many mailboxes the accounts have.
func (e *entry) mailboxes() (n int) {
	for _, a := range e.accounts {
		n += e.seats.taken(a)
	}
	return n
}

func (e *entry) covers(address string) bool {
	return slices.ContainsFunc(e.Domains, func(d string) bool { return strings.EqualFold(d, mail.Domain(address)) })
}

// serves says whether the entry is to listen to the mailboxes of a server. Where the server is not known, it is.
func (e *entry) serves(server string) bool {
	return len(e.MailboxServers) == 0 || server == "" ||
		slices.ContainsFunc(e.MailboxServers, func(s string) bool { return hostname.SameServer(s, server) })
}

// tell takes in what an answer says about the server's clock, and returns that clock as it is now.
func (e *entry) tell(a Answer) time.Time {
	if !a.Clock.IsZero() {
		skew := a.Clock.Sub(a.Ours)
		e.skew.Store(&skew)
	}
	return e.now()
}

// answers says whether the server has read or listed something for us since the start.
func (e *entry) answers() bool { return e.skew.Load() != nil }

// now is the server's clock; ours as long as no answer has told it.
func (e *entry) now() time.Time {
	if skew := e.skew.Load(); skew != nil {
		return time.Now().Add(*skew)
	}
	return time.Now()
}

// allByGraph says whether mailboxes of the entry are read by Graph, and none by EWS.
func (e *entry) allByGraph() bool {
	if !e.hasGraph() {
		return false
	}
	graph, ews := 0, 0
	for _, a := range e.accounts {
		graph += a.byGraph.mailboxes()
		ews += a.byEWS.mailboxes()
	}
	return graph > 0 && ews == 0
}

// enrolment is since when a device that enrols now gets alerts (rule 5): now on the server's clock, less the tolerance. Better an alert for
// mail from just before than none. Zero while that clock is not known.
func (e *entry) enrolment(now time.Time) time.Time {
	skew := e.skew.Load()
	if skew == nil {
		return time.Time{}
	}
	return now.Add(*skew - mail.Tolerance).Truncate(time.Second)
}

// asker returns the account that asks where a mailbox lives, which takes no seat there: the one that the mailbox had, else each in turn.
// One that is blocked is passed over, unless all are.
func (e *entry) asker(had string, by mail.Source) *account {
	first := slices.IndexFunc(e.accounts, func(a *account) bool { return a.Name == had })
	if first < 0 {
		first = int(e.turn.Add(1)) % len(e.accounts)
	}
	for i := range e.accounts {
		a := e.accounts[(first+i)%len(e.accounts)]
		if a.blocked(by) == nil {
			return a
		}
	}
	return e.accounts[first]
}
