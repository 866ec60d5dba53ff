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

// polls are what is known about the polls of one mailbox.
type polls struct {
	turn polling.Turn // while nothing tells of its mail
	busy time.Time    // until when it counts as busy
}

// untold says whether the mailbox is to be polled: nothing tells of its mail. It is called with mu held.
func (m *Member) untold() bool {
	return m.in && (m.since.IsZero() || m.fault != nil)
}

// pace of its polls.
func (m *Member) pace(now time.Time) *polling.Pace {
	if m.polls.busy.After(now) {
		return m.keeper.o.BusyPolls
	}
	return m.keeper.o.Polls
}

// poll says whether the mailbox is to be listed now. It is called with mu held.
func (m *Member) poll(now time.Time) bool {
	if !m.untold() {
		m.polls.turn.Told()
		return false
	}
	return m.polls.turn.Due(m.pace(now), now)
}

// found takes in that a listing showed a message of this age that no notification had named.
func (p *polls) found(m *Member, age time.Duration, now time.Time) {
	if age >= busyFor {
		return
	}
	was := p.busy.After(now)
	p.busy = now.Add(busyFor)
	if !was && m.untold() {
		p.turn.Take(m.pace(now), now)
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
