package service

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
)

// certificate is what an address that mailbell listens on shows. It may be replaced, for new connections; without one it is plain HTTP.
type certificate struct {
	pair    atomic.Pointer[tls.Certificate]
	clients atomic.Pointer[x509.CertPool] // who signs the certificates of clients; nil: none is asked for
}

// use takes up what the configuration has under key, unless that is nothing, and notes its expiry under name.
func (c *certificate) use(t *config.TLS, key, name string, dates *expiry.Calendar) error {
	if t == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(t.CertPEM, []byte(t.KeyPEM))
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	c.pair.Store(&pair)
	c.clients.Store(t.ClientCAs)
	dates.Set(expiry.TLS, name, pair.Leaf.NotAfter)
	return nil
}

// config is for serving with it; nil: there is none.
func (c *certificate) config() *tls.Config {
	if c.pair.Load() == nil {
		return nil
	}
	plain := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return c.pair.Load(), nil
	}}
	plain.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		authorities := c.clients.Load()
		if authorities == nil {
			return nil, nil //nolint:nilnil // crypto/tls: as it is
		}
		// A certificate is asked for and not demanded: clients with a token, browsers and Exchange have none. The API verifies it, so that its
		// answer can say what is wrong; here it is only seen to have its key.
		return &tls.Config{MinVersion: plain.MinVersion, GetCertificate: plain.GetCertificate, NextProtos: []string{"h2", "http/1.1"},
			ClientAuth: tls.RequestClientCert, ClientCAs: authorities}, nil
	}
	return plain
}

// useTLS makes new connections see the certificates of c.
func (s *Service) useTLS(c *config.Config) error {
	if err := s.certificate.use(c.TLS, "tls", "api", s.calendar); err != nil {
		return err
	}
	return s.callbacks.certificate.use(c.Callbacks.TLS, "callbacks.tls", "callbacks", s.calendar)
}
