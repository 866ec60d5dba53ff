package config

// The entries of exchange: an Exchange organisation each, or a part of one. Its cloud is in cloud.go, its accounts' credentials are in
// credential.go.

import (
	"crypto/x509"
	"time"

	"github.com/mailbell/mailbell/internal/pattern"
)

// Exchange is an Exchange organisation, or a part of one.
type Exchange struct {
	Name                       string
	Type                       string         // OnPremises or Online
	ListenBy                   string         // ByStreaming, ByPush or ByGraph
	Domains                    []string       // lower case, ASCII form
	EWSURL                     string         // empty: Autodiscover
	AutodiscoverURL            string         // empty: found from the mail domain
	TrustedHosts               []string       // lower case, ASCII form
	CA                         *x509.CertPool // nil: the system's roots
	MailboxServers             []string       // lower case, short or full names; empty: all
	Cloud                      Cloud
	Graph                      Graph
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	ConnectionTimeout          time.Duration
	SafetyPoll                 time.Duration
	RequestsPerSecond          int       // at most; 0: as many as the servers answer quickly
	RequestsInFlight           int       // at most; how many of them are worth it is found from the answers
	Accounts                   []Account // the listener accounts; never empty
}

// Graph is what only matters where mailboxes are listened to by Microsoft Graph.
type Graph struct {
	Rich bool // notifications carry the message, encrypted
}

// The types of an exchange entry.
const (
	OnPremises = "exchange"
	Online     = "online"
)

// The kinds of listening of an exchange entry.
const (
	ByStreaming = "streaming"
	ByPush      = "push"
	ByGraph     = "graph"
)

// The defaults and bounds of an entry.
const (
	maxMailboxes = 1250   // a listener account's documented share: more and its budget is used up by reopening streams
	maxByGraph   = 15_000 // Graph has limits for an app, which all accounts of one app share, and for a mailbox: this is an instance's

	defaultSubscriptionsPerConnection = maxSubscriptions // fewer connections need less of the account's budget
	maxSubscriptions                  = 200              // subscription ids that GetStreamingEvents takes ([MS-OXWSNTIF])

	defaultConnectionTimeout = maxConnectionTimeout // each end of a stream costs another request
	minConnectionTimeout     = time.Minute          // GetStreamingEvents counts whole minutes, from 1 …
	maxConnectionTimeout     = 30 * time.Minute     // … to 30

	defaultSafetyPoll = 30 * time.Minute // the alert for mail whose hint was lost is sent within max_age
	minSafetyPoll     = time.Minute      // more often would be polling, which is what streams replace
	maxSafetyPoll     = 24 * time.Hour   // beyond a day there is no alert any more

	defaultRequestsPerSecond = 0       // none: the pace is found from the server's answers
	maxRequestsPerSecond     = 100_000 // more than a farm of Exchange servers can answer: a typing error

	defaultRequestsInFlight = 512    // 5,000 requests a second at 100 ms each: more than most servers answer
	maxRequestsInFlight     = 10_000 // each is a goroutine and, over HTTP/1.1, a connection
)

// entryType reads the type of an exchange entry; "": it is wrong, and reported.
func (o *object) entryType() string {
	before := len(o.r.errs)
	if t := o.choice("type", OnPremises, []string{OnPremises, Online}); len(o.r.errs) == before {
		return t
	}
	return ""
}

func (o *object) exchange(accounts once) Exchange {
	o.require("name", "domains", "listener_accounts")
	listenBy := o.choice("listen_by", ByStreaming, []string{ByStreaming, ByPush, ByGraph})
	mailboxes := maxMailboxes
	if listenBy == ByGraph {
		mailboxes = maxByGraph
	}
	e := Exchange{
		Name:                       o.text("name", "", matching(pattern.Name)),
		Type:                       o.entryType(),
		ListenBy:                   listenBy,
		Domains:                    o.texts("domains", domain),
		EWSURL:                     o.text("ews_url", "", httpsURL),
		AutodiscoverURL:            o.text("autodiscover_url", "", httpsURL),
		TrustedHosts:               o.texts("trusted_hosts", hostName),
		CA:                         o.authorities("ca_file"),
		MailboxServers:             o.texts("mailbox_servers", hostName),
		Cloud:                      o.cloud(listenBy),
		Graph:                      o.graph(),
		MailboxesPerAccount:        o.integer("mailboxes_per_account", mailboxes, 1, mailboxes), // a lower number only spreads the load
		SubscriptionsPerConnection: o.integer("subscriptions_per_connection", defaultSubscriptionsPerConnection, 1, maxSubscriptions),
		ConnectionTimeout:          o.duration("connection_timeout", defaultConnectionTimeout, minConnectionTimeout, maxConnectionTimeout),
		SafetyPoll:                 o.duration("safety_poll", defaultSafetyPoll, minSafetyPoll, maxSafetyPoll),
		RequestsPerSecond:          o.integer("requests_per_second", defaultRequestsPerSecond, 1, maxRequestsPerSecond),
		RequestsInFlight:           o.integer("requests_in_flight", defaultRequestsInFlight, 1, maxRequestsInFlight),
	}
	if v := o.get("autodiscover_url"); e.Type == Online && isSet(v.node) {
		v.fail("is not for type: online, whose cloud has its own Autodiscover")
	}
	e.byGraph(o)
	for _, l := range o.objects("listener_accounts") {
		a := l.account(e, o.has("ews_url"))
		e.Accounts = append(e.Accounts, a)
		accounts.add(l.get("name"), a.Name)
	}
	o.end()
	return e
}

// graph reads what only matters with Microsoft Graph.
func (o *object) graph() Graph {
	section, _ := o.optional("graph")
	defer section.end()
	return Graph{Rich: section.boolean("rich", false)}
}

// byGraph reports what does not go with Microsoft Graph.
func (e *Exchange) byGraph(o *object) {
	if v := o.get("graph"); e.Type == OnPremises && isSet(v.node) {
		v.fail("is for type: online: an Exchange on premises has no Microsoft Graph")
	}
	if e.ListenBy != ByGraph {
		return
	}
	if e.Type == OnPremises {
		o.get("listen_by").fail("graph is for type: online: an Exchange on premises has no Microsoft Graph; want streaming or push")
	}
	if v := o.get("mailbox_servers"); isSet(v.node) {
		v.fail("is not for listen_by: graph: Microsoft Graph does not say on which server a mailbox is")
	}
}
