package admin

// Signing in at oidc-provider, an OpenID provider that somebody else wrote and that is as strict as the standards: the whole way, with its own
// pages.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/oidctest"
)

// people are those who can sign in there, with what it says of them.
var people = map[string]any{
	"ann":  map[string]any{"name": "Ann", "email": "ann@contoso.com", "email_verified": true},
	"bob":  map[string]any{"name": "Bob", "email": "bob@contoso.com", "email_verified": false, "groups": []string{"mailbell-admins"}},
	"eve":  map[string]any{"name": "Eve", "email": "ann@contoso.com", "email_verified": false},
	"mona": map[string]any{"name": "Mona", "groups": []string{"others"}},
}

// newProvider starts an oidc-provider, and returns its issuer and the trust in it.
func newProvider(t *testing.T, redirect string) (issuer string, roots *x509.CertPool) {
	t.Helper()
	cert, key, roots := certificateFor(t)
	settings := map[string]any{"cert": cert, "key": key, "client": clientID, "secret": clientSecret, "redirect": redirect, "signingKey": privateKey(t), "people": people}
	port, _ := oidctest.Start(t, filepath.Join("..", "auth", "testdata", "oidc"), "people.mjs", settings, func([]byte) {})
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), roots
}

// certificateFor makes a certificate for 127.0.0.1.
func certificateFor(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), roots
}

// privateKey is a new key as RFC 7517 has it.
func privateKey(t *testing.T) map[string]string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	return map[string]string{"kty": "RSA", "n": b64(key.N), "e": b64(big.NewInt(int64(key.E))), "d": b64(key.D), "p": b64(key.Primes[0]), "q": b64(key.Primes[1]),
		"dp": b64(key.Precomputed.Dp), "dq": b64(key.Precomputed.Dq), "qi": b64(key.Precomputed.Qinv)}
}

// formAction is where a form of the provider's pages goes.
var formAction = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)

// signInThere goes through the provider's pages as somebody, and returns with what it leads back.
func signInThere(t *testing.T, browser *http.Client, to, somebody, redirect string) (back url.Values) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, http.NoBody)
	for range 12 { // redirects, a form for the login and one for the consent
		if err != nil {
			t.Fatal(err)
		}
		resp, failed := browser.Do(r)
		if failed != nil {
			t.Fatal(failed)
		}
		text, failed := io.ReadAll(resp.Body)
		resp.Body.Close()
		if failed != nil {
			t.Fatal(failed)
		}
		if at := resp.Header.Get("Location"); at != "" {
			next, failed := resp.Location()
			if failed != nil {
				t.Fatal(failed)
			}
			if strings.HasPrefix(next.String(), redirect+"?") {
				return next.Query()
			}
			r, err = http.NewRequestWithContext(t.Context(), http.MethodGet, next.String(), http.NoBody)
			continue
		}
		form := formAction.FindSubmatch(text)
		if resp.StatusCode != http.StatusOK || form == nil {
			t.Fatalf("%s: %d %s", r.URL, resp.StatusCode, text)
		}
		fields := url.Values{"prompt": {"consent"}}
		if strings.Contains(string(text), `name="login"`) {
			fields = url.Values{"prompt": {"login"}, "login": {somebody}, "password": {"any"}}
		}
		action, failed := r.URL.Parse(string(form[1]))
		if failed != nil {
			t.Fatal(failed)
		}
		r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, action.String(), strings.NewReader(fields.Encode()))
		if err == nil {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	t.Fatal("the provider leads round in circles")
	return nil
}

func TestPeopleSignInAtAProviderThatSomebodyElseWrote(t *testing.T) {
	const redirect = "https://mailbell.contoso.com" + CallbackPath
	issuer, roots := newProvider(t, redirect)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	s := newSite(t)
	s.pages.SignInBy(&OIDC{
		Provider: openid.New(openid.Options{Issuer: issuer, ClientID: clientID, ClientSecret: clientSecret, RedirectURL: redirect, GroupsClaim: "groups",
			Transport: transport, Log: zap.NewNop()}),
		Groups: map[string]api.Role{"mailbell-admins": api.RoleAdmin}, Addresses: map[string]api.Role{"ann@contoso.com": api.RoleRead},
	})
	s.awaitProvider(t)
	for somebody, want := range map[string]string{"ann": "read", "bob": "admin", "eve": "", "mona": ""} {
		t.Run(somebody, func(t *testing.T) {
			s.browser = s.newBrowser()
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			there := &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			back := signInThere(t, there, s.begin(t, "/admin/mailboxes"), somebody, redirect)
			s.log.TakeAll()
			a := s.comeBack(t, back)
			role := ""
			for _, l := range s.log.FilterMessage("signed in to the admin page").All() {
				role, _ = l.ContextMap()["role"].(string)
			}
			if role != want || (a.StatusCode == http.StatusOK) != (want != "") || s.signedIn(t) != (want != "") {
				t.Errorf("%d with the role %q, want %q\n%s", a.StatusCode, role, want, a.text)
			}
			if again := s.comeBack(t, back); again.StatusCode != http.StatusForbidden {
				t.Errorf("the same answer once more: %d", again.StatusCode)
			}
		})
	}
}
