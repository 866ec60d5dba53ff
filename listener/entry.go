package listener

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// entry is an exchange entry at work.
type entry struct {
	*Entry
	accounts []*account
	seats    *seats
	lookups  *lookups
	sharing  streaming.Sharing             // of streams by its mailboxes
	turn     atomic.Uint32                 // of the accounts: which asks where a mailbox lives
	skew     atomic.Pointer[time.Duration] // the server's clock minus ours, as the last answer showed it
}

func newEntry(l *Listener, e *Entry, accounts int, metrics *streaming.Metrics) *entry {
	n := &entry{Entry: e, lookups: newLookups(l, maxLookups)}
	for i := range min(len(e.Accounts), accounts) {
		n.accounts = append(n.accounts, newAccount(l, n, &e.Accounts[i], metrics))
	}
	n.seats = newSeats(n.accounts, e.MailboxesPerAccount, e.SubscriptionsPerConnection)
	return n
}

func (e *entry) covers(address string) bool {
	return slices.ContainsFunc(e.Domains, func(d string) bool { return strings.EqualFold(d, mail.Domain(address)) })
}

// serves says whether an entry is to listen to the mailboxes of a server. To one that is not known it listens.
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

// now is the server's clock; ours as long as no answer has told it.
func (e *entry) now() time.Time {
	if skew := e.skew.Load(); skew != nil {
		return time.Now().Add(*skew)
	}
	return time.Now()
}

// enrolment is since when a device that enrols now gets alerts (rule 5): now on the server's clock, less the tolerance, for rather one
// alert from just before than none. Zero while that clock is not known.
func (e *entry) enrolment(now time.Time) time.Time {
	skew := e.skew.Load()
	if skew == nil {
		return time.Time{}
	}
	return now.Add(*skew - mail.Tolerance).Truncate(time.Second)
}

// asker is the account that asks where a mailbox lives, which costs no room: the one that it had, else one after the other, and rather one
// that can work.
func (e *entry) asker(had string) *account {
	first := slices.IndexFunc(e.accounts, func(a *account) bool { return a.Name == had })
	if first < 0 {
		first = int(e.turn.Add(1)) % len(e.accounts)
	}
	for i := range e.accounts {
		a := e.accounts[(first+i)%len(e.accounts)]
		if a.blocked() == nil {
			return a
		}
	}
	return e.accounts[first]
}
