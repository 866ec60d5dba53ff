package backoff

import (
	"math"
	"testing"
	"time"
)

// longest is a wait with all the jitter that it may have.
func longest(d time.Duration) time.Duration { return d + min(d/4, time.Minute) }

func TestAWaitDoublesUpToItsBound(t *testing.T) {
	p := Policy{First: time.Second, Max: 10 * time.Second}
	for failures, want := range map[int]time.Duration{
		-1: 0, 0: 0,
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second,
		5: 10 * time.Second, 6: 10 * time.Second, 100: 10 * time.Second, math.MaxInt: 10 * time.Second,
	} {
		for range 100 {
			if got := p.Wait(failures, 0); got < want || got > longest(want) {
				t.Fatalf("after %d failures: %v, and it should be %v to %v", failures, got, want, longest(want))
			}
		}
	}
}

func TestNoWaitIsLongerThanItsBoundFromTheStart(t *testing.T) {
	if got := (Policy{First: time.Hour, Max: time.Second}).Wait(1, 0); got > longest(time.Second) {
		t.Errorf("the bound is a second, and the wait %v", got)
	}
	if got := (Policy{Max: time.Second}).Wait(math.MaxInt, 0); got != 0 {
		t.Errorf("a policy that starts at nothing waits %v", got)
	}
	if got := (Policy{First: math.MaxInt64 / 3, Max: math.MaxInt64 / 2}).Wait(math.MaxInt, 0); got < math.MaxInt64/2 {
		t.Errorf("a wait that cannot be doubled any more became %v", got)
	}
}

func TestNothingIsTriedEarlierThanTheServerAskedFor(t *testing.T) {
	p := Policy{First: time.Second, Max: 10 * time.Second}
	for range 1000 {
		if got := p.Wait(1, time.Hour); got < time.Hour || got > longest(time.Hour) {
			t.Fatalf("asked for an hour: %v", got)
		}
		if got := p.Wait(4, time.Second); got < 8*time.Second {
			t.Fatalf("asked for less than the policy: %v", got)
		}
		if got := p.Wait(0, time.Minute); got < time.Minute {
			t.Fatalf("asked for a minute before the first failure: %v", got)
		}
	}
}

func TestWhatFailedTogetherDoesNotComeBackTogether(t *testing.T) {
	for _, d := range []time.Duration{time.Second, time.Hour} {
		least, most := time.Duration(math.MaxInt64), time.Duration(0)
		for range 1000 {
			got := Jitter(d)
			least, most = min(least, got), max(most, got)
		}
		spread := longest(d) - d
		if least < d || most > longest(d) || most-least < spread*3/4 {
			t.Errorf("a thousand waits of %v lie between %v and %v", d, least, most)
		}
	}
	if got := Jitter(0); got != 0 {
		t.Errorf("nothing to wait became %v", got)
	}
	if got := Jitter(-time.Second); got != 0 {
		t.Errorf("a time that has passed became %v", got)
	}
}
