package callbacks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// seeds is how many sick servers are played: go test ./listener/callbacks -run AfterWhatever -seeds 1000.
var seeds = flag.Uint64("seeds", 12, "by how many seeds what fails at random is tried")

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
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dice := rand.New(rand.NewPCG(seed, 1))
				var mu sync.Mutex
				sick := dice.Float64()
				draw := func() (float64, int) {
					mu.Lock()
					defer mu.Unlock()
					return dice.Float64(), dice.IntN(1000)
				}
				s := newServer()
				s.refuse = func(call) error {
					ill, pick := draw()
					switch {
					case ill >= sick:
						return nil
					case pick < 300: // it hangs
						<-time.After(within)
						return refusals[0]
					}
					return refusals[pick%len(refusals)]
				}
				a := newAccount(t, s)
				a.verdict = func(*fault.Error) bool { _, pick := draw(); return pick%2 == 0 }
				for i := range 1 + dice.IntN(40) {
					a.join(fmt.Sprintf("user%03d@contoso.example", i))
				}
				for began := time.Now(); time.Since(began) < sickFor; {
					m := a.boxes[dice.IntN(len(a.boxes))]
					switch p, pick := draw(); {
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
					_, wait := draw()
					pass(time.Duration(1+wait) * 100 * time.Millisecond)
				}
				mu.Lock()
				sick = 0
				mu.Unlock()
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
				for _, at := range a.sites {
					if a.calls != 0 || at.leads != nil {
						t.Errorf("%d calls are under way, %v leads", a.calls, at.leads)
					}
				}
			})
		})
	}
}
