package main_test

// Notifications of Graph with the messages in them, encrypted, seen from outside.

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/simulator"
)

// installRich is installGraph with content in the notifications.
func installRich(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	inst := installGraph(t, o)
	inst.edit("listen_by: graph", "listen_by: graph\n  graph: {rich: true}")
	return inst
}

// reads is how often messages were read by their ids.
func (inst *installation) reads() int {
	n := inst.sim.Counts().Requests
	return n["GraphMessage"] + n["GraphBatch"]
}

func TestANotificationWithItsMessageRingsAPhoneWithoutARead(t *testing.T) {
	t.Parallel()
	inst := installRich(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	for range 9 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	if n := inst.reads(); n != 0 {
		t.Errorf("%d messages were read", n)
	}
	inst.restart() // the key is another one
	for range 9 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	for _, s := range inst.sim.GraphSubscriptions() {
		if life := time.Until(s.Expires); life > 24*time.Hour {
			t.Errorf("a subscription with content lives for %v", life)
		}
	}
}

func TestContentThatIsNotBelievedIsRead(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"signature", "data", "key", "certificate", "token", "audience", "expired", "missing"} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			inst := installRich(t, simulator.Options{Mailboxes: 2})
			inst.startWithDevices()
			inst.fault("graph_content", simulator.Fault{Reason: reason})
			before := inst.reads()
			for range 4 {
				inst.deliver()
				inst.awaitAlerts(soon)
			}
			inst.balance(0)
			if inst.reads() == before {
				t.Error("no message was read: what is not right was believed")
			}
			inst.clear("graph_content")
			before = inst.reads()
			inst.deliverTo(inst.boxes...)
			inst.awaitAlerts(soon)
			if n := inst.reads() - before; n != 0 {
				t.Errorf("%d messages were read after it was right again", n)
			}
		})
	}
}

func TestNothingIsLostByGraphWithContentWhen(t *testing.T) {
	t.Parallel()
	const messages, times = 60, 2
	for _, s := range graphStrokes {
		switch s.name { // those to which content makes a difference
		case "graph_foreign", "graph_doubled", "graph_reordered", "graph_forgotten", "a kill":
		default:
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			inst := installRich(t, simulator.Options{Mailboxes: 4})
			inst.startWithDevices()
			bound := inst.struck(s, messages, times)
			if lost := inst.ledger.await(t.Context(), 2*atLast); len(lost) > 0 {
				t.Fatalf("lost %d of %d: %v", len(lost), inst.ledger.count(), lost)
			}
			inst.balance(2 * bound) // without a read, several messages of a mailbox are in flight at once
		})
	}
}

// A token service that does not say its keys: nothing in a notification can be believed, and everything rings.
func TestContentIsReadWhereTheTokenServiceIsAway(t *testing.T) {
	t.Parallel()
	inst := installRich(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	inst.fault("token_away", simulator.Fault{Status: http.StatusServiceUnavailable})
	for range 4 {
		inst.deliver()
	}
	inst.awaitAlerts(atLast)
	inst.balance(0)
}

// A Graph that takes no content: the mailboxes are listened to without, and say so.
func TestMailboxesAreListenedToWithoutContentWhereGraphRefusesIt(t *testing.T) {
	t.Parallel()
	inst := installRich(t, simulator.Options{Mailboxes: 4})
	inst.fault("graph_content_refused", simulator.Fault{})
	inst.startWithDevices()
	for range 8 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	for _, s := range inst.sim.GraphSubscriptions() {
		if life := time.Until(s.Expires); life < 24*time.Hour {
			t.Errorf("a subscription without content lives for %v", life)
		}
	}
	if m := inst.mailbox(inst.boxes[0]); m.State != "listening" || !strings.HasPrefix(m.Reason, "no content: ") {
		t.Errorf("%s is %s: %q", inst.boxes[0].address, m.State, m.Reason)
	}
	var status api.Status
	inst.call(http.MethodGet, "/v1/status", nil, &status)
	i := slices.IndexFunc(status.Conditions, func(c check.Condition) bool { return strings.Contains(c.Reason, "no content") })
	if i < 0 || status.Conditions[i].Count != 4 || status.Conditions[i].Level != check.LevelInfo || !strings.Contains(status.Conditions[i].Advice, "Mail.Read") {
		t.Errorf("the status tells %+v", status.Conditions)
	}
}
