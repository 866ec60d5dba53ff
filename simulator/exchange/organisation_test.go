package exchange

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// hybrid is a simulator with a client on a mailbox of each host.
func hybrid(t *testing.T) (s *service, here, cloud, other *ewsClient) {
	t.Helper()
	s = start(t, 3, Options{Hybrid: true})
	all := s.Mailboxes()
	return s, newClient(t, s, all[0]), onlineClient(t, s, all[1]), otherClient(t, s, all[2])
}

const getInbox = `<m:GetFolder><m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape><m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder>`

func TestEachMailboxLivesOnOneHostOnly(t *testing.T) {
	s, here, cloud, other := hybrid(t)
	clients := []*ewsClient{here, cloud, other}
	for i, address := range s.Mailboxes() {
		deliver(t, s, address, "hello")
		for j, c := range clients {
			c.mailbox = address
			if c.token != "" {
				c.header.Set("X-AnchorMailbox", address)
			}
			want := "ErrorNonExistentMailbox"
			if i == j {
				want = "<t:DisplayName>Inbox</t:DisplayName><t:TotalCount>1</t:TotalCount><t:ChildFolderCount>0</t:ChildFolderCount><t:UnreadCount>1</t:UnreadCount>"
			}
			c.must(getInbox, want)
		}
	}
}

func TestMovedMailboxKeepsItsMessagesUnderNewIDs(t *testing.T) {
	for _, host := range []string{Online, Other} {
		t.Run(host, func(t *testing.T) {
			s, here, _, _ := hybrid(t)
			address := here.mailbox
			if err := s.AddAlias("alias@contoso.example", address); err != nil {
				t.Fatal(err)
			}
			received := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
			id, err := s.Deliver(address, received, testMail("before"))
			if err != nil {
				t.Fatal(err)
			}
			sub := here.subscribe(subscribeNewMail)
			o := here.stream(sub)
			if err := s.Move("ALIAS@contoso.example", host); err != nil {
				t.Fatal(err)
			}
			if e := o.next(); !strings.Contains(e, "ErrorInvalidSubscription") || !strings.Contains(e, "MailboxMoveStarted") || !strings.Contains(e, sub) || !strings.Contains(e, ">Closed<") {
				t.Errorf("the stream is told %s", e)
			}
			after := deliver(t, s, "alias@contoso.example", "after")
			for _, body := range []string{subscribeNewMail, getItem(id), findItem(0, 9, "Descending")} {
				here.must(body, "ErrorNonExistentMailbox")
			}
			there := otherClient(t, s, address)
			read := strings.Replace(getItem(after), `<t:FieldURI FieldURI="item:Preview"/>`, "", 1)
			if host == Online {
				there = onlineClient(t, s, address)
			}
			there.must(read, "<t:Subject>after</t:Subject>")
			list := there.must(findItem(0, 9, "Descending"), `TotalItemsInView="2"`, "<t:Subject>before</t:Subject><t:DateTimeReceived>2026-11-20T09:00:00Z<")
			_, list, _ = strings.Cut(list, after)
			moved := between(t, list, `<t:ItemId Id="`, `"`)
			if moved == id {
				t.Error("the item has its old id")
			}
			there.must(strings.Replace(read, after, moved, 1), "<t:InternetMessageId>&lt;before@partner.example&gt;<")
			there.must(strings.Replace(read, after, id, 1), "ErrorItemNotFound")
			stream := there.stream(there.subscribe(subscribeNewMail))
			stream.until(deliver(t, s, address, "live"))
			m, err := s.Mailbox("alias@contoso.example")
			if err != nil || m.Host != host || m.Address != address {
				t.Errorf("%+v, %v", m, err)
			}
			if err := s.Move(address, OnPremises); err != nil {
				t.Fatal(err)
			}
			here.must(findItem(0, 9, "Descending"), `TotalItemsInView="3"`)
		})
	}
}

