package main_test

// Push notifications, seen from outside: Exchange calls back.

import (
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

func TestACallbackRingsAPhone(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	for range 6 {
		inst.deliver()
	}
	inst.balance(0)
	if n := inst.sim.Counts().Requests["GetStreamingEvents"]; n != 0 {
		t.Errorf("%d streams were opened, want none", n)
	}
}

// installPush is an installation that listens by push.
func installPush(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	inst := install(t, o)
	inst.edit("listen_by: streaming", "listen_by: push")
	return inst
}
