package exchange

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

func TestSchemaIsAtHandForTheTests(t *testing.T) {
	dir, missing := schema()
	if missing != "" {
		t.Skip("no EWS message of these tests is validated: " + missing)
	}
	bad := &messages{list: map[string]map[string]bool{}}
	bad.add("x", []byte(xmlDeclaration+releaseSE.envelope().open+`<m:GetItem xmlns:m="`+nsMessages+`"/>`+releaseSE.envelope().end))
	if wrong, err := bad.invalid(dir); err != nil || !strings.Contains(wrong, "Missing child element") {
		t.Errorf("a message that is wrong: %q, %v", wrong, err)
	}
}

func TestAStreamHasTheOtherFormOfExchangesEnvelopesWhereThatIsSwitchedOn(t *testing.T) {
	s := start(t, 1, Options{DefaultNamespace: true, Heartbeat: 10 * time.Millisecond})
	c := newClient(t, s, s.Mailboxes()[0])
	id := c.subscribe(subscribeNewMail) // the other operations keep theirs
	resp, err := c.send(c.url, c.envelope(getStreamingEvents(30, id)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	o := &openStream{t, resp, bufio.NewReader(resp.Body)}
	item := deliver(t, s, c.mailbox, "one")
	for told := false; !told; {
		e := o.next()
		told = strings.Contains(e, item)
		// As captured from Exchange 2010 and 2013: no declaration, and no prefix of the envelope.
		if !strings.HasPrefix(e, `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><soap11:Header xmlns:soap11="http://schemas.xmlsoap.org/soap/envelope/"><ServerVersionInfo `) ||
			!strings.HasSuffix(e, `</m:GetStreamingEventsResponse></soap11:Body></Envelope>`) {
			t.Errorf("%s", e)
		}
	}
}

func TestNewMailComesOnTheStreamInTheFormOfRealServersOrOfTheSchema(t *testing.T) {
	for _, schemaForm := range []bool{false, true} {
		t.Run(fmt.Sprintf("schema form %t", schemaForm), func(t *testing.T) {
			s := start(t, 1, Options{SchemaForm: schemaForm})
			c := newClient(t, s, s.Mailboxes()[0])
			all, newOnly := c.subscribe(subscribeAll), c.subscribe(subscribeNewMail)
			streamAll, streamNew := c.stream(all), c.stream(newOnly)
			id := deliver(t, s, c.mailbox, "one")
			p := "m"
			if schemaForm {
				p = "t"
			}
			e := streamAll.until("NewMailEvent")
			for _, want := range []string{"<" + p + ":Notification><t:SubscriptionId>" + all, `<t:CreatedEvent><t:TimeStamp>`, `<t:ItemId Id="` + id + `"`,
				"<t:UnreadCount>1</t:UnreadCount></t:ModifiedEvent>"} {
				if !strings.Contains(e, want) {
					t.Errorf("no %q in %s", want, e)
				}
			}
			if e := streamNew.until("NewMailEvent"); strings.Contains(e, "CreatedEvent") || strings.Contains(e, "ModifiedEvent") {
				t.Errorf("events that were not subscribed to: %s", e)
			}
			c.must(`<m:Unsubscribe><m:SubscriptionId>`+newOnly+`</m:SubscriptionId></m:Unsubscribe>`, `ResponseClass="Success"`)
			if e := streamNew.until("ErrorSubscriptionNotFound"); !strings.Contains(e, "<"+p+":SubscriptionId>"+newOnly) || !strings.Contains(e, ">Closed<") {
				t.Errorf("the end of the last subscription of a stream: %s", e)
			}
			if rest, err := streamNew.read(); err != io.EOF || rest != "" {
				t.Errorf("after Closed came %q, %v", rest, err)
			}
		})
	}
}

func TestDeclarationComesBeforeTheFirstEnvelopeOnly(t *testing.T) {
	s := start(t, 1, Options{Heartbeat: 10 * time.Millisecond})
	c := newClient(t, s, s.Mailboxes()[0])
	resp, err := c.send(s.EWSURL, c.envelope(getStreamingEvents(1, c.subscribe(subscribeNewMail))))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.TransferEncoding == nil || resp.TransferEncoding[0] != "chunked" || resp.ProtoMajor != 1 {
		t.Errorf("a stream is chunked HTTP/1.1, not %s %v", resp.Proto, resp.TransferEncoding)
	}
	buf := make([]byte, 5000)
	if _, err := io.ReadFull(resp.Body, buf); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(buf), "<?xml"); n != 1 || !strings.HasPrefix(string(buf), "<?xml") {
		t.Errorf("%d declarations", n)
	}
	if strings.Count(string(buf), ">OK<") < 3 {
		t.Errorf("no heartbeats: %s", buf)
	}
}

// recorded answers of a bare exchange, without sockets, for tests of time.
func record(x *Host, r *http.Request) (*httptest.ResponseRecorder, chan struct{}) {
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.ServeHTTP(w, r)
	}()
	return w, done
}

