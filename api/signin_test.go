package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/audit"
)

// from asks with a token from an address, and returns the status and how long that took.
func (d *backend) from(address, token string, headers ...string) (int, time.Duration) {
	r := httptest.NewRequest(http.MethodGet, "/v1/devices", nil)
	r.RemoteAddr = address
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	began := time.Now()
	d.handler.ServeHTTP(w, r)
	return w.Code, time.Since(began)
}

func TestWrongTokensAreAnsweredSlowlyHoweverManyConnectionsTheyComeOver(t *testing.T) {
	for _, connections := range []int{1, 20} {
		synctest.Test(t, func(t *testing.T) {
			d := newBackend(t)
			var mu sync.Mutex
			tried := 0
			end := time.Now().Add(4 * time.Second)
			var all sync.WaitGroup
			for c := range connections {
				all.Go(func() {
					for time.Now().Before(end) {
						status, took := d.from(fmt.Sprintf("203.0.113.7:%d", 1000+c), "guess-0123456789abcdef")
						if status != http.StatusUnauthorized || took > maxFailureWait {
							t.Errorf("%d after %s", status, took)
						}
						mu.Lock()
						tried++
						mu.Unlock()
					}
				})
			}
			all.Wait()
			if most := failureBurst + 4*failureRate + 3*connections; tried > most {
				t.Errorf("%d connections: %d tries in 4 s, want at most %d", connections, tried, most)
			}
		})
	}
}

func TestARightTokenIsNotHeldUpWhereOthersGuessFromTheSameAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { d.from("10.0.0.1:1", "guess-0123456789abcdef") })
		}
		for range 20 {
			if status, took := d.from("10.0.0.1:2", readToken); status != http.StatusOK || took != 0 {
				t.Errorf("%d after %s", status, took)
			}
		}
		all.Wait()
		for range failureBurst { // nor are the first from another address
			if status, took := d.from("10.0.0.2:1", "guess-0123456789abcdef"); status != http.StatusUnauthorized || took != 0 {
				t.Errorf("another address: %d after %s", status, took)
			}
		}
	})
}

func TestWrongTokensAreCountedAndSaidOnceAMinuteWithTheirAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		for range 10 {
			d.from("203.0.113.7:1", "guess-0123456789abcdef", "X-Forwarded-For", "evil\nline, 198.51.100.9")
		}
		d.from("[2001:db8::1]:1", "guess-0123456789abcdef", "X-Forwarded-For", "evil\nline")
		d.from("[2001:db8::2]:1", "guess-0123456789abcdef")
		d.from("203.0.113.8:1", "")
		<-time.After(3 * failuresEvery)
		d.from("203.0.113.7:1", "guess-0123456789abcdef")
		want := []string{
			"warn sign-in with a wrong token address=203.0.113.7 forwarded_for=198.51.100.9 times=1",
			"warn sign-in with a wrong token address=2001:db8:: times=1",
			"warn sign-in with a wrong token address=203.0.113.7 forwarded_for=198.51.100.9 times=9",
			"warn sign-in with a wrong token address=2001:db8:: times=1",
			"warn sign-in with a wrong token address=203.0.113.7 times=1",
		}
		var got []string
		for _, l := range d.log.All() {
			line := l.Level.String() + " " + l.Message
			for _, name := range []string{"address", "forwarded_for", "times"} {
				if v, ok := l.ContextMap()[name]; ok {
					line += fmt.Sprintf(" %s=%v", name, v)
				}
			}
			got = append(got, line)
			if strings.Contains(fmt.Sprint(l.ContextMap()), "guess") || strings.Contains(fmt.Sprint(l.ContextMap()), "evil") {
				t.Errorf("the log shows %v", l.ContextMap())
			}
		}
		// Of two addresses that are told at once, either is the first.
		if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] && got[2] != want[3] || got[3] != want[2] && got[3] != want[3] || got[4] != want[4] {
			t.Errorf("the log says:\n%s", strings.Join(got, "\n"))
		}
		if wrong, none := testutil.ToFloat64(d.handler.failed.counter.WithLabelValues(reasonWrongToken)), testutil.ToFloat64(d.handler.failed.counter.WithLabelValues(reasonNoToken)); wrong != 13 || none != 1 {
			t.Errorf("%v wrong tokens, %v without one", wrong, none)
		}
	})
}

func TestTheAddressesThatAreRememberedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailedSignIns(audit.New(zap.NewNop()), prometheus.NewRegistry())
		defer s.close()
		var wait time.Duration
		for i := range 3 * maxAddresses {
			wait = s.note(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), "")
		}
		s.mu.Lock()
		if len(s.known) > maxAddresses+1 || wait != maxFailureWait {
			t.Errorf("%d addresses; who comes from further ones waits %s", len(s.known), wait)
		}
		s.mu.Unlock()
		<-time.After(3 * failuresEvery)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.known) != 0 || s.timer != nil {
			t.Errorf("%d addresses are remembered without end", len(s.known))
		}
	})
}
