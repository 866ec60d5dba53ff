package ews

// Against the simulated Exchange, over real connections.

import (
	"errors"
	"fmt"
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

// arrival is a message with that subject.
func arrival(subject string) []byte {
	return fmt.Appendf(nil, "From: ann@partner.example\r\nSubject: %s\r\nMessage-ID: <%s@partner.example>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0100\r\n\r\nHello.\r\n", subject, subject)
}

func TestAStreamIsReadInEveryFormThatServersSend(t *testing.T) {
	for name, o := range map[string]simulator.Options{
		"as documented":            {},
		"as the schema has it":     {SchemaForm: true},
		"with a default namespace": {DefaultNamespace: true},
		"both":                     {DefaultNamespace: true, SchemaForm: true},
		"of gromox":                {Personality: "gromox"},
		"of Exchange 2010":         {Personality: "exchange2010", DefaultNamespace: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.Mailboxes, o.Heartbeat = 1, 50*time.Millisecond
			sim, c, target := simulated(t, o)
			id, _, err := c.Subscribe(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := c.GetStreamingEvents(t.Context(), target, []string{id}, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			item, err := sim.Deliver(target.Mailbox, time.Time{}, arrival("one"))
			if err != nil {
				t.Fatal(err)
			}
			for {
				n, err := stream.Next()
				if err != nil {
					t.Fatal(err)
				}
				if len(n.Events) == 0 {
					continue
				}
				if e := n.Events[0]; e.Subscription != id || e.ItemID != item || e.Time.IsZero() {
					t.Errorf("%+v, want %s of %s", e, item, id)
				}
				return
			}
		})
	}
}

func TestWhatASimulatedServerSendsThatIsNoXMLHarmsAsLittleAsItCan(t *testing.T) {
	sim, c, target := simulated(t, simulator.Options{Mailboxes: 1})
	var ids []string
	for _, subject := range []string{"one", "two", "three"} {
		id, err := sim.Deliver(target.Mailbox, time.Time{}, arrival(subject))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := sim.SetFault("answer_unescaped", simulator.Fault{Count: 1}); err != nil {
		t.Fatal(err)
	}
	items, _, err := c.GetItem(t.Context(), target, ids)
	if err != nil || items[0].Message == nil || items[1].Message == nil || items[1].Message.Subject != "two" || items[2].Message.Subject != "three" {
		t.Fatalf("%+v, %v", items, err)
	}
	if got := items[0].Message.Subject; got != "Tom & Jerry, 1 < 2, &nbsp; one" {
		t.Errorf("%q", got)
	}
	if err := sim.SetFault("answer_page", simulator.Fault{Count: 1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.GetItem(t.Context(), target, ids); fault.Of(err).Code != CodeForeign || fault.Of(err).Scope != fault.Server {
		t.Errorf("a page as text/xml: %v", err)
	}
}

func TestAMailboxThatGromoxDoesNotHaveIsElsewhere(t *testing.T) {
	_, c, target := simulated(t, simulator.Options{Mailboxes: 1, Personality: "gromox"})
	target.Mailbox = "nobody@contoso.example"
	_, _, err := c.Subscribe(t.Context(), target)
	if f := fault.Of(err); f.Code != "ErrorCannotFindUser" || !f.Elsewhere || f.Scope != fault.Mailbox {
		t.Errorf("%v", err)
	}
}
