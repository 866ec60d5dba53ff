package subscriptions

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAProbeIsMadeOnceASecondHoweverManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		full := errors.New("disk full")
		p := &probe{try: func(context.Context) error {
			<-time.After(10 * time.Millisecond)
			if tries.Add(1) > 1 {
				return full
			}
			return nil
		}}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := p.ask(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		<-time.After(999 * time.Millisecond)
		if err := p.ask(t.Context()); err != nil || tries.Load() != 1 {
			t.Errorf("within a second: %v after %d tries", err, tries.Load())
		}
		<-time.After(time.Millisecond)
		for range 2 {
			if err := p.ask(t.Context()); !errors.Is(err, full) || tries.Load() != 2 {
				t.Errorf("a second later: %v after %d tries", err, tries.Load())
			}
		}
	})
}

func TestAProbeIsMadeAtOnceAfterAWriteThatFailed(t *testing.T) {
	tries := 0
	p := &probe{try: func(context.Context) error { tries++; return nil }}
	_ = p.ask(t.Context())
	p.forget()
	_ = p.ask(t.Context())
	if tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

func TestAProbeThatHangsEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &probe{try: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.ask(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if err := p.ask(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != probeTimeout {
			t.Errorf("who asks on: %v after %v", err, time.Since(began))
		}
	})
}

// Who asks may go at once: its end says nothing of the store.
func TestAProbeOutlivesWhoAskedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &probe{try: func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.ask(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := p.ask(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
