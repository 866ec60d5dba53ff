package service

// How people sign in to the admin page at a provider of OpenID Connect.

import (
	"maps"

	"github.com/mailbell/mailbell/admin"
	"github.com/mailbell/mailbell/admin/openid"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/proxy"
)

// signInBy is the provider of the configuration; nil: there is none. The transport is to be closed where it is not used any more.
func (s *Service) signInBy(c config.Admin) *admin.OIDC {
	if c.OIDC == nil {
		return nil
	}
	d := c.OIDC
	out := proxy.Settings{Roots: d.CA, Proxy: s.proxy, Seen: s.seen}
	return &admin.OIDC{
		Provider: openid.New(openid.Options{
			Issuer: d.Issuer, ClientID: d.ClientID, ClientSecret: string(d.ClientSecret), RedirectURL: c.URL + admin.CallbackPath, GroupsClaim: d.GroupsClaim,
			Transport: out.Transport(), Log: s.log.Named("admin"),
		}),
		Groups: granted(d.Groups), Addresses: granted(d.Addresses),
	}
}

func granted(roles map[string]string) map[string]api.Role {
	list := map[string]api.Role{}
	for name, role := range roles {
		list[name] = api.Role(role)
	}
	return list
}

// sameSignIn compares all that people sign in by.
func sameSignIn(a, b config.Admin) bool {
	if a.OIDC == nil || b.OIDC == nil {
		return a.OIDC == b.OIDC
	}
	x, y := *a.OIDC, *b.OIDC
	return a.URL == b.URL && x.Issuer == y.Issuer && x.ClientID == y.ClientID && x.ClientSecret == y.ClientSecret && x.GroupsClaim == y.GroupsClaim &&
		samePool(x.CA, y.CA) && maps.Equal(x.Groups, y.Groups) && maps.Equal(x.Addresses, y.Addresses)
}
