package pace

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAServerThatIsSlowForAllIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(256)[Reading]
		c := p.enter(t.Context(), "slow", false)
		p.begin(c, func() {})
		<-time.After(2 * time.Second)
		p.leave(c, Well)
		for i := range p.room() {
			c := p.enter(t.Context(), fmt.Sprint(i), false)
			p.begin(c, func() { t.Error("a call was given up") })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c = p.enter(ctx, "another", false)
		p.leave(c, Failed)
	})
}

// One answer that took long kept all calls waiting that came after it, where those under way hung: for as long as a call may take.
func TestAServerThatWasSlowOnceAndDoesNotAnswerAnyMoreKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(256)[Reading]
		answer := func(took time.Duration) {
			c := p.enter(t.Context(), "well", false)
			p.begin(c, func() {})
			<-time.After(took)
			p.leave(c, Well)
		}
		for range 2 * settled {
			answer(20 * time.Millisecond)
		}
		answer(2 * hanging)
		var calls sync.WaitGroup
		for i := range int(p.window.most) { // where there are places for all of them
			calls.Go(func() {
				ctx, giveUp := context.WithTimeout(t.Context(), time.Minute)
				defer giveUp()
				c := p.enter(ctx, fmt.Sprint("hangs", i), false)
				p.begin(c, giveUp)
				<-ctx.Done()
				p.leave(c, Failed)
			})
		}
		synctest.Wait()
		for range 10 {
			began := time.Now()
			answer(20 * time.Millisecond)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("a mailbox that does not hang waited for %v", took)
			}
		}
		calls.Wait()
		if len(p.held)+len(p.queue)+p.lent != 0 {
			t.Errorf("%d have a place, %d wait, %d are lent", len(p.held), len(p.queue), p.lent)
		}
	})
}

// Calls of a slow server usually take two seconds. Those of some mailboxes hang, and have all places: the others wait for eight times that,
// and not for as long as a call may take.
func TestCallsThatHangAtASlowServerKeepTheOthersWaitingForAFewCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const usual = 2 * time.Second
		p := newPlaces(256)[Reading]
		for range 20 * settled {
			c := p.enter(t.Context(), "well", false)
			p.begin(c, func() {})
			<-time.After(usual)
			p.leave(c, Well)
		}
		for i := range p.room() {
			p.begin(p.enter(t.Context(), fmt.Sprint("hangs", i), false), func() { t.Error("a call was given up") })
		}
		began := time.Now()
		p.leave(p.enter(t.Context(), "well", false), Failed)
		if waited := time.Since(began); waited < manyTimes*usual*9/10 || waited > manyTimes*usual*11/10 {
			t.Errorf("it waited for %v", waited)
		}
	})
}

func TestTheSuspectsAreBounded(t *testing.T) {
	p := newPlaces(256)[Reading]
	for i := range 3 * maxSuspects {
		p.hung(fmt.Sprint(i))
	}
	if len(p.suspects) > maxSuspects {
		t.Errorf("%d", len(p.suspects))
	}
}