// bareHost is an Exchange on premises that is the only host.
func bareHost(t testing.TB, o Options) *Host {
	t.Helper()
	o.Faults = faults.New(Faults()...)
	org, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return org.hosts[0]
}

func bareExchange(t *testing.T) (*Host, *ewsClient) {
	t.Helper()
	x := bareHost(t, Options{Password: "secret", Closing: t.Context().Done()})
	if err := x.addMailbox("user0001@contoso.example"); err != nil {
		t.Fatal(err)
	}
	return x, &ewsClient{t: t, user: ListenerName, password: "secret", mailbox: "user0001@contoso.example", sid: "SmtpAddress"}
}

func (c *ewsClient) request(ctx context.Context, body string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/EWS/Exchange.asmx", strings.NewReader(c.envelope(body)))
	r.SetBasicAuth(c.user, c.password)
	return r
}

func TestStreamBeatsEvery45SecondsAndClosesAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, c := bareExchange(t)
		w, done := record(x, c.request(t.Context(), subscribeNewMail))
		<-done
		id := between(t, w.Body.String(), "<m:SubscriptionId>", "</m:SubscriptionId>")
		began := time.Now()
		w, done = record(x, c.request(t.Context(), getStreamingEvents(2, id)))
		<-done
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("the stream of 2 minutes lasted %v", took)
		}
		body := w.Body.String()
		if n := strings.Count(body, ">OK<"); n != 3 { // at once, after 45 s, after 90 s
			t.Errorf("%d times OK: %s", n, body)
		}
		if !strings.HasSuffix(body, "<m:ConnectionStatus>Closed</m:ConnectionStatus></m:GetStreamingEventsResponseMessage></m:ResponseMessages></m:GetStreamingEventsResponse>"+releaseSE.envelope().end) {
			t.Errorf("the end is not Closed: %s", body)
		}
	})
}

func TestSubscriptionExpiresOnlyWithoutAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, c := bareExchange(t)
		w, done := record(x, c.request(t.Context(), subscribeNewMail))
		<-done
		id := between(t, w.Body.String(), "<m:SubscriptionId>", "</m:SubscriptionId>")
		for range 3 {
			w, done = record(x, c.request(t.Context(), getStreamingEvents(30, id)))
			<-done
			if !strings.Contains(w.Body.String(), ">Closed<") || strings.Contains(w.Body.String(), `ResponseClass="Error"`) {
				t.Fatalf("a subscription that is in use: %s", w.Body)
			}
		}
		<-time.After(idleExpiry + time.Second) // the bubble's clock
		w, done = record(x, c.request(t.Context(), getStreamingEvents(30, id)))
		<-done
		if !strings.Contains(w.Body.String(), "ErrorSubscriptionNotFound") {
			t.Errorf("a subscription that nobody used for %v: %s", idleExpiry, w.Body)
		}
	})
}

func TestEventsQueueWhileNoStreamIsOpen(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	id := c.subscribe(subscribeNewMail)
	for i := range 120 {
		deliver(t, s, c.mailbox, fmt.Sprint("mail ", i))
	}
	o := c.stream(id)
	for got := 0; got < 120; {
		n := strings.Count(o.next(), "<t:NewMailEvent>")
		if n > maxEvents {
			t.Fatalf("%d events in an envelope", n)
		}
		got += n
	}
}

func TestQueueThatOverflowsSaysSo(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	id := c.subscribe(subscribeNewMail)
	for range maxQueue + 1 {
		deliver(t, s, c.mailbox, "flood")
	}
	if e := c.stream(id).next(); !strings.Contains(e, "ErrorMissedNotificationEvents") || !strings.Contains(e, id) {
		t.Errorf("after an overflow: %s", e)
	}
}

