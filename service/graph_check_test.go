package service_test

// What a check tries of Microsoft Graph, and what it says of it.

import (
	"context"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/service"
	"github.com/mailbell/mailbell/simulator"
)

// cloud is a hybrid installation whose entry of the cloud listens by Graph.
func cloud(t *testing.T) (sim *simulator.Server, checks func(of service.Subject) map[string]check.Result) {
	t.Helper()
	sim, err := simulator.Start(context.Background(), simulator.Options{Dir: t.TempDir(), Mailboxes: 4, Hybrid: true, Graph: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := config.Load(sim.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	return sim, func(of service.Subject) map[string]check.Result {
		t.Helper()
		all := map[string]check.Result{}
		err := service.Check(t.Context(), c, nil, zap.NewNop(), "test", of, func(r check.Result) {
			t.Logf("%s %s: %s%s; %s", r.State, r.Name, r.Found, r.Error, r.Advice)
			all[r.Name] = r
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
}

// ofGraph are the names of results of the entry that listens by Graph, without its name.
func ofGraph(all map[string]check.Result, entry string) map[string]check.Result {
	list := map[string]check.Result{}
	for name, r := range all {
		if rest, ok := strings.CutPrefix(name, "exchange "+entry+": "); ok {
			list[rest] = r
		}
	}
	return list
}

func TestACheckGoesTheWholeWayOfAMailboxAtGraph(t *testing.T) {
	t.Parallel()
	sim, checks := cloud(t)
	entry, at := graphEntry(t, sim)
	all := checks(service.Subject{Mailbox: at})
	got := ofGraph(all, entry)
	account := ""
	for name := range got {
		if rest, ok := strings.CutPrefix(name, "account "); ok {
			account, _, _ = strings.Cut(rest, ":")
		}
	}
	for _, step := range []string{"token", check.StepSignIn, check.StepImpersonation, check.StepSubscription, check.StepCallback, check.StepRead} {
		if r, ok := got["account "+account+": "+step]; !ok || r.State != check.OK {
			t.Errorf("%s: %+v", step, r)
		}
	}
	if r := got["Microsoft Graph"]; r.State != check.OK {
		t.Errorf("%+v", r)
	}
	if r := all["callbacks"]; !strings.Contains(r.Error, "CN=mailbell simulator CA") { // it is reached; Graph trusts that authority, and this machine does not
		t.Errorf("%+v", r)
	}
	if r := got["account "+account+": beyond, at random"]; r.State != check.OK || r.Found == "" {
		t.Errorf("%+v", r)
	}
	if n := sim.Counts().GraphSubscriptions; n != 0 {
		t.Errorf("the check leaves %d subscriptions", n)
	}
}

// graphEntry is the exchange entry that listens by Graph, and a mailbox there.
func graphEntry(t *testing.T, sim *simulator.Server) (entry, mailbox string) {
	t.Helper()
	c, err := config.Load(sim.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(c.Exchange, func(x config.Exchange) bool { return x.ListenBy == config.ByGraph })
	if i < 0 {
		t.Fatal("no entry listens by Graph")
	}
	for _, address := range sim.Mailboxes() {
		if m, err := sim.Mailbox(address); err == nil && m.Host == simulator.Online {
			return c.Exchange[i].Name, address
		}
	}
	t.Fatal("no mailbox is there")
	return "", ""
}

func TestACheckSaysWhatIsWrongWithGraphAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  string
		f      simulator.Fault
		step   string // the last part of the name of what fails
		error  string
		advice string
	}{
		{"no way to public_url", "graph_unreachable", simulator.Fault{}, check.StepSubscription, "/callbacks/graph/…", "Open the firewall"},
		{"no right", "graph_denied", simulator.Fault{}, "location", "ErrorAccessDenied", "Test-ServicePrincipalAuthorization"},
		{"a mailbox that is elsewhere", "graph_no_mailbox", simulator.Fault{}, "location", "MailboxNotEnabledForRESTAPI", "Get-Recipient"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sim, checks := cloud(t)
			_, at := graphEntry(t, sim)
			if err := sim.SetFault(c.fault, c.f); err != nil {
				t.Fatal(err)
			}
			found := false
			for name, r := range checks(service.Subject{Mailbox: at}) {
				if strings.HasSuffix(name, ": "+c.step) && r.State == check.Failed {
					found = true
					if !strings.Contains(r.Error, c.error) || !strings.Contains(r.Advice, c.advice) && !strings.HasPrefix(r.Advice, "As above") {
						t.Errorf("%+v", r)
					}
				}
			}
			if !found {
				t.Errorf("%s does not fail", c.step)
			}
		})
	}
}

func TestWithMailReadBasicACheckSaysThatMailboxesArePolledAndGoesOn(t *testing.T) {
	t.Parallel()
	sim, checks := cloud(t)
	entry, at := graphEntry(t, sim)
	if err := sim.SetFault("graph_basic_only", simulator.Fault{}); err != nil {
		t.Fatal(err)
	}
	got := ofGraph(checks(service.Subject{Mailbox: at}), entry)
	steps := map[string]check.State{}
	for name, r := range got {
		if i := strings.LastIndex(name, ": "); i >= 0 {
			steps[name[i+2:]] = r.State
		}
		if strings.HasSuffix(name, ": "+check.StepSubscription) && (!strings.Contains(r.Error, "Mail.Read") || !strings.Contains(r.Advice, "polled")) {
			t.Errorf("%+v", r)
		}
	}
	if steps[check.StepSubscription] != check.Warning || steps[check.StepRead] != check.OK || steps[check.StepCallback] != "" {
		t.Errorf("%v", steps)
	}
}

func TestACheckSaysWhatTheAppCanReadBeyondItsMailboxes(t *testing.T) {
	t.Parallel()
	sim, checks := cloud(t)
	entry, at := graphEntry(t, sim)
	beyond := func() (r check.Result) {
		all := checks(service.Subject{Beyond: []string{at, "elsewhere@fabrikam.example"}})
		if other := all["beyond elsewhere@fabrikam.example"]; other.State != check.Skipped {
			t.Errorf("an address of no entry's domains: %+v", other)
		}
		for name, result := range ofGraph(all, entry) {
			if strings.HasSuffix(name, ": beyond "+at) {
				r = result
			}
			if strings.Contains(name, "fabrikam") {
				t.Errorf("an address of another entry's domains is tried: %s", name)
			}
		}
		return r
	}
	if r := beyond(); r.State != check.Warning || !strings.Contains(r.Error, "can read "+at) || !strings.Contains(r.Advice, "RBAC for Applications") {
		t.Errorf("%+v", r)
	}
	if err := sim.SetFault("graph_denied", simulator.Fault{Mailbox: at}); err != nil {
		t.Fatal(err)
	}
	if r := beyond(); r.State != check.OK || !strings.Contains(r.Found, "narrowed") {
		t.Errorf("%+v", r)
	}
}
