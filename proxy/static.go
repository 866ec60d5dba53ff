package proxy

// The static proxy of the configuration, and the hosts that are reached without it.

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	"golang.org/x/net/idna"
)

const (
	// maxCredential is the longest user name or password of a proxy, in bytes: SOCKS5 has one byte for the length (RFC 1929).
	maxCredential = 255
	// maxBypass bounds the list of hosts that are reached directly; each request goes through it.
	maxBypass = 1000
)

// Static is the proxy of all connections. It can be changed while it is in use: requests from then on go the new way, and
// those under way end on theirs. The zero value connects directly.
type Static struct{ via atomic.Pointer[Via] }

// Set changes the proxy; nil: connections are made directly.
func (s *Static) Set(v *Via) { s.via.Store(v) }

// For is the proxy of a request, to be put into Settings.Proxy. What no bypass lists goes through the proxy, loopback too: unlike
// golang.org/x/net/http/httpproxy, nothing is exempt by itself.
func (s *Static) For(req *http.Request) (*url.URL, error) {
	v := s.via.Load()
	if v == nil || v.bypasses(target(req.URL)) {
		return nil, nil
	}
	return v.url, nil
}

// Via is a proxy and the hosts that are reached without it.
type Via struct {
	url    *url.URL // with user name and password
	direct []rule
}

// ParseVia makes a Via of a configuration. address is http, https, socks5 or socks5h://host:port; with both kinds of SOCKS it is
// the proxy that looks names up. No user name: the proxy wants none. To an HTTP proxy they are sent as Basic (RFC 7617), to SOCKS5
// as RFC 1929 has it.
//
// bypass lists who is reached directly: a host name (that host alone), .contoso.com or *.contoso.com (all hosts below it), an IP
// address, a network as in 10.0.0.0/8; each with :port, but for networks, or for every port.
//
// No error holds the address, the user name or the password: any of them could be the password in the wrong place.
func ParseVia(address, username, password string, bypass []string) (*Via, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		return nil, errors.New("not the URL of a proxy: want scheme://host:port, as in http://proxy.contoso.com:3128")
	case u.User != nil:
		return nil, errors.New("the URL of a proxy must not hold a user name or password: they are given apart from it")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return nil, errors.New("the URL of a proxy begins with http://, https://, socks5:// or socks5h://")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the URL of a proxy has no path")
	case !validPort(u.Port()):
		return nil, errors.New("the URL of a proxy has a port, from 1 to 65535: there is no usual one")
	}
	host, ok := hostName(u.Hostname())
	if !ok {
		return nil, errors.New("the URL of a proxy has a host name or an IP address")
	}
	v := &Via{url: &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(host, u.Port())}}
	if username != "" || password != "" {
		if err := validCredential(username, password); err != nil {
			return nil, err
		}
		v.url.User = url.UserPassword(username, password)
	}
	if len(bypass) > maxBypass {
		return nil, fmt.Errorf("bypass has %d entries, and %d are allowed: use networks and .suffixes", len(bypass), maxBypass)
	}
	for _, b := range bypass {
		r, err := parseRule(b)
		if err != nil {
			return nil, err
		}
		v.direct = append(v.direct, r)
	}
	return v, nil
}

// String is the proxy's address, without user name and password.
func (v *Via) String() string {
	if v == nil {
		return "none"
	}
	return v.url.Scheme + "://" + v.url.Host
}

// GoString keeps the password out of %#v.
func (v *Via) GoString() string { return v.String() }

func validCredential(username, password string) error {
	switch {
	case username == "":
		return errors.New("a proxy's password wants a user name")
	case len(username) > maxCredential || len(password) > maxCredential:
		return fmt.Errorf("a proxy's user name and password have at most %d bytes each", maxCredential)
	case strings.Contains(username, ":"):
		return errors.New("a proxy's user name has no colon: it ends there (RFC 7617)")
	case strings.ContainsFunc(username+password, unicode.IsControl):
		return errors.New("a proxy's user name and password have no control characters")
	}
	return nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n != 0
}

// hostName returns a host as it is compared and asked for: in lower case, without the dot of the root, in ASCII (RFC 5891). An IPv4
// address within IPv6 is one of IPv4. It reports false for what is no host.
func hostName(s string) (string, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().String(), true
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", false
		}
		s = ascii
	}
	const longest = 253 // RFC 1035
	if s == "" || len(s) > longest || strings.Contains("."+s+".", "..") {
		return "", false
	}
	return s, !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// target returns where a request goes.
func target(u *url.URL) (host, port string) {
	// Transport.NewClientConn asks for its host alone, without a port, and without brackets.
	if ip, err := netip.ParseAddr(u.Host); err == nil {
		host = ip.String()
	} else {
		host, port = u.Hostname(), u.Port()
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return host, port
}

// rule is one entry of a bypass list.
type rule struct {
	network netip.Prefix // of addresses; not valid: a name
	name    string       // ".contoso.com": what is below it
	port    string       // "": every
}

func parseRule(s string) (rule, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return rule{network: p.Masked()}, nil
	}
	wrong := fmt.Errorf("bypass: want a host name, .contoso.com for all hosts below it, an IP address or a network as in 10.0.0.0/8, got %q", Printable(s, maxText))
	var r rule
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		if !validPort(p) {
			return rule{}, wrong
		}
		host, r.port = h, p
	} else if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(s, "]") {
		host = strings.TrimSuffix(inner, "]")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		r.network = netip.PrefixFrom(ip, ip.BitLen())
		return r, nil
	}
	below := ""
	if strings.HasPrefix(host, ".") || strings.HasPrefix(host, "*.") {
		below, host = ".", host[strings.Index(host, ".")+1:]
	}
	name, ok := hostName(host)
	if !ok {
		return rule{}, wrong
	}
	r.name = below + name
	return r, nil
}

// bypasses reports whether a host is reached without the proxy.
func (v *Via) bypasses(host, port string) bool {
	if len(v.direct) == 0 {
		return false
	}
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	ip = ip.Unmap().WithZone("")
	name, _ := hostName(host)
	return slices.ContainsFunc(v.direct, func(r rule) bool {
		switch {
		case r.port != "" && r.port != port:
			return false
		case r.network.IsValid():
			return isIP && r.network.Contains(ip)
		case strings.HasPrefix(r.name, "."):
			return !isIP && len(name) > len(r.name) && strings.HasSuffix(name, r.name)
		}
		return !isIP && name == r.name
	})
}
