package proxy

// The connection to a proxy, and the errors of a proxy that does not connect mailbell to the server.
//
// net/http sends the proxy CONNECT, a plain request, or SOCKS5. This file does what net/http does not:
//
//   - It dials a proxy and a server by the same function, and does not say which of them an address is. So the URL of a proxy gets a
//     mark that net/http passes on.
//   - TLS to an https proxy has the configuration of TLS to the server: its roots, its client certificate, its ALPN (an HTTP/2
//     client would agree on HTTP/2 with the proxy and then speak HTTP/1.1) and its VerifyConnection. So for net/http an https proxy
//     is an http one, and TLS to it is made here, by roots of its own.
//   - It waits a minute for the answer to CONNECT, and without end for the answer of a SOCKS5 proxy.
//   - The errors do not name the proxy.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// proxyTimeout bounds the time from the dial of a proxy to its answer: the proxy looks a name up and connects to the server. It is
	// less than the ten seconds after which callers give up, so that the error names the proxy.
	proxyTimeout = 8 * time.Second
	// mark stands between the scheme of a proxy and its name, as in "https|proxy.contoso.com": no URL that was parsed has it in
	// its host, so no server can be taken for a proxy.
	mark = "|"
	// refusedPause is how long mailbell waits after a proxy has refused: an administrator has to act, and with each wrong password the
	// directory may lock the account.
	refusedPause = credential.FirstPause
	// shortly is how long mailbell waits after a proxy could not be reached, or could not reach the server: a restart of the proxy must not
	// make mail late.
	shortly = 5 * time.Second
	// asksWithin bounds the question whether a proxy wants a password: to answer that it does, it asks nobody.
	asksWithin = time.Second
)

// The requests to a proxy, by their first byte. What is written after one of them is for the server.
const (
	askConnect   = 'C'  // CONNECT (RFC 9110 section 9.3.6)
	askSOCKS     = 0x05 // the greeting and the request of SOCKS5 (RFC 1928)
	askSOCKSAuth = 0x01 // its user name and password (RFC 1929)
)

const (
	// askPlain is a request by plain http, which an HTTP proxy gets as it is (RFC 9112 section 3.2.2), with the password. It is what is
	// written where none of the others was: it can begin with any method.
	askPlain = 'p'
	// toldConnect stands for CONNECT once it is answered.
	toldConnect = 'c'
)

// notHTTP completes the error of a proxy whose answer is not HTTP.
const notHTTP = "does not answer CONNECT in HTTP: is it a proxy of another kind?"

var errNoHost = errors.New("not the name of a host: it has a " + mark)

