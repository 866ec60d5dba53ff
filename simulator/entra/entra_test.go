package entra

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	msalerrors "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/public"
	jwtlib "github.com/golang-jwt/jwt/v5"

	"github.com/mailbell/mailbell/simulator/faults"
)

const (
	testTenant = "5de110f8-2e0f-4d45-891d-bcf2218e253d"
	testClient = "6731de76-14a6-49ae-97bc-6eba6914391e"
	testSecret = "9Xk8Q~the-value-of-the-secret"
	testUser   = "svc-bell@contoso.example"
	testScope  = exchangeName + "/.default"
	loginHost  = "login.example"
	badGuess   = "neither-secret-nor-password"
)

// entraKey and appKey are made once: an RSA key takes longer than most tests.
var (
	entraKey = sync.OnceValue(func() *rsa.PrivateKey { return mustRSA() })
	appKey   = sync.OnceValue(func() *rsa.PrivateKey { return mustRSA() })
)

func mustRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// appCertificate is self-signed, as administrators make them.
func appCertificate(t testing.TB, key crypto.Signer, from, until time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(from.Unix()), Subject: pkix.Name{CommonName: "mailbell"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testEntra has everything granted; change takes something away.
func testEntra(t testing.TB, change ...func(*Options)) *Tenant {
	t.Helper()
	o := Options{
		Tenant: testTenant, Domains: []string{"Contoso.example"}, ClientID: testClient, FullAccess: true, PublicClient: true, Consent: true,
		Secrets: []Secret{{Value: testSecret}}, Users: []User{{Address: testUser, Password: "right"}}, Key: entraKey(),
		Faults: faults.New(append(Faults(), faults.ClockSkew)...),
	}
	for _, c := range change {
		c(&o)
	}
	t.Cleanup(o.Faults.Close)
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// set sets a fault of the token service.
func set(t testing.TB, e *Tenant, name string, f faults.Fault) {
	t.Helper()
	if err := e.faults.Set(name, f); err != nil {
		t.Fatal(err)
	}
}

// secretForm is a good request; pairs of name and value change it, an empty value takes a parameter away.
func secretForm(pairs ...string) url.Values {
	return changed(url.Values{"grant_type": {grantClient}, "client_id": {testClient}, "client_secret": {testSecret}, "scope": {testScope}}, pairs)
}

func passwordForm(pairs ...string) url.Values {
	return changed(url.Values{"grant_type": {grantPassword}, "client_id": {testClient}, "username": {testUser}, "password": {"right"},
		"scope": {testScope + " openid offline_access profile"}, "client_info": {"1"}}, pairs)
}

func changed(form url.Values, pairs []string) url.Values {
	for pair := range slices.Chunk(pairs, 2) {
		if form.Set(pair[0], pair[1]); pair[1] == "" {
			form.Del(pair[0])
		}
	}
	return form
}

// post sends a form to the token endpoint of a tenant, without a socket.
func post(e http.Handler, tenant string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "https://"+loginHost+"/"+tenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

func get(e http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://"+loginHost+target, http.NoBody))
	return w
}

// wantToken is the answer of a request that must be granted.
func wantToken(t testing.TB, w *httptest.ResponseRecorder) tokenAnswer {
	t.Helper()
	var a tokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); w.Code != http.StatusOK || err != nil || a.AccessToken == "" || a.Type != "Bearer" {
		t.Fatalf("status %d, %s", w.Code, w.Body)
	}
	return a
}

var descriptionForm = regexp.MustCompile(`^AADSTS(\d+): (.+) Trace ID: ([0-9a-f-]{36}) Correlation ID: ([0-9a-f-]{36}) Timestamp: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ)$`)

// wantError checks the whole form of an error, and returns its text.
func wantError(t testing.TB, w *httptest.ResponseRecorder, status int, oauth string, code int) string {
	t.Helper()
	var a struct {
		Error         string `json:"error"`
		Description   string `json:"error_description"`
		Codes         []int  `json:"error_codes"`
		Timestamp     string `json:"timestamp"`
		TraceID       string `json:"trace_id"`
		CorrelationID string `json:"correlation_id"`
		URI           string `json:"error_uri"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("status %d, %v: %s", w.Code, err, w.Body)
	}
	m := descriptionForm.FindStringSubmatch(a.Description)
	if w.Code != status || a.Error != oauth || !slices.Equal(a.Codes, []int{code}) || m == nil || m[1] != fmt.Sprint(code) {
		t.Fatalf("status %d, want %d %s %d: %s", w.Code, status, oauth, code, w.Body)
	}
	if m[3] != a.TraceID || m[4] != a.CorrelationID || m[5] != a.Timestamp || a.URI != fmt.Sprintf("https://%s/error?code=%d", loginHost, code) ||
		w.Header().Get("x-ms-request-id") != a.TraceID || strings.ContainsAny(m[2], "{}") && !strings.Contains(m[2], "{EmailHidden}") {
		t.Fatalf("not in Entra's form: %s", w.Body)
	}
	return m[2]
}

// bearerRequest carries a token.
func bearerRequest(authorization string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://outlook.example/EWS/Exchange.asmx", http.NoBody)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

// assertion signs claims as an app would, with a library of its own.
func assertion(t testing.TB, method jwtlib.SigningMethod, key any, header map[string]any, claims jwtlib.MapClaims) string {
	t.Helper()
	token := jwtlib.NewWithClaims(method, claims)
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func thumb256(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// goodClaims are those of an assertion that is accepted.
func goodClaims(now time.Time) jwtlib.MapClaims {
	return jwtlib.MapClaims{"aud": "https://" + loginHost + "/" + testTenant + "/oauth2/v2.0/token", "iss": testClient, "sub": testClient,
		"jti": rand.Text(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
}

func assertionForm(s string) url.Values {
	return secretForm("client_secret", "", "client_assertion_type", assertionType, "client_assertion", s)
}

// The library that the product uses, over TLS.

func startEntra(t *testing.T, e *Tenant) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(e)
	t.Cleanup(server.Close)
	return server
}

func TestMSALGetsATokenThatExchangeTakes(t *testing.T) {
	from := time.Now().Add(-time.Hour)
	certificate := appCertificate(t, appKey(), from, from.Add(24*time.Hour))
	bySecret, err := confidential.NewCredFromSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	byCertificate, err := confidential.NewCredFromCert([]*x509.Certificate{certificate}, appKey())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		credential confidential.Credential
		tenant     string
		strength   string
	}{
		"by a client secret":            {bySecret, testTenant, "1"},
		"by a certificate":              {byCertificate, testTenant, "2"},
		"with the tenant by its domain": {byCertificate, "contoso.example", "2"},
		"with the tenant in upper case": {bySecret, strings.ToUpper(testTenant), "1"},
		"with a domain in any case":     {bySecret, "CONTOSO.example", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{certificate} })
			server := startEntra(t, e)
			client, err := confidential.New(server.URL+"/"+c.tenant, testClient, c.credential,
				confidential.WithHTTPClient(server.Client()), confidential.WithInstanceDiscovery(false))
			if err != nil {
				t.Fatal(err)
			}
			result, err := client.AcquireTokenByCredential(t.Context(), []string{testScope})
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(result.ExpiresOn); left < accessLife-time.Minute || left > accessLife {
				t.Errorf("expires in %s", left)
			}
			got, refusal := e.Check(bearerRequest("Bearer "+result.AccessToken), exchangeName, time.Now())
			if refusal != nil || got.App != testClient || got.Delegated || got.User != "" || !slices.Equal(got.Roles, []string{roleFullAccess}) {
				t.Errorf("%+v, refusal %v", got, refusal)
			}
			var claims accessClaims
			parsed, _ := parseJWS(result.AccessToken)
			if err := json.Unmarshal(parsed.claims, &claims); err != nil || claims.Strength != c.strength || claims.Audience != exchangeName ||
				claims.Tenant != testTenant || claims.Issuer != "https://sts.windows.net/"+testTenant+"/" {
				t.Errorf("%v %s", err, parsed.claims)
			}
			if n := e.Count(); n.Requests[grantClient] != 1 || n.Issued != 1 || n.Refused != 0 || n.Discovery[routeConfig] != 1 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestMSALSignsAUserInAndGoesOnWithTheRefreshToken(t *testing.T) {
	e := testEntra(t)
	set(t, e, tokenShort, faults.Fault{Seconds: 60}) // short enough that MSAL does not use it again
	server := startEntra(t, e)
	for _, tenant := range []string{testTenant, anyOrganization} {
		client, err := public.New(testClient, public.WithAuthority(server.URL+"/"+tenant), public.WithHTTPClient(server.Client()), public.WithInstanceDiscovery(false))
		if err != nil {
			t.Fatal(err)
		}
		scopes := []string{exchangeName + "/" + scopeEWS}
		result, err := client.AcquireTokenByUsernamePassword(t.Context(), scopes, testUser, "right") //nolint:staticcheck // deprecated, and what a listener account is
		if err != nil {
			t.Fatalf("%s: %v", tenant, err)
		}
		if result.Account.PreferredUsername != testUser || !slices.Contains(result.GrantedScopes, scopes[0]) || len(result.DeclinedScopes) > 0 {
			t.Errorf("%s: account %+v, granted %v, declined %v", tenant, result.Account, result.GrantedScopes, result.DeclinedScopes)
		}
		again, err := client.AcquireTokenSilent(t.Context(), scopes, public.WithSilentAccount(result.Account))
		if err != nil {
			t.Fatalf("%s: %v", tenant, err)
		}
		if again.AccessToken == result.AccessToken {
			t.Errorf("%s: the same token", tenant)
		}
		for _, token := range []string{result.AccessToken, again.AccessToken} {
			got, refusal := e.Check(bearerRequest("Bearer "+token), exchangeName, time.Now())
			if refusal != nil || !got.Delegated || got.User != testUser || got.App != testClient || got.Roles != nil {
				t.Errorf("%s: %+v, refusal %v", tenant, got, refusal)
			}
		}
		e.SetUser(User{Address: testUser, Password: "right"}) // as a changed password does
		if _, err := client.AcquireTokenSilent(t.Context(), scopes, public.WithSilentAccount(result.Account)); err == nil {
			t.Errorf("%s: the refresh token outlived the password", tenant)
		}
	}
	if n := e.Count(); n.Requests[grantPassword] != 2 || n.Requests[grantRefresh] != 4 || n.Discovery[routeRealm] != 2 || n.Refused != 2 {
		t.Errorf("%+v", n)
	}
}

func TestMSALTellsTheCodeOfARefusal(t *testing.T) {
	server := startEntra(t, testEntra(t))
	credential, err := confidential.NewCredFromSecret("wrong")
	if err != nil {
		t.Fatal(err)
	}
	for tenant, c := range map[string]struct {
		status int
		code   string
	}{
		testTenant:         {http.StatusUnauthorized, "AADSTS7000215"},
		"fabrikam.example": {http.StatusBadRequest, "AADSTS90002"},
	} {
		client, err := confidential.New(server.URL+"/"+tenant, testClient, credential, confidential.WithHTTPClient(server.Client()), confidential.WithInstanceDiscovery(false))
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.AcquireTokenByCredential(t.Context(), []string{testScope})
		if call, ok := errors.AsType[msalerrors.CallErr](err); !ok || call.Resp.StatusCode != c.status || !strings.Contains(err.Error(), c.code) {
			t.Errorf("%s: %v", tenant, err)
		}
	}
}

// The errors.

func TestEachRefusalHasItsCodeAndForm(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	rows := []struct {
		name   string
		change func(*Options)
		tenant string
		form   url.Values
		status int
		oauth  string
		code   int
		text   string // part of the description
	}{
		{"a wrong secret", nil, testTenant, secretForm("client_secret", badGuess), 401, "invalid_client", 7000215, "for a secret added to app '" + testClient + "'"},
		{"an app without a secret", func(o *Options) { o.Secrets = nil }, testTenant, secretForm(), 401, "invalid_client", 7000215, ""},
		{"an expired secret", func(o *Options) { o.Secrets[0].Expires = past }, testTenant, secretForm(), 401, "invalid_client", 7000222, "'" + testClient + "' are expired"},
		{"no credential", nil, testTenant, secretForm("client_secret", ""), 401, "invalid_client", 7000216, "'client_credentials' grant type"},
		{"another app", nil, testTenant, secretForm("client_id", testTenant), 400, "unauthorized_client", 700016, "'" + testTenant + "' was not found in the directory"},
		{"another tenant", nil, "fabrikam.example", secretForm(), 400, "invalid_request", 90002, "Tenant 'fabrikam.example' not found."},
		{"the endpoint of all tenants", nil, anyTenant, secretForm(), 400, "invalid_request", 9001023, ""},
		{"the endpoint of all organizations without a user", nil, anyOrganization, secretForm(), 400, "invalid_request", 9001023, ""},
		{"a grant that is not served", nil, testTenant, secretForm("grant_type", "authorization_code"), 400, "unsupported_grant_type", 70003, "'authorization_code'"},
		{"a grant called as its counter is", nil, testTenant, secretForm("grant_type", "other"), 400, "unsupported_grant_type", 70003, ""},
		{"no grant", nil, testTenant, secretForm("grant_type", ""), 400, "invalid_request", 900144, "'grant_type'"},
		{"no form", nil, testTenant, url.Values{}, 400, "invalid_request", 900144, "'grant_type'"},
		{"no client", nil, testTenant, secretForm("client_id", ""), 400, "invalid_request", 900144, "'client_id'"},
		{"no scope", nil, testTenant, secretForm("scope", ""), 400, "invalid_request", 900144, "'scope'"},
		{"no password", nil, testTenant, passwordForm("password", ""), 400, "invalid_request", 900144, "'password'"},
		{"no refresh token", nil, testTenant, passwordForm("grant_type", grantRefresh), 400, "invalid_request", 900144, "'refresh_token'"},
		{"a parameter twice", nil, testTenant, url.Values{"grant_type": {grantClient}, "client_id": {testClient, testClient}}, 400, "invalid_request", 9000411, "'client_id' is duplicated"},
		{"a form above the limit", nil, testTenant, secretForm("x", strings.Repeat("x", maxTokenForm)), 400, "invalid_request", 900144, ""},
		{"a scope for an app without /.default", nil, testTenant, secretForm("scope", exchangeName+"/"+scopeEWS), 400, "invalid_scope", 1002012, exchangeName + "/" + scopeEWS + " is not valid"},
		{"a scope of nothing", nil, testTenant, passwordForm("scope", "openid profile"), 400, "invalid_scope", 70011, ""},
		{"a scope of two resources", nil, testTenant, passwordForm("scope", graphName+"/"+scopeEWS+" "+exchangeName+"/"+scopeEWS), 400, "invalid_scope", 70011, ""},
		{"a permission that is not Exchange's", nil, testTenant, passwordForm("scope", exchangeName+"/EWS.Nothing"), 400, "invalid_scope", 70011, "/EWS.Nothing is not valid"},
		{"a resource that the tenant does not know", nil, testTenant, secretForm("scope", "https://ews.example/.default"), 400, "invalid_resource", 500011, "named https://ews.example was not found"},
		{"a wrong password", nil, testTenant, passwordForm("password", badGuess), 400, "invalid_grant", 50126, ""},
		{"an unknown user", nil, testTenant, passwordForm("username", "nobody@contoso.example"), 400, "invalid_grant", 50034, testTenant + " directory"},
		{"a user of another domain", func(o *Options) { o.Domains = nil }, testTenant, passwordForm(), 400, "invalid_grant", 50034, ""},
		{"a second factor", func(o *Options) { o.Users[0].MFA = true }, testTenant, passwordForm(), 400, "invalid_grant", 50076, "to access '" + exchangeName + "'"},
		{"a disabled user", func(o *Options) { o.Users[0].Disabled = true }, testTenant, passwordForm(), 400, "invalid_grant", 50057, ""},
		{"a disabled user, to who does not know the password", func(o *Options) { o.Users[0].Disabled = true }, testTenant, passwordForm("password", badGuess), 400, "invalid_grant", 50126, ""},
		{"a locked user", func(o *Options) { o.Users[0].Locked = true }, testTenant, passwordForm(), 400, "invalid_grant", 50053, ""},
		{"public client flows not allowed", func(o *Options) { o.PublicClient = false }, testTenant, passwordForm(), 401, "invalid_client", 7000218, ""},
		{"no consent", func(o *Options) { o.Consent = false }, testTenant, passwordForm(), 400, "invalid_grant", 65001, "'" + testClient + "'"},
		{"no consent for another resource", nil, testTenant, passwordForm("scope", graphName+"/.default"), 400, "invalid_grant", 65001, ""},
		{"a refresh token that was never given", nil, testTenant, passwordForm("grant_type", grantRefresh, "refresh_token", "0.A"), 400, "invalid_grant", 70000, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			e := testEntra(t)
			if row.change != nil {
				e = testEntra(t, row.change)
			}
			w := post(e, row.tenant, row.form)
			if text := wantError(t, w, row.status, row.oauth, row.code); !strings.Contains(text, row.text) {
				t.Errorf("%q does not tell %q", text, row.text)
			}
			if strings.Contains(w.Body.String(), testSecret) || strings.Contains(w.Body.String(), badGuess) {
				t.Errorf("tells what was sent: %s", w.Body)
			}
			if n := e.Count(); n.Refused != 1 || n.Issued != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestOnlyPostGetsAToken(t *testing.T) {
	e := testEntra(t)
	text := wantError(t, get(e, "/"+testTenant+"/oauth2/v2.0/token?"+secretForm().Encode()), http.StatusBadRequest, "invalid_request", aadstsNotPost)
	if !strings.Contains(text, "Received a GET request") {
		t.Error(text)
	}
}

func TestARefusalCarriesTheClientsRequestID(t *testing.T) {
	const id = "1f2e3d4c-0000-4000-8000-123456789abc"
	r := httptest.NewRequest(http.MethodPost, "https://"+loginHost+"/"+testTenant+"/oauth2/v2.0/token", http.NoBody)
	r.Header.Set("client-request-id", strings.ToUpper(id))
	r.Header.Set("return-client-request-id", "true")
	w := httptest.NewRecorder()
	testEntra(t).ServeHTTP(w, r)
	wantError(t, w, http.StatusBadRequest, "invalid_request", aadstsParameterMissing)
	if !strings.Contains(w.Body.String(), `"correlation_id":"`+id+`"`) || w.Header().Get("client-request-id") != id {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestTenWrongPasswordsLockAnAccountForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEntra(t)
		for range lockAfter {
			wantError(t, post(e, testTenant, passwordForm("password", badGuess)), http.StatusBadRequest, "invalid_grant", aadstsWrongPassword)
		}
		wantError(t, post(e, testTenant, passwordForm()), http.StatusBadRequest, "invalid_grant", aadstsUserLocked)
		<-time.After(lockTime)
		wantError(t, post(e, testTenant, passwordForm("password", badGuess)), http.StatusBadRequest, "invalid_grant", aadstsWrongPassword)
		wantError(t, post(e, testTenant, passwordForm()), http.StatusBadRequest, "invalid_grant", aadstsUserLocked)
		<-time.After(lockTime)
		wantToken(t, post(e, testTenant, passwordForm()))
		for range lockAfter - 1 {
			wantError(t, post(e, testTenant, passwordForm("password", badGuess)), http.StatusBadRequest, "invalid_grant", aadstsWrongPassword)
		}
		wantToken(t, post(e, testTenant, passwordForm())) // a right one in between starts the count anew
	})
}

func TestARefreshTokenExpiresUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEntra(t)
		refresh := wantToken(t, post(e, testTenant, passwordForm())).RefreshToken
		form := passwordForm("grant_type", grantRefresh, "refresh_token", refresh)
		wantToken(t, post(e, testTenant, form))
		<-time.After(refreshLife)
		wantError(t, post(e, testTenant, form), http.StatusBadRequest, "invalid_grant", aadstsRefreshTokenExpired)
	})
}

// Client assertions.

func TestAnAssertionIsTakenByEitherThumbprintAndAlgorithm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(-time.Hour)
		c := appCertificate(t, appKey(), from, from.Add(24*time.Hour))
		e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{c} })
		sum1, sum256 := sha1.Sum(c.Raw), sha256.Sum256(c.Raw)
		for name, row := range map[string]struct {
			method jwtlib.SigningMethod
			header map[string]any
			aud    string
		}{
			"PS256, x5t#S256 as RFC 7515 has it":    {jwtlib.SigningMethodPS256, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum256[:])}, "/oauth2/v2.0/token"},
			"PS256, x5t#S256 as MSAL writes it":     {jwtlib.SigningMethodPS256, map[string]any{"x5t#S256": base64.StdEncoding.EncodeToString(sum256[:])}, "/oauth2/v2.0/token"},
			"RS256, x5t":                            {jwtlib.SigningMethodRS256, map[string]any{"x5t": base64.RawURLEncoding.EncodeToString(sum1[:])}, "/oauth2/v2.0/token"},
			"RS256, x5t#S256, meant for the issuer": {jwtlib.SigningMethodRS256, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum256[:])}, "/v2.0"},
		} {
			claims := goodClaims(time.Now())
			claims["aud"] = "https://" + loginHost + "/" + testTenant + row.aud
			a := assertion(t, row.method, appKey(), row.header, claims)
			if w := post(e, testTenant, assertionForm(a)); w.Code != http.StatusOK {
				t.Errorf("%s: %s", name, w.Body)
			}
		}
	})
}

func TestAnAssertionThatIsNotRightIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := appCertificate(t, appKey(), start.Add(-time.Hour), start.Add(24*time.Hour))
		old := appCertificate(t, appKey(), start.Add(-48*time.Hour), start.Add(-time.Hour))
		other := appCertificate(t, entraKey(), start.Add(-time.Hour), start.Add(24*time.Hour))
		e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{c, old} })
		sign := func(change func(jwtlib.MapClaims)) string {
			claims := goodClaims(start)
			change(claims)
			return assertion(t, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c)}, claims)
		}
		good := sign(func(jwtlib.MapClaims) {})
		head, rest, _ := strings.Cut(good, ".")
		body, signature, _ := strings.Cut(rest, ".")
		named := func(c *x509.Certificate, key any, method jwtlib.SigningMethod) string {
			return assertion(t, method, key, map[string]any{"x5t#S256": thumb256(c)}, goodClaims(start))
		}
		ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","x5t#S256":"` + thumb256(c) + `"}`))
		rows := []struct {
			name, assertion string
			code            int
			text            string
		}{
			{"a certificate that is not registered", named(other, entraKey(), jwtlib.SigningMethodPS256), 700027, "is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '"},
			{"no thumbprint", assertion(t, jwtlib.SigningMethodPS256, appKey(), nil, goodClaims(start)), 700027, "The key was not found., Thumbprint of key used by client: ''"},
			{"an expired certificate", named(old, appKey(), jwtlib.SigningMethodPS256), 700027, "The key used is expired., Thumbprint of key used by client: '"},
			{"another key", named(c, entraKey(), jwtlib.SigningMethodPS256), 700027, "use of the key to verify the signature failed."},
			{"no signature", head + "." + body + ".", 700027, "verify the signature failed"},
			{"alg none", none + "." + body + ".", 700027, "verify the signature failed"},
			{"an HMAC with the public key", named(c, x509.MarshalPKCS1PublicKey(&appKey().PublicKey), jwtlib.SigningMethodHS256), 700027, "verify the signature failed"},
			{"an algorithm that Entra does not take", named(c, ec, jwtlib.SigningMethodES256), 700027, "verify the signature failed"},
			{"the signature of other claims", head + "." + strings.Split(sign(func(jwtlib.MapClaims) {}), ".")[1] + "." + signature, 700027, "verify the signature failed"},
			{"another issuer", sign(func(m jwtlib.MapClaims) { m["iss"] = testTenant }), 700021, ""},
			{"another subject", sign(func(m jwtlib.MapClaims) { m["sub"] = testTenant }), 700021, ""},
			{"another host", sign(func(m jwtlib.MapClaims) {
				m["aud"] = "https://login.microsoftonline.com/" + testTenant + "/oauth2/v2.0/token"
			}), 700023, ""},
			{"another tenant", sign(func(m jwtlib.MapClaims) { m["aud"] = "https://" + loginHost + "/fabrikam.example/oauth2/v2.0/token" }), 700023, ""},
			{"not for the token endpoint", sign(func(m jwtlib.MapClaims) { m["aud"] = "https://" + loginHost + "/" + testTenant }), 700023, ""},
			{"expired", sign(func(m jwtlib.MapClaims) { m["exp"] = start.Add(-clockLeeway - time.Second).Unix() }), 700024, "expiry time of assertion "},
			{"not yet valid", sign(func(m jwtlib.MapClaims) { m["nbf"] = start.Add(clockLeeway + time.Second).Unix() }), 700024, "assertion valid from " + start.Add(clockLeeway+time.Second).UTC().Format("2006-01-02T15:04:05")},
			{"without an end", sign(func(m jwtlib.MapClaims) { delete(m, "exp") }), 700024, ""},
			{"with an end that no clock shows", sign(func(m jwtlib.MapClaims) { m["exp"] = 1e300 }), 700024, ""},
			{"valid for too long", sign(func(m jwtlib.MapClaims) { m["exp"] = start.Add(maxAssertion + time.Second).Unix() }), 700024, ""},
			{"without an id", sign(func(m jwtlib.MapClaims) { delete(m, "jti") }), 50027, ""},
			{"two parts", head + "." + body, 50027, ""},
			{"four parts", good + ".x", 50027, ""},
			{"with a line in it", head + ".\n" + body + "." + signature, 50027, ""},
			{"not base64", head + ".?." + signature, 50027, ""},
			{"claims that are none", head + "." + base64.RawURLEncoding.EncodeToString([]byte(`[]`)) + "." + signature, 50027, ""},
			{"an extension that must be understood", assertion(t, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c), "crit": []string{"b64"}}, goodClaims(start)), 50027, ""},
		}
		for _, row := range rows {
			want, _ := aadstsOf(row.code)
			text := wantError(t, post(e, testTenant, assertionForm(row.assertion)), want.status, want.oauth, row.code)
			if !strings.Contains(text, row.text) {
				t.Errorf("%s: %q does not tell %q", row.name, text, row.text)
			}
		}
		wantError(t, post(e, testTenant, changed(assertionForm(good), []string{"client_assertion_type", ""})), http.StatusBadRequest, "invalid_request", aadstsParameterMissing)
		wantToken(t, post(e, testTenant, assertionForm(good))) // what was refused above has not used up the ids
	})
}

func TestAnAssertionServesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := appCertificate(t, appKey(), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
		e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{c} })
		form := assertionForm(assertion(t, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c)}, goodClaims(time.Now())))
		wantToken(t, post(e, testTenant, form))
		wantError(t, post(e, testTenant, form), http.StatusUnauthorized, "invalid_client", aadstsAssertionReplayed)
		<-time.After(10*time.Minute + clockLeeway) // while it could be used
		wantError(t, post(e, testTenant, form), http.StatusUnauthorized, "invalid_client", aadstsAssertionReplayed)
		<-time.After(time.Second)
		wantError(t, post(e, testTenant, form), http.StatusUnauthorized, "invalid_client", aadstsAssertionTime)
	})
}

func TestTheIdsOfAssertionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, now := testEntra(t), time.Now()
		for i := range maxAssertions {
			if code := e.rememberAssertion(fmt.Sprint(i), now.Add(time.Minute), now); code != 0 {
				t.Fatalf("%d: %d", i, code)
			}
		}
		if code := e.rememberAssertion("more", now.Add(time.Minute), now); code != aadstsTransient {
			t.Errorf("one above the bound: %d", code)
		}
		if code := e.rememberAssertion("more", now.Add(time.Hour), now.Add(2*time.Minute)); code != 0 || len(e.assertions) != 1 {
			t.Errorf("after they have expired: %d, %d kept", code, len(e.assertions))
		}
	})
}