func TestSecondConnectionTakesTheSubscriptionFromTheFirst(t *testing.T) {
	s := start(t, 2, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	id := c.subscribe(subscribeNewMail)
	first := c.stream(id)
	second := c.stream(id)
	if e := first.next(); !strings.Contains(e, "ErrorNewEventStreamConnectionOpened") || !strings.Contains(e, ">Closed<") {
		t.Errorf("the first connection is told %s", e)
	}
	if _, err := first.read(); err != io.EOF {
		t.Errorf("the first connection goes on: %v", err)
	}
	deliver(t, s, c.mailbox, "one")
	second.until("NewMailEvent")
}

func TestStreamOfWrongIDsFailsAsAWholeAndNamesThem(t *testing.T) {
	s := start(t, 2, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	good := c.subscribe(subscribeNewMail)
	body := c.must(getStreamingEvents(30, good, "bm8gc3VjaCBpZA=="), "ErrorSubscriptionNotFound", "<m:SubscriptionId>bm8gc3VjaCBpZA==<", ">Closed<")
	if strings.Contains(body, good) {
		t.Errorf("the good id is named: %s", body)
	}
	own := newClient(t, s, "")
	own.user = s.Mailboxes()[1]
	own.must(getStreamingEvents(30, good), "ErrorSubscriptionAccessDenied", good)
	own.must(`<m:Unsubscribe><m:SubscriptionId>`+good+`</m:SubscriptionId></m:Unsubscribe>`, "ErrorSubscriptionAccessDenied")
	c.must(`<m:Unsubscribe><m:SubscriptionId>nope</m:SubscriptionId></m:Unsubscribe>`, "ErrorSubscriptionNotFound")
	c.must(getStreamingEvents(31, good), "ErrorSchemaValidation")
	c.must(getStreamingEvents(0, good), "ErrorSchemaValidation")
	c.must(getStreamingEvents(1, slices.Repeat([]string{good}, maxIDs+1)...), "ErrorSchemaValidation")
}

func TestStreamsAreLimitedPerImpersonatedMailbox(t *testing.T) {
	s := start(t, 2, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	for range maxStreams {
		c.stream(c.subscribe(subscribeNewMail))
	}
	c.must(getStreamingEvents(30, c.subscribe(subscribeNewMail)), "ErrorExceededConnectionCount")
	other := newClient(t, s, s.Mailboxes()[1])
	other.stream(other.subscribe(subscribeNewMail))
	if n := s.Counts(); n.OpenStreams != maxStreams+1 || n.Subscriptions != maxStreams+2 {
		t.Errorf("%d streams, %d subscriptions", n.OpenStreams, n.Subscriptions)
	}
	if alive, streamed := s.Subscriptions(c.mailbox); alive != maxStreams+1 || streamed != maxStreams {
		t.Errorf("%d subscriptions alive, %d on a stream", alive, streamed)
	}
}

func TestAffinityCookieComesWithTheAnchorsSubscriptionOnly(t *testing.T) {
	s := start(t, 2, Options{})
	anchor, member := newClient(t, s, s.Mailboxes()[0]), newClient(t, s, s.Mailboxes()[1])
	cookie := func(c *ewsClient, prefer, anchorMailbox string) string {
		c.header.Set("X-PreferServerAffinity", prefer)
		c.header.Set("X-AnchorMailbox", anchorMailbox)
		resp, _ := c.call(subscribeNewMail)
		return resp.Header.Get("Set-Cookie")
	}
	if got := cookie(anchor, "true", anchor.mailbox); !strings.HasPrefix(got, "X-BackEndOverrideCookie=exch01.contoso.example~") {
		t.Errorf("the anchor's cookie: %q", got)
	}
	if got := cookie(anchor, "false", anchor.mailbox); got != "" {
		t.Errorf("a cookie that nobody asked for: %q", got)
	}
	if got := cookie(member, "true", anchor.mailbox); got != "" {
		t.Errorf("a member's cookie: %q", got)
	}
	anchor.header.Set("Cookie", "X-BackEndOverrideCookie=exch01.contoso.example~1")
	if got := cookie(anchor, "true", anchor.mailbox); got != "" {
		t.Errorf("a second cookie: %q", got)
	}
}

func TestWhoMayActOnWhichMailbox(t *testing.T) {
	s := start(t, 2, Options{})
	if err := s.AddAlias("alias@contoso.example", s.Mailboxes()[0]); err != nil {
		t.Fatal(err)
	}
	const folder = `<m:GetFolder><m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape><m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder>`
	one, two := s.Mailboxes()[0], s.Mailboxes()[1]
	for name, tc := range map[string]struct {
		user, password, mailbox, sid string
		status                       int
		want                         string
	}{
		"the listener account as a mailbox":            {s.Username, s.Password, one, "PrimarySmtpAddress", 200, "NoError"},
		"the listener account by its other form":       {"svc-bell@contoso.example", s.Password, one, "PrincipalName", 200, "NoError"},
		"the listener account, address in capitals":    {s.Username, s.Password, " " + strings.ToUpper(one), "SmtpAddress", 200, "NoError"},
		"the listener account, an alias":               {s.Username, s.Password, "alias@contoso.example", "SmtpAddress", 200, "NoError"},
		"the listener account, an alias as primary":    {s.Username, s.Password, "alias@contoso.example", "PrimarySmtpAddress", 500, "ErrorNonExistentMailbox"},
		"the listener account, an unknown mailbox":     {s.Username, s.Password, "nobody@contoso.example", "SmtpAddress", 500, "ErrorNonExistentMailbox"},
		"the listener account, no mailbox":             {s.Username, s.Password, "", "", 200, "ErrorMissingEmailAddress"},
		"a mailbox's own user":                         {one, s.Password, "", "", 200, "NoError"},
		"a mailbox's own user as another":              {one, s.Password, two, "SmtpAddress", 500, "ErrorImpersonateUserDenied"},
		"a wrong password":                             {s.Username, "wrong", one, "SmtpAddress", 401, ""},
		"an unknown user":                              {"nobody@contoso.example", s.Password, "", "", 401, ""},
		"a kind of id that this server does not serve": {s.Username, s.Password, "S-1-5-21", "SID", 500, "ErrorSchemaValidation"},
	} {
		c := newClient(t, s, tc.mailbox)
		c.user, c.password, c.sid = tc.user, tc.password, tc.sid
		resp, body := c.call(folder)
		if resp.StatusCode != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		if tc.status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: no challenge", name)
		}
	}
}

func TestRequestsThatAreNoneAreFaults(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	good := c.envelope(subscribeNewMail)
	for name, tc := range map[string]struct{ body, want string }{
		"not XML":              {"hello", "a:ErrorSchemaValidation"},
		"empty":                {"", "a:ErrorSchemaValidation"},
		"a document type":      {strings.Replace(good, xmlDeclaration, `<!DOCTYPE a [<!ENTITY b "c">]>`, 1), "a:ErrorSchemaValidation"},
		"another root":         {`<a xmlns="` + nsSOAP + `"/>`, "a:ErrorSchemaValidation"},
		"SOAP 1.2":             {strings.ReplaceAll(good, nsSOAP, "http://www.w3.org/2003/05/soap-envelope"), "a:ErrorSchemaValidation"},
		"no operation":         {c.envelope(""), "a:ErrorSchemaValidation"},
		"an unknown operation": {c.envelope("<m:SendItem/>"), "a:ErrorInvalidRequest"},
		"a foreign namespace":  {c.envelope(`<Subscribe xmlns="urn:x"/>`), "a:ErrorSchemaValidation"},
		"deep nesting":         {strings.Repeat("<a>", maxDepth+1) + strings.Repeat("</a>", maxDepth+1), "a:ErrorSchemaValidation"},
	} {
		resp, err := c.send(s.EWSURL, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 500 || !strings.Contains(string(text), tc.want) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, text)
		}
		if err := xml.Unmarshal(text, new(struct {
			Body struct {
				Fault struct {
					Detail struct {
						ResponseCode string `xml:"http://schemas.microsoft.com/exchange/services/2006/errors ResponseCode"`
					} `xml:"detail"`
				} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault"`
			} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Body"`
		})); err != nil {
			t.Errorf("%s: the fault is no XML: %v", name, err)
		}
	}
	c.must("<m:MadeUp/>", "ErrorInvalidRequest")
	if n := s.Counts().Requests; n["other"] != 2 || n["MadeUp"] != 0 {
		t.Errorf("clients name the counters: %v", n)
	}
	resp, err := c.http.Get(strings.Replace(s.EWSURL, "/EWS/", "/owa/", 1))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("another path: %d", resp.StatusCode)
	}
}

