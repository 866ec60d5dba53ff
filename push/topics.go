package push

// This file is which topic goes by which gateway with which credential: at the start, and when credentials change.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

// add finds or makes the gateway of a topic, and the credential that it shares with others.
func (s *Sender) add(t Topic, ready Readiness) error {
	a := app{t.Topic, t.Environment}
	if s.apps[a] != nil {
		return errors.New("is there twice")
	}
	u, err := t.Address()
	if err != nil {
		return err
	}
	if err := hasOne(t); err != nil {
		return err
	}
	c, g, err := s.shared(t, u)
	if err != nil {
		return err
	}
	if g == nil {
		g = s.newGateway(u, c, t, ready)
		s.gateways = append(s.gateways, g)
	}
	g.apps = append(g.apps, a)
	s.apps[a] = g
	return nil
}

// shared returns the credential of a topic, which others may have too, and the gateway that it shares with one of them; nil: with none.
func (s *Sender) shared(t Topic, u *url.URL) (c *credential, g *gateway, err error) {
	for _, other := range s.gateways {
		theirs := other.access.Load().credential
		if !theirs.isOf(t) {
			continue
		}
		c = theirs
		if *other.url == *u {
			g = other
		}
	}
	switch {
	case c == nil:
		c, err = newCredential(t)
		return c, nil, err
	case !bytes.Equal(c.p8, t.Key.P8):
		return nil, nil, errors.New("has another key file than a topic before it with the same key id")
	}
	return c, g, nil
}

// newGateway makes the gateway of a topic that shares none.
func (s *Sender) newGateway(u *url.URL, c *credential, t Topic, ready Readiness) *gateway {
	g := &gateway{url: u, ready: ready, metrics: s.metrics, recovered: make(chan struct{}), guard: newGuard(),
		log: s.log.With(zap.String("apns", u.Host)), life: s.life, run: func(f func(context.Context)) { s.work.Go(func() { f(s.life) }) }}
	g.access.Store(newAccess(g, c, newPool(u, t.Outbound, t.Certificate, s.closing)))
	return g
}

// Update offers the topics new keys or certificates. An old one serves until its new one has worked at APNs; one that APNs refuses,
// or that cannot be tried yet, is told in the log and tried again, less and less often. Nothing that is being sent is lost. A topic
// with the credential that it has stays as it is, and what was offered before is forgotten. Only the credential of a topic can be
// replaced; an error names every topic that another change is asked for, and then nothing is offered.
func (s *Sender) Update(topics []Topic) error {
	offers := make(map[*gateway]*credential)
	var fresh []*credential
	var errs []error
	for _, t := range topics {
		if err := s.offer(t, offers, &fresh); err != nil {
			errs = append(errs, fmt.Errorf("apns topic %q (%s): %w", t.Topic, t.Environment, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !s.begin() {
		return errClosed
	}
	defer s.calls.Done()
	for _, g := range s.gateways {
		old := g.access.Load()
		switch c := offers[g]; c {
		case nil:
		case old.credential:
			g.offer(nil)
		default:
			g.offer(newAccess(g, c, old.pool.with(c.certificate)))
		}
	}
	return nil
}

// offer finds the credential of a topic among those that serve and those that are new, or makes it.
func (s *Sender) offer(t Topic, offers map[*gateway]*credential, fresh *[]*credential) error {
	g := s.apps[app{t.Topic, t.Environment}]
	if g == nil {
		return errors.New("is new: it takes a restart")
	}
	if err := hasOne(t); err != nil {
		return err
	}
	known := slices.Clone(*fresh)
	for _, g := range s.gateways {
		known = append(known, g.access.Load().credential)
	}
	i := slices.IndexFunc(known, func(c *credential) bool { return c.isOf(t) && bytes.Equal(c.p8, t.Key.P8) })
	if i < 0 {
		c, err := newCredential(t)
		if err != nil {
			return err
		}
		known, i = []*credential{c}, 0
		*fresh = append(*fresh, c)
	}
	if other := offers[g]; other != nil && other != known[i] {
		return errors.New("has another credential than a topic that it shared one with: it takes a restart")
	}
	offers[g] = known[i]
	return nil
}

// hasOne reports what is wrong with the choice of a key or a certificate.
func hasOne(t Topic) error {
	switch {
	case t.Key.isZero() && t.Certificate == nil:
		return errors.New("has neither a key nor a certificate")
	case !t.Key.isZero() && t.Certificate != nil:
		return errors.New("has a key and a certificate; it can have one of them")
	}
	return nil
}

// Address is where APNs is for the topic: https and the host, with its port where that is another than 443.
func (t Topic) Address() (*url.URL, error) {
	hosts := map[string]string{production: apns2.HostProduction, sandbox: apns2.HostDevelopment}
	text, ok := hosts[t.Environment]
	if !ok {
		return nil, errors.New("its environment is neither production nor sandbox")
	}
	if t.URL != "" {
		text = t.URL
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" {
		return nil, errors.New("its URL is not of the form https://host:port")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
