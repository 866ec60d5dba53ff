package auth

// A server that is signed in to, for the tests.

import (
	"context"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// here are the hosts of the tests' servers.
var here = Hosts{Trusted: []string{"127.0.0.1"}}

// askForPassword asks for one by Basic.
func askForPassword(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

type server struct {
	*httptest.Server
	roots *x509.CertPool
}

func newServer(t testing.TB, handler http.HandlerFunc) *server {
	s := &server{Server: httptest.NewUnstartedServer(handler), roots: x509.NewCertPool()}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that were never used
	s.StartTLS()
	s.roots.AddCert(s.Certificate())
	t.Cleanup(s.Close)
	return s
}

// post asks for something by a request with a body, and returns the status and body of the answer.
func (s *server) post(t testing.TB, rt http.RoundTripper) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.postCtx(t, ctx, rt)
}

func (s *server) postCtx(t testing.TB, ctx context.Context, rt http.RoundTripper) (int, string, error) { //nolint:revive // the test comes first
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("question"))
	if err != nil {
		t.Error(err)
		return 0, "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
