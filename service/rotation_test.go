package service_test

// What is taken up without a restart, by a service that runs: mail rings before, through and after each change.

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
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
)

// configure has the configuration file listen on a free port, and replaces old in it.
func (w *world) configure(old, replacement string) {
	w.t.Helper()
	text, err := os.ReadFile(w.sim.ConfigFile)
	if err != nil {
		w.t.Fatal(err)
	}
	changed := strings.Replace(string(text), "listen: "+strings.TrimPrefix(w.sim.APIURL, "http://"), "listen: 127.0.0.1:0", 1)
	if !strings.Contains(changed, old) {
		w.t.Fatalf("there is no %q", old)
	}
	w.write(filepath.Base(w.sim.ConfigFile), strings.Replace(changed, old, replacement, 1))
}

// write writes a file beside the configuration.
func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(w.sim.ConfigFile), name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// load reads the configuration for the next start.
func (w *world) load() {
	w.t.Helper()
	var err error
	if w.config, err = config.Load(w.sim.ConfigFile); err != nil {
		w.t.Fatal(err)
	}
}

// says waits until the log says it for the nth time.
func (w *world) says(what string, n int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("the log says for the %dth time: %s", n, what), func() bool { return w.log.FilterMessage(what).Len() >= n })
}

// status is that of a call with a token.
func (w *world) status(token string) int {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+"/v1/status", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

const tookOver = "the changed credential works and has taken over"

func TestAPasswordIsChangedTimeAfterTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.start()
	w.enrol()
	w.heard()
	w.deliver()
	for n := range 3 {
		w.write("password", "a wrong one\n") // and at once, before it was tried or after, the right one
		w.service.Reload()
		password := fmt.Sprintf("the %dth", n+2)
		w.sim.SetPassword(password)
		w.write("password", password+"\n")
		w.service.Reload()
		w.fault("stream_rst", simulator.Fault{})
		w.deliver()
		w.says(tookOver, n+1)
		w.rung()
	}
	w.balance()
	for _, l := range w.log.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "a wrong one") || strings.Contains(text, "the 3th") {
			t.Errorf("a password is in the log: %s", text)
		}
	}
}

func TestAPortalsTokenIsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.start()
	for n := range 2 {
		old, renewed := w.token, fmt.Sprintf("the-renewed-token-%d", n)
		w.write(filepath.Base(w.sim.APITokenFile), renewed+"\n")
		w.service.Reload()
		w.eventually("the new token is good", func() bool { return w.status(renewed) == http.StatusOK })
		if got := w.status(old); got != http.StatusUnauthorized {
			t.Errorf("the old token is answered with %d", got)
		}
		w.token = renewed
	}
	w.write("another", "the-token-of-another")
	w.configure("clients:\n", "clients:\n  - {name: another, role: read, token_file: another}\n")
	w.service.Reload()
	w.eventually("a new client is let in", func() bool { return w.status("the-token-of-another") == http.StatusOK })
}

func TestTheProxyIsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.start()
	w.enrol()
	w.heard()
	w.deliver()
	w.rung()
	first, second := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	line := func(s *proxytest.SOCKS) string {
		return fmt.Sprintf("proxy: {url: 'socks5://%s', username: %s, password_file: proxy-password}\nlisten: ", s.Address, proxytest.Username)
	}
	w.write("proxy-password", proxytest.Password)
	through := func(s *proxytest.SOCKS) {
		t.Helper()
		w.service.Reload()
		before := len(s.Asked())
		w.eventually("the proxy is asked", func() bool {
			w.fault("stream_rst", simulator.Fault{})
			w.heard()
			return len(s.Asked()) > before
		})
		w.deliver()
		w.rung()
	}
	w.configure("listen: ", line(first))
	through(first)
	w.configure(line(first), line(second))
	through(second)
	w.balance()
}

func TestThePortalsCertificateIsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	cert, key := w.certificate("one")
	w.write("portal.pem", cert)
	w.write("portal.key", key)
	w.configure("listen: ", "tls: {cert_file: portal.pem, key_file: portal.key}\nlisten: ")
	w.load()
	w.start()
	address := strings.TrimPrefix(w.url, "http://")
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
		cert, key := w.certificate(name)
		w.write("portal.pem", cert) // which is no pair with its key
		w.service.Reload()
		w.says("the configuration was changed and has mistakes; it goes on as it was", n+1)
		if got := shown(); got == name {
			t.Error("half of a pair is taken up")
		}
		w.write("portal.key", key)
		w.service.Reload()
		w.eventually("the new certificate is shown", func() bool { return shown() == name })
	}
}

// certificate makes a certificate and its key, in PEM form.
func (w *world) certificate(name string) (cert, key string) {
	w.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		w.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestAMistakeInAFileThatChangedHarmsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.start()
	w.enrol()
	w.heard()
	w.write("password", "")
	w.write(filepath.Base(w.sim.APITokenFile), "a-token-that-is-not-taken-up")
	w.service.Reload()
	w.says("the configuration was changed and has mistakes; it goes on as it was", 1)
	w.deliver()
	w.fault("stream_rst", simulator.Fault{})
	w.deliver()
	w.rung()
	w.balance() // with the token as it was
}
