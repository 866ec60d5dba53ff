package listener

// What is asked about the mailboxes and accounts. Status is read, not pushed.

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// Status says how a mailbox of the book is listened to.
func (l *Listener) Status(box *subscriptions.Mailbox) subscriptions.Status {
	m := l.mailbox(box)
	if m == nil {
		return subscriptions.Status{State: subscriptions.Resolving}
	}
	work := m.work.Status()
	s := subscriptions.Status{
		LastHint: work.LastHint, LastListing: work.LastListing, LastMessage: work.LastMessage, Decisions: m.work.Decisions(),
	}
	if r := box.Record(); r.Subscription != "" {
		s.Subscribed = r.Subscribed
	}
	if k := m.linked(); k != nil {
		s.Location = k.location()
		_, s.LastHeartbeat = k.member.Listening()
	}
	s.Account = m.accountName()
	s.State, s.Reason, s.Next = m.state()
	return s
}

func (m *mailbox) accountName() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.account == nil {
		return ""
	}
	return m.account.Name
}

// state of the mailbox: of its look-up, then of reading it, then of listening to it.
func (m *mailbox) state() (s subscriptions.State, reason string, next time.Time) {
	m.mu.Lock()
	k, f, next := m.link, m.failing, m.next
	outOfScope, covered := m.outOfScope, m.asked == nil || len(m.asked) > 0
	var full *fault.Error
	if k == nil && m.entry != nil && m.account == nil {
		full = m.entry.full()
	}
	m.mu.Unlock()
	switch {
	case full != nil:
		return subscriptions.WaitingForCapacity, words(full), next
	case outOfScope:
		return subscriptions.OutOfScope, words(f), next
	case f != nil && !covered:
		return subscriptions.Failing, words(f), next
	case f != nil:
		return subscriptions.Failing, f.Error(), next
	case k == nil:
		return subscriptions.Resolving, "", time.Time{}
	}
	return k.state()
}

// words are the reason of a state: a code, then words.
func words(f *fault.Error) string { return f.Code + ": " + f.Text }

// state of a mailbox whose location is known. Listening means both: notifications reach us, and a listing that began after that is done.
func (k *link) state() (s subscriptions.State, reason string, next time.Time) {
	work := k.m.work.Status()
	if work.Failing != nil {
		return subscriptions.Failing, work.Failing.Error(), work.Next
	}
	if f, next := k.member.Failing(); f != nil {
		nothing := f.Scope >= fault.Account || f.Scope < fault.Group && !work.Listed // neither told of nor listed
		if nothing {
			return subscriptions.Failing, f.Error(), next
		}
		return subscriptions.Polling, f.Error(), next
	}
	since, _ := k.member.Listening()
	switch {
	case since.IsZero():
		return subscriptions.Resolving, "stream: being opened", time.Time{}
	case !work.Listed:
		return subscriptions.Resolving, "listing: under way", time.Time{}
	case len(k.account.entry.MailboxServers) > 0 && k.location().Server == "":
		return subscriptions.Listening, "server_unknown: no answer names the mailbox's server, so mailbox_servers does not apply", time.Time{}
	}
	return subscriptions.Listening, "", time.Time{}
}

// Standing says how one device stands: as its mailbox does, or behind with its own reason.
func (l *Listener) Standing(box *subscriptions.Mailbox, device string) (state subscriptions.State, reason string, next time.Time) {
	if b := box.Record().BehindOf(device); b != nil {
		return subscriptions.BehindState, string(b.Reason), b.Next
	}
	m := l.mailbox(box)
	if m == nil {
		return subscriptions.Resolving, "", time.Time{}
	}
	return m.state()
}

// Count is how many mailboxes are in each state.
func (l *Listener) Count() map[subscriptions.State]int {
	n := map[subscriptions.State]int{}
	for _, m := range l.mailboxes() {
		s, _, _ := m.state()
		n[s]++
	}
	return n
}

// Placed says whether every mailbox has been looked up once.
func (l *Listener) Placed() bool {
	if l.located.Load() {
		return true // what is enrolled later is placed while the service is ready
	}
	all := !slices.ContainsFunc(l.mailboxes(), func(m *mailbox) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.link == nil && m.failing == nil
	})
	l.located.Store(all)
	return all
}

// Load is what an exchange entry has to do.
type Load struct {
	Exchange string
	Version  string // the RequestServerVersion that is spoken with its servers; empty: its Dialect is not known here
	Waiting  int    // mailboxes that wait for room
	Accounts []AccountLoad
}

// AccountLoad is what a listener account has to do.
type AccountLoad struct {
	Name      string
	Mailboxes int
	Streams   int       // open
	Blocked   string    // why the account cannot work; empty: it can
	Next      time.Time // when that is tried again
}

// Load says what each exchange entry has to do, in the order of the configuration.
func (l *Listener) Load() []Load {
	list := make([]Load, len(l.entries))
	for i, e := range l.entries {
		list[i] = Load{Exchange: e.Name, Waiting: e.seats.queue()}
		if e.Dialect != nil {
			list[i].Version = e.Dialect.Version()
		}
		for _, a := range e.accounts {
			s := AccountLoad{Name: a.Name, Mailboxes: e.seats.taken(a), Streams: a.listening.Open()}
			if blocked, next := a.state(); blocked != nil {
				s.Blocked, s.Next = blocked.Error(), next
			}
			list[i].Accounts = append(list[i].Accounts, s)
		}
	}
	return list
}

// states counts the mailboxes by state when it is asked.
type states struct{ l *Listener }

var stateDesc = prometheus.NewDesc("mailbell_mailboxes", "Mailboxes by state.", []string{"state"}, nil)

// Describe describes the metric.
func (s states) Describe(ch chan<- *prometheus.Desc) { ch <- stateDesc }

// Collect counts.
func (s states) Collect(ch chan<- prometheus.Metric) {
	n := s.l.Count()
	for _, state := range subscriptions.States() {
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(n[state]), string(state))
	}
}
