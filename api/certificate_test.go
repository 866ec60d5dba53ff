package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// authority signs certificates in a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newAuthority is one that by signs, or itself where by is nil.
func newAuthority(t *testing.T, by *authority) *authority {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "Contoso clients"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a := &authority{}
	a.certificate, a.key = sign(t, template, by)
	return a
}

// sign makes a certificate of a template, which is valid for a day if the template does not say.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	template.SerialNumber = big.NewInt(1)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func (a *authority) issue(t *testing.T, template x509.Certificate) *x509.Certificate {
	t.Helper()
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	c, _ := sign(t, &template, a)
	return c
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.certificate)
	return p
}

// show asks over a connection whose peer has shown certificates, and returns the status, and the code and detail of a problem.
func (d *backend) show(method, target, token string, chain ...*x509.Certificate) (int, string) {
	r := httptest.NewRequest(method, target, strings.NewReader(enrolment))
	r.TLS = &tls.ConnectionState{PeerCertificates: chain}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	var p Problem
	if w.Code >= 400 {
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			return w.Code, w.Body.String()
		}
	}
	return w.Code, p.Code + " " + p.Detail
}

const spiffe = "spiffe://contoso.com/mdm"

// withCertificates is an API whose clients have certificates of an authority.
func withCertificates(t *testing.T) (*backend, *authority) {
	d, a := newBackend(t), newAuthority(t, nil)
	d.handler.SetClients([]Client{
		{Name: "mdm", Role: RoleEnrol, Certificate: "mdm.contoso.com"}, {Name: "portal", Role: RoleEnrol, Certificate: "MDM portal"},
		{Name: "grafana", Role: RoleRead, Certificate: "grafana@contoso.com", Token: readToken}, {Name: "mesh", Role: RoleAdmin, Certificate: spiffe},
	})
	d.handler.SetAuthorities(a.pool())
	return d, a
}

func TestACertificateIsThatOfTheClientWhoseNameItHas(t *testing.T) {
	d, a := withCertificates(t)
	id, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	between := newAuthority(t, a)
	for name, c := range map[string]struct {
		chain  []*x509.Certificate
		method string
		target string
		want   int
	}{
		"a DNS name":        {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: []string{"other.contoso.com", "MDM.contoso.com"}})}, "PUT", "/v1/devices/phone", 201},
		"a common name":     {[]*x509.Certificate{a.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "MDM portal"}})}, "PUT", "/v1/devices/phone", 200},
		"a mail address":    {[]*x509.Certificate{a.issue(t, x509.Certificate{EmailAddresses: []string{"Grafana@contoso.com"}})}, "GET", "/v1/status", 200},
		"of another role":   {[]*x509.Certificate{a.issue(t, x509.Certificate{EmailAddresses: []string{"grafana@contoso.com"}})}, "PUT", "/v1/devices/phone", 403},
		"a URI":             {[]*x509.Certificate{a.issue(t, x509.Certificate{URIs: []*url.URL{id}})}, "GET", "/metrics", 200},
		"of one in between": {[]*x509.Certificate{between.issue(t, x509.Certificate{URIs: []*url.URL{id}}), between.certificate}, "GET", "/v1/status", 200},
	} {
		if name == "a common name" { // after the first enrolment, whatever the order
			d.show("PUT", "/v1/devices/phone", "", a.issue(t, x509.Certificate{DNSNames: []string{"mdm.contoso.com"}}))
		} else if c.want == 201 {
			delete(d.devices, "phone")
		}
		for range 2 { // the second time it is known
			if status, problem := d.show(c.method, c.target, "", c.chain...); status != c.want && !(c.want == 201 && status == 200) {
				t.Errorf("%s: %d %s", name, status, problem)
			}
		}
	}
	for _, s := range d.handler.signIns() {
		by := s.SignIns[len(s.SignIns)-1]
		if by.By != byCertificate || by.Last.IsZero() {
			t.Errorf("%+v", s)
		}
	}
}

// A browser shows the certificate of a person to whatever another site has it ask.
func TestACertificateCountsForNoOtherSite(t *testing.T) {
	d, a := withCertificates(t)
	shown := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: []string{"mdm.contoso.com"}})}}
	for name, c := range map[string]struct {
		header, value, token string
		want                 int
	}{
		"a program":          {"User-Agent", "curl", "", 200},
		"another site":       {"Sec-Fetch-Site", "cross-site", "", 401},
		"another host of it": {"Sec-Fetch-Site", "same-site", "", 401},
		"an older browser":   {"Origin", "https://evil.example", "", 401},
		"with a token":       {"Sec-Fetch-Site", "cross-site", enrolToken, 200},
	} {
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleEnrol, Certificate: "mdm.contoso.com", Token: enrolToken}})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/devices:import", strings.NewReader(line("phone")))
		r.TLS = shown
		r.Header.Set(c.header, c.value)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // for which no browser asks first
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestAWrongCertificateIsRefusedWithWhatIsWrong(t *testing.T) {
	synctest.Test(t, wrongCertificates) // several wrong ones are answered slowly
}

