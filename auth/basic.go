package auth

// Basic: a user name and password.

import (
	"context"
	"net/http"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// CodeNoBasic is the fault.Error.Code of a server that asks for something else than a user name and a password.
const CodeNoBasic = "Basic not offered"

// Basic is a user name and password, sent (RFC 7617, in UTF-8) to a host once it has asked for them, and with every request from then on.
type Basic struct {
	Username string // CONTOSO\svc-bell or svc-bell@contoso.com
	Password Secret

	tries *lockout // nil: not limited
}

// NewBasic returns the credential of an account, whose failed sign-ins are limited.
func NewBasic(username string, password Secret) Credential {
	return Basic{Username: username, Password: password, tries: &lockout{}}
}

// RoundTripper implements Credential. The first request to a host goes without the password, and again with it once the host has asked for
// it; a request whose body can be read once only is answered with the host's 401 then. A host that asks for something else is a *fault.Error
// with CodeNoBasic; one that is not named and has not shown to be an Exchange is one with CodeUntrusted.
func (b Basic) RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper {
	return &basic{Basic: b, gate: newGate(to), Transport: keeping(s, maxConns)}
}

// Prepare implements Credential: nothing is needed.
func (Basic) Prepare(context.Context) error { return nil }

// Close implements Credential: nothing is under way.
func (Basic) Close() {}

type basic struct {
	Basic
	*http.Transport
	gate *gate
}

// RoundTrip implements http.RoundTripper.
func (b *basic) RoundTrip(req *http.Request) (*http.Response, error) {
	to, err := b.gate.admit(req)
	if err != nil {
		return nil, err
	}
	if to.asked.Load() {
		return b.send(req, to)
	}
	resp, err := b.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	if err := b.asked(resp, to); err != nil {
		discard(resp)
		return nil, err
	}
	to.asked.Store(true)
	if !canRepeat(req) {
		return resp, nil
	}
	discard(resp)
	repeated, err := repeat(req)
	if err != nil {
		return nil, err
	}
	return b.send(repeated, to)
}

// asked says why a password does not follow an answer 401; nil: it was asked for.
func (b *basic) asked(resp *http.Response, to *destination) error {
	host := resp.Request.URL.Host
	if err := to.trusts(resp, host); err != nil {
		return err
	}
	has := readOffers(resp.Header)
	if has.scheme("Basic") {
		return nil
	}
	return &fault.Error{Op: opSignIn, Code: CodeNoBasic, Scope: fault.Account, Remedy: fault.Fix,
		Text: proxy.Printable(host, maxHostText) + " does not ask for a password by Basic, but offers " + has.String() + "; the password is not sent"}
}

// send sends a request with the password.
func (b *basic) send(req *http.Request, to *destination) (*http.Response, error) {
	done, err := b.tries.enter(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	// RoundTrip must not change the request that it was given.
	signed := *req
	signed.Header = req.Header.Clone()
	signed.SetBasicAuth(b.Username, string(b.Password))
	resp, err := b.Transport.RoundTrip(&signed)
	done(signInOf(resp))
	if err == nil && resp.StatusCode == http.StatusUnauthorized && !readOffers(resp.Header).scheme("Basic") {
		to.asked.Store(false) // it has changed its ways: the next request asks
	}
	return resp, err
}
