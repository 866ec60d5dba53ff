package check

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/simulator"
	"github.com/mailbell/mailbell/subscriptions"
)

const ann = "ann@contoso.example"

// simulated is what the checks go through: clients and an account of a simulator, and a device.
type simulated struct {
	sim     *simulator.Server
	out     proxy.Settings
	client  calls
	finder  *autodiscover.Client
	sender  *push.Sender
	account Account
	devices map[string]subscriptions.Device
}

// calls is the calls of a check, by EWS.
type calls struct{ *ews.Client }

func target(at mail.Location) ews.Target { return ews.Target{URL: at.URL, Mailbox: at.Primary} }

func (x calls) Look(ctx context.Context, at mail.Location) error {
	_, err := x.GetFolder(ctx, target(at))
	return err
}

func (x calls) Subscribe(ctx context.Context, at mail.Location, _ *Affinity) (string, error) {
	id, _, err := x.Client.Subscribe(ctx, target(at))
	return id, err
}

func (x calls) Unsubscribe(ctx context.Context, at mail.Location, _ Affinity, id string) error {
	return x.Client.Unsubscribe(ctx, target(at), id)
}

func (x calls) Stream(ctx context.Context, at mail.Location, _ Affinity, ids []string) error {
	s, err := x.GetStreamingEvents(ctx, target(at), ids, time.Minute)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Next()
	return err
}

func (x calls) Newest(ctx context.Context, at mail.Location) (string, error) {
	l, err := x.FindItem(ctx, target(at), 0, 1)
	if err != nil || len(l.Messages) == 0 {
		return "", err
	}
	return l.Messages[0].ItemID, nil
}

func (x calls) Read(ctx context.Context, at mail.Location, item string) error {
	items, _, err := x.GetItem(ctx, target(at), []string{item})
	if err != nil {
		return err
	}
	return items[0].Err
}

// Device implements Enrolments.
func (s *simulated) Device(id string) (subscriptions.Device, bool) {
	d, ok := s.devices[id]
	return d, ok
}

