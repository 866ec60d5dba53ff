package service

// What `mailbell check` tries: everything that the configuration describes, built as the service builds it, and not started.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/subscriptions"
)

// stateTimeout bounds opening the state for a check: the lock of the file is tried for 2 s, and a reachable Redis answers in milliseconds.
const stateTimeout = 10 * time.Second

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
	l.pushes = &pushes{receiver: r.listener.Callbacks(), publicURL: c.PublicURL}
	called, end := s.tryCallbacks(ctx, c, running, l.pushes)
	defer end()

	in := check.Installation{
		Config: c.File, Listen: addresses(c), State: known.attempt, Running: running, Expiry: s.calendar.List, APNs: sender, Way: r.way(),
		NoEnrolments: known.noEnrolments(c), Doubts: append(known.doubts, configurationDoubts(c)...), Proxy: proxyAddress(c), Callbacks: called,
		Beyond: of.Beyond,
	}
	for _, f := range c.Files {
		in.Files = append(in.Files, check.File{Key: f.Key, Path: f.Path, Secret: f.Secret})
	}
	for _, x := range c.Exchange {
		in.Entries = append(in.Entries, s.entryForCheck(x, l))
	}
	for _, t := range s.topics(c.APNs) {
		u, err := t.Address()
		if err != nil { // the sender has checked it
			return err
		}
		in.Topics = append(in.Topics, check.Topic{Topic: t.Topic, Environment: t.Environment, Host: hostname.Address(u), Outbound: t.Outbound})
	}
	for _, w := range c.Webhooks {
		in.Webhooks = append(in.Webhooks, s.hookForCheck(w))
	}
	of.Only.limit(in).Run(ctx, of.Mailbox, of.Device, tell)
	return nil
}

// addresses are those that mailbell listens on.
func addresses(c *config.Config) []check.Address {
	list := []check.Address{{Key: "listen", Host: c.Listen}}
	if c.Callbacks.Listen != "" {
		list = append(list, check.Address{Key: "callbacks.listen", Host: c.Callbacks.Listen})
	}
	return list
}

// knownState is what a check knows of the state.
type knownState struct {
	book    *subscriptions.Book // empty if the state could not be read, or is a running mailbell's
	attempt *check.Attempt      // nil: a running mailbell holds it
	doubts  []string
}

// readState reads the state once, to check it and to look the device up. It is closed again, because the service may be about to start.
func readState(ctx context.Context, c config.State, running *check.Running) (k knownState, err error) {
	if k.book, err = subscriptions.Open(ctx, nowhere{}); err != nil {
		return k, err
	}
	if running != nil && c.Redis == nil {
		return k, nil
	}
	began := time.Now()
	read, doubts, err := readBook(ctx, c)
	k.attempt, k.doubts = &check.Attempt{Took: time.Since(began), Err: err}, doubts
	if read != nil {
		k.book = read
	}
	return k, nil
}

// noEnrolments says why the enrolments are not known; nil: they are.
func (k knownState) noEnrolments(c *config.Config) error {
	switch {
	case k.attempt != nil && k.attempt.Err != nil:
		return k.attempt.Err
	case c.State.Redis != nil:
		return errors.New("only a running mailbell knows the enrolments in Redis, and none answers at " + c.Listen)
	}
	return nil
}

// configurationDoubts are the warnings about the configuration and its files.
func configurationDoubts(c *config.Config) (doubts []string) {
	for _, w := range c.Warnings {
		doubts = append(doubts, w.Error())
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
			e.Accounts = append(e.Accounts, a.forCheck(l.pushes, a.source()))
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
func (a *account) forCheck(p *pushes, by mail.Source) check.Account {
	d := a.described.Load()
	if by == mail.Graph && a.atGraph != nil {
		return check.Account{
			Name: a.name, Method: d.Method, ByToken: d.ByToken(), Credential: a.graph, Exchange: walkedGraph{a.atGraph.by}, Finder: a.atGraph.finder,
			Pusher: graphPusher{a.atGraph.by, p.graph}, NoCallbacks: p.graph.not,
		}
	}
	c := check.Account{Name: a.name, Method: d.Method, ByToken: d.ByToken(), Credential: a.credential, Exchange: a.exchange, Finder: a.finder}
	if a.entry.ListenBy == config.ByPush {
		c.Pusher, c.NoCallbacks = pusher{a.exchange.EWS, p}, p.not
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

// readBook reads the state and changes nothing. If the file does not exist, it checks that it can be created, and returns no book. It
// does not read Redis, which belongs to the instance that holds it.
func readBook(ctx context.Context, c config.State) (book *subscriptions.Book, doubts []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	if c.Redis != nil {
		var login redisLogin
		login.use(c)
		store, doubts, err := subscriptions.OpenRedis(ctx, redisOptions(c.Redis, &login))
		if err != nil {
			return nil, nil, err
		}
		return nil, doubts, errors.Join(store.Ping(ctx), store.Close())
	}
	store, err := subscriptions.ReadEmbedded(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, writable(filepath.Dir(c.Path))
	}
	if err != nil {
		return nil, nil, err
	}
	book, err = subscriptions.Open(ctx, store)
	if err == nil {
		err = writable(filepath.Dir(c.Path))
	}
	if err = errors.Join(err, store.Close()); err != nil {
		return nil, nil, err
	}
	for _, d := range book.Damaged() {
		doubts = append(doubts, fmt.Sprintf("a part of the state cannot be read: %s: %v", d.What, d.Err))
	}
	return book, doubts, nil
}

// nowhere is an empty state, for a book if the real one cannot be read.
type nowhere struct{}

var errNowhere = errors.New("the state cannot be written here")

func (nowhere) Load(context.Context) (subscriptions.Contents, error) {
	return subscriptions.Contents{}, nil
}
func (nowhere) Write(context.Context, subscriptions.Change) error { return errNowhere }
func (nowhere) Decisions(context.Context, string) ([][]byte, error) {
	return nil, nil
}
func (nowhere) Held() error                { return nil }
func (nowhere) Ping(context.Context) error { return nil }
func (nowhere) Close() error               { return nil }

// writable reports why no file can be written in a folder.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".mailbell-check-*")
	if err != nil {
		return fmt.Errorf("the state cannot be created: %w", err)
	}
	_, err = f.Write(make([]byte, probeSize))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// probeSize is how much is written to see whether the disk has room: what a mailbox and its devices need.
const probeSize = 64 << 10

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
