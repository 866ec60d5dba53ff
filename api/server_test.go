package api

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"
)

// serve runs Serve on a loopback port; the first channel ends it, the second has what it returned.
func serve(t *testing.T, h http.Handler, c *tls.Config) (address string, stop context.CancelFunc, done <-chan error) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- Serve(ctx, l, h, c, zap.NewNop()) }()
	return l.Addr().String(), stop, result
}

func TestAStopLetsTheRequestUnderWayFinish(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	address, stop, done := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "finished")
	}), nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	body := make(chan string, 1)
	go func() {
		a, err := client.Get("http://" + address)
		if err != nil {
			body <- err.Error()
			return
		}
		defer a.Body.Close()
		all, _ := io.ReadAll(a.Body)
		body <- string(all)
	}()
	<-begun
	stop()
	// Once nobody is let in any more, the stop has begun.
	for {
		c, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(finish)
	if got := <-body; got != "finished" {
		t.Errorf("the request under way ended with: %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTLSIsServedWithItsCertificate(t *testing.T) {
	other := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer other.Close()
	address, stop, done := serve(t, newBackend(t).handler, &tls.Config{Certificates: other.TLS.Certificates})
	client := other.Client()
	a, err := client.Get("https://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	is(t, a, http.StatusOK, "")
	_ = a.Body.Close()
	client.CloseIdleConnections()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAListenerThatFailsIsAnError(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), nil, zap.NewNop()); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}
