package auth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// password is a Credential in memory: its round tripper is the server that takes it or not.
type password struct {
	name   string
	server *memory
	closed atomic.Bool
	why    error // of Prepare
}

// memory is a server that takes the credentials that it is told to.
type memory struct {
	mu     sync.Mutex
	takes  map[string]int // the status that each is answered with; 0: 401
	asked  []string
	answer time.Duration
	fails  map[string]error
	page   bool // its answers are pages for people
	stalls bool // the body of a refusal never ends
}

func (p *password) RoundTripper(Hosts, proxy.Settings, int) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		if p.closed.Load() {
			return nil, errClosed
		}
		var question []byte
		if req.Body != nil {
			question, _ = io.ReadAll(req.Body)
			req.Body.Close()
		}
		p.server.mu.Lock()
		takes := p.server.answer
		p.server.mu.Unlock()
		<-time.After(takes)
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		p.server.asked = append(p.server.asked, p.name)
		if err := p.server.fails[p.name]; err != nil {
			return nil, err
		}
		code := p.server.takes[p.name]
		if code == 0 {
			code = http.StatusUnauthorized
		}
		header := http.Header{"Content-Type": {"text/xml; charset=utf-8"}}
		if p.server.page {
			header.Set("Content-Type", "text/html; charset=utf-8")
		}
		body := io.NopCloser(strings.NewReader(p.name + " " + string(question)))
		if code == http.StatusUnauthorized && p.server.stalls {
			body, _ = io.Pipe()
		}
		return &http.Response{StatusCode: code, Header: header, Body: body}, nil
	})
}
func (p *password) Prepare(context.Context) error { return p.why }
func (p *password) Close()                        { p.closed.Store(true) }

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// rotation is a Rotating, what it has told and a round tripper of it.
type rotation struct {
	*Rotating
	*memory
	old  *password
	told []error
	rt   http.RoundTripper
	acts bool // what it asks must not be done twice
	mu   sync.Mutex
}

func newRotation(t *testing.T) *rotation {
	r := &rotation{memory: &memory{takes: map[string]int{"old": 200}, fails: map[string]error{}}}
	r.old = r.credential("old")
	r.Rotating = NewRotating(r.old, func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, err)
	})
	r.rt = r.RoundTripper(Hosts{}, proxy.Settings{}, 1)
	t.Cleanup(r.Rotating.Close)
	return r
}

func (r *rotation) credential(name string) *password { return &password{name: name, server: r.memory} }

func (r *rotation) ask(t *testing.T) string {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.com", strings.NewReader("question")))
	if !r.acts {
		req.Header["X-Idempotency-Key"] = []string{} // as reads of EWS have
	}
	resp, err := r.rt.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	return fmt.Sprint(resp.StatusCode, " ", string(must(io.ReadAll(resp.Body))))
}

// askAtOnce has many ask at once, each of which wants this answer.
func (r *rotation) askAtOnce(t *testing.T, many int, want string) {
	t.Helper()
	var asking sync.WaitGroup
	for range many {
		asking.Go(func() {
			if got := r.ask(t); got != want {
				t.Error(got)
			}
		})
	}
	asking.Wait()
}

func (r *rotation) wasAsked() string {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	asked := strings.Join(r.asked, " ")
	r.asked = nil
	return asked
}

func TestANewCredentialTakesOverOnceItHasWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		if got := r.ask(t); got != "200 old question" {
			t.Fatal(got)
		}
		r.takes["new"], r.takes["old"] = 200, 0
		fresh := r.credential("new")
		r.Offer(fresh)
		for range 3 {
			if got := r.ask(t); got != "200 new question" {
				t.Error(got)
			}
		}
		synctest.Wait()
		if got := r.wasAsked(); got != "old new new new" {
			t.Error(got)
		}
		if !r.old.closed.Load() || fresh.closed.Load() || len(r.told) != 1 || r.told[0] != nil {
			t.Errorf("old closed %t, new closed %t, told %v", r.old.closed.Load(), fresh.closed.Load(), r.told)
		}
		r.Close()
		if !fresh.closed.Load() {
			t.Error("not closed")
		}
	})
}

