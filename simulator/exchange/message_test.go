package exchange

import (
	"bytes"
	"encoding/xml"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

func TestAttachmentsAreListedInGetItem(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	raw := "From: a@partner.example\r\nSubject: files\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Join([]string{
		"--b\r\nContent-Type: text/plain\r\n\r\nThe body.",
		"--b\r\nContent-Type: application/pdf; name=\"=?utf-8?q?Pl=C3=A4ne_=26_mehr.pdf?=\"\r\nContent-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==",
		"--b\r\nContent-Type: image/png\r\nContent-ID: <logo@partner.example>\r\nContent-Disposition: inline; filename=logo.png\r\n\r\nPNG!!",
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nx",
		"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename*=utf-8''%C3%BC.txt\r\n\r\nabc",
		"--b--\r\n",
	}, "\r\n")
	id, err := s.Deliver(c.mailbox, time.Time{}, []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(base string) string {
		return `<m:GetItem><m:ItemShape><t:BaseShape>` + base + `</t:BaseShape></m:ItemShape><m:ItemIds><t:ItemId Id="` + id + `"/></m:ItemIds></m:GetItem>`
	}
	for _, base := range []string{"Default", "AllProperties"} {
		text := c.must(ask(base), "<t:HasAttachments>true<", "<t:Name>Pläne &amp; mehr.pdf</t:Name><t:ContentType>application/pdf</t:ContentType><t:Size>4</t:Size>",
			"<t:ContentId>logo@partner.example</t:ContentId><t:Size>5</t:Size>", "<t:IsInline>true<", "<t:ItemAttachment><t:AttachmentId Id=", "<t:Name>ü.txt<")
		if n := strings.Count(text, "<t:AttachmentId "); n != 4 {
			t.Errorf("%s: %d attachments, want 4", base, n)
		}
	}
	if text := c.must(ask("IdOnly")); strings.Contains(text, "ttachment") {
		t.Error("attachments are told without being asked for")
	}
	plain := deliver(t, s, c.mailbox, "none")
	if text := c.must(strings.ReplaceAll(ask("AllProperties"), id, plain), "<t:HasAttachments>false<"); strings.Contains(text, "<t:Attachments") {
		t.Error("a message without attachments has an element for them")
	}
}

