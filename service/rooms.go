package service

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/admin"
	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/canary"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/webhooks"
)

// drain bounds the wait for answers of APNs at a stop, after the listener has closed: within the 30 s that a supervisor allows.
const drain = 5 * time.Second

// rooms are the rooms that work on a state while this instance holds it.
type rooms struct {
	book     *subscriptions.Book
	sender   *push.Sender
	inbox    *inbox.Inbox
	listener *listener.Listener
	links    *links
	built    *config.Config // what they keep is as it is there
	updated  *config.Config // that of the last update
	via      *proxy.Via     // the last one that the listener knows
	signIn   config.Admin   // by which people sign in
	api      *api.API
	pages    *admin.Pages // for people, on the api
	service  *Service
	started  atomic.Bool // the listener follows the mailboxes

	conditions *conditions
	outages    *outages
	webhooks   *webhooks.Sender
	hooksOf    []config.Webhook // of the configuration, with the secrets in use
	canary     *canary.Canary   // nil: there is none
}

// build makes the rooms by the newest configuration. It reads the state, and starts nothing.
func (s *Service) build(ctx context.Context, store subscriptions.Store) (*rooms, error) {
	c := s.current()
	r := &rooms{
		service: s, built: c, updated: c, via: s.proxy.Via(), conditions: newConditions(s.log), outages: newOutages(), hooksOf: slices.Clone(c.Webhooks),
	}
	var err error
	r.book, err = subscriptions.Open(ctx, store)
	if err != nil {
		return nil, err
	}
	if from, to := r.book.Migrated(); from > 0 {
		s.log.Info("the state was migrated; an older mailbell refuses it from now on", zap.Int("from_version", from), zap.Int("to_version", to))
	}
	for _, d := range r.book.Damaged() {
		s.log.Error("a part of the state cannot be read; it was set aside, and everything else goes on",
			zap.String("part", d.What), zap.String("kept", d.Kept), zap.Error(d.Err))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.calendar)
	r.webhooks = s.newWebhooks(c, registry)
	r.canary = r.newCanary(c.Canary, registry)
	s.enterDates(c)
	r.links, err = s.links(c)
	if err != nil {
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
		Book: r.book, Sender: r.sender, Unenrol: r.unenrol, Lost: r.alertLost, Observer: r.observer(), Content: content, MaxAge: c.Alerts.MaxAge,
		Log: s.log.Named("inbox"), Metrics: registry,
	})
	r.listener = listener.New(listener.Options{
		Book: r.book, Inbox: r.inbox, Entries: r.links.entries, PublicURL: c.PublicURL, Log: s.log.Named("listener"), Metrics: registry,
	})

	r.links.trials = &callbackTrials{receiver: r.listener.Callbacks(), publicURL: c.PublicURL, graph: newGraphTrials(c.PublicURL)}
	if r.links.trials.graph.url != "" {
		r.links.trials.graph.url = c.PublicURL + changes.Path + r.book.Secret().GraphPath(c.PublicURL)
	}

	registry.MustRegister(harm{r})
	r.addAPI(c, store, registry) //nolint:contextcheck // what it makes ends when the rooms are closed
	return r, nil
}

// addAPI makes what answers programs and people.
func (r *rooms) addAPI(c *config.Config, store subscriptions.Store, registry *prometheus.Registry) {
	s := r.service
	backend := &backend{rooms: r}
	var called http.Handler
	if r.callbacks() != nil && s.callbacks.socket == nil {
		called = r.callbacks()
	}
	r.api = api.New(api.Options{
		Clients: clients(c), Enrolments: backend, Mailboxes: backend, Overview: backend.overview, Advise: r.Advise,
		Test: backend.test, Move: backend.move, SendOff: !c.Alerts.Send, Backup: backupOf(store), Callbacks: called, Ready: r.ready, Ping: r.book.Ping,
		Receipts: receipts.New(receipts.Options{Device: r.book.Device, Note: backend.shown, Metrics: registry}),
		Gatherer: registry, Metrics: registry, Log: s.log.Named("api"), Audit: s.audit, Version: s.version,
	})
	r.api.SetAuthorities(authorities(c))
	r.pages = admin.New(admin.Options{API: r.api, Gatherer: registry, Log: s.log.Named("admin")})
	r.api.ServePages(r.pages)
	r.signIn = c.Admin
	r.pages.SignInBy(s.signInBy(c.Admin))
}

// callbacks answers callbacks; nil: nobody listens by push, and nobody by the notifications of Microsoft Graph.
func (r *rooms) callbacks() http.Handler {
	pushes, notifications := r.listener.Callbacks(), r.listener.Changes()
	switch {
	case pushes == nil:
		return nil // neither without public_url
	case notifications == nil:
		return pushes
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, changes.Path) {
			notifications.ServeHTTP(w, req)
			return
		}
		pushes.ServeHTTP(w, req)
	})
}

