package auth

// The authentication methods. Only this file knows which there are.

import (
	"fmt"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/proxy"
)

// TokenService is where an account gets its tokens, if its authentication method needs them.
type TokenService struct {
	Authority string         // of the cloud, as in https://login.microsoftonline.com
	Scope     string         // the resource's name and /.default, as in https://outlook.office365.com/.default
	Outbound  proxy.Settings // to the authority
}

// New returns the credential for a description. It makes no request. Its errors are about the description and the token service, and have
// no secret in them; an unknown authentication method is one of them.
func New(d credential.Description, s TokenService) (Credential, error) {
	app := App{Authority: s.Authority, Tenant: d.Tenant, ClientID: d.ClientID, Scope: s.Scope, Outbound: s.Outbound}
	switch d.Method {
	case credential.Basic:
		return NewBasic(d.Username, d.Secret), nil
	case credential.NTLM:
		return NewNTLM(d.Username, d.Secret), nil
	case credential.ClientSecret:
		app.Secret = d.Secret
		return NewApp(app)
	case credential.Certificate:
		app.Certificate = d.Certificate
		return NewApp(app)
	case credential.ListenerAccount:
		return NewListenerAccount(ListenerAccount{
			Authority: s.Authority, Tenant: d.Tenant, ClientID: d.ClientID, Scope: s.Scope, Username: d.Username, Password: d.Secret, Outbound: s.Outbound,
		})
	}
	return nil, fmt.Errorf("there is no authentication method %q", proxy.Printable(d.Method, maxServerText))
}
