package config

// How people sign in to the admin page, beside the tokens of the API's clients.

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Admin is about the pages for people.
type Admin struct {
	URL  string // https://host: where people reach them
	OIDC *OIDC  // nil: people sign in with tokens only
}

// OIDC is a provider of OpenID Connect that people sign in with.
type OIDC struct {
	Issuer       string // as the provider writes it
	ClientID     string
	ClientSecret Secret
	CA           *x509.CertPool    // of the provider's server; nil: the system's
	GroupsClaim  string            // the claim that names groups
	Groups       map[string]string // the role by group
	Addresses    map[string]string // the role by verified address, in lower case
}

const (
	// defaultGroupsClaim is where Entra ID, AD FS and Keycloak can be told to put groups; `roles` has the app roles of Entra ID.
	defaultGroupsClaim = "groups"
	// maxGranted bounds the groups, and the addresses, that get a role: people are granted by groups.
	maxGranted = 1000
	// maxGroup bounds the name of a group or claim: an id, or a distinguished name of Active Directory.
	maxGroup = 512
)

// admin reads the section. public is the public_url, which leads to the pages too, unless it leads to callbacks alone.
func (o *object) admin(public string, callbacksAlone bool) (a Admin) {
	otherwise := public
	if callbacksAlone {
		otherwise = ""
	}
	a.URL = o.text("url", otherwise, pagesURL)
	section, given := o.optional("oidc")
	d := section.oidc()
	o.end()
	if !given {
		return a
	}
	a.OIDC = d
	switch v := o.get("url"); {
	case a.URL == "" && v.node == nil && callbacksAlone:
		v.fail("is required with oidc and callbacks.listen: public_url leads to the callbacks alone")
	case a.URL == "" && v.node == nil:
		v.fail("is required with oidc (or public_url): the provider sends people back to it")
	case v.node == nil:
		if _, err := pagesURL(a.URL); err != nil {
			v.fail("is required with oidc: public_url is not https, and browsers keep the cookie of a session over https only")
		}
	}
	return a
}

func (o *object) oidc() *OIDC {
	o.require("issuer", "client_id")
	d := &OIDC{
		Issuer:      o.text("issuer", "", httpsURL),
		ClientID:    o.text("client_id", "", groupName),
		CA:          o.authorities("ca_file"),
		GroupsClaim: o.text("groups_claim", defaultGroupsClaim, groupName),
		Groups:      o.roles("groups", groupName),
		Addresses:   o.roles("addresses", person),
	}
	d.ClientSecret, _ = o.word("client_secret")
	if len(d.Groups)+len(d.Addresses) == 0 && !o.absent && !o.wrong && !o.has("groups") && !o.has("addresses") {
		o.fail("names neither groups nor addresses: nobody could sign in")
	}
	o.end()
	return d
}

// roles reads who gets which role.
func (o *object) roles(key string, check func(string) (string, error)) map[string]string {
	section := o.object(key)
	granted := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(section.values)) { // so that it is always the same one of two that is wrong
		v := section.get(name)
		checked, err := check(name)
		if err != nil {
			v.fail("%v", err)
			continue
		}
		if _, twice := granted[checked]; twice {
			v.fail("is given twice, in upper and lower case")
			continue
		}
		granted[checked] = section.choice(name, "", []string{RoleRead, RoleTest, RoleAdmin})
		if !section.has(name) {
			v.fail("is empty: want one of read, test, admin")
		}
	}
	if len(granted) > maxGranted {
		section.fail("has %d entries: want at most %d", len(granted), maxGranted)
	}
	return granted
}

func groupName(s string) (string, error) {
	if len(s) > maxGroup || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("want at most %d characters, and no control character", maxGroup)
	}
	return s, nil
}

// person checks the mail address of somebody, and returns the form in which addresses are compared.
func person(s string) (string, error) {
	name, domain, ok := strings.Cut(s, "@")
	if !ok || name == "" || domain == "" || strings.ContainsAny(s, " <>,;") || strings.Contains(domain, "@") {
		return "", fmt.Errorf("not a mail address: want one as in ann@contoso.com")
	}
	return strings.ToLower(s), nil
}

// pagesURL checks where people reach the pages: over https, or http on this machine.
func pagesURL(s string) (string, error) {
	s, err := baseURL(s, "/admin/…")
	if err != nil {
		return "", err
	}
	if u, _ := url.Parse(s); u != nil && u.Scheme != "https" && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname()) {
		return "", fmt.Errorf("want a URL that begins with https://: browsers keep the cookie of a session over https only")
	}
	return s, nil
}
