package graph

// Against the simulated Graph, over real connections.

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
)

// cloud is a simulator with a client of Graph, and an endpoint for its notifications.
type cloud struct {
	*simulator.Server
	client  *Client
	mailbox string // at Online
	onPrem  string
	url     string
	posts   chan Post
}

// simulated is a simulator with a client of its Graph, whose app has these permissions; none: it may read.
func simulated(t *testing.T, preview bool, permissions ...string) *cloud {
	t.Helper()
	dir := t.TempDir()
	sim, err := simulator.Start(t.Context(), simulator.Options{Hybrid: true, Graph: true, GraphRoles: permissions, Mailboxes: 2, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{Server: sim, onPrem: sim.Mailboxes()[0], mailbox: sim.Mailboxes()[1], posts: make(chan Post, 100)}
	outbound := proxy.Settings{Roots: sim.RootCAs()}
	credential, err := auth.NewApp(auth.App{
		Authority: sim.Authority, Tenant: sim.TenantID, ClientID: sim.ClientID, Scope: sim.GraphURL + "/.default", Secret: auth.Secret(sim.ClientSecret),
		Outbound: outbound,
	})
	if err != nil {
		t.Fatal(err)
	}
	rt := credential.RoundTripper(auth.Hosts{URLs: []string{sim.GraphURL}}, outbound, 0)
	c.client = New(Options{HTTP: rt, Base: sim.GraphURL, UserAgent: "mailbell/test", Preview: preview})
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "callbacks.pem"), filepath.Join(dir, "callbacks.key"))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := r.URL.Query().Get("validationToken"); token != "" {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, token)
			return
		}
		post, err := ParseNotifications(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.posts <- post
		w.WriteHeader(http.StatusAccepted)
	}))
	endpoint.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	endpoint.StartTLS()
	_, port, err := net.SplitHostPort(endpoint.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.url = "https://127.0.0.1:" + port + "/callbacks/graph/secret"
	t.Cleanup(func() {
		rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		credential.Close()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
		endpoint.Close()
	})
	return c
}

