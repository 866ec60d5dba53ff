package config

// The credentials of listener accounts.

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// credentials are the keys of which a listener account has one.
var credentials = []string{"basic", "ntlm", "client_secret", "certificate", "listener_account"}

// account reads a listener account of an entry. Where its type is not known, nothing is said about what fits it. byURL: the
// entry has a URL of EWS.
func (o *object) account(entryType string, byURL bool) Account {
	o.require("name")
	a := Account{Name: o.text("name", "", name)}
	given := ""
	for _, key := range credentials {
		switch {
		case !o.has(key):
		case given != "":
			o.fail("several credentials: want one")
		default:
			given = key
		}
		o.asked = append(o.asked, key)
	}
	c := o.object(given)
	switch given {
	case "":
		if !o.wrong {
			o.get("basic").fail("is required: an account needs its credential (%s)", strings.Join(credentials, ", "))
		}
	case "basic":
		a.Basic = c.password(username)
	case "ntlm":
		a.NTLM = c.password(ntlmUser)
	case "client_secret":
		a.ClientSecret = c.clientSecret()
	case "certificate":
		a.Certificate = c.app()
		a.Certificate.Certificate = c.certificate()
	case "listener_account":
		a.ListenerAccount = &ListenerAccount{Tenant: c.tenant(), ClientID: c.clientID(), Password: *c.password(principal)}
		if entryType == Online {
			c.warn("Exchange Online has refused impersonation by a listener account since February 2025: use client_secret or certificate")
		}
	}
	switch given {
	case "basic", "ntlm":
		if entryType == Online {
			c.fail("Exchange Online takes tokens only: use client_secret or certificate")
		}
	case "client_secret", "certificate", "listener_account":
		if entryType == OnPremises && !byURL {
			c.fail("tokens for Exchange on premises (hybrid modern authentication) are made for one host: set ews_url, or type: online for Exchange Online")
		}
	}
	c.end()
	o.end()
	return a
}

// password reads a user and its password. What else the mapping has is read by the caller.
func (o *object) password(user func(string) (string, error)) *Password {
	o.require("username")
	p := &Password{Username: o.text("username", "", user)}
	p.Password, _ = o.word("password")
	return p
}

// app reads which app it is.
func (o *object) app() *App { return &App{Tenant: o.tenant(), ClientID: o.clientID()} }

func (o *object) clientSecret() *App {
	a := o.app()
	a.Secret, _ = o.word("secret")
	v := o.get("expires")
	text, ok := v.text()
	if !ok {
		return a
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		v.fail("want a day as in 2027-05-01, got %s", quoted(text))
		return a
	}
	if a.Expires = day; day.After(time.Now().AddDate(0, maxSecretMonths, 1)) {
		v.warn("is more than %d months ahead, and Entra ID gives no client secret for longer: is the day right?", maxSecretMonths)
	}
	return a
}

func (o *object) tenant() string {
	o.require("tenant_id")
	return o.text("tenant_id", "", tenant)
}

func (o *object) clientID() string {
	o.require("client_id")
	return o.text("client_id", "", matching(guid, "a GUID, as Entra ID shows it as the application (client) id"))
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$`)

// tenant checks which tenant it is: "common" and its like are for people who sign in, not for programs.
func tenant(s string) (string, error) {
	if guid.MatchString(s) {
		return strings.ToLower(s), nil
	}
	if d, err := domain(s); err == nil {
		return d, nil
	}
	return "", fmt.Errorf("want the tenant's GUID or one of its domains, as in contoso.onmicrosoft.com, got %s", quoted(s))
}

// username checks what RFC 7617 section 2 allows: everything but a colon and control characters.
func username(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }) {
		return "", fmt.Errorf("a user name for Basic must not have a colon or a control character")
	}
	return s, nil
}

var (
	ntlmUser  = matching(regexp.MustCompile(`^[^\\@\x00-\x1f\x7f]+(\\[^\\@\x00-\x1f\x7f]+|@[^\\@\x00-\x1f\x7f]+)$`), `a user as DOMAIN\name or name@domain`)
	principal = matching(regexp.MustCompile(`^[^\\@\s]+@[^\\@\s]+$`), "a user principal name, as in svc-bell@contoso.com")
)
