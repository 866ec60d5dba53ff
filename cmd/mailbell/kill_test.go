package main_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// Nothing lost, no second alert: the process is killed again and again while mail arrives. Most of its lives are too short to get
// level; some last long enough for the promise that what APNs answered more than a second before a kill is never sent again.
func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	const messages, kills = 500, 12
	draw := dice(t)
	inst := install(t, simulator.Options{Mailboxes: 20})
	inst.startWithDevices()

	lives := make([]time.Duration, kills)
	for i := range lives {
		lives[i] = 50*time.Millisecond + time.Duration(draw.Int64N(int64(350*time.Millisecond)))
		if i%4 == 3 {
			lives[i] += 1500 * time.Millisecond
		}
	}
	gaps := make([]time.Duration, messages) // drawn here: the order of draws is to be the same each time
	for i := range gaps {
		gaps[i] = gap(draw)
	}
	var delivery sync.WaitGroup
	delivery.Go(func() {
		for _, gap := range gaps {
			inst.deliver()
			pass(t, gap)
		}
	})
	for _, life := range lives {
		pass(t, life)
		inst.kill()
		inst.start()
	}
	delivery.Wait()
	inst.balance(kills * len(inst.boxes)) // a message of every mailbox may be in flight at each kill
}

// A stop is not a kill: what is in flight finishes, and what was not begun is found at the next start.
func TestAGracefulStopUnderLoadLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 12})
	inst.startWithDevices()
	subscribed := inst.sim.Counts().Requests["Subscribe"]

	inst.underLoad(3*time.Millisecond, func() {
		for range 3 {
			pass(t, 400*time.Millisecond)
			inst.restart()
		}
	})
	inst.balance(0)

	counts := inst.sim.Counts()
	if n := counts.Requests["Subscribe"]; n != subscribed {
		t.Errorf("%d subscriptions were made after the first start; their ids are to be opened again", n-subscribed)
	}
	if n := counts.Requests["Unsubscribe"]; n != 0 {
		t.Errorf("%d subscriptions were given back at a stop", n)
	}
	for _, b := range inst.boxes {
		if alive, open := inst.sim.Subscriptions(b.address); alive != 1 || open != 1 {
			t.Errorf("%s: %d subscriptions, %d of them open; want one, open", b.address, alive, open)
		}
	}
	if n := len(inst.runs); n != 4 || slices.ContainsFunc(inst.runs[:3], func(p *process) bool { return p.running() }) {
		t.Errorf("%d processes were started, want 4, of which the last one runs", n)
	}
}
