// Package proxy makes every outbound connection, directly or through the configured proxy: trust roots, timeouts, and errors that explain
// what went wrong.
package proxy

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/expiry"
)

const (
	// dialTimeout bounds a TCP connect: a reachable server answers in milliseconds, and a blocked port must not delay the start.
	dialTimeout = 5 * time.Second
	// handshakeTimeout bounds the TLS handshake: a load balancer without a server behind it accepts the connection and does not answer.
	handshakeTimeout = 5 * time.Second
	// keepAlive notices a peer that is gone before a firewall drops the connection (many do after a few minutes).
	keepAlive = 30 * time.Second
	// idleTimeout is longer than the pause between two waves of mail: those that a burst opened, each with some 20 KiB, go soon after it. It is
	// shorter than the two minutes after which IIS closes an idle connection, so that our side closes it first.
	idleTimeout = 20 * time.Second
	// idlePerHost is how many connections to one host are kept open; a caller with more calls at once sets it higher.
	idlePerHost = 16
	// maxResponseHeader bounds the headers of an answer; real ones have a few kilobytes.
	maxResponseHeader = 256 << 10
	// maxRootsFile bounds a file of trust roots; a whole system's bundle has about 250 KiB.
	maxRootsFile = 8 << 20
)

// Settings of all connections to one kind of server. The zero value connects directly and trusts the system's roots.
type Settings struct {
	Roots *x509.CertPool // of the server's certificate; nil: the system's
	Proxy *Current       // nil: none. The environment is ignored
	// ProxyRoots are the trust roots for an https proxy; nil: the system's. They are not Roots, because a ca_file is for one server, and the
	// proxy leads to many. (net/http alone would take Roots for both.)
	ProxyRoots *x509.CertPool
	// Seen is called with the verified chain of every TLS connection to a server, for the dates of expiry; nil: it is not called. host has
	// no port. For a server that is addressed by IP address, host is the first address in its certificate. The chain begins with the
	// server's certificate; of several chains it is the one that expires last. Seen must not block.
	Seen func(host string, chain []*x509.Certificate)
	// PublicOnly refuses to connect to addresses that are not of the internet: private, loopback, link-local and others (RFC 1918,
	// 4193, 6598, 6890). So nothing leads an Exchange Online entry into the company's network. The dialled address counts, whatever DNS
	// answers. Behind a proxy, only a target that is an IP address is refused; the proxy itself may be anywhere. The hosts in Except, which
	// the configuration names, are allowed.
	PublicOnly bool
	Except     []string // without ports
	Idle       int      // connections to a host that are kept without a request; 0: 16
	// Shared are the connections of those who sign in each request and no connection; nil: each has its own.
	Shared *http.Transport
}

// Transport returns a new transport, which shares nothing with any other: TLS 1.2 or later, HTTP/1.1 (an EWS stream
// needs a connection of its own, and NTLM requires HTTP/1.1), no compression (it would delay events). The caller bounds the time of an
// answer by its context or by ResponseHeaderTimeout. Explain types its errors.
func (s Settings) Transport() *http.Transport {
	t := &http.Transport{
		DialContext:            s.dial,
		TLSClientConfig:        &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    cmp.Or(s.Idle, idlePerHost),
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	if s.Proxy != nil {
		t.Proxy, t.OnProxyConnectResponse = s.through, refusal
	}
	if s.Seen != nil {
		t.TLSClientConfig.VerifyConnection = s.tell
	}
	return t
}

// tell calls Seen for a connection to a server. TLS to a proxy has a configuration of its own.
func (s Settings) tell(state tls.ConnectionState) error {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	chain := slices.MaxFunc(state.VerifiedChains, func(a, b []*x509.Certificate) int { return expiry.Earliest(a).Compare(expiry.Earliest(b)) })
	host := state.ServerName
	if host == "" && len(chain[0].IPAddresses) > 0 { // no server name is sent for an address (RFC 6066)
		host = chain[0].IPAddresses[0].String()
	}
	s.Seen(host, chain)
	return nil
}

// LoadRoots reads a file of PEM certificates to trust instead of the system's roots.
func LoadRoots(file string) (*x509.CertPool, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxRootsFile+1))
	if err != nil {
		return nil, err
	}
	if len(pem) > maxRootsFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxRootsFile)
	}
	list, err := certificate.Authorities(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	roots := x509.NewCertPool()
	for _, c := range list {
		roots.AddCert(c)
	}
	return roots, nil
}