// deliver delivers a message that was received some time ago.
func (c *cloud) deliver(t *testing.T, n int, ago time.Duration) {
	t.Helper()
	message := fmt.Sprintf("From: Ann <ann@partner.example>\r\nSubject: message %d\r\nSensitivity: Private\r\nMessage-ID: <%d@partner.example>\r\n"+
		"Date: Sun, 22 Nov 2026 10:00:00 +0100\r\n\r\nHello.\r\n", n, n)
	if _, err := c.Deliver(c.mailbox, time.Now().Add(-ago), []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func TestAnInboxOfASimulatedGraphIsListedAndReadToItsEnd(t *testing.T) {
	c := simulated(t, true)
	for n := range 25 {
		c.deliver(t, n, time.Duration(n)*time.Minute)
	}
	for _, name := range []string{"", "graph_pages_short", "graph_pages_empty"} {
		if name != "" {
			if err := c.SetFault(name, simulator.Fault{Count: 2}); err != nil {
				t.Fatal(err)
			}
		}
		var all []mail.Message
		page, err := c.client.Messages(t.Context(), c.mailbox, time.Now().Add(-24*time.Hour), 10)
		for ; err == nil; page, err = c.client.More(t.Context(), c.mailbox, page.Next) {
			all = append(all, page.Messages...)
			if page.Next == "" {
				break
			}
		}
		if err != nil || len(all) != 25 || all[24].Subject != "message 24" {
			t.Fatalf("%s: %d messages, %v", name, len(all), err)
		}
		var ids []string
		for _, m := range all[:20] {
			ids = append(ids, m.ItemID)
		}
		items, _, err := c.client.Read(t.Context(), c.mailbox, ids)
		if err != nil || len(items) != 20 {
			t.Fatalf("%d items, %v", len(items), err)
		}
		for i, item := range items {
			switch m := item.Message; {
			case item.Err != nil:
				t.Error(item.Err)
			case m.Preview != "Hello." || !m.Private || m.InternetID != all[i].InternetID || m.From.Name != "Ann":
				t.Errorf("%+v", m)
			}
		}
	}
	if err := c.SetFault("graph_basic_only", simulator.Fault{}); err != nil {
		t.Fatal(err)
	}
	page, err := c.client.Messages(t.Context(), c.mailbox, time.Time{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if items, _, err := c.client.Read(t.Context(), c.mailbox, []string{page.Messages[0].ItemID}); err != nil || items[0].Err != nil || items[0].Message.Preview != "" {
		t.Errorf("with basic rights: %+v, %v", items, err)
	}
}

func TestTheLifeOfASubscriptionAtASimulatedGraph(t *testing.T) {
	c := simulated(t, false)
	want := Subscription{NotificationURL: c.url, LifecycleURL: c.url, ClientState: "state", Until: time.Now().Add(Longest)}
	made, err := c.client.Subscribe(t.Context(), c.mailbox, want)
	if err != nil || time.Until(made.Expires) < Longest-time.Hour {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := c.client.Subscribe(t.Context(), c.mailbox, want); err == nil || fault.Of(err).Code != CodeExists || !slices.Equal(fault.Of(err).Subscriptions, []string{made.ID}) {
		t.Errorf("a second one: %v", err)
	}
	c.deliver(t, 1, 0)
	post := <-c.posts
	if len(post.Notifications) != 1 || post.Notifications[0].Subscription != made.ID || post.Notifications[0].ClientState != "state" {
		t.Fatalf("%+v", post)
	}
	items, _, err := c.client.Read(t.Context(), c.mailbox, []string{post.Notifications[0].Item})
	if err != nil || items[0].Err != nil || items[0].Message.Subject != "message 1" {
		t.Errorf("%+v, %v", items, err)
	}
	if err := c.SetFault("graph_expiry", simulator.Fault{Limit: 4230}); err != nil {
		t.Fatal(err)
	}
	if until, err := c.client.Renew(t.Context(), made.ID, time.Now().Add(Longest)); err != nil || time.Until(until) > 4230*time.Minute || time.Until(until) < 4000*time.Minute {
		t.Errorf("renewed until %v, %v", until, err)
	}
	if list, err := c.client.Subscriptions(t.Context()); err != nil || len(list) != 1 || list[0].ID != made.ID || list[0].NotificationURL != c.url {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.Move(c.mailbox, simulator.OnPremises); err != nil {
		t.Fatal(err)
	}
	if post := <-c.posts; post.Notifications[0].Lifecycle != SubscriptionRemoved {
		t.Errorf("%+v", post)
	}
	if _, err := c.client.Renew(t.Context(), made.ID, time.Now().Add(Longest)); err == nil || !fault.Of(err).Unsubscribed {
		t.Errorf("renewed after the move: %v", err)
	}
	if _, err := c.client.Look(t.Context(), c.mailbox); err == nil || !fault.Of(err).Elsewhere {
		t.Errorf("a look after the move: %v", err)
	}
	if _, err := c.client.Subscribe(t.Context(), c.mailbox, want); err == nil || !fault.Of(err).Elsewhere {
		t.Errorf("subscribed after the move: %v", err)
	}
	if err := c.client.Delete(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
}

func TestASimulatedGraphRefusesWithTheReason(t *testing.T) {
	c := simulated(t, true)
	try := func(name string, f simulator.Fault, call func() error, holds func(*fault.Error) bool) {
		t.Helper()
		if err := c.SetFault(name, f); err != nil {
			t.Fatal(err)
		}
		err := call()
		if err == nil || !holds(fault.Of(err)) {
			t.Errorf("%s: %v: %+v", name, err, fault.Of(err))
		}
		if err := c.ClearFault(name); err != nil {
			t.Fatal(err)
		}
	}
	look := func() error { _, err := c.client.Look(t.Context(), c.mailbox); return err }
	subscribe := func() error {
		_, err := c.client.Subscribe(t.Context(), c.mailbox, Subscription{NotificationURL: c.url, LifecycleURL: c.url, ClientState: "s", Until: time.Now().Add(Longest)})
		return err
	}
	try("graph_denied", simulator.Fault{Mailbox: c.mailbox}, look, func(e *fault.Error) bool { return e.Remedy == fault.Fix && !e.Elsewhere })
	try("graph_no_mailbox", simulator.Fault{Mailbox: c.mailbox, Reason: "bare"}, look, func(e *fault.Error) bool { return e.Elsewhere })
	try("graph_no_mailbox", simulator.Fault{Mailbox: c.mailbox}, look, func(e *fault.Error) bool { return e.Elsewhere })
	try("graph_garbage", simulator.Fault{}, look, func(e *fault.Error) bool { return e.Code == CodeForeign })
	try("graph_basic_only", simulator.Fault{}, subscribe, func(e *fault.Error) bool { return e.Code == CodeDenied && e.Unsupported })
	try("graph_unreachable", simulator.Fault{}, subscribe, func(e *fault.Error) bool { return e.Code == CodeHandshake })
	if err := subscribe(); err != nil {
		t.Error(err)
	}
	try("graph_throttled", simulator.Fault{Mailbox: c.mailbox, Seconds: 7}, look, func(e *fault.Error) bool {
		return e.Code == CodeThrottled && e.After >= 6*time.Second && e.After <= 9*time.Second && e.Scope == fault.Mailbox
	})
	if err := look(); fault.Of(err).Code != CodeHeld {
		t.Errorf("asked again at once: %v", err)
	}
}

func TestASimulatedGraphPostsMessagesThatOnlyWeCanReadAndProvesThatItIsGraph(t *testing.T) {
	c := simulated(t, true)
	keys := &Keys{}
	rich, err := keys.Rich()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Subscribe(t.Context(), c.mailbox, Subscription{
		NotificationURL: c.url, LifecycleURL: c.url, ClientState: "state", Until: time.Now().Add(LongestRich), Rich: &rich,
	}); err != nil {
		t.Fatal(err)
	}
	c.deliver(t, 1, 0)
	post := <-c.posts
	if len(post.Notifications) != 1 || post.Notifications[0].Content == nil {
		t.Fatalf("%+v", post)
	}
	outbound := proxy.Settings{Roots: c.RootCAs()}.Transport()
	defer outbound.CloseIdleConnections()
	tokens := NewTokens(TokenOptions{HTTP: outbound, Authority: c.Authority, Tenant: c.TenantID, ClientID: c.ClientID})
	if err := tokens.Check(t.Context(), post.Tokens); err != nil {
		t.Error(err)
	}
	told, err := keys.Open(post.Notifications[0].Content)
	if err != nil || told.Subject != "message 1" {
		t.Fatalf("%+v, %v", told, err)
	}
	items, _, err := c.client.Read(t.Context(), c.mailbox, []string{post.Notifications[0].Item})
	if err != nil || items[0].Err != nil {
		t.Fatal(items, err)
	}
	var secret mail.Secret
	if secret.Key("record", &told) != secret.Key("record", items[0].Message) || told.ItemID != items[0].ID || told.Preview != items[0].Message.Preview ||
		!told.Private || !items[0].Message.Private || told.Class != items[0].Message.Class {
		t.Errorf("the notification tells of %+v, the mailbox of %+v", told, items[0].Message)
	}
	stranger := NewTokens(TokenOptions{HTTP: outbound, Authority: c.Authority, Tenant: c.TenantID, ClientID: "another"})
	if err := stranger.Check(t.Context(), post.Tokens); fault.Of(err).Code != CodeToken {
		t.Errorf("a token for another app: %v", err)
	}
}
