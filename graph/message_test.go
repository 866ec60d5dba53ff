package graph

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/mail"
)

const whole = `{
	"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users('mara')/messages/$entity",
	"@odata.etag": "W/\"CQ\"",
	"id": "AAkALg=", "internetMessageId": "<1@fabrikam.com>", "subject": "Minutes", "importance": "high", "isRead": true,
	"sentDateTime": "2026-11-28T13:59:58Z", "receivedDateTime": "2026-11-28T14:00:00Z", "conversationId": "AAQk", "parentFolderId": "AQMk",
	"bodyPreview": "Dear all", "from": {"emailAddress": {"name": "Tom", "address": "tom@fabrikam.com"}},
	"singleValueExtendedProperties": [{"id": "Integer 0x36", "value": "2"}, {"id": "String 0x1a", "value": "IPM.Note.SMIME"}, {"id": "nonsense", "value": "9"}]
}`

func TestAMessageIsToldInTheWordsOfAllRooms(t *testing.T) {
	var m message
	if err := json.Unmarshal([]byte(whole), &m); err != nil {
		t.Fatal(err)
	}
	want := mail.Message{
		ItemID: "AAkALg=", InternetID: "<1@fabrikam.com>", Class: "IPM.Note.SMIME", Subject: "Minutes", From: mail.Mailbox{Name: "Tom", Address: "tom@fabrikam.com"},
		Preview: "Dear all", Received: time.Date(2026, 11, 28, 14, 0, 0, 0, time.UTC), Sent: time.Date(2026, 11, 28, 13, 59, 58, 0, time.UTC),
		Importance: mail.High, Private: true, Read: true, Thread: "AAQk",
	}
	if diff := cmp.Diff(want, m.mail()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAMessageLacksIsLeftOut(t *testing.T) {
	for name, c := range map[string]struct {
		json string
		want mail.Message
	}{
		"everything":            {`{}`, mail.Message{Class: "IPM.Note"}},
		"null":                  {`{"from":null,"subject":null,"sentDateTime":null,"internetMessageId":null}`, mail.Message{Class: "IPM.Note"}},
		"a time":                {`{"sentDateTime":"0001-01-01T00:00:00Z","receivedDateTime":"yesterday"}`, mail.Message{Class: "IPM.Note"}},
		"an SMTP address":       {`{"from":{"emailAddress":{"name":"Tom","address":"/O=CONTOSO/CN=TOM"}}}`, mail.Message{Class: "IPM.Note", From: mail.Mailbox{Name: "Tom"}}},
		"a meeting":             {`{"@odata.type":"#microsoft.graph.eventMessageRequest"}`, mail.Message{Class: "IPM.Schedule.Meeting.Request"}},
		"a meeting of any kind": {`{"@odata.type":"#microsoft.graph.eventMessage"}`, mail.Message{Class: "IPM.Schedule.Meeting.Request"}},
		"an answer to one":      {`{"@odata.type":"#microsoft.graph.eventMessageResponse"}`, mail.Message{Class: "IPM.Schedule.Meeting.Resp"}},
		"only personal":         {`{"singleValueExtendedProperties":[{"id":"Integer 0x36","value":"1"}],"importance":"low"}`, mail.Message{Class: "IPM.Note", Importance: mail.Low}},
		"confidential":          {`{"singleValueExtendedProperties":[{"id":"Integer 0x36","value":"3"}],"importance":"normal"}`, mail.Message{Class: "IPM.Note", Private: true}},
	} {
		var m message
		if err := json.Unmarshal([]byte(c.json), &m); err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(c.want, m.mail()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func FuzzAMessageIsToldWhateverItHas(f *testing.F) {
	f.Add(whole)
	f.Add(`{"from":{"emailAddress":{}}}`)
	f.Fuzz(func(_ *testing.T, body string) {
		var m message
		if json.Unmarshal([]byte(body), &m) == nil {
			_ = m.mail()
		}
	})
}
