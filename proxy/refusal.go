package proxy

// The errors of a proxy that cannot be reached, or does not connect mailbell to the server. Those of net/http do not name the proxy.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/fault"
)

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
