package auth

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

func TestAWrongPasswordIsHeldBeforeItLocksTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		var sent atomic.Int32
		var held atomic.Int32
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				done, err := l.enter(t.Context())
				if err != nil {
					if e := fault.Of(err); e.Code != CodeHeld || e.Scope != fault.Account || e.Remedy != fault.Wait || e.After <= 0 || e.After > 5*time.Minute {
						t.Errorf("%+v", e)
					}
					held.Add(1)
					return
				}
				sent.Add(1)
				<-time.After(time.Second) // the server takes its time, and all the others are there meanwhile
				done(refused)
			})
		}
		wg.Wait()
		if sent.Load() != 3 || held.Load() != 61 {
			t.Errorf("%d sent, %d held", sent.Load(), held.Load())
		}
	})
}

// directory counts as Active Directory does: each failure begins the observation window anew, and at the threshold it locks.
type directory struct {
	failed int
	last   time.Time
	locked bool
}

func (d *directory) refuse(threshold int, window time.Duration) {
	if time.Since(d.last) >= window {
		d.failed = 0
	}
	d.failed++
	d.last = time.Now()
	d.locked = d.locked || d.failed >= threshold
}

func TestAWrongPasswordIsTriedForDaysAndNeverLocksTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		var d directory
		tries := 0
		for begin := time.Now(); time.Since(begin) < 48*time.Hour; <-time.After(10 * time.Second) {
			if done, err := l.enter(t.Context()); err == nil {
				tries++
				d.refuse(5, 30*time.Minute)
				done(refused)
			}
			if d.locked {
				t.Fatalf("locked after %d tries in %s", tries, time.Since(begin))
			}
		}
		if tries < 48 {
			t.Errorf("%d tries in two days: nobody finds out that it works again", tries)
		}
	})
}

func TestAPasswordThatHasWorkedIsTriedEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		must(l.enter(t.Context()))(accepted)
		for range 3 {
			must(l.enter(t.Context()))(refused)
		}
		for n := range 10 {
			_, err := l.enter(t.Context())
			if e := fault.Of(err); e.Code != CodeHeld || e.After != 5*time.Minute {
				t.Fatalf("hold %d: %+v", n, e)
			}
			<-time.After(5 * time.Minute)
			must(l.enter(t.Context()))(refused)
		}
	})
}

func TestRefusalsOfRequestsUnderWayDoNotProlongTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		must(l.enter(t.Context()))(accepted)
		var under []func(signIn)
		for range 64 {
			under = append(under, must(l.enter(t.Context())))
		}
		for _, done := range under {
			done(refused)
		}
		_, err := l.enter(t.Context())
		if e := fault.Of(err); e.Code != CodeHeld || e.After != 5*time.Minute {
			t.Errorf("%+v", e)
		}
	})
}

func TestOnePlaceThatRefusesAPasswordThatWorksDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		must(l.enterAt(t.Context(), "ews alice"))(accepted)
		for range 2 * maxRefusals {
			must(l.enterAt(t.Context(), "autodiscover"))(refused)
		}
		must(l.enterAt(t.Context(), "ews bob"))(accepted)
		for i := range maxRefusals { // a changed password is refused everywhere
			must(l.enterAt(t.Context(), fmt.Sprint("ews ", i)))(refused)
		}
		if _, err := l.enterAt(t.Context(), "ews bob"); fault.Of(err).Code != CodeHeld {
			t.Errorf("it is not held: %v", err)
		}
	})
}

// At EWS each mailbox may refuse an account for itself; any other service is one, whoever it is asked for.
func TestAtEWSEachMailboxIsAPlaceOfItsOwn(t *testing.T) {
	for url, want := range map[string]string{
		"https://ex01.example/EWS/Exchange.asmx":                 "ews alice@contoso.example",
		"https://ex01.example/ews/exchange.asmx":                 "ews alice@contoso.example",
		"https://ex01.example/Autodiscover/Autodiscover.xml":     "autodiscover",
		"https://ex01.example/autodiscover/autodiscover.svc?x=y": "autodiscover",
		"https://ex01.example":                                   "",
	} {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil))
		req.Header.Set("X-AnchorMailbox", "alice@contoso.example")
		if got := placeOf(req); got != want {
			t.Errorf("%s is %q", url, got)
		}
	}
}

func TestWhereOneAloneIsAskedItsRefusalsHoldThePasswordToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		must(l.enterAt(t.Context(), "ews alice"))(accepted)
		tries := 0
		for ; tries < 100; tries++ {
			done, err := l.enterAt(t.Context(), "ews alice")
			if err != nil {
				break
			}
			done(refused)
		}
		if tries > maxRefusals*maxRefusals {
			t.Errorf("%d tries", tries)
		}
	})
}

