package control_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	jwtlib "github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/simulator"
)

const deviceToken = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *simulator.Server {
	t.Helper()
	s, err := simulator.Start(t.Context(), simulator.Options{Mailboxes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// push sends an alert that APNs accepts.
func push(t *testing.T, s *simulator.Server) {
	t.Helper()
	key, err := jwtlib.ParseECPrivateKeyFromPEM(s.APNsKeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	token := jwtlib.NewWithClaims(jwtlib.SigningMethodES256, jwtlib.MapClaims{"iss": s.TeamID, "iat": time.Now().Unix()})
	token.Header["kid"] = s.KeyID
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.APNsURL+"/3/device/"+deviceToken, strings.NewReader(`{"aps":{"alert":"hi"}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Authorization": {"bearer " + signed}, "Apns-Topic": {s.Topic}, "Apns-Push-Type": {"alert"}}
	var h2 http.Protocols
	h2.SetHTTP2(true)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.RootCAs()}, Protocols: &h2}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("APNs answers %d", resp.StatusCode)
	}
}

// call calls the control API.
func call(t *testing.T, s *simulator.Server, method, path, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode >= 400 && kind != "application/problem+json" {
		t.Errorf("%s %s: %d as %q", method, path, resp.StatusCode, kind)
	}
	return resp.StatusCode, string(text)
}

func TestControlAPI(t *testing.T) {
	s := start(t)
	address := s.Mailboxes()[0]
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/messages?to=" + address + "&received=2026-11-22T09:00:00Z", "Subject: x\r\n\r\n", 200, `{"item_id":"AAMk`},
		{"POST", "/messages?to=nobody@contoso.example", "Subject: x\r\n\r\n", 404, `"field":"to"`},
		{"POST", "/messages", "", 404, `"field":"to"`},
		{"POST", "/messages?to=" + address + "&received=now", "", 400, `"field":"received"`},
		{"POST", "/messages?to=" + address + "&recieved=x", "", 400, `"field":"recieved"`},
		{"GET", "/alerts", "", 200, ""},
		{"GET", "/alerts?after=-1", "", 400, `"field":"after"`},
		{"GET", "/alerts?wait=61", "", 400, `"field":"wait"`},
		{"GET", "/alerts?wait=NaN", "", 400, `"field":"wait"`},
		{"GET", "/alerts?after=0&wait=0.01", "", 200, ""},
		{"GET", "/faults", "", 200, `"name":"stream_fin","text":"`},
		{"PUT", "/faults/events_dropped", `{"mailbox":"` + address + `","share":0.5,"count":3}`, 204, ""},
		{"GET", "/faults", "", 200, `"set":{"mailbox":"` + address + `","share":0.5,"count":3}`},
		{"DELETE", "/faults/events_dropped", "", 204, ""},
		{"DELETE", "/faults/events_dropped", "", 204, ""},
		{"PUT", "/faults/stream_rst", "", 204, ""},
		{"PUT", "/faults/stream_rst", `{"share":2}`, 422, `"field":"share"`},
		{"PUT", "/faults/stream_rst", `{"token":"a"}`, 422, `"field":"token"`},
		{"PUT", "/faults/stream_rst", `{"mailboxes":1}`, 400, "unknown field"},
		{"PUT", "/faults/stream_rst", `{} {}`, 400, "behind"},
		{"PUT", "/faults/stream_rst", `[]`, 400, "object"},
		{"PUT", "/faults/nope", "", 404, "stream_fin"},
		{"DELETE", "/faults/nope", "", 404, "stream_fin"},
		{"POST", "/mailboxes/new@contoso.example", "", 201, ""},
		{"POST", "/mailboxes/new@contoso.example", "", 409, "already"},
		{"POST", "/mailboxes/new@contoso.example?alias=also@contoso.example", "", 200, `"aliases":["also@contoso.example"]`},
		{"POST", "/mailboxes/new@contoso.example?alias=also@contoso.example", "", 409, `"field":"alias"`},
		{"POST", "/mailboxes/new@contoso.example?alias=also", "", 422, `"field":"alias"`},
		{"POST", "/mailboxes/nobody@contoso.example?alias=x@contoso.example", "", 404, `"field":"address"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=onpremises", "", 201, `"host":"onpremises","server":"exch01.contoso.example"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=onpremises", "", 200, `"host":"onpremises"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=online", "", 422, `"field":"host"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=online&server=x", "", 400, "one of"},
		{"POST", "/mailboxes/nobody@contoso.example?hosts=online", "", 400, `"field":"hosts"`},
		{"POST", "/mailboxes/nobody@contoso.example?server=exch01", "", 200, `"server":"exch01.contoso.example"`},
		{"POST", "/mailboxes/nobody@contoso.example?server=exch02", "", 422, `"field":"server"`},
		{"POST", "/mailboxes/nobody@contoso.example?primary=somebody@contoso.example", "", 200, `{"address":"somebody@contoso.example","aliases":["nobody@contoso.example"]`},
		{"GET", "/mailboxes/nobody@contoso.example", "", 200, `{"address":"somebody@contoso.example"`},
		{"DELETE", "/mailboxes/somebody@contoso.example", "", 204, ""},
		{"GET", "/mailboxes/nobody@contoso.example", "", 404, `"field":"address"`},
		{"POST", "/mailboxes/new", "", 422, "not a mail address"},
		{"GET", "/mailboxes", "", 200, "new@contoso.example"},
		{"DELETE", "/mailboxes/new@contoso.example", "", 204, ""},
		{"DELETE", "/mailboxes/new@contoso.example", "", 404, "address"},
		{"GET", "/counts", "", 200, `"open_streams":0`},
		{"GET", "/counts?host=onpremises", "", 200, `"open_streams":0`},
		{"GET", "/counts?host=online", "", 422, `"field":"host"`},
		{"GET", "/entra", "", 200, s.ClientID},
		{"GET", "/nope", "", 404, "POST /messages"},
	} {
		if status, text := call(t, s, step.method, step.path, step.body); status != step.status || !strings.Contains(text, step.want) {
			t.Errorf("%s %s %s: %d %s", step.method, step.path, step.body, status, text)
		}
	}
	push(t, s)
	_, text := call(t, s, "GET", "/alerts?after=0", "")
	var a1 map[string]any
	if err := json.Unmarshal([]byte(text), &a1); err != nil || a1["n"] != 1.0 || a1["token"] != deviceToken || a1["status"] != 200.0 || a1["payload"] == nil || a1["headers"] == nil || a1["at"] == nil {
		t.Errorf("an alert is told as %s, %v", text, err)
	}
	if _, text := call(t, s, "GET", "/alerts?after=1", ""); text != "" {
		t.Errorf("after the last: %s", text)
	}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Host", "evil.example"}} {
		if status, _ := call(t, s, "GET", "/alerts", "", header...); status != 403 {
			t.Errorf("%v: %d", header, status)
		}
	}
}
