package ews

// The requests. They follow Microsoft's samples and are valid against the schema (request_test.go). They are concatenated from constants
// and escaped values, because every message takes a request.

import (
	"bytes"
	"strconv"
	"strings"
)

const (
	envelopeOpen = `<?xml version="1.0" encoding="utf-8"?>` +
		`<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"` +
		` xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"` +
		` xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">` +
		`<soap:Header>`
	envelopeClose = `</soap:Body></soap:Envelope>`

	inbox = `<t:DistinguishedFolderId Id="inbox"/>`

	subscribe = `<m:Subscribe><m:StreamingSubscriptionRequest>` +
		`<t:FolderIds>` + inbox + `</t:FolderIds>` +
		`<t:EventTypes><t:EventType>NewMailEvent</t:EventType></t:EventTypes>` +
		`</m:StreamingSubscriptionRequest></m:Subscribe>`

	getFolder = `<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>` +
		`<m:FolderIds>` + inbox + `</m:FolderIds></m:GetFolder>`

	itemFields = `<t:FieldURI FieldURI="item:ItemClass"/>` +
		`<t:FieldURI FieldURI="item:Subject"/>` +
		`<t:FieldURI FieldURI="item:Sensitivity"/>` +
		`<t:FieldURI FieldURI="item:DateTimeReceived"/>` +
		`<t:FieldURI FieldURI="item:DateTimeSent"/>` +
		`<t:FieldURI FieldURI="item:Importance"/>` +
		`<t:FieldURI FieldURI="item:ConversationId"/>` +
		`<t:FieldURI FieldURI="message:From"/>` +
		`<t:FieldURI FieldURI="message:IsRead"/>` +
		`<t:FieldURI FieldURI="message:InternetMessageId"/>`
	itemPreview = `<t:FieldURI FieldURI="item:Preview"/>` // since Exchange 2013

	listFields = `<t:FieldURI FieldURI="item:ItemClass"/>` +
		`<t:FieldURI FieldURI="item:Subject"/>` +
		`<t:FieldURI FieldURI="item:DateTimeReceived"/>` +
		`<t:FieldURI FieldURI="item:DateTimeSent"/>` +
		`<t:FieldURI FieldURI="message:IsRead"/>` +
		`<t:FieldURI FieldURI="message:InternetMessageId"/>`
)

// envelope writes the header with the version and the target t, and a body.
func envelope(b *bytes.Buffer, version string, t Target, body func(b *bytes.Buffer, version string)) {
	b.Grow(2 << 10) // most requests
	b.WriteString(envelopeOpen + `<t:RequestServerVersion Version="`)
	b.WriteString(version)
	b.WriteString(`"/>`)
	if t.Mailbox != "" {
		b.WriteString(`<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>`)
		escape(b, t.Mailbox)
		b.WriteString(`</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>`)
	}
	b.WriteString(`</soap:Header><soap:Body>`)
	body(b, version)
	b.WriteString(envelopeClose)
}

// fixed is a body that is always the same.
func fixed(body string) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, _ string) { b.WriteString(body) }
}

func unsubscribe(id string) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, _ string) {
		b.WriteString(`<m:Unsubscribe><m:SubscriptionId>`)
		escape(b, id)
		b.WriteString(`</m:SubscriptionId></m:Unsubscribe>`)
	}
}

func getStreamingEvents(ids []string, minutes int) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, _ string) {
		b.WriteString(`<m:GetStreamingEvents><m:SubscriptionIds>`)
		for _, id := range ids {
			b.WriteString(`<t:SubscriptionId>`)
			escape(b, id)
			b.WriteString(`</t:SubscriptionId>`)
		}
		b.WriteString(`</m:SubscriptionIds><m:ConnectionTimeout>` + strconv.Itoa(minutes) + `</m:ConnectionTimeout></m:GetStreamingEvents>`)
	}
}

func getItem(ids []string) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, version string) {
		b.WriteString(`<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties>` + itemFields)
		if version != version2010 {
			b.WriteString(itemPreview)
		}
		b.WriteString(`</t:AdditionalProperties></m:ItemShape><m:ItemIds>`)
		for _, id := range ids {
			b.WriteString(`<t:ItemId Id="`)
			escape(b, id)
			b.WriteString(`"/>`)
		}
		b.WriteString(`</m:ItemIds></m:GetItem>`)
	}
}

// findItem has no restriction: one would cap the page at 250 and, at first, be slow (EWS throttling, EWSFindCountLimit).
func findItem(offset, most int) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, _ string) {
		b.WriteString(`<m:FindItem Traversal="Shallow"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape>` +
			`<t:AdditionalProperties>` + listFields + `</t:AdditionalProperties></m:ItemShape>` +
			`<m:IndexedPageItemView MaxEntriesReturned="` + strconv.Itoa(most) + `" Offset="` + strconv.Itoa(offset) + `" BasePoint="Beginning"/>` +
			`<m:SortOrder><t:FieldOrder Order="Descending"><t:FieldURI FieldURI="item:DateTimeReceived"/></t:FieldOrder></m:SortOrder>` +
			`<m:ParentFolderIds>` + inbox + `</m:ParentFolderIds></m:FindItem>`)
	}
}

// escape writes s as text or attribute value. What XML forbids becomes U+FFFD: the server then knows no such id, and says so.
func escape(b *bytes.Buffer, s string) {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`&<>"'`, r) }) {
		b.WriteString(s) // every id and nearly every address
		return
	}
	for _, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"':
			b.WriteString("&#34;")
		case r == '\'':
			b.WriteString("&#39;")
		case r < ' ' && legal(r):
			b.WriteString("&#" + strconv.Itoa(int(r)) + ";")
		case !legal(r):
			b.WriteRune('\uFFFD')
		default:
			b.WriteRune(r)
		}
	}
}
