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

func TestMailRingsByEachWayIn(t *testing.T) {
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
			w := newWorldOf(t, way.options)
			w.begin()
			for range 5 {
				w.deliverTo(w.boxes...)
			}
			w.rung(atLast)
			w.restart()
			w.deliverTo(w.boxes...)
			w.balance(0)
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
			w := newWorldOf(t, simulator.Options{Mailboxes: 6, Hybrid: true})
			w.secret("proxy-password", "a wrong one")
			w.extend(fmt.Sprintf("proxy: {url: %q, username: %s, password_file: proxy-password}\n", url, proxytest.Username))
			w.start()
			w.enrolAll()
			// Nothing gets out but through the proxy, which is asked with a wrong password.
			eventually(t, soon, "the proxy is named as who refuses", func() bool {
				m := w.mailbox(w.boxes[0])
				return m.State == "failing" && strings.Contains(m.Reason, "proxy") && strings.Contains(m.Reason, strings.SplitN(url, "//", 2)[1])
			})
			if log := w.service().stderr(); strings.Contains(log, proxytest.Password) || strings.Contains(log, "a wrong one") {
				t.Error("the proxy's password is in the log")
			}
			w.secret("proxy-password", proxytest.Password)
			w.reload()
			eventually(t, atLast, "all are heard", func() bool { return len(w.mailboxes("listening")) == len(w.boxes) })
			for range 3 {
				w.deliverTo(w.boxes...)
			}
			w.balance(0)
		})
	}
}

func TestAProxyIsChangedWithoutARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	first, second := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	w.secret("proxy-password", proxytest.Password)
	line := func(s *proxytest.SOCKS) string {
		return fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\n", s.Address, proxytest.Username)
	}
	w.extend(line(first))
	w.begin()
	w.deliverTo(w.boxes...)
	w.rung(soon)
	if len(second.Asked()) > 0 {
		t.Error("the second proxy was asked before it was configured")
	}
	w.edit(line(first), line(second))
	w.reload()
	w.fault("stream_rst", simulator.Fault{})
	eventually(t, soon, "the second proxy is asked", func() bool { return len(second.Asked()) > 0 })
	w.heard()
	w.deliverTo(w.boxes...)
	w.balance(0)
}

// Mailboxes move between three Exchanges while mail arrives, each more than once, and back.
func TestNothingIsLostWhileMailboxesMoveBetweenThreeExchanges(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	w.begin()
	draw := dice(t)
	hosts := []string{simulator.OnPremises, simulator.Online, simulator.Other}
	w.underLoad(20*time.Millisecond, func() {
		for range 12 {
			b := w.boxes[draw.IntN(len(w.boxes))]
			if err := w.sim.Move(b.address, hosts[draw.IntN(len(hosts))]); err != nil {
				t.Error(err)
			}
			pass(t, time.Duration(draw.IntN(500))*time.Millisecond)
		}
	})
	w.balance(0)
	for _, b := range w.boxes {
		at, err := w.sim.Mailbox(b.address)
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Location struct{ Exchange string } }
		w.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &m)
		if m.Location.Exchange != at.Host {
			t.Errorf("%s is heard at %s and lives at %s", b.address, m.Location.Exchange, at.Host)
		}
	}
}

// The same with the service killed in between: whatever it was about, the record has where the mailbox stands.
func TestNothingIsLostWhileMailboxesMoveAndTheServiceIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	w.begin()
	draw := dice(t)
	hosts := []string{simulator.OnPremises, simulator.Online, simulator.Other}
	const kills = 4
	w.underLoad(20*time.Millisecond, func() {
		for range kills {
			for range 3 {
				b := w.boxes[draw.IntN(len(w.boxes))]
				if err := w.sim.Move(b.address, hosts[draw.IntN(len(hosts))]); err != nil {
					t.Error(err)
				}
				pass(t, time.Duration(draw.IntN(300))*time.Millisecond)
			}
			w.kill()
			w.start()
		}
	})
	w.balance(kills * 8) // a message of every device may be in flight at each kill
}

// secret writes a file beside the configuration.
func (w *world) secret(name, value string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(value+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// reload has the service look at its files.
func (w *world) reload() {
	w.t.Helper()
	if err := w.service().cmd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
}

// control calls the simulator's control API.
func (w *world) control(method, path string, body any) {
	w.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.sim.ControlURL+path, strings.NewReader(string(data)))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		w.t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

func TestAChangedClientSecretIsTakenUpWithoutARestart(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, simulator.Options{Mailboxes: 6, Hybrid: true})
	w.begin()
	w.deliverTo(w.boxes...)
	w.rung(soon)
	const renewed = "the-renewed-secret"
	// The file has it before Entra ID does: the old one goes on.
	w.secret("client-secret", renewed)
	w.reload()
	w.fault("stream_rst", simulator.Fault{})
	eventually(t, soon, "the log says that the new one is refused", func() bool {
		return strings.Contains(w.service().stderr(), "the changed credential was refused")
	})
	w.heard()
	w.deliverTo(w.boxes...)
	w.rung(soon)
	// Now Entra ID has it too, and forgets the old one with all its tokens.
	w.control(http.MethodPost, "/entra/secrets", map[string]string{"secret": renewed})
	w.control(http.MethodDelete, "/entra/secrets", map[string]string{"secret": w.sim.ClientSecret})
	w.fault("tokens_revoked", simulator.Fault{})
	w.deliverTo(w.boxes...)
	eventually(t, passing, "the log says that the new one works", func() bool {
		return strings.Contains(w.service().stderr(), "works and has taken over")
	})
	w.balance(0)
	if log := w.service().stderr(); strings.Contains(log, renewed) || strings.Contains(log, w.sim.ClientSecret) {
		t.Error("a secret is in the log")
	}
}

func TestAChangedPasswordIsTakenUpWithoutARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.begin()
	w.deliverTo(w.boxes...)
	w.rung(soon)
	w.sim.SetPassword("the renewed one")
	w.fault("stream_rst", simulator.Fault{})
	w.deliverTo(w.boxes...)
	eventually(t, soon, "the old password parks", func() bool { return len(w.mailboxes("failing")) > 0 })
	w.secret("password", "the renewed one")
	w.reload()
	w.balance(0)
}

func TestAMistakeInAChangedConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.begin()
	w.edit("listen_by:", "listen_buy:")
	w.reload()
	eventually(t, soon, "the mistake is in the log", func() bool { return strings.Contains(w.service().stderr(), "unknown key") })
	w.deliverTo(w.boxes...)
	w.balance(0)
}
