package push

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// insist brings an alert again when it may be sent again, as an inbox does, until ctx ends. It reports whether it was accepted.
func (b *bench) insist(ctx context.Context, phone, message int) (accepted bool) {
	for ctx.Err() == nil {
		a := b.Push(ctx, alert(phone, message))
		if a.Result == subscriptions.Accepted {
			return true
		}
		wait := time.Second // it is told that the topic is ready
		if !a.Next.IsZero() {
			wait = max(time.Until(a.Next), time.Millisecond)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return false
}

// In quiet hours nobody else shows that APNs does its work. One phone that it failed had its topic shut again and again.
func TestAPhoneThatAPNsFailsInQuietHoursDelaysNoOther(t *testing.T) {
	for name, do := range map[string]act{"a fault": refusing(500, "InternalServerError"), "away": refusing(503, "ServiceUnavailable")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := overMemory(t, func(a arrived) act {
					switch {
					case a.token() == tokenOf(0):
						return do
					case a.token() == tokenOf(2):
						return refusing(400, "BadDeviceToken") // and one stream is all that there is
					}
					return refuseProbe(a)
				})
				b.Push(t.Context(), alert(1, 0))
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				var all sync.WaitGroup
				all.Go(func() {
					for m := 0; ctx.Err() == nil; m++ {
						b.insist(ctx, 0, m)
					}
				})
				for m := 1; ctx.Err() == nil; m++ {
					<-time.After(12 * time.Second)
					began := time.Now()
					a := b.Push(t.Context(), alert(1+m%3, m))
					if took := time.Since(began); a.Result == subscriptions.NotBefore || a.Resent != 0 || took > 2*redialSpacing {
						t.Errorf("another, after %v: %+v", took, a)
					}
				}
				all.Wait()
				if n := b.logs.FilterMessage("nothing can be sent").Len(); n != 0 || len(b.readied()) != 0 {
					t.Errorf("the topic was shut %d times", n)
				}
			})
		})
	}
}