// What Exchange says to tokens.

func TestExchangeTellsWhyATokenDoesNotDo(t *testing.T) {
	e := testEntra(t)
	e.AddResource("https://127.0.0.1:4443/")
	stranger := testEntra(t, func(o *Options) { o.Key = appKey() })
	noRole := testEntra(t, func(o *Options) { o.FullAccess = false })
	now := time.Now()
	token := func(e *Tenant, scope string) string {
		return wantToken(t, post(e, testTenant, secretForm("scope", scope))).AccessToken
	}
	good := token(e, testScope)
	part := strings.Split(good, ".")
	id := wantToken(t, post(e, testTenant, passwordForm())).IDToken
	const invalid = `, error="invalid_token"`
	rows := []struct {
		name          string
		authorization string
		audience      string
		now           time.Time
		status        int    // 0: it does
		bearer        string // what the challenge has at its end
		diagnostics   string
	}{
		{"good", "Bearer " + good, exchangeName, now, 0, "", ""},
		{"the scheme in another case", "bearer " + good, exchangeName, now, 0, "", ""},
		{"for another name of Exchange", "Bearer " + good, "https://127.0.0.1:4443", now, 0, "", ""},
		{"asked for by another name", "Bearer " + token(e, "https://127.0.0.1:4443/.default"), exchangeName, now, 0, "", ""},
		{"asked for by the app id", "Bearer " + token(e, exchangeAppID+"/.default"), exchangeName, now, 0, "", ""},
		{"asked for with two slashes", "Bearer " + token(e, exchangeName+"//.default"), exchangeName, now, 0, "", ""},
		{"in its last second", "Bearer " + good, exchangeName, now.Truncate(time.Second).Add(accessLife - time.Second), 0, "", ""},
		{"none", "", exchangeName, now, 401, "", ""},
		{"Basic", "Basic dTpw", exchangeName, now, 401, "", ""},
		{"expired", "Bearer " + good, exchangeName, now.Add(accessLife), 401, invalid, `2000002;reason="The token has expired.";error_category="token_expired"`},
		{"ahead of the clock", "Bearer " + good, exchangeName, now.Add(-clockLeeway - 2*time.Second), 401, invalid, `2000002;reason="The token is not yet valid.";error_category="token_expired"`},
		{"empty", "Bearer ", exchangeName, now, 401, invalid, `2000001;reason="OAuth token submitted with the request cannot be parsed.";error_category="invalid_token"`},
		{"not a token", "Bearer abc", exchangeName, now, 401, invalid, `2000001;reason="OAuth token submitted with the request cannot be parsed.";error_category="invalid_token"`},
		{"an ID token", "Bearer " + id, exchangeName, now, 401, invalid, `2000001;reason="OAuth token submitted with the request cannot be parsed.";error_category="invalid_token"`},
		{"of another issuer's key", "Bearer " + token(stranger, testScope), exchangeName, now, 401, invalid, `2000000;reason="The token has an invalid signature.";error_category="invalid_signature"`},
		{"without its signature", "Bearer " + part[0] + "." + part[1] + ".", exchangeName, now, 401, invalid, `2000000;reason="The token has an invalid signature.";error_category="invalid_signature"`},
		{"for Microsoft Graph", "Bearer " + token(e, graphName+"/.default"), exchangeName, now, 401, invalid, `2000003;reason="The audience claim value is invalid 'https://graph.microsoft.com'.";error_category="invalid_resource"`},
		{"for Exchange, at another host", "Bearer " + good, "https://ews.example", now, 401, invalid, `2000003;reason="The audience claim value is invalid 'https://outlook.office365.com'.";error_category="invalid_resource"`},
		{"without a role", "Bearer " + token(noRole, testScope), exchangeName, now, 403, "", `2000008;reason="The token contains not enough scope to make this call.";error_category="invalid_grant"`},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, refusal := e.Check(bearerRequest(row.authorization), row.audience, row.now)
			if row.status == 0 {
				if refusal != nil || got.App != testClient {
					t.Fatalf("%+v, refusal %+v", got, refusal)
				}
				return
			}
			if refusal == nil {
				t.Fatalf("let in as %+v", got)
			}
			w := httptest.NewRecorder()
			refusal.Write(w)
			if w.Code != row.status || w.Header().Get("x-ms-diagnostics") != row.diagnostics {
				t.Errorf("status %d, diagnostics %s", w.Code, w.Header().Get("x-ms-diagnostics"))
			}
			const bearer = `Bearer client_id="00000002-0000-0ff1-ce00-000000000000", trusted_issuers="00000001-0000-0000-c000-000000000000@*", token_types="app_asserted_user_v1 service_asserted_app_v1", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"`
			asks := w.Header().Values("WWW-Authenticate")
			if want := []string{bearer + row.bearer, `Basic Realm=""`}; row.status == http.StatusUnauthorized && !slices.Equal(asks, want) || row.status != http.StatusUnauthorized && len(asks) > 0 {
				t.Errorf("asks for %q", asks)
			}
		})
	}
}

