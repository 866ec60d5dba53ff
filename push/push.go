// Package push sends alerts to the Apple Push Notification service, and knows what its answers mean.
//
// A Sender takes one alert for one device (Ring) and returns what became of it. It keeps nothing: an alert is held while the
// call lasts, for half a minute at most, and what could not be rung by then is the caller's to bring again.
//
//   - ring.go: one alert, until it is settled.
//   - answers.go: what each answer means; the one table.
//   - gateway.go: an APNs host with a key, and whether anything can be rung through it.
//   - attempt.go, connection.go, credential.go: one request; the HTTP/2 connections; the provider token.
package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

// Topic is an app in an environment, and how APNs is reached for it. Topics with the same URL and key share their connections,
// those of the first of them.
type Topic struct {
	Topic       string // the app's bundle id
	Environment string // production or sandbox
	URL         string // https://host[:port]; empty: Apple's of that environment
	Key         Key
	Connections int            // at most; 0: one
	Outbound    proxy.Settings // trust roots and proxy
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

	stop    context.CancelFunc // ends the goroutines
	work    sync.WaitGroup     // goroutines
	closing chan struct{}      // closed: nothing new is begun

	mu     sync.Mutex // guards closing's closing, and rings against it
	closed bool
	rings  sync.WaitGroup // calls of Ring
}

// New checks the topics and signs a first token with each key. It connects to nothing: that is for the first alert.
// The error names every topic that cannot work.
func New(o Options) (*Sender, error) {
	s := &Sender{secret: o.Secret, content: o.Content, send: o.Send, log: o.Log, topics: make(map[name]*gateway),
		throttle: newThrottle(), closing: make(chan struct{})}
	type host struct{ url, team, key string }
	hosts := make(map[host]*gateway)
	connections := make(map[*gateway]int)
	credentials := make(map[host]*credential) // without the URL
	var errs []error
	s.metrics = newMetrics(o.Metrics)
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	for _, t := range o.Topics {
		err := func() error {
			n := name{t.Topic, t.Environment}
			if s.topics[n] != nil {
				return errors.New("is there twice")
			}
			u, err := address(t)
			if err != nil {
				return err
			}
			if t.Connections < 0 || t.Connections > maxConnections {
				return fmt.Errorf("has %d connections; there can be %d", t.Connections, maxConnections)
			}
			h := host{u.String(), t.Key.Team, t.Key.ID}
			cred := credentials[host{"", h.team, h.key}]
			if cred == nil {
				if cred, err = newCredential(t.Key); err != nil {
					return err
				}
				credentials[host{"", h.team, h.key}] = cred
			} else if !bytes.Equal(cred.p8, t.Key.P8) {
				return errors.New("has another key file than a topic before it, and the same key id")
			}
			g := hosts[h]
			if g == nil {
				g = s.newGateway(ctx, u, cred, t.Outbound, o.Ready)
				hosts[h] = g
				s.gateways = append(s.gateways, g)
			}
			g.topics = append(g.topics, n)
			connections[g] = max(connections[g], t.Connections, 1)
			s.topics[n] = g
			return nil
		}()
		if err != nil {
			errs = append(errs, fmt.Errorf("apns topic %q (%s): %w", t.Topic, t.Environment, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.stop()
		return nil, err
	}
	for _, g := range s.gateways {
		for range connections[g] {
			s.work.Go(func() { g.pool.line(ctx) })
		}
	}
	return s, nil
}

// address is where APNs is for a topic.
func address(t Topic) (*url.URL, error) {
	text := t.URL
	switch {
	case text != "":
	case t.Environment == "production":
		text = apns2.HostProduction
	case t.Environment == "sandbox":
		text = apns2.HostDevelopment
	default:
		return nil, errors.New("its environment is neither production nor sandbox")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" {
		return nil, errors.New("its URL is not of the form https://host:port")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func (s *Sender) newGateway(ctx context.Context, u *url.URL, c *credential, out proxy.Settings, ready Readiness) *gateway {
	g := &gateway{url: u.String(), credential: c, ready: ready, log: s.log.With(zap.String("apns", u.Host), zap.String("key_id", c.token.KeyID)), metrics: s.metrics,
		run: func(f func(context.Context)) { s.work.Go(func() { f(ctx) }) }, recovered: make(chan struct{})}
	g.pool = newPool(u, out, g, s.closing, func(kind string) { s.metrics.http2Errors.WithLabelValues(kind).Inc() })
	return g
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
	if !s.closed {
		s.closed = true
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
	s.work.Wait()
	for _, g := range s.gateways {
		g.pool.transport.CloseIdleConnections()
	}
	<-settled // without connections, no call lasts
}