func wrongCertificates(t *testing.T) {
	d, a := withCertificates(t)
	other, between := newAuthority(t, nil), newAuthority(t, a)
	names := []string{"mdm.contoso.com"}
	now := time.Now()
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  string
	}{
		"expired":                 {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: names, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-24 * time.Hour)})}, "is valid from"},
		"of the future":           {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: names, NotBefore: now.Add(24 * time.Hour), NotAfter: now.Add(48 * time.Hour)})}, "is valid from"},
		"of another authority":    {[]*x509.Certificate{other.issue(t, x509.Certificate{DNSNames: names})}, "not signed by an authority of tls.client_ca_file"},
		"with its own authority":  {[]*x509.Certificate{other.issue(t, x509.Certificate{DNSNames: names}), other.certificate}, "not signed by an authority"},
		"the one between missing": {[]*x509.Certificate{between.issue(t, x509.Certificate{DNSNames: names})}, "not signed by an authority"},
		"of a server":             {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})}, "lacks clientAuth"},
		"of nobody":               {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: []string{"*.contoso.com"}, Subject: pkix.Name{CommonName: "\u202e"}})}, `"*.contoso.com"`},
		"without a name":          {[]*x509.Certificate{a.issue(t, x509.Certificate{})}, "it has none"},
		"of two":                  {[]*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: names, EmailAddresses: []string{"grafana@contoso.com"}})}, "several clients"},
		"a name of another kind":  {[]*x509.Certificate{a.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "mdm portal"}})}, "no client"},
	} {
		status, problem := d.show("GET", "/v1/devices", "", c.chain...)
		if status != http.StatusUnauthorized || !strings.HasPrefix(problem, "wrong_certificate ") || !strings.Contains(problem, c.want) || strings.Contains(problem, "\u202e") {
			t.Errorf("%s: %d %s", name, status, problem)
		}
	}
	if n := testutil.ToFloat64(d.handler.failed.counter.WithLabelValues(reasonWrongCertificate)); n != 10 {
		t.Errorf("%v are counted", n)
	}
}

func TestATokenCountsBeforeACertificateAndANameIsNoToken(t *testing.T) {
	d, a := withCertificates(t)
	c := a.issue(t, x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "contoso.com", Path: "/mdm"}}})
	if status, problem := d.show("PUT", "/v1/devices/phone", readToken, c); status != http.StatusForbidden {
		t.Errorf("the role of the token does not count: %d %s", status, problem)
	}
	for _, token := range []string{"mdm.contoso.com", "MDM portal", spiffe} {
		if status, problem := d.show("GET", "/v1/devices", token, c); status != http.StatusUnauthorized || !strings.HasPrefix(problem, "wrong_token") {
			t.Errorf("%s lets in: %d %s", token, status, problem)
		}
	}
}

func TestACertificateIsGoodOnlyAsLongAsTheConfigurationAndTheTimeSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := withCertificates(t)
		c := a.issue(t, x509.Certificate{DNSNames: []string{"mdm.contoso.com"}})
		want := func(status int, code string) {
			t.Helper()
			if got, problem := d.show("GET", "/v1/devices", "", c); got != status || !strings.HasPrefix(problem, code) {
				t.Errorf("%d %s, want %d %s", got, problem, status, code)
			}
		}
		want(200, "")
		d.handler.SetAuthorities(newAuthority(t, nil).pool()) // on a reload, over the open connection
		want(401, "wrong_certificate")
		d.handler.SetAuthorities(nil)
		want(401, "no_token")
		d.handler.SetAuthorities(a.pool())
		want(200, "")
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleEnrol, Certificate: "mdm2.contoso.com"}})
		want(401, "wrong_certificate")
		d.handler.SetClients([]Client{{Name: "mdm", Role: RoleEnrol, Certificate: "mdm.contoso.com"}})
		want(200, "")
		<-time.After(25 * time.Hour) // it was verified before it expired
		want(401, "wrong_certificate")
	})
}

