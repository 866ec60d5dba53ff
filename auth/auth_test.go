package auth

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestASecretIsShownByNoWayOfWriting(t *testing.T) {
	s := Secret("hunter2")
	b := NewBasic("u", s)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "basic", b)
	asJSON, err := json.Marshal(map[string]any{"s": s, "b": b})
	if err != nil {
		t.Fatal(err)
	}
	for _, written := range []string{fmt.Sprint(s, b), fmt.Sprintf("%s %q %v %+v %#v %x %X", s, s, b, b, b, s, any(b)), string(asJSON), log.String()} {
		if strings.Contains(written, "hunter2") || strings.Contains(strings.ToLower(written), "68756e74657232") || !strings.Contains(written, "***") {
			t.Errorf("%s", written)
		}
	}
	if string(s) != "hunter2" {
		t.Error("it is lost")
	}
}

func TestCredentialsGoOverHTTPSOnly(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, ok := r.BasicAuth()
		if !ok {
			askForPassword(w)
			return
		}
		fmt.Fprint(w, u, " ", p, " ", ok)
	})
	srv := httptest.NewTLSServer(handler)
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := NewBasic(`CONTOSO\svc-bell`, "pä:ss")
	rt := c.RoundTripper(here, proxy.Settings{Roots: roots}, 8)
	defer rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != `CONTOSO\svc-bell pä:ss true` {
		t.Errorf("%s, %v", body, err)
	}
	if len(req.Header) != 0 {
		t.Errorf("the caller's request was changed: %v", req.Header)
	}

	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked over http") }))
	defer plain.Close()
	req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, plain.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = rt.RoundTrip(req)
	if e := fault.Of(err); e.Scope != fault.Mailbox || e.Remedy != fault.Fix || strings.Contains(e.Error(), "ss") && strings.Contains(e.Error(), "pä") {
		t.Errorf("%v", err)
	}
}

// Accounts share connections, and no request has the password of another. NTLM signs in the connection itself, and shares none.
func TestAccountsThatSignInEachRequestShareConnections(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		u, _, ok := r.BasicAuth()
		if !ok {
			askForPassword(w)
			return
		}
		fmt.Fprint(w, u)
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	s := proxy.Settings{Roots: roots}
	s.Shared = s.Transport()
	defer s.Shared.CloseIdleConnections()
	for range 2 {
		for _, name := range []string{"one", "two", "three"} {
			rt := NewBasic(name, "secret").RoundTripper(here, s, 8)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != name {
				t.Errorf("%s was signed in as %s, %v", name, body, err)
			}
		}
	}
	if len(from) != 1 {
		t.Errorf("%d connections", len(from))
	}
	if (NTLM{}).RoundTripper(here, s, 8).(*ntlm).transport == s.Shared {
		t.Error("NTLM shares its connections")
	}
}

func TestTheNumberOfKeptConnectionsCanBeSet(t *testing.T) {
	for n, want := range map[int]int{0: (proxy.Settings{}).Transport().MaxIdleConnsPerHost, 300: 300} {
		if got := (Basic{}).RoundTripper(here, proxy.Settings{}, n).(*basic).MaxIdleConnsPerHost; got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
		if got := (Basic{}).RoundTripper(here, proxy.Settings{Idle: 7}, n).(*basic).MaxIdleConnsPerHost; got != 7 {
			t.Errorf("%d: %d, want the 7 of the settings", n, got)
		}
		if got := cap((NTLM{}).RoundTripper(here, proxy.Settings{}, n).(*ntlm).slots); got != want {
			t.Errorf("%d with NTLM: %d, want %d", n, got, want)
		}
	}
}
