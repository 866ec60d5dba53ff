package listener

import (
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// decide keeps a decision for whoever asks why a phone did not ring, and counts it.
func (m *mailbox) decide(list ...subscriptions.Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range list {
		m.l.metrics.outcome(d)
		if len(m.decisions) < maxDecisions {
			m.decisions = append(m.decisions, d)
			m.newest = len(m.decisions) - 1
			continue
		}
		m.newest = (m.newest + 1) % maxDecisions
		m.decisions[m.newest] = d
	}
}

// Hearing says how a mailbox of the book is heard.
func (l *Listener) Hearing(box *subscriptions.Mailbox) subscriptions.Hearing {
	m := l.mailbox(box)
	if m == nil {
		return subscriptions.Hearing{State: subscriptions.Resolving}
	}
	r := box.Record()
	m.mu.Lock()
	defer m.mu.Unlock()
	h := subscriptions.Hearing{
		Location: m.place, LastHint: m.hinted, LastListing: m.listing, LastMessage: m.message,
	}
	if r.Subscription != "" {
		h.Subscribed = r.Subscribed
	}
	if m.group != nil && m.open {
		h.LastHeartbeat = time.Unix(0, m.group.beat.Load())
	}
	if m.account != nil {
		h.Account = m.account.Name
	}
	h.State, h.Reason, h.Next = m.state()
	for i := range m.decisions {
		h.Decisions = append(h.Decisions, m.decisions[(m.newest+len(m.decisions)-i)%len(m.decisions)])
	}
	return h
}

// state is called with mu held.
func (m *mailbox) state() (s subscriptions.State, reason string, next time.Time) {
	switch {
	case m.e == nil:
		return subscriptions.Failing, "not_covered: no exchange entry of the configuration covers this address", time.Time{}
	case m.waits:
		return subscriptions.WaitingForCapacity, m.e.full().Code + ": " + m.e.full().Text, m.notBefore
	case m.failing != nil && m.failing.Code == codeOutOfScope:
		return subscriptions.OutOfScope, m.failing.Code + ": " + m.failing.Text, m.notBefore
	case m.failing != nil:
		return subscriptions.Failing, m.failing.Error(), m.notBefore
	case m.group == nil:
		return subscriptions.Resolving, "", time.Time{}
	case m.subFault != nil && m.listed:
		return subscriptions.Polling, m.subFault.Error(), m.subNext
	case m.subFault != nil:
		return subscriptions.Failing, m.subFault.Error(), m.subNext
	case !m.open:
		switch f, next := m.group.told(); {
		case f != nil && f.Scope >= fault.Account: // nothing can be read either
			return subscriptions.Failing, f.Error(), next
		case f != nil:
			return subscriptions.Polling, f.Error(), next
		}
		return subscriptions.Resolving, "stream: being opened", time.Time{}
	case !m.listed:
		return subscriptions.Resolving, "listing: under way", time.Time{}
	}
	if len(m.e.MailboxServers) > 0 && m.place.Server == "" {
		return subscriptions.Listening, "server_unknown: no answer names the mailbox's server, so mailbox_servers does not apply", time.Time{}
	}
	return subscriptions.Listening, "", time.Time{}
}

// Standing says how one device stands: as its mailbox does, or behind with its own reason.
func (l *Listener) Standing(box *subscriptions.Mailbox, device string) (state, reason string, next time.Time) {
	if b := box.Record().BehindOf(device); b != nil {
		return "behind", b.Reason, b.Next
	}
	h := l.Hearing(box)
	return string(h.State), h.Reason, h.Next
}

// Count is how many mailboxes are in each state.
func (l *Listener) Count() map[subscriptions.State]int {
	n := map[subscriptions.State]int{}
	for _, m := range l.watched() {
		m.mu.Lock()
		s, _, _ := m.state()
		m.mu.Unlock()
		n[s]++
	}
	return n
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
		list[i] = Load{Exchange: e.Name}
		if e.Dialect != nil {
			list[i].Version = e.Dialect.Version()
		}
		e.mu.Lock()
		list[i].Waiting = len(e.waiting)
		e.mu.Unlock()
		for _, a := range e.accounts {
			list[i].Accounts = append(list[i].Accounts, a.state())
		}
	}
	return list
}

func (a *account) state() AccountLoad {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := AccountLoad{Name: a.Name, Mailboxes: a.load, Streams: int(a.streams.Load())}
	if a.blocked != nil {
		s.Blocked, s.Next = a.blocked.Error(), a.until
	}
	return s
}

func (l *Listener) watched() []*mailbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*mailbox, 0, len(l.boxes))
	for _, m := range l.boxes {
		list = append(list, m)
	}
	return list
}

// Placed says whether every mailbox has been tried once: the first placement is made.
func (l *Listener) Placed() bool {
	if l.placed.Load() {
		return true // the first one; what is enrolled later is placed while the service is ready
	}
	all := !slices.ContainsFunc(l.watched(), func(m *mailbox) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.e != nil && m.group == nil && m.failing == nil && !m.waits
	})
	l.placed.Store(all)
	return all
}
