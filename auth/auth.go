// Package auth turns credentials into an authorised http.RoundTripper, which owns its connections: an identity never rides
// on a connection of another.
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
	// It keeps up to maxConns connections open per host; 0 leaves the default of proxy. It has a method CloseIdleConnections.
	RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper
	// Prepare gets what signing in needs from elsewhere, a token, and says with a *fault.Error why there is none. A user name
	// and a password need nothing.
	Prepare(ctx context.Context) error
	// Close ends what the credential has under way, and waits for it. Round trippers are closed by CloseIdleConnections.
	Close()
}

// keeping is the transport of a round tripper that signs in each request: it keeps up to maxConns connections open.
func keeping(s proxy.Settings, maxConns int) *http.Transport {
	t := s.Transport()
	if maxConns > 0 {
		t.MaxIdleConnsPerHost = maxConns
	}
	return t
}

// Secret is a password or key. No way of formatting or encoding it shows it; string(s) does.
type Secret = credential.Secret
