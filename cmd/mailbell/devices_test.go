package main_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

func TestANewDeviceIsListenedForWithinSecondsWithoutARestart(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3})
	inst.start()
	inst.enrol(inst.boxes[0], "first")
	inst.awaitListening()
	inst.deliverTo(inst.boxes[0])
	inst.awaitAlerts(soon)

	inst.enrol(inst.boxes[1], "second")
	inst.deliverTo(inst.boxes[1]) // nobody listens to it yet
	inst.awaitAlerts(soon)        // and not with the next safety poll
	inst.awaitListening()
	inst.enrol(inst.boxes[0], "third") // of a mailbox in use: alerted of everything after, and nothing from before
	inst.deliverTo(inst.boxes...)
	inst.balance(0)
}

func TestTheLastDeviceGivesTheSubscriptionBack(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 2})
	inst.start()
	b := inst.boxes[0]
	for _, id := range []string{"one", "two"} {
		inst.enrol(b, id)
	}
	inst.enrol(inst.boxes[1], "other")
	inst.awaitListening()
	inst.remove(b, "one")
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	if alive, open := inst.sim.Subscriptions(b.address); alive != 1 || open != 1 {
		t.Errorf("after the first of two devices went: %d subscriptions, %d open; want one, open", alive, open)
	}
	inst.remove(b, "two")
	inst.fault("stream_fin", simulator.Fault{}) // until its stream ends, the other mailbox needs it as it is
	eventually(t, soon, "the subscription is given back", func() bool {
		alive, _ := inst.sim.Subscriptions(b.address)
		return alive == 0
	})
	if n := inst.sim.Counts().Requests["Unsubscribe"]; n != 1 {
		t.Errorf("%d calls of Unsubscribe, want 1", n)
	}
	if status := inst.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, nil); status != http.StatusNotFound {
		t.Errorf("a mailbox without devices answers %d, want 404", status)
	}
	inst.deliverTo(inst.boxes...)
	inst.balance(0)
}

// underWay is how long an alert that had left mailbell before a DELETE was answered may lie in a socket until APNs counts it, on a machine
// that runs everything at once. What is tried again is tried for longer.
const underWay = 2 * time.Second

func TestNoAlertBeginsAfterADeviceWasRemoved(t *testing.T) {
	t.Parallel()
	const rounds = 25
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.start()
	b := inst.boxes[0]
	inst.enrol(b, "stays")
	inst.awaitListening()

	delivered := map[string]time.Time{} // by subject
	var delivery sync.WaitGroup
	over := make(chan struct{})
	delivery.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			subject := fmt.Sprintf("Ticket %04d was answered", inst.ledger.count()+1)
			delivered[subject] = time.Now()
			inst.deliverTo(&box{b.address, []string{"stays"}})
			pass(t, 20*time.Millisecond) // a mailbox in heavy use; each listing shows the mail of ten minutes
		}
	})
	removed := map[string]time.Time{} // by token
	for i := range rounds {
		victim := &box{address: b.address}
		id := fmt.Sprintf("goes-%d", i)
		token := inst.enrol(victim, id)
		eventually(t, soon, "the device is alerted", func() bool { return len(alertsOf(inst.sim, token)) > 0 })
		inst.remove(victim, id)
		removed[token] = time.Now()
		if status := inst.call(http.MethodDelete, "/v1/devices/"+id, nil, nil); status != http.StatusNotFound {
			t.Errorf("the second DELETE: %d, want 404", status)
		}
	}
	close(over)
	delivery.Wait()
	inst.awaitAlerts(soon)
	inst.awaitRest()
	alerted := 0
	for token, at := range removed {
		for _, a := range alertsOf(inst.sim, token) {
			alerted++
			p, err := read(a)
			if came := delivered[p.APS.Alert.Body]; err != nil || came.After(at) {
				t.Errorf("%q came %v after its device was removed, and was alerted", p.APS.Alert.Body, came.Sub(at))
			}
			if late := a.At.Sub(at); late > underWay {
				t.Errorf("an alert came %v after its device was removed", late)
			}
		}
	}
	t.Logf("%d alerts on %d devices that were removed", alerted, len(removed))
	for b := range inst.ledger.owed {
		if b.device != "stays" {
			t.Fatalf("%s is owed to %s", b.subject, b.device)
		}
	}
}

// alertsOf are what APNs was asked for a device, refused ones too.
func alertsOf(sim *simulator.Server, token string) (list []simulator.Alert) {
	for _, a := range sim.Alerts(0) {
		if a.Token == token {
			list = append(list, a)
		}
	}
	return list
}

// An alert that is tried again and again is not tried any more once its device was removed; the others of its mailbox are.
func TestNoAlertIsTriedAgainAfterADeviceWasRemoved(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.start()
	b := inst.boxes[0]
	victim := &box{address: b.address}
	token := inst.enrol(victim, "goes")
	inst.enrol(b, "stays")
	inst.awaitListening()
	inst.fault("apns_answer", simulator.Fault{Token: token, Status: http.StatusServiceUnavailable, Reason: "ServiceUnavailable"})
	inst.deliver()
	eventually(t, soon, "APNs has refused it twice", func() bool { return len(alertsOf(inst.sim, token)) >= 2 })
	inst.remove(victim, "goes")
	at := time.Now()
	inst.clear("apns_answer")
	inst.deliver()
	inst.awaitAlerts(soon)
	pass(t, 4*time.Second) // two pauses of the retries
	for _, a := range alertsOf(inst.sim, token) {
		if late := a.At.Sub(at); late > underWay || a.Accepted() {
			t.Errorf("an alert was tried %v after its device was removed, and answered %d", late, a.Status)
		}
	}
}