func TestMoveWithoutAWordLeavesTheStreamBeating(t *testing.T) {
	s := start(t, 2, Options{Hybrid: true, Heartbeat: 5 * time.Millisecond})
	address := s.Mailboxes()[0]
	c := newClient(t, s, address)
	id := c.subscribe(subscribeNewMail)
	o := c.stream(id)
	set(t, s, moveSilent, faults.Fault{Mailbox: address})
	if err := s.Move(address, Online); err != nil {
		t.Fatal(err)
	}
	deliver(t, s, address, "without a notification")
	for range 3 {
		if e := o.next(); !strings.Contains(e, ">OK<") || strings.Contains(e, `ResponseClass="Error"`) || strings.Contains(e, "NewMailEvent") {
			t.Fatalf("told %s", e)
		}
	}
	if alive, _ := s.Subscriptions(address); alive != 0 || s.Counts().Subscriptions != 0 {
		t.Error("the subscription is alive")
	}
	if err := s.AddMailbox("anchor@contoso.example", OnPremises); err != nil {
		t.Fatal(err)
	}
	newClient(t, s, "anchor@contoso.example").must(getStreamingEvents(1, id), "ErrorSubscriptionNotFound")
}

func TestNoMailIsLostWhileItsMailboxMoves(t *testing.T) {
	s, _, _, _ := hybrid(t)
	address := s.Mailboxes()[0]
	const messages = 200
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range messages {
			if _, err := s.Deliver(address, time.Time{}, testMail(fmt.Sprint(i))); err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		}
	})
	for i := range 30 {
		if err := s.Move(address, []string{Online, Other, OnPremises}[i%3]); err != nil {
			t.Error(err)
		}
	}
	sender.Wait()
	newClient(t, s, address).must(findItem(0, 1, "Descending"), fmt.Sprintf(`TotalItemsInView="%d"`, messages))
}

