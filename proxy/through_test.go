package proxy

// Tests through proxies: squid and tinyproxy as they are, a SOCKS5 server, an https proxy, and proxies that misbehave.

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy/proxytest"
)

// via returns the settings' Proxy for a proxy that has proxytest's user name and password.
func via(t testing.TB, address string, bypass ...string) *Current {
	t.Helper()
	return viaAs(t, address, proxytest.Username, proxytest.Password, bypass...)
}

func viaAs(t testing.TB, address, username, password string, bypass ...string) *Current {
	t.Helper()
	v, err := ParseVia(address, username, password, bypass)
	if err != nil {
		t.Fatal(err)
	}
	s := new(Current)
	s.Set(v)
	return s
}

// origin is a server that speaks HTTP/1.1 and HTTP/2, with what it needs to be trusted.
type origin struct {
	*httptest.Server
	address string
	roots   *x509.CertPool
}

// chunks and chunk are the size of a long body: more than any buffer on the way.
const (
	chunks = 64
	chunk  = 64 << 10
)

func newOrigin(t *testing.T) *origin {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s via %s", r.Proto, r.Header.Get("Via"))
	})
	// /stream sends a line, waits until the client says that it came, and goes on.
	came := make(chan struct{})
	mux.HandleFunc("/came", func(http.ResponseWriter, *http.Request) { came <- struct{}{} })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		select {
		case <-came:
		case <-r.Context().Done():
			return
		}
		block := make([]byte, chunk)
		for range chunks {
			if _, err := w.Write(block); err != nil {
				t.Error(err)
				return
			}
		}
	})
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &origin{Server: s, address: s.Listener.Addr().String(), roots: roots}
}

// httpsProxy is a proxy that is spoken to in TLS. It refuses whoever shows it a certificate or offers it HTTP/2.
func httpsProxy(t *testing.T) *httptest.Server {
	t.Helper()
	var tunnels sync.WaitGroup
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); !ok || u != proxytest.Username || p != proxytest.Password {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect || len(r.TLS.PeerCertificates) > 0 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		tunnels.Go(func() {
			_, _ = io.Copy(c, to)
			c.Close()
		})
		_, _ = io.Copy(to, buffered)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(h.SupportedProtos) > 0 {
			return nil, fmt.Errorf("the proxy is offered %v", h.SupportedProtos)
		}
		return nil, nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() {
		s.Close()
		tunnels.Wait()
	})
	return s
}

// kinds starts a proxy of each kind, in turn.
func kinds(t *testing.T, each func(t *testing.T, s Settings)) {
	t.Run("squid", func(t *testing.T) { each(t, Settings{Proxy: via(t, "http://"+proxytest.Squid(t))}) })
	t.Run("tinyproxy", func(t *testing.T) { each(t, Settings{Proxy: via(t, "http://"+proxytest.Tinyproxy(t))}) })
	t.Run("socks5", func(t *testing.T) { each(t, Settings{Proxy: via(t, "socks5://"+proxytest.StartSOCKS(t).Address)}) })
	t.Run("socks5h", func(t *testing.T) { each(t, Settings{Proxy: via(t, "socks5h://"+proxytest.StartSOCKS(t).Address)}) })
	t.Run("https", func(t *testing.T) {
		p := httpsProxy(t)
		roots := x509.NewCertPool()
		roots.AddCert(p.Certificate())
		each(t, Settings{Proxy: via(t, p.URL), ProxyRoots: roots})
	})
}

func TestEveryKindOfProxyCarriesRequestsStreamsAndHTTP2(t *testing.T) {
	kinds(t, func(t *testing.T, s Settings) {
		o := newOrigin(t)
		s.Roots = o.roots
		if body, err := get(t, s, o.URL); err != nil || body != "HTTP/1.1 via " {
			t.Errorf("a request: %q, %v", body, err)
		}
		tr := s.Transport()
		defer tr.CloseIdleConnections()
		stream(t, tr, o)

		h2 := s.Transport()
		h2.Protocols = new(http.Protocols)
		h2.Protocols.SetHTTP2(true)
		h2.TLSClientConfig.Certificates = []tls.Certificate{o.TLS.Certificates[0]} // for the server, not for the proxy
		defer h2.CloseIdleConnections()
		stream(t, h2, o)
		cc, err := h2.NewClientConn(t.Context(), "https", o.address)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		for range 3 {
			if body, err := read(cc.RoundTrip(request(t, o.URL))); err != nil || body != "HTTP/2.0 via " {
				t.Errorf("HTTP/2: %q, %v", body, err)
			}
		}
	})
}

