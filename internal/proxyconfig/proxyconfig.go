// Package proxyconfig parses the address of the proxy, and the rules for hosts that are reached without it. config uses it to report
// mistakes with their keys, proxy to connect. No error shows what was parsed, because it could be a password in the wrong field.
package proxyconfig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/mailbell/mailbell/internal/hostname"
)

const (
	// MaxCredential is the longest user name or password of a proxy, in bytes: SOCKS5 has one byte for the length (RFC 1929).
	MaxCredential = 255
	// MaxBypass bounds the list of hosts that are reached directly; each request goes through it.
	MaxBypass = 1000
)

// ParseURL returns the address of a proxy: scheme and host:port, and nothing else.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		return nil, errors.New("not a URL: want scheme://host:port, as in http://proxy.contoso.com:3128")
	case u.User != nil:
		return nil, errors.New("a URL must not have a user name or password in it: they are username and password_file")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return nil, errors.New("want a URL that begins with http://, https://, socks5:// or socks5h://")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("want a URL without a path")
	}
	host := hostname.Of(u)
	switch {
	case host == "":
		return nil, errors.New("want a URL with a host name: scheme://host:port")
	case !hostname.IsPort(u.Port()):
		return nil, errors.New("want a URL with a port: a proxy has no usual one")
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(host, u.Port())}, nil
}

// CheckUsername checks the user name for a proxy: one HTTP and SOCKS5 can carry.
func CheckUsername(s string) error {
	switch {
	case len(s) > MaxCredential:
		return fmt.Errorf("want at most %d bytes: the most that SOCKS5 allows", MaxCredential)
	case strings.Contains(s, ":"):
		return errors.New("a user name must not have a colon: it ends there (RFC 7617)")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("a user name must not have a control character")
	}
	return nil
}

// Rule is one entry of a bypass list: a host name (that host alone), .contoso.com or *.contoso.com (all hosts below it), an IP address, or
// a network as in 10.0.0.0/8; each with :port, but for networks, or for every port.
type Rule struct {
	network netip.Prefix // of addresses; not valid: a name
	name    string
	below   bool   // what is below the name, and not the name itself
	port    string // "": every
}

var errRule = errors.New("want a host name, .contoso.com for all hosts below it, an IP address or a network as in 10.0.0.0/8, with :port or without")

// ParseRule reads an entry of a bypass list.
func ParseRule(s string) (Rule, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return Rule{network: p.Masked()}, nil
	}
	var r Rule
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if !hostname.IsPort(port) {
			return Rule{}, errRule
		}
		host, r.port = h, port
	} else if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		r.network = netip.PrefixFrom(ip, ip.BitLen())
		return r, nil
	}
	if strings.HasPrefix(host, ".") || strings.HasPrefix(host, "*.") {
		_, host, r.below = strings.Cut(host, ".")
	}
	name, ok := hostname.Parse(host)
	if _, err := netip.ParseAddr(name); !ok || err == nil { // nothing is below an address
		return Rule{}, errRule
	}
	r.name = name
	return r, nil
}

// String is the rule as it is written in a configuration.
func (r Rule) String() string {
	host := r.name
	switch {
	case r.network.IsValid() && !r.network.IsSingleIP():
		return r.network.String()
	case r.network.IsValid():
		host = r.network.Addr().String()
	case r.below:
		host = "." + host
	}
	if r.port != "" {
		return net.JoinHostPort(host, r.port)
	}
	return host
}

// Target is where a request goes.
type Target struct {
	ip   netip.Addr // not valid: it is asked for by its name
	name string
	port string
}

// NewTarget returns the target of a request to a host, by name or address, and a port.
func NewTarget(host, port string) Target {
	if ip, err := netip.ParseAddr(host); err == nil {
		return Target{ip: ip.Unmap().WithZone(""), port: port}
	}
	name, _ := hostname.Parse(host)
	return Target{name: name, port: port}
}

// Matches reports whether a target is one of the rule's. An address is matched by addresses and networks alone, and a name by names.
func (r Rule) Matches(t Target) bool {
	switch {
	case r.port != "" && r.port != t.port:
		return false
	case r.network.IsValid():
		return r.network.Contains(t.ip)
	case r.below:
		return hostname.Below(t.name, r.name)
	}
	return t.name == r.name
}
