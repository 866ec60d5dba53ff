package service

// The outbound side: the accounts of the exchange entries with their credentials and clients, and the topics. Making them opens no
// connection.

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/push"
)

// links are the exchange entries as the listener has them, and their accounts.
type links struct {
	entries  []listener.Entry
	accounts []*account
	idle     []interface{ CloseIdleConnections() }
	trials   *callbackTrials // nil until it is known who takes callbacks
	worked   chan struct{}   // a signal: a changed credential has replaced the old one
}

// account is a listener account with its credential and clients.
type account struct {
	name       string
	entry      config.Exchange
	described  atomic.Pointer[credential.Description] // as it was offered last
	outbound   proxy.Settings
	credential *auth.Rotating
	graph      *auth.Rotating              // with tokens for Microsoft Graph; nil: the account does not use it
	atGraph    *atGraph                    // nil: likewise
	refused    atomic.Pointer[fault.Error] // why the changed credential does not work; nil: none is refused
	worked     atomic.Bool                 // the changed credential has replaced the old one, and tookOver has not seen that yet
	exchange   walked
	finder     check.Finder // nil: the URL of EWS is configured
}

// online says whether an exchange entry is in Exchange Online.
func (l *links) online(exchange string) bool {
	return slices.ContainsFunc(l.accounts, func(a *account) bool { return a.entry.Name == exchange && a.entry.Type == config.Online })
}

// via is the proxy of c; nil: none.
func via(c *config.Proxy) (*proxy.Via, error) {
	if c == nil {
		return nil, nil
	}
	v, err := proxy.ParseVia(c.URL, c.Username, string(c.Password), c.Bypass)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return v, nil
}

// outbound returns the settings for connections of an entry's accounts.
func (s *Service) outbound(x config.Exchange) proxy.Settings {
	out := proxy.Settings{Roots: x.CA, Proxy: s.proxy, Seen: s.seen}
	if x.Type == config.Online {
		out.PublicOnly = true
		named := []string{x.EWSURL, x.AutodiscoverURL}
		if x.Cloud.Custom {
			named = append(named, x.Cloud.EWS, x.Cloud.Autodiscover, x.Cloud.Authority, x.Cloud.Graph)
		}
		for _, u := range named {
			if h := host(u); h != "" {
				out.Except = append(out.Except, h)
			}
		}
		out.Except = append(out.Except, x.TrustedHosts...)
	}
	return out
}

// forTokens returns the settings for connections to the token service: ca_file is for the Exchange servers only, because Entra ID has a
// public certificate, unless the cloud is a custom one.
func forTokens(x config.Exchange, out proxy.Settings) proxy.Settings {
	if !x.Cloud.Custom {
		out.Roots = nil
	}
	return out
}

// seen notes when a server's certificates expire.
func (s *Service) seen(host string, chain []*x509.Certificate) {
	s.calendar.Set(expiry.Server, host, expiry.Earliest(chain))
}

func host(u string) string {
	parsed, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return hostname.Of(parsed)
}

// maxIdle is how many connections to a server of an entry are kept at most while no call has them; else it is the calls in flight. Its
// accounts share them, unless they sign in by NTLM. Each takes some 50 KiB.
const maxIdle = 192

// links makes the exchange entries of c with their accounts.
func (s *Service) links(c *config.Config) (*links, error) {
	l := &links{worked: make(chan struct{}, 1)}
	for i, x := range c.Exchange {
		e := s.entryParts(c, i)
		l.idle = append(l.idle, e.outbound.Shared)
		entry := listener.Entry{
			Name: x.Name, Domains: x.Domains, URL: x.EWSURL, RequestsPerSecond: x.RequestsPerSecond, SafetyPoll: x.SafetyPoll, MailboxServers: x.MailboxServers,
			ListenBy: x.ListenBy, MailboxesPerAccount: x.MailboxesPerAccount, SubscriptionsPerConnection: x.SubscriptionsPerConnection, Dialect: e.dialect,
		}
		for _, a := range x.Accounts {
			to, err := s.addAccount(l, e, a)
			if err != nil {
				l.close()
				return nil, fmt.Errorf("exchange %s, listener account %s: %w", x.Name, a.Name, err)
			}
			entry.Accounts = append(entry.Accounts, to)
		}
		l.entries = append(l.entries, entry)
	}
	return l, nil
}

