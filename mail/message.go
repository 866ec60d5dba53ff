// Package mail holds the words that all rooms share: a message as any source tells it, the key by which it is known,
// a mail address, and the place where a mailbox lives.
package mail

import "time"

// Message is a message as EWS or Graph tells it. A source fills what it was asked for; the rest stays empty.
type Message struct {
	ItemID     string // opaque, case-sensitive; changes when the item moves to another folder
	InternetID string // the Message-ID header, exact bytes; may be empty, missing or doubled
	Class      string // IPM.Note, IPM.Schedule.Meeting.Request, REPORT.…
	Subject    string
	From       Mailbox
	Preview    string    // plain text, at most 256 characters
	Received   time.Time // when the store of this mailbox says that it came; not to be believed blindly (rule 4 of the log)
	Sent       time.Time // the client submit time; zero where the item has none
	Importance Importance
	Private    bool // Sensitivity is Private or Confidential: neither subject nor preview may be shown
	Read       bool
	Thread     string // the conversation's id
}

// Mailbox is a name and address as they stand in From. Either may be empty.
type Mailbox struct {
	Name    string
	Address string
}

// Importance of a message, as its sender set it.
type Importance uint8

// The importances of EWS and Graph.
const (
	Normal Importance = iota
	Low
	High
)

// Location is where a mailbox lives, as Autodiscover or the configuration tells it.
type Location struct {
	Entry   string    `json:"entry"`             // the exchange entry of the configuration
	URL     string    `json:"url"`               // of EWS, the external one
	Group   string    `json:"group,omitempty"`   // GroupingInformation: mailboxes that may share a stream
	Primary string    `json:"primary,omitempty"` // the primary SMTP address, normalised
	Server  string    `json:"server,omitempty"`  // the mailbox server, as the mailbox's own answers name it; empty: unknown
	How     string    `json:"how,omitempty"`     // how that was learnt, in words: "Autodiscover (SOAP)", "ews_url"
	Found   time.Time `json:"found"`             // when that was learnt
}

// Source says by which interface a message was read: its item id is to be used there.
type Source string

// The sources.
const (
	EWS   Source = "ews"
	Graph Source = "graph"
)