// stream reads a long body, whose beginning must come before the rest is sent.
func stream(t *testing.T, tr *http.Transport, o *origin) {
	t.Helper()
	resp, err := tr.RoundTrip(request(t, o.URL+"/stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "first\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := read(tr.RoundTrip(request(t, o.URL+"/came"))); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); err != nil || n != chunks*chunk {
		t.Errorf("a long body: %d bytes, %v, want %d", n, err, chunks*chunk)
	}
}

func request(t testing.TB, to string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func read(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// Autodiscover asks for a redirect over plain http. Proxies let CONNECT through to port 443 alone, so it is not used there.
func TestPlainRequestsAreHandedToAnHTTPProxyAsTheyAre(t *testing.T) {
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Via")) }))
	t.Cleanup(o.Close)
	for name, start := range map[string]func(testing.TB) string{"proxy.contoso.com": proxytest.Squid, "tinyproxy": proxytest.Tinyproxy} {
		t.Run(name, func(t *testing.T) {
			if body, err := get(t, Settings{Proxy: via(t, "http://"+start(t))}, o.URL); err != nil || !strings.Contains(body, name) {
				t.Errorf("%q, %v: want what came through %s", body, err, name)
			}
		})
	}
}

// saying is what must be said of a proxy that does not let through.
type saying struct {
	remedy fault.Remedy
	words  []string
}

// hold tries to reach a target through a proxy that does not let through, and looks at what is said of it.
func (want saying) hold(t *testing.T, s Settings, target string) {
	t.Helper()
	u := s.Proxy.For(request(t, "https://"+target))
	_, err := get(t, s, "https://"+target+"/EWS/Exchange.asmx")
	if err == nil {
		t.Fatal("it lets through")
	}
	e := Explain("GetItem", &url.Error{Op: "Get", URL: "https://" + target, Err: err})
	if e.Code != CodeProxy || e.Scope != fault.Server || e.Remedy != want.remedy || e.After != map[fault.Remedy]time.Duration{fault.Fix: refusedPause, fault.Wait: shortly}[want.remedy] {
		t.Errorf("%s, scope %s, %s after %v: %v; want %s", e.Code, e.Scope, e.Remedy, e.After, e, want.remedy)
	}
	for _, w := range append(want.words, "the proxy "+u.Host) {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("%q is not in %q", w, e.Error())
		}
	}
	noSecret(t, err, e)
}

// noSecret looks for the password in an error, in every form in which it could be there.
func noSecret(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		for ; err != nil; err = errors.Unwrap(err) {
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				for _, secret := range []string{proxytest.Password, "wrong-password", url.QueryEscape(proxytest.Password), url.UserPassword("", proxytest.Password).String(), "|"} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is in %q", secret, text)
					}
				}
			}
		}
	}
}

func TestSquidsAndTinyproxysRefusalsAreNamedAsTheirs(t *testing.T) {
	nobody := tcptest.Quiet(t)
	unreachable := func(s saying, words ...string) saying {
		s.words = append(words, nobody)
		return s
	}
	for name, start := range map[string]func(testing.TB) string{"squid": proxytest.Squid, "tinyproxy": proxytest.Tinyproxy} {
		t.Run(name, func(t *testing.T) {
			p := "http://" + start(t)
			none, wrong, right := viaAs(t, p, "", ""), viaAs(t, p, proxytest.Username, "wrong-password"), via(t, p)
			to := "mail.contoso.com"
			saying{fault.Fix, []string{"wants a user name and password", to + ":443", "407 Proxy Authentication Required"}}.hold(t, Settings{Proxy: none}, to)
			saying{fault.Fix, []string{"does not accept the user name and password", to + ":443"}}.hold(t, Settings{Proxy: wrong}, to)
			saying{fault.Fix, []string{"does not let mailbell through to " + proxytest.Forbidden + ":443", "403"}}.hold(t, Settings{Proxy: right}, proxytest.Forbidden)
			why := map[string]string{"squid": "503 Service Unavailable, ERR_CONNECT_FAIL 111", "tinyproxy": "50"}
			unreachable(saying{remedy: fault.Wait}, "cannot reach "+nobody, why[name]).hold(t, Settings{Proxy: right}, nobody)
		})
	}
}

