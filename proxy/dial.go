package proxy

// How a proxy and a server are dialled.
//
// net/http dials both by the same function, and does not say which of them an address is. So the URL of a proxy gets a mark that net/http
// passes on. TLS to an https proxy would have the configuration of TLS to the server: its roots, its client certificate, its ALPN (an HTTP/2
// client would agree on HTTP/2 with the proxy and then speak HTTP/1.1) and its VerifyConnection. So for net/http an https proxy is an http
// one, and TLS to it is made here, by roots of its own.

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// mark stands between the scheme of a proxy and its name, as in "https|proxy.contoso.com": no URL that was parsed has it in its host, so no
// server can be taken for a proxy.
const mark = "|"

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
