package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	testTenant = "contoso.onmicrosoft.com"
	testClient = "11111111-2222-3333-4444-555555555555"
	testScope  = "https://outlook.office365.com/.default"
)

// sts is a token service: what oidc-provider cannot do.
type sts struct {
	*server
	asked  atomic.Int32 // for tokens
	paths  chan string  // of every request, as long as it has room
	answer http.HandlerFunc
}

func newSTS(t *testing.T, answer http.HandlerFunc) *sts {
	s := &sts{answer: answer, paths: make(chan string, 100)}
	s.server = newServer(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.paths <- r.Method + " " + r.URL.Path:
		default:
		}
		switch r.URL.Path {
		case "/" + testTenant + "/v2.0/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"token_endpoint":"%[1]s/%[2]s/oauth2/v2.0/token","authorization_endpoint":"%[1]s/%[2]s/oauth2/v2.0/authorize","issuer":"%[1]s/%[2]s/v2.0"}`, s.URL, testTenant)
		case "/" + testTenant + "/oauth2/v2.0/token":
			s.asked.Add(1)
			s.answer(w, r)
		case "/common/UserRealm/svc-bell@contoso.com":
			fmt.Fprint(w, `{"account_type":"Managed","domain_name":"contoso.com","cloud_instance_name":"microsoftonline.com","cloud_audience_urn":"urn:federation:MicrosoftOnline"}`)
		case "/common/UserRealm/svc-bell@federated.example":
			fmt.Fprint(w, `{"account_type":"Federated","domain_name":"federated.example","cloud_instance_name":"microsoftonline.com","cloud_audience_urn":"urn:federation:MicrosoftOnline","federation_protocol":"WSTrust","federation_metadata_url":"https://adfs.federated.example/mex"}`)
		case "/common/UserRealm/svc-bell@unknown.example":
			fmt.Fprint(w, `{"account_type":"Unknown","domain_name":"unknown.example","cloud_instance_name":"microsoftonline.com","cloud_audience_urn":"urn:federation:MicrosoftOnline"}`)
		default:
			t.Errorf("asked for %s", r.URL)
			w.WriteHeader(http.StatusNotFound)
		}
	})
	return s
}

func issue(w http.ResponseWriter, value string) {
	fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":%q}`, value)
}

func (s *sts) app(t *testing.T, secret Secret) Credential {
	c, err := NewApp(App{Authority: s.URL, Tenant: testTenant, ClientID: testClient, Scope: testScope, Secret: secret, Outbound: proxy.Settings{Roots: s.roots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *sts) listenerAccount(t *testing.T, user string) Credential {
	c, err := NewListenerAccount(ListenerAccount{Authority: s.URL, Tenant: testTenant, ClientID: testClient, Scope: testScope,
		Username: user, Password: "hunter2", Outbound: proxy.Settings{Roots: s.roots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAnAppGetsItsTokenFromTheConfiguredAuthorityAlone(t *testing.T) {
	t.Setenv("MSAL_FORCE_REGION", "westeurope")
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("client_id") != testClient || r.PostFormValue("client_secret") != "hunter2" || r.PostFormValue("grant_type") != "client_credentials" ||
			!strings.HasPrefix(r.PostFormValue("scope"), testScope) {
			t.Errorf("%v", r.PostForm)
		}
		issue(w, "of-the-app")
	})
	c := s.app(t, "hunter2")
	for range 3 {
		if err := c.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ews := newEWSServer(t, "Bearer of-the-app", "")
	if code, _, err := ews.post(t, trip(t, c, ews.server)); code != http.StatusOK || err != nil {
		t.Error(code, err)
	}
	close(s.paths)
	var asked []string
	for p := range s.paths {
		asked = append(asked, p)
	}
	if got := strings.Join(asked, ", "); got != "GET /contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration, POST /contoso.onmicrosoft.com/oauth2/v2.0/token" {
		t.Error(got)
	}
}

func TestATokenThatWasRefusedDoesNotComeBackFromACache(t *testing.T) {
	var n atomic.Int32
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) { issue(w, fmt.Sprint("token ", n.Add(1))) })
	c := s.app(t, "hunter2")
	ews := newEWSServer(t, "token 1", "")
	rt := trip(t, c, ews.server)
	for _, takes := range []string{"token 1", "token 2", "token 3"} {
		ews.takes.Store(takes)
		if code, _, err := ews.post(t, rt); code != http.StatusOK || err != nil {
			t.Error(takes, code, err)
		}
	}
}

func TestWhatTheTokenServiceRefusesIsTypedAndShowsNoSecret(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		code   string
		remedy fault.Remedy
	}{
		{"AADSTS", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, entraSays(7000215, "invalid_client", "Invalid client secret provided: hunter2."))
		}, "AADSTS7000215", fault.Fix},
		{"an unknown code with the secret in it", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, entraSays(4711, "invalid_client", "hunter2 is no secret."))
		}, "AADSTS4711", fault.Fix},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "HTTP 500", fault.Wait},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hunter2</html>") }, "token service", fault.Wait},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"secret-token","expires_in":`)
		}, "token service", fault.Wait},
		{"no token", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"token_type":"Bearer","expires_in":3599}`)
		}, "token service", fault.Wait},
		{"a token that has expired", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"token_type":"Bearer","expires_in":0,"access_token":"secret-token"}`)
		}, "expired", fault.Wait},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "HTTP 307", fault.Fix},
		{"a connection that ends", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "network", fault.Retry},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSTS(t, c.answer)
			err := s.app(t, "hunter2").Prepare(t.Context())
			e := fault.Of(err)
			if e.Code != c.code || e.Remedy != c.remedy || e.Scope != fault.Account {
				t.Errorf("%+v", e)
			}
			if written := fmt.Sprintf("%v %+v %#v", err, err, e); strings.Contains(written, "hunter2") || strings.Contains(written, "secret-token") {
				t.Error(written)
			}
		})
	}
}

