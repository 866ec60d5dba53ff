package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/api"
)

// watcher is a browser that has a page open: what it is sent, and the headers.
type watcher struct {
	*httptest.ResponseRecorder
	mu    sync.Mutex
	got   strings.Builder
	leave context.CancelFunc
	gone  chan struct{} // closed when the server has ended the stream
}

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got.Write(b)
	return len(b), nil
}

// take returns what was sent since the last time.
func (w *watcher) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.got.String()
	w.got.Reset()
	return s
}

func (w *watcher) ended() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// watch opens a page as a stream, by a session of a client.
func (s *site) watch(t *testing.T, cookie, target string) *watcher {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	w := &watcher{ResponseRecorder: httptest.NewRecorder(), leave: leave, gone: make(chan struct{})}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	r.Header.Set("Accept", eventStream)
	r.Header.Set("Cookie", cookieName+"="+cookie)
	go func() {
		defer close(w.gone)
		s.api.ServeHTTP(w, r)
	}()
	synctest.Wait()
	return w
}

// as begins a session of the client with a token.
func (s *site) as(t *testing.T, token string) (cookie string) {
	t.Helper()
	key, ok := s.api.SignIn(httptest.NewRequestWithContext(t.Context(), http.MethodPost, signInPath, nil), token)
	if !ok {
		t.Fatal("no client has the token")
	}
	return s.pages.sessions.begin(key)
}

// inABubble runs a test of the pages in time of its own.
func inABubble(t *testing.T, f func(*testing.T, *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newPages()
		defer s.api.Close()
		defer s.pages.Close()
		f(t, s)
	})
}

func TestAPageIsSentAgainWhenItHasChanged(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		w := s.watch(t, s.as(t, readToken), root)
		first := w.take()
		if w.Code != 200 || w.Header().Get("Content-Type") != eventStream || !strings.HasPrefix(first, "event: page\n") || !strings.Contains(first, "event: summary\ndata: One thing needs attention.") {
			t.Fatalf("%d %s %s", w.Code, w.Header(), first)
		}
		if strings.Contains(first, "<html") || strings.Contains(first, "csrf") {
			t.Error("an event has more than the part that changes")
		}
		s.mu.Lock()
		s.overview.Conditions[0].Advice = "Something else."
		s.mu.Unlock()
		<-time.After(lookEvery)
		synctest.Wait()
		if got := w.take(); !strings.Contains(got, "Something else.") {
			t.Errorf("a change was not sent: %s", got)
		}
		w.leave()
		<-w.gone
		if n := len(s.pages.streams); n != 0 {
			t.Errorf("%d places are taken", n)
		}
	})
}

func TestAStreamWithoutNewsIsKeptAlive(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		w := s.watch(t, s.as(t, readToken), "/admin/mailboxes?state=listening") // no times are on it
		if got := w.take(); !strings.Contains(got, "ann@contoso.com") {
			t.Fatal(got)
		}
		<-time.After(aliveEvery + lookEvery)
		synctest.Wait()
		if got := w.take(); got != ":\n\n" {
			t.Errorf("within %v it was sent %q", aliveEvery, got)
		}
		w.leave()
		<-w.gone
	})
}

func TestAStreamEndsWithItsSessionWhichItDoesNotProlong(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		idle, out, taken := s.as(t, readToken), s.as(t, readToken), s.as(t, testToken)
		a, b, c := s.watch(t, idle, root), s.watch(t, out, root), s.watch(t, taken, root)
		s.pages.sessions.end(out)
		s.api.SetClients([]api.Client{{Name: "grafana", Role: api.RoleRead, Token: readToken}})
		<-time.After(lookEvery)
		synctest.Wait()
		if a.ended() || !b.ended() || !c.ended() {
			t.Errorf("ended: %v, %v, %v", a.ended(), b.ended(), c.ended())
		}
		s.pages.sessions.mu.Lock()
		for _, one := range s.pages.sessions.open { // all but the last seconds of an idle day, which would be 14,400 looks
			one.used = one.used.Add(2*lookEvery - maxIdle)
		}
		s.pages.sessions.mu.Unlock()
		<-time.After(2 * lookEvery)
		synctest.Wait()
		if !a.ended() {
			t.Error("a page that was left open keeps its session")
		}
	})
}

func TestTheStreamsAreBoundedAndEndAtTheStop(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		cookie := s.as(t, readToken)
		var open []*watcher
		for range maxStreams {
			open = append(open, s.watch(t, cookie, root))
		}
		if w := s.watch(t, cookie, root); !w.ended() || w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one stream too many: %d %s", w.Code, w.Header())
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, root, nil)
		r.Header.Set("Cookie", cookieName+"="+cookie)
		page := httptest.NewRecorder()
		s.api.ServeHTTP(page, r)
		if page.Code != 200 {
			t.Errorf("the page itself: %d", page.Code)
		}
		open[0].leave()
		<-open[0].gone
		if w := s.watch(t, cookie, root); w.ended() {
			t.Error("a place that is free again is not given")
		}
		s.pages.Close()
		synctest.Wait()
		for i, w := range open {
			if !w.ended() {
				t.Fatalf("the stream %d goes on after the stop", i)
			}
		}
	})
}

func TestHoweverManyPagesAreOpenTheStatusIsMadeOnceASecond(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		cookie := s.as(t, readToken)
		for range maxStreams {
			s.watch(t, cookie, root)
		}
		<-time.After(20 * lookEvery)
		synctest.Wait()
		if s.asked > 1+20 {
			t.Errorf("it was made %d times for %d pages within %v", s.asked, maxStreams, 20*lookEvery)
		}
	})
}

func TestWhatDoesNotChangeIsNoStream(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		cookie := s.as(t, readToken)
		for target, want := range map[string]int{"/admin/nothing": 406, "/admin/mailboxes/nobody@contoso.com": 406, "/admin/mailboxes?state=x": 406} {
			if w := s.watch(t, cookie, target); !w.ended() || w.Code != want {
				t.Errorf("%s: %d", target, w.Code)
			}
		}
	})
}

// Each of a thousand wrong tokens within a second is answered, late and within the bounds of a connection, and who has a token is not
// kept waiting.
func TestAThousandWrongTokensASecondKeepNobodyFromSigningIn(t *testing.T) {
	inABubble(t, func(t *testing.T, s *site) {
		post := func(token string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, signInPath, strings.NewReader("token="+token))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			s.api.ServeHTTP(w, r)
			return w
		}
		began := time.Now()
		var guesses sync.WaitGroup
		for range 1000 {
			guesses.Go(func() {
				if w := post("guess"); w.Code != 401 || w.Header().Get("Set-Cookie") != "" {
					t.Errorf("a wrong token: %d", w.Code)
				}
			})
			<-time.After(time.Millisecond)
		}
		before := time.Now()
		if w := post(readToken); w.Code != 303 {
			t.Errorf("a valid token: %d", w.Code)
		}
		if took := time.Since(before); took > 0 {
			t.Errorf("a valid token took %v", took)
		}
		guesses.Wait()
		if took := time.Since(began); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("the last wrong token was answered after %v", took)
		}
		if n := s.log.FilterMessage("sign-in with a wrong token").Len(); n > 2 {
			t.Errorf("%d lines in the log", n)
		}
		if n := len(s.pages.sessions.open); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}
