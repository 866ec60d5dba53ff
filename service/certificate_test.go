package service

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
)

// selfSigned is a certificate that is its own authority, and its key.
func selfSigned(t *testing.T, name string) (pair tls.Certificate, certificate, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	if pair, err = tls.X509KeyPair(certificate, key); err != nil {
		t.Fatal(err)
	}
	return pair, certificate, key
}

// TestAClientIsAskedForItsCertificateOnceThereAreAuthorities serves what a connection has shown, as the API gets it.
func TestAClientIsAskedForItsCertificateOnceThereAreAuthorities(t *testing.T) {
	server, serverPEM, serverKey := selfSigned(t, "mailbell.contoso.com")
	own, _, _ := selfSigned(t, "mdm.contoso.com")
	authorities := x509.NewCertPool()
	authorities.AddCert(own.Leaf)
	var c certificate
	use := func(clients *x509.CertPool) {
		t.Helper()
		if err := c.use(&config.TLS{CertPEM: serverPEM, KeyPEM: config.Secret(serverKey), ClientCAs: clients}, "tls", "api", expiry.New(zap.NewNop())); err != nil {
			t.Fatal(err)
		}
	}
	use(nil)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- api.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown := "nothing"
			if len(r.TLS.PeerCertificates) > 0 {
				shown = r.TLS.PeerCertificates[0].Subject.CommonName
			}
			fmt.Fprint(w, r.Proto, " ", shown)
		}), c.config(), zap.NewNop())
	}()
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	ask := func(shows ...tls.Certificate) string {
		t.Helper()
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "mailbell.contoso.com", Certificates: shows}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	for _, step := range []struct {
		clients *x509.CertPool
		shows   []tls.Certificate
		want    string
	}{
		{nil, []tls.Certificate{own}, "HTTP/2.0 nothing"},
		{authorities, nil, "HTTP/2.0 nothing"}, // who has a token needs none
		{authorities, []tls.Certificate{own}, "HTTP/2.0 mdm.contoso.com"},
		{nil, []tls.Certificate{own}, "HTTP/2.0 nothing"},
	} {
		use(step.clients)
		if got := ask(step.shows...); got != step.want {
			t.Errorf("%q, want %q", got, step.want)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
