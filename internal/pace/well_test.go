package pace

import (
	"context"
	"fmt"
	"github.com/mailbell/mailbell/internal/sicktest"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Whatever a server does: once it is well each call has its place within seconds, none is taken by a call that is over, and as many calls are
// under way again as there may be.
func TestAfterWhateverAServerDoesEachCallHasItsPlaceOnceItIsWell(t *testing.T) {
	const (
		sickFor   = time.Minute
		longest   = 10 * time.Second // of a call
		within    = 10 * time.Second
		mailboxes = 60
	)
	sicktest.Play(t, 12, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		most := 1 + dice.IntN(64)
		p := New(0, most)
		sick, slow := dice.Float64(), dice.Float64()
		// call makes one call that ends as it is told to, and says whether it was made.
		call := func(ctx context.Context, of Purpose, mailbox string, takes time.Duration, how Ending) bool {
			ctx, giveUp := context.WithTimeout(ctx, longest)
			defer giveUp()
			c, ok := p.Enter(ctx, of, mailbox, takes%10 == 0)
			if !ok {
				return false
			}
			if ctx.Err() != nil {
				c.Leave(Failed)
				return false
			}
			c.Begin(giveUp)
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				how = Failed
				if ctx.Err() == context.DeadlineExceeded {
					c.Hung()
				}
			}
			c.Leave(how)
			return how == Well
		}
		ctx, cancel := context.WithTimeout(t.Context(), sickFor)
		defer cancel()
		var callers sync.WaitGroup
		for i := range mailboxes {
			own := rand.New(rand.NewPCG(seed, uint64(i)+2))
			callers.Go(func() {
				for ctx.Err() == nil {
					limited, done := ctx, context.CancelFunc(func() {})
					if own.IntN(4) == 0 {
						limited, done = context.WithTimeout(ctx, time.Duration(1+own.IntN(1000))*time.Millisecond)
					}
					takes, how := time.Duration(1+own.IntN(20))*time.Millisecond, Well
					if own.Float64() < slow {
						takes *= 100
					}
					if own.Float64() < sick {
						how = Ending(own.IntN(3))
						if own.IntN(2) == 0 {
							takes = time.Hour
						}
					}
					call(limited, Purpose(own.IntN(int(purposes))), fmt.Sprint(i), takes, how)
					done()
					<-time.After(time.Duration(1+own.IntN(500)) * time.Millisecond)
				}
			})
		}
		callers.Wait()
		well := time.Now()
		for of := range purposes {
			for i := range mailboxes {
				own := rand.New(rand.NewPCG(seed, dice.Uint64()))
				callers.Go(func() {
					for !call(t.Context(), of, fmt.Sprint(i), 2*time.Millisecond, Well) && time.Since(well) <= within {
						<-time.After(time.Duration(1+own.IntN(200)) * time.Millisecond)
					}
					if time.Since(well) > within {
						t.Errorf("a call of purpose %d has no place %v after the server is well", of, time.Since(well))
					}
				})
			}
		}
		callers.Wait()
		for of := range purposes {
			atMost := int(p.places[of].window.most)
			// Each answer makes the window larger by one part of it, where all of it is in use: with as many rounds as it has places it is
			// what it may be.
			for n := 0; n < 10*atMost && p.Worth(of) != atMost+ahead; n++ {
				for range atMost + 1 {
					callers.Go(func() { call(t.Context(), of, "well", 2*time.Millisecond, Well) })
				}
				callers.Wait()
			}
			at := p.places[of]
			if len(at.held)+len(at.queue)+at.lent != 0 || at.room() != atMost {
				t.Errorf("purpose %d: %d have places, %d wait, %d are lent, and there is room for %d of %d", of,
					len(at.held), len(at.queue), at.lent, at.room(), atMost)
			}
		}
	})
}
