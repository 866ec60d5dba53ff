package check

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/subscriptions"
)

// installation is all of it as a configuration builds it; EWS is found by Autodiscover.
func (s *simulated) installation(t *testing.T) Installation {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Installation{
		Config: "mailbell.yaml", Files: []File{{Key: "password_file", Path: secret, Secret: true}},
		Entries: []Entry{{Name: "headquarters", Domains: []string{simulator.Domain}, Hosts: []string{host(t, s.sim.AutodiscoverURL)}, Outbound: s.out, Accounts: []Account{s.account}}},
		Topics:  []Topic{{Topic: s.sim.Topic, Environment: "production", Host: host(t, s.sim.APNsURL), Outbound: s.out}},
		APNs:    s.sender, Way: s.looking(),
		Webhooks: []Webhook{{Name: "mdm", Event: "service.check", Try: func(context.Context) error { return nil }}},
		State:    &Attempt{},
		Expiry: func() []expiry.Entry {
			return []expiry.Entry{{Kind: expiry.TLS, Name: "portal", At: time.Now().AddDate(0, 6, 0)}}
		},
	}
}

// run returns the results as "state name", and all of them.
func run(t *testing.T, in Installation, mailbox, device string) (lines []string, all map[string]Result, fine bool) {
	t.Helper()
	all = map[string]Result{}
	fine = in.Run(t.Context(), mailbox, device, func(r Result) {
		lines = append(lines, fmt.Sprint(r.State, " ", r.Name))
		all[r.Name] = r
		if (r.State == Failed || r.State == Warning) && (r.Error == "" || r.Advice == "") || r.State == Skipped && r.Advice == "" || r.Tried == "" && r.State != Skipped {
			t.Errorf("half a result: %+v", r)
		}
	})
	return lines, all, fine
}

func TestEverythingIsTriedInOrderAndTheWholeWayForAMailboxAndADevice(t *testing.T) {
	s := simulate(t, "")
	at := host(t, s.sim.AutodiscoverURL)
	lines, _, fine := run(t, s.installation(t), ann, "phone")
	const account = "ok exchange headquarters: account listener-01: "
	want := []string{"ok configuration", "ok files", "ok exchange headquarters: TLS " + at, "ok clock", "ok mailbox " + ann + ": location", "ok exchange headquarters: Autodiscover",
		account + "sign_in", account + "impersonation", account + "subscription", account + "stream", account + "read", "ok state", "ok apns com.contoso.mail production", "ok webhook mdm", "ok expiry"}
	for _, s := range byStream() {
		want = append(want, "ok device phone: "+s)
	}
	if diff := cmp.Diff(want, lines); diff != "" || !fine {
		t.Errorf("fine: %v (-want +got):\n%s", fine, diff)
	}
	if alerts := s.sim.Alerts(0); !slices.ContainsFunc(alerts, func(a simulator.Alert) bool { return a.Status == 200 }) {
		t.Errorf("no alert came: %+v", alerts)
	}
}

func TestWithoutAMailboxAutodiscoverIsAskedForNobodyAndNothingIsSent(t *testing.T) {
	s := simulate(t, "")
	lines, all, fine := run(t, s.installation(t), "", "")
	if !fine || !slices.Contains(lines, "ok exchange headquarters: Autodiscover") || !slices.Contains(lines, "skipped exchange headquarters: account listener-01: sign_in") {
		t.Errorf("fine: %v, %v", fine, lines)
	}
	if r := all["exchange headquarters: account listener-01: sign_in"]; !strings.Contains(r.Advice, "--mailbox") {
		t.Errorf("it does not say what would have it tried: %+v", r)
	}
	in := s.installation(t)
	in.Entries[0].EWS = s.sim.EWSURL
	if lines, _, fine = run(t, in, "", ""); !fine || !slices.Contains(lines, "ok exchange headquarters: account listener-01: sign_in") {
		t.Errorf("with a URL the account signs in: fine %v, %v", fine, lines)
	}
	for _, a := range s.sim.Alerts(0) {
		if a.Status == 200 {
			t.Errorf("a phone rang: %+v", a)
		}
	}
}

