package auth

// Basic: a user name and password.

import (
	"context"
	"fmt"
	"net/http"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// CodeNoBasic is the fault.Error.Code for a server that does not ask for Basic.
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
// it; a request whose body can be read only once gets the host's 401. If the host asks for another method, the error is
// a *fault.Error with CodeNoBasic; if the configuration does not name the host and it does not look like Exchange, one with CodeUntrusted.
func (b Basic) RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper {
	return &basic{Basic: b, gate: newGate(to), Transport: keeping(s, maxConns)}
}

// Prepare implements Credential: nothing is needed.
func (Basic) Prepare(context.Context) error { return nil }

// Close implements Credential: there is nothing to end.
func (Basic) Close() {}

// hasWorked implements askedFor.
func (b Basic) hasWorked() bool { return b.tries.hasWorked() }

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

// asked says why no password is sent after an answer 401; nil: the host asked for it.
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
		Text: fmt.Sprintf("%s does not ask for a password by Basic, but offers %s; the password is not sent",
			proxy.Printable(host, maxHostText), has),
		Evidence: has.evidence(host)}
}

// send sends a request with the password.
func (b *basic) send(req *http.Request, to *destination) (*http.Response, error) {
	done, err := b.tries.enterAt(req.Context(), placeOf(req))
	if err != nil {
		closeBody(req)
		return nil, err
	}
	// RoundTrip must not change the request that it was given.
	signed := *req
	signed.Header = req.Header.Clone()
	signed.SetBasicAuth(b.Username, string(b.Password))
	if !b.hasWorked() {
		signed.Header.Del("X-Idempotency-Key") // the directory may count a failed sign-in whose answer got lost: net/http must not make another
	}
	resp, err := b.Transport.RoundTrip(&signed)
	done(signInOf(resp))
	if err == nil && resp.StatusCode == http.StatusUnauthorized && !readOffers(resp.Header).scheme("Basic") {
		to.asked.Store(false) // the host no longer accepts it unasked: the next request goes without
	}
	return resp, err
}