func TestSOCKSRefusalsAreNamedAsTheirs(t *testing.T) {
	p := proxytest.StartSOCKS(t)
	const to = "mail.contoso.com"
	saying{fault.Fix, []string{"none of mailbell's methods", to + ":443"}}.hold(t, Settings{Proxy: viaAs(t, "socks5://"+p.Address, "", "")}, to)
	saying{fault.Fix, []string{"does not accept the user name and password", to + ":443"}}.hold(t, Settings{Proxy: viaAs(t, "socks5://"+p.Address, proxytest.Username, "wrong-password")}, to)
	s := Settings{Proxy: via(t, "socks5h://"+p.Address)}
	for reply, want := range map[byte]saying{
		1:                         {fault.Wait, []string{"cannot reach mail.contoso.com:443", "general SOCKS server failure"}},
		proxytest.NotAllowed:      {fault.Fix, []string{"does not let mailbell through to mail.contoso.com:443", "not allowed by ruleset"}},
		3:                         {fault.Wait, []string{"cannot reach mail.contoso.com:443", "network unreachable"}},
		proxytest.HostUnreachable: {fault.Wait, []string{"cannot reach mail.contoso.com:443", "host unreachable"}},
		5:                         {fault.Wait, []string{"cannot reach mail.contoso.com:443", "connection refused"}},
		99:                        {fault.Wait, []string{"cannot reach mail.contoso.com:443", "unknown code: 99"}},
	} {
		p.Refuse(reply)
		want.hold(t, s, to)
	}
}

// answering is a proxy that answers whatever comes first with the same bytes, and closes the connection.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l := tcptest.Listen(t)
	tcptest.Serve(t, l, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, answer)
	})
	return l.Addr().String()
}

func TestWhatAProxyAnswersInsteadOfATunnelIsSaid(t *testing.T) {
	const to = "mail.contoso.com"
	ntlm := "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n"
	for name, c := range map[string]struct {
		scheme, answer string
		want           saying
	}{
		"401 of an old tinyproxy": {"http", "HTTP/1.0 401 Unauthorized\r\nServer: tinyproxy/1.8.4\r\nWWW-Authenticate: Basic realm=\"tinyproxy\"\r\n\r\n",
			saying{fault.Fix, []string{"does not accept the user name and password", "401 Unauthorized"}}},
		"a sign-in that is not Basic": {"http", ntlm, saying{fault.Fix, []string{"wants a sign-in by Negotiate, NTLM, and mailbell signs in to a proxy by Basic only", to}}},
		"bad gateway":                 {"http", "HTTP/1.1 502 Bad Gateway\r\n\r\n", saying{fault.Wait, []string{"cannot reach mail.contoso.com:443: 502 Bad Gateway"}}},
		"gateway timeout":             {"http", "HTTP/1.1 504 Gateway Timeout\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", saying{fault.Wait, []string{"504 Gateway Timeout, ERR_DNS_FAIL 0"}}},
		"too many":                    {"http", "HTTP/1.1 429 Too Many Requests\r\n\r\n", saying{fault.Wait, []string{"429"}}},
		"a server that is no proxy":   {"http", "HTTP/1.1 405 Method Not Allowed\r\n\r\n", saying{fault.Fix, []string{"does not connect to mail.contoso.com:443: 405 Method Not Allowed"}}},
		"a redirect":                  {"http", "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\n\r\n", saying{fault.Fix, []string{"302 Found"}}},
		"a success that is none":      {"http", "HTTP/1.1 204 No Content\r\n\r\n", saying{fault.Fix, []string{"204"}}},
		"words that would spoil a log": {"http", "HTTP/1.1 503 \x1b[31mred\x00\r\nX-Squid-Error: " + strings.Repeat("x", 5000) + "\r\n\r\n",
			saying{fault.Wait, []string{"503"}}},
		"a page in its place":     {"http", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Blocked\r\n", saying{fault.Fix, []string{"does not let mailbell through to mail.contoso.com:443", "<html>Blocked"}}},
		"a status that is none":   {"http", "HTTP/1.1 abc\r\n\r\n", saying{fault.Fix, []string{"does not answer CONNECT in HTTP"}}},
		"a broken header":         {"http", "HTTP/1.1 200 OK\r\nfoo bar\r\n\r\n", saying{fault.Fix, []string{"does not answer CONNECT in HTTP"}}},
		"another protocol":        {"http", "\x05\xff", saying{fault.Fix, []string{"does not answer CONNECT in HTTP"}}},
		"nothing":                 {"http", "", saying{fault.Wait, []string{"closed the connection without an answer"}}},
		"half an answer":          {"http", "HTTP/1.1 200 OK\r\n", saying{fault.Wait, []string{"closed the connection without an answer"}}},
		"HTTP to who asks SOCKS5": {"socks5", "HTTP/1.1 400 Bad Request\r\n\r\n", saying{fault.Fix, []string{"does not connect to mail.contoso.com:443", "unexpected protocol version"}}},
		"nothing in SOCKS5":       {"socks5", "", saying{fault.Wait, []string{"closed the connection without an answer"}}},
		"no TLS at an https one":  {"https", "HTTP/1.1 400 Bad Request\r\n\r\n", saying{fault.Fix, []string{"agrees on no TLS connection"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Settings{Proxy: via(t, c.scheme+"://"+answering(t, c.answer))}
			c.want.hold(t, s, to)
			_, err := get(t, s, "https://"+to)
			if text := Explain("x", err).Error(); len(text) > 1500 || strings.ContainsAny(text, "\x00\x1b\r\n") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		})
	}
}

func TestAProxyThatCannotBeReachedIsNotTakenForTheServer(t *testing.T) {
	nobody := tcptest.Quiet(t)
	for _, scheme := range []string{"http", "https", "socks5"} {
		saying{fault.Wait, []string{"cannot be reached", "connection refused"}}.hold(t, Settings{Proxy: via(t, scheme+"://"+nobody)}, "mail.contoso.com")
	}
	// The reserved name is not asked of any DNS server.
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Settings{Proxy: via(t, "http://proxy.invalid:3128")}.dial(canceled, "tcp", marked(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}).Host)
	if e := Explain("x", err); e.Code != CodeProxy || e.Remedy != fault.Wait || !strings.Contains(e.Error(), "the proxy proxy.invalid:3128 cannot be reached") {
		t.Errorf("%v", e)
	}
	e := unreachable("proxy.contoso.com:3128", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "proxy.contoso.com", IsNotFound: true}})
	if !strings.Contains(e.Error(), "its name could not be looked up") || e.Remedy != fault.Wait {
		t.Errorf("%v", e)
	}
}

