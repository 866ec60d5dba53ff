package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/hidden"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// nasties are what others could have in their names, addresses and answers.
var nasties = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`, `</title></textarea></style>`, `{{.}}`, `<!--`, `]]>`,
	"\u202emoc.osotnoc@nna", "ann\u200b@contoso.com", "\u2066a\u2069\ufeff", "\x1b[2Jgone", "\u009b31mred", "a\x00b", "\xff\xfe", "\u2028\u2029", "line\r\nSet-Cookie: x=y", "\U000e0041",
	"data: x\n\nevent: page\ndata: <b>", strings.Repeat("W", 5000),
}

// wellFormed parses a page and checks what every page has to be: each element ends, no id stands twice, nothing is inline, every field of a
// form has a label, and there is no character that a reader cannot see.
func wellFormed(t testing.TB, what, text string) {
	t.Helper()
	for _, r := range text {
		if hidden.Is(r) {
			t.Errorf("%s: the page has the character %U", what, r)
		}
	}
	void := []string{"meta", "link", "img", "input", "br", "hr"}
	var open []string
	ids, labels, fields := map[string]bool{}, map[string]bool{}, []string{}
	for z := html.NewTokenizer(strings.NewReader(text)); ; {
		kind := z.Next()
		token := z.Token()
		switch kind {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("%s: %v do not end", what, open)
			}
			for _, f := range fields {
				if !labels[f] {
					t.Errorf("%s: the field %q has no label", what, f)
				}
			}
			return
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("%s: </%s> ends %v", what, token.Data, open)
			}
			open = open[:len(open)-1]
			continue
		case html.StartTagToken:
			if !slices.Contains(void, token.Data) {
				open = append(open, token.Data)
			}
		case html.SelfClosingTagToken:
		case html.TextToken, html.CommentToken, html.DoctypeToken:
			continue
		}
		attributes := map[string]string{}
		for _, a := range token.Attr {
			if _, twice := attributes[a.Key]; twice {
				t.Errorf("%s: <%s> has %s twice", what, token.Data, a.Key)
			}
			attributes[a.Key] = a.Val
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
				t.Errorf("%s: <%s> has %s", what, token.Data, a.Key)
			}
			ours := strings.HasPrefix(strings.ToLower(a.Val), "/admin/") || strings.HasPrefix(a.Val, "#") || a.Val == "/docs"
			if (a.Key == "href" || a.Key == "src" || a.Key == "action") && !ours {
				t.Errorf("%s: <%s> leads to %s", what, token.Data, a.Val)
			}
		}
		if id := attributes["id"]; id != "" {
			if ids[id] {
				t.Errorf("%s: the id %s stands twice", what, id)
			}
			ids[id] = true
		}
		switch {
		case token.Data == "label":
			labels[attributes["for"]] = true
		case kind == html.StartTagToken && (token.Data == "input" || token.Data == "select") && attributes["type"] != "hidden":
			fields = append(fields, attributes["id"])
		case token.Data == "script" && attributes["src"] != "/admin/static/page.js", token.Data == "style", token.Data == "iframe":
			t.Errorf("%s: there is a <%s>", what, token.Data)
		}
	}
}

// fill gives every text within a value, however deep, what is nasty.
func fill(v reflect.Value, nasty string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(nasty)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() {
				fill(field, nasty)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i), nasty)
		}
	default:
	}
}

func TestWhatOthersSayIsShownAndNeverObeyed(t *testing.T) {
	for _, nasty := range nasties {
		s := newSite(t)
		s.enter(t, adminToken)
		d := subscriptions.Device{ID: nasty, Mailbox: nasty, Token: "9c1d2e3f", Topic: nasty, Environment: nasty, Label: nasty, Created: time.Now(), Enrolled: time.Now()}
		s.devices[nasty], s.devices["plain"] = d, subscriptions.Device{ID: "plain", Mailbox: "plain@contoso.com", Token: "9c1d2e3f", Topic: nasty}
		st := s.statuses["ann@contoso.com"]
		st.Decisions = slices.Clone(st.Decisions)
		fill(reflect.ValueOf(&st.Location).Elem(), nasty)
		st.State, st.Reason, st.Account = subscriptions.Failing, nasty, nasty
		for i := range st.Decisions {
			st.Decisions[i].Device, st.Decisions[i].Code, st.Decisions[i].Reason = nasty, nasty, outcome.Reason(nasty)
		}
		s.statuses[nasty], s.statuses["plain@contoso.com"] = st, st
		fill(reflect.ValueOf(&s.overview).Elem(), nasty)
		s.overview.Conditions = append(s.overview.Conditions, check.Condition{Kind: check.KindAPNs, Name: nasty, Level: check.LevelWarn, Count: 2, Cause: nasty})
		s.overview.Topics = []api.Topic{{Topic: nasty, Environment: nasty, Reason: outcome.Reason(nasty), Advice: nasty, Refused: map[string]int{nasty: 1}}}
		s.overview.Exchange = []api.ExchangeEntry{{Name: nasty, Version: nasty}}
		s.overview.Webhooks = []api.Webhook{{Name: nasty, Error: nasty}, {Name: nasty, Error: nasty, Gone: true}}
		s.overview.Canaries = []api.Canary{{Mailbox: nasty, State: nasty, Reason: nasty, Advice: nasty}, {Mailbox: nasty, State: "lost", Reason: nasty}}
		s.away = errors.New(nasty)
		s.steps = []check.Step{{Name: nasty, Error: nasty, Advice: nasty}}
		s.api.SetClients([]api.Client{{Name: nasty, Role: api.RoleAdmin, Token: adminToken}})
		for _, target := range []string{
			root, "/admin/mailboxes", "/admin/mailboxes/plain@contoso.com", "/admin/mailboxes/" + url.PathEscape(nasty), "/admin/mailboxes/plain@contoso.com?" + url.Values{"device": {nasty}}.Encode(),
			"/admin/search?" + url.Values{"q": {nasty}}.Encode(), "/admin/search?q=", "/admin/" + url.PathEscape(nasty), "/admin/mailboxes?" + url.Values{"state": {nasty}, "after": {nasty}}.Encode(),
			"/admin/devices/" + url.PathEscape(nasty), "/admin/sign-in?" + url.Values{"next": {nasty}}.Encode(),
		} {
			if strings.Contains(nasty, "\x00") && strings.Contains(target, "%00") && !strings.Contains(target, "?") {
				continue
			}
			a := s.get(t, target)
			wellFormed(t, fmt.Sprintf("%s with %.40q", target, nasty), a.text)
		}
		a := s.post(t, "/admin/test-notifications", url.Values{"device": {"plain"}, "csrf": {s.csrf(t)}}.Encode())
		wellFormed(t, fmt.Sprintf("a test with %.40q", nasty), a.text)
	}
}

func TestWhatCannotBeSeenIsWrittenOut(t *testing.T) {
	for text, want := range map[string]string{
		"\u202eabc": `\u{202E}abc`, "a\u0085b": `a\u{0085}b`, "\x1b[31m": `\u{001B}[31m`, "a\x00": `a\u{0000}`, "zero\u200bwidth": `zero\u{200B}width`, "\ufeffx": `\u{FEFF}x`,
		"\xffx": "\ufffdx", "Grüße, 漢字 👋\n\tend": "Grüße, 漢字 👋\n\tend", "\r": `\u{000D}`, "\x7f": `\u{007F}`,
	} {
		if got := string(visible([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	s := newSite(t)
	s.enter(t, readToken)
	s.devices["twin"] = subscriptions.Device{ID: "twin", Mailbox: "\u202emoc.osotnoc@nna", Token: deviceHex}
	s.get(t, "/admin/mailboxes").shows(t, 200, `\u{202E}moc.osotnoc@nna`)
}

func TestEveryPageIsWellFormed(t *testing.T) {
	s := newSite(t)
	wellFormed(t, "sign-in", s.get(t, signInPath).text)
	wellFormed(t, "a wrong token", s.post(t, signInPath, "token=x").text)
	wellFormed(t, "a wrong role", s.post(t, signInPath, "token="+enrolToken).text)
	wellFormed(t, "a link", s.get(t, root, "Sec-Fetch-Site", "cross-site").text)
	s.enter(t, adminToken)
	for i := range 90 {
		s.pages.ring.list = append(s.pages.ring.list, sample{at: time.Now().Add(time.Duration(i-90) * time.Minute), alerts: float64(i), took: latency{.1, 2}, screen: latency{1, 20}})
	}
	for _, target := range []string{root, "/admin/mailboxes", "/admin/mailboxes/ann@contoso.com", "/admin/mailboxes/bob@contoso.com?device=bob-phone", "/admin/search?q=contoso", "/admin/search", "/admin/nothing"} {
		wellFormed(t, target, s.get(t, target).text)
	}
	wellFormed(t, "test", s.post(t, "/admin/test-notifications", "device=eve&csrf="+s.csrf(t)).text)
}

func TestNoPathLeadsOut(t *testing.T) {
	s := newSite(t)
	s.enter(t, adminToken)
	for _, target := range []string{
		"/admin/static/", "/admin/static", "/admin/static/.", "/admin/static/../admin.go", "/admin/static/..%2fadmin.go", "/admin/static/%2e%2e/admin.go", "/admin/static/..%5cadmin.go",
		"/admin/static//etc/passwd", "/admin/static/%2fetc%2fpasswd", "/admin/static/page.js/", "/admin/static/page.js%00.css", "/admin/../v1/status", "/admin//mailboxes", "/admin/./mailboxes",
		"/admin/mailboxes/", "/admin/mailboxes/a@b.c/d", "/admin/pages/layout.html", "/admin/%2e%2e/v1/status", "//admin/", "/admin/sign-in/x",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x", nil)
		u, err := url.Parse("http://h" + target)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		here, err := url.Parse(s.server.URL)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cookie", s.browser.Jar.Cookies(here)[0].String())
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d to %s", target, w.Code, w.Header().Get("Location"))
		}
	}
	for name, kind := range map[string]string{"page.js": "text/javascript", "style.css": "text/css", "bell.svg": "image/svg+xml"} {
		if a := s.get(t, "/admin/static/"+name); a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Header)
		}
	}
}

func TestADefectOfAPageIsSaidAndNotShown(t *testing.T) {
	s := newSite(t)
	w := httptest.NewRecorder()
	s.pages.render(w, 200, "overview", page{Body: "nothing that it can show"})
	if w.Code != 500 || strings.Contains(w.Body.String(), "template") || s.log.FilterMessage("a page could not be made").Len() != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func FuzzSearch(f *testing.F) {
	for _, nasty := range nasties {
		f.Add(nasty)
	}
	f.Add("ann")
	s := newPages()
	f.Cleanup(func() {
		s.pages.Close()
		s.api.Close()
	})
	key, _ := s.api.SignIn(httptest.NewRequestWithContext(f.Context(), http.MethodPost, signInPath, nil), readToken)
	cookie := s.pages.sessions.begin(key)
	f.Fuzz(func(t *testing.T, part string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/admin/search?"+url.Values{"q": {part}}.Encode(), nil)
		r.Header.Set("Cookie", cookieName+"="+cookie)
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			wellFormed(t, fmt.Sprintf("%q", part), w.Body.String())
		case http.StatusSeeOther:
			if to := w.Header().Get("Location"); safeNext(to) != to {
				t.Errorf("%q leads to %s", part, to)
			}
		default:
			t.Errorf("%q: %d", part, w.Code)
		}
	})
}

func FuzzNextStaysUnderAdmin(f *testing.F) {
	for _, next := range []string{"/admin/mailboxes/a@b.c?device=x", "//evil", "/admin/../v1", `/\evil`, "/admin/%2e%2e/x"} {
		f.Add(next)
	}
	base, err := url.Parse("https://mailbell.contoso.com/admin/sign-in")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, next string) {
		u, err := base.Parse(safeNext(next))
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || !strings.HasPrefix(u.Path, root) {
			t.Errorf("%q leads to %v: %v", next, u, err)
		}
	})
}
