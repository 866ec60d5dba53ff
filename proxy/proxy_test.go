package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/tcptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server starts a TLS server, and returns it with the file that holds its certificate.
func server(t *testing.T, config *tls.Config) (*httptest.Server, string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+r.Header.Get("Accept-Encoding"))
	}))
	srv.TLS = config
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv, file
}

func get(t *testing.T, s Settings, to string) (string, error) {
	t.Helper()
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	return read(tr.RoundTrip(request(t, to)))
}

func TestAServerOfTheRootsIsTrustedAndNoOther(t *testing.T) {
	srv, file := server(t, nil)
	roots, err := LoadRoots(file)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := get(t, Settings{Roots: roots}, srv.URL); err != nil || body != "HTTP/1.1 " {
		t.Errorf("%q, %v: want HTTP/1.1 without compression", body, err)
	}
	_, err = get(t, Settings{}, srv.URL)
	e := Explain("GetItem", err)
	if e.Code != CodeCertificate || e.Scope != fault.Server || e.Remedy != fault.Fix || e.Op != "GetItem" {
		t.Errorf("%v", e)
	}
	for _, want := range []string{"example.com", "127.0.0.1", `issued by "O=Acme Co"`, "valid from 1970-01-01 to 2084-01-29", "unknown authority"} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("%q is not in %q", want, e.Error())
		}
	}
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t, Settings{Roots: roots}, "https://localhost:"+port)
	if e := Explain("x", err); e.Code != CodeCertificate || !strings.Contains(e.Error(), "not localhost") {
		t.Errorf("another name: %v", e)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	srv, file := server(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	roots, err := LoadRoots(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t, Settings{Roots: roots}, srv.URL)
	if e := Explain("x", err); e.Code != CodeTLS || e.Remedy != fault.Fix {
		t.Errorf("%v", e)
	}
}

func TestWhatIsWrongWithAConnectionIsNamed(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for to, want := range map[string]string{"https://" + tcptest.Quiet(t): CodeConnect, "https://" + plain.Listener.Addr().String(): CodePlain} {
		_, err := get(t, Settings{}, to)
		if e := Explain("x", err); e.Code != want || e.Scope != fault.Server {
			t.Errorf("%s: %v, want %s", to, e, want)
		}
	}
	typed := &fault.Error{Op: "sign in", Code: "not https", Scope: fault.Account, Remedy: fault.Fix}
	for want, err := range map[string]error{
		CodeTimeout: context.DeadlineExceeded, CodeNetwork: io.ErrUnexpectedEOF, "not https": &url.Error{Op: "Post", Err: typed},
		CodeName: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", Name: "mail.contoso.com", IsTimeout: true}},
	} {
		e := Explain("x", err)
		if e.Code != want || e.Remedy == 0 || e.Scope == 0 {
			t.Errorf("%v: %v, want %s", err, e, want)
		}
		if want != "not https" && !errors.Is(e, err) {
			t.Errorf("%v: the cause is lost", err)
		}
	}
}

func TestTheEnvironmentNamesNoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	if tr := (Settings{}).Transport(); tr.Proxy != nil {
		t.Error("a proxy is asked for")
	}
	nobody := via(t, "http://127.0.0.1:1")
	if _, err := get(t, Settings{Proxy: nobody}, "https://127.0.0.1:2"); Explain("x", err).Code != CodeProxy {
		t.Errorf("the configured one is not asked: %v", err)
	}
}

func TestAServerThatNeverFinishesTheHandshakeIsGivenUp(t *testing.T) {
	if handshakeTimeout > 5*time.Second || dialTimeout > 5*time.Second {
		t.Errorf("dial %v, handshake %v", dialTimeout, handshakeTimeout)
	}
	tr := Settings{}.Transport()
	tr.TLSHandshakeTimeout = 10 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.RoundTrip(req)
	if e := Explain("x", err); e.Code != CodeTimeout || e.Remedy != fault.Wait {
		t.Errorf("%v", e)
	}
}

func TestAFileOfRootsThatHoldsNoneIsRefused(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"empty.pem": nil, "text.pem": []byte("hello"), "key.pem": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "large.pem": bytes.Repeat([]byte("x"), maxRootsFile+1),
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadRoots(file); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadRoots(filepath.Join(dir, "none.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestPrintableIsOneShortLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " a  b ": "a b", "a\r\nb\x00c\x1b[0m": "a b c [0m", "Zürich\u202e": "Zürich", "\xff!": "?!", strings.Repeat("ü", 20): strings.Repeat("ü", 5) + "…",
	} {
		if got := Printable(in, 11); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
