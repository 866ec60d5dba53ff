// Package service builds the rooms from a configuration, starts them and stops them in a stated order.
//
// Start: the state is opened, keys are checked and the port is bound, so that whatever cannot work is said before anything has
// begun; then the mailboxes are heard and the portal answers.
//
// Stop: the portal takes no more calls; hearing ends, and what is being rung is finished and written (listener.Close says how
// long); the connections to APNs close; the state closes last.
package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/portal"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/subscriptions"
)

// drain bounds the wait for answers of APNs at a stop, after the listener has had its time: within the 30 s of a supervisor.
const drain = 5 * time.Second

// patience bounds asking the state store whether it is there: a health check that hangs is no answer.
const patience = 2 * time.Second

// Service is mailbell, built and not yet started.
type Service struct {
	config   *config.Config
	log      *zap.Logger
	store    *subscriptions.Embedded
	book     *subscriptions.Book
	sender   *push.Sender
	listener *listener.Listener
	socket   net.Listener
	handler  http.Handler
	tls      *tls.Config
	idle     []interface{ CloseIdleConnections() }
}

// Open builds everything and starts nothing. Its error says what is wrong outside the configuration: the state file, the port, a key.
func Open(ctx context.Context, c *config.Config, log *zap.Logger, version string) (*Service, error) {
	s := &Service{config: c, log: log}
	if err := s.open(ctx, version); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *Service) open(ctx context.Context, version string) (err error) {
	c := s.config
	if s.store, err = subscriptions.OpenEmbedded(c.State.Path); err != nil {
		return err
	}
	if s.book, err = subscriptions.Open(ctx, s.store); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	ready := &readiness{}
	if s.sender, err = newSender(c, s.book, s.log.Named("push"), registry, ready); err != nil {
		return err
	}
	s.listener = listener.New(listener.Options{
		Book: s.book, Ringer: s.sender, Entries: s.entries(version), MaxAge: c.Alerts.MaxAge, Log: s.log.Named("listener"), Metrics: registry,
	})
	ready.listener = s.listener

	if s.socket, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if c.TLS != nil {
		pair, err := tls.X509KeyPair(c.TLS.CertPEM, []byte(c.TLS.KeyPEM))
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	clients := make([]portal.Client, len(c.Portal.Clients))
	for i, p := range c.Portal.Clients {
		clients[i] = portal.Client{Name: p.Name, Role: portal.Role(p.Role), Token: string(p.Token)}
	}
	desk := &desk{book: s.book, listener: s.listener, topics: c.APNs}
	s.handler = portal.New(portal.Options{
		Clients: clients, Enrolments: desk, Mailboxes: desk, Ready: s.ready, Ping: s.book.Ping, Gatherer: registry, Log: s.log.Named("portal"), Version: version,
	})
	return nil
}

// readiness passes the sender's word on to the listener, which is made after it.
type readiness struct{ listener *listener.Listener }

func (r *readiness) TopicReady(topic, environment string) { r.listener.TopicReady(topic, environment) }

func newSender(c *config.Config, book *subscriptions.Book, log *zap.Logger, metrics prometheus.Registerer, ready push.Readiness) (*push.Sender, error) {
	content, err := alerts.ParseContent(c.Alerts.Content)
	if err != nil {
		return nil, err
	}
	topics := make([]push.Topic, len(c.APNs))
	for i, a := range c.APNs {
		topics[i] = push.Topic{
			Topic: a.Topic, Environment: a.Environment, URL: a.URL, Outbound: proxy.Settings{Roots: a.CA},
			Key: push.Key{P8: []byte(a.Token.KeyPEM), ID: a.Token.KeyID, Team: a.Token.TeamID},
		}
	}
	return push.New(push.Options{Topics: topics, Secret: book.Secret(), Content: content, Send: c.Alerts.Send, Log: log, Metrics: metrics, Ready: ready})
}

func (s *Service) entries(version string) []listener.Entry {
	entries := make([]listener.Entry, len(s.config.Exchange))
	for i, x := range s.config.Exchange {
		entries[i] = listener.Entry{
			Name: x.Name, Domains: x.Domains, URL: x.EWSURL, SafetyPoll: x.SafetyPoll,
			MailboxesPerAccount: x.MailboxesPerAccount, SubscriptionsPerConnection: x.SubscriptionsPerConnection,
		}
		// Both limits are the entry's: its accounts share the rate, and have equal parts of what may be in flight.
		limit := rate.NewLimiter(rate.Limit(x.RequestsPerSecond), x.RequestsPerSecond)
		inFlight := max(1, x.RequestsInFlight/len(x.Accounts))
		outbound := proxy.Settings{Roots: x.CA}
		for _, a := range x.Accounts {
			credential := auth.Basic{Username: a.Basic.Username, Password: auth.Secret(a.Basic.Password)}
			authorised := credential.RoundTripper(outbound, inFlight)
			plain := outbound.Transport()
			s.idle = append(s.idle, plain)
			if c, ok := authorised.(interface{ CloseIdleConnections() }); ok {
				s.idle = append(s.idle, c)
			}
			agent := "mailbell/" + version
			account := listener.Account{Name: a.Name, Source: listener.EWS{
				Client:            ews.New(ews.Options{HTTP: authorised, UserAgent: agent, Limit: limit, InFlight: inFlight}),
				ConnectionTimeout: x.ConnectionTimeout,
			}}
			if x.EWSURL == "" {
				account.Finder = autodiscover.New(autodiscover.Options{
					HTTP: authorised, Plain: plain, URL: x.AutodiscoverURL, TrustedHosts: x.TrustedHosts, Entry: x.Name, UserAgent: agent,
				})
			}
			entries[i].Accounts = append(entries[i].Accounts, account)
		}
	}
	return entries
}

// ready: the state is reachable and the first placement made, whatever Exchange and APNs do.
func (s *Service) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.book.Ping(ctx); err != nil {
		return err
	}
	if !s.listener.Placed() {
		return errors.New("the mailboxes are being placed")
	}
	return nil
}

// Address is where the portal listens.
func (s *Service) Address() net.Addr { return s.socket.Addr() }

// Run starts everything, and stops it when ctx ends. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	s.listener.Start()
	s.log.Info("mailbell is running", zap.Stringer("listen", s.socket.Addr()), zap.Int("mailboxes", len(s.book.Mailboxes())))
	err := portal.Serve(ctx, s.socket, s.handler, s.tls, s.log.Named("portal"))
	s.log.Info("mailbell is stopping")
	return errors.Join(err, s.close())
}

// close stops what was built, in the order of the package comment.
func (s *Service) close() error {
	if s.socket != nil {
		s.socket.Close() // closed already, where the portal served it
	}
	if s.listener != nil {
		s.listener.Close()
	}
	if s.sender != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		s.sender.Close(ctx)
	}
	for _, c := range s.idle {
		c.CloseIdleConnections()
	}
	if s.store != nil {
		return s.store.Close()
	}
	return nil
}
