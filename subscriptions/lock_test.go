package subscriptions

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestNothingIsRungInTheLastSecondsOfALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Redis{}
		if err := s.Held(); !errors.Is(err, errStale) {
			t.Errorf("a lock that was never taken: %v", err)
		}
		renewed := time.Now()
		s.kept.Store(&renewed)
		<-time.After(8 * time.Second)
		if err := s.Held(); err != nil {
			t.Errorf("two seconds before its end: %v", err)
		}
		<-time.After(time.Millisecond)
		if err := s.Held(); !errors.Is(err, errStale) {
			t.Errorf("what begins now may end after another instance has taken over: %v", err)
		}
	})
}

func TestALockIsRenewedTwiceWithinItsLife(t *testing.T) {
	if lockLife != 10*time.Second || 2*lockRenew+redisTimeout/2 >= lockLife || lockMargin >= lockLife-lockRenew {
		t.Errorf("it lives %v and is renewed each %v: one renewal that fails would end it", lockLife, lockRenew)
	}
	if lockLife+lockPoll >= 15*time.Second {
		t.Errorf("a second instance looks each %v: it takes over after 15 s", lockPoll)
	}
}
