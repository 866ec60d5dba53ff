package proxy

// The static proxy of the configuration, and the hosts that are reached without it.

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/mailbell/mailbell/internal/staticproxy"
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
	direct []staticproxy.Rule
}

// ParseVia makes a Via of a configuration. address is http, https, socks5 or socks5h://host:port; with both kinds of SOCKS it is
// the proxy that looks names up. No user name: the proxy wants none. To an HTTP proxy they are sent as Basic (RFC 7617), to SOCKS5
// as RFC 1929 has it.
//
// bypass lists who is reached directly, each as staticproxy.Rule has it.
//
// No error holds the address, the user name or the password: any of them could be the password in the wrong place.
func ParseVia(address, username, password string, bypass []string) (*Via, error) {
	u, err := staticproxy.ParseURL(address)
	if err != nil {
		return nil, fmt.Errorf("the proxy's address: %w", err)
	}
	v := &Via{url: u}
	if username != "" || password != "" {
		if err := validCredential(username, password); err != nil {
			return nil, err
		}
		v.url.User = url.UserPassword(username, password)
	}
	if len(bypass) > staticproxy.MaxBypass {
		return nil, fmt.Errorf("bypass has %d entries, and %d are allowed: use networks and .suffixes", len(bypass), staticproxy.MaxBypass)
	}
	for _, b := range bypass {
		r, err := staticproxy.ParseRule(b)
		if err != nil {
			return nil, fmt.Errorf("bypass: %w, got %q", err, Printable(b, maxText))
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
	case len(password) > staticproxy.MaxCredential:
		return fmt.Errorf("a proxy's password has at most %d bytes", staticproxy.MaxCredential)
	case strings.ContainsFunc(password, unicode.IsControl):
		return errors.New("a proxy's password must not have a control character")
	}
	if err := staticproxy.CheckUsername(username); err != nil {
		return fmt.Errorf("the proxy's user name: %w", err)
	}
	return nil
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

// bypasses reports whether a host is reached without the proxy.
func (v *Via) bypasses(host, port string) bool {
	if len(v.direct) == 0 {
		return false
	}
	to := staticproxy.NewTarget(host, port)
	return slices.ContainsFunc(v.direct, func(r staticproxy.Rule) bool { return r.Matches(to) })
}
