package service

// A changed proxy is tried before the old one is let go, as a credential is. It is refused if it does not lead to a server that the old
// one leads to. A refused one is tried again with each look at the files, until it works or the configuration has another.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// proxyTrial bounds the connections by which a changed proxy is tried.
	proxyTrial = 10 * time.Second
	// proxyTrials bounds the servers that it is tried with at once: an installation has a handful.
	proxyTrials = 16
)

// offeredProxy is a changed proxy that has not worked yet.
type offeredProxy struct {
	via     *proxy.Via // nil: none
	refused error      // nil: it was not tried yet
}

// offerProxy remembers the proxy of a changed configuration. One that is offered already keeps the tries of its password.
func (s *Service) offerProxy(v *proxy.Via) {
	switch {
	case v.Equal(s.proxy.Via()):
		s.offered = nil
	case s.offered == nil || !v.Equal(s.offered.via):
		s.offered = &offeredProxy{via: v}
	}
}

// tryProxy uses the offered proxy if it leads wherever the present one leads. It reports whether it did.
func (s *Service) tryProxy(ctx context.Context) bool {
	if s.offered == nil {
		return false
	}
	targets, err := s.targets(s.current())
	if err == nil {
		err = s.worse(ctx, targets, s.offered.via, s.proxy.Via())
	}
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		if s.offered.refused == nil || err.Error() != s.offered.refused.Error() {
			s.log.Error("changed proxy refused, old one stays in use", zap.Error(err))
		}
		s.offered.refused = err
		return false
	}
	s.log.Info("changed proxy is in use", zap.Stringer("proxy", s.offered.via), zap.Stringer("before", s.proxy.Via()))
	s.takeProxy()
	return true
}

// takeProxy uses the offered proxy.
func (s *Service) takeProxy() {
	if s.offered != nil {
		s.proxy.Set(s.offered.via)
		s.offered = nil
	}
}

// target is a server that mailbell connects to.
type target struct {
	url   *url.URL
	out   proxy.Settings
	http2 bool // APNs speaks nothing else
}

// targets lists the servers that a configuration names.
func (s *Service) targets(c *config.Config) (list []target, err error) {
	known := map[string]bool{}
	add := func(t target) {
		if address := hostname.Address(t.url); !known[address] && len(list) < proxyTrials {
			known[address] = true
			list = append(list, t)
		}
	}
	for _, topic := range s.topics(c.APNs) {
		u, err := topic.Address()
		if err != nil {
			return nil, err
		}
		add(target{u, topic.Outbound, true})
	}
	for _, x := range c.Exchange {
		out := s.outbound(x)
		for _, host := range hosts(x) {
			add(target{&url.URL{Scheme: "https", Host: host}, out, false})
		}
		if host := tokenService(x); host != "" {
			add(target{&url.URL{Scheme: "https", Host: host}, forTokens(x, out), false})
		}
	}
	return list, nil
}

// worse says where the new proxy does not lead and the old one does; nil: nowhere.
func (s *Service) worse(ctx context.Context, targets []target, offered, present *proxy.Via) error {
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			err := s.connect(ctx, t, offered)
			if err != nil && s.connect(ctx, t, present) == nil {
				errs[i] = fmt.Errorf("%s: %w", t.url.Host, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// connect opens a connection through a proxy, with TLS, and closes it.
func connect(ctx context.Context, t target, v *proxy.Via) error {
	ctx, cancel := context.WithTimeout(ctx, proxyTrial)
	defer cancel()
	out := t.out
	out.Proxy, out.Seen = new(proxy.Current), nil
	out.Proxy.Set(v)
	transport := out.Transport()
	defer transport.CloseIdleConnections()
	if t.http2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP2(true)
	}
	c, err := proxy.ClientConn(ctx, transport, t.url.Scheme, hostname.Address(t.url))
	if err != nil {
		return proxy.Explain("connect", err)
	}
	return c.Close()
}
