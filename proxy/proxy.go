// Package proxy makes every outbound connection: its trust roots, its timeouts, and the words for what went wrong with it.
package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

const (
	// dialTimeout bounds a TCP connect: a server in reach answers in milliseconds, and a blocked port must not hold up a start.
	dialTimeout = 5 * time.Second
	// handshakeTimeout bounds the TLS handshake: a load balancer without a server behind it accepts and then says nothing.
	handshakeTimeout = 5 * time.Second
	// keepAlive finds a peer that is gone before a firewall forgets the connection (many forget after a few minutes).
	keepAlive = 30 * time.Second
	// idleTimeout is shorter than the two minutes after which IIS closes an idle connection: ours goes first.
	idleTimeout = 90 * time.Second
	// idlePerHost is how many connections to one host are kept open; whoever runs more calls at once sets it higher.
	idlePerHost = 16
	// maxResponseHeader bounds the headers of an answer; real ones have a few kilobytes.
	maxResponseHeader = 256 << 10
	// maxRootsFile bounds a file of trust roots; a whole system's bundle has about 250 KiB.
	maxRootsFile = 8 << 20
)

// Settings of all connections to one kind of server. The zero value connects directly and trusts the system's roots.
type Settings struct {
	Roots *x509.CertPool                        // nil: the system's
	Proxy func(*http.Request) (*url.URL, error) // the proxy of a request; nil: none. The environment is never asked
}

// Transport returns a new transport, which shares nothing with any other: TLS 1.2 or later, HTTP/1.1 (a hanging EWS stream
// wants a connection of its own, and NTLM cannot do without), no compression (it would hold back events). Bounding the time of an answer is
// the caller's, by its context or by ResponseHeaderTimeout.
func (s Settings) Transport() *http.Transport {
	return &http.Transport{
		Proxy:                  s.Proxy,
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
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
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New(file + ": holds no PEM certificate")
	}
	return roots, nil
}
