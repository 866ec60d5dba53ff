package api

// The answers of the calls under /v1. openapi.yaml describes them for other programs; mailbell's own commands, which ask the running
// service, use these types.

import (
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

// Device is an enrolment.
type Device struct {
	ID          string              `json:"id"`
	Mailbox     string              `json:"mailbox"`
	Token       string              `json:"token"` // the first characters of it
	Topic       string              `json:"topic"`
	Environment string              `json:"environment"`
	Exchange    string              `json:"exchange,omitempty"`
	Label       string              `json:"label,omitempty"`
	ReceiptKey  string              `json:"receipt_key,omitempty"`
	Created     time.Time           `json:"created,omitzero"`
	Enrolled    time.Time           `json:"enrolled,omitzero"`
	Since       time.Time           `json:"since,omitzero"`
	State       subscriptions.State `json:"state"`
	Reason      string              `json:"reason,omitempty"`
	Advice      string              `json:"advice,omitempty"` // what to do about the reason
	NextTry     time.Time           `json:"next_try,omitzero"`
}

// DeviceState is the state of a device of a mailbox.
type DeviceState struct {
	ID      string              `json:"id"`
	Label   string              `json:"label,omitempty"`
	State   subscriptions.State `json:"state"`
	Reason  string              `json:"reason,omitempty"`
	Advice  string              `json:"advice,omitempty"`
	NextTry time.Time           `json:"next_try,omitzero"`

	Receipts *DeviceReceipts `json:"receipts,omitempty"` // nil: the enrolment has no key to sign any
}

// DeviceReceipts say whether a phone answers: of the last decisions of its mailbox, how many alerts for it were accepted, and how many it showed.
type DeviceReceipts struct {
	Accepted int       `json:"accepted"` // those that a phone had the time to show
	Shown    int       `json:"shown"`
	Last     time.Time `json:"last,omitzero"` // when it showed an alert last
}

// DevicePage is a page of the devices.
type DevicePage struct {
	Devices []Device `json:"devices"`
	Next    string   `json:"next,omitempty"` // the after of the next page
}

// Mailbox answers "why did this phone not ring?".
type Mailbox struct {
	Address       string              `json:"address"`
	State         subscriptions.State `json:"state"`
	Since         time.Time           `json:"since,omitzero"` // when it came into this state, where that is not as it should be
	Reason        string              `json:"reason,omitempty"`
	Advice        string              `json:"advice,omitempty"`
	NextTry       time.Time           `json:"next_try,omitzero"`
	Account       string              `json:"account,omitempty"` // the listener account
	Location      *Location           `json:"location,omitempty"`
	Subscribed    time.Time           `json:"subscribed,omitzero"`
	LastHeartbeat time.Time           `json:"last_heartbeat,omitzero"`
	LastHint      time.Time           `json:"last_hint,omitzero"`
	LastListing   time.Time           `json:"last_listing,omitzero"`
	LastMessage   time.Time           `json:"last_message,omitzero"`
	LastAlert     *Decision           `json:"last_alert,omitempty"`
	Devices       []string            `json:"devices"`                    // their ids
	DeviceStates  []DeviceState       `json:"device_states"`              // in the same order
	Decisions     []Decision          `json:"decisions"`                  // the newest first
	Unread        string              `json:"decisions_unread,omitempty"` // why older decisions are missing; empty: they are all there
}

// Location is the location of a mailbox.
type Location struct {
	Exchange string    `json:"exchange"` // the exchange entry of the configuration
	Source   string    `json:"source"`   // ews or graph
	URL      string    `json:"url"`
	Group    string    `json:"group,omitempty"`
	Primary  string    `json:"primary,omitempty"`
	Server   string    `json:"server"` // or unknown
	How      string    `json:"how,omitempty"`
	Found    time.Time `json:"found,omitzero"`
}

// Decision is the outcome of a message for one device or, if Device is empty, for all devices of the mailbox.
type Decision struct {
	Message     string          `json:"message"` // its key
	Device      string          `json:"device,omitempty"`
	Outcome     outcome.Outcome `json:"outcome"`
	Reason      outcome.Reason  `json:"reason,omitempty"`
	Code        string          `json:"code,omitempty"`        // what the server answered, where the outcome is waiting
	Explanation string          `json:"explanation,omitempty"` // the sentence of the reason
	Advice      string          `json:"advice,omitempty"`      // what to do about it, where there is anything to be done
	Received    time.Time       `json:"received,omitzero"`
	Decided     time.Time       `json:"decided,omitzero"`
	APNsID      string          `json:"apns_id,omitempty"`
	Status      int             `json:"apns_status,omitempty"`
	Shown       time.Time       `json:"shown_at,omitzero"`        // when the phone showed the alert, by its receipt
	Correlation string          `json:"correlation_id,omitempty"` // of the work that came to it, in the log
}

// SelfCheck is what the person with a phone may know: whether alerts come to it, and what became of the last one. It tells of nobody else.
type SelfCheck struct {
	Device      string              `json:"d"`     // the enrolment id, as in the alerts
	Token       string              `json:"token"` // the first characters of it
	Topic       string              `json:"topic"`
	Environment string              `json:"environment"`
	Enrolled    time.Time           `json:"enrolled,omitzero"`
	Alerts      bool                `json:"alerts"` // mail that comes now leads to an alert
	State       subscriptions.State `json:"state"`
	Says        string              `json:"says"`            // the state in a sentence
	Cause       string              `json:"cause,omitempty"` // what is wrong, for the help desk
	Since       time.Time           `json:"since,omitzero"`
	NextTry     time.Time           `json:"next_try,omitzero"`
	LastAlert   *Decision           `json:"last_alert,omitempty"`  // the newest one for this device that APNs answered
	LastReceipt time.Time           `json:"last_receipt,omitzero"` // when this device showed an alert last
}

// MailboxPage is a page of the mailboxes.
type MailboxPage struct {
	Mailboxes []MailboxLine `json:"mailboxes"`
	Next      string        `json:"next,omitempty"` // the after of the next page
}

// MailboxLine is a mailbox in a list.
type MailboxLine struct {
	Address string              `json:"address"`
	State   subscriptions.State `json:"state"`
	Reason  string              `json:"reason,omitempty"`
	Advice  string              `json:"advice,omitempty"`
	NextTry time.Time           `json:"next_try,omitzero"` // zero: none is waited for
	Account string              `json:"account,omitempty"` // the listener account
	Devices int                 `json:"devices"`

	Exchange string `json:"exchange,omitempty"` // the exchange entry; empty: not known yet
	Source   string `json:"source,omitempty"`   // ews or graph: by which it is read; empty: not known yet
}

// Status is the status of the service.
type Status struct {
	Version     string                      `json:"version"`
	Started     time.Time                   `json:"started"`
	Uptime      int64                       `json:"uptime_seconds"`
	Ready       bool                        `json:"ready"`
	Reason      string                      `json:"reason,omitempty"` // why it is not ready
	Mailboxes   map[subscriptions.State]int `json:"mailboxes"`
	Exchange    []ExchangeEntry             `json:"exchange"`
	Accounts    []Account                   `json:"accounts"`
	Topics      []Topic                     `json:"apns_topics"`
	Credentials []Credential                `json:"credentials"`
	Clients     []ClientStatus              `json:"clients"` // of the API
	Webhooks    []Webhook                   `json:"webhooks"`
	Canaries    []Canary                    `json:"canaries"`
	StateStore  StateStore                  `json:"state_store"`
	Conditions  []check.Condition           `json:"conditions"` // what is wrong now, the worst first
}

// ExchangeEntry is an exchange entry of the configuration, and what is known of its servers.
type ExchangeEntry struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"` // the RequestServerVersion that is spoken with its servers
	Capacity int    `json:"capacity"`          // of mailboxes, at all its accounts
	Waiting  int    `json:"waiting"`           // mailboxes that wait for room
	Skew     int64  `json:"clock_skew_ms"`     // its servers' clock minus ours
	Online   bool   `json:"online"`            // it is in Exchange Online, where EWS ends
	EWS      string `json:"ews"`               // the listen_by by which its mailboxes are listened to over EWS: streaming or push
	Graph    bool   `json:"graph"`             // they can be listened to by Microsoft Graph
}

