package changes

import (
	"fmt"
	"testing"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/sicktest"
)

// refusals of Graph, each of which is tried again within the hour; most say that one mailbox is refused what all would be.
func refusals(op string) []*fault.Error {
	return []*fault.Error{
		{Op: op, Code: graph.CodeThrottled, Scope: fault.Mailbox, Remedy: fault.Wait, After: time.Minute},
		{Op: op, Code: graph.CodeHeld, Scope: fault.Mailbox, Remedy: fault.Retry, After: 5 * time.Second},
		{Op: op, Code: graph.CodeHandshake, Scope: fault.Mailbox, Remedy: fault.Fix, After: 4 * time.Minute, Untold: true},
		{Op: op, Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true},
		{Op: op, Code: "HTTP 401", Scope: fault.Account, Remedy: fault.Fix, After: 4 * time.Minute},
		{Op: op, Code: "HTTP 403", Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Unproven: true},
		{Op: op, Code: "HTTP 503", Scope: fault.Server, Remedy: fault.Wait, After: 5 * time.Second},
		{Op: op, Code: "network", Scope: fault.Server, Remedy: fault.Retry, After: 5 * time.Second},
		{Op: op, Code: "HTTP 404", Scope: fault.Mailbox, Remedy: fault.Wait, After: 4 * time.Minute, Moved: true, Elsewhere: true, Untold: true},
	}
}

// Whatever Graph does, and whoever comes and goes meanwhile: once it is well, each mailbox is listened to within the hour after which what
// needs a person is tried again.
func TestAfterWhateverGraphDoesEachMailboxIsListenedToOnceItIsWell(t *testing.T) {
	const (
		sickFor = 90 * time.Minute
		// An hour with its jitter, and the time for which all are held.
		within = time.Hour + 2*time.Minute + maxHold
	)
	sicktest.Play(t, 12, func(t *testing.T, _ uint64, dice *sicktest.Dice) {
		s := newServer()
		s.longest = time.Duration(5+dice.IntN(60)) * time.Minute // so that there are renewals
		likely := dice.IntN(len(refusals("")))
		s.refuse = func(op, _ string) error {
			pick := dice.IntN(1000)
			switch {
			case !dice.Sick():
				<-time.After(time.Duration(1+pick) * time.Millisecond / 10)
				return nil
			case pick < 200:
				<-time.After(writeTimeout)
				return refusals(op)[0]
			case pick < 500:
				return refusals(op)[likely]
			}
			return refusals(op)[pick%len(refusals(op))]
		}
		a := newAccount(t, s)
		a.verdict = func(*fault.Error) bool { return dice.IntN(2) == 0 }
		for i := range 1 + dice.IntN(30) {
			a.join(address(i))
		}
		for began := time.Now(); time.Since(began) < sickFor; {
			m := a.boxes[dice.IntN(len(a.boxes))]
			switch p := dice.Float64(); {
			case p < 0.3:
				m.Leave()
				m.Join(here(m.address))
			case p < 0.4:
				m.Leave()
			case p < 0.5:
				m.Join(here(m.address))
			case p < 0.6:
				s.set(func() { clear(s.subs) })
			case p < 0.65:
				a.Retry()
			case p < 0.75:
				m.Listed()
			case p < 0.85:
				m.Unhinted(hintDelay)
			case p < 0.95:
				s.set(func() { s.unreached = !s.unreached })
			default:
				s.set(func() { s.lose = !s.lose })
			}
			wait := dice.IntN(1000)
			pass(time.Duration(1+wait) * 100 * time.Millisecond)
		}
		dice.Heal()
		s.set(func() { s.unreached, s.lose = false, false })
		for _, m := range a.boxes {
			m.Join(here(m.address)) // who is here stays as it is
		}
		pass(within)
		for _, m := range a.boxes {
			if m.failing() == CodeUntold { // until its first notification comes
				continue
			}
			if f, next := m.Failing(); f != nil || !m.listens() {
				t.Errorf("%s is not listened to %v after Graph is well: %v, next try in %v", m.address, within, f, time.Until(next))
			}
		}
		a.join(alice) // where nobody had to ask since, the next who does finds out that nothing is held any more
		left := ""
		for range 100 { // a renewal may be under way
			pass(time.Second)
			a.Keeper.mu.Lock()
			left = ""
			if a.hold.fault != nil || a.writes.workers != 0 || a.writes.claimed != 0 || a.writes.len() != 0 {
				left = fmt.Sprintf("held: %v; %d workers have claimed %d of %d writes", a.hold.fault, a.writes.workers, a.writes.claimed, a.writes.len())
			}
			a.Keeper.mu.Unlock()
			if left == "" {
				break
			}
		}
		if left != "" {
			t.Error(left)
		}
	})
}