func TestTheOldCredentialServesUntilTheNewOneWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.Offer(r.credential("new"))
		begin := time.Now()
		for time.Since(begin) < 12*time.Minute {
			if got := r.ask(t); got != "200 old question" {
				t.Fatal(got)
			}
			<-time.After(time.Second)
		}
		// At once, after a minute, two more and four more, each with a jitter.
		if got := strings.Count(r.wasAsked(), "new"); got != 4 {
			t.Errorf("%d tries in twelve minutes", got)
		}
		if len(r.told) != 4 || fault.Of(r.told[0]).Code != "HTTP 401" || r.old.closed.Load() {
			t.Errorf("%v", r.told)
		}
		r.takes["new"] = 200
		<-time.After(375 * time.Second) // five minutes and their jitter
		if got := r.ask(t); got != "200 new question" || r.told[4] != nil {
			t.Error(got, r.told)
		}
	})
}

// issued is a credential whose secret a token service may not know yet.
type issued struct {
	*password
	tokens *tokens
}

func (i *issued) Prepare(ctx context.Context) error {
	_, err := i.tokens.get(ctx)
	return err
}

func (i *issued) Close() {
	i.tokens.close()
	i.password.Close()
}

// A secret in the file before Entra ID knows it: the pause of its tokens, which is a minute and a little, does not cost it the try that is
// due after a minute.
func TestANewSecretThatTheTokenServiceLearnsOfLaterTakesOverWithinTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		service := &issuer{life: time.Hour, err: &fault.Error{Code: "AADSTS7000215", Scope: fault.Account, Remedy: fault.Fix}}
		r.takes["new"] = http.StatusOK
		r.Offer(&issued{r.credential("new"), newTokens(service.fetch)})
		if got := r.ask(t); got != "200 old question" || len(r.told) != 1 {
			t.Fatal(got, r.told)
		}
		service.err = nil
		begin := time.Now()
		for r.ask(t) != "200 new question" {
			if time.Since(begin) > 2*time.Minute {
				t.Fatalf("the old one still serves after %v: %v", time.Since(begin), r.told)
			}
			<-time.After(time.Second)
		}
	})
}

func TestWhereTheOldCredentialIsRefusedTheNewOneIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.Offer(r.credential("new"))
		r.ask(t) // refused: the password was not changed yet
		r.wasAsked()
		r.takes["old"], r.takes["new"] = 0, 200
		r.answer = time.Second
		r.askAtOnce(t, 50, "200 new question")
		if got := r.wasAsked(); strings.Count(got, "old") != 50 || strings.Count(got, "new") != 50 {
			t.Error(got)
		}
	})
}

func TestWhereNeitherWorksOneOfManyTriesTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.Offer(r.credential("new"))
		r.takes["old"] = 0
		r.answer = time.Second
		r.askAtOnce(t, 50, "401 old question")
		if got := strings.Count(r.wasAsked(), "new"); got > 2 {
			t.Errorf("%d tries", got)
		}
		if len(r.told) != 1 {
			t.Error(r.told)
		}
	})
}

func TestWhatSaysNothingOfANewCredentialLeavesTheOldOne(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		err  error
		why  error
		told int
		page bool
	}{
		{"a redirect", 302, nil, nil, 0, false},
		{"403", 403, nil, nil, 0, false},
		{"a server that is away", 503, nil, nil, 0, false},
		{"a connection that broke", 0, io.ErrUnexpectedEOF, nil, 0, false},
		{"a token service that is away", 200, nil, &fault.Error{Scope: fault.Account, Remedy: fault.Wait}, 0, false},
		{"a secret that is refused", 200, nil, &fault.Error{Code: "AADSTS7000215", Scope: fault.Account, Remedy: fault.Fix}, 1, false},
		{"a company's web site, which answers whoever asks", 200, nil, nil, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRotation(t)
				r.takes["new"], r.fails["new"], r.page = c.code, c.err, c.page
				fresh := r.credential("new")
				fresh.why = c.why
				r.Offer(fresh)
				for range 3 {
					if got := r.ask(t); got != "200 old question" {
						t.Error(got)
					}
				}
				if len(r.told) != c.told {
					t.Error(r.told)
				}
				fresh.why, r.takes["new"], r.fails["new"], r.page = nil, 200, nil, false
				<-time.After(75 * time.Second) // a minute and its jitter
				if got := r.ask(t); got != "200 new question" {
					t.Error(got)
				}
			})
		})
	}
}