// Topic is an APNs topic, and whether alerts for it are accepted.
type Topic struct {
	Topic       string         `json:"topic"`
	Environment string         `json:"environment"`
	Reason      outcome.Reason `json:"reason,omitempty"` // why no alert is accepted now; empty: all is well
	Explanation string         `json:"explanation,omitempty"`
	Advice      string         `json:"advice,omitempty"`
	Since       time.Time      `json:"since,omitzero"`
	Refused     map[string]int `json:"refused,omitempty"` // the number of devices whose last alert was refused for good, by reason
}

// Account is a listener account and its load.
type Account struct {
	Exchange  string    `json:"exchange"` // the exchange entry of the configuration
	Name      string    `json:"name"`
	Kind      string    `json:"kind"` // its authentication method, as the configuration calls it
	Mailboxes int       `json:"mailboxes"`
	Capacity  int       `json:"capacity"`         // of mailboxes
	Streams   int       `json:"streams"`          // open
	Reason    string    `json:"reason,omitempty"` // why nothing is asked by it now, throttled or refused: a code, then words; empty: all is well
	Advice    string    `json:"advice,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"` // zero: none is waited for
	// EWSOff: EWS answers as in a tenant that has switched it off.
	EWSOff bool `json:"ews_switched_off,omitempty"`
}

