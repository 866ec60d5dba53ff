package main_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

// A good installation, with and without a service that runs: everything is well, it is said where a mailbox is, and the phone
// rings.
func TestCheckOfAGoodInstallation(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3, Hybrid: true})
	inst.start()
	token := inst.enrol(inst.boxes[1], "phone")
	inst.awaitListening()
	everything := []string{"--mailbox", second, "--device", "phone"}
	for _, c := range []struct {
		name  string
		run   func()
		state string
	}{
		{"while the service runs", func() {}, "it is held by the mailbell that runs at " + strings.TrimPrefix(inst.url, "http://")},
		{"while it does not", inst.stop, ""},
	} {
		c.run()
		before := len(alertsOf(inst.sim, token))
		code, results, said := inst.check(everything...)
		if code != 0 {
			t.Fatalf("%s: exit code %d:\n%s", c.name, code, said)
		}
		named := func(name string) result {
			i := slices.IndexFunc(results, func(r result) bool { return r.name == name })
			if i < 0 {
				t.Fatalf("%s: no %q in\n%s", c.name, name, said)
			}
			return results[i]
		}
		if r := named("mailbox " + second + ": location"); !strings.Contains(r.found, "it is in the exchange entry online, at "+inst.sim.OnlineURL+", by Autodiscover") {
			t.Errorf("%s: it does not say where it is: %+v", c.name, r)
		}
		if r := named("state"); r.state != "ok" || r.found != c.state {
			t.Errorf("%s: want %q: %+v", c.name, c.state, r)
		}
		for _, name := range []string{"exchange online: account online-01: read", "exchange online: account online-01: stream", "exchange other: account other-01: sign_in", "exchange onpremises: account listener-01: sign_in", "device phone: apns"} {
			if r := named(name); r.state != "ok" || r.took == "" {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
		if results[len(results)-1].name != "device phone: apns" {
			t.Errorf("%s: the phone is not last:\n%s", c.name, said)
		}
		if n := len(alertsOf(inst.sim, token)); n != before+1 {
			t.Errorf("%s: %d alerts, want one", c.name, n-before)
		}
	}
}

// The service says no to what it is asked for: that is told with what to do, and the rest is tried.
func TestCheckTellsWhyTheServiceSendsNoAlert(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.startWithDevices()
	inst.enrol(inst.boxes[0], "phone")
	for _, c := range []struct{ device, says, advice string }{
		{"phone", "", ""},
		{"phone", "once in ten seconds", "Try again"},
		{"nobodys", "not_enrolled", "PUT /v1/devices/{id}"},
		{"nobody's", "device: want 1 to 128 characters", ""},
	} {
		code, results, said := inst.check("--device", c.device)
		last := results[len(results)-1]
		if (code == 0) != (c.says == "") || !strings.HasPrefix(last.name, "device "+c.device) || !strings.Contains(last.cameBack, c.says) || !strings.Contains(last.do, c.advice) {
			t.Errorf("exit code %d; want %q and %q at the end of\n%s", code, c.says, c.advice, said)
		}
	}
}

func TestThePlanNamesWhatIsConfigured(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3, Hybrid: true})
	p := launch(t, "check", "--config", inst.config, "--plan", "4000")
	if code := p.wait(refusal); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.stderr())
	}
	out := p.stdout()
	for _, want := range []string{
		"4000 mailboxes", "accounts   4, of 1250 mailboxes each; the configuration has 1: add 3", "streams    at least 20", "about 86 MiB",
		"exchange onpremises (on premises)", "exchange online (Exchange Online)", "exchange other (on premises)",
		`-Role 'ApplicationImpersonation' -User 'CONTOSO\svc-bell' -CustomRecipientWriteScope 'mailbell onpremises'`,
		`-User 'svc-bell@contoso.example' -CustomRecipientWriteScope 'mailbell other'`,
		"$app = '" + inst.sim.ClientID + "'", "-Role 'Application EWS.AccessAsApp' -CustomResourceScope 'mailbell online'", "-EwsAllowedAppIDs",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	inst.noSecret(out)
}

