package proxy

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/internal/proxyconfig"
	"github.com/mailbell/mailbell/proxy/proxytest"
)

func TestOnlyWhatIsListedIsReachedWithoutTheProxy(t *testing.T) {
	list := []string{"ex1.contoso.com", ".fabrikam.com", "*.tailspin.com", "192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "[2001:db9::1]:8443", "::1", "ex2.contoso.com:8443", "MÜNCHEN.example",
		".wingtip.com:443", "198.51.100.7:443", "old_server.contoso.com"}
	static := via(t, "http://proxy.contoso.com:3128", list...)
	for to, direct := range map[string]bool{
		"https://ex1.contoso.com":          true,
		"https://EX1.Contoso.COM.:8443/x":  true,
		"http://ex1.contoso.com":           true,
		"https://mail.ex1.contoso.com":     false,
		"https://contoso.com":              false,
		"https://fabrikam.com":             false,
		"https://a.fabrikam.com":           true,
		"https://a.b.fabrikam.com":         true,
		"https://notfabrikam.com":          false,
		"https://fabrikam.com.evil.com":    false,
		"https://mail.tailspin.com":        true,
		"https://tailspin.com":             false,
		"https://192.0.2.1":                true,
		"https://192.0.2.10":               false,
		"https://10.255.0.1:8443":          true,
		"https://11.0.0.1":                 false,
		"https://[::ffff:10.1.2.3]":        true,
		"https://10.0.0.1.nip.example":     false,
		"https://[2001:db8::5]":            true,
		"https://[2001:db9::1]:8443":       true,
		"https://[2001:db9::1]":            false,
		"https://[::1]":                    true,
		"https://127.0.0.1":                false,
		"https://localhost":                false,
		"https://ex2.contoso.com:8443":     true,
		"https://ex2.contoso.com":          false,
		"https://xn--mnchen-3ya.example":   true,
		"https://münchen.example":          true,
		"https://a.wingtip.com":            true,
		"https://a.wingtip.com:8443":       false,
		"http://a.wingtip.com":             false,
		"http://a.wingtip.com:443":         true,
		"https://198.51.100.7":             true,
		"https://198.51.100.7:444":         false,
		"https://old_server.contoso.com/x": true,
	} {
		u := static.For(request(t, to))
		if (u == nil) != direct {
			t.Errorf("%s: direct is %v, want %v", to, u == nil, direct)
		}
	}
	// This is how Transport.NewClientConn asks.
	for host, direct := range map[string]bool{"::1": true, "2001:db9::1": false, "2001:db8::1": true, "127.0.0.1": false, "ex1.contoso.com": true, "a.wingtip.com": true} {
		if u := static.For(&http.Request{URL: &url.URL{Scheme: "https", Host: host}}); (u == nil) != direct {
			t.Errorf("%s: direct is %v, want %v", host, u == nil, direct)
		}
	}
}

func TestNoProxyIsConfiguredUntilOneIsSet(t *testing.T) {
	var s Current
	if u := s.For(request(t, "https://mail.contoso.com")); u != nil {
		t.Error(u)
	}
	s.Set(nil)
	if u := s.For(request(t, "https://mail.contoso.com")); u != nil {
		t.Error(u)
	}
	if got := (*Via)(nil).String(); got != "none" {
		t.Error(got)
	}
}