func TestRevokedTokensAreRefusedAndNewOnesTaken(t *testing.T) {
	e := testEntra(t)
	token := func() string { return wantToken(t, post(e, testTenant, secretForm())).AccessToken }
	before := token()
	if _, refusal := e.Check(bearerRequest("Bearer "+before), exchangeName, time.Now()); refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	e.revoke()
	if _, refusal := e.Check(bearerRequest("Bearer "+before), exchangeName, time.Now()); refusal == nil || refusal.Status != http.StatusUnauthorized {
		t.Errorf("revoked: %+v", refusal)
	}
	if _, refusal := e.Check(bearerRequest("Bearer "+token()), exchangeName, time.Now()); refusal != nil {
		t.Errorf("issued since: %+v", refusal)
	}
}

// Faults.

func TestTheTokenServiceIsAway(t *testing.T) {
	e := testEntra(t)
	server := startEntra(t, e)
	target := server.URL + "/" + testTenant + "/oauth2/v2.0/token"
	set(t, e, tokenAway, faults.Fault{Count: 1})
	if r, err := send(t, server.Client(), target); err == nil {
		t.Errorf("status %d from a service that is away", r)
	}
	set(t, e, tokenAway, faults.Fault{Status: http.StatusServiceUnavailable, Count: 1})
	if w := post(e, testTenant, secretForm()); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if status, err := send(t, server.Client(), target); err != nil || status != http.StatusOK {
		t.Errorf("afterwards: %d, %v", status, err)
	}
	if n := e.Count(); n.Requests[grantClient] != 3 || n.Issued != 1 || n.Refused != 0 {
		t.Errorf("%+v", n)
	}
}