func TestWhatIsWrongIsNamedWhereItIs(t *testing.T) {
	ahead := time.Now().Add(10 * 24 * time.Hour)
	for _, c := range []struct {
		name    string
		arrange func(*testing.T, *simulated, *Installation)
		line    string
		says    string
		advice  string
		fine    bool
	}{
		{"a wrong password", func(t *testing.T, s *simulated, in *Installation) {
			in.Entries[0].EWS = s.sim.EWSURL
			s.fault(t, "wrong_password", simulator.Fault{})
		}, "failed exchange headquarters: account listener-01: sign_in", "HTTP 401", "password_file", false},
		{"no Autodiscover", func(t *testing.T, s *simulated, in *Installation) { s.fault(t, "autodiscover_away", simulator.Fault{}) },
			"failed exchange headquarters: Autodiscover", "nowhere", "autodiscover_url", false},
		{"a host that is not in DNS", func(_ *testing.T, _ *simulated, in *Installation) { in.Entries[0].Hosts = []string{"ex.invalid:443"} },
			"failed exchange headquarters: DNS ex.invalid", "name", "nslookup", false},
		{"an APNs that is not in DNS", func(_ *testing.T, _ *simulated, in *Installation) { in.Topics[0].Host = "push.invalid:443" },
			"failed apns com.contoso.mail production: DNS push.invalid", "name", "proxy.url", false},
		{"a token service that is not in DNS", func(_ *testing.T, _ *simulated, in *Installation) { in.Entries[0].Authority = "login.invalid:443" },
			"failed exchange headquarters: DNS login.invalid", "name", "cloud_urls.authority", false},
		{"a host that does not listen", func(t *testing.T, _ *simulated, in *Installation) { in.Entries[0].Hosts = []string{tcptest.Quiet(t)} },
			"failed exchange headquarters: TLS", "connect", "firewall", false},
		{"a clock that is wrong", func(t *testing.T, s *simulated, in *Installation) {
			s.fault(t, "clock_skew", simulator.Fault{Seconds: 3600})
		},
			"warning clock", "ahead of this machine's", "NTP", true},
		{"a proxy that is not there", func(t *testing.T, _ *simulated, in *Installation) { in.Proxy = tcptest.Quiet(t) }, "failed proxy", "cannot be reached", "proxy.url", false},
		{"a configuration that is questioned", func(_ *testing.T, _ *simulated, in *Installation) {
			in.Doubts = []string{"expires is more than 24 months ahead"}
		},
			"warning configuration", "24 months", "key", true},
		{"a file that is gone", func(_ *testing.T, _ *simulated, in *Installation) { in.Files[0].Path += ".gone" }, "failed file password_file", "no such file", "readable", false},
		{"a secret for everybody to read", func(t *testing.T, _ *simulated, in *Installation) {
			if err := os.Chmod(in.Files[0].Path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "warning file password_file", "everybody", "chmod 600", true},
		{"a state that is locked", func(_ *testing.T, _ *simulated, in *Installation) {
			in.State.Err = fmt.Errorf("state file: %w", subscriptions.ErrInUse)
		}, "failed state", "in use", "POST /v1/test-notifications", false},
		{"a wrong APNs key", func(t *testing.T, s *simulated, _ *Installation) {
			s.fault(t, "apns_answer", simulator.Fault{Reason: "InvalidProviderToken"})
		},
			"failed apns com.contoso.mail production", "InvalidProviderToken", "key_id", false},
		{"a webhook with another secret", func(_ *testing.T, _ *simulated, in *Installation) {
			in.Webhooks[0].Try = func(context.Context) error {
				return &fault.Error{Op: "POST to the webhook mdm", Code: "HTTP 401", Scope: fault.Server, Remedy: fault.Fix}
			}
		}, "failed webhook mdm", "HTTP 401", "secret_file", false},
		{"what expires soon", func(_ *testing.T, _ *simulated, in *Installation) {
			in.Expiry = func() []expiry.Entry {
				return []expiry.Entry{{Kind: credential.ClientSecret, Name: "app-01", At: ahead}}
			}
		}, "warning expiry client_secret app-01", "expires on " + ahead.UTC().Format(time.DateOnly), "renewed", true},
		{"what has expired", func(_ *testing.T, _ *simulated, in *Installation) {
			in.Expiry = func() []expiry.Entry {
				return []expiry.Entry{{Kind: expiry.APNsCertificate, Name: "com.contoso.mail", At: time.Now()}}
			}
		}, "failed expiry apns_certificate com.contoso.mail", "expired on", "Renew", false},
		{"a listener account at Exchange Online", func(_ *testing.T, s *simulated, in *Installation) {
			in.Entries[0].Online, in.Entries[0].EWS, in.Entries[0].Accounts[0].Method = true, s.sim.EWSURL, credential.ListenerAccount
		}, "warning exchange headquarters: account listener-01", "February 2025", "client_secret or certificate", true},
		{"no token", func(_ *testing.T, _ *simulated, in *Installation) {
			a := &in.Entries[0].Accounts[0]
			a.Method, a.ByToken, a.Credential = credential.ClientSecret, true, refusing{err: &fault.Error{Op: "token", Code: "AADSTS7000215", Scope: fault.Account, Remedy: fault.Fix}}
		}, "failed exchange headquarters: account listener-01: token", "AADSTS7000215", "not its id", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, "")
			in := s.installation(t)
			c.arrange(t, s, &in)
			var lines []string
			var found *Result
			fine := in.Run(t.Context(), "", "", func(r Result) {
				line := fmt.Sprint(r.State, " ", r.Name)
				if lines = append(lines, line); strings.HasPrefix(line, c.line) && found == nil {
					found = &r
				}
			})
			if found == nil || fine != c.fine {
				t.Fatalf("fine is %v, want %v; there is no %q in %v", fine, c.fine, c.line, lines)
			}
			if !strings.Contains(found.Error, c.says) || !strings.Contains(found.Advice, c.advice) {
				t.Errorf("%+v; want %q and %q in it", *found, c.says, c.advice)
			}
		})
	}
}

