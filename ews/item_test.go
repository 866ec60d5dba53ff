package ews

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

func TestAnItemOfAnyKindIsRead(t *testing.T) {
	fields := `<t:ItemId Id="AAMk&#x2B;1=" ChangeKey="CQ"/><t:ItemClass>IPM.Note</t:ItemClass><t:Subject>Q3 &amp; Q4 &#xD83D;&#xDE00;&#x1F;</t:Subject>` +
		`<t:Sensitivity>Confidential</t:Sensitivity><t:DateTimeReceived>2026-11-22T10:00:00.123456789Z</t:DateTimeReceived><t:Importance>High</t:Importance>` +
		`<t:DateTimeSent>2026-11-22T11:59:58+02:00</t:DateTimeSent><t:ConversationId Id="AAQk"/><t:Preview>Dear &lt;all&gt;,&#xD;&#xA;</t:Preview>` +
		`<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag="1"/><t:Value><t:Subject>not this</t:Subject></t:Value></t:ExtendedProperty>` +
		`<t:Sender><t:Mailbox><t:Name>Not she</t:Name></t:Mailbox></t:Sender>` +
		`<t:From><t:Mailbox><t:Name>Mara Whitley</t:Name><t:EmailAddress>mara@contoso.com</t:EmailAddress><t:RoutingType>SMTP</t:RoutingType></t:Mailbox></t:From>` +
		`<t:IsRead>true</t:IsRead><t:InternetMessageId>&lt;1@contoso.com&gt;</t:InternetMessageId>`
	want := &mail.Message{
		ItemID: "AAMk+1=", Class: "IPM.Note", Subject: "Q3 & Q4 😀", Private: true, Received: time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC), Importance: mail.High,
		Sent: time.Date(2026, 11, 22, 9, 59, 58, 0, time.UTC), Thread: "AAQk", Preview: "Dear <all>,\r\n", From: mail.Mailbox{Name: "Mara Whitley", Address: "mara@contoso.com"},
		Read: true, InternetID: "<1@contoso.com>",
	}
	for _, kind := range []string{"Message", "MeetingRequest", "MeetingCancellation", "MeetingResponse", "MeetingMessage", "PostItem", "Item", "ReportMessage", "SharingMessage"} {
		body := response("GetItem", success("GetItem", `<m:Items><t:`+kind+`>`+fields+`</t:`+kind+`></m:Items>`))
		items, _, err := answers(200, body).GetItem(t.Context(), target, []string{"asked"})
		if err != nil || len(items) != 1 || items[0].ID != "asked" || items[0].Err != nil {
			t.Fatalf("%s: %+v, %v", kind, items, err)
		}
		if diff := cmp.Diff(want, items[0].Message); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}

func TestFieldsThatLackStayEmpty(t *testing.T) {
	for fields, want := range map[string]mail.Message{
		`<t:ItemId Id="a"/>`: {},
		`<t:ItemId Id="a"/><t:Sensitivity>Private</t:Sensitivity><t:Importance>Low</t:Importance>`:           {Private: true, Importance: mail.Low},
		`<t:ItemId Id="a"/><t:Sensitivity>Personal</t:Sensitivity><t:Importance>Normal</t:Importance>`:       {},
		`<t:ItemId Id="a"/><t:DateTimeReceived>2026-11-22T10:00:00</t:DateTimeReceived>`:                     {Received: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)},
		`<t:ItemId Id="a"/><t:DateTimeReceived>2026-11-22T10:00:00.5</t:DateTimeReceived>`:                   {Received: time.Date(2026, 11, 22, 10, 0, 0, 5e8, time.UTC)},
		`<t:ItemId Id="a"/><t:DateTimeReceived>yesterday</t:DateTimeReceived><t:DateTimeSent/><t:Subject />`: {},
		`<t:ItemId Id="a"/><t:From><t:Mailbox><t:Name>Mara</t:Name></t:Mailbox></t:From>`:                    {From: mail.Mailbox{Name: "Mara"}},
		`<t:ItemId Id="a"/><t:From/>`: {},
		`<t:ItemId Id="a"/><t:From><t:Mailbox><t:EmailAddress>a@b.c</t:EmailAddress></t:Mailbox></t:From>`:                                                        {From: mail.Mailbox{Address: "a@b.c"}},
		`<t:ItemId Id="a"/><t:From><t:Mailbox><t:Name>M</t:Name><t:EmailAddress>/O=X/CN=M</t:EmailAddress><t:RoutingType>EX</t:RoutingType></t:Mailbox></t:From>`: {From: mail.Mailbox{Name: "M"}},
	} {
		want.ItemID = "a"
		items, _, err := answers(200, response("GetItem", success("GetItem", `<m:Items><t:Message>`+fields+`</t:Message></m:Items>`))).GetItem(t.Context(), target, []string{"a"})
		if err != nil || len(items) != 1 || items[0].Err != nil {
			t.Fatalf("%s: %+v, %v", fields, items, err)
		}
		if diff := cmp.Diff(&want, items[0].Message); diff != "" {
			t.Errorf("%s (-want +got):\n%s", fields, diff)
		}
	}
}

