package ews

// GetItem: the messages for which alerts are to be sent.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// MaxItems is how many items one GetItem may ask for: Microsoft advises no more, as a batch may run one minute.
const MaxItems = 10

// GetItem reads up to MaxItems messages of t.Mailbox, with sender and preview (none from Exchange 2010), and returns one Item for each
// id, in their order. An error of one item is in that Item and concerns at most the mailbox. An error that concerns all of them is the
// error of the call: an *Error, or that of ctx. If the answer cannot be parsed, the error has the code CodeUnparseableItem and the scope
// of a message: the caller can then read the items one by one.
func (c *Client) GetItem(ctx context.Context, t Target, ids []string) ([]Item, Answer, error) {
	if len(ids) == 0 || len(ids) > MaxItems {
		return nil, Answer{}, fmt.Errorf("GetItem: %d ids, want 1 to %d", len(ids), MaxItems)
	}
	const op = "GetItem"
	items := make([]Item, 0, len(ids))
	var first *problem // of an item
	good := 0
	a, err := c.call(ctx, t, operation{
		name: op, unparseable: CodeUnparseableItem, read: true,
		body: getItem(ids),
		message: func(s *scanner) *problem {
			if len(items) == len(ids) {
				s.fail("more answers than items")
				return nil
			}
			id := ids[len(items)]
			m, p := itemMessage(s, id)
			if m != nil && m.ItemID != id && slices.Contains(ids, m.ItemID) { // one is left out, or moved: no message may pass for another
				s.fail("answers that are not in the order of the items")
				return nil
			}
			item := Item{ID: id, Message: m}
			switch {
			case p != nil:
				item.Message, item.Err = nil, itemError(op, p)
				if first == nil {
					first = p
				}
			case m == nil:
				item.Err = newError(op, CodeUnparseableItem, "", 0, malformed("a success without an item"))
			default:
				good++
			}
			items = append(items, item)
			return nil
		},
	})
	if err != nil {
		return nil, a, err
	}
	for _, id := range ids[len(items):] {
		items = append(items, Item{ID: id, Err: newError(op, CodeUnparseableItem, "", 0, malformed("fewer answers than items"))})
	}
	// If no item could be read, and the cause is not in the items, the call has failed.
	if good == 0 && first != nil {
		if all := first.error(op); all.Fault.Scope > fault.Message && !hasMessageError(items) {
			all.RequestID = a.RequestID
			return nil, a, all
		}
	}
	return items, a, nil
}

// itemError narrows the scope of an item's error: the server accepted the call, so neither account nor server are at fault.
func itemError(op string, p *problem) *Error {
	e := p.error(op)
	e.Fault.Scope = min(e.Fault.Scope, fault.Mailbox)
	return e
}

func hasMessageError(items []Item) bool {
	for _, i := range items {
		if e, ok := errors.AsType[*Error](i.Err); ok && e.Fault.Scope == fault.Message {
			return true
		}
	}
	return false
}

// itemMessage reads the GetItemResponseMessage for an id.
func itemMessage(s *scanner, id string) (*mail.Message, *problem) {
	var m *mail.Message
	p := begin(s)
	for at := s.depth; s.child(at); {
		if p.take(s) || string(s.name) != "Items" {
			continue
		}
		for at := s.depth; s.child(at); {
			m = &mail.Message{}
			message(s, m, id)
		}
	}
	return m, p.failed()
}

const noteClass = "IPM.Note" // of nearly every message

// like is a text as a string: that which it most likely is, or a new one.
func like(likely string, text []byte) string {
	if string(text) == likely {
		return likely
	}
	return string(text)
}

// message reads an item of any kind: t:Message, t:MeetingRequest, t:PostItem, … They all have the elements that are needed here. id is that
// which was asked for; empty: none was.
func message(s *scanner, m *mail.Message, id string) {
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "ItemId":
			m.ItemID = like(id, s.attr("Id"))
		case "ItemClass":
			m.Class = like(noteClass, s.text())
		case "Subject":
			m.Subject = string(s.text())
		case "Sensitivity":
			switch string(s.text()) {
			case "Private", "Confidential":
				m.Private = true
			}
		case "DateTimeReceived":
			m.Received = parseTime(s.text())
		case "DateTimeSent":
			m.Sent = parseTime(s.text())
		case "Importance":
			switch string(s.text()) {
			case "Low":
				m.Importance = mail.Low
			case "High":
				m.Importance = mail.High
			}
		case "Preview":
			m.Preview = string(s.text())
		case "IsRead":
			text := bytes.TrimSpace(s.text())
			m.Read = string(text) == "true" || string(text) == "1"
		case "InternetMessageId":
			m.InternetID = string(s.text())
		case "ConversationId":
			m.Thread = string(s.attr("Id"))
		case "From":
			for at := s.depth; s.child(at); {
				m.From = mailbox(s)
			}
		}
	}
}

// mailbox reads a t:Mailbox. Its address counts only if it is an SMTP address: within an organisation it can be a legacy distinguished
// name.
func mailbox(s *scanner) (m mail.Mailbox) {
	smtp := true
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "Name":
			m.Name = string(s.text())
		case "EmailAddress":
			m.Address = string(s.text())
		case "RoutingType":
			smtp = string(bytes.TrimSpace(s.text())) == "SMTP"
		}
	}
	if !smtp {
		m.Address = ""
	}
	return m
}

// parseTime reads an xs:dateTime: with a fraction of any length, with an offset or Z, or without both, which is taken as UTC. Anything
// else is the zero time.
func parseTime(text []byte) time.Time {
	text = bytes.TrimSpace(text)
	var t time.Time
	if t.UnmarshalText(text) == nil { // nearly always; Parse would take a string
		return t.UTC()
	}
	for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, string(text)); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
