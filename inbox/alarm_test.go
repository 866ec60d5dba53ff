package inbox

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnAlarmCallsWhatWasNotCalledOffAtItsTimeAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAlarm(time.Second)
		var mu sync.Mutex
		var called []string
		set := func(name string) uint64 {
			return a.set(func() {
				mu.Lock()
				defer mu.Unlock()
				called = append(called, name)
			})
		}
		for range 2 { // its timer is used again
			began := time.Now()
			set("first")
			off := set("called off")
			<-time.After(300 * time.Millisecond)
			set("second")
			a.callOff(off)
			for _, want := range [][]string{nil, nil, {"first"}, {"first", "second"}} {
				synctest.Wait()
				mu.Lock()
				if !slices.Equal(called, want) {
					t.Errorf("after %v %q were called, want %q", time.Since(began), called, want)
				}
				mu.Unlock()
				<-time.After(400 * time.Millisecond) // to 0.7, 1.1, 1.5 and 1.9 s
				synctest.Wait()
			}
			mu.Lock()
			called = nil
			mu.Unlock()
			a.callOff(off) // which changes nothing any more
		}
	})
}

func TestAnAlarmKeepsNoMoreThanTwiceWhatWaits(t *testing.T) {
	a := newAlarm(time.Hour)
	a.set(func() {}) // it waits, and those behind it are called off
	for range 1000 {
		a.callOff(a.set(func() {}))
		if len(a.calls) > 2 {
			t.Fatalf("%d are kept", len(a.calls))
		}
	}
}

func TestAnAlarmThatHasNothingToCallHasNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAlarm(time.Second)
		a.callOff(a.set(func() {}))
		<-time.After(2 * time.Second)
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.runs {
			t.Error("its timer runs")
		}
	})
}

func TestWaitingForWhatIsInTimeAllocatesNothing(t *testing.T) {
	a := newAlarm(time.Hour)
	function := func() {}
	if n := testing.AllocsPerRun(100, func() { a.callOff(a.set(function)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
