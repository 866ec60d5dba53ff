package config

// The proxy.

import (
	"fmt"

	"github.com/mailbell/mailbell/internal/proxyconfig"
)

// Proxy is the proxy of every outbound connection.
type Proxy struct {
	URL      string // scheme://host:port; http, https, socks5 or socks5h
	Username string // empty: mailbell does not sign in
	Password Secret
	Bypass   []string // hosts that are reached directly: names, .suffixes, addresses, networks, each with :port or without
}

// proxy reads the section; nil if it is left out.
func (o *object) proxy() *Proxy {
	section, given := o.optional("proxy")
	defer section.end()
	section.require("url")
	p := &Proxy{
		URL:      section.text("url", "", proxyURL),
		Username: section.text("username", "", proxyUser),
		Bypass:   section.texts("bypass", bypass),
	}
	if v := section.get("bypass"); len(p.Bypass) > proxyconfig.MaxBypass {
		v.fail("has %d entries: want at most %d, use networks and .suffixes", len(p.Bypass), proxyconfig.MaxBypass)
	}
	password, v := section.optionalWord("password")
	p.Password = password
	named := v.node != nil
	switch {
	case named && !section.has("username"):
		section.get("username").fail("is required with a password")
	case !named && p.Username != "":
		v.fail("is required (or password_env)")
	case len(password) > proxyconfig.MaxCredential:
		v.fail("has a password of %d bytes: want at most %d, the most that SOCKS5 allows", len(password), proxyconfig.MaxCredential)
	}
	if !given {
		return nil
	}
	return p
}

func proxyURL(s string) (string, error) {
	u, err := proxyconfig.ParseURL(s)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

func proxyUser(s string) (string, error) { return s, proxyconfig.CheckUsername(s) }

// bypass checks one of the hosts that are reached without the proxy.
func bypass(s string) (string, error) {
	r, err := proxyconfig.ParseRule(s)
	if err != nil {
		return "", fmt.Errorf("%w, got %s", err, quoted(s))
	}
	return r.String(), nil
}
