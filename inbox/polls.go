package inbox

// The safety polls: a mailbox that nothing was heard of is listed from time to time.

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/agenda"
)

// polls are those of all mailboxes, with one timer: a timer each would be most of what is kept for a mailbox that gets no mail.
type polls struct {
	mu     sync.Mutex
	agenda agenda.Agenda[*marks]
	timer  *time.Timer // for the next; nil: there never was one
}

// plan has a mailbox listed after this time at the latest, for a subscription can die in silence. The first poll is spread over the last
// three quarters of that time, since a start lists all mailboxes together, and each further one over the last eighth.
func (p *polls) plan(m *marks, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	spread := after / 8
	if m.Due().IsZero() {
		spread = after * 3 / 4
	}
	p.put(m, time.Now().Add(after-rand.N(spread)))
}

// forget has a mailbox not polled. The next poll that is planned is a first one again.
func (p *polls) forget(m *marks) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(m, time.Time{})
}

// put enters in the agenda when a mailbox is polled; zero: it is not. It is called with mu held.
func (p *polls) put(m *marks, at time.Time) {
	before := p.agenda.Next()
	p.agenda.Put(m, at)
	if !p.agenda.Next().Equal(before) {
		p.wait()
	}
}

// wait sets the timer. It is called with mu held.
func (p *polls) wait() {
	next := p.agenda.Next()
	switch {
	case p.timer == nil:
		p.timer = time.AfterFunc(time.Until(next), p.listDue)
	case next.IsZero():
		p.timer.Stop()
	default:
		p.timer.Reset(time.Until(next))
	}
}

// listDue has those listed whose time has come.
func (p *polls) listDue() {
	for _, m := range p.due() {
		m.listing()
	}
}

// due takes the mailboxes whose time has come out of the agenda, and sets the timer for the next.
func (p *polls) due() (list []*marks) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for m, due := p.agenda.Take(now); due; m, due = p.agenda.Take(now) {
		list = append(list, m)
	}
	p.wait()
	return list
}
