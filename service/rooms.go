package service

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/subscriptions"
)

// drain bounds the wait for answers of APNs at a stop, after the listener has had its time: within the 30 s of a supervisor.
const drain = 5 * time.Second

// rooms are what works on a state while it is held.
type rooms struct {
	book     *subscriptions.Book
	sender   *push.Sender
	inbox    *inbox.Inbox
	listener *listener.Listener
	links    *links
	topics   []config.APNs
	proxy    *config.Proxy // that the listener was last told of
	api      *api.API
	service  *Service

	conditions *conditions
}

// build makes the rooms after the newest configuration. Nothing has begun yet but reading the state.
func (s *Service) build(ctx context.Context, store subscriptions.Store) (*rooms, error) {
	c := s.current()
	r := &rooms{service: s, topics: c.APNs, proxy: c.Proxy, conditions: newConditions(s.log)}
	var err error
	if r.book, err = subscriptions.Open(ctx, store); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.calendar)
	s.enterDates(c)
	if r.links, err = s.links(c); err != nil {
		return nil, err
	}
	content, err := alerts.ParseContent(c.Alerts.Content)
	if err == nil {
		r.sender, err = s.newSender(c, s.log.Named("push"), registry, r, store.Held)
	}
	if err != nil {
		r.links.close()
		return nil, err
	}
	r.inbox = inbox.New(inbox.Options{
		Book: r.book, Sender: r.sender, Unenrol: r.unenrol, Content: content, MaxAge: c.Alerts.MaxAge, Log: s.log.Named("inbox"), Metrics: registry,
	})
	r.listener = listener.New(listener.Options{
		Book: r.book, Inbox: r.inbox, Entries: r.links.entries, Log: s.log.Named("listener"), Metrics: registry,
	})

	desk := &desk{rooms: r}
	r.api = api.New(api.Options{
		Clients: clients(c), Enrolments: desk, Mailboxes: desk, Ready: r.ready, Ping: r.book.Ping, Gatherer: registry, Metrics: registry, Log: s.log.Named("api"), Version: s.version,
		Test: desk.test, Overview: desk.overview, Advise: r.Advise,
	})
	return r, nil
}

func clients(c *config.Config) []api.Client {
	list := make([]api.Client, len(c.API.Clients))
	for i, p := range c.API.Clients {
		list[i] = api.Client{Name: p.Name, Role: api.Role(p.Role), Token: string(p.Token)}
	}
	return list
}

// update takes up what c has changed and needs no restart for. It may be told the same twice.
func (r *rooms) update(c *config.Config) {
	log := r.service.log
	r.service.enterDates(c)
	r.api.SetClients(clients(c))
	if !reflect.DeepEqual(r.proxy, c.Proxy) {
		r.proxy = c.Proxy
		r.listener.ConnectionsChanged()
	}
	for _, x := range c.Exchange {
		for _, a := range x.Accounts {
			had := r.links.find(x.Name, a.Name)
			if had == nil || had.described.Load().Same(a.Credential) {
				continue
			}
			fields := []zap.Field{zap.String("exchange", x.Name), zap.String("account", a.Name)}
			if !sameHosts(had.entry, x) { // it is perhaps not for those that are asked until then
				log.Warn("a changed credential waits for the restart, since the hosts of its exchange entry have changed too", fields...)
				continue
			}
			credential, err := newCredential(had.entry, a.Credential, had.outbound)
			if err != nil {
				log.Error("the changed credential cannot work; the one before it goes on", append(fields, zap.Error(err))...)
				continue
			}
			had.described.Store(&a.Credential)
			log.Info("a credential was changed; it takes over once it has worked", fields...)
			had.credential.Offer(credential)
			r.listener.AccountChanged(x.Name, a.Name)
		}
	}
	var topics []config.APNs // the others wait for the restart
	for _, a := range c.APNs {
		if slices.ContainsFunc(r.topics, func(had config.APNs) bool { return sameTopic(had, a) }) {
			topics = append(topics, a)
		}
	}
	if err := r.sender.Update(r.service.topics(topics)); err != nil {
		log.Error("the changed credentials for APNs cannot work; those before them go on", zap.Error(err))
	}
}

// tookOver has what was refused under the credentials before be tried at once: some of it was asked before the new one was offered, and
// answered after.
func (r *rooms) tookOver() {
	for _, a := range r.links.accounts {
		if a.worked.Swap(false) {
			r.listener.AccountChanged(a.entry.Name, a.name)
		}
	}
}

// way is the whole way to an alert, for whoever tests it.
func (r *rooms) way() check.Way {
	return check.Way{Enrolments: r.book, Locate: r.locate, Push: r.sender}
}

// locate says where placing a mailbox would lead now.
func (r *rooms) locate(ctx context.Context, address, exchange string) (check.Route, error) {
	l, err := r.listener.Locate(ctx, address, exchange)
	if err != nil {
		return check.Route{}, err
	}
	a := r.links.find(l.Entry, l.Account)
	return check.Route{Account: a.forCheck(), Location: l.Location, Online: a.entry.Type == config.Online}, nil
}

// TopicReady passes the sender's word on to the inbox, which is made after it.
func (r *rooms) TopicReady(topic, environment string) { r.inbox.TopicReady(topic, environment) }

// unenrol passes the inbox's word, that APNs declared a phone gone, on to the listener, which is made after it.
func (r *rooms) unenrol(ctx context.Context, d subscriptions.Device) error {
	return r.listener.RemoveGone(ctx, d)
}

// checkKeys finds a key that cannot sign, and a credential that cannot work, before anything is begun.
func (s *Service) checkKeys(c *config.Config) error {
	sender, err := s.newSender(c, zap.NewNop(), nil, nil, nil)
	if err != nil {
		return err
	}
	sender.Close(context.Background()) // it has sent nothing
	l, err := s.links(c)
	if err != nil {
		return err
	}
	l.close()
	return nil
}

func (s *Service) newSender(c *config.Config, log *zap.Logger, metrics prometheus.Registerer, ready push.Readiness,
	held func() error,
) (*push.Sender, error) {
	return push.New(push.Options{Topics: s.topics(c.APNs), Send: c.Alerts.Send, Log: log, Metrics: metrics, Ready: ready, Held: held})
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
	r.api.Close()
	r.listener.Close()
	r.inbox.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	r.sender.Close(ctx)
	r.links.close()
}
