package control_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/control"
	"github.com/mailbell/mailbell/simulator/entra"
)

// tenantKey is made once: an RSA key takes longer than the tests.
var tenantKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

const (
	oldSecret = "the-secret-of-the-start"
	user      = "svc-bell@contoso.example"
)

// tenant is an Entra ID, and the control API on it alone.
func tenant(t *testing.T) (*entra.Tenant, func(method, path, body string) *httptest.ResponseRecorder) {
	t.Helper()
	e, err := entra.New(entra.Options{
		Domains: []string{"contoso.example"}, FullAccess: true, PublicClient: true, Consent: true, Key: tenantKey(),
		Secrets: []entra.Secret{{Value: oldSecret}}, Users: []entra.User{{Address: user, Password: "right"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := control.New(control.Parts{Tenant: e})
	return e, func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body)))
		return w
	}
}

// granted reports whether the token service grants a request.
func granted(e *entra.Tenant, form url.Values) bool {
	form.Set("client_id", e.ClientID())
	form.Set("scope", "https://outlook.office365.com/.default")
	r := httptest.NewRequest(http.MethodPost, "https://login.example/"+e.ID()+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w.Code == http.StatusOK
}

func bySecret(secret string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_secret": {secret}}
}

func TestSecretsComeAndGoByTheControlAPI(t *testing.T) {
	e, call := tenant(t)
	if w := call(http.MethodPost, "/entra/secrets", `{"secret":"next"}`); w.Code != http.StatusCreated {
		t.Fatal(w.Code, w.Body)
	}
	var madeUp entra.Secret
	if w := call(http.MethodPost, "/entra/secrets", `{"expires":"2001-01-01T00:00:00Z"}`); w.Code != http.StatusCreated || json.Unmarshal(w.Body.Bytes(), &madeUp) != nil {
		t.Fatal(w.Code, w.Body)
	}
	if madeUp.Value == "" || granted(e, bySecret(madeUp.Value)) || !granted(e, bySecret("next")) || !granted(e, bySecret(oldSecret)) {
		t.Errorf("not the secrets that were added: %+v", madeUp)
	}
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		if w := call(http.MethodDelete, "/entra/secrets", `{"secret":"`+oldSecret+`"}`); w.Code != want {
			t.Error(w.Code, w.Body)
		}
	}
	if granted(e, bySecret(oldSecret)) || !granted(e, bySecret("next")) {
		t.Error("not the secret that was taken away")
	}
	for _, body := range []string{`{"value":"x"}`, `secret`, strings.Repeat(" ", 64<<10+1)} {
		if w := call(http.MethodPost, "/entra/secrets", body); w.Code != http.StatusBadRequest {
			t.Error(w.Code, w.Body)
		}
	}
	for range entra.MaxSecrets - 2 {
		call(http.MethodPost, "/entra/secrets", `{}`)
	}
	if w := call(http.MethodPost, "/entra/secrets", `{}`); w.Code != http.StatusConflict {
		t.Error(w.Code, w.Body)
	}
	var state struct {
		Tenant   string
		ClientID string `json:"client_id"`
		Counts   entra.Counts
	}
	if err := json.Unmarshal(call(http.MethodGet, "/entra", "").Body.Bytes(), &state); err != nil || state.Tenant != e.ID() || state.ClientID != e.ClientID() ||
		state.Counts.Issued != 3 || state.Counts.Refused != 2 || state.Counts.Requests["client_credentials"] != 5 {
		t.Errorf("%v %+v", err, state)
	}
}

// certificate is self-signed, as administrators make them.
func certificate(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailbell"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func coded(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCertificatesComeAndGoByTheControlAPI(t *testing.T) {
	e, do := tenant(t)
	call := func(method, body string) int { return do(method, "/entra/certificates", body).Code }
	der := certificate(t, tenantKey())
	if code := call(http.MethodPost, coded(der)); code != http.StatusCreated {
		t.Fatal(code)
	}
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		if code := call(http.MethodDelete, coded(der)); code != want {
			t.Error(code)
		}
	}
	for _, body := range []string{"", "x", coded([]byte("x")), coded(der) + coded(der)} {
		if code := call(http.MethodPost, body); code != http.StatusBadRequest {
			t.Errorf("%d: %.40q", code, body)
		}
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if code := call(http.MethodPost, coded(certificate(t, ec))); code != http.StatusConflict {
		t.Errorf("a certificate without an RSA key: %d", code)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for range entra.MaxSecrets {
		e.AddCertificate(c)
	}
	if code := call(http.MethodPost, coded(der)); code != http.StatusConflict {
		t.Errorf("one above the bound: %d", code)
	}
}

func TestUsersChangeByTheControlAPI(t *testing.T) {
	e, call := tenant(t)
	signIn := func(password string) bool {
		return granted(e, url.Values{"grant_type": {"password"}, "username": {user}, "password": {password}})
	}
	if w := call(http.MethodPut, "/entra/users", `{"address":"SVC-Bell@contoso.example","password":"new"}`); w.Code != http.StatusNoContent {
		t.Fatal(w.Code, w.Body)
	}
	if signIn("right") || !signIn("new") {
		t.Error("the password has not changed")
	}
	for body, want := range map[string]int{`{"address":"x"}`: http.StatusUnprocessableEntity, `{"address":"a@b","admin":true}`: http.StatusBadRequest} {
		if w := call(http.MethodPut, "/entra/users", body); w.Code != want {
			t.Errorf("%s: %d", body, w.Code)
		}
	}
}