// good is the response message for an item that can be read.
func good(id string) string {
	return success("GetItem", `<m:Items><t:Message><t:ItemId Id="`+id+`"/></t:Message></m:Items>`)
}

func TestOneSickItemHarmsOnlyItself(t *testing.T) {
	body := response("GetItem", good("a")+failure("GetItem", "ErrorItemNotFound", "The specified object was not found in the store.", "<m:Items/>")+
		failure("GetItem", "ErrorCorruptData", "x", "<m:Items/>")+failure("GetItem", "ErrorAccessDenied", "x", "<m:Items/>")+success("GetItem", "<m:Items/>")+good("f"))
	ids := []string{"a", "b", "c", "d", "e", "f", "g"}
	items, _, err := answers(200, body).GetItem(t.Context(), target, ids)
	if err != nil || len(items) != len(ids) {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, want := range []struct {
		code   string
		scope  fault.Scope
		remedy fault.Remedy
	}{
		{}, {"ErrorItemNotFound", fault.Message, fault.Retry}, {"ErrorCorruptData", fault.Message, fault.Retry}, {"ErrorAccessDenied", fault.Mailbox, fault.Fix},
		{CodeUnparseableItem, fault.Message, fault.Retry}, {}, {CodeUnparseableItem, fault.Message, fault.Retry},
	} {
		it := items[i]
		if it.ID != ids[i] || (it.Message == nil) == (it.Err == nil) || (it.Err != nil) != (want.code != "") {
			t.Errorf("%d: %+v", i, it)
			continue
		}
		if it.Err != nil {
			if e := fault.Of(it.Err); e.Code != want.code || e.Scope != want.scope || e.Remedy != want.remedy {
				t.Errorf("%d: %v (%v, %v), want %+v", i, e, e.Scope, e.Remedy, want)
			}
		}
	}
}

func TestNoMessagePassesForAnotherThatWasAskedFor(t *testing.T) {
	for name, body := range map[string]string{"another order": good("b") + good("a"), "one left out": good("b")} {
		_, _, err := answers(200, response("GetItem", body)).GetItem(t.Context(), target, []string{"a", "b"})
		if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != CodeUnparseableItem || e.Fault.Scope != fault.Message {
			t.Errorf("%s: %v", name, err)
		}
	}
	items, _, err := answers(200, response("GetItem", good("A=")+good("B="))).GetItem(t.Context(), target, []string{"a", "b"})
	if err != nil || items[0].Message == nil || items[1].Message == nil {
		t.Errorf("other forms of their ids: %+v, %v", items, err)
	}
}

func TestWhatConcernsAllItemsIsAnErrorOfTheCall(t *testing.T) {
	moving := failure("GetItem", "ErrorMailboxMoveInProgress", "x", "<m:Items/>")
	_, _, err := answers(200, response("GetItem", moving+moving)).GetItem(t.Context(), target, []string{"a", "b"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Scope != fault.Mailbox || !e.Fault.Moved || e.RequestID == "" {
		t.Errorf("all: %v", err)
	}
	gone := failure("GetItem", "ErrorItemNotFound", "x", "<m:Items/>")
	items, _, err := answers(200, response("GetItem", moving+gone)).GetItem(t.Context(), target, []string{"a", "b"})
	if err != nil || fault.Of(items[0].Err).Code != "ErrorMailboxMoveInProgress" || fault.Of(items[1].Err).Code != "ErrorItemNotFound" {
		t.Errorf("one of them is gone: %+v, %v", items, err)
	}
	items, _, err = answers(200, response("GetItem", gone+gone)).GetItem(t.Context(), target, []string{"a", "b"})
	if err != nil || len(items) != 2 {
		t.Errorf("all are gone: %+v, %v", items, err)
	}
}

func TestAnAnswerThatCannotBeUnderstoodIsTyped(t *testing.T) {
	item := success("GetItem", `<m:Items><t:Message><t:ItemId Id="a"/><t:Subject>secret`)
	for name, c := range map[string]struct {
		body, code string
		scope      fault.Scope
	}{
		"tags that do not match": {response("GetItem", item), CodeUnparseableItem, fault.Message},
		"cut off":                {response("GetItem", item)[:600], CodeUnparseableItem, fault.Message},
		"more answers than ids":  {response("GetItem", success("GetItem", "<m:Items/>")+success("GetItem", "<m:Items/>")), CodeUnparseableItem, fault.Message},
		"no response message":    {soap("<m:GetItemResponse/>"), CodeUnparseableItem, fault.Message},
		"beyond the bound":       {response("GetItem", item+strings.Repeat("x", 4<<20)), CodeUnparseableItem, fault.Message},
		"a DTD":                  {`<!DOCTYPE x [<!ENTITY a "secret">]>` + soap(""), CodeForeign, fault.Server},
		"a DTD in an envelope":   {response("GetItem", item+`<!DOCTYPE x>`), CodeUnparseableItem, fault.Message},
		"a login page":           {"<!DOCTYPE html><html><body>secret</body></html>", CodeForeign, fault.Server},
		"a login page, late":     {"\xef\xbb\xbf\r\n<!-- secret --><!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'><html>", CodeForeign, fault.Server},
		"a login page in XML":    {"<?xml version='1.0' encoding='utf-8' standalone='no'?><!DOCTYPE html><html>secret</html>", CodeForeign, fault.Server},
		"a login page, XHTML":    {"<html><body>secret</body></html>", CodeForeign, fault.Server},
		"UTF-16":                 {"\xff\xfe<\x00", CodeForeign, fault.Server},
		"nothing":                {"", CodeForeign, fault.Server},
	} {
		_, _, err := answers(200, c.body).GetItem(t.Context(), target, []string{"a"})
		if e, ok := errors.AsType[*Error](err); !ok || e.Fault.Code != c.code || e.Fault.Scope != c.scope {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells content: %v", name, err)
		}
	}
	// A page is no item, whatever its markup and its media type: taken for one that cannot be read, an outage would alert.
	for _, media := range []string{"text/html; charset=utf-8", "text/xml", "text/plain", "application/octet-stream", "application/xhtml+xml", ""} {
		_, _, err := answers(200, "<!DOCTYPE html><html><body>secret</body></html>", "Content-Type", media).GetItem(t.Context(), target, []string{"a"})
		if f := fault.Of(err); f.Code != CodeForeign || f.Scope != fault.Server {
			t.Errorf("a web page as %q: %v", media, err)
		}
	}
	for name, find := range map[string]func() error{
		"FindItem": func() error {
			_, err := answers(200, response("FindItem", success("FindItem", ""))).FindItem(t.Context(), target, 0, 10)
			return err
		},
		"Subscribe": func() error {
			_, _, err := answers(200, response("Subscribe", success("Subscribe", ""))).Subscribe(t.Context(), target)
			return err
		},
	} {
		if e := fault.Of(find()); e.Code != CodeUnparseableAnswer || e.Scope != fault.Mailbox {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestWhatIsWrongInOneSubjectHarmsNoOtherMessage(t *testing.T) {
	item := func(id, subject string) string {
		return `<t:Message><t:ItemId Id="` + id + `"/><t:Subject>` + subject + `</t:Subject><t:DateTimeReceived>2026-11-22T10:00:00Z</t:DateTimeReceived>` +
			`<t:InternetMessageId>&lt;` + id + `@contoso.com&gt;</t:InternetMessageId></t:Message>`
	}
	for _, subject := range []string{"Tom & Jerry", "a&nbsp;b", "&#xZZ;", "1 < 2", "I <3 you & me", "&", "<"} {
		var messages, all string
		for _, s := range []string{"one", subject, "three"} {
			messages += success("GetItem", "<m:Items>"+item("id", s)+"</m:Items>")
			all += item("id", s)
		}
		items, _, err := answers(200, response("GetItem", messages)).GetItem(t.Context(), target, []string{"a", "b", "c"})
		if err != nil || len(items) != 3 {
			t.Errorf("%s: %v", subject, err)
			continue
		}
		for i, want := range []string{"one", strings.ReplaceAll(subject, "&lt;", "<"), "three"} {
			if m := items[i].Message; m == nil || m.Subject != want || m.InternetID != "<id@contoso.com>" {
				t.Errorf("%s, GetItem: %+v, %v", subject, m, items[i].Err)
			}
		}
		list := `<m:RootFolder IncludesLastItemInRange="true"><t:Items>` + all + `</t:Items></m:RootFolder>`
		l, err := answers(200, response("FindItem", success("FindItem", list))).FindItem(t.Context(), target, 0, 10)
		if err != nil || len(l.Messages) != 3 || l.Messages[2].Subject != "three" || l.Messages[1].Received.IsZero() {
			t.Errorf("%s, FindItem: %+v, %v", subject, l, err)
		}
	}
}

func TestAListingTellsWhereItEnds(t *testing.T) {
	item := func(id string) string {
		return `<t:Message><t:ItemId Id="` + id + `"/><t:DateTimeReceived>2026-11-22T10:00:00Z</t:DateTimeReceived></t:Message>`
	}
	for root, want := range map[string][3]any{
		`IndexedPagingOffset="12" TotalItemsInView="20" IncludesLastItemInRange="false"`: {false, 12, 20},
		`IndexedPagingOffset="12" TotalItemsInView="12" IncludesLastItemInRange="true"`:  {true, 12, 12},
		`TotalItemsInView="12"`:                                                        {false, 12, 12},
		`IndexedPagingOffset="10" TotalItemsInView="12"`:                               {false, 12, 12}, // not moved on: it would be asked for on and on
		`TotalItemsInView="-1" IndexedPagingOffset="x" IncludesLastItemInRange="true"`: {true, 12, 0},
	} {
		body := response("FindItem", success("FindItem", `<m:RootFolder `+root+`><t:Items>`+item("a")+item("b")+`</t:Items></m:RootFolder>`))
		l, err := answers(200, body, "Date", "Sun, 22 Nov 2026 10:00:01 GMT").FindItem(t.Context(), target, 10, 2)
		if err != nil || len(l.Messages) != 2 || l.Messages[1].ItemID != "b" || l.Last != want[0] || l.Next != want[1] || l.Total != want[2] ||
			!l.ServerTime.Equal(time.Date(2026, 11, 22, 10, 0, 1, 0, time.UTC)) {
			t.Errorf("%s: %+v, %v", root, l, err)
		}
	}
	body := response("FindItem", success("FindItem", `<m:RootFolder IndexedPagingOffset="0" TotalItemsInView="0" IncludesLastItemInRange="true"><t:Items/></m:RootFolder>`))
	if l, err := answers(200, body).FindItem(t.Context(), target, 0, 100); err != nil || len(l.Messages) != 0 || !l.Last || l.Next != 0 || !l.ServerTime.IsZero() {
		t.Errorf("empty: %+v, %v", l, err)
	}
}

// FuzzAnswers holds that no body of an answer makes an operation panic, and that what fails has a type.
func FuzzAnswers(f *testing.F) {
	for _, name := range []string{"02", "12", "19", "26", "34", "35"} {
		f.Add([]byte(sample(f, name)), 200)
		f.Add([]byte(sample(f, name)), 500)
	}
	f.Add([]byte(response("GetItem", success("GetItem", `<m:Items><t:Message><t:ItemId Id="a"/><t:From><t:Mailbox/></t:From></t:Message></m:Items>`))), 200)
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		c := answers(200+status%400, string(body))
		_, _, err1 := c.Subscribe(t.Context(), target)
		items, _, err2 := c.GetItem(t.Context(), target, []string{"a", "b"})
		_, err3 := c.FindItem(t.Context(), target, 0, 10)
		if err2 == nil && len(items) != 2 {
			t.Fatalf("%d items", len(items))
		}
		for _, err := range []error{err1, err2, err3, c.Unsubscribe(t.Context(), target, "x")} {
			if err == nil {
				continue
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Fault.Scope == 0 || e.Fault.Remedy == 0 || e.Fault.Code == "" || len(err.Error()) > 1500 {
				t.Fatalf("%#v", err)
			}
		}
	})
}

func BenchmarkGetItem(b *testing.B) {
	doc := []byte(response("GetItem", success("GetItem", `<m:Items><t:Message><t:ItemId Id="AAMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwBGAAAAAABSSWVKrmGUTJE+MVIvofglBwDZGACZQpSgSpyNkexYe2b7AAAAAAENAADZGACZQpSgSpyNkexYe2b7AAANGFYwAAA=" ChangeKey="CQAAAA=="/>`+
		`<t:ItemClass>IPM.Note</t:ItemClass><t:Subject>Company Soccer Team</t:Subject><t:Sensitivity>Normal</t:Sensitivity><t:DateTimeReceived>2013-08-29T15:22:10Z</t:DateTimeReceived><t:Importance>Normal</t:Importance>`+
		`<t:DateTimeSent>2013-08-29T15:22:10Z</t:DateTimeSent><t:ConversationId Id="AAQkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAQACAi+NTh0F5Eg5YDwpJsXPE="/><t:Preview>Are you interested in having fun and staying fit?</t:Preview>`+
		`<t:From><t:Mailbox><t:Name>Mara Whitley</t:Name><t:EmailAddress>mara@contoso.com</t:EmailAddress><t:RoutingType>SMTP</t:RoutingType><t:MailboxType>Mailbox</t:MailboxType></t:Mailbox></t:From>`+
		`<t:IsRead>false</t:IsRead><t:InternetMessageId>&lt;8e084ea1a5b64f97b95fa8a863a5869d@contoso.com&gt;</t:InternetMessageId></t:Message></m:Items>`)))
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	var s scanner
	for b.Loop() {
		s.reset(doc)
		var m *mail.Message
		responses(&s, func(s *scanner) (p *problem) { m, p = itemMessage(s, ""); return p })
		if s.err != nil || m == nil || m.InternetID == "" {
			b.Fatal(s.err)
		}
	}
}

func TestOneThatCanBeReadIsReadThoughTheOthersCannot(t *testing.T) {
	moving := failure("GetItem", "ErrorMailboxMoveInProgress", "x", "<m:Items/>")
	for name, messages := range map[string]string{"before": good("a") + moving, "behind": moving + good("b")} {
		items, _, err := answers(200, response("GetItem", messages)).GetItem(t.Context(), target, []string{"a", "b"})
		if err != nil || len(items) != 2 || (items[0].Message == nil) == (items[1].Message == nil) {
			t.Errorf("%s: %+v, %v", name, items, err)
		}
	}
	items, _, err := answers(200, response("GetItem", good("a")+good("b"))).GetItem(t.Context(), target, []string{"a", "b"})
	if err != nil || items[0].Message == nil || items[1].Message == nil {
		t.Errorf("both: %+v, %v", items, err)
	}
}

func TestTenItemsAreAskedForAtOnceAndNoMore(t *testing.T) {
	var ids []string
	body := ""
	for range 10 {
		ids = append(ids, "a")
		body += success("GetItem", `<m:Items><t:Message><t:ItemId Id="a"/></t:Message></m:Items>`)
	}
	c := answers(200, response("GetItem", body))
	if items, _, err := c.GetItem(t.Context(), target, ids); err != nil || len(items) != 10 {
		t.Errorf("%d items, %v", len(items), err)
	}
	for _, ids := range [][]string{nil, append(ids, "a")} {
		if _, _, err := c.GetItem(t.Context(), target, ids); err == nil || errors.As(err, new(*Error)) {
			t.Errorf("%d ids: %v", len(ids), err)
		}
	}
}

func TestWhetherAMessageIsReadIsReadInEitherSpelling(t *testing.T) {
	for text, want := range map[string]bool{"true": true, "1": true, " true\n": true, "false": false, "0": false, "": false} {
		s := &scanner{doc: []byte("<Message><IsRead>" + text + "</IsRead></Message>")}
		var m mail.Message
		s.child(0)
		message(s, &m, "")
		if m.Read != want || s.err != nil {
			t.Errorf("%q: %v, %v", text, m.Read, s.err)
		}
	}
}

// Servers add elements to their answers that are in no schema.
func TestElementsThatNobodyKnowsAreNoAnswer(t *testing.T) {
	const more = `<m:News><t:Items><t:Message><t:ItemId Id="not this"/></t:Message></t:Items></m:News>`
	folder := `<m:RootFolder IncludesLastItemInRange="true"><t:Items><t:Message><t:ItemId Id="a"/></t:Message></t:Items></m:RootFolder>`
	for _, payload := range []string{more + folder, folder + more} {
		l, err := answers(200, response("FindItem", success("FindItem", payload))).FindItem(t.Context(), target, 0, 10)
		if err != nil || len(l.Messages) != 1 || l.Messages[0].ItemID != "a" || !l.Last {
			t.Errorf("%+v, %v", l, err)
		}
	}
	if _, err := answers(200, response("FindItem", success("FindItem", more))).FindItem(t.Context(), target, 0, 10); fault.Of(err).Code != CodeUnparseableAnswer {
		t.Errorf("no listing at all: %v", err)
	}
	item := `<m:Items><t:Message><t:ItemId Id="a"/></t:Message></m:Items>`
	for _, payload := range []string{more + item, item + more} {
		items, _, err := answers(200, response("GetItem", success("GetItem", payload))).GetItem(t.Context(), target, []string{"asked"})
		if err != nil || items[0].Message == nil || items[0].Message.ItemID != "a" {
			t.Errorf("%+v, %v", items, err)
		}
	}
	id := `<m:SubscriptionId>right</m:SubscriptionId>`
	for _, payload := range []string{more + id, id + more, id + `<m:Watermark>wrong</m:Watermark>`} {
		if got, _, err := answers(200, response("Subscribe", success("Subscribe", payload))).Subscribe(t.Context(), target); got != "right" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestAPageIsOfOneToAThousandMessages(t *testing.T) {
	var asked string
	c := New(Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		b, _ := io.ReadAll(r.Body)
		asked = string(b)
		return nil, io.ErrUnexpectedEOF
	})})
	for most, want := range map[int]string{-1: "1", 0: "1", 1: "1", 1000: "1000", 1001: "1000", 5000: "1000"} {
		if _, err := c.FindItem(t.Context(), target, -3, most); err == nil || !strings.Contains(asked, `MaxEntriesReturned="`+want+`" Offset="0"`) {
			t.Errorf("%d: %v, %s", most, err, asked)
		}
	}
}

func TestAListingThatFailedShowsNothing(t *testing.T) {
	folder := `<m:RootFolder IncludesLastItemInRange="true"><t:Items><t:Message><t:ItemId Id="a"/></t:Message></t:Items></m:RootFolder>`
	l, err := answers(200, response("FindItem", failure("FindItem", "ErrorServerBusy", "x", folder))).FindItem(t.Context(), target, 0, 10)
	if fault.Of(err).Code != "ErrorServerBusy" || len(l.Messages) != 0 || l.Last || l.RequestID == "" {
		t.Errorf("%+v, %v", l, err)
	}
}
