package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/proxy/proxytest"
)

func TestAWrongPasswordOfTheProxyIsHeldBeforeItLocksTheAccount(t *testing.T) {
	const clients = 64
	for scheme, c := range map[string]struct {
		before string // that the client sends the password
		answer string
		tries  int32
	}{
		"http": {"", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate, Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n", 3},
		// Here the password comes before the target is named: a refusal is never the target's.
		"socks5": {"\x05\x02", "\x01\x01", 1},
	} {
		var tried, held atomic.Int32
		l := tcptest.Listen(t)
		tcptest.Serve(t, l, func(conn net.Conn) {
			b := make([]byte, 4096)
			if c.before != "" {
				_, _ = conn.Read(b)
				_, _ = io.WriteString(conn, c.before)
			}
			if n, _ := conn.Read(b); n > 0 {
				tried.Add(1)
				_, _ = io.WriteString(conn, c.answer)
			}
		})
		s := Settings{Proxy: viaAs(t, scheme+"://"+l.Addr().String(), "svc", "wrong")}
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() { // each has a transport, as accounts and topics have
				_, err := get(t, s, fmt.Sprintf("https://ex%d.contoso.com", i%8))
				e := Explain("x", err)
				if e.Code != CodeProxy || e.Detail != fault.ProxySignIn || e.Remedy != fault.Fix || e.After <= 0 || e.After > refusedPause {
					t.Errorf("%s: %v", scheme, err)
				}
				if e.After != refusedPause {
					held.Add(1)
				}
			})
		}
		all.Wait()
		if tried.Load() != c.tries || held.Load() != clients-c.tries {
			t.Errorf("%s: it is tried %d times, and %d are held", scheme, tried.Load(), held.Load())
		}
	}
}

// net/http asks for a plain page without CONNECT, with the password, and keeps the connection for a page of another host.
func TestAWrongPasswordOfTheProxyIsHeldForPlainRequestsToo(t *testing.T) {
	const clients, hosts = 64, 8
	for name, at := range map[string]func(Settings) http.RoundTripper{
		"connections of their own": func(s Settings) http.RoundTripper {
			tr := s.Transport()
			tr.DisableKeepAlives = true
			return tr
		},
		"connections that are kept": func(s Settings) http.RoundTripper { return s.Transport() },
	} {
		var tried, held, right atomic.Int32
		l := tcptest.Listen(t)
		tcptest.Serve(t, l, func(conn net.Conn) {
			for from := bufio.NewReader(conn); ; {
				req, err := http.ReadRequest(from)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				if user, _, _ := (&http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}).BasicAuth(); user == "right" {
					right.Add(1)
					_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
					continue
				}
				tried.Add(1)
				for _, part := range []string{"HTTP/1.1 407 x\r\n", "Proxy-Authenticate: Basic\r\nContent-Length: 4\r\n", "\r\nno", "no"} {
					_, _ = io.WriteString(conn, part)
				}
			}
		})
		for _, user := range []string{"wrong", "right"} {
			rt := at(Settings{Proxy: viaAs(t, "http://"+l.Addr().String(), user, "password")})
			var all sync.WaitGroup
			for i := range clients {
				all.Go(func() {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://ex%d.contoso.com", i%hosts), strings.NewReader(strings.Repeat("C", 64<<10)))
					if err != nil {
						t.Error(err)
						return
					}
					body, err := read(rt.RoundTrip(req))
					if err == nil {
						if body != "" && body != "nono" {
							t.Errorf("%s: %q", name, body)
						}
						return
					}
					held.Add(1)
					if e := Explain("x", err); e.Code != CodeProxy || e.Detail != fault.ProxySignIn || e.Remedy != fault.Fix || e.After <= 0 || e.After > refusedPause {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			all.Wait()
			rt.(*http.Transport).CloseIdleConnections()
		}
		if tried.Load() != maxRefusals || held.Load() != clients-maxRefusals || right.Load() != clients {
			t.Errorf("%s: a wrong one is tried %d times, and %d are held; %d with a right one get through", name, tried.Load(), held.Load(), right.Load())
		}
	}
}

func TestARefusalOfTheProxyThatComesInPiecesCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for asks, isProxys := range map[string]bool{"CONNECT one:443 HTTP/1.1\r\n\r\n": true, "GET http://one/ HTTP/1.1\r\n\r\n": false} {
			var p tries
			near, far := net.Pipe()
			h := newHop(near, "proxy:3128", proxyTimeout, &p)
			go func() {
				_, _ = io.WriteString(h, asks)
				if _, err := io.Copy(io.Discard, h); isProxys != (err != nil) { // the end of a page that the proxy closes the connection after is none
					t.Errorf("%q: %v", asks, err)
				}
				_ = h.Close()
			}()
			_, _ = http.ReadRequest(bufio.NewReader(far))
			for _, b := range []byte("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n") {
				_, _ = far.Write([]byte{b})
			}
			_ = far.Close()
			synctest.Wait()
			if p.refused != 1 || p.worked || len(p.trying) != 0 {
				t.Errorf("%q: %d refusals, worked %t, %v are tried", asks, p.refused, p.worked, p.trying)
			}
		}
	})
}

