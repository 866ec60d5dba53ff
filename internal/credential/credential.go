// Package credential describes how a listener account signs in, as plain values. config reads them, service compares them and passes them
// on, and auth.New makes a credential of them. The code between config and auth uses the methods of Description, and never asks for the
// authentication method; so a new method changes nothing there.
package credential

import (
	"bytes"
	"crypto/tls"
	"time"
)

// The authentication methods, by their names in the configuration.
const (
	Basic           = "basic"            // a user name and password, RFC 7617
	NTLM            = "ntlm"             // a user name and password, MS-NLMP
	ClientSecret    = "client_secret"    // an app of Entra ID by a secret
	Certificate     = "certificate"      // an app of Entra ID by a certificate
	ListenerAccount = "listener_account" // a user of Entra ID by a password, through an app that allows it
)

// Description is how a listener account signs in: the authentication method, and its values. Values that the method does not need are
// empty.
type Description struct {
	Method      string
	Username    string
	Secret      Secret           // the password, or the client secret
	Tenant      string           // of Entra ID: a GUID or a domain
	ClientID    string           // of an app registered there: a GUID
	Certificate *tls.Certificate // with its leaf parsed
	Expires     time.Time        // zero: it does not, or nobody says when
}

// ByToken reports whether its requests carry a token of Entra ID. Such a description has a tenant.
func (d Description) ByToken() bool { return d.Tenant != "" }

// Same reports whether two descriptions sign in in the same way. It ignores the dates of expiry: a certificate has its own, and that of a
// client secret is only used for warnings.
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