func TestMessageIsReadAsExchangeWould(t *testing.T) {
	multi := func(kind, parts string) string {
		return "Content-Type: multipart/" + kind + "; boundary=b\r\n\r\npreamble\r\n--b\r\n" + strings.ReplaceAll(parts, "|", "\r\n--b\r\n") + "\r\n--b--\r\n"
	}
	for name, tc := range map[string]struct {
		raw  string
		want map[string]string
	}{
		"nothing":                  {"", map[string]string{"class": "IPM.Note", "subject": "", "from": "", "importance": "Normal", "sensitivity": "Normal", "preview": ""}},
		"no body":                  {"Subject: a", map[string]string{"subject": "a"}},
		"encoded words":            {"Subject: =?iso-8859-1?q?Gr=FC=DFe?= =?utf-8?b?8J+YgA==?=\r\n", map[string]string{"subject": "Grüße😀"}},
		"a charset of Japan":       {"Subject: =?iso-2022-jp?b?GyRCRnxLXBsoQg==?=\r\n", map[string]string{"subject": "日本"}},
		"an unknown charset":       {"Subject: =?x-none?q?a?=\r\n", map[string]string{"subject": "=?x-none?q?a?="}},
		"one good word of three":   {"Subject: =?? =?x-none?q?a?= =?utf-8*de?q?Gr=C3=BC?= =?utf-8?b?!?=\r\n", map[string]string{"subject": "=?? =?x-none?q?a?= Grü =?utf-8?b?!?="}},
		"a character cut in two":   {"Subject: =?utf-8?b?R3LD?= =?utf-8?b?vMOf?=\r\n", map[string]string{"subject": "Grüß"}},
		"a word half broken":       {"Subject: =?utf-8?q?Gr=C3=BC=FF?=\r\nFrom: =?utf-8?q?J=C3=BC=FF?= <j@x.example>\r\n", map[string]string{"subject": "Grü\uFFFD", "from": "Jü\uFFFD <j@x.example>"}},
		"a raw 8-bit subject":      {"Subject: Gr\xfc\xdfe\r\n", map[string]string{"subject": "Grüße"}},
		"raw UTF-8":                {"Subject: Grüße\r\n", map[string]string{"subject": "Grüße"}},
		"a folded subject":         {"Subject: a\r\n b\r\n\tc\r\n", map[string]string{"subject": "a b c"}},
		"lines that are no fields": {"garbage\r\nnot a field: x\r\nSubject: a\n\nbody", map[string]string{"subject": "a", "preview": "body"}},
		"two subjects":             {"Subject: a\r\nSubject: b\r\n", map[string]string{"subject": "a"}},
		"a From with a name":       {"From: \"Doe, J.\" <j@x.example>\r\n", map[string]string{"from": "Doe, J. <j@x.example>"}},
		"a From of quoted words":   {"From: \"=?utf-8?q?J=C3=BC?=\" <j@x.example>\r\n", map[string]string{"from": "Jü <j@x.example>"}},
		"a raw 8-bit From":         {"From: J\xfc <j@x.example>\r\n", map[string]string{"from": "Jü <j@x.example>"}},
		"a From without":           {"From: j@x.example\r\n", map[string]string{"from": " <j@x.example>"}},
		"a From of a group":        {"From: staff: a@x.example, b@x.example;\r\n", map[string]string{"from": " <a@x.example>"}},
		"a From that is broken":    {"From: Foo (unclosed <j@x.example>\r\n", map[string]string{"from": "Foo (unclosed <j@x.example>"}},
		"a From that is no one":    {"From: undisclosed\r\n", map[string]string{"from": "undisclosed <>"}},
		"a message id as it came":  {"Message-ID:  <a b\"@X.example>  \r\n", map[string]string{"id": `<a b"@X.example>`}},
		"a date":                   {"Date: Sun, 22 Nov 2026 10:00:00 +0200 (CEST)\r\n", map[string]string{"sent": "2026-11-22T08:00:00Z"}},
		"a date of 1970":           {"Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n", map[string]string{"sent": "1970-01-01T00:00:00Z"}},
		"a date that is none":      {"Date: yesterday\r\n", map[string]string{"sent": "0001-01-01T00:00:00Z"}},
		"importance":               {"Importance: Low\r\n", map[string]string{"importance": "Low"}},
		"X-Priority":               {"X-Priority: 1 (Highest)\r\n", map[string]string{"importance": "High"}},
		"sensitivity":              {"Sensitivity: Private\r\n", map[string]string{"sensitivity": "Private"}},
		"a long text":              {"\r\n" + strings.Repeat("ä ", 300), map[string]string{"preview": strings.Repeat("ä ", 127) + "ä "}},
		"white space":              {"\r\n a\r\n\r\n\tb  ", map[string]string{"preview": "a b"}},
		"quoted-printable":         {"Content-Type: text/plain; charset=iso-8859-15\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=A4 =\r\n1", map[string]string{"preview": "€ 1"}},
		"base64":                   {"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nR3LDvMOfZQ==", map[string]string{"preview": "Grüße"}},
		"HTML":                     {"Content-Type: text/html\r\n\r\n<head><title>t</title></head><style>p{}</style><p>Hi&nbsp;<b>there</b></p><script>x</script>now", map[string]string{"preview": "Hi there now"}},
		"a broken type":            {"Content-Type: text/html; charset=utf-8; charset=utf-8\r\n\r\n<h1>a</h1><b>b</b>", map[string]string{"preview": "a b"}},
		"an alternative":           {multi("alternative", "Content-Type: text/html\r\n\r\n<p>html</p>|Content-Type: text/plain\r\n\r\nplain"), map[string]string{"preview": "plain", "class": "IPM.Note"}},
		"an attachment": {multi("mixed", "Content-Type: text/plain\r\n\r\nbody|Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nfile"),
			map[string]string{"preview": "body", "attachment": "true"}},
		"no attachment":       {"\r\nbody", map[string]string{"attachment": "false"}},
		"a meeting request":   {multi("alternative", "\r\ncome|Content-Type: text/calendar; method=request\r\n\r\nBEGIN"), map[string]string{"class": "IPM.Schedule.Meeting.Request"}},
		"a method inside":     {"Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\nMETHOD:CANCEL\r\n", map[string]string{"class": "IPM.Schedule.Meeting.Canceled"}},
		"a meeting accepted":  {"Content-Type: text/calendar; method=REPLY\r\n\r\nATTENDEE;PARTSTAT=ACCEPTED;CN=x:mailto:x", map[string]string{"class": "IPM.Schedule.Meeting.Resp.Pos"}},
		"a meeting declined":  {"Content-Type: text/calendar; method=REPLY\r\n\r\nATTENDEE;PARTSTAT=DECLINED:mailto:x", map[string]string{"class": "IPM.Schedule.Meeting.Resp.Neg"}},
		"a meeting, perhaps":  {"Content-Type: text/calendar; method=REPLY\r\n\r\nATTENDEE;PARTSTAT=TENTATIVE:mailto:x", map[string]string{"class": "IPM.Schedule.Meeting.Resp.Tent"}},
		"a counter proposal":  {"Content-Type: text/calendar; method=COUNTER\r\n\r\n", map[string]string{"class": "IPM.Schedule.Meeting.Resp.Tent"}},
		"a private event":     {"Content-Type: text/calendar; method=REQUEST\r\n\r\nCLASS:PRIVATE\r\n", map[string]string{"sensitivity": "Private"}},
		"a secret event":      {"Sensitivity: Personal\r\nContent-Type: text/calendar\r\n\r\nCLASS:CONFIDENTIAL\r\n", map[string]string{"sensitivity": "Personal"}},
		"an event described":  {"Content-Type: text/calendar\r\n\r\nDESCRIPTION;X=\"a:b\":one\\, \\n tw\r\n o\\\\n\r\nBEGIN:VALARM\r\n", map[string]string{"preview": `one, two\n`}},
		"an alarm described":  {"Content-Type: text/calendar\r\n\r\nBEGIN:VALARM\r\nDESCRIPTION:Reminder\r\n", map[string]string{"preview": ""}},
		"a published event":   {"Content-Type: text/calendar; method=PUBLISH\r\n\r\n", map[string]string{"class": "IPM.Note"}},
		"an undelivered mail": {strings.Replace(multi("report", "\r\nno|Content-Type: message/delivery-status\r\n\r\nReporting-MTA: x\r\n\r\nAction: failed"), "report;", "report; report-type=delivery-status;", 1), map[string]string{"class": "REPORT.IPM.Note.NDR"}},
		"a delayed mail":      {strings.Replace(multi("report", "\r\nno|Content-Type: message/delivery-status\r\n\r\nAction: Delayed"), "report;", "report; report-type=delivery-status;", 1), map[string]string{"class": "REPORT.IPM.Note.Delayed"}},
		"a delivered mail":    {strings.Replace(multi("report", "\r\nyes|Content-Type: message/delivery-status\r\n\r\nAction: delivered"), "report;", "report; report-type=delivery-status;", 1), map[string]string{"class": "REPORT.IPM.Note.DR"}},
		"a read receipt":      {strings.Replace(multi("report", "\r\nyes"), "report;", "report; report-type=disposition-notification;", 1), map[string]string{"class": "REPORT.IPM.Note.IPNRN"}},
		"S/MIME":              {"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\nMII", map[string]string{"class": "IPM.Note.SMIME", "preview": ""}},
		"signed":              {multi("signed", "Content-Type: text/plain\r\n\r\nbody|Content-Type: application/pkcs7-signature\r\n\r\nMII"), map[string]string{"class": "IPM.Note.SMIME.MultipartSigned", "preview": "body"}},
	} {
		m := parseMessage([]byte(tc.raw))
		got := map[string]string{"subject": m.subject, "from": m.from.Name + " <" + m.from.Address + ">", "id": m.internetID, "sent": m.sent.Format(time.RFC3339),
			"importance": m.importance, "sensitivity": m.sensitive, "preview": m.preview, "class": m.class, "attachment": map[bool]string{true: "true", false: "false"}[m.attachment]}
		if got["from"] == " <>" {
			got["from"] = ""
		}
		for k, want := range tc.want {
			if got[k] != want {
				t.Errorf("%s: %s is %q, want %q", name, k, got[k], want)
			}
		}
	}
}