// send asks for a token over the network, once.
func send(t *testing.T, client *http.Client, target string) (int, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(secretForm().Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func TestTheTokenServiceIsSlowOrHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		e := testEntra(t, func(o *Options) { o.Stop = stop })
		set(t, e, tokenSlow, faults.Fault{Seconds: 7})
		begun := time.Now()
		wantToken(t, post(e, testTenant, secretForm()))
		if took := time.Since(begun); took != 7*time.Second {
			t.Errorf("answered after %s", took)
		}

		set(t, e, tokenSlow, faults.Fault{})
		ctx, cancel := context.WithCancel(t.Context())
		unanswered := func() *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "https://"+loginHost+"/"+testTenant+"/discovery/v2.0/keys", http.NoBody)
			w := httptest.NewRecorder()
			e.ServeHTTP(w, r)
			return w
		}
		ended := make(chan *httptest.ResponseRecorder, 1)
		go func() { ended <- unanswered() }()
		<-time.After(time.Hour)
		if len(ended) > 0 {
			t.Error("an answer after an hour")
		}
		cancel()
		if w := <-ended; w.Body.Len() > 0 {
			t.Errorf("answered who has gone: %s", w.Body)
		}
		ctx = t.Context()
		go func() { ended <- unanswered() }()
		synctest.Wait()
		close(stop)
		<-ended
	})
}

