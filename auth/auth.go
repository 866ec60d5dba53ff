// Package auth signs requests in: it makes an http.RoundTripper of a credential. Each round tripper owns its connections, so that no
// request uses a connection that another identity has signed in.
package auth

import (
	"context"
	"net/http"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/proxy"
)

// Credential is what a listener account signs in with.
type Credential interface {
	// RoundTripper returns a new round tripper that signs in each request, over https and at these hosts only, on connections of its own.
	// A request to any other is refused before anything is sent, by a *fault.Error with CodeHost.
	// Where connections are signed in there are at most maxConns. The others keep as many per host without a request as s says, or
	// maxConns where it does not. 0 is the default of proxy. It has a method CloseIdleConnections.
	RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper
	// Prepare gets the token that signing in needs. Its error is a *fault.Error. A user name and a password need nothing.
	Prepare(ctx context.Context) error
	// Close ends the requests that the credential makes itself, and waits for them. CloseIdleConnections closes round trippers.
	Close()
}

// keeping is the transport of a round tripper that signs in each request: it keeps connections that wait for one.
func keeping(s proxy.Settings, maxConns int) *http.Transport {
	t := s.Transport()
	if maxConns > 0 && s.Idle == 0 {
		t.MaxIdleConnsPerHost = maxConns
	}
	return t
}

// Secret is a password or key. No way of formatting or encoding it shows it; string(s) does.
type Secret = credential.Secret
