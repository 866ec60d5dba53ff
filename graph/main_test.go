package graph

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	base = "https://graph.microsoft.com"
	mara = "mara@contoso.com"
)

// sample reads a file of testdata/graph.
func sample(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "graph", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reply makes an answer.
func reply(r *http.Request, status int, body string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader(body))}
}

// client of a server that answers by a function.
func client(answer func(r *http.Request, body string) *http.Response) *Client {
	return New(Options{Base: base, UserAgent: "mailbell/test", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		body := ""
		if r.Body != nil {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			body = string(b)
		}
		return answer(r, body), nil
	})})
}

// answers returns a client of a server that gives one answer to everything.
func answers(status int, body string, header ...string) *Client {
	return client(func(r *http.Request, _ string) *http.Response { return reply(r, status, body, header...) })
}

// parsed is a JSON body as a map.
func parsed(t testing.TB, body string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return m
}
