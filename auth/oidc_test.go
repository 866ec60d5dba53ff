package auth

// Tokens of a strict OAuth server that somebody else wrote: oidc-provider.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/oidctest"
	"github.com/mailbell/mailbell/proxy"
)

// oidc is an oidc-provider under the paths of Entra ID.
type oidc struct {
	authority string
	roots     *x509.CertPool
	signing   *rsa.PublicKey

	in       io.Writer
	all      chan struct{} // everything before is in grants and refusals
	mu       sync.Mutex
	grants   []string // how those signed in who got a token
	refusals []string
}

// newOIDC starts one whose tokens live for some seconds. It has an app by the secret "right", and one by the certificate.
func newOIDC(t *testing.T, seconds int, certificate *tls.Certificate) *oidc {
	t.Helper()
	o := &oidc{roots: x509.NewCertPool(), all: make(chan struct{})}
	cert, key := o.tls(t)
	signing := must(rsa.GenerateKey(rand.Reader, 2048))
	o.signing = &signing.PublicKey
	thumbprint := sha256.Sum256(certificate.Leaf.Raw)
	settings := map[string]any{
		"cert": cert, "key": key, "tenant": testTenant, "resource": "https://outlook.office365.com", "seconds": seconds, "signingKey": jwk(signing, true),
		"clients": []map[string]any{
			{"id": "by-secret", "secret": "right"},
			{"id": "by-certificate", "key": jwk(certificate.PrivateKey.(*rsa.PrivateKey), false), "thumbprint": hex.EncodeToString(thumbprint[:])},
		},
	}
	port, in := oidctest.Start(t, filepath.Join("testdata", "oidc"), "server.mjs", settings, func(said []byte) {
		var line struct {
			Grant, By string
			Error     string
			Detail    string
			All       bool
		}
		if err := json.Unmarshal(said, &line); err != nil {
			t.Errorf("%s: %v", said, err)
		}
		switch {
		case line.All:
			o.all <- struct{}{}
		case line.Error != "":
			o.mu.Lock()
			o.refusals = append(o.refusals, line.Error+": "+line.Detail)
			o.mu.Unlock()
		default:
			o.mu.Lock()
			o.grants = append(o.grants, line.Grant+" "+line.By)
			o.mu.Unlock()
		}
	})
	o.in, o.authority = in, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return o
}

// tls makes a certificate for 127.0.0.1 and trusts it.
func (o *oidc) tls(t *testing.T) (cert, key string) {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "token service"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))
	o.roots.AddCert(must(x509.ParseCertificate(der)))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))}))
}

// jwk is a key as RFC 7517 has it.
func jwk(key *rsa.PrivateKey, private bool) map[string]string {
	b64 := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	k := map[string]string{"kty": "RSA", "n": b64(key.N), "e": b64(big.NewInt(int64(key.E)))}
	if private {
		k["d"], k["p"], k["q"] = b64(key.D), b64(key.Primes[0]), b64(key.Primes[1])
		k["dp"], k["dq"], k["qi"] = b64(key.Precomputed.Dp), b64(key.Precomputed.Dq), b64(key.Precomputed.Qinv)
	}
	return k
}

func (o *oidc) app(t *testing.T, a App) Credential {
	t.Helper()
	a.Authority, a.Tenant, a.Scope, a.Outbound = o.authority, testTenant, testScope, proxy.Settings{Roots: o.roots}
	c, err := NewApp(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// exchange is a server that looks at tokens as Exchange Online does: who signed them, for whom, and until when.
func (o *oidc) exchange(t *testing.T) *server {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience("https://outlook.office365.com"), jwt.WithExpirationRequired(),
		jwt.WithIssuer(o.authority+"/"+testTenant+"/v2.0"))
	return newServer(t, func(w http.ResponseWriter, r *http.Request) {
		value, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, err := parser.Parse(value, func(*jwt.Token) (any, error) { return o.signing, nil }); err != nil {
			w.Header().Set("X-Ms-Diagnostics", `2000002;reason="`+err.Error()+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

// counts is what was asked so far.
func (o *oidc) counts(t *testing.T) (grants, refusals []string) {
	t.Helper()
	if _, err := io.WriteString(o.in, "\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-o.all:
	case <-time.After(patience):
		t.Fatal("oidc-provider is silent")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.grants, o.refusals
}

func TestTokensOfAStrictServer(t *testing.T) {
	own := must(certificate.Load(certificateFile("openssl3.pfx"), "bell-pass"))
	other := must(certificate.Load(certificateFile("chain.pfx"), "bell-pass")) // the same key in another certificate
	o := newOIDC(t, 60, own)
	ews := o.exchange(t)

	t.Run("a wrong secret is refused", func(t *testing.T) {
		err := o.app(t, App{ClientID: "by-secret", Secret: "hunter2"}).Prepare(t.Context())
		if e := fault.Of(err); e.Code != "invalid_client" || e.Scope != fault.Account || e.Remedy != fault.Fix || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("a certificate that is not uploaded is refused", func(t *testing.T) {
		err := o.app(t, App{ClientID: "by-certificate", Certificate: other}).Prepare(t.Context())
		if e := fault.Of(err); e.Code != "invalid_client" || e.Remedy != fault.Fix {
			t.Errorf("%+v", e)
		}
	})
	if grants, refusals := o.counts(t); len(grants) != 0 || len(refusals) != 2 {
		t.Fatalf("%v, %v", grants, refusals)
	}

	for _, c := range []struct {
		app App
		by  string
	}{
		{App{ClientID: "by-secret", Secret: "right"}, "client_credentials client_secret_post"},
		{App{ClientID: "by-certificate", Certificate: own}, "client_credentials private_key_jwt"},
	} {
		t.Run("64 cold callers make one request, "+c.app.ClientID, func(t *testing.T) {
			before, _ := o.counts(t)
			rt := trip(t, o.app(t, c.app), ews)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					if code, _, err := ews.post(t, rt); code != http.StatusOK || err != nil {
						t.Error(code, err)
					}
				})
			}
			wg.Wait()
			grants, _ := o.counts(t)
			if got := grants[len(before):]; len(got) != 1 || got[0] != c.by {
				t.Errorf("%d requests: %v", len(got), got)
			}
		})
	}

	t.Run("short-lived tokens are renewed under load and no call fails", func(t *testing.T) {
		const seconds = 4 // a busy machine takes a second for a call
		o := newOIDC(t, seconds, own)
		ews := o.exchange(t)
		before, _ := o.counts(t)
		rt := trip(t, o.app(t, App{ClientID: "by-secret", Secret: "right"}), ews)
		end := time.Now().Add(2 * seconds * time.Second)
		var calls atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for tick := time.NewTicker(5 * time.Millisecond); time.Now().Before(end); <-tick.C {
					calls.Add(1)
					if code, _, err := ews.post(t, rt); code != http.StatusOK || err != nil {
						t.Error(code, err)
						return
					}
				}
			})
		}
		wg.Wait()
		grants, _ := o.counts(t)
		if n := len(grants) - len(before); n < 3 || n > 5 {
			t.Errorf("%d requests for tokens in %d s", n, 2*seconds)
		}
		if calls.Load() < 100 {
			t.Errorf("only %d calls", calls.Load())
		}
	})
}