func TestAProxyThatSaysNothingIsGivenUpInTime(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		synctest.Test(t, func(t *testing.T) {
			s := Settings{Proxy: via(t, scheme+"://proxy.contoso.com:3128")}
			tr := s.Transport()
			silent := make(chan struct{})
			tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go func() {
					defer close(silent)
					io.Copy(io.Discard, server) // until it is closed
				}()
				return newHop(client, "proxy.contoso.com:3128", proxyTimeout, nil), nil
			}
			began := time.Now()
			_, err := tr.RoundTrip(request(t, "https://mail.contoso.com"))
			e := Explain("GetItem", err)
			if took := time.Since(began); took != proxyTimeout || e.Code != CodeProxy || e.Remedy != fault.Wait || !strings.Contains(e.Error(), "the proxy proxy.contoso.com:3128 did not answer in time") {
				t.Errorf("%s: %v after %v", scheme, e, took)
			}
			<-silent
		})
	}
	if proxyTimeout <= dialTimeout || proxyTimeout >= 10*time.Second {
		t.Errorf("%v is not between a dial and the ten seconds of the callers", proxyTimeout)
	}
}

func TestATunnelIsNotGivenUpOnceTheProxyHasLetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		h := newHop(client, "proxy.contoso.com:3128", proxyTimeout, nil)
		defer h.Close()
		go io.Copy(server, server)
		for _, part := range []string{"CONNECT mail.contoso.com:443 HTTP/1.1\r\n\r\n", "\x16\x03\x01"} {
			if part[0] == askConnect {
				go h.Write([]byte(part))
				if _, err := h.Read(make([]byte, 100)); fault.Of(err).Code != CodeProxy { // it is no HTTP
					t.Errorf("%v", err)
				}
				continue
			}
			go h.Write([]byte(part))
			if n, err := h.Read(make([]byte, 100)); err != nil || n != len(part) {
				t.Errorf("%d, %v", n, err)
			}
			<-time.After(10 * proxyTimeout)
			go h.Write([]byte("later"))
			if n, err := h.Read(make([]byte, 100)); err != nil || n != len("later") {
				t.Errorf("%d, %v", n, err)
			}
		}
		server.Close()
		if _, err := h.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || fault.Of(err).Code == CodeProxy {
			t.Errorf("%v: the end of a tunnel is not the proxy's refusal", err)
		}
	})
}

