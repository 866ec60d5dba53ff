package graph

// A message of Graph as a mail.Message: the same that EWS tells of it, so that both know it by the same key.

import (
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/mail"
)

const (
	// shownFields is what a listing asks for: what a key is made of, and what Mail.ReadBasic.All shows of the rest of an alert.
	shownFields = "id,internetMessageId,subject,sentDateTime,receivedDateTime,from,importance,isRead,conversationId,parentFolderId"
	// extended asks for the sensitivity and the message class, which Graph has no fields for. It takes Mail.Read.
	extended = "&$expand=singleValueExtendedProperties($filter=id eq 'Integer 0x0036' or id eq 'String 0x001A')"

	sensitivity  = 0x0036 // PidTagSensitivity: 0 none, 1 personal, 2 private, 3 confidential
	messageClass = 0x001A // PidTagMessageClass

	kindOfMeeting  = "#microsoft.graph.eventMessage"
	meetingRequest = "IPM.Schedule.Meeting.Request"
	meetingAnswer  = "IPM.Schedule.Meeting.Resp"
	plainMessage   = "IPM.Note"
)

// message is a message resource, as far as it is needed.
type message struct {
	Kind              string     `json:"@odata.type"`
	ID                string     `json:"id"`
	InternetMessageID string     `json:"internetMessageId"`
	Subject           string     `json:"subject"`
	Sent              string     `json:"sentDateTime"`
	Received          string     `json:"receivedDateTime"`
	From              *recipient `json:"from"`
	Importance        string     `json:"importance"`
	IsRead            bool       `json:"isRead"`
	ConversationID    string     `json:"conversationId"`
	ParentFolderID    string     `json:"parentFolderId"`
	BodyPreview       string     `json:"bodyPreview"`
	Extended          []property `json:"singleValueExtendedProperties"`
}

type recipient struct {
	EmailAddress struct {
		Name    string `json:"name,omitempty"`
		Address string `json:"address"`
	} `json:"emailAddress"`
}

// property is a singleValueLegacyExtendedProperty: its id is a type and a number, as in "Integer 0x36".
type property struct {
	ID    string `json:"id"`
	Value string `json:"value"`
}

// tag is the number in the id of a property; 0: it has none.
func (p property) tag() uint64 {
	_, number, _ := strings.Cut(p.ID, " ")
	n, err := strconv.ParseUint(number, 0, 32)
	if err != nil {
		return 0
	}
	return n
}

// mail is the message in the words of all rooms.
func (m *message) mail() mail.Message {
	to := mail.Message{
		ItemID: m.ID, InternetID: m.InternetMessageID, Class: classOf(m.Kind), Subject: m.Subject, Preview: m.BodyPreview,
		Received: parseTime(m.Received), Sent: parseTime(m.Sent), Read: m.IsRead, Thread: m.ConversationID,
	}
	if m.From != nil {
		to.From = mail.Mailbox{Name: m.From.EmailAddress.Name, Address: m.From.EmailAddress.Address}
		if !strings.Contains(to.From.Address, "@") { // within an organisation it can be a legacy distinguished name
			to.From.Address = ""
		}
	}
	switch m.Importance {
	case "low":
		to.Importance = mail.Low
	case "high":
		to.Importance = mail.High
	}
	for _, p := range m.Extended {
		switch p.tag() {
		case sensitivity:
			to.Private = p.Value == "2" || p.Value == "3"
		case messageClass:
			to.Class = p.Value
		}
	}
	return to
}

// classOf is the message class that belongs to a kind of message.
func classOf(kind string) string {
	switch {
	case !strings.HasPrefix(kind, kindOfMeeting):
		return plainMessage
	case strings.HasSuffix(kind, "Response"):
		return meetingAnswer
	}
	return meetingRequest
}

// parseTime reads a time as Graph writes it. Anything else, and the year 1, which stands for none, is the zero time.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t.UTC()
}
