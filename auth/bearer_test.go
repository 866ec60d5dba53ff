package auth

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// ewsServer takes only the tokens that it is told to.
type ewsServer struct {
	*server
	takes atomic.Value // string; what a token ends with
	asked atomic.Int32
}

func newEWSServer(t *testing.T, takes, diagnostics string) *ewsServer {
	s := &ewsServer{}
	s.takes.Store(takes)
	s.server = newServer(t, func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if body, err := io.ReadAll(r.Body); string(body) != "question" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		if !strings.HasSuffix(r.Header.Get("Authorization"), s.takes.Load().(string)) {
			w.Header().Set("X-Ms-Diagnostics", diagnostics)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	return s
}

func newOAuth(t *testing.T, i *issuer) *oauth {
	i.takes = time.Millisecond
	o := &oauth{tokens: newTokens(i.fetch), service: &tokenService{Transport: proxy.Settings{}.Transport()}}
	t.Cleanup(o.Close)
	return o
}

func trip(t *testing.T, c Credential, s *server) http.RoundTripper {
	rt := c.RoundTripper(here, proxy.Settings{Roots: s.roots}, 200)
	t.Cleanup(func() { closeIdle(rt) })
	return rt
}

func TestARefusedTokenIsReplacedOnceForAllWhoHadIt(t *testing.T) {
	s := newEWSServer(t, "Bearer token 1", "")
	i := &issuer{life: time.Hour}
	o := newOAuth(t, i)
	rt := trip(t, o, s.server)
	if _, body, err := s.post(t, rt); body != "Bearer token 1" || err != nil {
		t.Fatal(body, err)
	}
	s.takes.Store("Bearer token 2")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if code, body, err := s.post(t, rt); code != http.StatusOK || body != "Bearer token 2" || err != nil {
				t.Errorf("%d %s, %v", code, body, err)
			}
		})
	}
	wg.Wait()
	if i.asked.Load() != 2 {
		t.Errorf("%d tokens were fetched", i.asked.Load())
	}
}

