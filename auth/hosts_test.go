package auth

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

func TestACredentialGoesToItsHostsOnly(t *testing.T) {
	onPremises := Hosts{URLs: []string{"https://Mail.partner.example:8443/EWS/Exchange.asmx", "", ":"}, Trusted: []string{"EWS.hoster.example"}, Domains: []string{"contoso.com", "eu.contoso.com"}}
	online := Hosts{URLs: []string{"https://cloud.example:4443/EWS/Exchange.asmx"}, Trusted: []string{"mail.contoso.com", "127.0.0.1:4444"}, Domains: []string{"contoso.com"}, Online: true}
	bare := onPremises
	bare.URLs = []string{"https://contoso.com/autodiscover/autodiscover.xml"}
	for _, c := range []struct {
		hosts Hosts
		url   string
		named bool
		says  string // of a refusal; empty: there is none
	}{
		{onPremises, "https://mail.partner.example/x", true, ""},
		{onPremises, "https://ews.hoster.example.:444/x", true, ""},
		{onPremises, "https://mail.contoso.com/x", false, ""},
		{onPremises, "https://AUTODISCOVER.EU.contoso.com/x", false, ""},
		{onPremises, "https://contoso.com/x", false, `"contoso.com" is the mail domain itself`},
		{onPremises, "https://eu.contoso.com/x", false, `"eu.contoso.com" is the mail domain itself`},
		{onPremises, "https://evilcontoso.com/x", false, `"evilcontoso.com", which is neither`},
		{onPremises, "https://com/x", false, "trusted_hosts"},
		{onPremises, "https://10.0.0.1/x", false, `"10.0.0.1"`},
		{onPremises, "http://mail.partner.example/x", false, "https only"},
		{onPremises, "https:///x", false, "valid host"},
		{onPremises, "https://outlook.office365.com/EWS/Exchange.asmx", false, "type online"},
		{onPremises, "https://outlook.office365.com.evil.example/", false, "trusted_hosts"},
		{onPremises, "https://autodiscover.contoso.mail.onmicrosoft.com/x", false, "type online"},
		{onPremises, "https://autodiscover.contoso.onmicrosoft.us/x", false, "type online"},
		{onPremises, "https://autodiscover.contoso.partner.onmschina.cn/x", false, "type online"},
		{onPremises, "https://evilonmicrosoft.com/x", false, "trusted_hosts"},
		{Hosts{Domains: []string{"contoso.onmicrosoft.com"}}, "https://mail.contoso.onmicrosoft.com/x", false, ""},
		{bare, "https://contoso.com/x", true, ""},
		{bare, "https://eu.contoso.com/x", false, "mail domain itself"},
		{Hosts{}, "https://contoso.com/x", false, "trusted_hosts"},
		{Hosts{}, "https://127.0.0.1/x", false, "trusted_hosts"},
		{onPremises.Of("contoso.com"), "https://mail.contoso.com/x", false, ""},
		{onPremises.Of("fabrikam.com"), "https://mail.contoso.com/x", false, "trusted_hosts"},
		{onPremises.Of("eu.contoso.com"), "https://mail.contoso.com/x", false, "trusted_hosts"},
		{online, "https://outlook.office365.com/x", true, ""},
		{online, "https://autodiscover-s.office365.us:443/x", true, ""},
		{online, "https://outlook.office365.com:8443/x", false, "trusted_hosts"},
		{online, "https://cloud.example:4443/x", true, ""},
		{online, "https://cloud.example/x", false, "clouds"},
		{online, "https://mail.contoso.com/x", true, ""},
		{online, "https://ews.contoso.com/x", false, "clouds"},
		{online, "https://127.0.0.1:4444/x", true, ""},
		{online, "https://127.0.0.1/x", false, "clouds"},
	} {
		u := must(url.Parse(c.url))
		named, refused := c.hosts.permit(u)
		if named != c.named || (refused == nil) != (c.says == "") || (c.hosts.Refuse(u) == nil) != (refused == nil) {
			t.Errorf("%s: %v, %v", c.url, named, refused)
		}
		if refused != nil && (!strings.Contains(refused.Text, c.says) || refused.Code != CodeHost || refused.Scope != fault.Mailbox || refused.Remedy != fault.Fix ||
			refused.Elsewhere != (c.says == "type online")) {
			t.Errorf("%s: %+v", c.url, refused)
		}
	}
}