func TestTokenRequestsAreRefusedByAnyCode(t *testing.T) {
	e := testEntra(t)
	for _, row := range aadstsTable {
		for _, reason := range []string{fmt.Sprint(aadstsPrefix, row.code), fmt.Sprint(row.code)} {
			set(t, e, tokenRefused, faults.Fault{Reason: reason, Count: 1})
			wantError(t, post(e, testTenant, secretForm()), row.status, row.oauth, row.code)
		}
	}
	set(t, e, tokenRefused, faults.Fault{Count: 1})
	wantError(t, post(e, testTenant, secretForm()), http.StatusServiceUnavailable, "temporarily_unavailable", aadstsTransient)
	for _, reason := range []string{"", "AADSTS", "AADSTS1", "invalid_client", "7000215 "} {
		if _, ok := findAADSTS(reason); ok {
			t.Errorf("%q is taken for a code", reason)
		}
	}
	wantToken(t, post(e, testTenant, secretForm()))
}

func TestTokensAreShort(t *testing.T) {
	e := testEntra(t, func(o *Options) { o.RefreshIn = 30 * time.Minute })
	for _, row := range []struct {
		fault           faults.Fault
		life, refreshIn int
	}{{faults.Fault{Seconds: 5}, 5, 5}, {faults.Fault{}, 60, 60}, {faults.Fault{Seconds: 0.1}, 1, 1}} {
		set(t, e, tokenShort, row.fault)
		a := wantToken(t, post(e, testTenant, secretForm()))
		if a.ExpiresIn != row.life || a.RefreshIn != row.refreshIn {
			t.Errorf("%+v: expires_in %d, refresh_in %d", row.fault, a.ExpiresIn, a.RefreshIn)
		}
		if _, refusal := e.Check(bearerRequest("Bearer "+a.AccessToken), exchangeName, time.Now().Add(time.Duration(row.life)*time.Second)); refusal == nil {
			t.Errorf("%+v: the token outlives expires_in", row.fault)
		}
	}
	e.faults.Clear(tokenShort)
	if a := wantToken(t, post(e, testTenant, secretForm())); a.ExpiresIn != 3599 || a.RefreshIn != 1800 {
		t.Errorf("expires_in %d, refresh_in %d", a.ExpiresIn, a.RefreshIn)
	}
}

