package service

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
)

// An address of their own has the callbacks over its own certificate, and nothing while another instance works.
func TestTheAddressOfTheCallbacksAnswersOnlyWhileThisInstanceWorks(t *testing.T) {
	sample := httptest.NewUnstartedServer(nil)
	sample.StartTLS() // for its certificate
	key, err := x509.MarshalPKCS8PrivateKey(sample.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	defer sample.Close()
	c := &config.Config{Callbacks: config.Callbacks{Listen: "127.0.0.1:0", TLS: &config.TLS{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sample.Certificate().Raw}),
		KeyPEM:  config.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}}}
	var s callbackServer
	if err := s.open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	calendar := expiry.New(zap.NewNop())
	if err := s.certificate.use(c.Callbacks.TLS, "callbacks.tls", "callbacks", calendar); err != nil {
		t.Fatal(err)
	}
	expires := calendar.List()
	if len(expires) != 1 || expires[0].Kind != expiry.TLS || expires[0].Name != "callbacks" || !expires[0].At.Equal(sample.Certificate().NotAfter) {
		t.Errorf("it expires %v", expires)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, zap.NewNop()) }()
	client := sample.Client()
	defer client.CloseIdleConnections()
	ask := func() (status int, body string) {
		t.Helper()
		resp, err := client.Post("https://"+s.socket.Addr().String()+"/callbacks/ews/x", "text/xml", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	away := func(when string) {
		t.Helper()
		if status, _ := ask(); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d, want 503, for Exchange to post again", when, status)
		}
	}
	away("before it works")
	s.answer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	if status, body := ask(); status != http.StatusOK || body != "here" {
		t.Errorf("%d %s", status, body)
	}
	s.answer(nil)
	away("after another has taken over")
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A service that answers no callbacks gets no notification of some mailboxes, and looks well. So it ends, as it does where the API is not answered.
func TestAServiceThatHearsNoCallbacksAnyMoreEnds(t *testing.T) {
	d := newDesktop(t)
	d.edit("listen:", "public_url: https://bell.contoso.com\ncallbacks: {listen: 127.0.0.1:0}\nlisten:")
	s, err := Open(t.Context(), d.load(), d.log, "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.first
	at := s.callbacks.socket.Addr().String()
	s.callbacks.socket.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), at) || ctx.Err() != nil {
		t.Errorf("%v, want an error that names %s", err, at)
	}
	if d.logs.FilterMessage("nothing is answered any more").FilterLevelExact(zap.ErrorLevel).Len() != 1 {
		t.Errorf("the log: %q", d.said())
	}
}
