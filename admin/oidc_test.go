package admin

// Signing in at a provider of OpenID Connect: one in this file that can be told to do wrong, and oidc-provider, which somebody else wrote
// (provider_test.go).

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
)

const (
	clientID     = "mailbell-admin"
	clientSecret = "a-secret-of-the-provider"
)

// idp is a provider.
type idp struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu        sync.Mutex
	away      bool
	claims    jwt.MapClaims                // of the next ID token, beside the usual
	token     func(c jwt.MapClaims) string // signs it; nil: as it should be
	discovery map[string]any               // what else its description says
	codes     map[string]url.Values        // what each code was asked for by
	redeemed  int
}

// idpKey signs the tokens of all of them: a key takes a slow machine a second.
var idpKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := idpKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{key: key, codes: map[string]url.Values{}, claims: jwt.MapClaims{}, discovery: map[string]any{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", p.describe)
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256",
			"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}})
	})
	mux.HandleFunc("/token", p.exchange)
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	return p
}

// set changes what it does.
func (p *idp) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) describe(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		http.Error(w, "<html>down for maintenance", http.StatusServiceUnavailable)
		return
	}
	d := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
		"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}}
	maps.Copy(d, p.discovery)
	_ = json.NewEncoder(w).Encode(d)
}

// exchange is the token endpoint.
func (p *idp) exchange(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	asked, ok := p.codes[r.FormValue("code")]
	delete(p.codes, r.FormValue("code"))
	challenge := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if id != clientID || secret != clientSecret || !ok || asked.Get("redirect_uri") != r.FormValue("redirect_uri") ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) || asked.Get("code_challenge_method") != "S256" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"not so"}`))
		return
	}
	p.redeemed++
	c := jwt.MapClaims{"iss": p.URL, "aud": clientID, "sub": "4711", "nonce": asked.Get("nonce"), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
	maps.Copy(c, p.claims)
	sign := p.token
	if sign == nil {
		sign = p.sign
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": sign(c)})
}

func (p *idp) sign(c jwt.MapClaims) string {
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	t.Header["kid"] = "1"
	s, err := t.SignedString(p.key)
	if err != nil {
		panic(err)
	}
	return s
}

// consent is what the provider's page does once the person has signed in there: it gives a code, and leads back.
func (p *idp) consent(t *testing.T, to string) (back url.Values) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, p.URL+"/authorize?") {
		t.Fatalf("led to %s", to)
	}
	q := u.Query()
	for name, want := range map[string]string{"response_type": "code", "client_id": clientID, "scope": "openid profile email"} {
		if q.Get(name) != want {
			t.Errorf("%s=%q, want %q", name, q.Get(name), want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) < 20 {
			t.Errorf("%s=%q", name, q.Get(name))
		}
	}
	code := rand.Text()
	p.set(func() { p.codes[code] = q })
	return url.Values{"code": {code}, "state": {q.Get("state")}}
}

// provided is a site whose people sign in at a provider.
func provided(t *testing.T, p *idp) *site {
	t.Helper()
	s := newSite(t)
	s.signInAt(p)
	s.awaitProvider(t)
	return s
}

func (s *site) signInAt(p *idp) {
	s.pages.SignInBy(&OIDC{
		Provider: openid.New(openid.Options{Issuer: p.URL, ClientID: clientID, ClientSecret: clientSecret, RedirectURL: "https://mailbell.contoso.com" + CallbackPath,
			GroupsClaim: "groups", Transport: p.Client().Transport, Log: zap.NewNop()}),
		Groups:    map[string]api.Role{"g-admins": api.RoleAdmin, "g-readers": api.RoleRead},
		Addresses: map[string]api.Role{"ann@contoso.com": api.RoleTest, "kim@contoso.com": api.RoleTest},
	})
}

// awaitProvider waits until the provider is found.
func (s *site) awaitProvider(t *testing.T) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for s.pages.oidc.Load().Provider.Problem() != nil {
		if time.Now().After(end) {
			t.Fatal(s.pages.oidc.Load().Provider.Problem())
		}
		<-time.After(time.Millisecond)
	}
}

// comeBack is the answer when a person comes back from the provider.
func (s *site) comeBack(t *testing.T, back url.Values) answer {
	t.Helper()
	return s.get(t, CallbackPath+"?"+back.Encode(), "Sec-Fetch-Site", "cross-site")
}

// signedIn says whether the browser has a session.
func (s *site) signedIn(t *testing.T) bool {
	t.Helper()
	return s.get(t, root).StatusCode == http.StatusOK
}

// begin goes to the provider.
func (s *site) begin(t *testing.T, next string) (to string) {
	t.Helper()
	a := s.get(t, beginPath+"?next="+url.QueryEscape(next))
	if a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.text)
	}
	return a.Header.Get("Location")
}

func TestAPersonSignsInAtTheProviderAndGoesOnWhereTheyWanted(t *testing.T) {
	p := newIDP(t)
	s := provided(t, p)
	if page := s.get(t, signInPath+"?next=/admin/mailboxes").text; !strings.Contains(page, `href="/admin/sign-in/oidc?next=%2fadmin%2fmailboxes"`) &&
		!strings.Contains(page, `href="/admin/sign-in/oidc?next=%2Fadmin%2Fmailboxes"`) {
		t.Errorf("the page does not lead to the provider:\n%s", page)
	}
	p.set(func() { p.claims["groups"] = []string{"g-readers", "g-others", "g-admins"} })
	to := s.begin(t, "/admin/mailboxes")
	a := s.comeBack(t, p.consent(t, to))
	if a.StatusCode != http.StatusOK || !strings.Contains(a.text, `content="0; url=/admin/mailboxes"`) {
		t.Fatalf("%d\n%s", a.StatusCode, a.text)
	}
	var session, flow string
	for _, c := range a.Header.Values("Set-Cookie") {
		if strings.HasPrefix(c, cookieName+"=") {
			session = c
		} else {
			flow = c
		}
	}
	if !strings.HasSuffix(session, "; Path=/; HttpOnly; Secure; SameSite=Strict") || !strings.HasPrefix(flow, flowCookie+"=; Path=/; Max-Age=0") {
		t.Errorf("cookies %q and %q", session, flow)
	}
	if !s.signedIn(t) {
		t.Fatal("nobody is signed in")
	}
	said := s.log.FilterMessage("signed in to the admin page").All()
	if len(said) != 1 || said[0].ContextMap()["role"] != "admin" || said[0].ContextMap()["subject"] != "4711" {
		t.Errorf("the log says %v", said)
	}
	s.post(t, "/admin/sign-out", "csrf="+s.csrf(t)).leads(t, signInPath)
	if s.signedIn(t) {
		t.Error("the session goes on")
	}
}

func TestTheRoleComesFromAGroupOrFromAVerifiedAddress(t *testing.T) {
	for what, c := range map[string]struct {
		claims jwt.MapClaims
		want   api.Role // empty: none
	}{
		"a group":                        {jwt.MapClaims{"groups": []string{"g-readers"}}, api.RoleRead},
		"a group that is not a list":     {jwt.MapClaims{"groups": "g-readers"}, api.RoleRead},
		"several groups: the most":       {jwt.MapClaims{"groups": []string{"g-admins", "g-readers"}}, api.RoleAdmin},
		"an address":                     {jwt.MapClaims{"email": "Ann@Contoso.com", "email_verified": true}, api.RoleTest},
		"an address and a group":         {jwt.MapClaims{"email": "ann@contoso.com", "email_verified": "true", "groups": []string{"g-readers"}}, api.RoleTest},
		"an address that Entra verified": {jwt.MapClaims{"email": "ann@contoso.com", "xms_edov": true}, api.RoleTest},
		"an address that is not so":      {jwt.MapClaims{"email": "ann@contoso.com", "email_verified": false}, ""},
		"an address without a word":      {jwt.MapClaims{"email": "ann@contoso.com"}, ""},
		"an address with a Kelvin sign":  {jwt.MapClaims{"email": "\u212aim@contoso.com", "email_verified": true}, ""},
		"a user name":                    {jwt.MapClaims{"preferred_username": "ann@contoso.com", "upn": "ann@contoso.com", "name": "ann@contoso.com"}, ""},
		"another group":                  {jwt.MapClaims{"groups": []string{"G-ADMINS", "", "g-admins "}}, ""},
		"groups of another kind":         {jwt.MapClaims{"groups": []any{1, nil, map[string]any{"g-admins": true}}}, ""},
		"nothing":                        {jwt.MapClaims{}, ""},
		"an empty verified address":      {jwt.MapClaims{"email": "", "email_verified": true}, ""},
		"too many groups":                {jwt.MapClaims{"_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.windows.net/x"}}}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			p := newIDP(t)
			s := provided(t, p)
			p.set(func() { p.claims = c.claims })
			a := s.comeBack(t, p.consent(t, s.begin(t, root)))
			if c.want == "" {
				if a.StatusCode != http.StatusForbidden || s.signedIn(t) || !strings.Contains(a.text, "grants no role to you") {
					t.Errorf("%d, signed in: %v\n%s", a.StatusCode, s.signedIn(t), a.text)
				}
				if hidden := strings.Contains(a.text, "in so many groups"); hidden != (what == "too many groups") {
					t.Errorf("too many groups: %v", hidden)
				}
				return
			}
			said := s.log.FilterMessage("signed in to the admin page").All()
			if a.StatusCode != http.StatusOK || len(said) != 1 || said[0].ContextMap()["role"] != string(c.want) {
				t.Errorf("%d %v, want %s", a.StatusCode, said, c.want)
			}
		})
	}
}

// Whatever comes back that is not the answer to a sign-in that this browser began begins no session.
func TestWhatIsNotTheAnswerToThisSignInBeginsNoSession(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		provider func(p *idp)
		back     func(t *testing.T, s *site, back url.Values)
	}{
		"another state":   {back: func(_ *testing.T, _ *site, back url.Values) { back.Set("state", rand.Text()) }},
		"no state":        {back: func(_ *testing.T, _ *site, back url.Values) { back.Del("state") }},
		"two states":      {back: func(_ *testing.T, _ *site, back url.Values) { back.Add("state", "x") }},
		"no code":         {back: func(_ *testing.T, _ *site, back url.Values) { back.Del("code") }},
		"a made-up code":  {back: func(_ *testing.T, _ *site, back url.Values) { back.Set("code", "0123456789") }},
		"another browser": {back: func(_ *testing.T, s *site, _ url.Values) { s.browser = s.newBrowser() }},
		"a cookie of somebody's own making": {back: func(t *testing.T, s *site, back url.Values) {
			here, err := url.Parse(s.server.URL)
			if err != nil {
				t.Fatal(err)
			}
			flow := openid.Flow{State: back.Get("state"), Began: time.Now(), Issuer: s.pages.oidc.Load().Provider.Issuer()}
			c, err := newFlows().cookie(flow)
			if err != nil {
				t.Fatal(err)
			}
			s.browser.Jar.SetCookies(here, []*http.Cookie{c})
		}},
		"another provider's answer": {back: func(_ *testing.T, _ *site, back url.Values) { back.Set("iss", "https://evil.example") }},
		"two answers": {back: func(_ *testing.T, _ *site, back url.Values) {
			back["iss"] = []string{"https://a.example", "https://b.example"}
		}},
		"an error":          {back: func(_ *testing.T, _ *site, back url.Values) { back.Set("error", "access_denied") }},
		"another nonce":     {provider: func(p *idp) { p.claims["nonce"] = rand.Text() }},
		"no nonce":          {provider: func(p *idp) { p.claims["nonce"] = "" }},
		"another issuer":    {provider: func(p *idp) { p.claims["iss"] = "https://evil.example" }},
		"another audience":  {provider: func(p *idp) { p.claims["aud"] = "another-app" }},
		"for another party": {provider: func(p *idp) { p.claims["aud"], p.claims["azp"] = []string{"another-app", clientID}, "another-app" }},
		"expired":           {provider: func(p *idp) { p.claims["exp"] = time.Now().Add(-time.Minute).Unix() }},
		"not valid yet":     {provider: func(p *idp) { p.claims["nbf"] = time.Now().Add(time.Hour).Unix() }},
		"signed by another": {provider: func(p *idp) {
			p.token = func(c jwt.MapClaims) string { return (&idp{key: other}).sign(c) }
		}},
		"not signed": {provider: func(p *idp) {
			p.token = func(c jwt.MapClaims) string {
				s, err := jwt.NewWithClaims(jwt.SigningMethodNone, c).SignedString(jwt.UnsafeAllowNoneSignatureType)
				if err != nil {
					panic(err)
				}
				return s
			}
		}},
		"signed with the public key as a secret": {provider: func(p *idp) {
			p.token = func(c jwt.MapClaims) string {
				s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(clientSecret))
				if err != nil {
					panic(err)
				}
				return s
			}
		}},
		"no token":      {provider: func(p *idp) { p.token = func(jwt.MapClaims) string { return "" } }},
		"a huge token":  {provider: func(p *idp) { p.claims["x"] = strings.Repeat("x", 2<<20) }},
		"not a token":   {provider: func(p *idp) { p.token = func(jwt.MapClaims) string { return "a.b.c" } }},
		"a wrong claim": {provider: func(p *idp) { p.claims["email"] = []int{1} }},
	} {
		t.Run(what, func(t *testing.T) {
			p := newIDP(t)
			s := provided(t, p)
			p.set(func() {
				p.claims["groups"] = "g-admins"
				if c.provider != nil {
					c.provider(p)
				}
			})
			back := p.consent(t, s.begin(t, root))
			if c.back != nil {
				c.back(t, s, back)
			}
			a := s.comeBack(t, back)
			if a.StatusCode != http.StatusForbidden || s.signedIn(t) {
				t.Errorf("%d, signed in: %v\n%s", a.StatusCode, s.signedIn(t), a.text)
			}
			for _, l := range s.log.All() {
				for name, v := range l.ContextMap() {
					if text, _ := v.(string); strings.Contains(text, clientSecret) || strings.Contains(text, back.Get("code")) && back.Get("code") != "" {
						t.Errorf("the log has a secret as %s: %s", name, text)
					}
				}
			}
		})
	}
}

func TestACodeIsGoodOnce(t *testing.T) {
	p := newIDP(t)
	s := provided(t, p)
	p.set(func() { p.claims["groups"] = "g-admins" })
	to := s.begin(t, root)
	here, err := url.Parse(s.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	cookies := s.browser.Jar.Cookies(here)
	back := p.consent(t, to)
	if a := s.comeBack(t, back); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.text)
	}
	s.browser = s.newBrowser()
	if a := s.comeBack(t, back); a.StatusCode != http.StatusForbidden || s.signedIn(t) { // the address alone, from a history
		t.Errorf("%d, without the cookie", a.StatusCode)
	}
	s.browser.Jar.SetCookies(here, cookies)
	if a := s.comeBack(t, back); a.StatusCode != http.StatusForbidden || s.signedIn(t) {
		t.Errorf("%d, with the cookie", a.StatusCode)
	}
}

// Who begins in two tabs has begun in the second; an answer to the first does not take that away.
func TestASignInInASecondTabGoesOn(t *testing.T) {
	p := newIDP(t)
	s := provided(t, p)
	p.set(func() { p.claims["groups"] = "g-admins" })
	first, second := p.consent(t, s.begin(t, root)), p.consent(t, s.begin(t, root))
	if a := s.comeBack(t, first); a.StatusCode != http.StatusForbidden || s.signedIn(t) {
		t.Errorf("the first: %d %s", a.StatusCode, a.text)
	}
	if a := s.comeBack(t, second); a.StatusCode != http.StatusOK || !s.signedIn(t) {
		t.Errorf("the second: %d %s", a.StatusCode, a.text)
	}
}

func TestASignInLeadsToNoOtherSite(t *testing.T) {
	p := newIDP(t)
	s := provided(t, p)
	p.set(func() { p.claims["groups"] = "g-admins" })
	for _, next := range []string{"https://evil.example/", "//evil.example/admin/", "/admin/../evil", `/\evil.example`, "/admin/sign-in/oidc", "javascript:alert(1)", "/admin/%2e%2e/"} {
		a := s.comeBack(t, p.consent(t, s.begin(t, next)))
		if a.StatusCode != http.StatusOK || !strings.Contains(a.text, `content="0; url=/admin/"`) {
			t.Errorf("%s: %d\n%s", next, a.StatusCode, a.text)
		}
	}
}

// A provider that is away keeps nothing from starting, and its place is taken by the tokens.
func TestAProviderThatIsAwayIsSaidAndTriedAgain(t *testing.T) {
	p := newIDP(t)
	p.set(func() { p.away = true })
	s := newSite(t)
	s.signInAt(p)
	page := s.get(t, signInPath)
	if !strings.Contains(page.text, "cannot be reached. It is tried again every half minute. Until then sign in with a token.") || strings.Contains(page.text, beginPath) {
		t.Errorf("the page says\n%s", page.text)
	}
	if a := s.get(t, beginPath); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", a.StatusCode)
	}
	s.enter(t, readToken)
	p.set(func() { p.away = false })
	s.signInAt(p) // as a changed secret does; the time between two tries is held in package openid
	s.awaitProvider(t)
	s.begin(t, root)
}

func TestAProviderWhoseDescriptionIsWrongIsNotUsed(t *testing.T) {
	for name, wrong := range map[string]any{"issuer": "https://evil.example", "token_endpoint": "http://127.0.0.1/token", "jwks_uri": "file:///etc/passwd", "authorization_endpoint": "javascript:alert(1)"} {
		p := newIDP(t)
		p.set(func() { p.discovery[name] = wrong })
		s := newSite(t)
		s.signInAt(p)
		end := time.Now().Add(time.Minute)
		for {
			err := s.pages.oidc.Load().Provider.Problem()
			if err == nil || time.Now().After(end) {
				t.Fatalf("%s: %v", name, err)
			}
			if !strings.Contains(err.Error(), "not asked yet") {
				break
			}
			<-time.After(time.Millisecond)
		}
	}
}

func TestARoleThatIsTakenAwayEndsTheSession(t *testing.T) {
	p := newIDP(t)
	s := provided(t, p)
	p.set(func() { p.claims["groups"] = "g-admins" })
	s.comeBack(t, p.consent(t, s.begin(t, root)))
	if !s.signedIn(t) {
		t.Fatal("nobody is signed in")
	}
	was := s.pages.oidc.Load()
	s.pages.SignInBy(&OIDC{Provider: was.Provider, Groups: map[string]api.Role{"g-readers": api.RoleRead}})
	if s.signedIn(t) {
		t.Error("the session goes on without a role")
	}
	s.pages.SignInBy(nil)
	if a := s.get(t, beginPath); a.StatusCode != http.StatusNotFound {
		t.Errorf("%d without a provider", a.StatusCode)
	}
}

// Anybody can come back from no sign-in at all, again and again. It is counted as a wrong token is, and does not fill the log.
func TestRefusedAnswersOfAProviderAreAuditedAndDoNotFillTheLog(t *testing.T) {
	s := provided(t, newIDP(t))
	hurry, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits for the answers, which are delayed
	const tries = 500
	began := time.Now()
	for range tries {
		w := httptest.NewRecorder()
		s.pages.ServeHTTP(w, httptest.NewRequestWithContext(hurry, http.MethodGet, CallbackPath+"?code=x&state=y", http.NoBody))
		if w.Code != http.StatusForbidden {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	minutes := int(time.Since(began)/refusalsEvery) + 1
	if n := s.log.FilterMessage("nobody was signed in to the admin page").Len(); n == 0 || n > firstRefusals+minutes {
		t.Errorf("%d refusals are %d lines", tries, n)
	}
	if n := s.log.FilterMessage("sign-in with a wrong token").Len(); n == 0 || n > minutes+1 {
		t.Errorf("%d refusals are %d lines of the audit log", tries, n)
	}
}
