package auth

// Basic: a user name and password.

import (
	"context"
	"net/http"

	"github.com/mailbell/mailbell/proxy"
)

// Basic is a user name and password, sent with every request (RFC 7617), in UTF-8.
type Basic struct {
	Username string // CONTOSO\svc-bell or svc-bell@contoso.com
	Password Secret

	tries *lockout // nil: not limited
}

// NewBasic returns the credential of an account, whose failed sign-ins are limited.
func NewBasic(username string, password Secret) Credential {
	return Basic{Username: username, Password: password, tries: &lockout{}}
}

// RoundTripper implements Credential. A request that is not https is refused before a connection is made.
func (b Basic) RoundTripper(s proxy.Settings, maxConns int) http.RoundTripper {
	return &basic{Basic: b, Transport: keeping(s, maxConns)}
}

// Prepare implements Credential: nothing is needed.
func (Basic) Prepare(context.Context) error { return nil }

// Close implements Credential: nothing is under way.
func (Basic) Close() {}

type basic struct {
	Basic
	*http.Transport
}

func (b *basic) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := overTLS(req); err != nil {
		return nil, err
	}
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
	return resp, err
}
