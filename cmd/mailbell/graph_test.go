package main_test

// Microsoft Graph, seen from outside: the mailboxes are at Exchange Online, and Graph calls back.

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// installGraph is an installation whose mailboxes are at Exchange Online, and which listens to them by Graph. What is not accepted is
// posted again after a fifth of a second.
func installGraph(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	o.GraphRetry, o.Hybrid, o.Graph = 200*time.Millisecond, true, true
	if len(o.Hosts) == 0 {
		o.Hosts = []string{simulator.Online}
	}
	inst := install(t, o)
	inst.edit("listen_by: graph", "listen_by: graph\n  safety_poll: 1m")
	return inst
}

func TestANotificationOfGraphRingsAPhone(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	for range 6 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	counts := inst.sim.Counts()
	if counts.GraphSubscriptions != len(inst.boxes) || counts.Requests["Subscribe"] != 0 || counts.Requests["GetStreamingEvents"] != 0 {
		t.Errorf("%+v", counts)
	}
}
