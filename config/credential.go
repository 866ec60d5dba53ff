package config

// The credentials of listener accounts.

import (
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/pattern"
)

// Account is a listener account: the identity under which mailboxes are listened to.
type Account struct {
	Name       string
	Credential credential.Description
}

// method is an authentication method.
type method struct {
	name      string // its key
	byToken   bool   // of Entra ID
	app       bool   // and the token is an app's, not a user's
	read      func(*object) credential.Description
	notOnline string // the warning about it with Exchange Online; empty: none
}

// methods are the authentication methods, of which a listener account has one. A new one needs a line here, a function that reads its
// keys, and a case in auth.New.
var methods = []method{
	{name: credential.Basic, read: func(o *object) credential.Description { return o.password(username) }},
	{name: credential.NTLM, read: func(o *object) credential.Description { return o.password(ntlmUser) }},
	{name: credential.ClientSecret, byToken: true, app: true, read: (*object).clientSecret},
	{name: credential.Certificate, byToken: true, app: true, read: (*object).appCertificate},
	{name: credential.ListenerAccount, byToken: true, read: (*object).listenerAccount,
		notOnline: "Exchange Online has refused impersonation by a listener account since February 2025: use client_secret or certificate"},
}

// AuthenticationMethods are the keys of all authentication methods.
func AuthenticationMethods() []string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = m.name
	}
	return names
}

// account reads a listener account of an entry. If the type of the entry is unknown, account does not check whether the method fits it.
// byURL: the entry has a URL of EWS.
func (o *object) account(e Exchange, byURL bool) Account {
	defer o.end()
	o.require("name")
	a := Account{Name: o.text("name", "", matching(pattern.Name))}
	names := AuthenticationMethods()
	o.asked = append(o.asked, names...)
	given := slices.DeleteFunc(slices.Clone(methods), func(m method) bool { return !o.has(m.name) })
	if len(given) == 0 {
		if !o.wrong {
			o.get(names[0]).fail("is required: an account needs an authentication method (%s)", strings.Join(names, ", "))
		}
		return a
	}
	if len(given) > 1 {
		o.fail("several authentication methods: want one")
	}
	m, c := given[0], o.object(given[0].name)
	a.Credential = m.read(c)
	a.Credential.Method = m.name
	switch {
	case e.Type == Online && !m.byToken:
		c.fail("Exchange Online accepts tokens only: use client_secret or certificate")
	case e.ListenBy == ByGraph && m.byToken && !m.app:
		c.fail("Microsoft Graph gives one user no other's mailbox: use client_secret or certificate")
	case e.Type == Online && m.notOnline != "":
		c.warn("%s", m.notOnline)
	case e.Type == OnPremises && m.byToken && !byURL:
		c.fail("tokens for Exchange on premises (hybrid modern authentication) are for one host: set ews_url, or type: online for Exchange Online")
	}
	c.end()
	return a
}

// password reads a user and its password.
func (o *object) password(user func(string) (string, error)) credential.Description {
	o.require("username")
	d := credential.Description{Username: o.text("username", "", user)}
	d.Secret, _ = o.word("password")
	return d
}

// app reads the tenant and the id of an app.
func (o *object) app() credential.Description {
	return credential.Description{Tenant: o.tenant(), ClientID: o.clientID()}
}

func (o *object) clientSecret() credential.Description {
	d := o.app()
	d.Secret, _ = o.word("secret")
	v := o.get("expires")
	text, ok := v.text()
	if !ok {
		return d
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		v.fail("want a day as in 2027-05-01, got %s", quoted(text))
		return d
	}
	d.Expires = day
	if day.After(time.Now().AddDate(0, maxSecretMonths, 1)) {
		v.warn("is more than %d months ahead, and no client secret of Entra ID lasts that long: check the day", maxSecretMonths)
	}
	return d
}

func (o *object) appCertificate() credential.Description {
	d := o.app()
	d.Certificate = o.certificate()
	if d.Certificate == nil {
		return d
	}
	d.Expires = d.Certificate.Leaf.NotAfter
	if _, ok := d.Certificate.PrivateKey.(*rsa.PrivateKey); !ok {
		o.get("file").fail("has another kind of key: want an RSA key, as Entra ID takes no other from an app")
	}
	return d
}

func (o *object) listenerAccount() credential.Description {
	d := o.password(principal)
	d.Tenant, d.ClientID = o.tenant(), o.clientID()
	return d
}

// maxSecretMonths is the longest life of a client secret in Entra ID.
const maxSecretMonths = 24

func (o *object) tenant() string {
	o.require("tenant_id")
	return o.text("tenant_id", "", tenant)
}

func (o *object) clientID() string {
	o.require("client_id")
	return o.text("client_id", "", matching(pattern.GUID))
}

// tenant checks the name of a tenant: "common" and the like are for interactive sign-ins, not for programs.
func tenant(s string) (string, error) {
	if pattern.GUID.Matches(s) {
		return strings.ToLower(s), nil
	}
	if d, err := domain(s); err == nil {
		return d, nil
	}
	return "", fmt.Errorf("want the tenant's GUID or one of its domains, as in contoso.onmicrosoft.com, got %s", quoted(s))
}

// username checks by RFC 7617 section 2: everything but a colon and control characters is allowed.
func username(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }) {
		return "", fmt.Errorf("a user name for Basic must not have a colon or a control character")
	}
	return s, nil
}

var (
	ntlmUser  = matching(pattern.New(`^[^\\@\x00-\x1f\x7f]+(\\[^\\@\x00-\x1f\x7f]+|@[^\\@\x00-\x1f\x7f]+)$`, `a user as DOMAIN\name or name@domain`))
	principal = matching(pattern.New(`^[^\\@\s]+@[^\\@\s]+$`, "a user principal name, as in svc-bell@contoso.com"))
)
