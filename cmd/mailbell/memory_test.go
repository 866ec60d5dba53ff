package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

func TestMemoryIsGivenBackOnceABurstIsOver(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, freed := memory{spare: 20 * mib}, 0
		locked := func(do func()) {
			mu.Lock()
			defer mu.Unlock()
			do()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			tendMemory(ctx, func() (is memory) {
				locked(func() { is = now })
				return is
			}, func(int) {}, func() { locked(func() { freed, now.spare = freed+1, 25*mib }) })
		}()
		for _, step := range []struct {
			what             string
			allocated, spare uint64 // more
			freed            int
		}{
			{"nothing happens", 0, 0, 0},
			{"a burst begins", 50 * mib, 30 * mib, 0},
			{"it goes on", 50 * mib, 30 * mib, 0},
			{"it pauses", mib / 4, 0, 0},
			{"the next one begins", 50 * mib, 0, 0},
			{"it pauses", mib / 4, 0, 0},
			{"it is over", mib / 4, 0, 1},
			{"what is left cannot be given back", mib / 4, 0, 1},
			{"a little is not worth it", mib / 4, 15 * mib, 1},
			{"in time it is", mib / 4, 5 * mib, 2},
		} {
			locked(func() { now.allocated, now.spare = now.allocated+step.allocated, now.spare+step.spare })
			<-time.After(memoryLook)
			synctest.Wait()
			locked(func() {
				if freed != step.freed {
					t.Errorf("%s: it was given back %d times", step.what, freed)
				}
			})
		}
		cancel()
		<-done
	})
}

func TestTheMemoryThatIsGivenBackIsNotHeldAnyMore(t *testing.T) {
	used := inABurst()
	runtime.GC()
	free := lookAtMemory()
	freeMemory()
	after := lookAtMemory()
	if free.spare < used.spare+32<<20 || after.spare+32<<20 > free.spare {
		t.Errorf("without use: %d in the burst, %d after it, %d when it was given back", used.spare, free.spare, after.spare)
	}
	if after.allocated < 64<<20 {
		t.Errorf("%d allocated", after.allocated)
	}
}

func TestWhatPoolsKeepIsGivenBackToo(t *testing.T) {
	var pool sync.Pool
	var kept []weak.Pointer[[]byte]
	for range 100 { // with -race, some are not kept
		b := make([]byte, 1<<10)
		kept = append(kept, weak.Make(&b))
		pool.Put(&b)
	}
	freeMemory()
	for _, b := range kept {
		if b.Value() != nil {
			t.Fatal("a pool keeps what nobody uses")
		}
	}
	runtime.KeepAlive(&pool)
}

// inABurst is the memory while 64 MiB are in use, which are not any more when it returns.
func inABurst() memory {
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
	}
	runtime.GC() // it is in use
	used := lookAtMemory()
	runtime.KeepAlive(burst)
	return used
}

func TestTheMoreIsInUseTheSoonerGarbageIsCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Uint64
		var percent atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			tendMemory(ctx, func() memory { return memory{live: live.Load()} }, func(to int) { percent.Store(int64(to)) }, func() {})
		}()
		for _, step := range []struct {
			live uint64
			want int64
		}{{0, mostGarbage}, {heap / 4, mostGarbage}, {heap / 8 * 5, 60}, {heap, leastGarbage}, {20 * heap, leastGarbage}, {heap / 2, mostGarbage}} {
			live.Store(step.live)
			<-time.After(memoryLook)
			synctest.Wait()
			if got := percent.Load(); got != step.want {
				t.Errorf("with %d bytes in use it is collected at %d %%, want %d", step.live, got, step.want)
			}
		}
		cancel()
		<-done
	})
}

func TestGarbageIsCollectedAsTheAdministratorSays(t *testing.T) {
	for gogc, want := range map[string]int{"": 70, "200": 100} { // what it says, the runtime has read by itself: here it is 100
		t.Setenv("GOGC", gogc)
		before := debug.SetGCPercent(100)
		collector()(70)
		if got := debug.SetGCPercent(before); got != want {
			t.Errorf("GOGC=%q: it runs at %d %%, want %d", gogc, got, want)
		}
	}
}
