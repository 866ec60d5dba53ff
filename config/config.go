// Package config reads the configuration file: one strict schema, its defaults and bounds, and secrets by reference.
// Load reports every mistake of a file at once, each with its line and key, and starts nothing.
// mailbell.example.yaml beside the module's go.mod is the manual.
package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/mailbell/mailbell/internal/credential"
)

// Config is a configuration that is complete and checked: defaults are in place, secrets and certificates are loaded, paths
// are relative to the working directory of the process.
type Config struct {
	File           string // this configuration's, as Load was given it
	Listen         string // host:port of the portal
	TLS            *TLS   // nil: the portal speaks plain HTTP
	BehindTLSProxy bool   // plain HTTP beyond loopback is meant: a proxy in front of it ends TLS
	State          State
	Exchange       []Exchange // in the order in which they are asked for an address; never empty
	Proxy          *Proxy     // nil: connections are made directly
	APNs           []APNs     // never empty
	Alerts         Alerts
	API            API
	Log            Log
	Warnings       Errors // what is allowed and questioned
	Files          []File // those that the configuration names
	Sum            Sum    // of what this file and those held
}

// File is one that the configuration names.
type File struct {
	Key    string // exchange[0].listener_accounts[0].basic.password_file
	Path   string // as it is opened
	Secret bool   // it holds one: not for everybody to read
}

// Sum tells whether files hold what they held.
type Sum [sha256.Size]byte

// TLS is a certificate chain with its key, for tls.X509KeyPair: they are checked as a pair.
type TLS struct {
	CertPEM []byte
	KeyPEM  Secret
}

// State says where enrolments and mailbox records are kept: in a file, or in Redis.
type State struct {
	Path  string // of the embedded store's file; empty where Redis is set
	Redis *Redis
}

// Redis is a single Redis server.
type Redis struct {
	Address  string // host:port
	Username string // of an ACL user; empty: the default user
	Password Secret
	TLS      bool
	CA       *x509.CertPool // nil: the system's roots
	Prefix   string         // of every key
}

// Proxy is the static proxy of every outbound connection.
type Proxy struct {
	URL      string // scheme://host:port; http, https, socks5 or socks5h
	Username string // empty: it wants none
	Password Secret
	Bypass   []string // hosts that are reached directly: names, .suffixes, addresses, networks, each with :port or without
}

// Exchange is an Exchange organisation, or a part of one.
type Exchange struct {
	Name                       string
	Type                       string         // OnPremises or Online
	Domains                    []string       // lower case, ASCII form
	EWSURL                     string         // empty: Autodiscover
	AutodiscoverURL            string         // empty: found from the mail domain
	TrustedHosts               []string       // lower case, ASCII form
	CA                         *x509.CertPool // nil: the system's roots
	MailboxServers             []string       // lower case, short or full names; empty: all
	Cloud                      Cloud
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	ConnectionTimeout          time.Duration
	SafetyPoll                 time.Duration
	RequestsPerSecond          int
	RequestsInFlight           int
	Accounts                   []Account // the listener accounts; never empty
}

// Account is a listener account: the identity under which mailboxes are listened to.
type Account struct {
	Name       string
	Credential credential.Description
}

// Secret is a value that must not be seen. However it is printed, it shows as ***; string(s) is its value.
type Secret = credential.Secret

// Cloud says where one of Microsoft's clouds is.
type Cloud struct {
	EWS          string // the whole URL of Exchange.asmx
	Autodiscover string // https://host
	Authority    string // https://host, of Entra ID
	Graph        string // https://host
	Custom       bool   // it is none of Microsoft's
}

// APNs is a topic in one of Apple's environments with the credential to push to it.
type APNs struct {
	Topic       string
	Environment string           // Production or Sandbox
	URL         string           // empty: Apple's of that environment
	CA          *x509.CertPool   // nil: the system's roots
	Token       Token            // or
	Certificate *tls.Certificate // with its leaf parsed; nil: Token is set
}

// Token is the credential of token-based authentication with APNs.
type Token struct {
	KeyPEM Secret // the .p8 file: PKCS #8, an elliptic curve key on P-256
	KeyID  string
	TeamID string
}

// Alerts says what an alert shows and when it rings.
type Alerts struct {
	Content string // one of the Content… names
	MaxAge  time.Duration
	Send    bool // false: decide and record, send nothing
}

// API says who may use the HTTP API.
type API struct {
	Clients []Client // never empty
}

// Client is a program or person with a bearer token.
type Client struct {
	Name  string
	Role  string // one of the Role… names
	Token Secret
}

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json or console
}

// The environments of APNs.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// The types of an exchange entry.
const (
	OnPremises = "exchange"
	Online     = "online"
)

// What an alert shows of a message.
const (
	ContentGeneric              = "generic"
	ContentSender               = "sender"
	ContentSenderSubject        = "sender_subject"
	ContentSenderSubjectPreview = "sender_subject_preview"
)

// The roles of the API's clients.
const (
	RoleEnrol = "enrol"
	RoleRead  = "read"
	RoleTest  = "test"
	RoleAdmin = "admin"
)

// The defaults.
const (
	DefaultListen                     = "127.0.0.1:8080"     // loopback: nothing is offered to a network that nobody asked for
	DefaultStatePath                  = "mailbell.db"        // beside the configuration file
	DefaultRedisPrefix                = "mailbell"           // a Redis may serve others too
	DefaultMailboxesPerAccount        = maxMailboxes         // what one account's streams carry; fewer only spreads the load
	DefaultSubscriptionsPerConnection = maxSubscriptions     // the fewer connections, the further the account's budget reaches
	DefaultConnectionTimeout          = maxConnectionTimeout // each end of a stream costs a reopening
	DefaultSafetyPoll                 = 30 * time.Minute     // mail whose hint was lost rings within the hour of max_age
	DefaultRequestsPerSecond          = 100                  // 15,000 mailboxes are subscribed in minutes; a server of two cores stays calm
	DefaultRequestsInFlight           = 256                  // 100 requests a second at up to 2.5 s each
	DefaultContent                    = ContentSenderSubject // what a mail app shows on the lock screen
	DefaultMaxAge                     = time.Hour            // an older bell wakes nobody in time: many become one summary
	DefaultLogLevel                   = "info"
	DefaultLogFormat                  = "json"
)

// The bounds.
const (
	maxMailboxes         = 1250             // a listener account's documented share: more and its budget is used up by reopening streams
	maxSubscriptions     = 200              // subscription ids that GetStreamingEvents takes ([MS-OXWSNTIF])
	minConnectionTimeout = time.Minute      // GetStreamingEvents counts whole minutes, from 1 …
	maxConnectionTimeout = 30 * time.Minute // … to 30
	minSafetyPoll        = time.Minute      // more often would be polling, which is what streams replace
	maxSafetyPoll        = 24 * time.Hour   // beyond a day mail no longer rings
	maxRequestsPerSecond = 100_000          // more than a farm of Exchange servers answers: a slip of the keyboard
	maxRequestsInFlight  = 10_000           // each is a goroutine and, over HTTP/1.1, a connection
	minMaxAge            = time.Minute      // mail in transit is often older than seconds
	maxMaxAge            = 24 * time.Hour   // beyond a day mail no longer rings
	minToken             = 16               // characters of a client's token: fewer can be guessed
	maxName              = 64               // characters of a name: it stands in metrics, logs and answers
)