func simulate(t *testing.T, password string) *simulated {
	t.Helper()
	sim, err := simulator.Start(context.Background(), simulator.Options{Addresses: []string{ann}})
	if err != nil {
		t.Fatal(err)
	}
	if password == "" {
		password = sim.Password
	}
	s := &simulated{sim: sim, out: proxy.Settings{Roots: sim.RootCAs()}}
	signIn := auth.Basic{Username: sim.Username, Password: auth.Secret(password)}
	hosts := auth.Hosts{URLs: []string{sim.EWSURL, sim.AutodiscoverURL}}
	signed, plain := signIn.RoundTripper(hosts, s.out, 0), s.out.Transport()
	s.client = calls{ews.New(ews.Options{HTTP: signed, UserAgent: "mailbell/test"})}
	s.finder = autodiscover.New(autodiscover.Options{HTTP: signed, Plain: plain, URL: sim.AutodiscoverURL, Hosts: hosts, Entry: "headquarters", UserAgent: "mailbell/test"})
	s.account = Account{Name: "listener-01", Method: credential.Basic, Credential: signIn, Exchange: s.client, Finder: s.finder}
	s.sender, err = push.New(push.Options{Send: true, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Topics: []push.Topic{{Topic: sim.Topic, Environment: "production",
		URL: sim.APNsURL, Key: push.Key{P8: sim.APNsKeyPEM, ID: sim.KeyID, Team: sim.TeamID}, Outbound: s.out}}})
	if err != nil {
		t.Fatal(err)
	}
	s.devices = map[string]subscriptions.Device{"phone": {ID: "phone", Mailbox: ann, Token: strings.Repeat("ab", 32), Topic: sim.Topic, Environment: "production"}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.sender.Close(ctx)
		signed.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		plain.CloseIdleConnections()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// way knows where the mailbox is, as a listener does that listens to it.
func (s *simulated) way() Way {
	return Way{Enrolments: s, Push: s.sender, Locate: func(context.Context, string, string) (Route, error) {
		return Route{Account: s.account, Location: mail.Location{Entry: "headquarters", URL: s.sim.EWSURL, Primary: ann}}, nil
	}}
}

// looking asks Autodiscover, as a check does.
func (s *simulated) looking() Way {
	way := s.way()
	way.Locate = func(ctx context.Context, address, _ string) (Route, error) {
		p, err := s.finder.Find(ctx, address)
		return Route{Account: s.account, Location: p}, err
	}
	return way
}

func (s *simulated) fault(t *testing.T, name string, f simulator.Fault) {
	t.Helper()
	if err := s.sim.SetFault(name, f); err != nil {
		t.Fatal(err)
	}
}

// names are the steps of a report, those that failed with an exclamation mark.
func names(r Report) (list []string) {
	for _, s := range r.Steps {
		if !s.OK {
			s.Name += "!"
		}
		list = append(list, s.Name)
	}
	return list
}

// byStream are the steps of an entry that listens by streams.
func byStream() []string {
	return slices.DeleteFunc(Steps(), func(s string) bool { return s == StepCallback })
}

func TestTheWholeWayEndsInATestAlertAndMovesNothing(t *testing.T) {
	s := simulate(t, "")
	if _, err := s.sim.Deliver(ann, time.Time{}, []byte("From: bob@contoso.example\r\nSubject: secret plan\r\n\r\nHi.\r\n")); err != nil {
		t.Fatal(err)
	}
	for _, way := range []Way{s.way(), s.looking()} {
		r := way.Walk(t.Context(), "phone")
		if diff := cmp.Diff(byStream(), names(r)); diff != "" || !r.OK {
			t.Fatalf("%+v (-want +got):\n%s", r, diff)
		}
	}
	alerts := s.sim.Alerts(0)
	if len(alerts) != 2 || alerts[0].Status != 200 {
		t.Fatalf("got %+v", alerts)
	}
	const want = `{"aps":{"alert":{"loc-key":"MAILBELL_TEST"},"sound":"default","category":"MAIL","mutable-content":1},"mailbell":{"v":1,"k":"test","d":"phone"}}`
	if got := string(alerts[0].Payload); got != want {
		t.Errorf("the phone gets\n%s, want\n%s", got, want)
	}
	if alive, _ := s.sim.Subscriptions(ann); alive != 0 {
		t.Errorf("%d subscriptions are left over", alive)
	}
}

func TestTheWayEndsAtTheFirstStepThatFails(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		set         simulator.Fault
		last        string // the step that fails
		says        string // the error
		named       string // the breakage whose remedy is advised
	}{
		{"a wrong password", "wrong_password", simulator.Fault{}, StepSignIn, "HTTP 401", "the user name or password is wrong"},
		{"no right to impersonate", "impersonation_refused", simulator.Fault{}, StepImpersonation, "ErrorImpersonateUserDenied", "the account may not impersonate the mailbox"},
		{"a mailbox that is unknown", "mailbox_unknown", simulator.Fault{}, StepImpersonation, "ErrorNonExistentMailbox", "the mailbox is unknown there"},
		{"EWS blocked", "exchange_answer", simulator.Fault{Status: 403}, StepSignIn, "HTTP 403", "EWS is blocked for the account or the mailbox"},
		{"no EWS there", "exchange_answer", simulator.Fault{Status: 404}, StepSignIn, "HTTP 404", "there is no EWS at this URL"},
		{"throttled", "server_busy", simulator.Fault{}, StepImpersonation, "ErrorServerBusy", "the server throttles"},
		{"a move", "mailbox_move", simulator.Fault{}, StepImpersonation, "ErrorMailboxMoveInProgress", "the mailbox is being moved, or its database is offline"},
		{"EWSMaxSubscriptions 0", "subscriptions_none", simulator.Fault{}, StepSubscription, "ErrorExceededSubscriptionCount", "subscriptions are forbidden, or used up"},
		{"a wrong APNs key", "apns_answer", simulator.Fault{Reason: "InvalidProviderToken"}, StepAPNs, "InvalidProviderToken", "the APNs key is wrong"},
		{"a sandbox key at production", "apns_answer", simulator.Fault{Status: 403, Reason: "BadEnvironmentKeyInToken"}, StepAPNs, "BadEnvironmentKeyInToken", "the APNs key or certificate is for the other environment"},
		{"a sandbox token at production", "apns_answer", simulator.Fault{Reason: "BadDeviceToken"}, StepAPNs, "BadDeviceToken", "the device token is not of this environment"},
		{"an app that was removed", "apns_answer", simulator.Fault{Reason: "Unregistered"}, StepAPNs, "Unregistered", "the app was removed from the device, or has a new token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, "")
			s.fault(t, c.fault, c.set)
			r := s.way().Walk(t.Context(), "phone")
			var want []string
			for _, s := range byStream() {
				if want = append(want, s); s == c.last {
					break
				}
			}
			want[len(want)-1] += "!"
			if diff := cmp.Diff(want, names(r)); diff != "" || r.OK {
				t.Fatalf("%+v (-want +got):\n%s", r, diff)
			}
			last := r.Steps[len(r.Steps)-1]
			if !strings.Contains(last.Error, c.says) || last.Advice != doOf(t, c.named) {
				t.Errorf("it says %q and advises %q", last.Error, last.Advice)
			}
			if alerts := s.sim.Alerts(0); c.last != StepAPNs && len(alerts) != 0 {
				t.Errorf("the phone rang: %+v", alerts)
			}
		})
	}
}

