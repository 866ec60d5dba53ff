package service

import (
	"context"
	"errors"
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
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/portal"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/subscriptions"
)

// drain bounds the wait for answers of APNs at a stop, after the listener has had its time: within the 30 s of a supervisor.
const drain = 5 * time.Second

// rooms are what works on a state while it is held.
type rooms struct {
	book     *subscriptions.Book
	sender   *push.Sender
	listener *listener.Listener
	handler  http.Handler
	idle     []interface{ CloseIdleConnections() }
}

// build makes the rooms. Nothing has begun yet but reading the state.
func build(ctx context.Context, c *config.Config, store subscriptions.Store, log *zap.Logger, version string) (*rooms, error) {
	r := &rooms{}
	var err error
	if r.book, err = subscriptions.Open(ctx, store); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	ready := &readiness{}
	if r.sender, err = newSender(c, r.book.Secret(), log.Named("push"), registry, ready); err != nil {
		return nil, err
	}
	r.listener = listener.New(listener.Options{
		Book: r.book, Ringer: r.sender, Entries: r.entries(c, version), MaxAge: c.Alerts.MaxAge, Log: log.Named("listener"), Metrics: registry,
	})
	ready.listener = r.listener

	clients := make([]portal.Client, len(c.Portal.Clients))
	for i, p := range c.Portal.Clients {
		clients[i] = portal.Client{Name: p.Name, Role: portal.Role(p.Role), Token: string(p.Token)}
	}
	desk := &desk{book: r.book, listener: r.listener, topics: c.APNs}
	r.handler = portal.New(portal.Options{
		Clients: clients, Enrolments: desk, Mailboxes: desk, Ready: r.ready, Ping: r.book.Ping, Gatherer: registry, Log: log.Named("portal"), Version: version,
	})
	return r, nil
}

// readiness passes the sender's word on to the listener, which is made after it.
type readiness struct{ listener *listener.Listener }

func (r *readiness) TopicReady(topic, environment string) { r.listener.TopicReady(topic, environment) }

// checkKeys finds a key that cannot sign before anything is begun.
func checkKeys(c *config.Config) error {
	s, err := newSender(c, mail.Secret{}, zap.NewNop(), nil, nil)
	if err != nil {
		return err
	}
	s.Close(context.Background()) // it has sent nothing
	return nil
}

func newSender(c *config.Config, secret mail.Secret, log *zap.Logger, metrics prometheus.Registerer, ready push.Readiness) (*push.Sender, error) {
	content, err := alerts.ParseContent(c.Alerts.Content)
	if err != nil {
		return nil, err
	}
	topics := make([]push.Topic, len(c.APNs))
	for i, a := range c.APNs {
		topics[i] = push.Topic{
			Topic: a.Topic, Environment: a.Environment, URL: a.URL, Outbound: proxy.Settings{Roots: a.CA}, Certificate: a.Certificate,
		}
		if a.Certificate == nil {
			topics[i].Key = push.Key{P8: []byte(a.Token.KeyPEM), ID: a.Token.KeyID, Team: a.Token.TeamID}
		}
	}
	return push.New(push.Options{Topics: topics, Secret: secret, Content: content, Send: c.Alerts.Send, Log: log, Metrics: metrics, Ready: ready})
}

func (r *rooms) entries(c *config.Config, version string) []listener.Entry {
	entries := make([]listener.Entry, len(c.Exchange))
	for i, x := range c.Exchange {
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
			r.idle = append(r.idle, plain)
			if c, ok := authorised.(interface{ CloseIdleConnections() }); ok {
				r.idle = append(r.idle, c)
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
func (r *rooms) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.book.Ping(ctx); err != nil {
		return err
	}
	if !r.listener.Placed() {
		return errors.New("the mailboxes are being placed")
	}
	return nil
}

// close stops the rooms in the order of the package comment; the portal has its own end.
func (r *rooms) close() {
	r.listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	r.sender.Close(ctx)
	for _, c := range r.idle {
		c.CloseIdleConnections()
	}
}
