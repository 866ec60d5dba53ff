package proxy

// Which addresses are public, so that nobody outside leads mailbell into the company's network.

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
)

// notPublic are the networks that are not of the internet, beyond those that net/netip knows by itself: the IANA registries of
// special-purpose addresses (RFC 6890). It is never written to.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("100.64.0.0/10"),   // behind a provider's NAT (RFC 6598)
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, and the broadcast address
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local NAT64 (RFC 8215)
	netip.MustParsePrefix("100::/64"),        // discard
	netip.MustParsePrefix("2001::/32"),       // Teredo
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4, which leads to any IPv4 address
	netip.MustParsePrefix("fec0::/10"),       // once site-local
}

// nat64 leads to the IPv4 address in its last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// public reports whether an address is one of the internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	// IsGlobalUnicast leaves out what is unspecified, loopback, multicast, link-local or broadcast.
	return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// letThrough reports whether a host may have any address.
func (s Settings) letThrough(host string) bool {
	host, _ = hostname.Parse(host)
	return !s.PublicOnly || slices.ContainsFunc(s.Except, func(e string) bool {
		e, ok := hostname.Parse(e)
		return ok && e == host
	})
}

// control is the Control of a net.Dialer: it gets the address that is about to be dialled, whatever DNS answered before.
func (s Settings) control(host string) func(network, address string, _ syscall.RawConn) error {
	if s.letThrough(host) {
		return nil
	}
	return func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err == nil && public(a.Addr()) {
			return nil
		}
		at, _, _ := net.SplitHostPort(address)
		return private(host, at)
	}
}

// refuseLiteral refuses a request that is to go through a proxy and names a private address itself. Only the
// proxy knows the address of a name.
func (s Settings) refuseLiteral(req *http.Request) error {
	host, _ := target(req.URL)
	if s.letThrough(host) {
		return nil
	}
	a, err := netip.ParseAddr(host)
	if err == nil && public(a) {
		return nil
	}
	// A proxy may read 127.1, 2130706433 or 0x7f.1 as IPv4. No domain ends in a number.
	last := strings.TrimSuffix(host, ".")
	last = last[strings.LastIndex(last, ".")+1:]
	if err == nil || last != "" && '0' <= last[0] && last[0] <= '9' {
		return private(host, host)
	}
	return nil
}

func private(host, address string) error {
	return &fault.Error{Op: "connect", Code: CodePrivate, Scope: fault.Server, Remedy: fault.Fix,
		Text: Printable(fmt.Sprintf("%s has the address %s, which is not public: only a host that the configuration names may be inside the network", host, address), maxText)}
}
