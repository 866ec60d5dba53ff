package ews

// What hangs for some mailboxes keeps no others waiting.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
)

// server answers within 20 ms, and for mailboxes whose name begins with "sick" only when the call ends.
func sickServer(t *testing.T) roundTrip {
	body := map[string]string{"GetItem": sample(t, "19"), "Subscribe": sample(t, "02")}
	return func(r *http.Request) (*http.Response, error) {
		if strings.HasPrefix(r.Header.Get("X-AnchorMailbox"), "sick") {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}
		<-time.After(20 * time.Millisecond)
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body["Subscribe"]))}, nil
	}
}

func TestMailboxesThatHangKeepNoOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{HTTP: sickServer(t)})
		ctx, cancel := context.WithCancel(t.Context())
		const sick = 600
		done := make(chan struct{})
		for i := range sick {
			go func() {
				defer func() { done <- struct{}{} }()
				for failures := 1; ctx.Err() == nil; failures++ {
					_, _, err := c.GetItem(ctx, Target{URL: target.URL, Mailbox: fmt.Sprint("sick", i)}, []string{"a"})
					select {
					case <-time.After(fault.Of(err).Pause(failures)):
					case <-ctx.Done():
					}
				}
			}()
		}
		late := 0
		const calls = 2000
		for i := range calls {
			<-time.After(30 * time.Millisecond)
			began := time.Now()
			_, _, err := c.GetItem(ctx, Target{URL: target.URL, Mailbox: fmt.Sprint("well", i%50)}, []string{"a"})
			if fault.Of(err).Code == CodeHangs {
				t.Fatal(err)
			}
			if time.Since(began) > time.Second {
				late++
			}
		}
		if late > calls/100 {
			t.Errorf("%d of %d calls took more than a second", late, calls)
		}
		cancel()
		for range sick {
			<-done
		}
	})
}

// The time of a Subscribe counts from when it is its turn, however many wait with it.
func TestASubscribeThatHangsHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var took []time.Duration
		c := New(Options{Pace: pace.New(1, 0), HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			began := time.Now()
			<-r.Context().Done()
			mu.Lock()
			took = append(took, time.Since(began))
			mu.Unlock()
			return nil, context.Cause(r.Context())
		})})
		var calls sync.WaitGroup
		for i := range 10 {
			at := Target{URL: target.URL, Mailbox: fmt.Sprint("sick", i)}
			calls.Go(func() {
				var err error
				if i%2 == 0 {
					_, _, err = c.Subscribe(t.Context(), at)
				} else {
					_, _, _, err = c.SubscribePush(t.Context(), at, Push{URL: "https://mailbell.contoso.example/", Secret: "s", Frequency: time.Minute})
				}
				if err == nil {
					t.Error("it succeeded")
				}
			})
		}
		calls.Wait()
		for _, d := range took {
			if d != subscribeWithin {
				t.Errorf("a Subscribe had %v", d)
			}
		}
		if len(took) != 10 {
			t.Errorf("%d Subscribes", len(took))
		}
	})
}

func TestLookUpsListingsAndSubscribingThatHangLeaveReadingAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{HTTP: sickServer(t)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		const each = 1000
		for i := range each {
			at := Target{URL: target.URL, Mailbox: fmt.Sprint("sick", i)}
			for _, call := range []func() error{
				func() error { _, err := c.GetFolder(ctx, at); return err },
				func() error { _, err := c.FindItem(ctx, at, 0, 10); return err },
				func() error { _, _, err := c.Subscribe(ctx, at); return err },
			} {
				go func() {
					_ = call()
					done <- struct{}{}
				}()
			}
		}
		synctest.Wait()
		for range 100 {
			began := time.Now()
			_, _, _ = c.GetItem(ctx, Target{URL: target.URL, Mailbox: "well"}, []string{"a"})
			if took := time.Since(began); took > 25*time.Millisecond {
				t.Fatalf("a read took %v", took)
			}
		}
		cancel()
		for range 3 * each {
			<-done
		}
	})
}

func TestAServerThatStallsForAMomentHasNoCallGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answer := sample(t, "02")
		c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
			wait := 20 * time.Millisecond
			if at := time.Since(began); at > time.Second && at < 2700*time.Millisecond {
				wait = 2700*time.Millisecond - at // nobody is answered for 1.7 s
			}
			<-time.After(wait)
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(answer))}, nil
		})})
		var calls sync.WaitGroup
		for i := range 3000 {
			calls.Go(func() {
				if _, _, err := c.Subscribe(t.Context(), Target{URL: target.URL, Mailbox: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	})
}
