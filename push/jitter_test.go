package push

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// at says when requests arrived.
func at(requests []arrived) (times []time.Time) {
	for _, r := range requests {
		times = append(times, r.at)
	}
	return times
}

// Two senders that meet the same fault at the same moment, as two installations do when APNs restarts, do not come
// back at the same moment.
func TestWhatFailedTogetherIsNotTriedAgainTogether(t *testing.T) {
	for name, test := range map[string]struct {
		decide func(*testing.T, arrived) act
		fail   func(*testing.T, *bench) []time.Time // when it was tried, or is to be
	}{
		"a dial": {nil, func(t *testing.T, b *bench) []time.Time {
			b.apns.set(func(s *standIn) { s.down = true })
			b.Push(t.Context(), alert(1, 1))
			return b.apns.dials
		}},
		"a notification": {
			func(_ *testing.T, a arrived) act {
				if a.number == 1 {
					return act{} // the connection takes many from now on
				}
				return act{status: 503, retryAfter: "10", delay: time.Millisecond}
			},
			func(t *testing.T, b *bench) []time.Time {
				b.Push(t.Context(), alert(0, 0))
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				b.Push(ctx, alert(1, 1))
				requests, _, _, _ := b.apns.seen()
				return at(requests)
			},
		},
		"a phone that is throttled": {
			func(*testing.T, arrived) act { return refusing(429, "TooManyRequests") },
			func(t *testing.T, b *bench) []time.Time { return []time.Time{b.Push(t.Context(), alert(1, 1)).Next} },
		},
		"a probe of an APNs with faults": {
			func(*testing.T, arrived) act { return refusing(503, "Shutdown") },
			func(t *testing.T, b *bench) []time.Time {
				b.Push(t.Context(), alert(1, 1))
				<-time.After(time.Minute)
				_, probes, _, _ := b.apns.seen()
				return at(probes)
			},
		},
		"a probe of a credential": {
			func(*testing.T, arrived) act { return refusing(403, "InvalidProviderToken") },
			func(t *testing.T, b *bench) []time.Time {
				b.Push(t.Context(), alert(1, 1))
				<-time.After(5 * time.Minute)
				_, probes, _, _ := b.apns.seen()
				return at(probes)
			},
		},
		"a new credential": {
			func(t *testing.T, a arrived) act {
				if keyOf(t, a) == newKeyID {
					return refusing(403, "InvalidProviderToken")
				}
				return act{}
			},
			func(t *testing.T, b *bench) []time.Time {
				if err := b.Update(renewed(b, nil)); err != nil {
					t.Error(err)
				}
				<-time.After(5 * time.Minute)
				_, probes, _, _ := b.apns.seen()
				return at(probes)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				tried := make(chan []time.Time)
				for range 2 {
					var decide func(arrived) act
					if test.decide != nil {
						decide = func(a arrived) act { return test.decide(t, a) }
					}
					b := overMemory(t, decide)
					go func() { tried <- test.fail(t, b) }()
				}
				one, other := <-tried, <-tried
				if len(one) == 0 || one[len(one)-1].Equal(start) {
					t.Fatalf("nothing was tried again: %v", one)
				}
				if slices.EqualFunc(one, other, time.Time.Equal) {
					t.Errorf("both at %v", one)
				}
			})
		})
	}
}
