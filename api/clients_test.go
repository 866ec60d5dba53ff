package api

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBothTokensOfAClientAreGoodAndEachShowsWhenItWasUsedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const old, next = "the-token-of-today", "the-token-of-tomorrow"
		d := newBackend(t)
		var now [3]time.Time
		use := func(i int, token string, status int) {
			t.Helper()
			<-time.After(time.Minute)
			now[i] = time.Now().UTC()
			is(t, d.ask(t, token, "GET", "/v1/devices", ""), status, "")
		}
		want := func(signIns ...SignIn) {
			t.Helper()
			if diff := cmp.Diff([]ClientStatus{{Name: "mdm", Role: RoleRead, SignIns: signIns}}, d.handler.signIns()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleRead, Token: old}})
		use(0, next, 401)
		want(SignIn{By: "token"})
		use(0, old, 200)
		want(SignIn{By: "token", Last: now[0]})

		// The next one is told of: the old one is still good, and when it was used last is not forgotten.
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleRead, Token: old, NextToken: next}})
		want(SignIn{By: "token", Last: now[0]}, SignIn{By: "next_token"})
		use(1, next, 200)
		use(2, old, 200)
		want(SignIn{By: "token", Last: now[2]}, SignIn{By: "next_token", Last: now[1]})

		// The old one goes, and the next one is the token.
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleRead, Token: next}})
		use(0, old, 401)
		want(SignIn{By: "token", Last: now[1]})
	})
}

func TestASessionOfThePagesUsesItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		key, ok := d.handler.SignIn(httptest.NewRequestWithContext(t.Context(), "POST", "/admin/sign-in", nil), readToken)
		if !ok {
			t.Fatal("the token is refused")
		}
		<-time.After(time.Hour)
		if who, ok := d.handler.Person(key); !ok || who.Name != "grafana" {
			t.Errorf("%+v", who)
		}
		if got := d.handler.signIns()[1].SignIns[0].Last; !got.Equal(time.Now()) {
			t.Errorf("used last at %s, now it is %s", got, time.Now())
		}
	})
}
