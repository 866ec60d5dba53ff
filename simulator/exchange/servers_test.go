package exchange

import (
	"strings"
	"testing"
)

func TestEachMailboxHasItsMailboxServer(t *testing.T) {
	s := start(t, 4, Options{Servers: 3})
	for i, address := range s.Mailboxes() {
		want := []string{"exch01.contoso.example", "exch02.contoso.example", "exch03.contoso.example", "exch01.contoso.example"}[i]
		resp, _ := newClient(t, s, address).call(getInbox)
		if got := resp.Header.Get("X-CalculatedBETarget"); got != want || !strings.EqualFold(resp.Header.Get("X-BEServer")+".contoso.example", want) {
			t.Errorf("%s is served by %q", address, got)
		}
	}
}

func TestSubscriptionLivesOnTheServerThatItWasMadeOn(t *testing.T) {
	s := start(t, 2, Options{Servers: 2})
	anchor, member := newClient(t, s, s.Mailboxes()[0]), newClient(t, s, s.Mailboxes()[1])
	for _, c := range []*ewsClient{anchor, member} {
		c.header.Set("X-PreferServerAffinity", "true")
		c.header.Set("X-AnchorMailbox", anchor.mailbox)
	}
	resp, body := anchor.call(subscribeNewMail)
	cookie := resp.Cookies()
	if len(cookie) != 1 || !strings.HasPrefix(cookie[0].Value, "exch01.contoso.example~") {
		t.Fatalf("the anchor's cookie: %v", cookie)
	}
	first := between(t, body, "<m:SubscriptionId>", "<")
	member.header.Set("Cookie", cookie[0].Name+"="+cookie[0].Value)
	anchor.header.Set("Cookie", cookie[0].Name+"="+cookie[0].Value)
	resp, body = member.call(subscribeNewMail)
	second := between(t, body, "<m:SubscriptionId>", "<")
	if got := resp.Header.Get("X-CalculatedBETarget"); got != "exch01.contoso.example" {
		t.Errorf("the member's Subscribe is served by %q", got)
	}
	anchor.stream(first, second).until(deliver(t, s, member.mailbox, "notified to the group"))

	lost := newClient(t, s, member.mailbox)
	lost.must(getStreamingEvents(1, second), "ErrorSubscriptionNotFound")
	unsubscribe := "<m:Unsubscribe><m:SubscriptionId>" + second + "</m:SubscriptionId></m:Unsubscribe>"
	lost.must(unsubscribe, "ErrorSubscriptionNotFound")
	member.must(unsubscribe, "NoError")
	alone := newClient(t, s, member.mailbox)
	resp, body = alone.call(subscribeNewMail)
	if got := resp.Header.Get("X-CalculatedBETarget"); got != "exch02.contoso.example" {
		t.Errorf("without a cookie it is served by %q", got)
	}
	anchor.must(getStreamingEvents(1, between(t, body, "<m:SubscriptionId>", "<")), "ErrorSubscriptionNotFound")
}

func TestMailboxMovesToAnotherServerOfItsHost(t *testing.T) {
	s := start(t, 2, Options{Servers: 2})
	c := newClient(t, s, s.Mailboxes()[0])
	id := deliver(t, s, c.mailbox, "before")
	o := c.stream(c.subscribe(subscribeNewMail))
	if err := s.MoveServer(c.mailbox, "EXCH02"); err != nil {
		t.Fatal(err)
	}
	if e := o.next(); !strings.Contains(e, "ErrorInvalidSubscription") || !strings.Contains(e, "MailboxMoveStarted") {
		t.Errorf("the stream is told %s", e)
	}
	c.must(getItem(id), "<t:Subject>before<")
	resp, _ := c.call(getInbox)
	if got := resp.Header.Get("X-CalculatedBETarget"); got != "exch02.contoso.example" {
		t.Errorf("it is served by %q", got)
	}
	o = c.stream(c.subscribe(subscribeNewMail))
	if err := s.MoveServer(c.mailbox, "exch02.contoso.example"); err != nil {
		t.Fatal(err)
	}
	o.until(deliver(t, s, c.mailbox, "it stays where it is"))
}
