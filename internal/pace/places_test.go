package pace

import (
	"context"
	"fmt"
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

func TestTheSuspectsAreBounded(t *testing.T) {
	p := newPlaces(256)[Reading]
	for i := range 3 * maxSuspects {
		p.hung(fmt.Sprint(i))
	}
	if len(p.suspects) > maxSuspects {
		t.Errorf("%d", len(p.suspects))
	}
}