func TestAProxyIsReadAsItIsMeant(t *testing.T) {
	for address, want := range map[string]string{
		"http://proxy.contoso.com:3128":  "http://proxy.contoso.com:3128",
		"HTTP://Proxy.Contoso.com.:3128": "http://proxy.contoso.com:3128",
		"https://proxy:443/":             "https://proxy:443",
		"socks5://127.0.0.1:1080":        "socks5://127.0.0.1:1080",
		"socks5h://[::1]:1080":           "socks5h://[::1]:1080",
		"http://[::ffff:127.0.0.1]:3128": "http://127.0.0.1:3128",
		"http://münchen.example:3128":    "http://xn--mnchen-3ya.example:3128",
	} {
		v, err := ParseVia(address, "bell", proxytest.Password, nil)
		if err != nil || v.String() != want {
			t.Errorf("%s: %s, %v, want %s", address, v, err, want)
			continue
		}
		if shown := fmt.Sprintf("%v %+v %#v %s", v, v, v, v); strings.Contains(shown, proxytest.Password) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
}

func TestWhatIsNoProxyIsRefusedWithTheReason(t *testing.T) {
	long := strings.Repeat("x", proxyconfig.MaxCredential+1)
	for name, c := range map[string]struct {
		address, username, password string
		bypass                      []string
		want                        string
	}{
		"nothing":                  {"", "", "", nil, "want scheme://host:port"},
		"no URL":                   {"proxy.contoso.com:3128", "", "", nil, "want scheme://host:port"},
		"a password in it":         {"http://bell:wrong-password@proxy:3128", "", "", nil, "must not have a user name or password"},
		"a broken one with it":     {"http://bell:wrong-password%@proxy:3128", "", "", nil, "want scheme://host:port"},
		"another scheme":           {"socks4://proxy:1080", "", "", nil, "begins with http://, https://, socks5:// or socks5h://"},
		"a path":                   {"http://proxy:3128/proxy.pac", "", "", nil, "without a path"},
		"a query":                  {"http://proxy:3128?x=wrong-password", "", "", nil, "without a path"},
		"no port":                  {"http://proxy", "", "", nil, "with a port"},
		"no port in figures":       {"http://proxy:0", "", "", nil, "with a port"},
		"too large a port":         {"http://proxy:65536", "", "", nil, "with a port"},
		"no host":                  {"http://:3128", "", "", nil, "with a host name"},
		"a strange host":           {"http://pro(xy:3128", "", "", nil, "with a host name"},
		"a password of nobody":     {"http://proxy:3128", "", "wrong-password", nil, "needs a user name"},
		"a colon in the user":      {"http://proxy:3128", "a:b", "wrong-password", nil, "must not have a colon"},
		"a line break":             {"http://proxy:3128", "bell", "wrong-password\n", nil, "must not have a control character"},
		"too long a user":          {"http://proxy:3128", long, "", nil, "at most 255 bytes"},
		"too long a password":      {"http://proxy:3128", "bell", long, nil, "at most 255 bytes"},
		"an empty bypass":          {"http://proxy:3128", "", "", []string{""}, `bypass: want a host name, .contoso.com for all hosts below it, an IP address or a network as in 10.0.0.0/8, with :port or without, got ""`},
		"a bypass of everything":   {"http://proxy:3128", "", "", []string{"*"}, `got "*"`},
		"a star in the middle":     {"http://proxy:3128", "", "", []string{"ex*.contoso.com"}, "got"},
		"a URL":                    {"http://proxy:3128", "", "", []string{"https://contoso.com"}, "got"},
		"a network with a port":    {"http://proxy:3128", "", "", []string{"10.0.0.0/8:443"}, "got"},
		"no network":               {"http://proxy:3128", "", "", []string{"10.0.0.0/33"}, "got"},
		"a port out of range":      {"http://proxy:3128", "", "", []string{"contoso.com:0"}, "got"},
		"an address below nothing": {"http://proxy:3128", "", "", []string{"..contoso.com"}, "got"},
		"two hosts in one":         {"http://proxy:3128", "", "", []string{"a.contoso.com,b.contoso.com"}, "got"},
		"too many":                 {"http://proxy:3128", "", "", make([]string, proxyconfig.MaxBypass+1), "use networks and .suffixes"},
	} {
		v, err := ParseVia(c.address, c.username, c.password, c.bypass)
		if v != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want an error with %q", name, v, err, c.want)
		}
		noSecret(t, err)
	}
}

func TestEveryCharacterOfAPasswordArrives(t *testing.T) {
	const username, password = `CONTOSO\svc-bell`, ` p@ss:w/o?r#d%41&ü"' `
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan *http.Request, 1)
	go func() {
		defer close(asked)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			asked <- r
		}
	}()
	if _, err := get(t, Settings{Proxy: viaAs(t, "http://"+l.Addr().String(), username, password)}, "https://mail.contoso.com"); err == nil {
		t.Fatal("no proxy, and no error")
	}
	r := <-asked
	if r == nil {
		t.Fatal("nothing was asked")
	}
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	if u, p, ok := r.BasicAuth(); !ok || u != username || p != password || r.Method != http.MethodConnect || r.Host != "mail.contoso.com:443" {
		t.Errorf("%s %s by %q with %q", r.Method, r.Host, u, p)
	}
}