// Credential is a credential or certificate that expires.
type Credential struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

// ClientStatus is a client of the API.
type ClientStatus struct {
	Name    string   `json:"name"`
	Role    Role     `json:"role"`
	SignIns []SignIn `json:"sign_ins"` // one for each way in which it may
}

// SignIn is a way in which a client signs in.
type SignIn struct {
	By   string    `json:"by"`            // token, next_token or certificate
	Last time.Time `json:"last,omitzero"` // zero: not since the start of mailbell
}

// Webhook is a receiver of events of the configuration.
type Webhook struct {
	Name        string    `json:"name"`
	Waiting     int       `json:"waiting"`   // events that are to be sent
	Delivered   int       `json:"delivered"` // since the start
	Lost        int       `json:"lost"`      // since the start: there was no room, or it was tried for days
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	Error       string    `json:"error,omitempty"` // of the last try; empty: it was taken
	NextTry     time.Time `json:"next_try,omitzero"`
	Gone        bool      `json:"gone,omitempty"` // the receiver has answered 410: nothing is sent to it any more
}

// Canary is a mailbox of the configuration that sends mail to itself.
type Canary struct {
	Mailbox     string    `json:"mailbox"`
	State       string    `json:"state"`                 // waiting, under_way, accepted, late, lost or not_sent
	Began       time.Time `json:"began,omitzero"`        // when the message under way was sent; zero: none is
	LastSuccess time.Time `json:"last_success,omitzero"` // when APNs accepted an alert last; zero: not since the start
	Took        int64     `json:"took_ms,omitempty"`     // from sending that message
	Lost        int       `json:"lost"`                  // since the start
	Reason      string    `json:"reason,omitempty"`      // what is wrong; empty: nothing is known to be
	Advice      string    `json:"advice,omitempty"`
	Next        time.Time `json:"next,omitzero"` // when the next message is sent, or sending it is tried again; zero: one is under way
}

// StateStore says whether the state takes writes: one is tried.
type StateStore struct {
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"`
	Advice    string `json:"advice,omitempty"`
}

// Problem is an error of the API (RFC 9457).
type Problem struct {
	Type         string       `json:"type"` // the path of the page about its code
	Code         string       `json:"code"` // stable, for programs
	Status       int          `json:"status"`
	Title        string       `json:"title"`
	Detail       string       `json:"detail"`
	Errors       []FieldError `json:"errors,omitempty"` // the fields that are wrong
	authenticate string       // the WWW-Authenticate header (RFC 6750 section 3)
	retryAfter   string       // the Retry-After header: seconds
}

// FieldError says what is wrong with one field, query parameter or part of the path.
type FieldError struct {
	Field  string `json:"field"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Error returns one line: the first field that is wrong, else the detail, else the title.
func (p *Problem) Error() string {
	switch {
	case len(p.Errors) > 0:
		return p.Errors[0].Field + ": " + p.Errors[0].Detail
	case p.Detail != "":
		return p.Detail
	}
	return p.Title
}