func TestMovesAndNamesThatCannotBe(t *testing.T) {
	s, here, cloud, _ := hybrid(t)
	alone := start(t, 1, Options{})
	for what, err := range map[string]error{
		"an unknown mailbox":                s.Move("nobody@contoso.example", Online),
		"an alias of an unknown mailbox":    s.AddAlias("x@contoso.example", "nobody@contoso.example"),
		"an unknown mailbox renamed":        s.Rename("nobody@contoso.example", "x@contoso.example"),
		"an unknown mailbox between server": s.MoveServer("nobody@contoso.example", "EXCH01"),
		"an unknown mailbox removed":        s.RemoveMailbox("nobody@contoso.example"),
	} {
		if !errors.Is(err, ErrNoMailbox) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"a host that is none":              s.Move(here.mailbox, "moon"),
		"a host that is not there":         alone.Move(alone.Mailboxes()[0], Online),
		"a mailbox on a host that is none": s.AddMailbox("x@contoso.example", "moon"),
	} {
		if !errors.Is(err, ErrNoHost) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"an address of another host":              s.AddMailbox(cloud.mailbox, OnPremises),
		"an alias that is another's address":      s.AddAlias(cloud.mailbox, here.mailbox),
		"a primary that is another's address":     s.Rename(here.mailbox, cloud.mailbox),
		"an address that is another's alias":      s.AddMailbox(routing(cloud.mailbox), OnPremises),
		"an alias that is another's routing name": s.AddAlias(routing(cloud.mailbox), here.mailbox),
	} {
		if !errors.Is(err, ErrMailboxExists) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.AddAlias("nothing", here.mailbox); err == nil {
		t.Error("an alias that is no address")
	}
	if err := s.Move(here.mailbox, OnPremises); err != nil {
		t.Errorf("a move to where it lives: %v", err)
	}
}

func TestRenamedMailboxKeepsEverythingAndItsOldNameAsAlias(t *testing.T) {
	s, here, _, _ := hybrid(t)
	old, primary := here.mailbox, "renamed@contoso.example"
	id := deliver(t, s, old, "before")
	o := here.stream(here.subscribe(subscribeNewMail))
	if err := s.Rename(old, primary); err != nil {
		t.Fatal(err)
	}
	o.until(deliver(t, s, old, "by the old name"))
	o.until(deliver(t, s, primary, "by the new name"))
	here.must(getItem(id), "ErrorNonExistentMailbox")
	here.sid = "SmtpAddress"
	here.must(getItem(id), "<t:Subject>before<")
	here.mailbox, here.sid = primary, "PrimarySmtpAddress"
	here.must(getItem(id), "<t:Subject>before<")
	m, err := s.Mailbox(old)
	if err != nil || m.Address != primary || strings.Join(m.Aliases, " ") != strings.Join([]string{routing(primary), old, routing(old)}, " ") {
		t.Errorf("%+v, %v", m, err)
	}
	if err := s.Rename(primary, old); err != nil {
		t.Errorf("renamed back to an alias of its own: %v", err)
	}
	here.mailbox = old
	here.must(getItem(id), "<t:Subject>before<")
}

func TestExchangeOnlineTakesTokensOnly(t *testing.T) {
	s, here, cloud, _ := hybrid(t)
	user := accessToken(t, cloud.http, s, url.Values{"grant_type": {"password"}, "username": {cloud.mailbox}, "password": {s.Password}})
	account := accessToken(t, cloud.http, s, url.Values{"grant_type": {"password"}, "username": {ListenerAddress}, "password": {s.Password}})
	for name, tc := range map[string]struct {
		token, mailbox, anchor string
		status                 int
		want                   string
	}{
		"an app as a mailbox":                         {cloud.token, cloud.mailbox, cloud.mailbox, 200, "NoError"},
		"an app as a mailbox by another's anchor":     {cloud.token, cloud.mailbox, here.mailbox, 200, "NoError"},
		"an app without impersonation":                {cloud.token, "", cloud.mailbox, 500, "ErrorInvalidExchangeImpersonationHeaderData"},
		"an app without an anchor":                    {cloud.token, cloud.mailbox, "", 500, ""},
		"an app with a foreign anchor":                {cloud.token, cloud.mailbox, "x@fabrikam.example", 503, ""},
		"an app as a mailbox that lives elsewhere":    {cloud.token, here.mailbox, here.mailbox, 500, "ErrorNonExistentMailbox"},
		"an app as a mailbox that lives nowhere":      {cloud.token, "x@contoso.example", "x@contoso.example", 500, "ErrorNonExistentMailbox"},
		"a user in its own mailbox":                   {user, "", "", 200, "NoError"},
		"a user as another":                           {user, cloud.mailbox, cloud.mailbox, 500, "ErrorImpersonateUserDenied"},
		"the listener account":                        {account, cloud.mailbox, cloud.mailbox, 500, "ErrorImpersonateUserDenied"},
		"the listener account, which has no mailbox":  {account, "", "", 200, "ErrorMissingEmailAddress"},
		"a token that is none":                        {"e30.e30.e30", cloud.mailbox, cloud.mailbox, 401, ""},
		"the right password of the right user (none)": {"", cloud.mailbox, cloud.mailbox, 401, ""},
	} {
		c := newClient(t, s, tc.mailbox)
		c.url, c.token = s.OnlineURL, tc.token
		c.header.Set("X-AnchorMailbox", tc.anchor)
		resp, body := c.call(getInbox)
		if resp.StatusCode != tc.status || !strings.Contains(body, tc.want) || tc.want == "" && body != "" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		if tc.status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%s: no challenge", name)
		}
	}
	set(t, s, "tokens_revoked", faults.Fault{})
	if resp, _ := cloud.call(getInbox); resp.StatusCode != 401 || resp.Header.Get("x-ms-diagnostics") == "" {
		t.Errorf("a revoked token: %d", resp.StatusCode)
	}
	set(t, s, wrongPassword, faults.Fault{Host: Online})
	if resp, _ := onlineClient(t, s, cloud.mailbox).call(getInbox); resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer ") {
		t.Errorf("the fault: %d, %q", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
	}
	here.must(getInbox, "NoError")
}

