package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/sicktest"
)

// Whatever a directory says of a password, and whoever gives up meanwhile: once it takes it, each caller is signed in when the pause is over, and
// nobody waits for a try that nobody makes.
func TestAfterWhateverADirectorySaysEachCallerIsSignedInOnceItTakesThePassword(t *testing.T) {
	const (
		sickFor = 3 * time.Hour
		within  = laterPause + laterPause/4 + 2*time.Minute // who asks comes back up to a minute after the pause
	)
	sicktest.Play(t, 20, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		l := &lockout{}
		sick := dice.Float64()
		if seed%2 == 0 {
			sick = 1
		}
		// sign tries to sign in, for as long as it takes, or ctx lasts.
		sign := func(ctx context.Context, place string, takes time.Duration, said signIn) error {
			done, err := l.enterAt(ctx, place)
			if err != nil {
				return err
			}
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				said = unanswered
			}
			done(said)
			if said != accepted {
				return &fault.Error{Op: opSignIn, Code: codeRefused, Scope: fault.Account, Remedy: fault.Fix, After: time.Minute}
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), sickFor)
		defer cancel()
		var callers sync.WaitGroup
		places := 1 + dice.IntN(20)
		for i := range places {
			own := rand.New(rand.NewPCG(seed, uint64(i)+2))
			callers.Go(func() {
				for ctx.Err() == nil {
					limited, done := context.WithTimeout(ctx, time.Duration(1+own.IntN(60_000))*time.Millisecond)
					takes, said := time.Duration(1+own.IntN(3000))*time.Millisecond, accepted
					if own.Float64() < sick {
						said = [...]signIn{unanswered, refused}[own.IntN(2)]
						if own.IntN(5) == 0 {
							takes = time.Hour
						}
					}
					_ = sign(limited, fmt.Sprint(i), takes, said)
					done()
					select {
					case <-time.After(time.Duration(1+own.IntN(120_000)) * time.Millisecond):
					case <-ctx.Done():
					}
				}
			})
		}
		callers.Wait()
		well := time.Now()
		for i := range places {
			callers.Go(func() {
				for {
					err := sign(t.Context(), fmt.Sprint(i), 20*time.Millisecond, accepted)
					if time.Since(well) > within {
						t.Errorf("%d, %v after the password is taken: %v", i, time.Since(well), err)
						return
					}
					f, refused := errors.AsType[*fault.Error](err)
					if !refused {
						return
					}
					<-time.After(f.Pause(1))
				}
			})
		}
		callers.Wait()
		if l.trying != nil || !l.works || l.failed != 0 || !l.next.IsZero() {
			t.Errorf("somebody tries: %v, works: %v, %d refusals, held until %v", l.trying != nil, l.works, l.failed, l.next)
		}
	})
}
