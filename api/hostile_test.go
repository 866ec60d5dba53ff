package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/pipetest"
)

// drip writes a byte a second until the connection or ctx ends.
func drip(ctx context.Context, c net.Conn, b byte) {
	for ctx.Err() == nil {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		<-time.After(time.Second)
	}
}

func TestWhatComesSlowlyIsGivenUpAndHoldsNobodyElse(t *testing.T) {
	const authorised = " HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + enrolToken + "\r\n"
	for name, c := range map[string]struct {
		begins string
		drips  byte
		within time.Duration
		status int // 0: no call is answered; net/http closes the connection, with 400 or 408 or without a word
		says   string
	}{
		"headers":        {"GET /v1/devices HTTP/1.1\r\nX-Slow: ", 'x', headerTimeout + time.Second, 0, ""},
		"a body":         {"PUT /v1/devices/phone" + authorised + "Content-Length: 1000\r\n\r\n{", ' ', readTimeout + time.Second, http.StatusBadRequest, "body_cut_off"},
		"chunks":         {"PUT /v1/devices/phone" + authorised + "Transfer-Encoding: chunked\r\n\r\n1000\r\n{", ' ', readTimeout + time.Second, http.StatusBadRequest, "body_cut_off"},
		"an import":      {"POST /v1/devices:import" + authorised + "Content-Length: 1000\r\n\r\n{", ' ', readTimeout + time.Second, http.StatusOK, "the body ended early"},
		"of no client":   {"PUT /v1/devices/phone HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{", ' ', readTimeout + time.Second, http.StatusUnauthorized, "no_token"},
		"a phone's body": {"POST /v1/receipts HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{", ' ', readTimeout + time.Second, http.StatusBadRequest, "body_cut_off"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newBackend(t)
			ctx, stop := context.WithCancel(t.Context())
			l := pipetest.NewListener(net.IPv4(127, 0, 0, 1), 8080)
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, l, d.handler, nil, zap.NewNop()) }()
			client, err := l.Dial(ctx, "", "")
			if err != nil {
				t.Fatal(err)
			}
			dripping, dry := context.WithCancel(ctx)
			dripped := make(chan struct{})
			began := time.Now()
			if _, err := io.WriteString(client, c.begins); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(dripped)
				drip(dripping, client, c.drips)
			}()
			if status, took := d.from("10.0.0.2:1", readToken); status != http.StatusOK || took != 0 {
				t.Errorf("%s: another client: %d after %s", name, status, took)
			}
			status, text := 0, ""
			if a, err := http.ReadResponse(bufio.NewReader(client), nil); err == nil {
				body, _ := io.ReadAll(a.Body)
				_ = a.Body.Close()
				status, text = a.StatusCode, string(body)
			}
			took := time.Since(began)
			if c.status == 0 && (status == http.StatusBadRequest || status == http.StatusRequestTimeout) {
				status = 0
			}
			if status != c.status || took > c.within || !strings.Contains(text, c.says) {
				t.Errorf("%s: %d after %s: %s", name, status, took, text)
			}
			dry()
			_ = client.Close()
			<-dripped
			stop()
			if err := <-served; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			synctest.Wait()
		})
	}
}

// given is a listener of connections that it is given.
type given chan net.Conn

func (g given) Accept() (net.Conn, error) {
	c, open := <-g
	if !open {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (g given) Close() error {
	close(g)
	return nil
}

func (given) Addr() net.Addr { return &net.TCPAddr{} }

func TestAServerThatIsFullLeavesWhatIsOpenToMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l, served := make(given), make(chan error, 1)
		go func() { served <- Serve(ctx, l, http.NotFoundHandler(), nil, zap.NewNop()) }()
		var clients []net.Conn
		for range maxConnections {
			client, server := net.Pipe()
			clients = append(clients, client)
			l <- server
		}
		client, server := net.Pipe()
		clients = append(clients, client)
		taken := make(chan struct{})
		go func() {
			defer close(taken)
			l <- server
		}()
		synctest.Wait()
		select {
		case <-taken:
			t.Errorf("more than %d connections are open", maxConnections)
		default:
		}
		_ = clients[0].Close()
		<-taken
		for _, c := range clients {
			_ = c.Close()
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestAClientThatReadsNoAnswersWhileItImportsIsGivenUpAndTheLogSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		ctx, stop := context.WithCancel(t.Context())
		l, served := make(given), make(chan error, 1)
		go func() { served <- Serve(ctx, l, d.handler, nil, zap.NewNop()) }()
		client, server := net.Pipe()
		l <- server
		const all = 1 << 20
		_, err := fmt.Fprintf(client, "POST /v1/devices:import HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", enrolToken, all)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for err == nil && time.Since(began) < time.Hour {
			_, err = io.WriteString(client, line("phone"))
		}
		if took := time.Since(began); err == nil || took > 2*readTimeout {
			t.Errorf("after %s: %v", took, err)
		}
		_ = client.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if said := d.log.FilterMessage("an import has ended early").All(); len(said) != 1 || !strings.Contains(fmt.Sprint(said[0].ContextMap()["advice"]), "read the answers") {
			t.Errorf("the log: %v", d.log.All())
		}
	})
}

func TestNoPathOfTheAPILeadsElsewhere(t *testing.T) {
	d := newBackend(t)
	for _, target := range []string{
		"/v1/../healthz", "/v1/%2e%2e/healthz", "/v1/devices/../../healthz", "/v1/devices/..%2f..%2fhealthz/x", "/v1//status", "//v1/status", "/v1/./status", "/v1/status/", "/v1/status%2f", "/v1/%73tatus/x",
		"/V1/status", "/v1/Status", "/v1/status;x", "/v1/status%00", "/v1/status%20", `/v1\status`, "/v1/devices:export/", "/v1/devices%3aimport/x", "/docs/../v1/status", "/metrics/", "/metrics/../v1/status",
		"/callbacks/../v1/status", "/openapi.yaml/../v1/status", "/.well-known/openapi", "/debug/pprof/", "/" + strings.Repeat("a/", 4000),
	} {
		u, err := url.Parse("http://h" + target)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x", nil)
		r.URL = u
		r.Header.Set("Authorization", "Bearer "+adminToken)
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || w.Header().Get("Location") != "" || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s", target, w.Code, w.Header().Get("Location"), w.Body)
		}
	}
}

func TestABodyOrAHeaderThatIsTooLargeIsRefusedByEveryCall(t *testing.T) {
	d := newBackend(t)
	large := `{"x": "` + strings.Repeat("a", maxBody) + `"}`
	for target, method := range map[string]string{
		"/v1/devices/phone": "PUT", "/v1/test-notifications": "POST", "/v1/exchange/online/listen_by": "PUT", "/v1/receipts": "POST", "/v1/self-check": "POST",
	} {
		is(t, d.ask(t, adminToken, method, target, large), 413, "")
	}
	a := d.ask(t, adminToken, "POST", "/v1/devices:import", large+"\n")
	if all, err := io.ReadAll(a.Body); err != nil || !strings.Contains(string(all), "a line is longer than 64 KiB") {
		t.Errorf("an import: %v %s", err, all)
	}
	if len(d.devices)+len(d.tested)+len(d.moves) > 0 {
		t.Error("something was done")
	}

	address, stop, done := serve(t, d.handler, nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		req.Header.Set(fmt.Sprint("X-Large-", i), strings.Repeat("a", 1<<10))
	}
	answer, err := client.Do(req)
	if err == nil { // else the connection was closed before all of them were sent
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("headers of 100 KiB: %d", answer.StatusCode)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
