package service

// The listener of the callbacks, where the configuration has one for them alone.

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
)

// callbackServer serves the callbacks on an address of their own.
type callbackServer struct {
	socket      net.Listener // nil: they are served where the API is
	handler     atomic.Pointer[http.Handler]
	certificate atomic.Pointer[tls.Certificate]
}

// open binds the address.
func (c *callbackServer) open(ctx context.Context, conf *config.Config) (err error) {
	if conf.Callbacks.Listen == "" {
		return nil
	}
	if c.socket, err = (&net.ListenConfig{}).Listen(ctx, "tcp", conf.Callbacks.Listen); err != nil {
		return fmt.Errorf("callbacks.listen: %w", err)
	}
	return nil
}

// use takes up the certificate of a configuration.
func (c *callbackServer) use(conf *config.Config, note func(kind, name string, pair *tls.Certificate)) error {
	if conf.Callbacks.TLS == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(conf.Callbacks.TLS.CertPEM, []byte(conf.Callbacks.TLS.KeyPEM))
	if err != nil {
		return fmt.Errorf("callbacks.tls: %w", err)
	}
	c.certificate.Store(&pair)
	note(expiry.TLS, "callbacks", &pair)
	return nil
}

// answer has h answer callbacks from now on; nil: this instance does not work, and Exchange posts again later.
func (c *callbackServer) answer(h http.Handler) {
	if h == nil {
		c.handler.Store(nil)
		return
	}
	c.handler.Store(&h)
}

// ServeHTTP answers with the present handler.
func (c *callbackServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := c.handler.Load()
	if h == nil {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}

// serve serves until ctx ends.
func (c *callbackServer) serve(ctx context.Context, log *zap.Logger) error {
	if c.socket == nil {
		return nil
	}
	var t *tls.Config
	if c.certificate.Load() != nil {
		t = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.certificate.Load(), nil
		}}
	}
	return api.Serve(ctx, c.socket, c, t, log)
}

func (c *callbackServer) close() {
	if c.socket != nil {
		c.socket.Close() // already closed if it was served
	}
}