func TestATokenServiceThatCannotBeReachedIsNamed(t *testing.T) {
	s := newSTS(t, nil)
	away := s.app(t, "hunter2")
	s.Close()
	if e := fault.Of(away.Prepare(t.Context())); e.Code != proxy.CodeConnect || e.Scope != fault.Account || e.Remedy != fault.Wait {
		t.Errorf("%+v", e)
	}
	s = newSTS(t, nil)
	s.roots = x509.NewCertPool()
	if e := fault.Of(s.app(t, "hunter2").Prepare(t.Context())); e.Code != proxy.CodeCertificate || e.Scope != fault.Account || e.Remedy != fault.Fix {
		t.Errorf("%+v", e)
	}
}

func TestATokenServiceThatHangsHoldsACallOnlyUntilItsTime(t *testing.T) {
	let := make(chan struct{})
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		<-let
		issue(w, "late")
	})
	c := s.app(t, "hunter2")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if e := fault.Of(c.Prepare(ctx)); e.Code != proxy.CodeTimeout || e.Scope != fault.Account || e.Remedy != fault.Wait {
		t.Errorf("%+v", e)
	}
	close(let)
	if err := c.Prepare(t.Context()); err != nil || s.asked.Load() != 1 {
		t.Errorf("%v, %d requests", err, s.asked.Load())
	}
}

func TestAnExpiredCertificateIsNamedWhereItIsRefused(t *testing.T) {
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, entraSays(700027, "invalid_client", "The certificate is expired."))
	})
	expired := must(certificate.Load(certificateFile("pkcs8.pem"), ""))
	leaf := *expired.Leaf
	leaf.NotAfter = time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	c := must(NewApp(App{Authority: s.URL, Tenant: testTenant, ClientID: testClient, Scope: testScope, Outbound: proxy.Settings{Roots: s.roots},
		Certificate: &tls.Certificate{Certificate: expired.Certificate, PrivateKey: expired.PrivateKey, Leaf: &leaf}}))
	defer c.Close()
	if e := fault.Of(c.Prepare(t.Context())); e.Code != "AADSTS700027" || !strings.Contains(e.Text, "expired on 2026-01-31") {
		t.Errorf("%+v", e)
	}
}

func TestAListenerAccountSignsInWithItsPassword(t *testing.T) {
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("grant_type") != "password" || r.PostFormValue("username") != "svc-bell@contoso.com" || r.PostFormValue("password") != "hunter2" ||
			!strings.HasPrefix(r.PostFormValue("scope"), "https://outlook.office365.com/EWS.AccessAsUser.All ") || r.PostFormValue("client_secret") != "" {
			t.Errorf("%v", r.PostForm)
		}
		issue(w, "of-the-user")
	})
	c := s.listenerAccount(t, "svc-bell@contoso.com")
	ews := newEWSServer(t, "Bearer of-the-user", "")
	if code, _, err := ews.post(t, trip(t, c, ews.server)); code != http.StatusOK || err != nil {
		t.Error(code, err)
	}
}