func TestItemIsReadWithItsProperties(t *testing.T) {
	s := start(t, 2, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	received := time.Date(2026, 11, 22, 9, 0, 0, 999_000_000, time.UTC)
	id, err := s.Deliver(c.mailbox, received, []byte("From: =?utf-8?q?J=C3=BCrgen?= <j@partner.example>\r\nSubject: A <b> & \"c\"\r\nDate: Sun, 22 Nov 2026 10:00:00 +0200\r\n"+
		"Message-ID: <1@partner.example>\r\nImportance: high\r\nSensitivity: Company-Confidential\r\n\r\nHello\r\n\tthere."))
	if err != nil {
		t.Fatal(err)
	}
	c.must(getItem(id), `<t:Message><t:ItemId Id="`+id+`"`, "<t:ItemClass>IPM.Note</t:ItemClass>", "<t:Subject>A &lt;b&gt; &amp; &quot;c&quot;</t:Subject>",
		"<t:Sensitivity>Confidential</t:Sensitivity>", "<t:DateTimeReceived>2026-11-22T09:00:00Z<", "<t:DateTimeSent>2026-11-22T08:00:00Z<", "<t:Importance>High<",
		"<t:Preview>Hello there.</t:Preview>", "<t:Name>Jürgen</t:Name><t:EmailAddress>j@partner.example</t:EmailAddress><t:RoutingType>SMTP<",
		"<t:InternetMessageId>&lt;1@partner.example&gt;<", "<t:IsRead>false<", `<t:ConversationId Id="`)
	wrongCase := strings.ToLower(id)
	other := newClient(t, s, s.Mailboxes()[1])
	c.must(getItem(id, wrongCase), "NoError", "ErrorInvalidIdMalformed")
	other.must(getItem(id), "ErrorItemNotFound", "<m:Items/>")
	if err := s.MarkRead(c.mailbox, id, true); err != nil {
		t.Fatal(err)
	}
	c.must(getItem(id), "<t:IsRead>true<")
}

func TestMoveChangesTheIDAndComesBackWithoutNewMail(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	o := c.stream(c.subscribe(subscribeAll))
	id := deliver(t, s, c.mailbox, "one")
	o.until("NewMailEvent")
	away, err := s.MoveItem(c.mailbox, id, true)
	if err != nil || away == id {
		t.Fatalf("moved: %q, %v", away, err)
	}
	if e := o.until("MovedEvent"); !strings.Contains(e, `<t:ItemId Id="`+away) || !strings.Contains(e, `<t:OldItemId Id="`+id) {
		t.Errorf("the move: %s", e)
	}
	c.must(getItem(id), "ErrorItemNotFound")
	c.must(findItem(0, 10, "Descending"), `TotalItemsInView="0"`)
	back, err := s.MoveItem(c.mailbox, away, false)
	if err != nil || back == id || back == away {
		t.Fatalf("moved back: %q, %v", back, err)
	}
	if e := o.until("MovedEvent"); strings.Contains(e, "NewMailEvent") {
		t.Errorf("a move is no new mail: %s", e)
	}
	c.must(getItem(back), "<t:InternetMessageId>&lt;one@partner.example&gt;<")
	if err := s.Delete(c.mailbox, back); err != nil {
		t.Fatal(err)
	}
	o.until("DeletedEvent")
	if err := s.Delete(c.mailbox, back); err != ErrNoItem {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := s.MoveItem("nobody@contoso.example", back, true); err != ErrNoMailbox {
		t.Errorf("moved in no mailbox: %v", err)
	}
}

func TestListingPagesInTheOrderOfReceivedTimes(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	base := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	for _, i := range []int{3, 0, 4, 1, 2} {
		if _, err := s.Deliver(c.mailbox, base.Add(time.Duration(i)*time.Hour), testMail(fmt.Sprint("mail ", i))); err != nil {
			t.Fatal(err)
		}
	}
	subjects := func(body string) (list []string) {
		for _, part := range strings.Split(body, "<t:Subject>")[1:] {
			list = append(list, part[:strings.IndexByte(part, '<')])
		}
		return list
	}
	for _, tc := range []struct {
		offset, limit int
		order, want   string
		paging        string
	}{
		{0, 2, "Descending", "mail 4,mail 3", `IndexedPagingOffset="2" TotalItemsInView="5" IncludesLastItemInRange="false"`},
		{2, 2, "Descending", "mail 2,mail 1", `IndexedPagingOffset="4" TotalItemsInView="5" IncludesLastItemInRange="false"`},
		{4, 2, "Descending", "mail 0", `IndexedPagingOffset="5" TotalItemsInView="5" IncludesLastItemInRange="true"`},
		{9, 2, "Descending", "", `IndexedPagingOffset="5" TotalItemsInView="5" IncludesLastItemInRange="true"`},
		{1, 3, "Ascending", "mail 1,mail 2,mail 3", `IndexedPagingOffset="4" TotalItemsInView="5" IncludesLastItemInRange="false"`},
	} {
		body := c.must(findItem(tc.offset, tc.limit, tc.order), tc.paging)
		if got := strings.Join(subjects(body), ","); got != tc.want {
			t.Errorf("from %d, %d, %s: %q, want %q", tc.offset, tc.limit, tc.order, got, tc.want)
		}
	}
	end := strings.Replace(findItem(0, 2, "Ascending"), `BasePoint="Beginning"`, `BasePoint="End"`, 1)
	if got := strings.Join(subjects(c.must(end)), ","); got != "mail 3,mail 4" {
		t.Errorf("from the end: %s", got)
	}
	c.must(strings.Replace(findItem(0, 2, "Ascending"), "item:DateTimeReceived\"/></t:FieldOrder>", "item:Body\"/></t:FieldOrder>", 1), "ErrorUnsupportedPathForSortGroup")
	c.must(strings.Replace(findItem(0, 0, "Ascending"), `MaxEntriesReturned="0"`, `MaxEntriesReturned="0"`, 1), "ErrorInvalidPagingMaxRows")
}

func TestAFilteredListingHasAtMost250Items(t *testing.T) {
	const filter = `<m:Restriction><t:IsGreaterThanOrEqualTo><t:FieldURI FieldURI="item:DateTimeReceived"/><t:FieldURIOrConstant><t:Constant Value="2026-01-01T00:00:00Z"/>` +
		`</t:FieldURIOrConstant></t:IsGreaterThanOrEqualTo></m:Restriction>`
	for personality, most := range map[string]string{"": "250", Exchange2010: "251"} {
		s := start(t, 1, Options{Personality: personality})
		c := newClient(t, s, s.Mailboxes()[0])
		c.version = "Exchange2010_SP1"
		for i := range 251 {
			deliver(t, s, c.mailbox, fmt.Sprint("mail ", i))
		}
		all := findItem(0, 1000, "Descending")
		c.must(all, `IndexedPagingOffset="251" TotalItemsInView="251" IncludesLastItemInRange="true"`)
		filtered := strings.Replace(all, "<m:SortOrder>", filter+"<m:SortOrder>", 1)
		last := fmt.Sprint(most == "251")
		if body := c.must(filtered, `IndexedPagingOffset="`+most+`" TotalItemsInView="251" IncludesLastItemInRange="`+last+`"`); fmt.Sprint(strings.Count(body, "<t:Message>")) != most {
			t.Errorf("%q: %d items", personality, strings.Count(body, "<t:Message>"))
		}
	}
}

func TestWhatAListingWouldIgnoreIsRefusedByItsName(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	list := findItem(0, 9, "Descending")
	page := between(t, list, "</m:ItemShape>", "<m:SortOrder>")
	const folders = `<m:FindFolder Traversal="Shallow"><m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape>%s<m:ParentFolderIds>` +
		`<t:DistinguishedFolderId Id="msgfolderroot"/></m:ParentFolderIds></m:FindFolder>`
	const restriction = `<m:Restriction><t:Exists><t:FieldURI FieldURI="folder:DisplayName"/></t:Exists></m:Restriction>`
	for name, body := range map[string]string{
		"QueryString":            strings.Replace(list, "</m:FindItem>", "<m:QueryString>subject:hello</m:QueryString></m:FindItem>", 1),
		"FractionalPageItemView": strings.Replace(list, page, `<m:FractionalPageItemView MaxEntriesReturned="9" Numerator="1" Denominator="2"/>`, 1),
		"CalendarView":           strings.Replace(list, page, `<m:CalendarView StartDate="2026-11-01T00:00:00Z" EndDate="2026-12-01T00:00:00Z"/>`, 1),
		"DistinguishedGroupBy":   strings.Replace(list, "<m:SortOrder>", `<m:DistinguishedGroupBy Order="Ascending"><t:StandardGroupBy>ConversationTopic</t:StandardGroupBy></m:DistinguishedGroupBy><m:SortOrder>`, 1),
		"Restriction":            fmt.Sprintf(folders, restriction),
	} {
		c.must(body, "<m:ResponseCode>ErrorInvalidOperation<", "This simulator does not serve "+name+" of Find")
	}
	all := c.must(fmt.Sprintf(folders, ""), `IncludesLastItemInRange="true"`)
	n := strings.Count(all, "<t:Folder>")
	const pages = `<m:IndexedPageFolderView MaxEntriesReturned="%d" Offset="1" BasePoint="Beginning"/>`
	if body := c.must(fmt.Sprintf(folders, fmt.Sprintf(pages, 2)), fmt.Sprintf(`IndexedPagingOffset="3" TotalItemsInView="%d" IncludesLastItemInRange="false"`, n)); strings.Count(body, "<t:Folder>") != 2 {
		t.Errorf("a page of two folders: %s", body)
	}
}

func TestListingCutsSubjectsAndTellsInsidersByTheirDN(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	long := strings.Repeat("ä", 300)
	id, err := s.Deliver(c.mailbox, time.Time{}, []byte("From: Boss <user0002@contoso.example>\r\nSubject: "+long+"\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.must(findItem(0, 1, "Descending"), "<t:Subject>"+long[:2*findSubject]+"</t:Subject>", "/CN=USER0002</t:EmailAddress><t:RoutingType>EX<")
	c.must(getItem(id), "<t:Subject>"+long+"</t:Subject>", "<t:EmailAddress>user0002@contoso.example</t:EmailAddress><t:RoutingType>SMTP<")
}

func TestEveryPropertyCanBeAskedFor(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	var ids []string
	for _, raw := range []string{
		string(testMail("plain")),
		"From: a@b.example\r\nSender: c@d.example\r\nTo: x@y.example, \"Z, Q\" <z@y.example>\r\nCc: w@y.example\r\nReply-To: r@y.example\r\nSubject: Re: rich\r\n" +
			"In-Reply-To: <0@b.example>\r\nReferences: <0@b.example>\r\nContent-Type: text/html\r\n\r\n<p>Hi&nbsp;there</p>",
		"",
		"Subject: \xff\xfe bad \x01\x1f\r\n\r\n\x00\x01body",
		"Content-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR",
		"Content-Type: text/calendar; method=CANCEL\r\n\r\nBEGIN:VCALENDAR",
		"Content-Type: text/calendar; method=REPLY\r\n\r\nATTENDEE;PARTSTAT=DECLINED:x",
		"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nno\r\n--b--",
	} {
		id, err := s.Deliver(c.mailbox, time.Time{}, []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, base := range []string{"IdOnly", "Default", "AllProperties"} {
		for _, body := range []string{"HTML", "Text", "Best"} {
			get := strings.Replace(getItem(ids...), "<t:BaseShape>IdOnly</t:BaseShape>",
				"<t:BaseShape>"+base+"</t:BaseShape><t:IncludeMimeContent>true</t:IncludeMimeContent><t:BodyType>"+body+"</t:BodyType>", 1)
			text := c.must(get)
			if n := strings.Count(text, `ResponseClass="Success"`); n != len(ids) {
				t.Errorf("%s: %d of %d read: %s", base, n, len(ids), text)
			}
		}
		c.must(strings.Replace(findItem(0, 100, "Descending"), "IdOnly", base, 1), "<t:MeetingRequest>", "<t:MeetingCancellation>", "<t:MeetingResponse>")
	}
	c.must(strings.Replace(getItem(ids[0]), "item:Subject", "item:No Such", 1), "ErrorSchemaValidation")
	c.must(strings.Replace(getItem(ids[0]), "IdOnly", "Everything", 1), "ErrorSchemaValidation")
}

func TestFoldersTellCountsAndTheCommitTime(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	const get = `<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties><t:FieldURI FieldURI="folder:UnreadCount"/><t:FieldURI FieldURI="folder:TotalCount"/>` +
		`<t:ExtendedFieldURI PropertyTag="0x670a" PropertyType="SystemTime"/><t:ExtendedFieldURI PropertyTag="0x670b" PropertyType="Integer"/></t:AdditionalProperties></m:FolderShape>` +
		`<m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder>`
	c.must(get, "<t:TotalCount>0<", "<t:UnreadCount>0<")
	id := deliver(t, s, c.mailbox, "one")
	deliver(t, s, c.mailbox, "two")
	if err := s.Delete(c.mailbox, id); err != nil {
		t.Fatal(err)
	}
	body := c.must(get, "<t:TotalCount>1<", "<t:UnreadCount>1<", `PropertyTag="0x670a" PropertyType="SystemTime"/><t:Value>20`, `PropertyTag="0x670b" PropertyType="Integer"/><t:Value>1<`)
	folder := between(t, body, `<t:FolderId Id="`, `"`)
	c.must(strings.Replace(get, `<t:DistinguishedFolderId Id="inbox"/>`, `<t:FolderId Id="`+folder+`"/><t:FolderId Id="`+strings.ToUpper(folder)+`"/><t:DistinguishedFolderId Id="calendar"/>`, 1),
		"NoError", "ErrorInvalidIdMalformed", "ErrorFolderNotFound")
	for _, deep := range []string{"Deep", "Shallow", "SoftDeleted"} {
		c.must(`<m:FindFolder Traversal="`+deep+`"><m:FolderShape><t:BaseShape>AllProperties</t:BaseShape></m:FolderShape><m:ParentFolderIds><t:DistinguishedFolderId Id="root"/></m:ParentFolderIds></m:FindFolder>`, "NoError")
	}
	c.must(`<m:ResolveNames ReturnFullContactData="false"><m:UnresolvedEntry>user00</m:UnresolvedEntry></m:ResolveNames>`, c.mailbox)
	c.must(`<m:ResolveNames ReturnFullContactData="false"><m:UnresolvedEntry>nobody</m:UnresolvedEntry></m:ResolveNames>`, "ErrorNameResolutionNoResults")
	c.must(`<m:ConvertId DestinationFormat="HexEntryId"><m:SourceIds><t:AlternateId Format="EwsId" Id="`+folder+`" Mailbox="`+c.mailbox+`"/><t:AlternateId Format="EwsId" Id="DUMMY" Mailbox="x"/></m:SourceIds></m:ConvertId>`,
		`Format="HexEntryId" Id="00000000`, "ErrorInvalidIdMalformed")
}

func TestIDsSurviveOnlyUnchanged(t *testing.T) {
	g := guid.New()
	id := itemID(g, inbox, 1<<40)
	if box, number, ok := parseItemID(id); !ok || box != g || number != 1<<40 || len(id) != 152 {
		t.Errorf("%d characters, read as %v %d %t", len(id), box, number, ok)
	}
	b, err := base64.StdEncoding.DecodeString(id)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		changed := slices.Clone(b)
		changed[i] ^= 0x20
		if box, number, ok := parseItemID(base64.StdEncoding.EncodeToString(changed)); ok && box == g && number == 1<<40 && i != 2 && changed[idHead+2+4+16+2+16+5] == b[idHead+2+4+16+2+16+5] {
			t.Errorf("byte %d may be changed", i)
		}
	}
	if _, f, ok := parseFolderID(folderID(g, junk)); !ok || f != junk {
		t.Errorf("a folder's id reads as %d %t", f, ok)
	}
}

func TestRemovedMailboxIsGoneForItsStream(t *testing.T) {
	s := start(t, 2, Options{})
	c, other := newClient(t, s, s.Mailboxes()[0]), newClient(t, s, s.Mailboxes()[1])
	o := c.stream(c.subscribe(subscribeNewMail), other.subscribe(subscribeNewMail))
	if err := s.RemoveMailbox(c.mailbox); err != nil {
		t.Fatal(err)
	}
	if e := o.next(); !strings.Contains(e, "ErrorSubscriptionNotFound") || !strings.Contains(e, ">OK<") {
		t.Errorf("a stream with one subscription less: %s", e)
	}
	deliver(t, s, other.mailbox, "still notified")
	o.until("NewMailEvent")
	c.must(subscribeNewMail, "ErrorNonExistentMailbox")
	if err := s.RemoveMailbox(c.mailbox); err != ErrNoMailbox {
		t.Errorf("removed twice: %v", err)
	}
	if n := len(s.objects); n != 1 {
		t.Errorf("%d object ids are known for one mailbox", n)
	}
	for _, bad := range []string{"", "a", "@b", "a@", "a b@c.example", other.mailbox} {
		if err := s.AddMailbox(bad, OnPremises); err == nil {
			t.Errorf("%q became a mailbox", bad)
		}
	}
}

func TestAnswersCarryTheHeadersOfExchange(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	c.header.Set("client-request-id", "4711")
	c.header.Set("return-client-request-id", "true")
	resp, _ := c.call(subscribeNewMail)
	if resp.Header.Get("client-request-id") != "4711" || resp.Header.Get("request-id") == "" || resp.Header.Get("X-FEServer") == "" {
		t.Errorf("headers: %v", resp.Header)
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err != nil || time.Since(d).Abs() > 10*time.Second {
		t.Errorf("Date: %v, %v", d, err)
	}
}

func TestOpenStreamsEndWhenTheHostsClose(t *testing.T) {
	s := start(t, 1, Options{})
	c := newClient(t, s, s.Mailboxes()[0])
	o := c.stream(c.subscribe(subscribeNewMail))
	s.stop()
	for {
		e, err := o.read()
		if err != nil {
			break
		}
		if strings.Contains(e, ">Closed<") {
			t.Error("the stream ends as if its time were over")
		}
	}
}

func TestAMailboxSendsItselfAMessageThatArrivesAsNewMail(t *testing.T) {
	s := start(t, 1, Options{})
	at := s.Mailboxes()[0]
	c := newClient(t, s, at)
	create := func(disposition, to string) string {
		_, body := c.call(`<m:CreateItem MessageDisposition="` + disposition + `"><m:Items><t:Message><t:Subject>Grüße</t:Subject><t:Body BodyType="Text">Hello.</t:Body>` +
			`<t:ToRecipients><t:Mailbox><t:EmailAddress>` + to + `</t:EmailAddress></t:Mailbox></t:ToRecipients></t:Message></m:Items></m:CreateItem>`)
		return body
	}
	if body := create("SendOnly", at); !strings.Contains(body, "NoError") {
		t.Fatal(body)
	}
	if _, body := c.call(findItem(0, 10, "Descending")); !strings.Contains(body, "Grüße") || !strings.Contains(body, `TotalItemsInView="1"`) {
		t.Errorf("it is not in the Inbox: %s", body)
	}
	for want, body := range map[string]string{"ErrorInvalidRecipients": create("SendOnly", "nobody@contoso.example"), "ErrorInvalidRequest": create("SaveOnly", at)} {
		if !strings.Contains(body, want) {
			t.Errorf("want %s: %s", want, body)
		}
	}
}
