package config

// The static proxy.

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	maxProxyWord = 255  // bytes of a proxy's user name or password: SOCKS5 has one byte for the length (RFC 1929)
	maxBypass    = 1000 // hosts: each request goes through them
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
	if v := o.get("bypass"); len(p.Bypass) > maxBypass {
		v.fail("has %d entries: want at most %d, use networks and .suffixes", len(p.Bypass), maxBypass)
	}
	switch given := o.has("password_file") || o.has("password_env"); {
	case given && !o.has("username"):
		o.get("username").fail("is required where a password is given")
		fallthrough
	case given, p.Username != "":
		var v value
		if p.Password, v = o.word("password"); len(p.Password) > maxProxyWord {
			v.fail("holds a password of %d bytes: want at most %d, SOCKS5 takes no more", len(p.Password), maxProxyWord)
		}
	default:
		o.asked = append(o.asked, "password_file", "password_env")
	}
	return p
}

func proxyUser(s string) (string, error) {
	if len(s) > maxProxyWord {
		return "", fmt.Errorf("want at most %d bytes: SOCKS5 takes no more", maxProxyWord)
	}
	return username(s)
}

// proxyURL checks the address of a proxy. The text itself is in no error: it could hold a secret.
func proxyURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "":
		return "", fmt.Errorf("not a URL: want scheme://host:port, as in http://proxy.contoso.com:3128")
	case u.User != nil:
		return "", fmt.Errorf("a URL must not hold a user name or password: they are username and password_file")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return "", fmt.Errorf("want a URL that begins with http://, https://, socks5:// or socks5h://")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("want a URL without a path")
	}
	if _, err := hostName(u.Hostname()); err != nil {
		return "", fmt.Errorf("want a URL with a host name: scheme://host:port")
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("want a URL with a port: a proxy has no usual one")
	}
	return u.Scheme + "://" + u.Host, nil
}

// bypass checks one of the hosts that are reached without the proxy.
func bypass(s string) (string, error) {
	wrong := fmt.Errorf("want a host name, .contoso.com for all hosts below it, an IP address or a network as in 10.0.0.0/8, with :port or without, got %s", quoted(s))
	if _, err := netip.ParsePrefix(s); err == nil {
		return s, nil
	}
	host, port := s, ""
	if h, p, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", wrong
		}
		host, port = h, p
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return s, nil
	}
	prefix := ""
	if name, ok := strings.CutPrefix(host, "*."); ok {
		prefix, host = ".", name
	} else if name, ok := strings.CutPrefix(host, "."); ok {
		prefix, host = ".", name
	}
	name, err := hostName(host)
	if err != nil {
		return "", wrong
	}
	if name = prefix + name; port != "" {
		name += ":" + port
	}
	return name, nil
}
