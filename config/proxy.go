package config

// The static proxy.

import (
	"fmt"

	"github.com/mailbell/mailbell/internal/staticproxy"
)

func (o *object) proxy() *Proxy {
	defer o.end()
	if !isSet(o.node) {
		o.asked = []string{"url", "username", "password_file", "password_env", "bypass"}
		return nil
	}
	o.require("url")
	p := &Proxy{
		URL:      o.text("url", "", proxyURL),
		Username: o.text("username", "", proxyUser),
		Bypass:   o.texts("bypass", bypass),
	}
	if v := o.get("bypass"); len(p.Bypass) > staticproxy.MaxBypass {
		v.fail("has %d entries: want at most %d, use networks and .suffixes", len(p.Bypass), staticproxy.MaxBypass)
	}
	switch given := o.has("password_file") || o.has("password_env"); {
	case given && !o.has("username"):
		o.get("username").fail("is required where a password is given")
		fallthrough
	case given, p.Username != "":
		var v value
		if p.Password, v = o.word("password"); len(p.Password) > staticproxy.MaxCredential {
			v.fail("holds a password of %d bytes: want at most %d, SOCKS5 takes no more", len(p.Password), staticproxy.MaxCredential)
		}
	default:
		o.asked = append(o.asked, "password_file", "password_env")
	}
	return p
}

func proxyURL(s string) (string, error) {
	u, err := staticproxy.ParseURL(s)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

func proxyUser(s string) (string, error) { return s, staticproxy.CheckUsername(s) }

// bypass checks one of the hosts that are reached without the proxy.
func bypass(s string) (string, error) {
	r, err := staticproxy.ParseRule(s)
	if err != nil {
		return "", fmt.Errorf("%w, got %s", err, quoted(s))
	}
	return r.String(), nil
}
