package service

// What `mailbell check` tries: everything that the configuration describes, built as the service builds it, and not started.

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

// Subject is what a check is about, beside the configuration. Each may be empty.
type Subject struct {
	Mailbox, Device string
	Beyond          []string // mailboxes that mailbell is not to be able to read
	Only            Part
}

// Part is a part of a configuration that a check is about.
type Part uint8

// The parts. Of a part that the check is not about nothing is tried.
const (
	Everything Part = iota
	OnlyExchange
	OnlyAPNs
	OnlyState // and the port of the API
)

// limit leaves out what is of other parts.
func (p Part) limit(in check.Installation) check.Installation {
	if p == Everything {
		return in
	}
	in.Config, in.Files, in.Doubts, in.Expiry = "", nil, nil, nil
	if p != OnlyExchange {
		in.Proxy, in.Entries, in.Callbacks = "", nil, nil
	}
	if p != OnlyAPNs {
		in.Topics = nil
	}
	in.Webhooks = nil
	if p != OnlyState {
		in.State, in.Running, in.Listen = nil, nil, nil
	}
	return in
}

// Check tries everything that c needs, and everything for a mailbox and a device if they are given. It reports each result as it comes.
// If a mailbell runs with c, that one has the state and the devices. The error says that nothing could be tried.
func Check(ctx context.Context, c *config.Config, running *check.Running, log *zap.Logger, version string, of Subject, tell func(check.Result)) error {
	s := &Service{log: log, version: version, proxy: &proxy.Current{}, calendar: expiry.New(log), oneRefusal: true}
	quietRedis(log)
	s.configuration.Store(c)
	v, err := via(c.Proxy)
	if err != nil {
		return err
	}
	s.proxy.Set(v)
	s.enterDates(c)
	if err := s.useTLS(c); err != nil {
		return err
	}
	sender, err := s.newSender(c, log, nil, nil, nil)
	if err != nil {
		return err
	}
	defer sender.Close(context.WithoutCancel(ctx))
	l, err := s.links(c)
	if err != nil {
		return err
	}
	defer l.close()

	known, err := readState(ctx, c.State, running)
	if err != nil {
		return err
	}
	r := &rooms{service: s, links: l, sender: sender, book: known.book}
	r.inbox = inbox.New(inbox.Options{Book: r.book, Sender: sender, Log: log})
	defer r.inbox.Close()
	r.listener = listener.New(listener.Options{Book: r.book, Inbox: r.inbox, Entries: l.entries, PublicURL: c.PublicURL, Log: log})
	defer r.listener.Close()
	l.trials = &callbackTrials{receiver: r.listener.Callbacks(), publicURL: c.PublicURL}
	called, end := s.tryCallbacks(ctx, c, running, l.trials)
	defer end()

	in, err := s.installation(c, l)
	if err != nil {
		return err
	}
	in.State, in.Running, in.NoEnrolments, in.Doubts = known.attempt, running, known.noEnrolments(c), append(known.doubts, in.Doubts...)
	in.APNs, in.Way, in.Callbacks, in.Beyond = sender, r.way(), called, of.Beyond
	of.Only.limit(in).Run(ctx, of.Mailbox, of.Device, tell)
	return nil
}

// installation describes for check what the configuration alone says.
func (s *Service) installation(c *config.Config, l *links) (check.Installation, error) {
	in := check.Installation{Config: c.File, Listen: addresses(c), Expiry: s.calendar.List, Doubts: configurationDoubts(c), Proxy: proxyAddress(c)}
	for _, f := range c.Files {
		in.Files = append(in.Files, check.File{Key: f.Key, Path: f.Path, Secret: f.Secret})
	}
	for _, x := range c.Exchange {
		in.Entries = append(in.Entries, s.entryForCheck(x, l))
	}
	for _, t := range s.topics(c.APNs) {
		u, err := t.Address()
		if err != nil { // the sender has checked it
			return in, err
		}
		in.Topics = append(in.Topics, check.Topic{Topic: t.Topic, Environment: t.Environment, Host: hostname.Address(u), Outbound: t.Outbound})
	}
	for _, w := range c.Webhooks {
		in.Webhooks = append(in.Webhooks, s.hookForCheck(w))
	}
	return in, nil
}

// addresses are those that mailbell listens on.
func addresses(c *config.Config) []check.Address {
	list := []check.Address{{Key: "listen", Host: c.Listen}}
	if c.Callbacks.Listen != "" {
		list = append(list, check.Address{Key: "callbacks.listen", Host: c.Callbacks.Listen})
	}
	return list
}