func TestRepliesShareTheConversation(t *testing.T) {
	first := parseMessage([]byte("Message-ID: <1@x>\r\nSubject: plan\r\n"))
	reply := parseMessage([]byte("Message-ID: <2@x>\r\nIn-Reply-To: <1@x>\r\nSubject: Re: plan\r\n"))
	third := parseMessage([]byte("Message-ID: <3@x>\r\nReferences: <1@x>\r\n <2@x>\r\nSubject: RE: AW: plan\r\n"))
	other := parseMessage([]byte("Message-ID: <4@x>\r\nSubject: plan\r\n"))
	if first.thread != reply.thread || first.thread != third.thread || first.thread == other.thread || third.topic() != "plan" {
		t.Error("conversations are told apart wrongly")
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte("From: a <a@b.example>\r\nSubject: =?utf-8?q?x?=\r\nDate: Sun, 22 Nov 2026 10:00:00 +0200\r\n\r\nbody"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nx\r\n--b--"))
	f.Add([]byte("Content-Type: multipart/report; report-type=delivery-status; boundary=\"\"\r\n\r\n--\r\n"))
	f.Add([]byte("Subject: \xff\r\n \x00\r\nFrom: <\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := parseMessage(raw)
		if utf8.RuneCountInString(m.preview) > maxPreview || m.class == "" {
			t.Errorf("%d characters of preview, class %q", utf8.RuneCountInString(m.preview), m.class)
		}
		x := bareHost(t, Options{})
		v := view{c: &call{x: x}, box: &mailbox{guid: guid.New()}, it: &item{msg: m, folder: inbox}, shape: &shape{want: make([]bool, len(properties))}}
		for i := range v.shape.want {
			v.shape.want[i] = true
		}
		var b markup
		b.raw(`<x xmlns:t="t">`)
		v.write(&b)
		b.raw(`</x>`)
		if err := xml.Unmarshal(b, new(struct{})); err != nil {
			t.Errorf("%v in %s", err, b)
		}
	})
}

func FuzzRequest(f *testing.F) {
	c := &ewsClient{mailbox: "user0001@contoso.example", sid: "SmtpAddress"}
	for _, body := range []string{subscribeNewMail, subscribeAll, getStreamingEvents(1, "x"), getItem("x"), findItem(0, 1, "Ascending"), "<m:GetFolder/>", "<m:Unsubscribe/>"} {
		f.Add([]byte(c.envelope(body)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseXML(bytes.NewReader(data))
		if (doc == nil) == (err == nil) {
			t.Fatal("neither a document nor an error")
		}
		x, _ := bareExchange(t)
		c := &call{x: x, r: httptest.NewRequest("POST", "/", nil), caller: caller{account: ListenerName, impersonates: true}}
		if c.parse(data) != nil {
			return
		}
		if op, ok := operations[c.operation]; ok && c.operation != "Subscribe" {
			b := markup(`<x xmlns:m="m" xmlns:t="t" xmlns:xsi="i">`)
			if fault := op(c, &b); fault != nil {
				b = fault.envelope()
			} else {
				b.raw("</x>")
			}
			if err := xml.Unmarshal(b, new(struct{})); err != nil {
				t.Errorf("%v in %s", err, b)
			}
		}
	})
}
