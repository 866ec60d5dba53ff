package service_test

// A location in the state leads no credential astray.

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

func TestALocationInTheStateIsNotBelievedWhereItIsNotAllowed(t *testing.T) {
	inst := install(t, "")
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts()
	inst.stop()

	elsewhere, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	var asked atomic.Int32
	go func() {
		for {
			c, err := elsewhere.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(elsewhere.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	store, err := subscriptions.OpenEmbedded(inst.config.State.Path)
	if err != nil {
		t.Fatal(err)
	}
	book, err := subscriptions.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range book.Mailboxes() {
		url := []string{"https://localhost:", "http://127.0.0.1:"}[i%2] + port + "/EWS/Exchange.asmx"
		at := m.Record().Location()
		at.URL, at.Found = url, time.Now().Add(-time.Hour)
		err := m.Update(t.Context(), func(d *subscriptions.Draft) { d.At = &at })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	inst.start()
	inst.awaitListening()
	inst.deliver()
	inst.awaitAlerts()
	inst.balance()
	if n := asked.Load(); n != 0 {
		t.Errorf("%d connections to a host that nothing but the state names", n)
	}
}
