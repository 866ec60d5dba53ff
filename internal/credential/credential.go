// Package credential describes what a listener account signs in with, as plain values: config reads them, service compares them and hands
// them on, auth.New makes of them what signs requests in. Whoever stands between config and auth asks a Description what it has to know,
// and never which authentication method it is; so a new method changes nothing there.
package credential

import (
	"bytes"
	"crypto/tls"
	"time"
)

// The authentication methods, as the configuration calls them.
const (
	Basic           = "basic"            // a user name and password, RFC 7617
	NTLM            = "ntlm"             // a user name and password, MS-NLMP
	ClientSecret    = "client_secret"    // an app of Entra ID by a secret
	Certificate     = "certificate"      // an app of Entra ID by a certificate
	ListenerAccount = "listener_account" // a user of Entra ID by a password, through an app that allows it
)

// Description is what a listener account signs in with: the authentication method, and the values that it needs. Those that it does not
// need are empty.
type Description struct {
	Method      string
	Username    string
	Secret      Secret           // the password, or the client secret
	Tenant      string           // of Entra ID: a GUID or a domain
	ClientID    string           // of an app registered there: a GUID
	Certificate *tls.Certificate // with its leaf parsed
	Expires     time.Time        // zero: it does not, or nobody says when
}

// ByToken reports whether its requests carry a token of Entra ID: whoever gets one there has a tenant.
func (d Description) ByToken() bool { return d.Tenant != "" }

// Same reports whether two descriptions sign in alike. When they expire is for the calendar alone: a certificate brings its own date, and
// that of a client secret is what the administrator says.
func (d Description) Same(other Description) bool {
	certificates := bytes.Equal(raw(d.Certificate), raw(other.Certificate))
	d.Certificate, other.Certificate = nil, nil
	d.Expires, other.Expires = time.Time{}, time.Time{}
	return certificates && d == other
}

func raw(c *tls.Certificate) []byte {
	if c == nil {
		return nil
	}
	return c.Leaf.Raw
}
