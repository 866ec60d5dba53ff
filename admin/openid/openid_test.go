package openid

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answers is a transport without a network.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// description is what a provider tells of itself.
const description = `{"issuer":"https://login.contoso.com","authorization_endpoint":"https://login.contoso.com/a","token_endpoint":"https://login.contoso.com/t","jwks_uri":"https://login.contoso.com/k"}`

func TestAProviderThatIsAwayIsTriedEveryHalfMinuteAndSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, away atomic.Int64
		away.Store(3)
		core, log := observer.New(zap.InfoLevel)
		p := New(Options{Issuer: "https://login.contoso.com", Log: zap.New(core), Transport: answers(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			if away.Add(-1) >= 0 {
				return nil, errors.New("no route to host")
			}
			return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}, Body: http.NoBody, Request: r}, nil
		})})
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p.Run(ctx)
		}()
		synctest.Wait()
		for want := range int64(3) {
			if asked.Load() != want+1 || p.Problem() == nil {
				t.Errorf("asked %d times, want %d: %v", asked.Load(), want+1, p.Problem())
			}
			<-time.After(discoverAgain)
			synctest.Wait()
		}
		if log.Len() != 1 {
			t.Errorf("the log has %v", log.All())
		}
		end()
		<-ended
	})
}

func TestAnAnswerOfTheProviderIsBounded(t *testing.T) {
	var read atomic.Int64
	p := New(Options{Issuer: "https://login.contoso.com", Log: zap.NewNop(), Transport: answers(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{}, Body: endless{&read}, Request: r}, nil
	})})
	if _, err := p.discover(t.Context()); err == nil || len(err.Error()) > 1000 {
		t.Errorf("%.2000v", err)
	}
	if n := read.Load(); n > maxAnswer+1<<20 {
		t.Errorf("%d bytes were read", n)
	}
}

// endless is an answer that does not end.
type endless struct{ read *atomic.Int64 }

func (e endless) Read(b []byte) (int, error) {
	e.read.Add(int64(len(b)))
	return copy(b, strings.Repeat("x", len(b))), nil
}

func (endless) Close() error { return nil }

func TestARedirectOfTheProviderIsNotFollowed(t *testing.T) {
	asked := 0
	p := New(Options{Issuer: "https://login.contoso.com", Log: zap.NewNop(), Transport: answers(func(r *http.Request) (*http.Response, error) {
		asked++
		return &http.Response{StatusCode: 307, Status: "307", Header: http.Header{"Location": {"https://evil.example/"}}, Body: http.NoBody, Request: r}, nil
	})})
	if _, err := p.discover(t.Context()); err == nil || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestASignInThatTakesTooLongIsOver(t *testing.T) {
	p := whole(t)
	for age, over := range map[time.Duration]bool{0: false, maxFlow - time.Minute: false, maxFlow + time.Second: true, -time.Hour: true} {
		flow, _, err := p.Begin("/")
		if err != nil {
			t.Fatal(err)
		}
		flow.Began = time.Now().Add(-age)
		_, err = p.Finish(t.Context(), flow, map[string][]string{"state": {flow.State}})
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok || strings.Contains(refusal.Cause.Error(), "too long") != over {
			t.Errorf("after %v: %v", age, err)
		}
	}
}

// whole is a provider that was found.
func whole(t *testing.T) *Provider {
	t.Helper()
	p := New(Options{Issuer: "https://login.contoso.com", Log: zap.NewNop(), Transport: answers(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}, Body: text(description), Request: r}, nil
	})})
	var err error
	if p.found, err = p.discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func text(s string) body { return body{strings.NewReader(s), http.NoBody} }
