package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnInstanceThatStandsByIsAliveAndNotReady(t *testing.T) {
	h := Standby("standby: process 7 on mail2 holds the state")
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/v1/devices/d1": 503, "/metrics": 200, "/callbacks/ews/secret": 503, "//v1/status": 404, "/v1/../metrics": 404} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if want == 503 && !strings.Contains(w.Body.String(), "mail2") {
			t.Errorf("%s does not say why: %s", path, w.Body)
		}
		if path == "/metrics" && !strings.Contains(w.Body.String(), "\nmailbell_standby 1\n") {
			t.Errorf("monitoring is not told that it is a standby: %s", w.Body)
		}
		for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Cache-Control", "Content-Security-Policy"} {
			if w.Header().Get(name) == "" {
				t.Errorf("%s: the answer lacks %s", path, name)
			}
		}
		if path == "/v1/devices/d1" && (w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/problem+json") {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
}