// world is servers by name, each with a certificate for its name, and notes what credentials they were sent.
type world struct {
	out proxy.Settings

	mu   sync.Mutex
	seen []string // "host" for a request, "host Basic" for one with a credential
}

// newWorld leads every name to one server.
func newWorld(t *testing.T, handler func(host string, w http.ResponseWriter, r *http.Request)) *world {
	n := &world{}
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if message := strings.HasPrefix(rest, "TlRMTVNTUAAB"); message { // an NTLM NEGOTIATE, which has nothing of the credential
			scheme = "hello"
		}
		if scheme == "" && r.Method == http.MethodPost && string(body) != "question" || scheme == "Basic" && string(body) != "question" {
			t.Errorf("%s %s: the body is %q", r.Host, scheme, body)
		}
		n.mu.Lock()
		n.seen = append(n.seen, strings.TrimSpace(r.Host+" "+scheme))
		n.mu.Unlock()
		handler(r.Host, w, r)
	})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tunnel(w, s.Listener.Addr().String()) }))
	t.Cleanup(front.Close)
	n.out = proxy.Settings{Roots: s.roots, Proxy: new(proxy.Current)}
	n.out.Proxy.Set(must(proxy.ParseVia(front.URL, "", "", nil)))
	return n
}

// tunnel leads a CONNECT to a server, whatever it named.
func tunnel(w http.ResponseWriter, to string) {
	there, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	here, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		there.Close()
		return
	}
	fmt.Fprint(here, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(there, here)
		there.Close()
	}()
	_, _ = io.Copy(here, there)
	here.Close()
	<-done
}

// ask posts a question to a host, and returns the status or the error, and who was asked for it.
func (n *world) ask(t *testing.T, rt http.RoundTripper, u string) (status int, err error, seen string) { //nolint:revive,staticcheck // who was asked comes last
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, http.MethodPost, u, strings.NewReader("question")))
	resp, err := rt.RoundTrip(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		status = resp.StatusCode
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	seen = strings.Join(n.seen, ", ")
	n.seen = nil
	return status, err, seen
}

func (n *world) trip(t *testing.T, c Credential, to Hosts) http.RoundTripper {
	rt := c.RoundTripper(to, n.out, 4)
	t.Cleanup(func() {
		closeIdle(rt)
		c.Close()
	})
	return rt
}

// The names are those of the certificate of a server of net/http/httptest.
const (
	named = "https://example.com/EWS/Exchange.asmx"
	below = "https://autodiscover.example.com/autodiscover/autodiscover.xml"
)

// asks answers 401 to whoever has not signed in, with these headers.
func asks(header http.Header) func(string, http.ResponseWriter, *http.Request) {
	return func(_ string, w http.ResponseWriter, r *http.Request) {
		if _, _, signed := r.BasicAuth(); signed {
			return
		}
		for name, values := range header {
			w.Header()[http.CanonicalHeaderKey(name)] = values
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func TestAPasswordIsSentOnceTheHostHasAskedForItAndAtOnceFromThenOn(t *testing.T) {
	n := newWorld(t, asks(http.Header{"WWW-Authenticate": {"Negotiate", `Basic realm="x"`}}))
	rt := n.trip(t, NewBasic("svc", "secret"), Hosts{URLs: []string{named, "https://www.example.com"}})
	for _, want := range []string{"example.com, example.com Basic", "example.com Basic", "example.com Basic"} {
		if status, err, seen := n.ask(t, rt, named); status != http.StatusOK || err != nil || seen != want {
			t.Errorf("%d, %v: %s, want %s", status, err, seen, want)
		}
	}
	if _, _, seen := n.ask(t, rt, "https://www.example.com/x"); seen != "www.example.com, www.example.com Basic" {
		t.Errorf("another host starts anew: %s", seen)
	}
}

func TestAPasswordIsNotSentWhereNobodyAsksForIt(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header http.Header
		code   string
	}{
		"200":                     {status: 200},
		"a redirect":              {status: 302, header: http.Header{"Location": {"https://evil.example/"}}},
		"403":                     {status: 403, header: http.Header{"WWW-Authenticate": {`Basic realm="x"`}}},
		"a challenge with no 401": {status: 200, header: http.Header{"WWW-Authenticate": {`Basic realm="x"`}}},
		"401 without a challenge": {status: 401, code: CodeNoBasic},
		"NTLM":                    {status: 401, header: http.Header{"WWW-Authenticate": {"NTLM", "Negotiate"}}, code: CodeNoBasic},
		"a realm that says Basic": {status: 401, header: http.Header{"WWW-Authenticate": {`Digest realm="a\", Basic realm=x", qop="auth, Basic "`}}, code: CodeNoBasic},
	} {
		n := newWorld(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
			for name, values := range c.header {
				w.Header()[http.CanonicalHeaderKey(name)] = values
			}
			w.WriteHeader(c.status)
		})
		rt := n.trip(t, NewBasic("svc", "secret"), Hosts{URLs: []string{named}})
		for range 2 {
			status, err, seen := n.ask(t, rt, named)
			if seen != "example.com" {
				t.Errorf("%s: asked %s", name, seen)
			}
			if c.code == "" && (err != nil || status != c.status) || c.code != "" && fault.Of(err).Code != c.code {
				t.Errorf("%s: %d, %v", name, status, err)
			}
		}
	}
}

func TestAServerThatNeverAsksServesManyAtOnce(t *testing.T) {
	const many = 8
	var together sync.WaitGroup
	together.Add(many)
	n := newWorld(t, func(string, http.ResponseWriter, *http.Request) {
		together.Done()
		together.Wait()
	})
	rt := n.trip(t, NewBasic("svc", "secret"), Hosts{URLs: []string{named}})
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			if status, err, _ := n.ask(t, rt, named); status != http.StatusOK || err != nil {
				t.Errorf("%d, %v", status, err)
			}
		})
	}
	all.Wait()
}