// entryParts are what the accounts of an exchange entry share.
type entryParts struct {
	config.Exchange
	outbound        proxy.Settings
	inFlight        int // calls
	pace, graphPace *pace.Pace
	dialect         *ews.Dialect
	agent           string
	elsewhere       func(domain string) bool // whether a mail domain belongs to another entry
	preview         bool                     // messages are read with their preview, where Graph reads them
}

// entryParts makes what the accounts of the ith entry share.
func (s *Service) entryParts(c *config.Config, i int) *entryParts {
	x := c.Exchange[i]
	e := &entryParts{
		Exchange: x, outbound: s.outbound(x), inFlight: cmp.Or(x.RequestsInFlight, pace.MaxInFlight), dialect: &ews.Dialect{}, agent: "mailbell/" + s.version,
		pace: pace.New(x.RequestsPerSecond, x.RequestsInFlight), graphPace: pace.New(x.RequestsPerSecond, x.RequestsInFlight),
		elsewhere: elsewhere(c.Exchange, i), preview: c.Alerts.Content == config.ContentSenderSubjectPreview,
	}
	e.outbound.Idle = min(maxIdle, e.inFlight)
	e.outbound.Shared = e.outbound.Transport()
	return e
}

// addAccount gives an account its credential and its clients, and returns it as the listener has it.
func (s *Service) addAccount(l *links, e *entryParts, a config.Account) (listener.Account, error) {
	own := &account{name: a.Name, entry: e.Exchange, outbound: e.outbound}
	own.described.Store(&a.Credential)
	signIn, err := newCredential(e.Exchange, a.Credential, e.outbound, scope(e.Exchange))
	if err != nil {
		return listener.Account{}, err
	}
	tried := l.tried(own, s.log.Named("auth").With(zap.String("exchange", e.Name), zap.String("account", a.Name)))
	own.credential = auth.NewRotating(signIn, tried)
	// A stream has a connection of its own besides those of the calls; at worst there is one for each mailbox.
	authorised := own.credential.RoundTripper(credentialHosts(e.Exchange), e.outbound, e.inFlight+e.MailboxesPerAccount)
	if s.oneRefusal && !a.Credential.ByToken() {
		authorised = &once{RoundTripper: authorised}
	}
	l.closeLater(authorised)
	client := ews.New(ews.Options{HTTP: authorised, UserAgent: e.agent, Pace: e.pace, Dialect: e.dialect})
	exchange := listener.EWS{Client: client, ConnectionTimeout: e.ConnectionTimeout}
	own.exchange = newWalked(exchange)
	to := listener.Account{Name: a.Name, Source: exchange, Streams: exchange, Pushes: exchange}
	if e.EWSURL == "" {
		finder := l.finder(e, authorised)
		to.Finder, own.finder = finder, finder
	}
	if byGraph(e.Exchange, a.Credential) {
		if err := l.addGraph(own, &to, e, tried); err != nil {
			return listener.Account{}, err
		}
	}
	l.accounts = append(l.accounts, own)
	return to, nil
}

// tried is told whether a changed credential of an account works.
func (l *links) tried(a *account, log *zap.Logger) func(error) {
	return func(err error) {
		if err != nil {
			a.refused.Store(fault.Of(err))
			log.Error("changed credential refused, old one stays in use", zap.Error(err))
			return
		}
		a.refused.Store(nil)
		log.Info("changed credential works")
		a.worked.Store(true)
		select {
		case l.worked <- struct{}{}:
		default: // it is about to be dealt with
		}
	}
}

// finder is Autodiscover for an account of an entry.
func (l *links) finder(e *entryParts, authorised http.RoundTripper) *autodiscover.Client {
	plain := e.outbound.Transport()
	l.closeLater(plain)
	o := autodiscover.Options{
		HTTP: authorised, Plain: plain, Hosts: credentialHosts(e.Exchange), URL: e.AutodiscoverURL, Entry: e.Name, UserAgent: e.agent, Limit: e.pace.LookUps(),
		Elsewhere: e.elsewhere,
	}
	if e.Type == config.Online {
		o.Online, o.Cloud, o.EWS = true, e.Cloud.Autodiscover, e.Cloud.EWS
	}
	return autodiscover.New(o)
}

// closeLater has the idle connections of a transport closed with the links, where it keeps any.
func (l *links) closeLater(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		l.idle = append(l.idle, c)
	}
}

// credentialHosts are the hosts to which the credentials of an entry may be sent. With ews_url, hosts in the mail domains are not among
// them.
func credentialHosts(x config.Exchange) auth.Hosts {
	h := auth.Hosts{URLs: []string{x.EWSURL, x.AutodiscoverURL}, Trusted: x.TrustedHosts, Online: x.Type == config.Online}
	if h.Online {
		h.URLs = append(h.URLs, x.Cloud.EWS, x.Cloud.Autodiscover)
	}
	if x.EWSURL == "" {
		h.Domains = x.Domains
	}
	return h
}

