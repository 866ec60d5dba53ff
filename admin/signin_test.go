package admin

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/api"
)

func TestNobodySeesAPageWithoutSigningIn(t *testing.T) {
	s := newSite(t)
	for target, next := range map[string]string{
		root: "", "/admin/nothing": "/admin/nothing", "/admin/mailboxes/ann@contoso.com?device=x": "/admin/mailboxes/ann@contoso.com?device=x",
	} {
		want := signInPath
		if next != "" {
			want += "?next=" + url.QueryEscape(next)
		}
		s.get(t, target).leads(t, want)
		s.get(t, target, "Cookie", cookieName+"=0123456789").leads(t, want)
		if a := s.get(t, target, "Accept", eventStream); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s as a stream: %d", target, a.StatusCode)
		}
	}
	s.post(t, "/admin/sign-out", "csrf=").leads(t, signInPath)
}

func TestTheRolesAreThoseOfTheAPI(t *testing.T) {
	for token, want := range map[string]int{readToken: 303, testToken: 303, adminToken: 303, enrolToken: 403, "wrong": 401, "": 401, deviceHex: 401} {
		s := newSite(t)
		a := s.post(t, signInPath, "token="+token)
		if a.StatusCode != want || (a.Header.Get("Set-Cookie") != "") != (want == 303) {
			t.Errorf("%q: %d %s, want %d", token, a.StatusCode, a.Header, want)
		}
		if token != "" && strings.Contains(a.text, token) {
			t.Errorf("the page has the token %q", token)
		}
		for _, l := range s.log.All() {
			for name, v := range l.ContextMap() {
				if v == token && token != "" {
					t.Errorf("the log has the token as %s", name)
				}
			}
		}
	}
}

func TestTheCookieIsForThisHostAloneAndForNoScript(t *testing.T) {
	s := newSite(t)
	got := s.post(t, signInPath, "token="+readToken).Header.Get("Set-Cookie")
	value, attributes, _ := strings.Cut(got, ";")
	if attributes != " Path=/; HttpOnly; Secure; SameSite=Strict" || !strings.HasPrefix(value, "__Host-mailbell=") || len(value) < 40 {
		t.Errorf("the cookie is %q", got)
	}
}

func TestASessionEndsAfterTwelveHoursWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		cookie := s.begin(api.Key{1})
		for range 5 {
			<-time.After(maxIdle - time.Second)
			if _, ok := s.find(cookie, true); !ok {
				t.Fatal("a session that is used has ended")
			}
		}
		<-time.After(maxIdle / 2)
		if _, ok := s.find(cookie, false); !ok { // a stream, which a page that was left open has
			t.Fatal("a session ended too early")
		}
		<-time.After(maxIdle / 2)
		if _, ok := s.find(cookie, true); ok {
			t.Error("a session that is not used goes on")
		}
	})
}

func TestTheSessionsAreBoundedAndTheOneThatIsIdleForLongestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		first, second := s.begin(api.Key{}), s.begin(api.Key{})
		<-time.After(time.Minute)
		s.find(first, true)
		for range maxSessions - 1 {
			s.begin(api.Key{})
		}
		if len(s.open) != maxSessions {
			t.Errorf("%d sessions, want %d", len(s.open), maxSessions)
		}
		if _, ok := s.find(first, false); !ok {
			t.Error("a session that was used lately has ended")
		}
		if _, ok := s.find(second, false); ok {
			t.Error("the session that is idle for longest goes on")
		}
	})
}

