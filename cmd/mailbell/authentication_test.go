package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
)

func TestMailIsAlertedByEachAuthentication(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name    string
		options simulator.Options
	}{
		{"NTLM with Extended Protection", simulator.Options{Auth: []string{simulator.AuthNTLM}, ExtendedProtection: true}},
		{"Exchange 2010", simulator.Options{Personality: simulator.Exchange2010}},
		{"three Exchanges in one domain", simulator.Options{Hybrid: true}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			way.options.Mailboxes = 6
			inst := install(t, way.options)
			inst.startWithDevices()
			for range 5 {
				inst.deliverTo(inst.boxes...)
			}
			inst.awaitAlerts(atLast)
			inst.restart()
			inst.deliverTo(inst.boxes...)
			inst.balance(0)
		})
	}
}

func TestEverythingGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		name  string
		start func(t *testing.T) (url string)
	}{
		{"squid", func(t *testing.T) string { return "http://" + proxytest.Squid(t) }},
		{"tinyproxy", func(t *testing.T) string { return "http://" + proxytest.Tinyproxy(t) }},
		{"SOCKS5", func(t *testing.T) string { return "socks5://" + proxytest.StartSOCKS(t).Address }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			url := kind.start(t)
			inst := install(t, simulator.Options{Mailboxes: 6, Hybrid: true})
			inst.secret("proxy-password", "a wrong one")
			inst.extend(fmt.Sprintf("proxy: {url: %q, username: %s, password_file: proxy-password}\n", url, proxytest.Username))
			inst.start()
			inst.enrolAll()
			// Nothing gets out but through the proxy, which is asked with a wrong password.
			eventually(t, soon, "the proxy is named as who refuses", func() bool {
				m := inst.mailbox(inst.boxes[0])
				return m.State == "failing" && strings.Contains(m.Reason, "proxy") && strings.Contains(m.Reason, strings.SplitN(url, "//", 2)[1])
			})
			if log := inst.service().stderr(); strings.Contains(log, proxytest.Password) || strings.Contains(log, "a wrong one") {
				t.Error("the proxy's password is in the log")
			}
			inst.secret("proxy-password", proxytest.Password)
			inst.reload()
			eventually(t, atLast, "all are listened to", func() bool { return len(inst.mailboxes("listening")) == len(inst.boxes) })
			for range 3 {
				inst.deliverTo(inst.boxes...)
			}
			inst.balance(0)
		})
	}
}

func TestAProxyIsChangedWithoutARestart(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3})
	first, second := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	inst.secret("proxy-password", proxytest.Password)
	line := func(s *proxytest.SOCKS) string {
		return fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\n", s.Address, proxytest.Username)
	}
	inst.extend(line(first))
	inst.startWithDevices()
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	if len(second.Asked()) > 0 {
		t.Error("the second proxy was asked before it was configured")
	}
	inst.edit(line(first), line(second))
	inst.reload()
	inst.fault("stream_rst", simulator.Fault{})
	eventually(t, soon, "the second proxy is asked", func() bool { return len(second.Asked()) > 0 })
	inst.awaitListening()
	inst.deliverTo(inst.boxes...)
	inst.balance(0)
}

// Mailboxes move between three Exchanges while mail arrives, each more than once, and back.
func TestNothingIsLostWhileMailboxesMoveBetweenThreeExchanges(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	inst.startWithDevices()
	draw := dice(t)
	hosts := []string{simulator.OnPremises, simulator.Online, simulator.Other}
	inst.underLoad(20*time.Millisecond, func() {
		for range 12 {
			b := inst.boxes[draw.IntN(len(inst.boxes))]
			if err := inst.sim.Move(b.address, hosts[draw.IntN(len(hosts))]); err != nil {
				t.Error(err)
			}
			pass(t, time.Duration(draw.IntN(500))*time.Millisecond)
		}
	})
	inst.balance(0)
	for _, b := range inst.boxes {
		at, err := inst.sim.Mailbox(b.address)
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Location struct{ Exchange string } }
		inst.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &m)
		if m.Location.Exchange != at.Host {
			t.Errorf("%s is listened to at %s and is at %s", b.address, m.Location.Exchange, at.Host)
		}
	}
}