// The directory may have counted a failed sign-in that a gateway cut off.
func TestAPasswordThatNeverWorkedIsSentOnceWhereTheConnectionIsCut(t *testing.T) {
	var sent atomic.Int32
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			askForPassword(w)
			return
		}
		sent.Add(1)
		hangUp(w)
	})
	rt := NewBasic(testUser, testPassword).RoundTripper(here, proxy.Settings{Roots: s.roots}, 8)
	defer closeIdle(rt)
	if _, _, err := post(t.Context(), rt, s.URL, true); err == nil || sent.Load() != 1 {
		t.Errorf("sent %d times: %v", sent.Load(), err)
	}
}

func TestAWebSiteThatAnswersWhoeverAsksSaysNothingOfAPassword(t *testing.T) {
	var asked atomic.Int32
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _, signed := r.BasicAuth()
		if signed && asked.Add(1)%2 == 1 { // the company's site, then Exchange
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			return
		}
		askForPassword(w)
	})
	rt := trip(t, NewBasic("svc", "wrong"), s)
	for range 20 {
		_, _, _ = s.post(t, rt)
	}
	if asked.Load() != 6 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestOnceThePasswordWorksNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		for range 2 {
			must(l.enter(t.Context()))(refused)
		}
		first := must(l.enter(t.Context()))
		let := make(chan func(signIn))
		for range 64 {
			go func() { let <- must(l.enter(t.Context())) }()
		}
		synctest.Wait()
		select {
		case <-let:
			t.Fatal("another went out before the first was answered")
		default:
		}
		first(accepted)
		for range 64 { // all are under way at the same time
			(<-let)(unanswered)
		}
		// A yes has refilled what the refusals had used up.
		for range 3 {
			must(l.enter(t.Context()))(refused)
		}
		if _, err := l.enter(t.Context()); fault.Of(err).Code != CodeHeld {
			t.Error(err)
		}
	})
}

func TestASignInThatHangsHoldsTheOthersForSecondsAndAtMostThreeAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		let := make(chan func(signIn))
		for range 64 {
			go func() { let <- must(l.enter(t.Context())) }()
		}
		next := func() func(signIn) {
			began := time.Now()
			done := <-let
			if wait := time.Since(began); wait > 3*time.Second {
				t.Errorf("the next waits %v", wait)
			}
			return done
		}
		nobody := func() {
			t.Helper()
			select {
			case <-let:
				t.Error("the directory may count a fourth")
			case <-time.After(time.Minute):
			}
		}
		first, second, third := next(), next(), next()
		nobody()
		third(refused)
		nobody() // one is refused, and two may be
		first(unanswered)
		fourth := next()
		nobody()
		second(accepted)
		for range 60 {
			(<-let)(unanswered)
		}
		fourth(unanswered)
		if l.trying != nil || l.tries != 0 {
			t.Errorf("%d tries are left", l.tries)
		}
	})
}

func TestATryWithoutAnAnswerLetsTheNextGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		for range 10 {
			must(l.enter(t.Context()))(unanswered)
		}
		// But where the password is held it counts as a try.
		for range 3 {
			must(l.enter(t.Context()))(refused)
		}
		<-time.After(5 * time.Minute)
		must(l.enter(t.Context()))(unanswered)
		if _, err := l.enter(t.Context()); fault.Of(err).Code != CodeHeld {
			t.Error(err)
		}
		<-time.After(5 * time.Minute)
		must(l.enter(t.Context()))(accepted)
		must(l.enter(t.Context()))(accepted)
	})
}

func TestWhoWaitsForTheFirstSignInWaitsNoLongerThanHeWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		first := must(l.enter(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.enter(ctx)
		if e := fault.Of(err); e.Scope != fault.Account || e.Remedy != fault.Wait {
			t.Error(err)
		}
		first(accepted)
	})
}

func TestAllRoundTrippersOfAPasswordShareItsTries(t *testing.T) {
	var asked atomic.Int32
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, signed := r.BasicAuth(); signed {
			asked.Add(1)
		}
		askForPassword(w)
	})
	c := NewBasic("svc", "wrong")
	var wg sync.WaitGroup
	for range 8 {
		rt := c.RoundTripper(here, proxy.Settings{Roots: s.roots}, 4)
		defer closeIdle(rt)
		for range 8 {
			wg.Go(func() { _, _, _ = s.post(t, rt) })
		}
	}
	wg.Wait()
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestWhatASignInSaysOfThePassword(t *testing.T) {
	for _, c := range []struct {
		status int
		want   signIn
	}{{200, accepted}, {204, accepted}, {299, accepted}, {300, unanswered}, {302, unanswered}, {401, refused}, {403, unanswered}, {407, unanswered}, {500, accepted}, {503, unanswered}} {
		if got := signInOf(&http.Response{StatusCode: c.status}); got != c.want {
			t.Errorf("%d: %d", c.status, got)
		}
	}
	if signInOf(nil) != unanswered {
		t.Error("an answer that did not come")
	}
}

// certificateFile is one that OpenSSL wrote; its password is bell-pass.
func certificateFile(name string) []byte {
	return must(os.ReadFile(filepath.Join("..", "internal", "certificate", "testdata", name)))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