func TestAListenerAccountsPasswordGoesToNoFederation(t *testing.T) {
	s := newSTS(t, func(http.ResponseWriter, *http.Request) { t.Error("asked for a token") })
	err := s.listenerAccount(t, "svc-bell@federated.example").Prepare(t.Context())
	if e := fault.Of(err); e.Remedy != fault.Fix || e.Scope != fault.Account || !strings.Contains(e.Text, "adfs.federated.example") || !strings.Contains(e.Text, "federated") {
		t.Errorf("%+v", e)
	}
	err = s.listenerAccount(t, "svc-bell@unknown.example").Prepare(t.Context())
	if e := fault.Of(err); e.Remedy != fault.Fix || !strings.Contains(e.Text, "check username") {
		t.Errorf("%+v", e)
	}
}

func TestAListenerAccountIsNotLockedOutByItsWrongPassword(t *testing.T) {
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, entraSays(50126, "invalid_grant", "Error validating credentials due to invalid username or password."))
	})
	o := s.listenerAccount(t, "svc-bell@contoso.com").(*oauth)
	var last *fault.Error
	for range 20 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { _ = o.Prepare(t.Context()) })
		}
		wg.Wait()
		// As if the pause after a failure were over.
		o.tokens.mu.Lock()
		o.tokens.next, last = time.Time{}, o.tokens.failure
		o.tokens.mu.Unlock()
	}
	if s.asked.Load() != 3 || last.Code != CodeHeld {
		t.Errorf("%d sign-ins, %v", s.asked.Load(), last)
	}
}

func TestWhatCannotWorkIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	rsa := must(certificate.Load(certificateFile("pkcs8.pem"), ""))
	ec := must(certificate.Load(certificateFile("ec.pem"), ""))
	good := App{Authority: "https://login.microsoftonline.com", Tenant: testTenant, ClientID: testClient, Scope: testScope, Secret: "hunter2"}
	for _, c := range []struct {
		name   string
		change func(*App)
		says   string // empty: it can work
	}{
		{"nothing", func(*App) {}, ""},
		{"a tenant's GUID", func(a *App) { a.Tenant = "AAAAAAAA-2222-3333-4444-555555555555" }, ""},
		{"a certificate", func(a *App) { a.Secret, a.Certificate = "", rsa }, ""},
		{"the tenant common", func(a *App) { a.Tenant = "common" }, "tenant"},
		{"the tenant organizations", func(a *App) { a.Tenant = "organizations" }, "tenant"},
		{"a tenant with a path", func(a *App) { a.Tenant = "contoso.com/x" }, "tenant"},
		{"an address for a tenant", func(a *App) { a.Tenant = "10.0.0.1" }, "tenant"},
		{"no tenant", func(a *App) { a.Tenant = "" }, "tenant"},
		{"an authority over http", func(a *App) { a.Authority = "http://login.microsoftonline.com" }, "authority"},
		{"an authority with a path", func(a *App) { a.Authority += "/adfs" }, "authority"},
		{"no authority", func(a *App) { a.Authority = "" }, "authority"},
		{"no scope", func(a *App) { a.Scope = "" }, "scope"},
		{"a scope that is no URL", func(a *App) { a.Scope = "://" }, "scope"},
		{"a scope without a host", func(a *App) { a.Scope = "/.default" }, "scope"},
		{"a scope of one permission", func(a *App) { a.Scope = "https://outlook.office365.com/EWS.AccessAsUser.All" }, "scope"},
		{"neither secret nor certificate", func(a *App) { a.Secret = "" }, "client secret or a certificate"},
		{"both", func(a *App) { a.Certificate = rsa }, "either a client secret"},
		{"an EC key", func(a *App) { a.Secret, a.Certificate = "", ec }, "not RSA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := good
			c.change(&a)
			got, err := NewApp(a)
			if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("%v", err)
			}
			if got != nil {
				got.Close()
			}
		})
	}
	if _, err := NewListenerAccount(ListenerAccount{Authority: good.Authority, Tenant: testTenant, ClientID: testClient, Scope: testScope, Username: "svc"}); err == nil {
		t.Error("a listener account without a password")
	}
	if _, err := json.Marshal(good.Secret); err != nil {
		t.Error(err)
	}
}

func TestAnAnswerOfTheTokenServiceIsBounded(t *testing.T) {
	s := newSTS(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat(" ", 1<<20))
		issue(w, "behind a megabyte")
	})
	if e := fault.Of(s.app(t, "hunter2").Prepare(t.Context())); e == nil || e.Remedy != fault.Wait || !strings.Contains(e.Text, "cannot be parsed") {
		t.Errorf("%+v", e)
	}
}
