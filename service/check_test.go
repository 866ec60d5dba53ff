package service_test

// What a check may do to an account, and what it tells of a server that refuses.

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/service"
)

// front is a server before the simulated Exchange, with a certificate of its own.
type front struct {
	*httptest.Server
	refused atomic.Int32 // sign-ins
}

// before puts a front before the Exchange of an installation. It refuses whoever signs in at a path that begins so.
func before(inst *installation, refuses ...string) *front {
	inst.t.Helper()
	to, err := url.Parse(inst.sim.EWSURL)
	if err != nil {
		inst.t.Fatal(err)
	}
	f := &front{}
	on := &httputil.ReverseProxy{Transport: inst.transport(), Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
	}}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.ContainsFunc(refuses, func(path string) bool { return strings.HasPrefix(strings.ToLower(r.URL.Path), path) }) {
			on.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") != "" {
			f.refused.Add(1)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="mail.contoso.example"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	inst.t.Cleanup(f.Close)
	ca, err := os.ReadFile(filepath.Join(filepath.Dir(inst.sim.ConfigFile), "ca.pem"))
	if err != nil {
		inst.t.Fatal(err)
	}
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	inst.write("both.pem", string(ca)+string(own))
	return f
}

// transport trusts the simulator.
func (inst *installation) transport() *http.Transport {
	t := &http.Transport{}
	t.TLSClientConfig = inst.trusting()
	inst.t.Cleanup(t.CloseIdleConnections)
	return t
}

// checks runs a check, and returns its results as "state name", and all of them.
func (inst *installation) checks(mailbox string) (lines []string, all map[string]check.Result) {
	inst.t.Helper()
	inst.load()
	all = map[string]check.Result{}
	err := service.Check(inst.t.Context(), inst.config, nil, zap.NewNop(), "test", service.Subject{Mailbox: mailbox}, func(r check.Result) {
		lines = append(lines, fmt.Sprint(r.State, " ", r.Name))
		all[r.Name] = r
	})
	if err != nil {
		inst.t.Fatal(err)
	}
	return lines, all
}

func TestACheckMakesOneRefusedSignInAnAccount(t *testing.T) {
	t.Parallel()
	for _, mailbox := range []string{"", "user0001@contoso.example"} {
		inst := install(t, "")
		f := before(inst, "/")
		inst.configure("autodiscover_url: "+inst.sim.AutodiscoverURL, "autodiscover_url: "+f.URL+"/autodiscover/autodiscover.xml")
		inst.edit("ca_file: ca.pem", "ca_file: both.pem")
		lines, all := inst.checks(mailbox)
		const signIn = "exchange simulator: account listener-01: sign_in"
		if r := all[signIn]; r.State != check.Failed || !strings.Contains(r.Advice, "password_file") {
			t.Errorf("%+v", r)
		}
		if r := all["exchange simulator: Autodiscover"]; r.State != check.Skipped || !strings.Contains(r.Advice, "one refusal is enough") && !strings.Contains(r.Advice, "As above") {
			t.Errorf("%+v", r)
		}
		if n := f.refused.Load(); n != 1 {
			t.Errorf("%q: %d refused sign-ins: %v", mailbox, n, lines)
		}
	}
}

func TestACheckTellsAnAutodiscoverThatAloneRefusesFromAWrongPassword(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	f := before(inst, "/autodiscover")
	inst.configure("autodiscover_url: "+inst.sim.AutodiscoverURL, "autodiscover_url: "+f.URL+"/autodiscover/autodiscover.xml")
	inst.edit("ca_file: ca.pem", "ca_file: both.pem")
	lines, all := inst.checks("")
	if r := all["exchange simulator: Autodiscover"]; r.State != check.Failed || !strings.Contains(r.Advice, "Set-AutodiscoverVirtualDirectory") {
		t.Errorf("%+v in %v", r, lines)
	}
	if r := all["exchange simulator: account listener-01: sign_in"]; r.State != check.OK {
		t.Errorf("%+v in %v", r, lines)
	}
	if n := f.refused.Load(); n != 1 {
		t.Errorf("%d refused sign-ins", n)
	}
}

func TestACheckTriesThePortAndWritesToTheState(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	taken := tcptest.Listen(t)
	inst.load()
	inst.configure("listen: ", "listen: ")
	inst.edit("listen: 127.0.0.1:0", "listen: "+taken.Addr().String())
	_, all := inst.checks("")
	if r := all["listen"]; r.State != check.Failed || !strings.Contains(r.Advice, "ss -ltnp") {
		t.Errorf("%+v", r)
	}
	if r := all["state"]; r.State != check.OK {
		t.Errorf("%+v", r)
	}
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	taken.Close()
	inst.edit("listen: 127.0.0.1:"+port, "listen: 127.0.0.1:0")
	if _, all = inst.checks(""); all["listen"].State != check.OK {
		t.Errorf("%+v", all["listen"])
	}
}

func TestABareInstallationIsWellWhateverSaysThatNobodyHasTheMadeUpAddress(t *testing.T) {
	t.Parallel()
	for _, personality := range []string{"", "gromox"} {
		inst := install(t, personality)
		lines, _ := inst.checks("")
		if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "failed exchange") }); i >= 0 {
			t.Errorf("%q: %v", personality, lines)
		}
	}
}

// edit replaces old in the configuration file as it is.
func (inst *installation) edit(old, replacement string) {
	inst.t.Helper()
	text, err := os.ReadFile(inst.sim.ConfigFile)
	if err != nil {
		inst.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		inst.t.Fatalf("there is no %q", old)
	}
	inst.write(filepath.Base(inst.sim.ConfigFile), strings.Replace(string(text), old, replacement, 1))
}

// trusting is TLS that trusts the simulator.
func (inst *installation) trusting() *tls.Config {
	return &tls.Config{RootCAs: inst.sim.RootCAs(), MinVersion: tls.VersionTLS12}
}

func TestACheckOfOnePartTriesNothingOfTheOthers(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.load()
	inst.config.Listen = "127.0.0.1:0" // the one in the file may have been taken meanwhile
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receiver.Close)
	inst.config.Webhooks = []config.Webhook{{Name: "mdm", URL: receiver.URL, Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}
	for part, rooms := range map[service.Part][]string{
		service.Everything:   {"apns", "clock", "configuration", "exchange", "expiry", "files", "listen", "mailbox", "state", "webhook"},
		service.OnlyExchange: {"clock", "exchange", "mailbox"},
		service.OnlyAPNs:     {"apns"},
		service.OnlyState:    {"listen", "state"},
	} {
		of := service.Subject{Only: part}
		if part == service.Everything || part == service.OnlyExchange {
			of.Mailbox = "user0001@contoso.example"
		}
		tried, steps := map[string]bool{}, map[string]bool{}
		err := service.Check(t.Context(), inst.config, nil, zap.NewNop(), "test", of, func(r check.Result) {
			first, _, _ := strings.Cut(r.Name, " ")
			tried[first], steps[r.Step] = true, true
			if r.State != check.OK {
				t.Errorf("part %d: %s %s: %s", part, r.State, r.Name, r.Error)
			}
		})
		if got := slices.Sorted(maps.Keys(tried)); err != nil || !slices.Equal(got, rooms) {
			t.Errorf("part %d tried %v, want %v; %v", part, got, rooms, err)
		}
		if part == service.OnlyExchange && !(steps[check.StepLocation] && steps[check.StepSignIn] && steps[check.StepRead]) {
			t.Errorf("the steps are %v", steps)
		}
	}
}