// The same with the service killed in between: whatever it was about, the record has where the mailbox stands.
func TestNothingIsLostWhileMailboxesMoveAndTheServiceIsKilled(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	inst.startWithDevices()
	draw := dice(t)
	hosts := []string{simulator.OnPremises, simulator.Online, simulator.Other}
	const kills = 4
	inst.underLoad(20*time.Millisecond, func() {
		for range kills {
			for range 3 {
				b := inst.boxes[draw.IntN(len(inst.boxes))]
				if err := inst.sim.Move(b.address, hosts[draw.IntN(len(hosts))]); err != nil {
					t.Error(err)
				}
				pass(t, time.Duration(draw.IntN(300))*time.Millisecond)
			}
			inst.kill()
			inst.start()
		}
	})
	inst.balance(kills * 8) // a message of every device may be in flight at each kill
}

// secret writes a file beside the configuration.
func (inst *installation) secret(name, value string) {
	inst.t.Helper()
	if err := os.WriteFile(filepath.Join(inst.dir, name), []byte(value+"\n"), 0o600); err != nil {
		inst.t.Fatal(err)
	}
}

// reload has the service look at its files.
func (inst *installation) reload() {
	inst.t.Helper()
	if err := inst.service().cmd.Process.Signal(syscall.SIGHUP); err != nil {
		inst.t.Fatal(err)
	}
}

// control calls the simulator's control API.
func (inst *installation) control(method, path string, body any) {
	inst.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		inst.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(inst.t.Context(), method, inst.sim.ControlURL+path, strings.NewReader(string(data)))
	if err != nil {
		inst.t.Fatal(err)
	}
	resp, err := inst.client.Do(req)
	if err != nil {
		inst.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		inst.t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// The old secret serves while the new one is refused. That a refused one is tried again after a minute is a test of package auth; here a
// third takes over at once.
func TestAChangedClientSecretIsTakenUpWithoutARestart(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	inst.startWithDevices()
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	const unknown, renewed = "the-unknown-secret", "the-renewed-secret"
	inst.secret("client-secret", unknown)
	inst.reload()
	inst.fault("stream_rst", simulator.Fault{})
	eventually(t, soon, "the log says that the new one is refused", func() bool {
		return strings.Contains(inst.service().stderr(), "changed credential refused, old one stays in use")
	})
	if said := inst.changesNotTakenUp(); !strings.HasPrefix(said, "online/online-01: the client secret is wrong") {
		t.Errorf("the status says of the refused one: %q", said)
	}
	inst.awaitListening()
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)

	inst.control(http.MethodPost, "/entra/secrets", map[string]string{"secret": renewed})
	inst.control(http.MethodDelete, "/entra/secrets", map[string]string{"secret": inst.sim.ClientSecret})
	inst.fault("tokens_revoked", simulator.Fault{})
	inst.secret("client-secret", renewed)
	inst.reload()
	inst.deliverTo(inst.boxes...)
	eventually(t, soon, "the log says that the new one works", func() bool {
		return strings.Contains(inst.service().stderr(), "changed credential works")
	})
	if said := inst.changesNotTakenUp(); said != "" {
		t.Errorf("the status still says %q", said)
	}
	inst.balance(0)
	for _, secret := range []string{unknown, renewed, inst.sim.ClientSecret} {
		if strings.Contains(inst.service().stderr(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

// changesNotTakenUp is what GET /v1/status says of changes that are refused.
func (inst *installation) changesNotTakenUp() (said string) {
	inst.t.Helper()
	var status struct {
		Conditions []struct{ Kind, Name, Cause string }
	}
	inst.call(http.MethodGet, "/v1/status", nil, &status)
	for _, c := range status.Conditions {
		if c.Kind == "configuration" {
			said += c.Name + ": " + c.Cause + "\n"
		}
	}
	return said
}

func TestAChangedPasswordIsTakenUpWithoutARestart(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	inst.sim.SetPassword("the renewed one")
	inst.fault("stream_rst", simulator.Fault{})
	inst.deliverTo(inst.boxes...)
	eventually(t, soon, "the old password parks", func() bool { return len(inst.mailboxes("failing")) > 0 })
	inst.secret("password", "the renewed one")
	inst.reload()
	inst.balance(0)
}

func TestAMistakeInAChangedConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	inst.edit("listen_by:", "listen_buy:")
	inst.reload()
	eventually(t, soon, "the mistake is in the log", func() bool { return strings.Contains(inst.service().stderr(), "unknown key") })
	inst.deliverTo(inst.boxes...)
	inst.balance(0)
}
