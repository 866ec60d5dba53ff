package graph

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const authority = "https://login.microsoftonline.com"

// login is a token service.
type login struct {
	mu     sync.Mutex
	asked  []string
	keys   string
	answer func(url string) (status int, body string) // instead; nil: as it does
}

func (l *login) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, r.URL.String())
	if l.answer != nil {
		if status, body := l.answer(r.URL.String()); status != 0 {
			return reply(r, status, body), nil
		}
	}
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		tenant := strings.Split(r.URL.Path, "/")[1]
		return reply(r, 200, fmt.Sprintf(`{"issuer":"%s/%s/v2.0","jwks_uri":"%s/common/discovery/v2.0/keys"}`, authority, tenant, authority)), nil
	}
	return reply(r, 200, l.keys), nil
}

// atFour is a test at the time at which the tokens of the vectors are good.
func atFour(t *testing.T, run func(t *testing.T, v vectors, l *login, tokens *Tokens)) {
	synctest.Test(t, func(t *testing.T) {
		<-time.After(time.Until(time.Date(2026, 11, 28, 14, 30, 0, 0, time.UTC)))
		v, _ := readVectors(t)
		l := &login{keys: string(v.Tokens.Keys)}
		run(t, v, l, NewTokens(TokenOptions{HTTP: l, Authority: authority, Tenant: v.Tokens.Tenant, ClientID: v.Tokens.App}))
	})
}

func TestAValidationTokenOfGraphIsGoodAndNoOther(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, l *login, tokens *Tokens) {
		if len(v.Tokens.Good) != 2 || len(v.Tokens.Bad) < 12 {
			t.Fatal("the vectors are missing")
		}
		for name, token := range v.Tokens.Good {
			if err := tokens.Check(t.Context(), []string{token}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// One post may have notifications for several apps and tenants, and a token for each.
		for _, name := range []string{"another app", "another tenant", "another issuer"} {
			if err := tokens.Check(t.Context(), []string{v.Tokens.Bad[name], v.Tokens.Good["version 1"], v.Tokens.Bad[name]}); err != nil {
				t.Errorf("beside one of %s: %v", name, err)
			}
			if err := tokens.Check(t.Context(), []string{v.Tokens.Bad[name]}); fault.Of(err).Code != CodeToken {
				t.Errorf("%s alone: %v", name, err)
			}
			delete(v.Tokens.Bad, name)
		}
		for name, token := range v.Tokens.Bad {
			err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"], token})
			if f := fault.Of(err); err == nil || f.Code != CodeToken || token != "" && strings.Contains(err.Error(), token) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := tokens.Check(t.Context(), nil); fault.Of(err).Code != CodeToken {
			t.Errorf("a post without a token: %v", err)
		}
		if err := tokens.Check(t.Context(), []string{strings.Repeat("x", maxToken+1)}); fault.Of(err).Code != CodeToken {
			t.Error(err)
		}
		if len(l.asked) != 2 {
			t.Errorf("%d questions to the token service: %v", len(l.asked), l.asked)
		}
		<-time.After(36 * time.Minute)
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); fault.Of(err).Code != CodeToken {
			t.Errorf("a token that has expired: %v", err)
		}
	})
}

func TestTheKeysAreAskedForOnceWhoeverAsksAndAgainWhereOneIsNew(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, l *login, tokens *Tokens) {
		keys := l.keys
		l.keys = strings.ReplaceAll(keys, `"k1"`, `"k0"`) // before the rotation
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); fault.Of(err).Code != CodeToken {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if len(l.asked) != 2 {
			t.Errorf("%d questions", len(l.asked))
		}
		l.keys = keys
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); err == nil || len(l.asked) != 2 {
			t.Errorf("a key that nobody has is asked for each time (%v)", err)
		}
		<-time.After(keysPause)
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); err != nil || len(l.asked) != 4 {
			t.Errorf("%v, %d questions", err, len(l.asked))
		}
	})
}

func TestATokenServiceThatIsAwayIsNoForgery(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, l *login, tokens *Tokens) {
		good := []string{v.Tokens.Good["version 2"]}
		for name, answer := range map[string]func(string) (int, string){
			"away":    func(string) (int, string) { return 503, "" },
			"no JSON": func(string) (int, string) { return 200, "<html>" },
			"no keys": func(u string) (int, string) {
				return map[bool]int{true: 200}[strings.HasSuffix(u, "/keys")], `{"keys":[]}`
			},
			"keys elsewhere": func(string) (int, string) { return 200, `{"issuer":"x","jwks_uri":"https://evil.example/keys"}` },
			"keys in clear": func(string) (int, string) {
				return 200, `{"issuer":"x","jwks_uri":"http://login.microsoftonline.com/keys"}`
			},
		} {
			<-time.After(keysPause)
			l.answer = answer
			if f := fault.Of(tokens.Check(t.Context(), good)); f.Code == CodeToken || f.Peer != fault.TokenService || f.Remedy != fault.Wait {
				t.Errorf("%s: %v", name, f)
			}
			if strings.Contains(strings.Join(l.asked, " "), "evil") {
				t.Error(l.asked)
			}
		}
		l.answer = nil
		<-time.After(keysPause)
		if err := tokens.Check(t.Context(), good); err != nil {
			t.Error(err)
		}
	})
}

func TestOldKeysCountWhereThereAreNoNewOnes(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, l *login, tokens *Tokens) {
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 2"]}); err != nil {
			t.Fatal(err)
		}
		l.answer = func(string) (int, string) { return 503, "" }
		tokens.got = tokens.got.Add(-keysFor)
		tokens.asked = tokens.got
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); err != nil || len(l.asked) != 3 {
			t.Errorf("%v, %v", err, l.asked)
		}
	})
}

func TestTheWaitForKeysEndsWithItsContext(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, _ *login, tokens *Tokens) {
		tokens.asking <- struct{}{}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("over"))
		if err := tokens.Check(ctx, []string{v.Tokens.Good["version 1"]}); err == nil {
			t.Error("it is good without a key")
		}
	})
}

func TestTheTokensThatAreRememberedAreBounded(t *testing.T) {
	atFour(t, func(t *testing.T, v vectors, _ *login, tokens *Tokens) {
		for i := range maxChecked {
			tokens.checked[[32]byte{byte(i), byte(i >> 8), 1}] = time.Now().Add(time.Hour)
		}
		if err := tokens.Check(t.Context(), []string{v.Tokens.Good["version 1"]}); err != nil || len(tokens.checked) > maxChecked {
			t.Errorf("%d, %v", len(tokens.checked), err)
		}
	})
}

func FuzzAKeySetIsRead(f *testing.F) {
	v, _ := readVectors(f)
	f.Add(string(v.Tokens.Keys))
	f.Add(`{"keys":[{"kty":"RSA","kid":"x","n":"AQ","e":"AQAB"}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		l := &login{keys: body}
		tokens := NewTokens(TokenOptions{HTTP: l, Authority: authority, Tenant: "x", ClientID: "y"})
		_ = tokens.fetch(t.Context())
		for kid, k := range tokens.keys {
			if kid == "" || k.N.BitLen() < leastKeyBits || k.E < 2 {
				t.Errorf("%q: %+v", kid, k)
			}
		}
	})
}