func TestAHostThatNoLongerAsksForAPasswordGetsNoFurtherOne(t *testing.T) {
	basic := true
	n := newWorld(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if basic {
			askForPassword(w)
			return
		}
		w.Header().Set("WWW-Authenticate", "Negotiate")
		w.WriteHeader(http.StatusUnauthorized)
	})
	rt := n.trip(t, Basic{Username: "svc", Password: "secret"}, Hosts{URLs: []string{named}})
	_, _, _ = n.ask(t, rt, named)
	basic = false
	if status, err, seen := n.ask(t, rt, named); status != http.StatusUnauthorized || err != nil || seen != "example.com Basic" {
		t.Errorf("%d, %v: %s", status, err, seen)
	}
	if _, err, seen := n.ask(t, rt, named); fault.Of(err).Code != CodeNoBasic || seen != "example.com" {
		t.Errorf("%v: %s", err, seen)
	}
}

func TestAHostOfTheMailDomainGetsAPasswordOnceItHasShownToBeAnExchange(t *testing.T) {
	basic, ntlm := `Basic realm="x"`, "NTLM"
	for name, c := range map[string]struct {
		header   http.Header
		exchange bool
	}{
		"a hoster":                {http.Header{"Server": {"Apache"}, "X-Powered-By": {"PHP/8.3"}, "Request-Id": {"1"}}, false},
		"a hoster's IIS":          {http.Header{"Server": {"Microsoft-IIS/10.0"}, "X-Powered-By": {"ASP.NET"}}, false},
		"NTLM alone":              {http.Header{"WWW-Authenticate": {"NTLM"}, "Server": {"nginx"}}, false},
		"a front end of Exchange": {http.Header{"X-FEServer": {"EX01"}}, true},
		"a back end of Exchange":  {http.Header{"X-Calculatedbetarget": {"ex01.contoso.com"}}, true},
		"its Autodiscover":        {http.Header{"X-SOAP-Enabled": {"True"}}, true},
		"its OAuth":               {http.Header{"WWW-Authenticate": {`Bearer client_id="` + exchangeApp + `", token_types="app_asserted_user_v1"`}}, true},
		"Exchange 2010":           {http.Header{"Server": {"Microsoft-IIS/7.5"}, "WWW-Authenticate": {"Negotiate", "NTLM"}}, true},
		"with NTLM alone":         {http.Header{"Server": {"Microsoft-IIS/7.5"}, "WWW-Authenticate": {"NTLM"}}, true},
		"with Negotiate alone":    {http.Header{"Server": {"Microsoft-IIS/7.5"}, "WWW-Authenticate": {"Negotiate"}}, true},
	} {
		header := c.header.Clone()
		header["WWW-Authenticate"] = append(header["WWW-Authenticate"], basic)
		n := newWorld(t, asks(header))
		for method, credential := range map[string]Credential{"Basic": NewBasic("svc", "secret"), "NTLM": NewNTLM("svc", "secret")} {
			ofDomain := n.trip(t, credential, Hosts{Domains: []string{"example.com"}})
			_, err, seen := n.ask(t, ofDomain, below)
			e := fault.Of(err)
			if sent := strings.Contains(seen, "Basic") || strings.Contains(seen, ntlm); sent != (c.exchange && method == "Basic") {
				t.Errorf("%s: %s: %s, %v", name, method, seen, err)
			}
			if untrusted := err != nil && e.Code == CodeUntrusted; untrusted == c.exchange {
				t.Errorf("%s: %s: %v", name, method, err)
			} else if untrusted && (e.Scope != fault.Mailbox || e.Remedy != fault.Fix || !strings.Contains(e.Text, "autodiscover.example.com") ||
				!strings.Contains(e.Text, "trusted_hosts") || !strings.Contains(e.Text, "autodiscover_url")) {
				t.Errorf("%s: %s: %v", name, method, err)
			}
		}
		trusted := n.trip(t, NewBasic("svc", "secret"), Hosts{Domains: []string{"example.com"}, Trusted: []string{"autodiscover.example.com"}})
		if status, err, _ := n.ask(t, trusted, below); status != http.StatusOK {
			t.Errorf("%s, where it is configured: %d, %v", name, status, err)
		}
	}
}

