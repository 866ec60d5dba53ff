package auth

// Basic: a user name and password.

import (
	"net/http"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// Basic is a user name and password, sent with every request (RFC 7617), in UTF-8.
type Basic struct {
	Username string // CONTOSO\svc-bell or svc-bell@contoso.com
	Password Secret
}

// RoundTripper implements Credential. A request that is not https is refused before a connection is made.
func (b Basic) RoundTripper(s proxy.Settings, maxConns int) http.RoundTripper {
	t := s.Transport()
	if maxConns > 0 {
		t.MaxIdleConnsPerHost = maxConns
	}
	return &basic{Basic: b, Transport: t}
}

type basic struct {
	Basic
	*http.Transport
}

func (b *basic) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &fault.Error{Op: "sign in", Code: "not https", Scope: fault.Account, Remedy: fault.Fix,
			Text: "credentials are sent over https only, and " + req.URL.Host + " was to be asked over " + req.URL.Scheme}
	}
	// RoundTrip must not change the request that it was given.
	signed := *req
	signed.Header = req.Header.Clone()
	signed.SetBasicAuth(b.Username, string(b.Password))
	return b.Transport.RoundTrip(&signed)
}