// A clock that is wrong on the client's side is wrong towards everyone.
func TestAClientWhoseClockIsWrongIsTold(t *testing.T) {
	c := appCertificate(t, appKey(), time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour))
	e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{c} })
	set(t, e, faults.ClockSkew.Name, faults.Fault{Seconds: 3600})
	a := assertion(t, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c)}, goodClaims(time.Now()))
	w := post(e, testTenant, assertionForm(a))
	wantError(t, w, http.StatusUnauthorized, "invalid_client", aadstsAssertionTime)
	at, err := http.ParseTime(w.Header().Get("Date"))
	if ahead := time.Until(at); err != nil || ahead < 59*time.Minute || ahead > 61*time.Minute {
		t.Errorf("Date %s (%v)", w.Header().Get("Date"), err)
	}
}

// Metadata.

func TestTheMetadataNamesTheTenantByItsGUID(t *testing.T) {
	e := testEntra(t)
	for tenant, want := range map[string][2]string{ // in the endpoints, in the issuer
		testTenant: {testTenant, testTenant}, "contoso.example": {testTenant, testTenant}, "organizations": {"organizations", "{tenantid}"}, "Common": {"common", "{tenantid}"},
	} {
		var m struct {
			Token  string `json:"token_endpoint"`
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		w := get(e, "/"+tenant+"/v2.0/.well-known/openid-configuration?")
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		base := "https://" + loginHost + "/"
		if m.Token != base+want[0]+"/oauth2/v2.0/token" || m.Issuer != base+want[1]+"/v2.0" || m.Keys != base+want[0]+"/discovery/v2.0/keys" {
			t.Errorf("%s: %+v", tenant, m)
		}
	}
	wantError(t, get(e, "/fabrikam.example/v2.0/.well-known/openid-configuration"), http.StatusBadRequest, "invalid_tenant", aadstsTenantNotFound)
}

func TestTheTokensAreSignedByThePublishedKey(t *testing.T) {
	e := testEntra(t)
	var set struct {
		Keys []struct{ KID, N, E string }
	}
	if err := json.Unmarshal(get(e, "/common/discovery/v2.0/keys").Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v %+v", err, set)
	}
	n, err1 := base64.RawURLEncoding.DecodeString(set.Keys[0].N)
	exponent, err2 := base64.RawURLEncoding.DecodeString(set.Keys[0].E)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(exponent).Int64())}
	a := wantToken(t, post(e, testTenant, passwordForm()))
	for _, token := range []string{a.AccessToken, a.IDToken} {
		parsed, err := jwtlib.Parse(token, func(token *jwtlib.Token) (any, error) {
			if token.Header["kid"] != set.Keys[0].KID {
				return nil, fmt.Errorf("kid %v", token.Header["kid"])
			}
			return key, nil
		}, jwtlib.WithValidMethods([]string{"RS256"}), jwtlib.WithExpirationRequired())
		if err != nil || !parsed.Valid {
			t.Error(err)
		}
	}
}

func TestTheInstanceIsThisHostAlone(t *testing.T) {
	e := testEntra(t)
	ask := func(endpoint string) *httptest.ResponseRecorder {
		return get(e, "/common/discovery/instance?api-version=1.1&authorization_endpoint="+url.QueryEscape(endpoint))
	}
	w := ask("https://" + loginHost + "/contoso.example/oauth2/v2.0/authorize")
	if want := `"tenant_discovery_endpoint":"https://` + loginHost + `/contoso.example/v2.0/.well-known/openid-configuration"`; w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, other := range []string{"https://login.fabrikam.example/x/oauth2/v2.0/authorize", "http://" + loginHost + "/x", "", "%"} {
		wantError(t, ask(other), http.StatusBadRequest, "invalid_instance", aadstsUnknownInstance)
	}
}

func TestTheRealmOfAUserIsManagedOrUnknown(t *testing.T) {
	e := testEntra(t)
	for user, want := range map[string]string{
		"anyone@contoso.example": managedRealm, "Anyone@Contoso.Example": managedRealm, "anyone@fabrikam.example": unknownRealm, "CONTOSO%5Csvc-bell": unknownRealm, "": unknownRealm,
	} {
		var m map[string]string
		if err := json.Unmarshal(get(e, "/common/UserRealm/"+user+"?api-version=1.0").Body.Bytes(), &m); err != nil || m["account_type"] != want || (m["domain_name"] == "contoso.example") != (want == managedRealm) {
			t.Errorf("%q: %v %v", user, err, m)
		}
	}
	if w := get(e, "/nothing/here"); w.Code != http.StatusNotFound {
		t.Errorf("another path: %d", w.Code)
	}
}

// Rotation.

func TestSecretsRotateWhileTheServiceRuns(t *testing.T) {
	e := testEntra(t)
	past := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if !e.AddSecret(Secret{Value: "next"}) || !e.AddSecret(Secret{Value: "expired", Expires: past}) {
		t.Fatal("there is no room for three secrets")
	}
	wantToken(t, post(e, testTenant, secretForm()))
	wantToken(t, post(e, testTenant, secretForm("client_secret", "next")))
	wantError(t, post(e, testTenant, secretForm("client_secret", "expired")), http.StatusUnauthorized, "invalid_client", aadstsSecretExpired)
	if !e.RemoveSecret(testSecret) || e.RemoveSecret(testSecret) {
		t.Error("a secret is not taken away once")
	}
	wantError(t, post(e, testTenant, secretForm()), http.StatusUnauthorized, "invalid_client", aadstsSecretWrong)
	wantToken(t, post(e, testTenant, secretForm("client_secret", "next")))
	for i := range MaxSecrets - 2 {
		e.AddSecret(Secret{Value: fmt.Sprint("another-", i)})
	}
	if e.AddSecret(Secret{Value: "one above the bound"}) {
		t.Error("secrets are not bounded")
	}
	if c := e.Count(); c.Issued != 3 || c.Refused != 2 || c.Requests[grantClient] != 5 || e.ID() != testTenant || e.ClientID() != testClient {
		t.Errorf("%+v", c)
	}
}

