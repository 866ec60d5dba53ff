package check

// What a check tries: an installation, as its configuration describes it.

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

// Installation is what a configuration describes, built and not started, for Run to try.
type Installation struct {
	Config    string   // its file; empty: it and its files are not looked at
	Doubts    []string // the warnings of the configuration itself, for example about an expires that is too far ahead
	Files     []File
	Proxy     string // host:port of the proxy; empty: none
	Entries   []Entry
	Topics    []Topic
	APNs      Prober
	Webhooks  []Webhook
	Listen    []Address             // where mailbell is to listen; a running mailbell has the ports
	State     *Attempt              // at opening and reading the state store; nil: a running mailbell holds it
	Running   *Running              // nil: none
	Callbacks *Callbacks            // nil: nobody listens by push
	Expiry    func() []expiry.Entry // after the checks before, so that the certificates of servers are among them
	// Way finds mailboxes; its Enrolments and Push are needed only for a test alert.
	Way Way
	// NoEnrolments says why the enrolments cannot be read; nil: they can.
	NoEnrolments error
	// Beyond are mailboxes that mailbell is not to be able to read.
	Beyond []string
}

// Callbacks are how Exchange reaches mailbell.
type Callbacks struct {
	URL   string                          // without a secret
	Reach func(ctx context.Context) error // calls it from here; nil: it cannot be tried
	Not   string                          // why it cannot
	At    string                          // host:port at which they are waited for, until the check is over; empty: nowhere
}

// Address is an address that mailbell listens on.
type Address struct {
	Key  string // of the configuration
	Host string // host:port
}

// Attempt is the result of something that had to be tried before everything else.
type Attempt struct {
	Took time.Duration
	Err  error
}

// Running is the mailbell that runs with the same configuration. It has the state, so it looks devices up and sends them test alerts.
type Running struct {
	At         string      // where it answers
	Standby    string      // why it does not hold the state; empty: it does
	Conditions []Condition // what is wrong there now
	// Test has it try all steps for a device. Its error says why it tried none.
	Test func(ctx context.Context, device string) (Report, error)
}

// File is a file that the configuration names.
type File struct {
	Key    string // exchange[0].listener_accounts[0].basic.password_file
	Path   string
	Secret bool // not for everybody to read
}

// Entry is an exchange entry.
type Entry struct {
	Name     string
	Online   bool
	Graph    bool // its mailboxes are reached by Microsoft Graph
	Domains  []string
	EWS      string         // its URL; empty: told by Autodiscover
	Guess    string         // the URL that EWS usually has, on the host of a configured Autodiscover; empty: there is none
	Hosts    []string       // host:port of what is configured or sure to be asked: EWS, Autodiscover
	Outbound proxy.Settings // as its accounts connect to them
	// Authority is host:port of Entra ID; empty: no account needs it. It is connected to by Tokens.
	Authority string
	Tokens    proxy.Settings
	Accounts  []Account
}

// Account is a listener account.
type Account struct {
	Name       string
	Method     string // its authentication method, by its name in the configuration
	ByToken    bool   // its credential gets tokens of Entra ID
	Credential auth.Credential
	Exchange   Exchange
	Pusher     Pusher // nil: it listens by streams, or its callbacks cannot be tried
	// NoCallbacks says why no callback can be waited for here, where it listens by push or by Microsoft Graph; empty: one can.
	NoCallbacks string
	Finder      Finder // nil: the URL of EWS is configured
}

// Finder finds the location of a mailbox; *autodiscover.Client is one.
type Finder interface {
	Find(ctx context.Context, address string) (mail.Location, error)
}

// Topic is an apns entry.
type Topic struct {
	Topic, Environment string
	Host               string         // host:port of APNs
	Outbound           proxy.Settings // as it is connected to
}

// Prober asks APNs whether it accepts the credential of a topic; *push.Sender is one. Its error is a *fault.Error.
type Prober interface {
	Probe(ctx context.Context, topic, environment string) error
}

// Webhook is a receiver of events.
type Webhook struct {
	Name  string
	Event string                          // that is posted to it, and tells nothing
	Try   func(ctx context.Context) error // posts it
}