func TestAWrongCommandLineOfCheckAndWhyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.edit("listen_by:", "listen_buy:") // the command line is what is told of, and not the configuration
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"check", "--plan", "0"}, "want 1 to 1000000 mailboxes"},
		{[]string{"check", "--plan", "many"}, "invalid value"},
		{[]string{"check", "--plan", "10", "--mailbox", first}, "-plan only prints: leave out -mailbox, -device and -beyond"},
		{[]string{"check", "--mailbox", "ann"}, "not a mail address"},
		{[]string{"check", "--mailbox", ""}, "not a mail address"},
		{[]string{"check", "--device", ""}, "-device is empty"},
		{[]string{"check", first}, "is not an option"},
		{[]string{"why"}, "want the address of a mailbox, or the id of a device"},
		{[]string{"why", ""}, "is empty"},
		{[]string{"why", first, second}, "want the address of a mailbox, or the id of a device"},
	} {
		if said := refused(t, misused, refusal, append(c.args, "--config", inst.config)...); !strings.Contains(said, c.says) {
			t.Errorf("%v: want %q in %s", c.args, c.says, said)
		}
	}
}

func TestWhyTellsOfAMailboxAndOfADevice(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3, Hybrid: true})
	if said := refused(t, failed, refusal, "why", "--config", inst.config, second); !strings.Contains(said, "does not answer: is it running, and with this configuration?") {
		t.Errorf("the service is down: %s", said)
	}
	inst.start()
	b := inst.boxes[1]
	inst.enrol(b, "phone")
	inst.awaitListening()
	ask := func(subject string) string {
		t.Helper()
		p := launch(t, "why", "--config", inst.config, subject)
		if code := p.wait(refusal); code != 0 {
			t.Errorf("why %s: exit code %d: %s", subject, code, p.stderr())
		}
		return p.stdout()
	}
	has := func(out string, forms ...string) {
		t.Helper()
		for _, form := range forms {
			if !regexp.MustCompile("(?m)^" + form + "$").MatchString(out) {
				t.Errorf("no line %q in\n%s", form, out)
			}
		}
	}
	out := ask(second)
	has(out, "mailbox "+second+": listening", "  located at +"+inst.sim.OnlineURL, "  exchange entry +online", "  found by +Autodiscover .*, [0-9]+s ago", "  group +SIM.*",
		"  server +sim.*", "  listener account +online-01", "  subscribed +[0-9]+s ago", "  last heartbeat +[0-9]+s ago", "devices:", "  phone +listening", "no outcome is kept: no new message was seen")
	inst.deliverTo(b)
	inst.awaitAlerts(soon)
	inst.awaitRest()
	const header, accepted = "  DECIDED +MESSAGE +DEVICE +OUTCOME +REASON +APNS +SHOWN +APNS-ID +CORRELATION-ID", `  [0-9]+s ago +\S+ +phone +accepted +200 +\S+ +[0-9a-f]{8}`
	has(ask(second), "outcomes, the newest first:", header, accepted)
	out = ask("phone")
	has(out, "device phone: listening", "mailbox "+second+": listening", "  last message +[0-9]+s ago", header, accepted)
	if strings.Contains(out, "Travel desk") || strings.Contains(out, "fabrikam") || strings.Contains(out, "Ticket") {
		t.Errorf("it tells of the content:\n%s", out)
	}
	inst.enrol(b, "tablet") // after the message
	inst.awaitRest()
	has(ask("tablet"), "device tablet: listening", "no outcome for this device among the newest of its mailbox")
	for _, unknown := range []string{"nobodys-phone", nobody} {
		if said := refused(t, failed, refusal, "why", "--config", inst.config, unknown); !strings.Contains(said, unknown+", or for a mailbox with this address, so no alert can be sent") {
			t.Errorf("%s: %s", unknown, said)
		}
	}
}
