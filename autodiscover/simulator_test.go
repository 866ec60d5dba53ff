package autodiscover

// Against the simulated Exchange, on premises and in the cloud, with real credentials.

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/simulator"
)

func start(t *testing.T, o simulator.Options) *simulator.Server {
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
	return sim
}

// roundTripper signs in with a credential, until the test ends.
func roundTripper(t *testing.T, sim *simulator.Server, c auth.Credential, to auth.Hosts) http.RoundTripper {
	rt := c.RoundTripper(to, proxy.Settings{Roots: sim.RootCAs()}, 0)
	t.Cleanup(func() {
		rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		c.Close()
	})
	return rt
}

func plainTripper(t *testing.T, sim *simulator.Server) http.RoundTripper {
	rt := proxy.Settings{Roots: sim.RootCAs()}.Transport()
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

func onPremises(t *testing.T, sim *simulator.Server, password string) *Client {
	hosts := auth.Hosts{URLs: []string{sim.AutodiscoverURL}}
	return New(Options{
		HTTP: roundTripper(t, sim, auth.NewBasic(sim.Username, auth.Secret(password)), hosts), Hosts: hosts, Plain: plainTripper(t, sim), URL: sim.AutodiscoverURL,
		Entry: "headquarters", UserAgent: "mailbell/test", Elsewhere: func(d string) bool { return d == simulator.RoutingDomain },
	})
}

func inCloud(t *testing.T, sim *simulator.Server) *Client {
	u, err := url.Parse(sim.OnlineURL)
	if err != nil {
		t.Fatal(err)
	}
	app, err := auth.NewApp(auth.App{
		Authority: sim.Authority, Tenant: sim.TenantID, ClientID: sim.ClientID, Scope: "https://" + u.Host + "/.default",
		Secret: auth.Secret(sim.ClientSecret), Outbound: proxy.Settings{Roots: sim.RootCAs()},
	})
	if err != nil {
		t.Fatal(err)
	}
	hosts := auth.Hosts{URLs: []string{sim.OnlineAutodiscoverURL, sim.OnlineURL}, Online: true}
	return New(Options{
		HTTP: roundTripper(t, sim, app, hosts), Hosts: hosts, Plain: plainTripper(t, sim), Entry: "cloud", UserAgent: "mailbell/test",
		Online: true, Cloud: sim.OnlineAutodiscoverURL, EWS: sim.OnlineURL,
	})
}

func TestInAHybridOrganisationEachMailboxIsFoundWhereItLives(t *testing.T) {
	sim := start(t, simulator.Options{Hybrid: true})
	for host, address := range map[string]string{simulator.OnPremises: "alice", simulator.Online: "bob", simulator.Other: "carol"} {
		if err := sim.AddMailboxAt(address+"@"+simulator.Domain, host); err != nil {
			t.Fatal(err)
		}
	}
	if err := sim.AddAlias("robert@"+simulator.Domain, "bob@"+simulator.Domain); err != nil {
		t.Fatal(err)
	}
	local, cloud := onPremises(t, sim, sim.Password), inCloud(t, sim)
	find := func(c *Client, user, url, group, how string) {
		t.Helper()
		p, err := c.Find(t.Context(), user+"@"+simulator.Domain)
		if url == "" {
			if e := fault.Of(err); !e.Elsewhere || e.Scope != fault.Mailbox || p != (mail.Location{}) {
				t.Errorf("%s: %+v, %v", user, p, err)
			}
			return
		}
		primary := strings.Replace(user, "robert", "bob", 1) + "@" + simulator.Domain
		if err != nil || p.URL != url || p.Group != group || p.Primary != primary || !strings.HasPrefix(p.How, how) || p.Server != "" {
			t.Errorf("%s: %+v, %v", user, p, err)
		}
	}
	const here, there = "Default-First-Site-Name", "SIMPR01-001"
	find(local, "alice", sim.EWSURL, here, "Autodiscover (SOAP) at 127.0.0.1:")
	find(local, "bob", "", "", "")
	find(local, "carol", "", "", "")
	find(cloud, "alice", "", "", "")
	find(cloud, "bob", sim.OnlineURL, there, "Autodiscover (SOAP) at 127.0.0.1:")
	find(cloud, "robert", sim.OnlineURL, there, "Autodiscover (SOAP) at 127.0.0.1:")
	find(cloud, "carol", "", "", "")

	if err := sim.Move("alice@"+simulator.Domain, simulator.Online); err != nil {
		t.Fatal(err)
	}
	find(local, "alice", "", "", "")
	find(cloud, "alice", sim.OnlineURL, there, "Autodiscover (SOAP) at 127.0.0.1:")

	// An app with its rights by RBAC for Applications.
	if err := sim.SetFault("autodiscover_refused", simulator.Fault{}); err != nil {
		t.Fatal(err)
	}
	find(cloud, "bob", sim.OnlineURL, "", "Autodiscover V2 at 127.0.0.1:")
	before := sim.Counts().Requests["GetUserSettings"]
	find(cloud, "bob", sim.OnlineURL, "", "Autodiscover V2 at 127.0.0.1:")
	if after := sim.Counts().Requests["GetUserSettings"]; after != before {
		t.Error("it is asked again at once")
	}
}

func TestEachExchangeIsUnderstood(t *testing.T) {
	for _, c := range []struct{ personality, how, server string }{
		{"", "Autodiscover (SOAP) at ", ""},
		{simulator.Exchange2010, "Autodiscover (SOAP) at ", "exch01."},
		{simulator.Exchange2007, "Autodiscover (POX) at ", "exch01."},
		{simulator.Gromox, "Autodiscover (POX) at ", ""},
	} {
		sim := start(t, simulator.Options{Personality: c.personality, Mailboxes: 1})
		p, err := onPremises(t, sim, sim.Password).Find(t.Context(), sim.Mailboxes()[0])
		if err != nil || p.URL != sim.EWSURL || !strings.HasPrefix(p.How, c.how) || !strings.HasPrefix(strings.ToLower(p.Server), c.server) || (p.Server == "") != (c.server == "") {
			t.Errorf("%q: %+v, %v", c.personality, p, err)
		}
	}
}

func TestManyMailboxesOfASimulatedExchangeAreFoundInBatches(t *testing.T) {
	sim := start(t, simulator.Options{Mailboxes: 300})
	if err := sim.SetFault("autodiscover_limit", simulator.Fault{Limit: 30}); err != nil {
		t.Fatal(err)
	}
	c := onPremises(t, sim, sim.Password)
	users := append(sim.Mailboxes(), "nobody@"+simulator.Domain)
	var all sync.WaitGroup
	for _, u := range users {
		all.Go(func() {
			p, err := c.Find(t.Context(), u)
			if unknown := strings.HasPrefix(u, "nobody"); unknown != (err != nil && fault.Of(err).Elsewhere) || !unknown && (err != nil || p.Primary != u) {
				t.Errorf("%s: %+v, %v", u, p, err)
			}
		})
	}
	all.Wait()
	// How many meet in one request is the scheduler's; each alone would be 300.
	if n := sim.Counts().Requests["GetUserSettings"]; n > 100 {
		t.Errorf("%d requests", n)
	}
}

func TestAWrongPasswordIsTriedThreeTimesForAllMailboxes(t *testing.T) {
	sim := start(t, simulator.Options{Mailboxes: 20})
	c := onPremises(t, sim, "wrong")
	find := func(u string) {
		_, err := c.Find(t.Context(), u)
		if e := fault.Of(err); e.Scope != fault.Account || strings.Contains(fmt.Sprint(err), "wrong") {
			t.Errorf("%s: %v", u, err)
		}
	}
	// The first search also asks without the password what the host wants; all later refusals are of the password.
	const asked = 1
	find(sim.Mailboxes()[0])
	var all sync.WaitGroup
	for _, u := range sim.Mailboxes() {
		all.Go(func() { find(u) })
	}
	all.Wait()
	for _, u := range sim.Mailboxes() {
		find(u)
	}
	if n := sim.Counts().Unauthorized - asked; n == 0 || n > maxRefusals {
		t.Errorf("the password was refused %d times", n)
	}
}
