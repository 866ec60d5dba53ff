// Package push sends alerts to the Apple Push Notification service, and knows what its answers mean.
//
// A Sender takes one alert for one device (Ring) and returns what became of it. It keeps nothing: an alert is held while the
// call lasts, for half a minute at most, and what could not be rung by then is the caller's to bring again.
//
//   - ring.go: one alert, until it is settled.
//   - answers.go: what each answer means; the one table.
//   - gateway.go: an APNs host with a credential, and whether anything can be rung through it.
//   - throttle.go, quarantine.go, guard.go: the devices that have to wait, that APNs takes nowhere, and that are not to be removed.
//   - attempt.go, connection.go, credential.go: one request; the HTTP/2 connections; the provider token or the certificate.
//   - access.go: a credential with its connections, and how a new one takes over.
//   - trial.go: one alert, or none, to see whether APNs lets us in.
package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

// The environments of APNs.
const (
	production = "production"
	sandbox    = "sandbox"
)

// Topic is an app in an environment, and how APNs is reached for it. Topics with the same URL and credential share their
// connections, those of the first of them. It has a key or a certificate, never both.
type Topic struct {
	Topic       string // the app's bundle id
	Environment string // production or sandbox
	URL         string // https://host[:port]; empty: Apple's of that environment
	Key         Key
	Certificate *tls.Certificate // for TLS, with its leaf parsed; nil: the key
	Connections int              // at most; 0: one
	Outbound    proxy.Settings   // trust roots and proxy
}

// Readiness is told when what could not be rung can be rung again. It must not wait for anything.
type Readiness interface {
	TopicReady(topic, environment string)
}

// Options of a Sender.
type Options struct {
	Topics  []Topic
	Secret  mail.Secret // of the keys: apns-id and thread-id come from it
	Content alerts.Content
	Send    bool // false: everything is refused with the reason send_off, and nothing leaves
	Log     *zap.Logger
	Metrics prometheus.Registerer
	Ready   Readiness
}

// Sender sends alerts. Its methods may be called at the same time.
type Sender struct {
	secret   mail.Secret
	content  alerts.Content
	send     bool
	log      *zap.Logger
	metrics  *metrics
	topics   map[name]*gateway
	gateways []*gateway
	throttle throttle
	bad      quarantine

	life context.Context // of all that the sender does
	stop context.CancelFunc
	work sync.WaitGroup // its goroutines

	mu      sync.Mutex     // closing is closed, and rings added to, under it
	closing chan struct{}  // closed: nothing new is begun
	rings   sync.WaitGroup // calls of Ring
}

// New checks the topics and signs a first token with each key. A certificate that has expired holds its topics and no others. It connects to nothing: that is for the first alert.
// The error names every topic that cannot work.
func New(o Options) (*Sender, error) {
	s := &Sender{secret: o.Secret, content: o.Content, send: o.Send, log: o.Log, metrics: newMetrics(o.Metrics), topics: make(map[name]*gateway),
		throttle: newThrottle(), bad: newQuarantine(), closing: make(chan struct{})}
	s.life, s.stop = context.WithCancel(context.Background())
	var errs []error
	for _, t := range o.Topics {
		if err := s.add(t, o.Ready); err != nil {
			errs = append(errs, fmt.Errorf("apns topic %q (%s): %w", t.Topic, t.Environment, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.stop()
		return nil, err
	}
	for _, g := range s.gateways {
		g.access.Load().start()
	}
	return s, nil
}

// add finds or makes the gateway of a topic, and the credential that it shares with others.
func (s *Sender) add(t Topic, ready Readiness) error {
	n := name{t.Topic, t.Environment}
	if s.topics[n] != nil {
		return errors.New("is there twice")
	}
	if t.Connections < 0 || t.Connections > maxConnections {
		return fmt.Errorf("has %d connections; there can be %d", t.Connections, maxConnections)
	}
	u, err := t.Address()
	if err != nil {
		return err
	}
	if err := hasOne(t); err != nil {
		return err
	}
	var shared *credential
	var g *gateway
	for _, other := range s.gateways {
		if c := other.access.Load().credential; c.isOf(t) {
			shared = c
			if other.url == u.String() {
				g = other
			}
		}
	}
	switch {
	case shared == nil:
		if shared, err = newCredential(t); err != nil {
			return err
		}
	case !bytes.Equal(shared.p8, t.Key.P8):
		return errors.New("has another key file than a topic before it with the same key id")
	}
	if g == nil {
		g = &gateway{url: u.String(), ready: ready, metrics: s.metrics, recovered: make(chan struct{}), guard: guard{devices: make(map[string]verdict)},
			log: s.log.With(zap.String("apns", u.Host)), life: s.life, run: func(f func(context.Context)) { s.work.Go(func() { f(s.life) }) }}
		g.access.Store(newAccess(g, shared, newPool(u, t.Outbound, t.Certificate, s.closing, func(kind string) { s.metrics.http2Errors.WithLabelValues(kind).Inc() })))
		s.gateways = append(s.gateways, g)
	}
	g.topics = append(g.topics, n)
	g.connections = max(g.connections, t.Connections, 1)
	s.topics[n] = g
	return nil
}

// Update offers the topics new keys or certificates. An old one serves until its new one has worked at APNs; one that APNs refuses,
// or that cannot be tried yet, is told in the log and tried again, less and less often. Nothing that is being rung is lost. A topic
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
	defer s.rings.Done()
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
	g := s.topics[name{t.Topic, t.Environment}]
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

// Ready reports whether alerts for a topic are let in. Whoever has written down that an alert waits for TopicReady asks this
// after the write: the call may have come before it.
func (s *Sender) Ready(topic, environment string) bool {
	g := s.topics[name{topic, environment}]
	if g == nil {
		return false
	}
	shut, _ := g.state()
	return shut == ""
}

func (s *Sender) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Close begins nothing more, waits for the answers to what was sent until ctx ends, and closes the connections.
func (s *Sender) Close(ctx context.Context) {
	s.mu.Lock()
	if !s.isClosing() {
		close(s.closing)
	}
	s.mu.Unlock()
	settled := make(chan struct{})
	go func() {
		s.rings.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-ctx.Done():
	}
	s.stop()
	<-settled // no call outlasts the sender's life, and only calls start goroutines
	s.work.Wait()
}