// elsewhere reports whether a mail domain belongs to another entry and not to the ith.
func elsewhere(entries []config.Exchange, i int) func(domain string) bool {
	return func(domain string) bool {
		has := func(x config.Exchange) bool { return slices.Contains(x.Domains, domain) }
		return !has(entries[i]) && slices.ContainsFunc(entries, has)
	}
}

// offer has a changed credential tried.
func (a *account) offer(d credential.Description) error {
	changed, err := newCredential(a.entry, d, a.outbound, scope(a.entry))
	if err != nil {
		return err
	}
	if a.graph != nil && byGraph(a.entry, d) {
		byGraph, err := newCredential(a.entry, d, a.outbound, graphScope(a.entry))
		if err != nil {
			return err
		}
		a.graph.Offer(byGraph)
	}
	a.described.Store(&d)
	a.refused.Store(nil)
	a.credential.Offer(changed)
	return nil
}

// find returns an account by its entry and name.
func (l *links) find(entry, name string) *account {
	for _, a := range l.accounts {
		if a.entry.Name == entry && a.name == name {
			return a
		}
	}
	return nil
}

// mailer sends messages by what a mailbox of the account is read by.
func (a *account) mailer(by mail.Source) mailer {
	if by == mail.Graph && a.atGraph != nil {
		return a.atGraph.by
	}
	return a.exchange.ews
}

// circumstances are the circumstances of an error in an entry, with one of its accounts; empty: unknown which.
func (l *links) circumstances(entry, name string) (c check.Circumstances) {
	for _, a := range l.accounts {
		if a.entry.Name != entry {
			continue
		}
		c.Online = a.entry.Type == config.Online
		if c.Method == "" || a.name == name { // without a name: the first, because the others usually have the same method
			c.Method = a.described.Load().Method
		}
	}
	return c
}

// close ends open requests, and closes the connections.
func (l *links) close() {
	for _, a := range l.accounts {
		for _, c := range []*auth.Rotating{a.credential, a.graph} {
			if c != nil {
				c.Close()
			}
		}
	}
	for _, c := range l.idle {
		c.CloseIdleConnections()
	}
}

// newCredential makes the credential of an account, with tokens of a scope.
func newCredential(x config.Exchange, d credential.Description, out proxy.Settings, scope string) (auth.Credential, error) {
	return auth.New(d, auth.TokenService{Authority: x.Cloud.Authority, Scope: scope, Outbound: forTokens(x, out)})
}

// scope is the scope of tokens: all permissions of the app at the host of EWS. It has this form in every cloud.
func scope(x config.Exchange) string {
	to := x.Cloud.EWS
	if x.EWSURL != "" {
		to = x.EWSURL
	}
	u, err := url.Parse(to)
	if err != nil { // config has checked it
		return ""
	}
	return "https://" + strings.TrimSuffix(hostname.Address(u), ":443") + "/.default"
}

// topics are the apns entries for push.
func (s *Service) topics(list []config.APNs) []push.Topic {
	topics := make([]push.Topic, len(list))
	for i, a := range list {
		topics[i] = push.Topic{
			Topic: a.Topic, Environment: a.Environment, URL: a.URL, Outbound: proxy.Settings{Roots: a.CA, Proxy: s.proxy, Seen: s.seen}, Certificate: a.Certificate,
		}
		if a.Certificate == nil {
			topics[i].Key = push.Key{P8: []byte(a.Token.KeyPEM), ID: a.Token.KeyID, Team: a.Token.TeamID}
		}
	}
	return topics
}

// enterDates notes when the credentials and certificates of the configuration expire.
func (s *Service) enterDates(c *config.Config) {
	for _, x := range c.Exchange {
		for _, a := range x.Accounts {
			for _, method := range config.AuthenticationMethods() {
				var expires time.Time // zero: it does not expire, or is no longer the account's method
				if method == a.Credential.Method {
					expires = a.Credential.Expires
				}
				s.calendar.Set(method, a.Name, expires)
			}
		}
	}
	for _, a := range c.APNs {
		var certificate time.Time
		if a.Certificate != nil {
			certificate = a.Certificate.Leaf.NotAfter
		}
		s.calendar.Set(expiry.APNsCertificate, a.Topic+" "+a.Environment, certificate)
	}
}
