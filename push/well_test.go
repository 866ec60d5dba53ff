package push

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/sicktest"
	"github.com/mailbell/mailbell/subscriptions"
)

// answersOfAPNs are those after which a phone, its topic or the credential waits.
var answersOfAPNs = []act{
	refusing(429, "TooManyRequests"),
	refusing(429, "TooManyProviderTokenUpdates"),
	refusing(403, "ExpiredProviderToken"),
	refusing(403, "InvalidProviderToken"),
	refusing(403, "UnrelatedKeyIdInToken"),
	refusing(500, "InternalServerError"),
	refusing(503, "ServiceUnavailable"),
	refusing(503, "Shutdown"),
	refusing(400, "IdleTimeout"),
	{status: 502, body: "<html>"},
	{silent: true},
	{cut: true},
	{goAway: true},
	{farewell: `{"reason":"Shutdown"}`},
	{farewell: `{"reason":"InvalidProviderToken"}`},
	{farewell: ""},
	{noMore: true},
	{limit: 2},
	{delay: 3 * time.Second},
}

// Whatever APNs does, and whoever gives up meanwhile: once it is well, each alert is accepted when its phone may be tried again, which is
// within ten minutes and a quarter, or at once where the topic waits and its return is told.
func TestAfterWhateverAPNsDoesEachAlertIsAcceptedOnceItIsWell(t *testing.T) {
	const (
		sickFor = 20 * time.Minute
		within  = 12*time.Minute + 30*time.Second
		phones  = 12
	)
	sicktest.Play(t, 10, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		likely := answersOfAPNs[dice.IntN(len(answersOfAPNs))]
		b := overMemory(t, func(a arrived) act {
			switch {
			case !dice.Sick():
				return refuseProbe(a)
			case dice.IntN(2) == 0:
				return likely
			}
			return answersOfAPNs[dice.IntN(len(answersOfAPNs))]
		})
		ctx, cancel := context.WithTimeout(t.Context(), sickFor)
		defer cancel()
		var callers sync.WaitGroup
		for i := range phones {
			own := rand.New(rand.NewPCG(seed, uint64(i)+2))
			callers.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					limited, done := ctx, context.CancelFunc(func() {})
					if own.IntN(4) == 0 {
						limited, done = context.WithTimeout(ctx, time.Duration(1+own.IntN(5000))*time.Millisecond)
					}
					b.Push(limited, alert(i, n))
					done()
					select {
					case <-time.After(time.Duration(1+own.IntN(20_000)) * time.Millisecond):
					case <-ctx.Done():
					}
				}
			})
		}
		for ctx.Err() == nil {
			way, wait := dice.IntN(8), time.Duration(1+dice.IntN(60_000))*time.Millisecond
			b.apns.set(func(s *standIn) {
				s.down, s.hangs, s.slams, s.silent, s.clogged = way == 0, way == 1, way == 2, way == 3, way == 4
			})
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		callers.Wait()
		dice.Heal()
		b.apns.set(func(s *standIn) { s.down, s.hangs, s.slams, s.silent, s.clogged = false, false, false, false, false })
		well := time.Now()
		for i := range phones {
			callers.Go(func() {
				for {
					a := b.Push(t.Context(), alert(i, 1_000_000))
					if time.Since(well) > within {
						t.Errorf("alert %d, %v after APNs is well: %+v", i, time.Since(well), a)
						return
					}
					if a.Result == subscriptions.Accepted {
						return
					}
					wait := 5 * time.Second // it is told that the topic is ready
					if !a.Next.IsZero() {
						wait = max(time.Until(a.Next), time.Millisecond)
					}
					<-time.After(wait)
				}
			})
		}
		callers.Wait()
		for _, g := range b.gateways {
			a := g.access.Load()
			if shut, _ := g.state(); shut != "" || g.under != 0 || !g.failing.IsZero() || len(a.pool.queue) != 0 {
				t.Errorf("shut %q, %d under way, failing since %v, %d wait", shut, g.under, g.failing, len(a.pool.queue))
			}
		}
	})
}
