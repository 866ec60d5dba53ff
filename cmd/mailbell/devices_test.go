package main_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

func TestANewDeviceIsHeardWithinSecondsWithoutARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.start()
	w.enrol(w.boxes[0], "first")
	w.heard()
	w.deliverTo(w.boxes[0])
	w.rung(soon)

	began := time.Now()
	w.enrol(w.boxes[1], "second")
	w.deliverTo(w.boxes[1]) // nobody listens to it yet
	w.rung(soon)
	if took := time.Since(began); took > 10*time.Second { // some hundred milliseconds, on an idle machine
		t.Errorf("a new device rang after %v, want seconds", took)
	}
	w.heard()
	w.enrol(w.boxes[0], "third") // of a mailbox in use: rings for everything after, and nothing from before
	w.deliverTo(w.boxes...)
	w.balance(0)
}

func TestTheLastDeviceGivesTheSubscriptionBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.start()
	b := w.boxes[0]
	for _, id := range []string{"one", "two"} {
		w.enrol(b, id)
	}
	w.enrol(w.boxes[1], "other")
	w.heard()
	w.remove(b, "one")
	w.deliverTo(w.boxes...)
	w.rung(soon)
	if alive, heard := w.sim.Subscriptions(b.address); alive != 1 || heard != 1 {
		t.Errorf("after the first of two devices went: %d subscriptions, %d open; want one, open", alive, heard)
	}
	w.remove(b, "two")
	eventually(t, soon, "the subscription is given back", func() bool {
		alive, _ := w.sim.Subscriptions(b.address)
		return alive == 0
	})
	if n := w.sim.Counts().Requests["Unsubscribe"]; n != 1 {
		t.Errorf("%d calls of Unsubscribe, want 1", n)
	}
	if status := w.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, nil); status != http.StatusNotFound {
		t.Errorf("a mailbox without devices answers %d, want 404", status)
	}
	w.deliverTo(w.boxes...)
	w.balance(0)
}

// underWay is how long an alert that had left mailbell before a DELETE was answered may lie in a socket until APNs counts it.
const underWay = 500 * time.Millisecond

func TestNoAlertBeginsAfterADeviceWasRemoved(t *testing.T) {
	t.Parallel()
	const rounds = 25
	w := newWorld(t, 1)
	w.start()
	b := w.boxes[0]
	w.enrol(b, "stays")
	w.heard()

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
			subject := fmt.Sprintf("Ticket %04d was answered", w.ledger.count()+1)
			delivered[subject] = time.Now()
			w.deliverTo(&box{b.address, []string{"stays"}})
			pass(t, 2*time.Millisecond)
		}
	})
	removed := map[string]time.Time{} // by token
	for i := range rounds {
		victim := &box{address: b.address}
		id := fmt.Sprintf("goes-%d", i)
		token := w.enrol(victim, id)
		eventually(t, soon, "the device rings", func() bool { return len(alertsOf(w.sim, token)) > 0 })
		w.remove(victim, id)
		removed[token] = time.Now()
		if status := w.call(http.MethodDelete, "/v1/devices/"+id, nil, nil); status != http.StatusNotFound {
			t.Errorf("the second DELETE: %d, want 404", status)
		}
	}
	close(over)
	delivery.Wait()
	w.rung(soon)
	w.atRest()
	rang := 0
	for token, at := range removed {
		for _, a := range alertsOf(w.sim, token) {
			rang++
			p, err := read(a)
			if came := delivered[p.APS.Alert.Body]; err != nil || came.After(at) {
				t.Errorf("%q came %v after its device was removed, and rang", p.APS.Alert.Body, came.Sub(at))
			}
			if late := a.At.Sub(at); late > underWay {
				t.Errorf("an alert came %v after its device was removed", late)
			}
		}
	}
	t.Logf("%d alerts on %d devices that were removed", rang, len(removed))
	for b := range w.ledger.owed {
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

// An alert that is tried again and again is not tried any more once its device was removed; the others of its mailbox ring.
func TestNoAlertIsTriedAgainAfterADeviceWasRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start()
	b := w.boxes[0]
	victim := &box{address: b.address}
	token := w.enrol(victim, "goes")
	w.enrol(b, "stays")
	w.heard()
	w.fault("apns_answer", simulator.Fault{Token: token, Status: http.StatusServiceUnavailable, Reason: "ServiceUnavailable"})
	w.deliver()
	eventually(t, soon, "APNs has refused it twice", func() bool { return len(alertsOf(w.sim, token)) >= 2 })
	w.remove(victim, "goes")
	at := time.Now()
	w.clear("apns_answer")
	w.deliver()
	w.rung(soon)
	pass(t, 4*time.Second) // two pauses of the retries
	for _, a := range alertsOf(w.sim, token) {
		if late := a.At.Sub(at); late > underWay || a.Accepted() {
			t.Errorf("an alert was tried %v after its device was removed, and answered %d", late, a.Status)
		}
	}
}