func TestCertificatesRotateWhileTheServiceRuns(t *testing.T) {
	e := testEntra(t)
	c := appCertificate(t, appKey(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	ask := func() *httptest.ResponseRecorder {
		return post(e, testTenant, assertionForm(assertion(t, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c)}, goodClaims(time.Now()))))
	}
	wantError(t, ask(), http.StatusUnauthorized, "invalid_client", aadstsAssertionSignature)
	if !e.AddCertificate(c) {
		t.Fatal("there is no room for a certificate")
	}
	wantToken(t, ask())
	if !e.RemoveCertificate(c) || e.RemoveCertificate(c) {
		t.Error("a certificate is not taken away once")
	}
	wantError(t, ask(), http.StatusUnauthorized, "invalid_client", aadstsAssertionSignature)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if e.AddCertificate(appCertificate(t, ec, c.NotBefore, c.NotAfter)) {
		t.Error("a certificate without an RSA key is taken")
	}
	for range MaxSecrets {
		e.AddCertificate(c)
	}
	if e.AddCertificate(c) {
		t.Error("one above the bound is taken")
	}
}

func TestUsersChangeWhileTheServiceRuns(t *testing.T) {
	e := testEntra(t)
	object := func(a tokenAnswer) string {
		var c accessClaims
		parsed, _ := parseJWS(a.AccessToken)
		if err := json.Unmarshal(parsed.claims, &c); err != nil {
			t.Fatal(err)
		}
		return c.Object
	}
	before := object(wantToken(t, post(e, testTenant, passwordForm())))
	e.SetUser(User{Address: "SVC-Bell@contoso.example", Password: "new"})
	wantError(t, post(e, testTenant, passwordForm()), http.StatusBadRequest, "invalid_grant", aadstsWrongPassword)
	if after := object(wantToken(t, post(e, testTenant, passwordForm("password", "new")))); after != before {
		t.Errorf("another user by a new password: %s, %s", before, after)
	}
}

func TestManyMayAskAtOnce(t *testing.T) {
	e := testEntra(t)
	var asking sync.WaitGroup
	const callers = 16
	for i := range callers {
		asking.Go(func() {
			e.AddSecret(Secret{Value: fmt.Sprint(i)})
			a := wantTokenOf(t, post(e, testTenant, secretForm("client_secret", fmt.Sprint(i))))
			if _, refusal := e.Check(bearerRequest("Bearer "+a), exchangeName, time.Now()); refusal != nil {
				t.Errorf("%+v", refusal)
			}
			wantTokenOf(t, post(e, testTenant, passwordForm()))
			e.RemoveSecret(fmt.Sprint(i))
		})
	}
	asking.Wait()
	if n := e.Count(); n.Issued != 2*callers || n.Requests[grantClient] != callers || n.Requests[grantPassword] != callers {
		t.Errorf("%+v", n)
	}
}

// wantTokenOf is for goroutines, which must not end the test.
func wantTokenOf(t *testing.T, w *httptest.ResponseRecorder) string {
	var a tokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.AccessToken == "" {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
	return a.AccessToken
}

// Bytes from outside.

// Whatever is posted, the answer is an error in Entra's form: nobody can guess the secret or the password.
func FuzzTokenRequest(f *testing.F) {
	e := testEntra(f, func(o *Options) {
		o.Secrets[0].Value, o.Users[0].Password = rand.Text(), rand.Text()
	})
	f.Add(testTenant, secretForm().Encode())
	f.Add(anyOrganization, passwordForm().Encode())
	f.Add("contoso.example", passwordForm("grant_type", grantRefresh, "refresh_token", "x").Encode())
	f.Add(testTenant, assertionForm("e30.e30.e30").Encode())
	f.Add("%2e", "grant_type=%zz&client_id=a;b&&=")
	f.Fuzz(func(t *testing.T, tenant, body string) {
		r := httptest.NewRequest(http.MethodPost, "https://"+loginHost+"/", strings.NewReader(body))
		r.URL.Path = "/" + tenant + "/oauth2/v2.0/token"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		if w.Code == http.StatusNotFound && strings.Contains(tenant, "/") {
			return
		}
		var a refusal
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code < 400 || len(a.Codes) != 1 {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if row, ok := aadstsOf(a.Codes[0]); !ok || row.status != w.Code || row.oauth != a.Error {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
	})
}

// No assertion does but one that the certificate has signed.
func FuzzAssertion(f *testing.F) {
	now := time.Now()
	c := appCertificate(f, appKey(), now.Add(-time.Hour), now.Add(24*time.Hour))
	good := assertion(f, jwtlib.SigningMethodPS256, appKey(), map[string]any{"x5t#S256": thumb256(c)}, goodClaims(now))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(strings.Replace(good, ".", ".\n", 1))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","x5t":"","crit":null}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"jti":"1","exp":1e308,"nbf":-1}`)) + ".")
	f.Add("..")
	f.Fuzz(func(t *testing.T, a string) {
		e := testEntra(t, func(o *Options) { o.Certificates = []*x509.Certificate{c} })
		if w := post(e, testTenant, assertionForm(a)); (w.Code == http.StatusOK) != (a == good) {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
}

// No token does but one that was issued, as it was issued.
func FuzzBearer(f *testing.F) {
	e := testEntra(f)
	good := wantToken(f, post(e, testTenant, secretForm())).AccessToken
	now := time.Now()
	f.Add("Bearer " + good)
	f.Add("Bearer " + good + "\n")
	f.Add("bearer\t" + good[:len(good)-2])
	f.Add("Bearer " + strings.Replace(good, ".", "..", 1))
	f.Add("Basic Og==")
	f.Fuzz(func(t *testing.T, authorization string) {
		got, refusal := e.Check(bearerRequest(authorization), exchangeName, now)
		scheme, token, _ := strings.Cut(strings.TrimSpace(authorization), " ")
		if issued := strings.EqualFold(scheme, "bearer") && strings.TrimSpace(token) == good; issued != (refusal == nil) {
			t.Errorf("%q: %+v, %+v", authorization, got, refusal)
		}
		if refusal != nil && (refusal.Status != http.StatusUnauthorized || len(refusal.Header.Values("WWW-Authenticate")) != 2) {
			t.Errorf("%q: %+v", authorization, refusal)
		}
	})
}
