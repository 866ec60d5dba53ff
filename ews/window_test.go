package ews

// The pace finds itself: against servers of every capacity, without a word of theirs and with one.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/pace"
)

// capacity is a server that takes a while for each call, and answers so many a second: the others queue at it.
type capacity struct {
	perSecond int
	takes     time.Duration
	body      map[string]string

	mu     sync.Mutex
	free   time.Time
	queued time.Duration // the longest that a call waited at the server
}

func newCapacity(t *testing.T, perSecond int, takes time.Duration) *capacity {
	return &capacity{perSecond: perSecond, takes: takes, body: map[string]string{"FindItem": emptyListing, "GetItem": sample(t, "19"), "Subscribe": sample(t, "02")}}
}

var emptyListing = response("FindItem", success("FindItem", `<m:RootFolder IndexedPagingOffset="0" TotalItemsInView="0" IncludesLastItemInRange="true"><t:Items/></m:RootFolder>`))

func (c *capacity) RoundTrip(r *http.Request) (*http.Response, error) {
	asked, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	now := time.Now()
	if c.free.Before(now) {
		c.free = now
	}
	c.free = c.free.Add(time.Second / time.Duration(c.perSecond))
	wait := c.free.Sub(now)
	c.queued = max(c.queued, wait)
	c.mu.Unlock()
	<-time.After(c.takes + wait)
	for op, body := range c.body {
		if strings.Contains(string(asked), "<m:"+op) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
		}
	}
	return nil, errors.New("an operation that this server does not know")
}

func TestThePaceFindsWhatAServerCanDoAndKeepsItsQueueShort(t *testing.T) {
	for _, s := range []*capacity{
		newCapacity(t, 30, 20*time.Millisecond), newCapacity(t, 300, 2*time.Millisecond), newCapacity(t, 300, 100*time.Millisecond),
		newCapacity(t, 600, 10*time.Millisecond), newCapacity(t, 100, 250*time.Millisecond),
	} {
		t.Run(fmt.Sprintf("%d a second, %v each", s.perSecond, s.takes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{HTTP: s})
				calls := 15 * s.perSecond
				began := time.Now()
				var all sync.WaitGroup
				left := atomic.Int64{}
				left.Store(int64(calls))
				for range 100 {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if _, err := c.FindItem(t.Context(), target, 0, 10); err != nil {
								t.Error(err)
							}
						}
					})
				}
				all.Wait()
				best := time.Duration(calls) * time.Second / time.Duration(s.perSecond)
				if took := time.Since(began); took > best*5/4 {
					t.Errorf("%d calls took %v, and the server could do them in %v", calls, took, best)
				}
				if most := max(time.Second, 4*s.takes); s.queued > most {
					t.Errorf("a call waited %v at the server, want at most %v", s.queued, most)
				}
			})
		})
	}
}

func TestLiveMailIsReadWithinASecondWhileEverythingIsListed(t *testing.T) {
	for name, perSecond := range map[string]int{"at the server's own pace": 0, "at a rate that is configured": 100} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{HTTP: newCapacity(t, 600, 2*time.Millisecond), Pace: pace.New(perSecond, 0)})
				ctx, cancel := context.WithCancel(t.Context())
				var listings sync.WaitGroup
				for range 1000 {
					listings.Go(func() { _, _ = c.FindItem(ctx, target, 0, 10) })
				}
				var worst time.Duration
				for range 60 {
					<-time.After(50 * time.Millisecond)
					began := time.Now()
					if _, _, err := c.GetItem(ctx, target, []string{"a"}); err != nil {
						t.Fatal(err)
					}
					worst = max(worst, time.Since(began))
				}
				if worst > 300*time.Millisecond {
					t.Errorf("a read took %v", worst)
				}
				cancel()
				listings.Wait()
			})
		})
	}
}

func TestAServerThatIsBusyIsCalledLessAtOnceAndThenMoreAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, busyAnswer := range []func() (int, string){
			func() (int, string) { return 503, "" },
			func() (int, string) {
				return 200, response("FindItem", failure("FindItem", "ErrorServerBusy", "busy", ""))
			},
		} {
			var busy atomic.Bool
			var now, most atomic.Int32
			c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				<-time.After(50 * time.Millisecond)
				status, body := 200, emptyListing
				if busy.Load() {
					status, body = busyAnswer()
				}
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
			})})
			ctx, cancel := context.WithCancel(t.Context())
			var calls sync.WaitGroup
			for range 100 {
				calls.Go(func() {
					for ctx.Err() == nil {
						_, _ = c.FindItem(ctx, target, 0, 10)
					}
				})
			}
			after := func(d time.Duration) int32 {
				<-time.After(d)
				most.Store(0)
				<-time.After(time.Second)
				return most.Load()
			}
			if n := after(10 * time.Second); n != pace.MaxInFlight/8 {
				t.Errorf("%d calls at once, while all is well", n)
			}
			busy.Store(true)
			if n := after(15 * time.Second); n > 2 {
				t.Errorf("%d calls at once, while the server is busy", n)
			}
			busy.Store(false)
			if n := after(15 * time.Second); n != pace.MaxInFlight/8 {
				t.Errorf("%d calls at once, after it was busy", n)
			}
			cancel()
			calls.Wait()
		}
	})
}

func TestASubscribeHasItsTimeFromItsTurnOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{HTTP: newCapacity(t, 1000, 10*time.Millisecond), Pace: pace.New(2, 0)})
		var calls sync.WaitGroup
		for range 100 { // nearly a minute of them
			calls.Go(func() {
				if _, _, err := c.Subscribe(t.Context(), target); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	})
}

func TestWhoWaitsForTheRateIsNotTakenForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{HTTP: newCapacity(t, 1000, 10*time.Millisecond), Pace: pace.New(1, 0)})
		var calls sync.WaitGroup
		for i := range 40 {
			calls.Go(func() {
				if _, err := c.FindItem(t.Context(), Target{URL: target.URL, Mailbox: fmt.Sprint(i)}, 0, 10); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	})
}
