// Package hostname parses and compares the names of hosts: for the configuration, for the hosts to which credentials may be sent, and for
// hosts that are reached without the proxy.
package hostname

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

const (
	longest   = 253 // characters of a name: RFC 1035 section 2.3.4, less the length bytes at its ends
	localhost = "localhost"
)

// Parse returns a host name or IP address in the form in which hosts are compared and resolved: in lower case, without the dot of the
// root, in ASCII (RFC 5891), an IPv4 address within IPv6 as IPv4. It reports false if the text is not a host. It accepts an underscore,
// which some networks have in names of servers.
func Parse(s string) (string, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().String(), ip.Zone() == ""
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", false
		}
		s = ascii
	}
	if s == "" || len(s) > longest || strings.Contains("."+s+".", "..") || strings.ContainsFunc(s, outside) {
		return "", false
	}
	return s, true
}

// outside reports whether a character cannot be in a name.
func outside(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
}

// ParseDomain returns a mail domain, or the domain of a tenant, in the form of Parse: a DNS name without underscore, of two labels or
// more, or localhost.
func ParseDomain(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	ascii, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", false
	}
	if ascii != s { // a name that changes again when it is parsed again has no unique form
		if again, err := idna.Lookup.ToASCII(ascii); err != nil || again != ascii {
			return "", false
		}
	}
	name, ok := Parse(ascii)
	if _, err := netip.ParseAddr(name); err == nil {
		return "", false
	}
	return name, ok && (strings.Contains(name, ".") || name == localhost)
}

// Of returns the host of a URL in the form of Parse; empty if it has none.
func Of(u *url.URL) string {
	host, _ := Parse(u.Hostname())
	return host
}

// Address returns host:port of an https or http URL, with the default port if it has none; empty if it has no host.
func Address(u *url.URL) string {
	host := Of(u)
	if host == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(host, port)
}

// IsPort reports whether s is the number of a port that can be connected to.
func IsPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n != 0
}

// Within reports whether a host is a domain or below it; both in the form of Parse.
func Within(host, domain string) bool { return host == domain || Below(host, domain) }

// Below reports whether a host is below a domain, which it is not itself; both in the form of Parse.
func Below(host, domain string) bool {
	above, ok := strings.CutSuffix(host, "."+domain)
	return ok && above != "" && domain != ""
}

// SameServer compares the names of two servers, without case: by their first label if one of them has only one.
func SameServer(a, b string) bool {
	a, b = strings.TrimSuffix(a, "."), strings.TrimSuffix(b, ".")
	shortA, _, longA := strings.Cut(a, ".")
	shortB, _, longB := strings.Cut(b, ".")
	if longA && longB {
		return strings.EqualFold(a, b)
	}
	return strings.EqualFold(shortA, shortB)
}
