package graph

// A message as Graph shows it.

import (
	"encoding/base64"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
)

// wireTime is the form of a time of a message.
const wireTime = "2006-01-02T15:04:05Z"

func wire(t time.Time) string { return t.UTC().Format(wireTime) }

// shown is a message that is being written.
type shown struct {
	exchange.Message
	exchange.Properties
	immutable bool
}

// property is one of a message.
type property struct {
	value   func(m *shown) any
	extra   bool // not there by default
	content bool // left out for an app that has Mail.ReadBasic.All only
}

func fixed(v any) property { return property{value: func(*shown) any { return v }} }

var properties = map[string]property{
	"id":                         {value: func(m *shown) any { return m.id() }},
	"createdDateTime":            {value: func(m *shown) any { return wire(m.Created) }},
	"lastModifiedDateTime":       {value: func(m *shown) any { return wire(m.Created) }},
	"changeKey":                  {value: func(m *shown) any { return m.ChangeKey }},
	"categories":                 fixed([]string{}),
	"receivedDateTime":           {value: func(m *shown) any { return wire(m.Received()) }},
	"sentDateTime":               {value: func(m *shown) any { return wire(m.Sent) }},
	"hasAttachments":             {value: func(m *shown) any { return m.Attachments }},
	"internetMessageId":          {value: func(m *shown) any { return orNull(m.InternetID) }},
	"subject":                    {value: func(m *shown) any { return orNull(m.Subject) }},
	"bodyPreview":                {content: true, value: func(m *shown) any { return m.Preview }},
	"importance":                 {value: func(m *shown) any { return strings.ToLower(m.Importance) }},
	"parentFolderId":             {value: func(m *shown) any { return urlSafe(m.Folder) }},
	"conversationId":             {value: func(m *shown) any { return urlSafe(m.Conversation) }},
	"conversationIndex":          fixed(base64.StdEncoding.EncodeToString([]byte{1, 0, 0, 0, 0, 0})),
	"isDeliveryReceiptRequested": fixed(false),
	"isReadReceiptRequested":     fixed(false),
	"isRead":                     {value: func(m *shown) any { return m.Read }},
	"isDraft":                    fixed(false),
	"webLink": {value: func(m *shown) any {
		return "https://outlook.office365.com/owa/?ItemID=" + m.id() + "&exvsurl=1&viewmodel=ReadMessageItem"
	}},
	"inferenceClassification": fixed("focused"),
	"body":                    {content: true, value: body},
	"uniqueBody":              {extra: true, content: true, value: body},
	"sender":                  {value: func(m *shown) any { return recipient(m.Sender) }},
	"from":                    {value: func(m *shown) any { return recipient(m.From) }},
	"toRecipients":            {value: func(m *shown) any { return recipients(m.To) }},
	"ccRecipients":            {value: func(m *shown) any { return recipients(m.Cc) }},
	"bccRecipients":           fixed([]any{}),
	"replyTo":                 {value: func(m *shown) any { return recipients(m.ReplyTo) }},
	"flag":                    fixed(map[string]string{"flagStatus": "notFlagged"}),
	"meetingMessageType":      {extra: true, value: func(m *shown) any { return orNull(meetingTypes[m.Class]) }},
}

func (m *shown) id() string {
	if m.immutable {
		return urlSafe(m.ImmutableID())
	}
	return urlSafe(m.ID())
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func body(m *shown) any {
	text, html := m.Body()
	kind := "text"
	if html {
		kind = "html"
	}
	return map[string]string{"contentType": kind, "content": text}
}

func recipient(a mail.Address) any {
	if a == (mail.Address{}) {
		return nil
	}
	name := a.Name
	if name == "" {
		name = a.Address
	}
	return map[string]any{"emailAddress": map[string]string{"name": name, "address": a.Address}}
}

func recipients(list []mail.Address) any {
	all := make([]any, 0, len(list))
	for _, a := range list {
		all = append(all, recipient(a))
	}
	return all
}

// meetingTypes are the meetingMessageType of an item class.
var meetingTypes = map[string]string{
	"IPM.Schedule.Meeting.Request":   "meetingRequest",
	"IPM.Schedule.Meeting.Canceled":  "meetingCancelled",
	"IPM.Schedule.Meeting.Resp.Pos":  "meetingAccepted",
	"IPM.Schedule.Meeting.Resp.Tent": "meetingTenativelyAccepted", // so it is spelt
	"IPM.Schedule.Meeting.Resp.Neg":  "meetingDeclined",
}

// derivedType is the type of a message that is more than one.
func derivedType(class string) string {
	switch {
	case class == "IPM.Schedule.Meeting.Request":
		return "#microsoft.graph.eventMessageRequest"
	case strings.HasPrefix(class, "IPM.Schedule.Meeting.Resp"):
		return "#microsoft.graph.eventMessageResponse"
	case strings.HasPrefix(class, "IPM.Schedule.Meeting"):
		return "#microsoft.graph.eventMessage"
	}
	return ""
}

// extendedProperties are those that a shape can have, by their ids.
var extendedProperties = map[string]func(*shown) string{
	"Integer 0x36": func(m *shown) string { // PidTagSensitivity
		return strconv.Itoa(max(0, slices.Index([]string{"Normal", "Personal", "Private", "Confidential"}, m.Sensitivity)))
	},
	"String 0x1a": func(m *shown) string { return m.Class }, // PidTagMessageClass
}

// view is a message with the wanted properties.
func (c *call) view(m exchange.Message, wanted shape) map[string]any {
	return viewOf(m, wanted, c.immutable, c.basicOnly())
}

func viewOf(m exchange.Message, wanted shape, immutable, basic bool) map[string]any {
	s := &shown{m, m.Properties(), immutable}
	v := map[string]any{"@odata.etag": etag(s.ChangeKey), "id": s.id()}
	if kind := derivedType(s.Class); kind != "" {
		v["@odata.type"] = kind
	}
	var extended []map[string]string
	for _, id := range wanted.extended {
		if value, ok := extendedProperties[id]; ok {
			extended = append(extended, map[string]string{"id": id, "value": value(s)})
		}
	}
	if extended != nil {
		v["singleValueExtendedProperties"] = extended
	}
	if len(wanted.selected) == 0 {
		for name, p := range properties {
			if !p.extra && (!p.content || !basic) {
				v[name] = p.value(s)
			}
		}
		return v
	}
	for _, name := range wanted.selected {
		v[name] = properties[name].value(s)
	}
	return v
}

func etag(changeKey string) string { return `W/"` + changeKey + `"` }