func TestTheSignInBeginsASessionThatNobodyKnewBefore(t *testing.T) {
	s := newSite(t)
	here, err := url.Parse(s.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.browser.Jar.SetCookies(here, []*http.Cookie{cookie("an-attacker-knows-this")})
	s.enter(t, readToken)
	first := s.browser.Jar.Cookies(here)[0].Value
	if first == "an-attacker-knows-this" {
		t.Fatal("the session has the value that the browser brought")
	}
	s.enter(t, testToken)
	if _, ok := s.pages.sessions.find(first, false); ok {
		t.Error("the session of whom the browser was signed in before goes on")
	}
	csrf, cookie := s.csrf(t), s.browser.Jar.Cookies(here)[0].Value
	s.post(t, "/admin/sign-out", "csrf="+csrf).leads(t, signInPath)
	s.get(t, root, "Cookie", cookieName+"="+cookie).leads(t, signInPath)
}

func TestATokenThatIsTakenAwayEndsItsSessions(t *testing.T) {
	s := newSite(t)
	s.enter(t, testToken)
	s.get(t, root).shows(t, 200, "helpdesk", "role test")
	s.api.SetClients([]api.Client{{Name: "desk", Role: api.RoleRead, Token: testToken}})
	s.get(t, root).shows(t, 200, "desk", "role read")
	s.api.SetClients([]api.Client{{Name: "desk", Role: api.RoleEnrol, Token: testToken}})
	s.get(t, root).leads(t, signInPath)
	s.api.SetClients([]api.Client{{Name: "desk", Role: api.RoleAdmin, Token: testToken}})
	s.get(t, root).leads(t, signInPath)
}

func TestNothingIsDoneForAnotherSite(t *testing.T) {
	s := newSite(t)
	s.enter(t, adminToken)
	csrf := s.csrf(t)
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		s.post(t, "/admin/sign-out", "csrf="+csrf, headers...).shows(t, 403, "nothing was done")
		s.post(t, signInPath, "token="+readToken, headers...).shows(t, 403, "nothing was done")
	}
	for _, form := range []string{"", "csrf=", "csrf=x", "csrf=" + csrf + "x", "csrf=x&csrf=" + csrf} {
		s.post(t, "/admin/sign-out", form).shows(t, 403, "nothing was done")
	}
	s.post(t, "/admin/sign-out?csrf="+csrf, "").shows(t, 403, "nothing was done")
	s.get(t, "/admin/sign-out?csrf="+csrf).shows(t, 404)
	other := newSite(t)
	other.enter(t, adminToken)
	s.post(t, "/admin/sign-out", "csrf="+other.csrf(t)).shows(t, 403, "nothing was done")
	s.get(t, root).shows(t, 200, "Overview")
	s.post(t, "/admin/sign-out", "csrf="+csrf, "Sec-Fetch-Site", "same-origin", "Origin", s.server.URL).leads(t, signInPath)
}

func TestALinkSurvivesTheSignInAndLeadsNowhereElse(t *testing.T) {
	s := newSite(t)
	const link = "/admin/mailboxes/ann@contoso.com?device=ann-phone"
	a := s.get(t, link)
	s.get(t, a.Header.Get("Location")).shows(t, 200, `name="next" value="`+link+`"`)
	s.post(t, signInPath, url.Values{"token": {readToken}, "next": {link}}.Encode()).leads(t, link)
	s.get(t, signInPath+"?next="+url.QueryEscape(link)).leads(t, link)
	for _, next := range []string{
		"https://evil.example/admin/", "//evil.example/admin/", `/\evil.example`, "/admin/\\evil", "/admin//evil.example", "/admin/../v1/status", "/admin/%2e%2e/v1",
		"/v1/status", "/adminx", "admin/", "javascript:alert(1)", "/admin/x\r\nSet-Cookie: a=b", "/admin/\t", "/admin/#x", "/admin/sign-in", "/admin/sign-out", "/admin/sign-in/../sign-out",
		" /admin/", "/admin/" + strings.Repeat("a", maxNext), "http:/admin/", "http:admin/", "/admin/\u202e", "/admin/%zz", "",
	} {
		s.get(t, signInPath+"?next="+url.QueryEscape(next)).leads(t, root)
		s.post(t, signInPath, url.Values{"token": {readToken}, "next": {next}}.Encode()).leads(t, root)
	}
}

func TestALinkFromAnotherSiteNeedsNoSecondSignIn(t *testing.T) {
	s := newSite(t)
	a := s.get(t, "/admin/mailboxes/o'ann@contoso.com?device=a&x=1", "Sec-Fetch-Site", "cross-site") // the browser keeps its cookie back
	a.shows(t, 200, `<meta http-equiv="refresh" content="0; url=/admin/mailboxes/o&#39;ann@contoso.com?device=a&amp;x=1">`)
	s.get(t, root, "Sec-Fetch-Site", "same-origin").leads(t, signInPath)
}

func TestFormsAreSmallAndOfOneKind(t *testing.T) {
	s := newSite(t)
	s.post(t, signInPath, "token="+strings.Repeat("x", maxForm)).shows(t, 413)
	s.post(t, signInPath, "token=%zz").shows(t, 400)
	s.do(t, http.MethodPost, signInPath, `{"token": "`+readToken+`"}`, "Content-Type", "application/json").shows(t, 415)
	s.do(t, http.MethodPost, signInPath, "token="+readToken).shows(t, 415)
	s.do(t, http.MethodPut, root, "").shows(t, 405)
	s.do(t, http.MethodPost, "/admin/static/page.js", "").shows(t, 405)
}