func TestATokenThatIsRefusedAnewIsNotFetchedOnAndOn(t *testing.T) {
	s := newEWSServer(t, "none", `2000003;reason="The audience claim value is invalid.";error_category="invalid_resource"`)
	i := &issuer{life: time.Hour}
	rt := trip(t, newOAuth(t, i), s.server)
	for range 20 {
		_, _, err := s.post(t, rt)
		e := fault.Of(err)
		if e.Code != "HTTP 401" || e.Scope != fault.Account || e.Remedy != fault.Fix || !strings.Contains(e.Text, "for another server") || !strings.Contains(e.Text, "invalid_resource") {
			t.Fatalf("%+v", e)
		}
		if strings.Contains(err.Error(), "token 1") || strings.Contains(err.Error(), "token 2") {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	if i.asked.Load() != 2 || s.asked.Load() != 21 {
		t.Errorf("%d tokens, %d requests", i.asked.Load(), s.asked.Load())
	}
}

func TestWhereNoNewTokenIsToBeHadTheReasonIsTheTokenServices(t *testing.T) {
	s := newEWSServer(t, "token 1", "")
	i := &issuer{life: time.Hour}
	rt := trip(t, newOAuth(t, i), s.server)
	if _, _, err := s.post(t, rt); err != nil {
		t.Fatal(err)
	}
	s.takes.Store("none")
	i.err = &fault.Error{Op: opToken, Code: "AADSTS7000222", Scope: fault.Account, Remedy: fault.Fix, Text: "the client secret has expired"}
	if _, _, err := s.post(t, rt); fault.Of(err).Code != "AADSTS7000222" {
		t.Error(err)
	}
	// And whoever has no reason to doubt the token goes on with it.
	s.takes.Store("token 1")
	if _, _, err := s.post(t, rt); err != nil {
		t.Error(err)
	}
}

func TestATokenGoesOverHTTPSOnly(t *testing.T) {
	i := &issuer{life: time.Hour}
	rt := newOAuth(t, i).RoundTripper(here, proxy.Settings{}, 0)
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1/", strings.NewReader("x")))
	if _, err := rt.RoundTrip(req); fault.Of(err).Code != CodeHost || i.asked.Load() != 0 {
		t.Error(err)
	}
}

func TestWhyAServerRefusesATokenIsSaidInWords(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{"", "does not say why"},
		{`2000000;reason="The token has an invalid signature.";error_category="invalid_signature"`, "does not trust"},
		{`2000002;reason="The token has expired.";error_category="token_expired"`, "its clock"},
		{`2000004;reason="x";error_category="invalid_tenant"`, "another tenant"},
		{`2000008;reason="The token contains not enough scope to make this call.";error_category="invalid_grant"`, "full_access_as_app"},
		{`4711;reason="something new"`, `"something new"`},
		{strings.Repeat("x", 10_000), "…"},
	} {
		if got := diagnosis(http.Header{"X-Ms-Diagnostics": {c.header}}); !strings.Contains(got, c.want) || len(got) > 1000 {
			t.Errorf("%.80s: %s", c.header, got)
		}
	}
}

func TestWhyGraphRefusesATokenIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		code, message, want string
		detail              fault.Detail
	}{
		{"InvalidAuthenticationToken", "Access token validation failure. Invalid audience.", "another server", fault.None},
		{"InvalidAuthenticationToken", "Lifetime validation failed, the token is expired.", "its clock", fault.None},
		{"OrganizationFromTenantGuidNotFound", "The tenant for tenant guid does not exist.", "tenant_id", fault.OtherTenant},
		{"UnknownError", "", "Mail.Read", fault.NoRight},
		{"InvalidAuthenticationToken", "Signing key is invalid.", "Signing key is invalid.", fault.None},
		{"InvalidAuthenticationToken", strings.Repeat("x", 10_000), "…", fault.None},
	} {
		s := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"code":%q,"message":%q}}`, c.code, c.message)
		})
		o := newOAuth(t, &issuer{life: time.Hour})
		_, _, err := s.post(t, trip(t, o, s))
		if f := fault.Of(err); f.Code != "HTTP 401" || f.Scope != fault.Account || f.Detail != c.detail || !strings.Contains(f.Text, c.want) || len(f.Text) > 1000 {
			t.Errorf("%s: %v", c.code, err)
		}
	}
}

func TestOfAnAnswerThatNobodyWantsLittleIsRead(t *testing.T) {
	body := strings.NewReader(strings.Repeat("x", 1<<20))
	discard(&http.Response{Body: io.NopCloser(body)})
	if read := 1<<20 - body.Len(); read != 16<<10 {
		t.Errorf("%d bytes", read)
	}
	said := drain(&http.Response{Body: io.NopCloser(body)})
	if read := 1<<20 - body.Len(); read != 32<<10 || len(said) != 16<<10 {
		t.Errorf("%d bytes", read)
	}
}

func TestARequestThatCanBeReadOnceIsSentOnce(t *testing.T) {
	s := newEWSServer(t, "none", "")
	rt := trip(t, newOAuth(t, &issuer{life: time.Hour}), s.server)
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, io.NopCloser(strings.NewReader("question"))))
	if _, err := rt.RoundTrip(req); fault.Of(err).Code != "HTTP 401" || s.asked.Load() != 1 {
		t.Errorf("after %d requests: %v", s.asked.Load(), err)
	}
}

func TestWhatCanBeSentOnceMore(t *testing.T) {
	again := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("again")), nil }
	for name, c := range map[string]struct {
		req  *http.Request
		can  bool
		body string
	}{
		"without a body":            {&http.Request{}, true, ""},
		"with an empty one":         {&http.Request{Body: http.NoBody}, true, ""},
		"with one that can be read": {&http.Request{Body: io.NopCloser(strings.NewReader("")), GetBody: again}, true, "again"},
		"with one that is read":     {&http.Request{Body: io.NopCloser(strings.NewReader(""))}, false, ""},
	} {
		if got := canRepeat(c.req); got != c.can {
			t.Errorf("%s: %v", name, got)
		}
		if !c.can {
			continue
		}
		repeated, err := repeat(c.req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body := ""
		if repeated.Body != nil {
			body = string(must(io.ReadAll(repeated.Body)))
		}
		if body != c.body {
			t.Errorf("%s: %q", name, body)
		}
	}
}

func TestATokenComesBesideTheOtherHeaders(t *testing.T) {
	var got http.Header
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	rt := trip(t, newOAuth(t, &issuer{life: time.Hour}), s)
	for _, h := range []http.Header{{"X-Anchormailbox": {"mara@contoso.com"}}, nil} {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil))
		req.Header = h
		resp := must(rt.RoundTrip(req))
		resp.Body.Close()
		if got.Get("Authorization") != "Bearer token 1" || got.Get("X-AnchorMailbox") != h.Get("X-AnchorMailbox") || len(h["Authorization"]) != 0 {
			t.Errorf("%v became %v", h, got)
		}
	}
}