func TestWhatIsNotToBeAskedIsNotAsked(t *testing.T) {
	n := newWorld(t, asks(http.Header{"WWW-Authenticate": {`Basic realm="x"`, "NTLM"}, "X-FEServer": {"EX01"}}))
	i := &issuer{life: time.Hour}
	to := Hosts{URLs: []string{"https://mail.contoso.com"}, Domains: []string{"example.com"}}
	for name, c := range map[string]Credential{"Basic": NewBasic("svc", "secret"), "NTLM": NewNTLM("svc", "secret"), "a token": newOAuth(t, i), "Rotating": NewRotating(NewBasic("svc", "secret"), func(error) {})} {
		rt := n.trip(t, c, to)
		for _, u := range []string{"https://evil.example/EWS/Exchange.asmx", named} { // another host, and the bare domain
			_, err, seen := n.ask(t, rt, u)
			if e := fault.Of(err); e.Code != CodeHost || e.Scope != fault.Mailbox || seen != "" {
				t.Errorf("%s at %s: %v, asked %s", name, u, err, seen)
			}
		}
	}
	if _, err, seen := n.ask(t, n.trip(t, newOAuth(t, i), to), below); fault.Of(err).Code != CodeHost || seen != "" || i.asked.Load() != 0 {
		t.Errorf("a token at a host that is not named: %v, asked %s", err, seen)
	}
}

func TestWhatARoundTripperRemembersOfHostsIsBounded(t *testing.T) {
	g := newGate(here)
	first := g.destination(&url.URL{Scheme: "https", Host: "h0.example"})
	if plain := g.destination(&url.URL{Scheme: "http", Host: "h0.example"}); plain == first || plain.refused == nil {
		t.Errorf("over http the host is %+v", plain)
	}
	for i := range maxDestinations - 1 {
		g.destination(&url.URL{Scheme: "https", Host: fmt.Sprintf("h%d.example", i)})
	}
	if g.destination(&url.URL{Scheme: "https", Host: "h0.example"}) != first {
		t.Errorf("of %d hosts the first is forgotten", len(g.known))
	}
	for i := range 3 * maxDestinations {
		g.destination(&url.URL{Scheme: "https", Host: fmt.Sprintf("h%d.example", i)})
		if len(g.known) > maxDestinations {
			t.Fatalf("%d hosts", len(g.known))
		}
	}
}

// FuzzChallenge holds that no header of a server makes a panic, and that what is said of it is short.
func FuzzChallenge(f *testing.F) {
	f.Add(`Basic realm="a\", Basic", NTLM`)
	f.Add(`Negotiate oYG2`)
	f.Add(`,,"`)
	f.Fuzz(func(t *testing.T, line string) {
		offers := readOffers(http.Header{"Www-Authenticate": {line}})
		if len(offers.String()) > 4*maxOffer || len(offers) > len(line)+1 {
			t.Fatalf("%q", offers.String())
		}
	})
}