// doOf is the remedy of a breakage.
func doOf(t *testing.T, name string) string {
	t.Helper()
	for _, b := range Breakages() {
		if b.Name == name {
			return b.Do
		}
	}
	t.Fatalf("there is no breakage %q", name)
	return ""
}

func TestAWayThatCannotBeginOrLeadsNowhereSaysSo(t *testing.T) {
	s := simulate(t, "not the password")
	r := s.way().Walk(t.Context(), "nobody")
	if diff := cmp.Diff([]string{"enrolment!"}, names(r)); diff != "" || !strings.Contains(r.Steps[0].Error, "not_enrolled") || r.Steps[0].Advice != doOf(t, "the device is not enrolled") {
		t.Errorf("%+v\n%s", r, diff)
	}
	r = s.looking().Walk(t.Context(), "phone") // Autodiscover wants the password first
	if diff := cmp.Diff([]string{"enrolment", "location!"}, names(r)); diff != "" || r.Steps[1].Advice != doOf(t, "Autodiscover does not accept the user name or password") {
		t.Errorf("%+v\n%s", r, diff)
	}
	way := s.way()
	way.Locate = func(ctx context.Context, _, _ string) (Route, error) { return Route{}, ctx.Err() }
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r := way.Walk(ended, "phone"); r.OK || len(r.Steps) != 1 || !strings.Contains(r.Steps[0].Error, "canceled") {
		t.Errorf("for somebody who has hung up: %+v", r)
	}
}

func TestAMessageThatCannotBeReadSaysNothingAgainstTheWay(t *testing.T) {
	s := simulate(t, "")
	if _, err := s.sim.Deliver(ann, time.Time{}, []byte("Subject: hi\r\n\r\nHi.\r\n")); err != nil {
		t.Fatal(err)
	}
	s.fault(t, "item_unreadable", simulator.Fault{})
	if r := s.way().Walk(t.Context(), "phone"); !r.OK {
		t.Errorf("%+v", r)
	}
}

// refusing is a credential without a token.
type refusing struct {
	auth.Basic
	err error
}

func (r refusing) Prepare(context.Context) error { return r.err }

func TestWithoutATokenNobodySignsIn(t *testing.T) {
	s := simulate(t, "")
	s.account.Credential = refusing{err: &fault.Error{Op: "token", Code: "AADSTS7000222", Scope: fault.Account, Remedy: fault.Fix}}
	r := s.way().Walk(t.Context(), "phone")
	if diff := cmp.Diff([]string{"enrolment", "location", "credential!"}, names(r)); diff != "" || r.Steps[2].Advice != doOf(t, "the client secret has expired") {
		t.Errorf("%+v\n%s", r, diff)
	}
}

func host(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestWhereNoCallbackCanBeWaitedForTheWayGoesOn(t *testing.T) {
	s := simulate(t, "")
	s.account.NoCallbacks = "public_url is not set."
	r := s.way().Walk(t.Context(), "phone")
	i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Name == StepCallback })
	if !r.OK || i < 0 || !r.Steps[i].OK || r.Steps[i].Error != "" || r.Steps[i].Advice != s.account.NoCallbacks || r.Steps[len(r.Steps)-1].Name != StepAPNs {
		t.Errorf("%+v", r)
	}
}
