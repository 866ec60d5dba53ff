package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// issuer is a token service. Its fields may be changed while no fetch is under way.
type issuer struct {
	asked atomic.Int32
	life  time.Duration
	takes time.Duration // 0: a second
	err   *fault.Error
	hangs bool
	// renewIn is when it wants to be asked for the next; nil: it says nothing.
	renewIn *time.Duration
}

func (i *issuer) fetch(ctx context.Context) (token, error) {
	n := i.asked.Add(1)
	takes := i.takes
	if takes == 0 {
		takes = time.Second
	}
	if i.hangs {
		takes = time.Hour
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return token{}, &fault.Error{Op: opToken, Code: "timeout", Scope: fault.Account, Remedy: fault.Wait, Err: ctx.Err()}
	}
	if i.err != nil {
		return token{}, i.err
	}
	got := token{value: fmt.Sprintf("token %d", n), expires: time.Now().Add(i.life)}
	if i.renewIn != nil {
		got.renew = time.Now().Add(*i.renewIn)
	}
	return got, nil
}

func TestManyWhoWantATokenMakeOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		k := newTokens(i.fetch)
		defer k.close()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if got, err := k.get(t.Context()); got != "token 1" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
		// A server that refuses it is the same: one new token for all.
		for range 100 {
			wg.Go(func() {
				if got, err := k.replace(t.Context(), "token 1"); got != "token 2" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if i.asked.Load() != 2 {
			t.Errorf("asked %d times", i.asked.Load())
		}
	})
}

func TestOneWhoGivesUpDoesNotEndTheFetchOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour, takes: 10 * time.Second}
		k := newTokens(i.fetch)
		defer k.close()
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := k.get(hasty)
		if e := fault.Of(err); e.Scope != fault.Account || e.Remedy != fault.Wait || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got, err := k.get(t.Context()); got != "token 1" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestATokenIsRenewedBeforeItEndsAndNobodyWaits(t *testing.T) {
	for _, c := range []struct {
		name            string
		life            time.Duration
		earliest, ahead time.Duration // before its end
	}{
		{"of an hour", time.Hour, 6 * time.Minute, 5 * time.Minute},
		{"of three seconds", 3 * time.Second, 600 * time.Millisecond, 600 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: c.life, takes: time.Millisecond}
				k := newTokens(i.fetch)
				defer k.close()
				had := must(k.get(t.Context()))
				for range 5 {
					end := k.current.expires
					for {
						now := time.Now()
						got := must(k.get(t.Context()))
						if time.Since(now) != 0 {
							t.Fatal("somebody waited")
						}
						if got != had {
							had = got
							break
						}
						<-time.After(c.life / 3000)
					}
					if left := time.Until(end); left > c.earliest || left < c.ahead-c.life/1000 {
						t.Errorf("renewed %s before its end", left)
					}
				}
			})
		})
	}
}

