package listener

// What is asked about the mailboxes and accounts. Status is read, not pushed.

import (
	"iter"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// Status says how a mailbox of the book is listened to. What was decided about it is the book's.
func (l *Listener) Status(box *subscriptions.Mailbox) subscriptions.Status {
	m := l.mailbox(box)
	if m == nil {
		return subscriptions.Status{Standing: subscriptions.Standing{State: subscriptions.Resolving}}
	}
	work := m.work.Status()
	s := subscriptions.Status{LastHint: work.LastHint, LastListing: work.LastListing, LastMessage: work.LastMessage}
	switch r := box.Record(); {
	case r.Graph != nil:
		s.Subscribed = r.Graph.Made
	case r.Subscription != "":
		s.Subscribed = r.Subscribed
	}
	if k := m.linked(); k != nil {
		s.Location = k.location()
		_, s.LastHeartbeat = k.member.Listening()
	}
	s.Standing = m.standing()
	return s
}

// standing of the mailbox: of its look-up, then of reading it, then of listening to it.
func (m *mailbox) standing() (s subscriptions.Standing) {
	m.mu.Lock()
	k, covered := m.link, true
	var last failure
	if m.quest != nil {
		last, covered = m.quest.failure, m.quest.asked == nil || len(m.quest.asked) > 0
	}
	var full *fault.Error
	if k == nil && m.entry != nil && m.account == nil {
		full = m.entry.full()
	}
	switch {
	case m.entry != nil:
		s.Exchange = m.entry.Name
	case last.where != nil:
		s.Exchange = last.where.Name
	}
	if m.account != nil {
		s.Account = m.account.Name
	}
	m.mu.Unlock()
	f := last.why
	s.Next = last.next
	switch {
	case full != nil:
		s.State, s.Reason, s.Fault = subscriptions.WaitingForCapacity, words(full), full
	case last.outOfScope:
		s.State, s.Reason, s.Fault = subscriptions.OutOfScope, words(f), f
	case f != nil && !covered:
		s.State, s.Reason, s.Fault = subscriptions.Failing, words(f), f
	case f != nil:
		s.State, s.Reason, s.Fault = subscriptions.Failing, f.Error(), f
	case k == nil:
		s.State, s.Next = subscriptions.Resolving, time.Time{}
	default:
		s.State, s.Reason, s.Next, s.Fault = k.state()
	}
	s.Next = coming(s.Next)
	return s
}

// coming is when something is tried again. Once that time has come there is none to tell: it is under way, or waits for its turn.
func coming(next time.Time) time.Time {
	if time.Until(next) <= 0 {
		return time.Time{}
	}
	return next
}

// words are the reason of a state: a code, then words.
func words(f *fault.Error) string { return f.Code + ": " + f.Text }

// state of a mailbox whose location is known. Listening means both: notifications reach us, and a listing that began after that is done.
func (k *link) state() (s subscriptions.State, reason string, next time.Time, why *fault.Error) {
	work := k.m.work.Status()
	if f := work.Failing; f != nil {
		return subscriptions.Failing, f.Error(), work.Next, f
	}
	if f, next := k.member.Failing(); f != nil {
		nothing := f.Scope >= fault.Account || f.Scope < fault.Group && !work.Listed // neither told of nor listed
		if nothing {
			return subscriptions.Failing, f.Error(), next, f
		}
		return subscriptions.Polling, f.Error(), next, f
	}
	since, _ := k.member.Listening()
	switch {
	case since.IsZero():
		return subscriptions.Resolving, k.member.Awaits(), time.Time{}, nil
	case !work.Listed:
		return subscriptions.Resolving, "listing: under way", time.Time{}, nil
	case len(k.way.account.entry.MailboxServers) > 0 && k.location().Server == "":
		return subscriptions.Listening, "server_unknown: no answer names the mailbox's server, so mailbox_servers does not apply", time.Time{}, nil
	}
	if f := k.withoutContent(); f != nil {
		return subscriptions.Listening, words(f), time.Time{}, nil
	}
	return subscriptions.Listening, "", time.Time{}, nil
}

// withoutContent says why its notifications come without the messages that are configured to be in them; nil: they do not.
func (k *link) withoutContent() *fault.Error {
	if c, ok := k.member.(contentless); ok {
		return c.WithoutContent()
	}
	return nil
}

// Standing says how one device stands: as its mailbox does, or behind with its own reason. Without a device it is the mailbox's.
func (l *Listener) Standing(box *subscriptions.Mailbox, device string) subscriptions.Standing {
	s := subscriptions.Standing{State: subscriptions.Resolving}
	if m := l.mailbox(box); m != nil {
		s = m.standing()
	}
	if b := box.Record().BehindOf(device); b != nil {
		s.State, s.Reason, s.Next, s.Fault = subscriptions.BehindState, string(b.Reason), coming(b.Next), nil
	}
	return s
}

// Faulty tells of each mailbox that is followed and stands as it does because of an error.
func (l *Listener) Faulty() iter.Seq2[string, subscriptions.Standing] {
	return func(yield func(string, subscriptions.Standing) bool) {
		for _, m := range l.mailboxes() {
			if s := m.standing(); s.Fault != nil && !yield(m.address(), s) {
				return
			}
		}
	}
}

// WithoutContent tells of each mailbox that is listened to by notifications without the messages that are configured to be in them, and why.
func (l *Listener) WithoutContent() iter.Seq2[string, subscriptions.Standing] {
	return func(yield func(string, subscriptions.Standing) bool) {
		for _, m := range l.mailboxes() {
			k := m.linked()
			if k == nil {
				continue
			}
			f := k.withoutContent()
			if f != nil && !yield(m.address(), subscriptions.Standing{State: subscriptions.Listening, Exchange: k.Exchange(), Account: k.way.account.Name, Fault: f}) {
				return
			}
		}
	}
}

// Count is how many mailboxes are in each state.
func (l *Listener) Count() map[subscriptions.State]int {
	n := map[subscriptions.State]int{}
	for _, m := range l.mailboxes() {
		n[m.standing().State]++
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
		return m.link == nil && m.failing() == nil
	})
	l.located.Store(all)
	return all
}