func TestTheCertificatesThatAreRememberedAreBounded(t *testing.T) {
	a := newAuthority(t, nil)
	v := newVerifier(a.pool())
	c := a.issue(t, x509.Certificate{DNSNames: []string{"mdm.contoso.com"}})
	for i := range max(maxVerified, maxRefused) {
		v.good[[32]byte{byte(i), byte(i >> 8), 1}] = validity{}
		v.bad[[32]byte{byte(i), byte(i >> 8), 1}] = badChain{}
	}
	if err := v.verify(t.Context(), []*x509.Certificate{c}, time.Now()); err != nil || len(v.good) > maxVerified {
		t.Errorf("%v; %d are remembered", err, len(v.good))
	}
	if err := v.verify(t.Context(), []*x509.Certificate{newAuthority(t, nil).issue(t, x509.Certificate{})}, time.Now()); err == nil || len(v.bad) > maxRefused {
		t.Errorf("%v; %d are remembered as bad", err, len(v.bad))
	}
}

// To verify a chain of an attacker's making takes long, and it can be shown again and again over one connection.
func TestAWrongCertificateIsVerifiedOnceAMinute(t *testing.T) {
	a := newAuthority(t, nil)
	v := newVerifier(newAuthority(t, nil).pool())
	chain := []*x509.Certificate{a.issue(t, x509.Certificate{DNSNames: []string{"mdm.contoso.com"}, Subject: pkix.Name{CommonName: strings.Repeat("x", 10_000)}})}
	now := time.Now()
	first := v.verify(t.Context(), chain, now)
	if first == nil {
		t.Fatal("it is taken for a good one")
	}
	v.roots = a.pool() // so that another verification would find it good
	if again := v.verify(t.Context(), chain, now.Add(refusedFor-time.Second)); again != first {
		t.Errorf("it was verified again: %v", again)
	}
	if err := v.verify(t.Context(), chain, now.Add(refusedFor)); err != nil {
		t.Errorf("it is still bad after a minute: %v", err)
	}
	late := v.verify(t.Context(), chain, now.Add(48*time.Hour))
	if late == nil || len(late.Error()) > 1000 {
		t.Errorf("%.2000v", late)
	}
}

// Whoever shows ever other chains, each of which takes long, must not have all processor cores.
func TestOneUnknownCertificateIsVerifiedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, nil)
		v := newVerifier(a.pool())
		shown := func() []*x509.Certificate { return []*x509.Certificate{a.issue(t, x509.Certificate{})} }
		good, other := shown(), shown()
		if err := v.verify(t.Context(), good, time.Now()); err != nil {
			t.Fatal(err)
		}
		v.places <- struct{}{} // the chain of somebody
		if err := v.verify(t.Context(), good, time.Now()); err != nil {
			t.Errorf("a known one: %v", err)
		}
		gone, leave := context.WithCancel(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() { ended <- v.verify(t.Context(), other, time.Now()) }()
		}
		go func() { ended <- v.verify(gone, shown(), time.Now()) }()
		synctest.Wait()
		if len(v.good) != 1 {
			t.Errorf("%d are verified", len(v.good)-1)
		}
		leave()
		if err := <-ended; !errors.Is(err, errVerifying) || len(v.bad) != 0 {
			t.Errorf("whose client has gone: %v, remembered %d", err, len(v.bad))
		}
		<-v.places
		for range 3 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// A client that has hung up keeps its turn, so the line must be short.
func TestAFullLineOfUnknownCertificatesTurnsOthersAwayAndNoKnownOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := withCertificates(t)
		shown := func(name string) *x509.Certificate { return a.issue(t, x509.Certificate{DNSNames: []string{name}}) }
		known, unknown := shown("mdm.contoso.com"), shown("mdm.contoso.com")
		get := func(c *x509.Certificate) int {
			status, _ := d.show("GET", "/v1/devices", "", c)
			return status
		}
		if status := get(known); status != http.StatusOK {
			t.Fatal(status)
		}
		d.handler.SetAuthorities(a.pool()) // on a reload: the same
		v := d.handler.verifier.Load()
		v.places <- struct{}{} // the chain of somebody
		var line sync.WaitGroup
		for i := range maxInLine {
			other := shown(fmt.Sprint("other", i))
			for range 2 { // the second of a chain finds room too
				line.Go(func() {
					if err := v.verify(t.Context(), []*x509.Certificate{other}, time.Now()); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		if status := get(known); status != http.StatusOK {
			t.Errorf("a known one is not let in: %d", status)
		}
		if status, problem := d.show("GET", "/v1/devices", "", unknown); status != http.StatusServiceUnavailable || !strings.HasPrefix(problem, "too_many_certificates ") {
			t.Errorf("%d %s", status, problem)
		}
		if n := testutil.ToFloat64(d.handler.failed.counter.WithLabelValues(reasonWrongCertificate)); n != 0 {
			t.Errorf("%v are counted as wrong", n)
		}
		<-v.places
		line.Wait()
		if status := get(unknown); status != http.StatusOK || len(v.line) != 0 {
			t.Errorf("afterwards: %d, %d in line", status, len(v.line))
		}
	})
}
