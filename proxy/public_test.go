package proxy

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy/proxytest"
)

func TestOnlyAddressesOfTheInternetArePublic(t *testing.T) {
	for a, want := range map[string]bool{
		"40.101.1.2": true, "17.188.143.34": true, "172.15.0.1": true, "172.32.0.1": true, "100.63.0.1": true, "100.128.0.1": true, "2603:1026::1": true,
		"::ffff:40.101.1.2": true, "64:ff9b::2865:102": true,
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "0.0.0.0": false, "::": false, "0.1.2.3": false,
		"10.1.2.3": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "fd00::1": false, "fc00::1": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false,
		"100.64.0.1": false, "100.127.255.255": false, "224.0.0.1": false, "239.1.1.1": false, "ff02::1": false,
		"255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "192.0.2.1": false, "2001:db8::1": false, "2002:a00:1::": false, "2001:0:1::1": false,
		"::ffff:10.1.2.3": false, "::ffff:127.0.0.1": false, "64:ff9b::a00:1": false, "64:ff9b:1::1": false,
	} {
		if got := public(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: public is %v, want %v", a, got, want)
		}
	}
}

func TestAPublicEntryIsNotLedIntoTheNetwork(t *testing.T) {
	o := newOrigin(t)
	_, port, err := net.SplitHostPort(o.address)
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Roots: o.roots, PublicOnly: true, Except: []string{"mail.contoso.com"}}
	// localhost stands for any name that DNS leads there, whatever it had answered before.
	for _, to := range []string{"https://127.0.0.1:" + port, "https://localhost:" + port, "http://127.0.0.1:" + port, "https://[::ffff:127.0.0.1]:" + port} {
		_, err := get(t, s, to)
		e := Explain("Autodiscover", &url.Error{Op: "Get", URL: to, Err: err})
		if e.Code != CodePrivate || e.Scope != fault.Server || e.Remedy != fault.Fix || !strings.Contains(e.Error(), "127.0.0.1, which is not public") && !strings.Contains(e.Error(), "::1, which is not public") {
			t.Errorf("%s: %v", to, e)
		}
	}
	s.Except = append(s.Except, "127.0.0.1")
	if _, err := get(t, s, o.URL); err != nil {
		t.Errorf("a host that the configuration names: %v", err)
	}
	s.Except = []string{"LOCALHOST."}
	if _, err := get(t, s, "https://localhost:"+port); Explain("x", err).Code != CodeCertificate { // it was connected to
		t.Errorf("a host that the configuration names: %v", err)
	}
	if _, err := get(t, Settings{Roots: o.roots}, o.URL); err != nil {
		t.Errorf("without PublicOnly: %v", err)
	}
}

func TestBehindAProxyWhatNamesAPrivateAddressIsRefusedBeforeTheProxyIsAsked(t *testing.T) {
	o := newOrigin(t)
	p := proxytest.StartSOCKS(t)
	p.Resolve("example.com:443", o.address)
	s := Settings{Roots: o.roots, Proxy: via(t, "socks5://"+p.Address), PublicOnly: true}
	for _, host := range []string{"10.0.0.1", "127.0.0.1:8443", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "127.1", "2130706433", "0x7f.1", "0x7f000001", "10.0.0.1.", "017700000001"} {
		_, err := get(t, s, "https://"+host+"/autodiscover/autodiscover.xml")
		if e := Explain("Autodiscover", err); e.Code != CodePrivate || e.Remedy != fault.Fix {
			t.Errorf("%s: %v", host, e)
		}
	}
	if asked := p.Asked(); len(asked) != 0 {
		t.Errorf("the proxy was asked for %v", asked)
	}
	// The proxy itself is at a private address.
	if _, err := get(t, s, "https://example.com/"); err != nil {
		t.Errorf("%v", err)
	}
	s.Except = []string{"127.0.0.1"}
	if _, err := get(t, s, o.URL); err != nil {
		t.Errorf("a host that the configuration names: %v", err)
	}
}