func TestOtherProviderKnowsPrimaryAddressesOnly(t *testing.T) {
	s, _, _, other := hybrid(t)
	if err := s.AddAlias("alias@contoso.example", other.mailbox); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		user, mailbox string
		status        int
	}{
		"the listener account":               {s.OtherUsername, other.mailbox, 200},
		"the listener account, DOMAIN\\name": {s.Username, other.mailbox, 401},
		"a mailbox's own user":               {other.mailbox, "", 200},
		"a mailbox's own user by an alias":   {"alias@contoso.example", "", 401},
		"a mailbox of another host":          {s.Mailboxes()[0], "", 401},
	} {
		c := otherClient(t, s, tc.mailbox)
		c.user = tc.user
		if resp, body := c.call(getInbox); resp.StatusCode != tc.status {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	resp, err := other.send(strings.Replace(s.OtherURL, "/EWS/Exchange.asmx", "/autodiscover/autodiscover.xml", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("Autodiscover: %d", resp.StatusCode)
	}
}

func TestFaultsMeetTheirHostOnly(t *testing.T) {
	s, here, cloud, other := hybrid(t)
	blocked := func(c *ewsClient) bool {
		resp, body := c.call(getInbox)
		return resp.StatusCode == http.StatusForbidden && body == ""
	}
	set(t, s, ewsBlocked, faults.Fault{Host: Online})
	if blocked(here) || !blocked(cloud) || blocked(other) {
		t.Error("EWS is not blocked at the one host")
	}
	clearFault(t, s, ewsBlocked)
	set(t, s, subscriptionsNone, faults.Fault{Host: Other})
	here.subscribe(subscribeNewMail)
	cloud.subscribe(subscribeNewMail)
	other.must(subscribeNewMail, "ErrorExceededSubscriptionCount", "You have exceeded the available subscriptions for your account.")
	if n := s.Counts().Subscriptions; n != 2 {
		t.Errorf("%d subscriptions", n)
	}
	set(t, s, serverRestart, faults.Fault{Host: OnPremises})
	for host, want := range map[string]int{OnPremises: 0, Online: 1, Other: 0} {
		if c, err := s.CountsAt(host); err != nil || c.Subscriptions != want {
			t.Errorf("%s: %d subscriptions, %v", host, c.Subscriptions, err)
		}
	}
	if _, err := s.CountsAt("moon"); !errors.Is(err, ErrNoHost) {
		t.Errorf("counts of the moon: %v", err)
	}
	for name, f := range map[string]faults.Fault{ewsBlocked: {Host: "moon"}, autodiscoverAway: {Reason: "late"}, autodiscoverRefused: {Status: 500}} {
		if err := s.SetFault(name, f); err == nil {
			t.Errorf("%s is set as %+v", name, f)
		}
	}
}

func TestStreamsOfOneHostAreSilentAndThoseOfAnotherAreNot(t *testing.T) {
	s, here, cloud, _ := hybrid(t)
	there, silent := here.stream(here.subscribe(subscribeNewMail)), cloud.stream(cloud.subscribe(subscribeNewMail))
	set(t, s, streamSilent, faults.Fault{Host: Online})
	held := deliver(t, s, cloud.mailbox, "held")
	there.until(deliver(t, s, here.mailbox, "told"))
	clearFault(t, s, streamSilent)
	silent.until(held)
}

func TestExchangeOnlineHasItsOwnLimits(t *testing.T) {
	s, _, cloud, _ := hybrid(t)
	for range onlineSubscriptions {
		cloud.subscribe(subscribeNewMail)
	}
	cloud.must(subscribeNewMail, "ErrorExceededSubscriptionCount")
	resp, body := cloud.call(getInbox)
	if got := resp.Header.Get("X-CalculatedBETarget"); got != onlineServer || !strings.Contains(body, `MajorVersion="15" MinorVersion="20"`) {
		t.Errorf("served by %q: %s", got, body)
	}
	if err := s.MoveServer(cloud.mailbox, "EXCH01"); !errors.Is(err, ErrNoServer) {
		t.Errorf("moved to a server of another host: %v", err)
	}
}