func TestThePasswordOfTheProxyIsTriedAgainWhenNoDirectoryCountsTheFormerTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p tries
		const one = "one:443"
		enter := func(target string) {
			t.Helper()
			if mine, err := p.enter(nil, "proxy:3128", target); !mine || err != nil {
				t.Fatalf("%v, %v", mine, err)
			}
		}
		held := func(target string, want time.Duration) {
			t.Helper()
			if mine, err := p.enter(nil, "proxy:3128", target); mine || fault.Of(err).After != want {
				t.Errorf("%v, %v, after %v", mine, err, fault.Of(err).After)
			}
		}
		enter(one)
		p.leave(one, unanswered)
		enter(one)
		p.leave(one, refused)
		held(one, 5*time.Minute) // perhaps it is not allowed for this target alone
		<-time.After(4 * time.Minute)
		enter("two:443")
		p.leave("two:443", refused)
		<-time.After(time.Minute)
		enter(one)
		p.leave(one, refused)
		held("three:443", 5*time.Minute)
		<-time.After(5 * time.Minute)
		enter("three:443")
		p.leave("three:443", refused)
		held(one, 31*time.Minute)
		<-time.After(31 * time.Minute)

		// One tries, and the others wait for as long as their connections last.
		enter(one)
		closed := make(chan struct{})
		close(closed)
		if _, err := p.enter(closed, "proxy:3128", one); fault.Of(err).Detail != fault.ProxyAway {
			t.Error(err)
		}
		let := make(chan bool)
		for range 64 {
			go func() {
				mine, err := p.enter(nil, "proxy:3128", one)
				let <- mine || err != nil
			}()
		}
		synctest.Wait()
		p.leave(one, accepted)
		for range 64 { // all at once, and what the proxy refuses from now on is not for the password
			if <-let {
				t.Error("it is tried again")
			}
		}
	})
}

func TestATargetThatHangsBehindTheProxyHoldsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p tries
		for _, target := range []string{"one:443", "two:443", "three:443"} {
			if mine, err := p.enter(nil, "proxy:3128", target); !mine || err != nil {
				t.Fatalf("%s: %v, %v", target, mine, err)
			}
		}
		closed := make(chan struct{})
		for _, target := range []string{"one:443", "four:443"} { // a second one for a target; a fourth, that the directory could count
			go func() {
				if _, err := p.enter(closed, "proxy:3128", target); fault.Of(err).Detail != fault.ProxyAway {
					t.Errorf("%s: %v", target, err)
				}
			}()
		}
		synctest.Wait()
		close(closed)
		synctest.Wait()
		p.leave("three:443", accepted)
		if mine, err := p.enter(nil, "proxy:3128", "one:443"); mine || err != nil {
			t.Errorf("%v, %v", mine, err)
		}
		p.leave("one:443", unanswered)
		p.leave("two:443", refused)
	})
}

func TestATargetThatNeedsNoPasswordShowsNothingOfIt(t *testing.T) {
	const clients, targets = 64, 8
	squid := proxytest.Squid(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", proxytest.Exempt+":0")
	if err != nil {
		t.Fatal(err)
	}
	tcptest.Serve(t, l, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1)) // a server is spoken to first
		_, _ = io.WriteString(conn, "no TLS\r\n")
	})
	o := newOrigin(t)
	for _, password := range []string{"wrong", proxytest.Password} {
		static := viaAs(t, "http://"+squid, proxytest.Username, password)
		s := Settings{Proxy: static, Roots: o.roots}
		all := func(ask func(i int)) {
			var all sync.WaitGroup
			for i := range clients {
				all.Go(func() { ask(i) })
			}
			all.Wait()
		}
		exempt := func(int) {
			if _, err := get(t, s, "https://"+l.Addr().String()); Explain("x", err).Code != CodePlain {
				t.Errorf("%q: %v", password, err)
			}
		}
		all(exempt)
		var through, refused atomic.Int32
		all(func(i int) {
			_, err := get(t, s, fmt.Sprintf("https://127.0.0.1:%d", i%targets+1)) // nobody is there, which squid says to those who may know
			switch e := Explain("x", err); {
			case e.Detail != fault.ProxySignIn:
				through.Add(1)
			case e.After == refusedPause:
				refused.Add(1)
			}
		})
		if right := password != "wrong"; right && through.Load() != clients || !right && (through.Load() != 0 || refused.Load() != maxRefusals) {
			t.Errorf("%q: %d get through, %d are refused", password, through.Load(), refused.Load())
		}
		if _, err := get(t, s, o.URL); (err == nil) != static.Via().tries.worked {
			t.Errorf("%q: %v, and it has worked: %t", password, err, static.Via().tries.worked)
		}
		exempt(0) // while the others are held
	}
}

func TestAConnectionThatIsClosedWhileItWaitsLeavesNoTryBehind(t *testing.T) {
	var p tries
	near, far := net.Pipe()
	defer far.Close()
	h := newHop(near, "proxy:3128", proxyTimeout, &p)
	h.Close()
	if _, err := h.Write([]byte("CONNECT one:443 HTTP/1.1\r\n\r\n")); err == nil {
		t.Error("it is written to")
	}
	if len(p.trying) != 0 {
		t.Errorf("%v are tried", p.trying)
	}
}

func TestWhatAProxySaysOfThePassword(t *testing.T) {
	for answer, want := range map[string]outcome{
		"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n": refused,
		"HTTP/1.1 407 x\r\n\r\n": refused,
		"HTTP/1.0 401 x\r\nWWW-Authenticate: Basic\r\nContent-Length: 9\r\n\r\n": refused,
		"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n":                     unanswered, // nobody has looked at it
		"HTTP/1.1 403 x\r\n\r\n": unanswered,
		"HTTP/1.1 503 x\r\n\r\n": unanswered, // perhaps the proxy itself is busy
		"HTTP/1.1 502 x\r\n\r\n": passed,
	} {
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := said(resp); got != want {
			t.Errorf("%q: %d, want %d", answer, got, want)
		}
	}
}