func TestAnHTTPSProxyIsVerifiedByItsOwnRoots(t *testing.T) {
	o, p := newOrigin(t), httpsProxy(t)
	both := x509.NewCertPool()
	both.AddCert(p.Certificate())
	both.AddCert(o.Certificate())
	s := Settings{Proxy: via(t, p.URL), Roots: both}
	saying{fault.Fix, []string{"its certificate", "is not trusted", `issued by "O=Acme Co"`}}.hold(t, s, o.address)
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.ProxyRoots = both
	s.Proxy = via(t, "https://localhost:"+port)
	saying{fault.Fix, []string{"localhost was asked for, and the certificate is for example.com"}}.hold(t, s, o.address)
}

func TestAChangeOfTheProxyHoldsFromTheNextRequestOn(t *testing.T) {
	o := newOrigin(t)
	first, second := proxytest.StartSOCKS(t), proxytest.StartSOCKS(t)
	static := via(t, "socks5://"+first.Address)
	s := Settings{Proxy: static, Roots: o.roots}
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	ask := func(path string) {
		t.Helper()
		if _, err := read(tr.RoundTrip(request(t, o.URL+path))); err != nil {
			t.Fatal(err)
		}
	}
	ask("/")
	stream, err := tr.RoundTrip(request(t, o.URL+"/stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	v, err := ParseVia("socks5://"+second.Address, proxytest.Username, proxytest.Password, nil)
	if err != nil {
		t.Fatal(err)
	}
	static.Set(v)
	ask("/came")
	if n, err := io.Copy(io.Discard, stream.Body); err != nil || n != int64(len("first\n")+chunks*chunk) {
		t.Errorf("the stream that was under way: %d bytes, %v", n, err)
	}
	before, after := len(first.Asked()), len(second.Asked())
	if before == 0 || after != 1 {
		t.Errorf("%d through the first and %d through the second, want some and 1", before, after)
	}
	static.Set(nil)
	ask("/")
	if len(first.Asked()) != before || len(second.Asked()) != after {
		t.Error("a proxy was asked that is not there any more")
	}
}

func TestTheProxyMayChangeWhileManyAsk(t *testing.T) {
	o := newOrigin(t)
	p := proxytest.StartSOCKS(t)
	v, err := ParseVia("socks5://"+p.Address, proxytest.Username, proxytest.Password, nil)
	if err != nil {
		t.Fatal(err)
	}
	static := new(Current)
	tr := Settings{Proxy: static, Roots: o.roots}.Transport()
	defer tr.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 10 {
				static.Set([]*Via{nil, v}[(i+n)%2])
				if _, err := read(tr.RoundTrip(request(t, o.URL))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := len(p.Asked()); n == 0 {
		t.Error("nothing went through the proxy")
	}
}

func TestTheChainOfEveryServerIsSeenAndNotThatOfAProxy(t *testing.T) {
	type sight struct {
		host string
		leaf *x509.Certificate
	}
	var mu sync.Mutex
	var seen []sight
	see := func(host string, chain []*x509.Certificate) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, sight{host, chain[0]})
	}
	kinds(t, func(t *testing.T, s Settings) {
		o := newOrigin(t)
		s.Seen = see
		if _, err := get(t, s, o.URL); err == nil {
			t.Fatal("trusted without its root")
		}
		if len(seen) != 0 {
			t.Errorf("%v was seen, and nothing was verified", seen)
		}
		s.Roots = o.roots
		if _, err := get(t, s, o.URL); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 1 || seen[0].host != "127.0.0.1" || !seen[0].leaf.Equal(o.Certificate()) {
			t.Errorf("%v, want 127.0.0.1 once", seen)
		}
		seen = nil
	})
	p := proxytest.StartSOCKS(t)
	o := newOrigin(t)
	p.Resolve("example.com:443", o.address)
	if _, err := get(t, Settings{Roots: o.roots, Seen: see, Proxy: via(t, "socks5://"+p.Address)}, "https://example.com/"); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0].host != "example.com" {
		t.Errorf("%v, want example.com", seen)
	}
	if want := []string{"example.com:443"}; !slices.Equal(p.Asked(), want) {
		t.Errorf("asked for %v, want %v: the proxy looks names up", p.Asked(), want)
	}
}
