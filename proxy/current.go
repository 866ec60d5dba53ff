package proxy

// The proxy of the configuration, and the hosts that are reached without it.

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/mailbell/mailbell/internal/proxyconfig"
)

// Current is the proxy of all connections. It can be changed while it is in use: later requests use the new proxy, and open ones stay on
// the old one. The zero value connects directly.
type Current struct{ via atomic.Pointer[Via] }

// Set changes the proxy; nil: connections are made directly.
func (s *Current) Set(v *Via) { s.via.Store(v) }

// Via returns the proxy; nil: connections are made directly.
func (s *Current) Via() *Via { return s.via.Load() }

// For returns the proxy of a request; nil: none. A host that bypass does not list is reached through the proxy, loopback too:
// unlike golang.org/x/net/http/httpproxy, no host is exempt by itself.
func (s *Current) For(req *http.Request) *url.URL {
	v := s.via.Load()
	if v == nil || v.bypasses(target(req.URL)) {
		return nil
	}
	return v.url
}

// tries are those of the password for the proxy at a marked address; nil: it needs none, or another proxy has replaced it.
func (s *Current) tries(address string) *tries {
	v := s.via.Load()
	if v == nil || v.url.User == nil || marked(v.url).Host != address {
		return nil
	}
	return &v.tries
}

// Via is a proxy and the hosts that are reached without it.
type Via struct {
	url    *url.URL // with user name and password
	direct []proxyconfig.Rule
	tries  tries // of its password
}

// ParseVia makes a Via of a configuration. address is http, https, socks5 or socks5h://host:port; with both kinds of SOCKS the proxy looks
// names up. Without a user name mailbell does not sign in to the proxy. It signs in to an HTTP proxy by Basic (RFC 7617), and to a SOCKS5
// proxy by RFC 1929.
//
// bypass lists the hosts that are reached directly, each a proxyconfig.Rule.
//
// No error shows the address, the user name or the password: each of them could be the password, written into the wrong field.
func ParseVia(address, username, password string, bypass []string) (*Via, error) {
	u, err := proxyconfig.ParseURL(address)
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
	if len(bypass) > proxyconfig.MaxBypass {
		return nil, fmt.Errorf("bypass has %d entries, and %d are allowed: use networks and .suffixes", len(bypass), proxyconfig.MaxBypass)
	}
	for _, b := range bypass {
		r, err := proxyconfig.ParseRule(b)
		if err != nil {
			return nil, fmt.Errorf("bypass: %w, got %q", err, Printable(b, maxText))
		}
		v.direct = append(v.direct, r)
	}
	return v, nil
}

// Equal reports whether two proxies are one, reached with the same password, past the same hosts.
func (v *Via) Equal(other *Via) bool {
	if v == nil || other == nil {
		return v == other
	}
	return reflect.DeepEqual(v.url, other.url) && slices.Equal(v.direct, other.direct)
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
		return errors.New("a proxy password needs a user name")
	case len(password) > proxyconfig.MaxCredential:
		return fmt.Errorf("a proxy password has at most %d bytes", proxyconfig.MaxCredential)
	case strings.ContainsFunc(password, unicode.IsControl):
		return errors.New("a proxy password must not have a control character")
	}
	if err := proxyconfig.CheckUsername(username); err != nil {
		return fmt.Errorf("the proxy's user name: %w", err)
	}
	return nil
}

// target returns the host and port of a request.
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
	to := proxyconfig.NewTarget(host, port)
	return slices.ContainsFunc(v.direct, func(r proxyconfig.Rule) bool { return r.Matches(to) })
}