// marked returns the URL of a proxy with the mark.
func marked(u *url.URL) *url.URL {
	m := *u
	port := u.Port()
	if port == "" {
		port = map[string]string{"": "80", "http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	m.Host = net.JoinHostPort(u.Scheme+mark+u.Hostname(), port)
	if m.Scheme == "https" {
		m.Scheme = "http"
	}
	return &m
}

// unmarked splits an address that net/http dials; marked is false for the address of a server.
func unmarked(address string) (scheme, host, port string, marked bool, err error) {
	host, port, err = net.SplitHostPort(address)
	if s, name, ok := strings.Cut(host, mark); ok {
		return s, name, port, true, err
	}
	return "", host, port, false, err
}

// addressKey is the key under which ClientConn puts its address into the context.
type addressKey struct{}

// ClientConn is (*http.Transport).NewClientConn for a transport of these Settings. net/http asks for the proxy with the host
// alone; a bypass may depend on the port.
func ClientConn(ctx context.Context, t *http.Transport, scheme, address string) (*http.ClientConn, error) {
	return t.NewClientConn(context.WithValue(ctx, addressKey{}, address), scheme, address)
}

// through is the transport's Proxy.
func (s Settings) through(req *http.Request) (*url.URL, error) {
	if strings.Contains(req.URL.Host, mark) {
		return nil, errNoHost
	}
	if address, ok := req.Context().Value(addressKey{}).(string); ok {
		req = &http.Request{Method: req.Method, URL: &url.URL{Scheme: req.URL.Scheme, Host: address, Path: "/"}}
	}
	u := s.Proxy.For(req)
	if u == nil {
		return nil, nil
	}
	if err := s.refuseLiteral(req); err != nil {
		return nil, err
	}
	return marked(u), nil
}

// dial is the transport's DialContext: to a server, or to the proxy on the way to it.
func (s Settings) dial(ctx context.Context, network, address string) (net.Conn, error) {
	scheme, host, port, isProxy, err := unmarked(address)
	if err != nil {
		return nil, err
	}
	if isProxy && s.Proxy == nil {
		return nil, errNoHost
	}
	if !isProxy {
		d := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, Control: s.control(host)}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &opening{Conn: conn}, nil
	}
	began := time.Now()
	proxy := net.JoinHostPort(host, port)
	again := func(ctx context.Context) (net.Conn, error) { return s.dialProxy(ctx, scheme, host, proxy) }
	conn, err := again(ctx)
	if err != nil {
		return nil, unreachable(proxy, err)
	}
	h := newHop(conn, proxy, proxyTimeout-time.Since(began), s.Proxy.tries(address))
	h.again = again
	return &opening{Conn: h, proxy: proxy}, nil
}

// dialProxy connects to the proxy at host:port, whose name is host.
func (s Settings) dialProxy(ctx context.Context, scheme, host, proxy string) (net.Conn, error) {
	began := time.Now()
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	conn, err := d.DialContext(ctx, "tcp", proxy)
	if err != nil || scheme != "https" {
		return conn, err
	}
	secure := tls.Client(&opening{Conn: conn}, &tls.Config{RootCAs: s.ProxyRoots, ServerName: host, MinVersion: tls.VersionTLS12})
	ctx, cancel := context.WithTimeout(ctx, min(handshakeTimeout, proxyTimeout-time.Since(began)))
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// hop is a connection to a proxy. Its errors are the proxy's until the proxy has connected it to the server.
type hop struct {
	net.Conn
	proxy   string // host:port
	giveUp  *time.Timer
	expired atomic.Bool
	beyond  atomic.Bool                             // what is written is for the server
	plain   atomic.Bool                             // it is for plain requests, one after the other
	asked   atomic.Uint32                           // the last question to the proxy; 0: none, or a plain request that it has answered
	answer  []byte                                  // to CONNECT or a plain request, until its header has come whole
	tries   *tries                                  // of the password
	target  string                                  // that the proxy is asked to connect to
	trying  atomic.Pointer[string]                  // the target for which it is tried; nil: it is not
	again   func(context.Context) (net.Conn, error) // makes another connection to the proxy
	closed  chan struct{}
	close   sync.Once
}

// newHop returns the hop for a connection to the proxy at host:port. It fails if the proxy does not connect in time.
func newHop(conn net.Conn, proxy string, within time.Duration, of *tries) *hop {
	h := &hop{Conn: conn, proxy: proxy, tries: of, closed: make(chan struct{})}
	h.giveUp = time.AfterFunc(within, func() {
		h.expired.Store(true)
		_ = h.end()
	})
	return h
}

// Write implements net.Conn, and notices when the proxy has connected.
func (h *hop) Write(b []byte) (int, error) {
	if !h.beyond.Load() && len(b) > 0 {
		if err := h.ask(b); err != nil {
			return 0, err
		}
	}
	n, err := h.Conn.Write(b)
	return n, h.explain(err)
}

// ask notices whether what is about to be written asks the proxy for something, and waits until it may.
func (h *hop) ask(b []byte) error {
	asked := h.asked.Load()
	switch first := b[0]; {
	case asked == askPlain: // more of the same request
		return nil
	case first == askConnect, first == askSOCKS, first == askSOCKSAuth:
		h.asked.Store(uint32(first))
		return h.enter(b)
	case asked == 0:
		h.plain.Store(true)
		h.asked.Store(askPlain)
		err := h.enter(b)
		if err != nil || h.trying.Load() != nil {
			h.giveUp.Stop() // how long the answer takes is the server's matter
			return err
		}
	}
	h.giveUp.Stop()
	h.beyond.Store(true)
	h.letThrough()
	return nil
}

// Read implements net.Conn.
func (h *hop) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 && !h.beyond.Load() {
		switch h.asked.Load() {
		case askConnect, askPlain:
			if err := h.answered(b[:n]); err != nil {
				return 0, err
			}
		case askSOCKSAuth: // RFC 1929 section 2
			if reply := b[:n]; len(reply) > 1 {
				o := refused
				if reply[1] == 0 {
					o = accepted
				}
				h.tell(o)
			}
		}
	}
	return n, h.explain(err)
}

// Close implements net.Conn.
func (h *hop) Close() error {
	h.giveUp.Stop()
	return h.end()
}

func (h *hop) end() error {
	h.close.Do(func() { close(h.closed) })
	h.tell(unanswered)
	return h.Conn.Close()
}

// enter waits until what is about to be written may be, where it has the password in it.
func (h *hop) enter(b []byte) error {
	target := h.target
	switch {
	case h.plain.Load():
		_, rest, _ := strings.Cut(string(b), "://")
		target, _, _ = strings.Cut(rest, "/")
	case b[0] == askSOCKS:
		return nil
	case b[0] == askConnect:
		_, rest, _ := strings.Cut(string(b), " ")
		h.target, _, _ = strings.Cut(rest, " ")
		target = h.target
	}
	mine, err := h.tries.enter(h.closed, h.proxy, target)
	if mine {
		h.trying.Store(&target)
	}
	select {
	case <-h.closed: // meanwhile, and nobody closes it again
		h.tell(unanswered)
	default:
	}
	return err
}

// tell tells what the proxy says of the password, if it is tried here.
func (h *hop) tell(o outcome) {
	if target := h.trying.Swap(nil); target != nil {
		h.tries.leave(*target, o)
	}
}

// answered looks at the answer to CONNECT or to a plain request, once its header has come whole. net/http does not say that a malformed one
// to CONNECT is the proxy's, and drops what comes with it.
func (h *hop) answered(b []byte) error {
	plain := h.plain.Load()
	if len(h.answer) == 0 && !plain { // only the first byte tells
		switch b[0] {
		case 'H':
		case recordAlert, recordHandshake:
			return proxyError(h.proxy, fault.Fix, fault.ProxyKind, inTLS, nil)
		default:
			return proxyError(h.proxy, fault.Fix, fault.ProxyKind, notHTTP, nil)
		}
	}
	h.answer = append(h.answer, b...)
	if !bytes.Contains(h.answer, []byte("\n\r\n")) && !bytes.Contains(h.answer, []byte("\n\n")) && len(h.answer) < maxResponseHeader {
		return nil
	}
	answer := h.answer
	h.answer = nil
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err == nil {
		resp.Body.Close()
	}
	if plain {
		h.asked.Store(0)
		if err == nil && resp.StatusCode == http.StatusProxyAuthRequired {
			h.tell(said(resp))
		}
		h.tell(unanswered) // any other answer can be the server's
		return nil
	}
	h.asked.Store(toldConnect)
	if err != nil {
		return proxyError(h.proxy, fault.Fix, fault.ProxyKind, notHTTP, err)
	}
	switch o := said(resp); o {
	case unanswered:
	case passed:
		h.letThrough()
	default:
		h.tell(o)
	}
	_, more, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	more = bytes.TrimSpace(more)
	if resp.StatusCode == http.StatusOK && len(more) > 0 { // no server speaks before it is spoken to in TLS
		return proxyError(h.proxy, fault.Fix, fault.ProxyDenies, fmt.Sprintf("does not let mailbell through to %s: it answers with a page, %q",
			h.target, Printable(string(more), maxText/3)), nil)
	}
	return nil
}

// letThrough tells that the proxy has let mailbell through to the target. That it has looked at the password for it is shown by asking
// without one: squid and others let everybody through to some targets, and look at nothing.
func (h *hop) letThrough() {
	if h.trying.Load() == nil {
		return
	}
	o := passed
	if h.asks() {
		o = accepted
	}
	h.tell(o)
}

// asks reports whether the proxy asks for a password before it connects to the target.
func (h *hop) asks() bool {
	ctx, cancel := context.WithTimeout(context.Background(), asksWithin)
	defer cancel()
	conn, err := h.again(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", h.target); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponseHeader)), nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return asksForPassword(resp)
}

// said is what a refusal says of the password that was sent with the request. A proxy that asked a server for it has let mailbell in.
func said(resp *http.Response) outcome {
	detail, _ := wanted(true, offersOf(resp))
	switch {
	case asksForPassword(resp) && detail == fault.ProxySignIn:
		return refused
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusGatewayTimeout:
		return passed
	}
	return unanswered
}

// asksForPassword reports whether a proxy wants a sign-in. Older versions of tinyproxy ask for it with 401, a status of servers.
func asksForPassword(resp *http.Response) bool {
	return resp.StatusCode == http.StatusProxyAuthRequired || resp.StatusCode == http.StatusUnauthorized
}

func offersOf(resp *http.Response) []string {
	return challenge.Schemes(slices.Concat(resp.Header.Values("Proxy-Authenticate"), resp.Header.Values("Www-Authenticate")))
}

func (h *hop) explain(err error) error {
	switch {
	case err == nil || h.beyond.Load() || h.plain.Load():
		return err
	case h.expired.Load(), errors.Is(err, os.ErrDeadlineExceeded): // net/http sets deadlines for SOCKS5
		return proxyError(h.proxy, fault.Wait, fault.ProxyAway, "did not answer in time", err)
	}
	return proxyError(h.proxy, fault.Wait, fault.ProxyAway, "closed the connection without an answer", err)
}

// proxyError is an error of the proxy at host:port; what completes the sentence.
func proxyError(proxy string, remedy fault.Remedy, detail fault.Detail, what string, cause error) *fault.Error {
	e := &fault.Error{Op: "connect", Code: CodeProxy, Scope: fault.Server, Remedy: remedy, After: shortly,
		Text:     Printable("the proxy "+proxy+" "+what, 2*maxText),
		Evidence: fault.Evidence{Peer: fault.Proxy, Host: Printable(proxy, maxText), Detail: detail}}
	if remedy == fault.Fix {
		e.After = refusedPause
	}
	if cause != nil {
		e.Err = cleaned{cause}
	}
	return e
}

// unreachable is the error for a proxy that cannot be reached.
func unreachable(proxy string, err error) *fault.Error {
	if m, ok := errors.AsType[*mismatch](err); ok {
		if m.refusesTLS() {
			return proxyError(proxy, fault.Fix, fault.ProxyKind, "agrees on no TLS connection: is it one of the scheme http?", m)
		}
		return proxyError(proxy, fault.Wait, fault.ProxyAway, "answers in plain text where TLS was expected", m)
	}
	if cert, kind := failed(err); kind == CodeCertificate {
		return proxyError(proxy, fault.Fix, flawOf(cert, err), "cannot be used: its "+describe(cert, err), err)
	} else if kind == CodeTLS {
		return proxyError(proxy, fault.Fix, fault.ProxyKind, "agrees on no TLS connection: is it one of the scheme http?", err)
	} else if kind == CodeName {
		return proxyError(proxy, fault.Wait, fault.ProxyAway, "cannot be reached: its name could not be looked up", err)
	}
	return proxyError(proxy, fault.Wait, fault.ProxyAway, "cannot be reached", err)
}

// refusal is the transport's OnProxyConnectResponse: what an HTTP proxy answered to CONNECT.
func refusal(_ context.Context, via *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	_, host, port, _, err := unmarked(via.Host)
	if err != nil {
		return err
	}
	remedy, detail, what := fault.Fix, fault.None, "does not connect to"
	offers := offersOf(resp)
	switch {
	case asksForPassword(resp):
		detail, what = wanted(via.User != nil, offers)
		what += " before it connects to"
	case resp.StatusCode == http.StatusForbidden:
		detail, what = fault.ProxyDenies, "does not let mailbell through to"
	case resp.StatusCode == http.StatusMethodNotAllowed, resp.StatusCode == http.StatusNotImplemented: // it does not know CONNECT
		detail = fault.ProxyKind
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError:
		remedy, what = fault.Wait, "cannot reach"
	}
	reason := resp.Status
	if squid := resp.Header.Get("X-Squid-Error"); squid != "" {
		reason += ", " + squid // ERR_DNS_FAIL, ERR_CONNECT_FAIL: more than the status tells
	}
	e := proxyError(net.JoinHostPort(host, port), remedy, detail, fmt.Sprintf("%s %s: %s", what, req.Host, Printable(reason, maxText)), nil)
	e.Status, e.Offers = resp.StatusCode, offers
	return e
}

// wanted says how a proxy wants mailbell to sign in, from the schemes that it offers (RFC 9110 section 11.7.1).
func wanted(given bool, offers []string) (fault.Detail, string) {
	switch {
	case len(offers) > 0 && !challenge.Has(offers, "Basic"):
		return fault.ProxyScheme, "wants a sign-in by " + Printable(strings.Join(offers, ", "), maxText/3) + ", and mailbell signs in to a proxy by Basic only,"
	case given:
		return fault.ProxySignIn, "does not accept the user name and password"
	}
	return fault.ProxySignIn, "wants a user name and password"
}

// The texts of net/http's SOCKS5 client, whose errors have no exported type or value. A test compares them with the Go in use.
const (
	opSOCKS          = "socks connect"
	textSOCKSReply   = "unknown error " // a reply field of RFC 1928 section 6, in words
	textSOCKSRuleset = "connection not allowed by ruleset"
	textSOCKSMethods = "no acceptable authentication methods"
	textSOCKSAuth    = "username/password authentication failed"
)

// socksRefusal finds the refusal of a SOCKS5 proxy in an error of net/http; nil: there is none.
func socksRefusal(err error) *fault.Error {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Op != opSOCKS || e.Source == nil || e.Addr == nil || e.Err == nil {
		return nil
	}
	text := e.Err.Error()
	remedy, detail, what := fault.Fix, fault.None, "does not connect to"
	reason, replied := strings.CutPrefix(text, textSOCKSReply)
	switch {
	case text == textSOCKSMethods:
		detail, what = fault.ProxyScheme, "accepts none of mailbell's methods to sign in, before it connects to"
	case text == textSOCKSAuth:
		detail, what = fault.ProxySignIn, "does not accept the user name and password before it connects to"
	case reason == textSOCKSRuleset:
		detail, what = fault.ProxyDenies, "does not let mailbell through to"
	case replied:
		remedy, what = fault.Wait, "cannot reach"
	}
	return proxyError(e.Source.String(), remedy, detail, what+" "+e.Addr.String()+": "+reason, nil)
}