func TestWhatMustNotBeDoneTwiceIsSentAgainOnlyWhereItWasNotDone(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		err  error
		why  error
		want string
	}{
		{"a server that is away", 503, nil, nil, "503 new question"},
		{"a gateway that gave the server up", 504, nil, nil, "504 new question"},
		{"a connection that broke", 0, io.ErrUnexpectedEOF, nil, io.ErrUnexpectedEOF.Error()},
		{"a refusal", 401, nil, nil, "200 old question"},
		{"403", 403, nil, nil, "200 old question"},
		{"429", 429, nil, nil, "200 old question"},
		{"a redirect", 302, nil, nil, "200 old question"},
		{"a sign-in that failed", 0, &fault.Error{Scope: fault.Account}, nil, "200 old question"},
		{"a token service that is away", 200, nil, io.ErrUnexpectedEOF, "200 old question"},
	} {
		for _, oldToo := range []bool{false, true} { // is refused, and then the new one is tried
			t.Run(fmt.Sprint(c.name, ", the old one is refused: ", oldToo), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRotation(t)
					r.acts = true
					want := c.want
					fresh := r.credential("new")
					if oldToo {
						want = strings.Replace(want, "200 old", "401 old", 1)
						r.Offer(fresh)
						r.ask(t) // so that no try is due
						r.takes["old"] = 0
					}
					r.takes["new"], r.fails["new"], fresh.why = c.code, c.err, c.why
					if !oldToo {
						r.Offer(fresh)
					}
					if got := r.ask(t); got != want {
						t.Errorf("%q, want %q", got, want)
					}
				})
			})
		}
	}
}

func TestARefusalThatNeverEndsHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.stalls = true
		r.Offer(r.credential("new"))
		if got := r.ask(t); got != "200 old question" {
			t.Error(got)
		}
		r.takes["old"], r.takes["new"] = 0, 200
		if got := r.ask(t); got != "200 new question" {
			t.Error(got)
		}
	})
}

func TestEWSsOwnErrorShowsThatACredentialWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.takes["new"] = 500
		r.Offer(r.credential("new"))
		if got := r.ask(t); got != "500 new question" || len(r.told) != 1 || r.told[0] != nil {
			t.Error(got, r.told)
		}
	})
}

// A proxy in front of a server that is away answers 500 to whoever asks, as EWS does to a request that it refuses.
func TestAnAnswerBeforeThePasswordWasSentSaysNothingOfANewOne(t *testing.T) {
	for name, fresh := range map[string]func(string, Secret) Credential{"Basic": NewBasic, "NTLM": NewNTLM} {
		away := false
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			switch {
			case away:
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(http.StatusInternalServerError)
			case user != "old":
				askForPassword(w)
			default:
				fmt.Fprint(w, user)
			}
		})
		r := NewRotating(NewBasic("old", "x"), func(err error) { t.Errorf("%s: it is told of: %v", name, err) })
		rt := trip(t, r, s)
		r.Offer(fresh("new", "wrong"))
		away = true
		if status, _, err := s.post(t, rt); status != http.StatusInternalServerError || err != nil {
			t.Errorf("%s: %d, %v", name, status, err)
		}
		away = false
		if _, body, err := s.post(t, rt); body != "old" || err != nil {
			t.Errorf("%s: %q, %v", name, body, err)
		}
		r.Close()
	}
}

func TestANewerOfferReplacesOneThatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		first := r.credential("first")
		r.Offer(first)
		r.ask(t)
		r.takes["second"] = 200
		r.Offer(r.credential("second"))
		synctest.Wait()
		if !first.closed.Load() {
			t.Error("the first is not closed")
		}
		if got := r.ask(t); got != "200 second question" {
			t.Error(got)
		}
		late := r.credential("late")
		r.Close()
		r.Offer(late)
		if !late.closed.Load() {
			t.Error("an offer after the end is not closed")
		}
	})
}

func TestAfterTheEndNothingGoesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.takes["new"] = 200
		r.Offer(r.credential("new"))
		r.Close()
		for range 3 {
			if got := r.ask(t); got != errClosed.Error() {
				t.Error(got)
			}
			if err := r.Prepare(t.Context()); !errors.Is(err, errClosed) {
				t.Error(err)
			}
		}
		r.Close()
		if got := r.wasAsked(); got != "" {
			t.Error(got)
		}
	})
}

func TestACredentialIsNotClosedUnderARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.takes["new"] = 200
		r.answer = time.Minute
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := r.ask(t); got != "200 old question" {
				t.Error(got)
			}
		})
		<-time.After(time.Second)
		r.memory.mu.Lock()
		r.answer = 0
		r.memory.mu.Unlock()
		r.Offer(r.credential("new"))
		if got := r.ask(t); got != "200 new question" {
			t.Error(got)
		}
		synctest.Wait()
		if r.old.closed.Load() {
			t.Error("closed under a request")
		}
		wg.Wait()
		synctest.Wait()
		if !r.old.closed.Load() {
			t.Error("not closed after it")
		}
	})
}

func TestAnythingMayHappenToARotationAtOnce(t *testing.T) {
	r := newRotation(t)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 50 {
				switch n {
				case 0:
					name := fmt.Sprint("new", i)
					r.memory.mu.Lock()
					r.takes[name] = []int{200, 0}[i%2]
					r.memory.mu.Unlock()
					r.Offer(r.credential(name))
				case 1:
					_ = r.Prepare(t.Context())
					r.rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
				default:
					if got := r.ask(t); !strings.HasPrefix(got, "200 ") {
						t.Error(got)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestAStreamUnderTheOldCredentialGoesOn(t *testing.T) {
	feed := make(chan string)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		if !ok {
			askForPassword(w)
			return
		}
		if user == "old" {
			w.(http.Flusher).Flush()
			for line := range feed {
				fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			}
			return
		}
		fmt.Fprint(w, user)
	})
	r := NewRotating(NewBasic("old", "x"), func(error) {})
	rt := trip(t, r, s)
	defer r.Close()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil))
	resp := must(rt.RoundTrip(req))
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	read := func(want string) {
		feed <- want
		if got := must(stream.ReadString('\n')); got != want+"\n" {
			t.Errorf("%q", got)
		}
	}
	read("before")
	r.Offer(NewBasic("new", "x"))
	if _, body, err := s.post(t, rt); body != "new" || err != nil {
		t.Fatal(body, err)
	}
	r.closing.Wait()
	read("after")
	close(feed)
	if _, err := stream.ReadString('\n'); err != io.EOF {
		t.Error(err)
	}
}

func TestANewCredentialThatIsRefusedIsTriedOnEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.Offer(r.credential("new"))
		for begin := time.Now(); time.Since(begin) < 3*time.Hour; <-time.After(10 * time.Second) {
			r.ask(t)
		}
		// Each pause may be a quarter longer.
		if got := strings.Count(r.wasAsked(), "new"); got < 28 || got > 39 {
			t.Errorf("%d tries in three hours", got)
		}
	})
}

// hanging is a credential whose token service does not answer.
type hanging struct{ *password }

func (hanging) Prepare(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestATokenServiceThatHangsHoldsARequestUpForThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotation(t)
		r.Offer(hanging{r.credential("new")})
		begin := time.Now()
		if got := r.ask(t); got != "200 old question" || time.Since(begin) != 3*time.Second {
			t.Errorf("after %v: %s", time.Since(begin), got)
		}
	})
}
