package streaming

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/sicktest"
	"github.com/mailbell/mailbell/mail"
)

// refusals of a server, each of which is tried again within five minutes.
func refusals() []*fault.Error {
	return []*fault.Error{
		denied(fault.Mailbox, fault.Retry, 0),
		denied(fault.Mailbox, fault.Wait, 4*time.Minute),
		denied(fault.Account, fault.Fix, 30*time.Second),
		denied(fault.Account, fault.Wait, 4*time.Minute),
		denied(fault.Server, fault.Wait, 5*time.Second),
		denied(fault.Server, fault.Retry, 0),
		gateway(),
		denied(fault.Group, fault.Wait, 0),
		{Op: "test", Code: "unproven", Scope: fault.Mailbox, Remedy: fault.Fix, After: 4 * time.Minute, Unproven: true},
		{Op: "test", Code: "misled", Scope: fault.Group, Remedy: fault.Retry, Misled: true, Missed: true},
		{Op: "test", Code: "moved", Scope: fault.Mailbox, Remedy: fault.Wait, After: 4 * time.Minute, Moved: true, Elsewhere: true},
	}
}

// Whatever a server does, and whoever comes and goes meanwhile: once it is well, each mailbox that is here is listened to within minutes.
func TestAfterWhateverAServerDoesEachMailboxIsListenedToOnceItIsWell(t *testing.T) {
	const (
		sickFor = 30 * time.Minute
		// A mailbox is tried again within five minutes, and its stream within a minute and a quarter. The first may fail of a call that hangs.
		atLast = 10 * time.Minute
	)
	sicktest.Play(t, 12, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		s := newServer(t)
		s.affine = seed%2 == 0
		s.wait = func(ctx context.Context, c call) error {
			pick := dice.IntN(1000)
			switch {
			case !dice.Sick():
				pause.For(ctx, time.Duration(pick)*time.Millisecond/10)
			case pick < 300 && c.op == "Stream": // it hangs; of the others the server of these tests gives up itself
				pause.For(ctx, within)
				return denied(fault.Server, fault.Wait, 5*time.Second)
			case pick < 300:
				<-ctx.Done()
				return ctx.Err()
			default:
				pause.For(ctx, time.Duration(pick)*10*time.Millisecond)
				return refusals()[pick%len(refusals())]
			}
			return ctx.Err()
		}
		a := newAccount(t, s, 1+dice.IntN(8))
		a.verdict = func(string, *fault.Error) Verdict {
			pick := dice.IntN(1000)
			return Verdict(pick % 2) // who leaves has its location looked up by others
		}
		var list []*mailbox
		at := map[*mailbox]*mail.Location{}
		for i := range 1 + dice.IntN(30) {
			m := a.mailbox(numbered(i))
			list = append(list, m)
			at[m] = here(numbered(i))
		}
		for began := time.Now(); time.Since(began) < sickFor; {
			m := list[dice.IntN(len(list))]
			switch p, pick := dice.Float64(), dice.IntN(1000); {
			case p < 0.4:
				m.Leave()
				l := here(m.address)
				l.URL = fmt.Sprintf("https://server%d.example", pick%4)
				at[m] = l
				m.Join(l)
			case p < 0.5:
				m.Leave()
			case p < 0.6:
				s.cut(errReset)
			case p < 0.7:
				s.cut(io.EOF)
			case p < 0.8:
				s.forget(m.address)
			case p < 0.85:
				a.Retry()
			case p < 0.9:
				m.Listed()
			case p < 0.95:
				m.Unhinted(hintDelay)
			default:
				s.set(func() { s.silent = pick%2 == 0 })
			}
			wait := dice.IntN(1000)
			pass(time.Duration(1+wait) * 20 * time.Millisecond)
		}
		dice.Heal()
		s.set(func() { s.silent = false })
		s.cut(errReset) // those that were opened while it was silent
		for _, m := range list {
			m.Join(at[m])
		}
		pass(atLast)
		for _, m := range list {
			if !m.listens() {
				f, next := m.Failing()
				t.Errorf("%s is not listened to %v after its server is well: %v, next try in %v", m.address, atLast, f, time.Until(next))
			}
		}
		turns := &a.Groups.o.Sharing.turns
		if len(turns.having)+len(turns.stuck)+len(turns.waiting) != 0 {
			t.Errorf("whose turn it is: %d have it, %d are stuck, %d wait", len(turns.having), len(turns.stuck), len(turns.waiting))
		}
		for _, of := range a.groups {
			for _, g := range of {
				if g.calls != 0 || g.leading != 0 || len(g.leaving) != 0 {
					t.Errorf("a group with %d members has %d calls, %d that lead, and gives %d back", len(g.members), g.calls, g.leading, len(g.leaving))
				}
			}
		}
	})
}
