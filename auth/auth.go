// Package auth signs requests in: it makes an http.RoundTripper of a credential. No request uses a connection that another identity has
// signed in: NTLM, which signs in connections, owns them. Where each request is signed in, accounts may share connections.
package auth

import (
	"context"
	"net/http"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/proxy"
)

// Credential is what a listener account signs in with.
type Credential interface {
	// RoundTripper returns a new round tripper that signs in each request, over https and at these hosts only.
	// A request to any other is refused before anything is sent, by a *fault.Error with CodeHost.
	// Where connections are signed in they are its own, at most maxConns. The others are those that s shares; where it shares none they are
	// its own too, and it keeps as many per host without a request as s says, or maxConns where it does not. 0 is the default of proxy.
	// It has a method CloseIdleConnections.
	RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper
	// Prepare gets the token that signing in needs. Its error is a *fault.Error. A user name and a password need nothing.
	Prepare(ctx context.Context) error
	// Close ends the requests that the credential makes itself, and waits for them. CloseIdleConnections closes round trippers.
	Close()
}

// keeping is the transport of a round tripper that signs in each request: it keeps connections that wait for one.
func keeping(s proxy.Settings, maxConns int) *http.Transport {
	if s.Shared != nil {
		return s.Shared
	}
	t := s.Transport()
	if maxConns > 0 && s.Idle == 0 {
		t.MaxIdleConnsPerHost = maxConns
	}
	return t
}

// Secret is a password or key. No way of formatting or encoding it shows it; string(s) does.
type Secret = credential.Secret
