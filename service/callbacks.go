package service

// The listener of the callbacks, where the configuration has one for them alone.

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
)

// callbackServer serves the callbacks on an address of their own.
type callbackServer struct {
	socket      net.Listener // nil: they are served where the API is
	handler     atomic.Pointer[http.Handler]
	certificate certificate
}

// open binds the address.
func (c *callbackServer) open(ctx context.Context, conf *config.Config) (err error) {
	if conf.Callbacks.Listen == "" {
		return nil
	}
	c.socket, err = (&net.ListenConfig{}).Listen(ctx, "tcp", conf.Callbacks.Listen)
	if err != nil {
		return notListening("callbacks.listen", err)
	}
	return nil
}

// notListening says what to do about an address that cannot be listened on.
func notListening(key string, err error) error {
	return fmt.Errorf("%s: %w. %s", key, err, check.Advise(err, check.Circumstances{Step: check.StepListen}).Do)
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
	return api.Serve(ctx, c.socket, c, c.certificate.config(), log)
}

func (c *callbackServer) close() {
	if c.socket != nil {
		c.socket.Close() // already closed if it was served
	}
}