func clients(c *config.Config) []api.Client {
	list := make([]api.Client, len(c.API.Clients))
	for i, p := range c.API.Clients {
		list[i] = api.Client{Name: p.Name, Role: api.Role(p.Role), Token: string(p.Token), NextToken: string(p.NextToken), Certificate: p.Certificate,
			Limit: api.Limit{PerSecond: c.API.RequestsPerSecond, Burst: c.API.Burst}}
	}
	return list
}

// authorities are those of the certificates of the API's clients; nil: there are none.
func authorities(c *config.Config) *x509.CertPool {
	if c.TLS == nil {
		return nil
	}
	return c.TLS.ClientCAs
}

// update takes up the changes of c that need no restart. It may be called twice with the same c.
func (r *rooms) update(c *config.Config) {
	log := r.service.log
	sayRestart(log, roomsDiffer, r.built, r.updated, c)
	r.updated = c
	r.service.enterDates(c)
	r.api.SetClients(clients(c))
	r.api.SetAuthorities(authorities(c))
	if !sameSignIn(r.signIn, c.Admin) {
		r.signIn = c.Admin
		r.pages.SignInBy(r.service.signInBy(c.Admin))
	}
	r.updateWebhooks(c)
	if v := r.service.proxy.Via(); v != r.via {
		r.via = v
		r.listener.ConnectionsChanged()
	}
	for _, x := range c.Exchange {
		for _, a := range x.Accounts {
			r.updateAccount(x, a)
		}
	}
	var topics []config.APNs // the other topics wait for the restart
	for _, a := range c.APNs {
		if slices.ContainsFunc(r.built.APNs, func(had config.APNs) bool { return sameTopic(had, a) }) {
			topics = append(topics, a)
		}
	}
	if err := r.sender.Update(r.service.topics(topics)); err != nil {
		log.Error("changed credentials for APNs are invalid, old ones stay in use", zap.Error(err))
	}
}

// updateAccount has a changed credential of a listener account tried.
func (r *rooms) updateAccount(x config.Exchange, a config.Account) {
	had := r.links.find(x.Name, a.Name)
	if had == nil || had.described.Load().Same(a.Credential) {
		return
	}
	log := r.service.log.With(zap.String("exchange", x.Name), zap.String("account", a.Name))
	if !sameHosts(had.entry, x) { // the credential may not be for the hosts in use until then
		log.Warn("changed credential waits for the restart: the hosts of its exchange entry changed too")
		return
	}
	if err := had.offer(a.Credential); err != nil {
		log.Error("changed credential is invalid, old one stays in use", zap.Error(err))
		return
	}
	log.Info("changed credential is tried")
	r.listener.AccountChanged(x.Name, a.Name)
}

// tookOver makes the listener try at once what was refused with the old credential: some requests with it were answered after the new one
// had worked.
func (r *rooms) tookOver() {
	for _, a := range r.links.accounts {
		if a.worked.Swap(false) {
			r.listener.AccountChanged(a.entry.Name, a.name)
		}
	}
}

// way returns the steps of an alert, for tests.
func (r *rooms) way() check.Way {
	return check.Way{Enrolments: r.book, Locate: r.locate, Push: r.sender, Beside: r.beside}
}

// beside finds another mailbox that would share a stream with the one of a route.
func (r *rooms) beside(_ context.Context, to check.Route) (mail.Location, bool) {
	for _, m := range r.book.Mailboxes() {
		record := m.Record()
		at := record.Location()
		if at.URL == to.Location.URL && at.Group == to.Location.Group && at.Primary != to.Location.Primary && record.Account == to.Account.Name && len(m.Devices()) > 0 {
			return at, true
		}
	}
	return mail.Location{}, false
}

// locate returns the location and account that a mailbox would get now.
func (r *rooms) locate(ctx context.Context, address, exchange string) (check.Route, error) {
	l, err := r.listener.Locate(ctx, address, exchange)
	if err != nil {
		return check.Route{}, err
	}
	a := r.links.find(l.Entry, l.Account)
	return check.Route{Account: a.forCheck(r.links.trials, l.Location.Source), Location: l.Location, Online: a.entry.Type == config.Online}, nil
}

// TopicReady passes the sender's call on to the inbox, which is made after the sender.
func (r *rooms) TopicReady(topic, environment string) { r.inbox.TopicReady(topic, environment) }

// checkKeys checks that keys can sign and credentials are valid, before anything is started.
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

// ready reports why the service is not ready: the state cannot be reached, or some mailbox was not tried yet. It does not depend on
// Exchange and APNs.
func (r *rooms) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	if err := r.book.Ping(ctx); err != nil {
		return err
	}
	if !r.started.Load() || !r.listener.Placed() {
		return errors.New("not every mailbox was tried yet")
	}
	return nil
}

// close stops the rooms in the order of the package comment; the API stops by itself.
func (r *rooms) close() {
	r.pages.Close()
	r.api.Close()
	r.listener.Close()
	r.inbox.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	r.sender.Close(ctx)
	r.links.close()
}
