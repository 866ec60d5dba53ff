package service_test

// What is taken up without a restart, by a service that runs: mail is alerted before, through and after each change.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
)

// configure has the configuration file listen on a free port, and replaces old in it.
func (inst *installation) configure(old, replacement string) {
	inst.t.Helper()
	text, err := os.ReadFile(inst.sim.ConfigFile)
	if err != nil {
		inst.t.Fatal(err)
	}
	changed := strings.Replace(string(text), "listen: "+strings.TrimPrefix(inst.sim.APIURL, "http://"), "listen: 127.0.0.1:0", 1)
	if !strings.Contains(changed, old) {
		inst.t.Fatalf("there is no %q", old)
	}
	inst.write(filepath.Base(inst.sim.ConfigFile), strings.Replace(changed, old, replacement, 1))
}

// write writes a file beside the configuration.
func (inst *installation) write(name, text string) {
	inst.t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(inst.sim.ConfigFile), name), []byte(text), 0o600); err != nil {
		inst.t.Fatal(err)
	}
}

// load reads the configuration for the next start.
func (inst *installation) load() {
	inst.t.Helper()
	var err error
	if inst.config, err = config.Load(inst.sim.ConfigFile); err != nil {
		inst.t.Fatal(err)
	}
}

// says waits until the log says it for the nth time.
func (inst *installation) says(what string, n int) {
	inst.t.Helper()
	inst.eventually(fmt.Sprintf("the log says for the %dth time: %s", n, what), func() bool { return inst.log.FilterMessage(what).Len() >= n })
}

// status is that of a call with a token.
func (inst *installation) status(token string) int {
	inst.t.Helper()
	req, err := http.NewRequestWithContext(inst.t.Context(), http.MethodGet, inst.url+"/v1/status", nil)
	if err != nil {
		inst.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := inst.client.Do(req)
	if err != nil {
		inst.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

const tookOver = "changed credential works"

func TestAPasswordIsChangedTimeAfterTime(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.startWithDevices()
	inst.deliver()
	for n := range 3 {
		inst.write("password", "a wrong one\n") // and at once, before it was tried or after, the right one
		inst.service.Reload()
		password := fmt.Sprintf("the %dth", n+2)
		inst.sim.SetPassword(password)
		inst.write("password", password+"\n")
		inst.service.Reload()
		inst.fault("stream_rst", simulator.Fault{})
		inst.deliver()
		inst.says(tookOver, n+1)
		inst.awaitAlerts()
	}
	inst.balance()
	for _, l := range inst.log.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "a wrong one") || strings.Contains(text, "the 3th") {
			t.Errorf("a password is in the log: %s", text)
		}
	}
}

func TestAPortalsTokenIsChanged(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.start()
	for n := range 2 {
		old, renewed := inst.token, fmt.Sprintf("the-renewed-token-%d", n)
		inst.write(filepath.Base(inst.sim.APITokenFile), renewed+"\n")
		inst.service.Reload()
		inst.eventually("the new token is good", func() bool { return inst.status(renewed) == http.StatusOK })
		if got := inst.status(old); got != http.StatusUnauthorized {
			t.Errorf("the old token is answered with %d", got)
		}
		inst.token = renewed
	}
	inst.write("another", "the-token-of-another")
	inst.configure("clients:\n", "clients:\n  - {name: another, role: read, token_file: another}\n")
	inst.service.Reload()
	inst.eventually("a new client is let in", func() bool { return inst.status("the-token-of-another") == http.StatusOK })
}

func TestTheProxyIsChanged(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts()
	first, second := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	line := func(s *proxytest.SOCKS) string {
		return fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\nlisten: ", s.Address, proxytest.Username)
	}
	inst.write("proxy-password", proxytest.Password)
	through := func(s *proxytest.SOCKS) {
		t.Helper()
		inst.service.Reload()
		before := len(s.Asked())
		inst.eventually("the proxy is asked", func() bool {
			inst.fault("stream_rst", simulator.Fault{})
			inst.awaitListening()
			return len(s.Asked()) > before
		})
		inst.deliver()
		inst.awaitAlerts()
	}
	inst.configure("listen: ", line(first))
	through(first)
	inst.configure(line(first), line(second))
	through(second)
	inst.balance()
}

func TestAProxyThatLeadsNowhereIsNotTakenUp(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.write("proxy-password", proxytest.Password)
	line := func(address, username string) string {
		return fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\nlisten: ", address, username)
	}
	first, second, forbidding := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	forbidding.Refuse(proxytest.NotAllowed)
	good := line(first.Address, proxytest.Username)
	inst.configure("listen: ", good)
	inst.load()
	inst.config.Listen = "127.0.0.1:0"
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts()
	present := good
	for n, bad := range []string{line(tcptest.Quiet(t), proxytest.Username), line(second.Address, "nobody"), line(forbidding.Address, proxytest.Username)} {
		inst.configure(present, bad)
		present = bad
		before := len(first.Asked())
		inst.service.Reload()
		inst.says("changed proxy refused, old one stays in use", n+1)
		inst.eventually("the status says so", func() bool {
			return slices.ContainsFunc(inst.overview().Conditions, func(c check.Condition) bool {
				return c.Kind == check.KindConfiguration && strings.Contains(c.Reason, "proxy") && c.Advice != ""
			})
		})
		inst.fault("stream_rst", simulator.Fault{}) // its connections are made anew
		inst.eventually("the old proxy is asked", func() bool { return len(first.Asked()) > before })
		inst.awaitListening()
		inst.deliver()
		inst.awaitAlerts()
	}
	forbidding.Refuse(0) // nothing is written: it is tried again by itself
	inst.service.Reload()
	inst.says("changed proxy is in use", 1)
	inst.configure(present, "listen: ")
	inst.service.Reload()
	inst.says("changed proxy is in use", 2)
	inst.fault("stream_rst", simulator.Fault{})
	inst.awaitListening()
	inst.deliver()
	inst.awaitAlerts()
	inst.balance()
}

func TestThePortalsCertificateIsChanged(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	cert, key := inst.certificate("one")
	inst.write("portal.pem", cert)
	inst.write("portal.key", key)
	inst.configure("listen: ", "tls: {cert_file: portal.pem, key_file: portal.key}\nlisten: ")
	inst.load()
	inst.start()
	address := strings.TrimPrefix(inst.url, "http://")
	shown := func() string {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		c, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "one" {
		t.Fatal(got)
	}
	for n, name := range []string{"two", "three"} {
		cert, key := inst.certificate(name)
		inst.write("portal.pem", cert) // which does not match its key
		inst.service.Reload()
		inst.says("changed configuration has mistakes, old one stays in use", n+1)
		if got := shown(); got == name {
			t.Error("half of a pair is taken up")
		}
		inst.write("portal.key", key)
		inst.service.Reload()
		inst.eventually("the new certificate is shown", func() bool { return shown() == name })
	}
}

// certificate makes a certificate and its key, in PEM form.
func (inst *installation) certificate(name string) (cert, key string) {
	inst.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		inst.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		inst.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		inst.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestAMistakeInAFileThatChangedHarmsNothing(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	inst.startWithDevices()
	inst.write("password", "")
	inst.write(filepath.Base(inst.sim.APITokenFile), "a-token-that-is-not-taken-up")
	inst.service.Reload()
	inst.says("changed configuration has mistakes, old one stays in use", 1)
	inst.deliver()
	inst.fault("stream_rst", simulator.Fault{})
	inst.deliver()
	inst.awaitAlerts()
	inst.balance() // with the token as it was
}
