// Package alerts decides which alert a device gets for a message, and builds its payload. It is pure: its results depend only on its
// arguments.
//
// The payload is the contract with the app (docs/payload.md). Its members are those of Apple's "Generating a remote
// notification", https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification.
package alerts

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mailbell/mailbell/mail"
)

// Kind says what an alert is about: the member k.
type Kind string

// The kinds.
const (
	Mail    Kind = "mail"
	Meeting Kind = "meeting"
	Summary Kind = "summary"
	Test    Kind = "test" // asked for by an administrator; about no message
)

// Alert is the content of an alert.
type Alert struct {
	Message *mail.Message // nil: it could not be read, or several are summed up
	Keys    []mail.Key    // newest first; one, or for a summary all, or for a test none
	Summary bool
	Test    bool        // a test notification: it needs its Device only
	Device  string      // the id of the enrolment
	Source  mail.Source // of the item id
	Thread  string      // groups alerts on the screen: opaque, the same for one conversation; may be empty
}

// Keys of the app's Localizable.strings.
const (
	locNewMail = "MAILBELL_NEW_MAIL"
	locSummary = "MAILBELL_SUMMARY" // its one argument is the number of messages
	locTest    = "MAILBELL_TEST"
)

// Bounds. They keep a payload below the 4096 bytes of APNs: at most 560 characters of 6 bytes, and 500 bytes around them.
const (
	version     = 1
	maxTitle    = 100 // more than a lock screen shows in two lines
	maxSubject  = 200 // more than a lock screen shows in four lines
	maxPreview  = 256 // sources give no more
	cutPreview  = 255 // UTF-16 units from which a preview may have been cut: Graph cuts at 255, Exchange at 256
	maxKeys     = 16  // of a summary: what an app lists before it says "and more"
	maxWithItem = 500 // bytes with the item id: the id saves the app a search, but a long one makes every push slower
)

// Kind says what the alert is about.
func (a Alert) Kind() Kind {
	const meeting = "IPM.Schedule.Meeting." // MS-OXOCAL 2.2.4.1 and following: requests, responses, cancellations
	switch {
	case a.Test:
		return Test
	case a.Summary:
		return Summary
	case a.Message != nil && len(a.Message.Class) > len(meeting) && strings.EqualFold(a.Message.Class[:len(meeting)], meeting):
		return Meeting
	}
	return Mail
}

// Payload builds the JSON that is sent to APNs, under 4096 bytes. It shows of the message what the content level allows.
// Outside the text of the alert it never has a subject or a message id, nor an address, unless the MDM portal made one the id of the enrolment.
func Payload(a Alert, content Content) []byte {
	var most [1024]byte // on the stack; the copy, which is kept until APNs has answered, is no longer than it has to be
	return bytes.Clone(appendPayload(most[:0], a, content))
}

func appendPayload(b []byte, a Alert, content Content) []byte {
	b = append(b, `{"aps":{"alert":{`...)
	b = appendText(b, a, content)
	b = append(b, `},"sound":"default"`...)
	if a.Thread != "" {
		b = appendMember(b, "thread-id", a.Thread)
	}
	b = append(b, `,"category":"MAIL","mutable-content":1},"mailbell":{"v":`...)
	b = strconv.AppendInt(b, version, 10)
	b = appendMember(b, "k", string(a.Kind()))
	switch {
	case a.Test:
	case a.Summary:
		b = append(b, `,"n":`...)
		b = strconv.AppendInt(b, int64(len(a.Keys)), 10)
		b = append(b, `,"ms":[`...)
		for i, k := range a.Keys[:min(len(a.Keys), maxKeys)] {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, k.String())
		}
		b = append(b, ']')
	case len(a.Keys) > 0:
		b = appendMember(b, "m", a.Keys[0].String())
	}
	b = appendMember(b, "d", a.Device)
	return append(appendItem(b, a), '}', '}')
}

// appendItem adds the members i and s if the payload stays short with them.
func appendItem(b []byte, a Alert) []byte {
	if a.Message == nil || a.Message.ItemID == "" {
		return b
	}
	with := appendMember(b, "i", a.Message.ItemID)
	with = appendMember(with, "s", string(a.Source))
	if len(with)+len("}}") > maxWithItem {
		return b
	}
	return with
}

// appendText adds the members of aps.alert.
func appendText(b []byte, a Alert, content Content) []byte {
	switch {
	case a.Test:
		return append(b, `"loc-key":"`+locTest+`"`...)
	case a.Summary:
		b = append(b, `"loc-key":"`+locSummary+`","loc-args":["`...)
		b = strconv.AppendInt(b, int64(len(a.Keys)), 10)
		return append(b, `"]`...)
	}
	var title, subtitle, body string
	if m := a.Message; m != nil {
		if content >= Sender {
			if title = clean(m.From.Name, maxTitle); title == "" {
				title = clean(m.From.Address, maxTitle)
			}
		}
		if content >= SenderSubject && !m.Private {
			body = clean(m.Subject, maxSubject)
		}
		if content >= SenderSubjectPreview && !m.Private && !encrypted(m.Class) {
			if preview := previewOf(m); preview != "" {
				subtitle, body = body, preview
			}
		}
	}
	if title == "" && body == "" {
		return append(b, `"loc-key":"`+locNewMail+`"`...)
	}
	start := len(b)
	for _, member := range [...]struct{ name, text string }{{"title", title}, {"subtitle", subtitle}, {"body", body}} {
		if member.text != "" {
			b = appendMember(b, member.name, member.text)
		}
	}
	return append(b[:start], b[start+1:]...) // without the first comma
}

// encrypted says whether the body of a message of this class is not text: encrypted, or signed in one blob. Exchange has no
// preview of it; other servers send what they can make of it.
func encrypted(class string) bool {
	const blob = "IPM.Note.SMIME" // MS-OXOSMIME 2.1.2.1; what is signed in clear is IPM.Note.SMIME.MultipartSigned
	return strings.EqualFold(class, blob)
}

func previewOf(m *mail.Message) string {
	if len(m.Preview) < cutPreview || len(utf16.Encode([]rune(m.Preview))) < cutPreview {
		return clean(m.Preview, maxPreview)
	}
	return excerpt(m.Preview, maxPreview)
}

// appendMember adds a comma and a member of an object.
func appendMember(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

// appendString adds a JSON string. It escapes what encoding/json escapes, so that the bytes stay the same if they pass through that later.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == '<' || r == '>' || r == '&':
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		case r == '\u2028':
			b = append(b, `\u2028`...)
		case r == '\u2029':
			b = append(b, `\u2029`...)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