func TestATokenServiceThatIsDownOrSlowDelaysNobodyWhileTheTokenLives(t *testing.T) {
	for _, broken := range []struct {
		name  string
		err   *fault.Error
		hangs bool
	}{
		{"down", &fault.Error{Op: opToken, Code: "HTTP 503", Scope: fault.Account, Remedy: fault.Wait}, false},
		{"hanging", nil, true},
	} {
		t.Run(broken.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: time.Hour}
				k := newTokens(i.fetch)
				defer k.close()
				must(k.get(t.Context()))
				i.err, i.hangs = broken.err, broken.hangs
				for begin := time.Now(); time.Since(begin) < time.Hour-time.Second; <-time.After(time.Second) {
					now := time.Now()
					if got, err := k.get(t.Context()); got != "token 1" || err != nil || time.Since(now) != 0 {
						t.Fatalf("after %s: %q, %v, in %s", time.Since(begin), got, err, time.Since(now))
					}
				}
				if n := i.asked.Load(); n < 4 || n > 20 {
					t.Errorf("%d tries in the last minutes", n)
				}
				<-time.After(2 * time.Second) // it has expired
				if _, err := k.get(t.Context()); fault.Of(err).Remedy != fault.Wait || fault.Of(err).After <= 0 {
					t.Error(err)
				}
				i.err, i.hangs = nil, false
				<-time.After(2 * time.Minute)
				if _, err := k.get(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAfterAFailureTheTokenServiceHasPeace(t *testing.T) {
	fix := &fault.Error{Op: opToken, Code: "AADSTS7000215", Scope: fault.Account, Remedy: fault.Fix}
	asked := &fault.Error{Op: opToken, Code: "HTTP 429", Scope: fault.Account, Remedy: fault.Wait, After: 3 * time.Minute}
	mad := &fault.Error{Op: opToken, Code: "HTTP 429", Scope: fault.Account, Remedy: fault.Wait, After: 1000 * time.Hour}
	down := &fault.Error{Op: opToken, Code: "connect", Scope: fault.Account, Remedy: fault.Wait}
	for _, c := range []struct {
		name       string
		err        *fault.Error
		least, max int32 // requests in an hour of calls, one a second
	}{
		{"that a person has to mend", fix, 50, 61},
		{"that asks for a pause", asked, 17, 21},
		{"that asks for a mad pause", mad, 5, 7},
		{"that passes", down, 50, 70},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{err: c.err, takes: time.Millisecond}
				k := newTokens(i.fetch)
				defer k.close()
				for range 3600 {
					_, err := k.get(t.Context())
					if e := fault.Of(err); e.Code != c.err.Code || e.Remedy != c.err.Remedy || e.After <= 0 {
						t.Fatalf("%+v", e)
					}
					<-time.After(time.Second)
				}
				if n := i.asked.Load(); n < c.least || n > c.max {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

func TestATokenThatEndsAsItComesIsNotAskedForAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: 0, takes: time.Millisecond}
		k := newTokens(i.fetch)
		defer k.close()
		for range 100 {
			if _, err := k.get(t.Context()); err == nil {
				t.Fatal("a token that has expired")
			}
		}
		if i.asked.Load() != 1 {
			t.Errorf("%d requests", i.asked.Load())
		}
	})
}

func TestATokenServiceThatWantsToBeAskedAgainAtOnceIsNotAskedOnAndOn(t *testing.T) {
	for _, renewIn := range []time.Duration{-time.Hour, 0, time.Second, 30 * time.Minute} {
		t.Run(renewIn.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: time.Hour, takes: time.Millisecond, renewIn: &renewIn}
				k := newTokens(i.fetch)
				defer k.close()
				must(k.get(t.Context()))
				<-time.After(50 * time.Minute)
				if n := i.asked.Load(); n < 2 || n > 6 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

func TestCloseEndsAFetchUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{hangs: true}
		k := newTokens(i.fetch)
		go func() { _, _ = k.get(t.Context()) }()
		synctest.Wait()
		begin := time.Now()
		k.close()
		if time.Since(begin) != 0 {
			t.Errorf("closed after %s", time.Since(begin))
		}
		if _, err := k.get(t.Context()); err == nil {
			t.Error("a token after the end")
		}
	})
}

func TestATokenIsShownByNoWayOfWriting(t *testing.T) {
	k := token{value: "eyJ-secret", expires: time.Now()}
	if s := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(s, "secret") {
		t.Error(s)
	}
}

func TestAccountsDoNotAllRenewTheirTokensAtOnce(t *testing.T) {
	now := time.Now()
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		before := time.Hour - renewalOf(token{value: "x", expires: now.Add(time.Hour)}, now).Sub(now)
		least, most = min(least, before), max(most, before)
	}
	if least < 5*time.Minute || most > 6*time.Minute || most-least < 45*time.Second {
		t.Errorf("a thousand tokens are renewed %v to %v before their end", least, most)
	}
}

func TestAccountsThatAreRefusedDoNotAllAskAgainAtOnce(t *testing.T) {
	for _, c := range []struct {
		e           *fault.Error
		failures    int
		least, most time.Duration
	}{
		{&fault.Error{Remedy: fault.Fix}, 1, time.Minute, 75 * time.Second},
		{&fault.Error{Remedy: fault.Fix, After: 1000 * time.Hour}, 1, 10 * time.Minute, 11 * time.Minute},
		{&fault.Error{Remedy: fault.Wait, After: 1000 * time.Hour}, 1, 10 * time.Minute, 11 * time.Minute},
		{&fault.Error{Remedy: fault.Wait}, 1, time.Second, 1250 * time.Millisecond},
		{&fault.Error{Remedy: fault.Wait}, 100, time.Minute, 75 * time.Second},
	} {
		least, most := 1000*time.Hour, time.Duration(0)
		for range 1000 {
			pause := pauseAfter(c.e, c.failures)
			least, most = min(least, pause), max(most, pause)
		}
		if least < c.least || most > c.most || most-least < (c.most-c.least)/2 {
			t.Errorf("%v after %d failures: %v to %v, want all of %v to %v", c.e.Remedy, c.failures, least, most, c.least, c.most)
		}
	}
}