func TestAMailbellThatRunsIsAskedForItsStateAndForTheDevice(t *testing.T) {
	s := simulate(t, "")
	in := s.installation(t)
	in.State = nil
	asked := ""
	in.Running = &Running{At: "127.0.0.1:8080", Test: func(_ context.Context, device string) (Report, error) {
		asked = device
		return Report{OK: true, Steps: []Step{{Name: StepEnrolment, OK: true}, {Name: StepAPNs, OK: true, MS: 3}}}, nil
	}}
	lines, all, fine := run(t, in, "", "phone")
	if !fine || asked != "phone" || !strings.Contains(all["state"].Found, "127.0.0.1:8080") {
		t.Errorf("fine: %v, asked for %q, %+v", fine, asked, all["state"])
	}
	if want := []string{"ok device phone: enrolment", "ok device phone: apns"}; !slices.Equal(lines[len(lines)-2:], want) || all["device phone: apns"].Took != 3*time.Millisecond {
		t.Errorf("got %v, want %v at the end", lines, want)
	}
	in.Running.Conditions = []Condition{
		{Kind: KindState, Level: LevelError, Count: 12, Reason: "dial tcp 127.0.0.1:6379: connect: connection refused", Cause: "Redis cannot be reached", Advice: doOf(t, "Redis cannot be reached")},
		{Kind: KindExchange, Name: "headquarters", Level: LevelInfo, Count: 1, Reason: "ErrorItemCorrupt", Cause: "x", Advice: "y"},
	}
	in.Running.Test = func(context.Context, string) (Report, error) {
		return Report{}, &fault.Error{Op: "test notification", Code: "not_enrolled", Scope: fault.Mailbox, Remedy: fault.Fix}
	}
	_, all, fine = run(t, in, "", "phone")
	if r := all["running: state"]; fine || r.State != Failed || r.Advice != doOf(t, "Redis cannot be reached") || !strings.Contains(r.Error, "12 mailboxes") {
		t.Errorf("fine: %v, %+v", fine, r)
	}
	if r := all["running: exchange headquarters"]; r.State != Warning || r.Advice != "y" {
		t.Errorf("%+v", r)
	}
	if r := all["device phone"]; r.State != Failed || r.Advice != doOf(t, "the device is not enrolled") {
		t.Errorf("%+v", r)
	}
	in.State = &Attempt{Took: time.Millisecond} // a Redis, which both of them reach
	_, all, fine = run(t, in, "", "")
	if r := all["running: state"]; fine || r.State != Failed || all["state"].State != OK {
		t.Errorf("fine: %v, %+v; the state itself: %+v", fine, r, all["state"])
	}
}

func TestAnAdviceIsGivenAtLengthOnce(t *testing.T) {
	s := simulate(t, "")
	in := s.installation(t)
	in.Entries[0].EWS = s.sim.EWSURL
	second := s.account
	second.Name = "listener-02"
	in.Entries[0].Accounts = append(in.Entries[0].Accounts, second)
	s.fault(t, "wrong_password", simulator.Fault{})
	_, all, _ := run(t, in, "", "")
	if r := all["exchange headquarters: account listener-02: sign_in"]; r.State != Failed || r.Advice != "As above: exchange headquarters: account listener-01: sign_in." {
		t.Errorf("%+v", r)
	}
}

func TestADeviceThatCannotBeLookedUpSaysWhy(t *testing.T) {
	s := simulate(t, "")
	in := s.installation(t)
	in.NoEnrolments = fmt.Errorf("state file: %w", subscriptions.ErrInUse)
	_, all, fine := run(t, in, "", "phone")
	if r := all["device phone: enrolment"]; fine || r.State != Failed || r.Advice != doOf(t, "a running mailbell holds the state file") {
		t.Errorf("fine: %v, %+v", fine, r)
	}
}