// configurationDoubts are the warnings about the configuration and its files.
func configurationDoubts(c *config.Config) (doubts []string) {
	for _, w := range c.Warnings {
		doubts = append(doubts, w.Error())
	}
	accounts := 0
	for _, x := range c.Exchange {
		accounts += len(x.Accounts)
	}
	if accounts > listener.MaxAccounts {
		doubts = append(doubts, fmt.Sprintf("%s: exchange: has %d listener accounts, and an instance uses %d: the first of each entry, and then the next ones",
			c.File, accounts, listener.MaxAccounts))
	}
	for _, d := range stateDoubts(c.State) {
		doubts = append(doubts, d.key+": "+d.Text+": "+d.Advice)
	}
	return doubts
}

// proxyAddress is the host:port of the proxy; empty: there is none.
func proxyAddress(c *config.Config) string {
	if c.Proxy == nil {
		return ""
	}
	u, err := url.Parse(c.Proxy.URL)
	if err != nil { // config has checked it
		return ""
	}
	return u.Host
}

// entryForCheck describes an exchange entry for check.
func (s *Service) entryForCheck(x config.Exchange, l *links) check.Entry {
	e := check.Entry{
		Name: x.Name, Domains: x.Domains, Online: x.Type == config.Online, Graph: x.ListenBy == config.ByGraph, EWS: x.EWSURL, Guess: guess(x), Hosts: hosts(x),
		Outbound: s.outbound(x),
	}
	e.Authority, e.Tokens = tokenService(x), forTokens(x, e.Outbound)
	for _, a := range l.accounts {
		if a.entry.Name == x.Name {
			e.Accounts = append(e.Accounts, a.forCheck(l.trials, a.source()))
		}
	}
	return e
}

// tokenService is the host:port of Entra ID, from which accounts of the entry get tokens; empty: none does.
func tokenService(x config.Exchange) string {
	u, err := url.Parse(x.Cloud.Authority)
	if err != nil || !slices.ContainsFunc(x.Accounts, func(a config.Account) bool { return a.Credential.ByToken() }) {
		return ""
	}
	return hostname.Address(u)
}

// guess is the URL that EWS usually has: on the host of a configured Autodiscover.
func guess(x config.Exchange) string {
	u, err := url.Parse(x.AutodiscoverURL)
	if err != nil || u.Host == "" || x.EWSURL != "" || x.Type == config.Online {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/EWS/Exchange.asmx"}).String()
}

// source is by what the mailboxes of an account are reached, unless a mailbox was moved to the other.
func (a *account) source() mail.Source {
	if a.entry.ListenBy == config.ByGraph && a.atGraph != nil {
		return mail.Graph
	}
	return mail.EWS
}

// forCheck describes the account for check, as it reaches mailboxes by a source.
func (a *account) forCheck(p *callbackTrials, by mail.Source) check.Account {
	d := a.described.Load()
	if by == mail.Graph && a.atGraph != nil {
		return check.Account{
			Name: a.name, Method: d.Method, ByToken: d.ByToken(), Credential: a.graph, Exchange: walkedGraph{reads{a.atGraph.by}, a.atGraph.by}, Finder: a.atGraph.finder,
			Pusher: graphPusher{a.atGraph.by, p.graph}, NoCallbacks: p.graph.not,
		}
	}
	c := check.Account{Name: a.name, Method: d.Method, ByToken: d.ByToken(), Credential: a.credential, Exchange: a.exchange, Finder: a.finder}
	if a.entry.ListenBy == config.ByPush {
		c.Pusher, c.NoCallbacks = pusher{a.exchange.ews, p}, p.not
	}
	return c
}

// hosts are the hosts of an entry that are configured, or are asked in any case, without Entra ID's.
func hosts(x config.Exchange) (list []string) {
	urls := []string{x.EWSURL, x.AutodiscoverURL}
	switch {
	case x.ListenBy == config.ByGraph:
		urls = append(urls, x.Cloud.Graph)
	case x.Type == config.Online:
		urls = append(urls, x.Cloud.Autodiscover)
		if x.EWSURL == "" {
			urls = append(urls, x.Cloud.EWS)
		}
	}
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && text != "" && !slices.Contains(list, hostname.Address(u)) {
			list = append(list, hostname.Address(u))
		}
	}
	return list
}

// Plan returns what n mailboxes need, and how to set up Exchange for them.
func Plan(c *config.Config, n int) string {
	entries := make([]check.PlanEntry, len(c.Exchange))
	for i, x := range c.Exchange {
		entries[i] = check.PlanEntry{
			Name: x.Name, Online: x.Type == config.Online, EWS: x.EWSURL != "", MailboxesPerAccount: x.MailboxesPerAccount,
			Graph: x.ListenBy == config.ByGraph, Callbacks: strings.HasPrefix(c.PublicURL, "https://"),
			SubscriptionsPerConnection: x.SubscriptionsPerConnection, RequestsPerSecond: x.RequestsPerSecond,
		}
		for _, a := range x.Accounts {
			d := a.Credential
			p := check.PlanAccount{Name: a.Name, Method: d.Method, Username: d.Username, ClientID: d.ClientID}
			entries[i].Accounts = append(entries[i].Accounts, p)
		}
	}
	return check.Plan(n, entries)
}
