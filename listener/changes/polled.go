package changes

import (
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/polling"
)

const (
	// BusyInterval is how often a mailbox is listed that has got mail within busyFor: who is written to is written to again.
	BusyInterval = 20 * time.Second
	busyFor      = 15 * time.Minute
)

// polls are those of one mailbox.
type polls struct {
	next  time.Time     // when it is listed since nothing tells of its mail; zero: not planned
	every time.Duration // about how often
	busy  time.Time     // until when it counts as busy
}

// untold says whether the mailbox is to be polled: nothing tells of its mail. It is called with mu held.
func (m *Member) untold() bool {
	return m.in && (m.since.IsZero() || m.fault != nil)
}

// at is when it is to be listed.
func (p *polls) at(m *Member, now time.Time) time.Time {
	if p.next.IsZero() {
		p.plan(m, now)
	}
	return p.next
}

func (p *polls) plan(m *Member, now time.Time) {
	pace, interval := m.keeper.o.Polls, polling.Interval
	if p.busy.After(now) {
		pace, interval = m.keeper.o.BusyPolls, BusyInterval
	}
	p.next = pace.Next(now)
	p.every = max(interval, p.next.Sub(now).Truncate(interval))
}

// poll says whether the mailbox is to be listed now. It is called with mu held.
func (m *Member) poll(now time.Time) bool {
	if !m.untold() {
		m.polls.next, m.polls.every = time.Time{}, 0
		return false
	}
	if m.polls.at(m, now).After(now) {
		return false
	}
	m.polls.plan(m, now)
	return true
}

// found takes in that a listing showed a message of this age that no notification had named.
func (p *polls) found(m *Member, age time.Duration, now time.Time) {
	if age >= busyFor {
		return
	}
	was := p.busy.After(now)
	p.busy = now.Add(busyFor)
	if !was && m.untold() && !p.next.IsZero() {
		p.plan(m, now)
		m.plan()
		m.keeper.changed()
	}
}

// CodeNowhere is the fault.Error.Code of a mailbox for which Graph has no URL to post to.
const CodeNowhere = "no public_url"

func nowhere() *fault.Error {
	return &fault.Error{Op: "POST subscriptions", Code: CodeNowhere, Scope: fault.Mailbox, Remedy: fault.Fix, Untold: true,
		Text: "the configuration has no public_url, the https URL at which Microsoft Graph could reach mailbell"}
}