// No server can be taken for a proxy, and so be dialled where PublicOnly does not let it.
func TestNoURLIsTakenForAMarkedProxy(t *testing.T) {
	for _, to := range []string{"https://http|10.0.0.1/", "https://http%7C10.0.0.1/", "https://[http|::1]/", "https://[fe80::1%25http%7C10.0.0.1]/"} {
		if u, err := url.Parse(to); err == nil {
			t.Errorf("%s is a URL, with the host %q", to, u.Host)
		}
	}
	for _, s := range []Settings{{PublicOnly: true}, {PublicOnly: true, Proxy: via(t, "http://127.0.0.1:1", "127.0.0.1")}} {
		_, err := s.Transport().RoundTrip(&http.Request{Method: http.MethodGet, Header: http.Header{}, URL: &url.URL{Scheme: "https", Host: "http|127.0.0.1:1", Path: "/"}})
		if !errors.Is(err, errNoHost) {
			t.Errorf("%v", err)
		}
	}
	for address, want := range map[string]string{"http://proxy:3128": "http|proxy:3128", "https://proxy": "https|proxy:443", "socks5://[::1]:1080": "[socks5|::1]:1080", "//proxy": "|proxy:80"} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		m := marked(u)
		if m.Host != want || m.Scheme == "https" {
			t.Errorf("%s: %s %s, want %s", address, m.Scheme, m.Host, want)
		}
		scheme, host, _, isProxy, err := unmarked(m.Host)
		if scheme != u.Scheme || host != u.Hostname() || !isProxy || err != nil {
			t.Errorf("%s: %s, %s, %v, %v", address, scheme, host, isProxy, err)
		}
	}
}

func FuzzParseVia(f *testing.F) {
	f.Add("http://proxy.contoso.com:3128", "bell", "wrong-password", ".contoso.com,10.0.0.0/8", "mail.contoso.com", "443")
	f.Add("socks5h://[::1]:1080", "", "", "[::1]:443,*.example,a:80", "::1", "443")
	f.Add("https://u:p@proxy:1", "a:b", "\n", "%,*", "münchen.example", "")
	f.Fuzz(func(t *testing.T, address, username, password, bypass, host, port string) {
		var list []string
		if bypass != "" {
			list = strings.Split(bypass, ",")
		}
		v, err := ParseVia(address, username, password, list)
		if (v == nil) == (err == nil) {
			t.Fatalf("%v, %v", v, err)
		}
		const enough = 8 // shorter ones may be in any sentence
		if err != nil {
			if len(password) >= enough && strings.Contains(err.Error(), password) && !strings.Contains(bypass, password) {
				t.Errorf("the password is in %q", err)
			}
			return
		}
		again, err := ParseVia(v.String(), username, password, list)
		if err != nil || again.String() != v.String() {
			t.Errorf("%s is read again as %s, %v", v, again, err)
		}
		if v.bypasses(host, port) && len(list) == 0 {
			t.Errorf("%s is listed nowhere", host)
		}
	})
}

func TestABypassWithAPortHoldsForAConnectionThatIsMadeByHand(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	address := strings.TrimPrefix(srv.URL, "https://")
	for bypass, direct := range map[string]bool{address: true, "127.0.0.1:1": false} {
		via, err := ParseVia("http://127.0.0.1:1", "", "", []string{bypass}) // where no proxy is
		if err != nil {
			t.Fatal(err)
		}
		static := &Current{}
		static.Set(via)
		c, err := ClientConn(t.Context(), Settings{Roots: roots, Proxy: static}.Transport(), "https", address)
		if (err == nil) != direct {
			t.Errorf("with the bypass %s: %v", bypass, err)
		}
		if err == nil {
			c.Close()
		}
	}
}
