// Package mail has the types that all rooms share: a message, the key that identifies it, a mail address, and the location of a mailbox.
package mail

import (
	"cmp"
	"time"
	"unique"
)

// Message is a message from EWS or Graph. A source fills the fields that were requested; the others stay empty.
type Message struct {
	ItemID     string // opaque, case-sensitive; changes when the item moves to another folder
	InternetID string // the Message-ID header, exact bytes; may be empty, missing or doubled
	Class      string // IPM.Note, IPM.Schedule.Meeting.Request, REPORT.…
	Subject    string
	From       Mailbox
	Preview    string    // plain text, at most 256 characters
	Received   time.Time // the received time from the mailbox; it can be wrong (rule 4 of the log)
	Sent       time.Time // the client submit time; zero if the item has none
	Importance Importance
	Private    bool // Sensitivity is Private or Confidential: neither subject nor preview may be shown
	Read       bool
	Thread     string // the conversation's id
}

// Mailbox is a name and address of a From header. Either may be empty.
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

// Location is the location of a mailbox, from Autodiscover or the configuration.
type Location struct {
	Entry   string    `json:"entry"`             // the exchange entry of the configuration
	Source  Source    `json:"source,omitempty"`  // by which it is read there; empty: EWS
	URL     string    `json:"url"`               // of EWS, the external one; of Graph, what all calls begin with
	Group   string    `json:"group,omitempty"`   // GroupingInformation: mailboxes that may share a stream
	Primary string    `json:"primary,omitempty"` // the primary SMTP address, normalised
	Server  string    `json:"server,omitempty"`  // the mailbox server, as the mailbox's own answers name it; empty: unknown
	How     string    `json:"how,omitempty"`     // how that was learnt, in words: "Autodiscover (SOAP)", "ews_url"
	Found   time.Time `json:"found"`             // when that was learnt
}

// Shared is the location with its strings shared with all other mailboxes that have the same: thousands do, each read from its own answer.
func (l Location) Shared() Location {
	for _, s := range []*string{&l.Entry, &l.URL, &l.Group, &l.Server, &l.How} {
		*s = unique.Make(*s).Value()
	}
	return l
}

// ReadBy is the source by which the mailbox is read there.
func (l Location) ReadBy() Source { return cmp.Or(l.Source, EWS) }

// Source is the interface by which a message was read; its item id is valid there.
type Source string

// The sources.
const (
	EWS   Source = "ews"
	Graph Source = "graph"
)
