package ews

// Against the simulated Exchange, over real connections.

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
)

// simulated starts a simulator, with a client of its listener account and the target of its first mailbox.
func simulated(t *testing.T, o simulator.Options) (*simulator.Server, *Client, Target) {
	t.Helper()
	sim, err := simulator.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	credential := auth.NewBasic(sim.Username, auth.Secret(sim.Password))
	rt := credential.RoundTripper(auth.Hosts{URLs: []string{sim.EWSURL}}, proxy.Settings{Roots: sim.RootCAs()}, 0)
	t.Cleanup(func() {
		rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		credential.Close()
	})
	return sim, New(Options{HTTP: rt, UserAgent: "mailbell/test"}), Target{URL: sim.EWSURL, Mailbox: sim.Mailboxes()[0]}
}

func TestAServerAtItsConnectionLimitIsAskedAgainWithinSeconds(t *testing.T) {
	sim, c, target := simulated(t, simulator.Options{Mailboxes: 1})
	if err := sim.SetFault("connections_full", simulator.Fault{Count: 1}); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Subscribe(t.Context(), target)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatal(err)
	}
	if e.Fault.Scope != fault.Server || e.Fault.Remedy != fault.Retry || e.Fault.After > 10*time.Second {
		t.Errorf("%v (%v, %v, after %v)", e, e.Fault.Scope, e.Fault.Remedy, e.Fault.After)
	}
	// Where the system drops what came before the reset, there are no words, and the connection broke.
	if e.Fault.Code == proxy.CodePlain && !strings.Contains(e.Error(), "503 Service Unavailable") {
		t.Errorf("%v: the server's words are lost", e)
	}
	if _, _, err := c.Subscribe(t.Context(), target); err != nil {
		t.Error(err)
	}
}
