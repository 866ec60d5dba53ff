package h2

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"golang.org/x/net/http2"
)

// echo is a request to a real server, which answers with what it was sent.
type echo struct {
	asked
	done chan Ending
}

func newEcho(address string, n int) *echo {
	e := &echo{done: make(chan Ending, 1)}
	e.payload = fmt.Appendf(nil, `{"n":%d}`, n)
	e.fields = ask("").fields
	e.fields[2].Value = address
	e.fields[3].Value = "/echo"
	e.fields = append(e.fields[:4:4], field("content-length", strconv.Itoa(len(e.payload))), field("content-type", "application/json"),
		field("user-agent", "mailbell"))
	return e
}

func (e *echo) End(ending Ending) { e.done <- ending }

// What is right by our own reading of the RFC is right by that of others, too: of net/http, nghttp2, nginx and python-h2.
func TestRealServersUnderstandAndAreUnderstood(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	key, cert := keyFiles(t, srv.TLS.Certificates[0])
	nghttpd := func(options ...string) func(*testing.T, string) *exec.Cmd {
		return func(t *testing.T, port string) *exec.Cmd {
			args := append([]string{"--echo-upload", "-a", "127.0.0.1"}, options...)
			return exec.CommandContext(t.Context(), find(t, "nghttpd"), append(args, port, key, cert)...)
		}
	}
	for name, start := range map[string]func(t *testing.T, port string) *exec.Cmd{
		"net/http":                       nil,
		"nghttpd":                        nghttpd(),
		"nghttpd, frames padded":         nghttpd("-b", "255"),
		"nghttpd, one stream at a time":  nghttpd("-m", "1"),
		"nghttpd, no header compression": nghttpd("-c", "0", "--encoder-header-table-size", "0"),
		"nghttpd, small windows":         nghttpd("-w", "4", "-W", "16"),
		"python-h2": func(t *testing.T, port string) *exec.Cmd {
			const python = "/usr/bin/python3" // for which Debian has it
			if exec.CommandContext(t.Context(), python, "-c", "import h2").Run() != nil {
				t.Skip("python3-h2 is not installed: `make test` installs it")
			}
			return exec.CommandContext(t.Context(), python, filepath.Join("testdata", "server.py"), port, key, cert)
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := srv.Listener.Addr().String()
			if start != nil {
				address = run(t, start)
			}
			const callers, each = 20, 50
			var seen observer
			nc := dial(t, address, roots)
			c := New(nc, times, &seen)
			var running sync.WaitGroup
			running.Go(c.Run)
			defer running.Wait()
			defer c.Close()
			send := func(n int) {
				e := newEcho(address, n)
				c.Send(e)
				if got := <-e.done; got.Status != 200 || string(got.Body) != string(e.payload) {
					t.Errorf("%s: %+v", e.payload, got)
				}
			}
			send(-1) // by its answer the server has said how many it takes
			streams := make(chan struct{}, min(callers, c.MaxStreams()))
			var all sync.WaitGroup
			for n := range callers {
				all.Go(func() {
					for i := range each {
						streams <- struct{}{}
						send(n*each + i)
						<-streams
					}
				})
			}
			all.Wait()
		})
	}
}

// find returns the path of a program.
func find(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed: `make test` installs it")
	}
	return path
}

// keyFiles writes a key and its certificate where programs can read them.
func keyFiles(t *testing.T, c tls.Certificate) (key, cert string) {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key, cert = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for path, block := range map[string]*pem.Block{key: {Type: "PRIVATE KEY", Bytes: der}, cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, cert
}

// run starts a server and returns its address once it answers.
func run(t *testing.T, start func(t *testing.T, port string) *exec.Cmd) string {
	t.Helper()
	address := tcptest.Quiet(t)
	_, port, _ := net.SplitHostPort(address)
	program := start(t, port)
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for look := time.NewTicker(20 * time.Millisecond); ; {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.Close()
			look.Stop()
			return address
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func dial(t *testing.T, address string, roots *x509.CertPool) *tls.Conn {
	t.Helper()
	nc, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{http2.NextProtoTLS}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	if p := nc.ConnectionState().NegotiatedProtocol; p != http2.NextProtoTLS {
		t.Fatalf("it speaks %q", p)
	}
	return nc
}