// Load is what an exchange entry has to do.
type Load struct {
	Exchange string
	Version  string        // the RequestServerVersion that is spoken with its servers; empty: its Dialect is not known here
	Places   int           // mailboxes that its accounts may have
	Waiting  int           // mailboxes that wait for room
	Skew     time.Duration // the server's clock minus ours, by its last answer
	EWS      string        // by which its mailboxes are listened to over EWS: ByStreaming or ByPush
	Graph    bool          // they can be listened to by Microsoft Graph
	Accounts []AccountLoad
}

// AccountLoad is what a listener account has to do.
type AccountLoad struct {
	Name      string
	Mailboxes int
	Streams   int          // open
	Blocked   *fault.Error // why the account cannot work; nil: it can
	Next      time.Time    // when that is tried again
	Finding   *fault.Error // why it cannot ask Autodiscover; nil: it can
}

// Load says what each exchange entry has to do, in the order of the configuration.
func (l *Listener) Load() []Load {
	list := make([]Load, len(l.entries))
	for i, e := range l.entries {
		list[i] = Load{Exchange: e.Name, Places: len(e.accounts) * e.MailboxesPerAccount, Waiting: e.seats.queue(), EWS: e.byEWS(), Graph: e.hasGraph()}
		if skew := e.skew.Load(); skew != nil {
			list[i].Skew = *skew
		}
		if e.Dialect != nil {
			list[i].Version = e.Dialect.Version()
		}
		for _, a := range e.accounts {
			s := AccountLoad{Name: a.Name, Mailboxes: e.seats.taken(a)}
			for _, w := range a.ways() {
				s.Streams += w.listening.Open()
				if blocked, next := w.calls.state(); blocked != nil && s.Blocked == nil && !w.left() {
					s.Blocked, s.Next = blocked, next
				}
			}
			if refused, _ := a.finding.state(); refused != nil {
				s.Finding = refused
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
