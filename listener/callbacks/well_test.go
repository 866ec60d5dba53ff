package callbacks

import (
	"fmt"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/sicktest"
)

// Whatever a server does, and whoever comes and goes meanwhile: once it is well, each mailbox is listened to when its subscription counts as
// dead, or a refusal is over.
func TestAfterWhateverAServerDoesEachMailboxIsListenedToOnceItIsWell(t *testing.T) {
	const (
		sickFor = time.Hour
		// A subscription that was made while no callbacks came counts as dead after twice the frequency; one that was refused is tried within five
		// minutes, and may find calls that hang.
		atLast = 2*DefaultFrequency + 6*time.Minute
	)
	refusals := []*fault.Error{
		{Op: "Subscribe", Code: "busy", Scope: fault.Mailbox, Remedy: fault.Wait},
		{Op: "Subscribe", Code: "busy", Scope: fault.Account, Remedy: fault.Wait, After: 4 * time.Minute},
		{Op: "Subscribe", Code: "HTTP 401", Scope: fault.Account, Remedy: fault.Fix},
		{Op: "Subscribe", Code: "network", Scope: fault.Server, Remedy: fault.Retry},
		{Op: "Subscribe", Code: "misled", Scope: fault.Group, Remedy: fault.Retry, Misled: true},
		{Op: "Subscribe", Code: "unproven", Scope: fault.Mailbox, Remedy: fault.Fix, After: 4 * time.Minute, Unproven: true},
		{Op: "Subscribe", Code: "moved", Scope: fault.Mailbox, Remedy: fault.Wait, After: 4 * time.Minute, Moved: true, Elsewhere: true},
	}
	sicktest.Play(t, 12, func(t *testing.T, _ uint64, dice *sicktest.Dice) {
		s := newServer()
		s.refuse = func(call) error {
			pick := dice.IntN(1000)
			switch {
			case !dice.Sick():
				return nil
			case pick < 300: // it hangs
				<-time.After(within)
				return refusals[0]
			}
			return refusals[pick%len(refusals)]
		}
		a := newAccount(t, s)
		a.verdict = func(*fault.Error) bool { return dice.IntN(2) == 0 }
		for i := range 1 + dice.IntN(40) {
			a.join(fmt.Sprintf("user%03d@contoso.example", i))
		}
		for began := time.Now(); time.Since(began) < sickFor; {
			m := a.boxes[dice.IntN(len(a.boxes))]
			switch p, pick := dice.Float64(), dice.IntN(1000); {
			case p < 0.3:
				m.Leave()
				m.Join(here(m.address))
			case p < 0.4:
				m.Leave()
			case p < 0.5:
				m.Join(here(m.address))
			case p < 0.6:
				a.Retry()
			case p < 0.7:
				m.Listed()
			case p < 0.8:
				m.Unhinted(hintDelay)
			default:
				s.set(func() { s.silent, s.early = pick%2 == 0, pick%3 == 0 })
			}
			wait := dice.IntN(1000)
			pass(time.Duration(1+wait) * 100 * time.Millisecond)
		}
		dice.Heal()
		s.set(func() { s.silent, s.early = false, false })
		for _, m := range a.boxes {
			m.Join(here(m.address)) // who is here stays as it is
		}
		listened := map[*mailbox]bool{}
		for well := time.Now(); time.Since(well) < atLast && len(listened) < len(a.boxes); pass(time.Second) {
			for _, m := range a.boxes {
				listened[m] = listened[m] || m.listens()
				if !listened[m] {
					delete(listened, m)
				}
			}
		}
		for _, m := range a.boxes {
			if !listened[m] {
				f, next := m.Failing()
				t.Errorf("%s is not listened to %v after its server is well: %v, next try in %v", m.address, atLast, f, time.Until(next))
			}
		}
		pass(time.Minute)
		a.Keeper.mu.Lock()
		defer a.Keeper.mu.Unlock()
		for _, at := range a.groups {
			if a.calls != 0 || at.leads != nil {
				t.Errorf("%d calls are under way, %v leads", a.calls, at.leads)
			}
		}
	})
}
