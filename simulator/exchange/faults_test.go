package exchange

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

func set(t *testing.T, s *service, name string, f faults.Fault) {
	t.Helper()
	if err := s.SetFault(name, f); err != nil {
		t.Fatal(err)
	}
}

func clearFault(t *testing.T, s *service, name string) {
	t.Helper()
	if err := s.ClearFault(name); err != nil {
		t.Fatal(err)
	}
}

// pair is a simulator with a client on each of two mailboxes.
func pair(t *testing.T) (*service, *ewsClient, *ewsClient) {
	t.Helper()
	s := start(t, 2, Options{})
	return s, newClient(t, s, s.Mailboxes()[0]), newClient(t, s, s.Mailboxes()[1])
}

func TestCutStreamsEndWithoutClosed(t *testing.T) {
	for _, name := range []string{streamFIN, streamRST} {
		t.Run(name, func(t *testing.T) {
			s, a, b := pair(t)
			idA := a.subscribe(subscribeNewMail)
			cutOne, spared := a.stream(idA), b.stream(b.subscribe(subscribeNewMail))
			set(t, s, name, faults.Fault{Mailbox: a.mailbox})
			e, err := cutOne.read()
			if err == nil || err == io.EOF || strings.Contains(e, "Closed") {
				t.Fatalf("%q, %v", e, err)
			}
			if reset := strings.Contains(err.Error(), "reset"); reset != (name == streamRST) {
				t.Errorf("the end is %v", err)
			}
			deliver(t, s, a.mailbox, "meanwhile")
			deliver(t, s, b.mailbox, "one")
			spared.until("NewMailEvent")
			a.stream(idA).until("NewMailEvent") // the subscription lives on
			for _, f := range s.Faults() {
				if f.Set != nil {
					t.Errorf("%s is still set", f.Name)
				}
			}
		})
	}
}

func TestHalfAnEnvelopeTakesItsEventsAlong(t *testing.T) {
	s, a, _ := pair(t)
	id := a.subscribe(subscribeNewMail)
	o := a.stream(id)
	set(t, s, streamHalf, faults.Fault{Count: 1, Mailbox: a.mailbox})
	lost := deliver(t, s, a.mailbox, "lost")
	e, err := o.read()
	if err == nil || !strings.HasPrefix(e, "<s:Envelope") || strings.Contains(e, "</s:Envelope>") {
		t.Fatalf("%q, %v", e, err)
	}
	o = a.stream(id)
	deliver(t, s, a.mailbox, "notified")
	if e := o.until("NewMailEvent"); strings.Contains(e, lost) {
		t.Error("an event came twice")
	}
}

func TestSilentStreamSaysNothingUntilTheFaultEnds(t *testing.T) {
	s := start(t, 1, Options{Heartbeat: 5 * time.Millisecond})
	c := newClient(t, s, s.Mailboxes()[0])
	o := c.stream(c.subscribe(subscribeNewMail))
	set(t, s, streamSilent, faults.Fault{Mailbox: c.mailbox})
	read := make(chan string, 1)
	go func() {
		for {
			e, err := o.read()
			if err != nil || strings.Contains(e, "NewMailEvent") {
				read <- e
				return
			}
		}
	}()
	deliver(t, s, c.mailbox, "held")
	select {
	case e := <-read:
		t.Fatalf("a silent stream told %s", e)
	case <-time.After(100 * time.Millisecond):
	}
	clearFault(t, s, streamSilent)
	select {
	case <-read:
	case <-time.After(soon):
		t.Fatal("nothing came after the fault")
	}
}

func TestDroppedAndDoubledEvents(t *testing.T) {
	s, a, b := pair(t)
	o := a.stream(a.subscribe(subscribeNewMail), b.subscribe(subscribeNewMail))
	set(t, s, eventsDropped, faults.Fault{Mailbox: a.mailbox, Count: 1})
	deliver(t, s, b.mailbox, "notified")
	lost := deliver(t, s, a.mailbox, "lost")
	notified := deliver(t, s, a.mailbox, "notified")
	if e := o.until(notified); strings.Contains(e, lost) {
		t.Error("the dropped event came")
	}
	a.must(findItem(0, 9, "Descending"), `TotalItemsInView="2"`)
	set(t, s, eventsDoubled, faults.Fault{})
	twice := deliver(t, s, a.mailbox, "twice")
	if e := o.until(twice); strings.Count(e, twice) != 2 {
		t.Errorf("not twice: %s", e)
	}
}

func TestReorderedEventsComeBehindTheNextOrWhenTheFaultEnds(t *testing.T) {
	s, a, _ := pair(t)
	o := a.stream(a.subscribe(subscribeNewMail))
	set(t, s, eventsReordered, faults.Fault{Mailbox: a.mailbox})
	first := deliver(t, s, a.mailbox, "first")
	second := deliver(t, s, a.mailbox, "second")
	if e := o.until("NewMailEvent"); !strings.Contains(e, second) || strings.Index(e, first) < strings.Index(e, second) {
		t.Errorf("not the second before the first: %s", e)
	}
	third := deliver(t, s, a.mailbox, "third")
	clearFault(t, s, eventsReordered)
	if e := o.until("NewMailEvent"); strings.Count(e, "<t:NewMailEvent>") != 1 || !strings.Contains(e, third) {
		t.Errorf("after the fault: %s", e)
	}
}

func TestMailboxThatMovesEndsItsSubscriptionsAndRefusesCalls(t *testing.T) {
	s, a, b := pair(t)
	id := a.subscribe(subscribeNewMail)
	o := a.stream(id, b.subscribe(subscribeNewMail))
	set(t, s, mailboxMove, faults.Fault{Mailbox: a.mailbox})
	e := o.next()
	for _, want := range []string{"<m:ResponseCode>ErrorInvalidSubscription<", "Event type = MailboxMoveStarted", id, ">OK<"} {
		if !strings.Contains(e, want) {
			t.Errorf("no %q in what the stream is told: %s", want, e)
		}
	}
	for _, body := range []string{subscribeNewMail, getItem("x"), findItem(0, 1, "Descending"), getStreamingEvents(1, id)} {
		a.must(body, "<m:ResponseCode>ErrorMailboxMoveInProgress<")
	}
	item := deliver(t, s, b.mailbox, "to one that stays")
	o.until(item)
	b.must(getItem(item), "NoError")
	clearFault(t, s, mailboxMove)
	a.must(getStreamingEvents(1, id), "ErrorSubscriptionNotFound")
	o = a.stream(a.subscribe(subscribeNewMail))
	o.until(deliver(t, s, a.mailbox, "moved"))
	set(t, s, mailboxMove, faults.Fault{Seconds: 0.05})
	if e := o.next(); !strings.Contains(e, "ErrorInvalidSubscription") {
		t.Errorf("a move of all: %s", e)
	}
	waitFor(t, "the end of the move", func() bool { _, text := a.call(subscribeNewMail); return strings.Contains(text, "NoError") })
}

func TestServerIsBusyInEveryShape(t *testing.T) {
	s, a, _ := pair(t)
	const value = `<t:Value Name="`
	for shape, want := range map[string]struct {
		status int
		retry  string
		text   []string
	}{
		"":          {500, "", []string{"<faultcode", "a:ErrorServerBusy", value + `BackOffMilliseconds">10000<`}},
		busyFault:   {500, "", []string{"<faultcode", "a:ErrorServerBusy", value + `BackOffMilliseconds">10000<`}},
		busyMessage: {200, "", []string{"<m:ResponseCode>ErrorServerBusy<", value + `BackOffMilliseconds">10000<`}},
		busyInner:   {200, "", []string{"<m:ResponseCode>ErrorInternalServerError<", value + `InnerErrorResponseCode">ErrorServerBusy<`}},
		busyHTTP:    {503, "10", nil},
	} {
		set(t, s, serverBusy, faults.Fault{Reason: shape})
		for _, body := range []string{subscribeNewMail, getItem("x"), findItem(0, 1, "Descending"), getStreamingEvents(1, "x")} {
			resp, text := a.call(body)
			if resp.StatusCode != want.status || resp.Header.Get("Retry-After") != want.retry || want.text == nil && text != "" {
				t.Errorf("%q: %d, Retry-After %q: %s", shape, resp.StatusCode, resp.Header.Get("Retry-After"), text)
			}
			for _, w := range want.text {
				if !strings.Contains(text, w) {
					t.Errorf("%q: no %q in %s", shape, w, text)
				}
			}
		}
	}
	set(t, s, serverBusy, faults.Fault{Reason: busyHTTP, Seconds: 1.5})
	if resp, _ := a.call(subscribeNewMail); resp.Header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q of 1.5 s", resp.Header.Get("Retry-After"))
	}
}

func TestLostSubscriptionsAreToldToTheirStream(t *testing.T) {
	s, a, b := pair(t)
	idA, idB := a.subscribe(subscribeNewMail), b.subscribe(subscribeNewMail)
	o := a.stream(idA, idB)
	set(t, s, subscriptionsLost, faults.Fault{Mailbox: a.mailbox})
	if e := o.next(); !strings.Contains(e, "ErrorSubscriptionNotFound") || !strings.Contains(e, idA) || strings.Contains(e, idB) || !strings.Contains(e, ">OK<") {
		t.Errorf("told %s", e)
	}
	set(t, s, subscriptionsLost, faults.Fault{})
	if e := o.next(); !strings.Contains(e, idB) || !strings.Contains(e, ">Closed<") {
		t.Errorf("told %s", e)
	}
	a.must(getStreamingEvents(1, idA), "ErrorSubscriptionNotFound")
}

func TestRefusalsMeetTheirMailboxOnlyAndAsOftenAsSaid(t *testing.T) {
	s, a, b := pair(t)
	for name, want := range map[string]struct {
		status int
		text   string
	}{
		wrongPassword:        {401, ""},
		mailboxUnknown:       {500, "a:ErrorNonExistentMailbox"},
		impersonationRefused: {500, "a:ErrorImpersonateUserDenied"},
		serverBusy:           {500, `<t:Value Name="BackOffMilliseconds">10000</t:Value>`},
		exchangeAnswer:       {200, "<m:ResponseCode>ErrorInternalServerTransientError</m:ResponseCode>"},
		answerGarbage:        {200, "no XML"},
		answerEntities:       {200, "<!ENTITY"},
		answerPage:           {200, "<!DOCTYPE html>"},
	} {
		set(t, s, name, faults.Fault{Mailbox: a.mailbox, Count: 2})
		for i := range 3 {
			if _, text := b.call(subscribeNewMail); !strings.Contains(text, "NoError") {
				t.Errorf("%s: another mailbox: %s", name, text)
			}
			resp, text := a.call(subscribeNewMail)
			met := resp.StatusCode == want.status && strings.Contains(text, want.text)
			if i < 2 && !met || i == 2 && !strings.Contains(text, "NoError") {
				t.Errorf("%s, request %d: %d %s", name, i, resp.StatusCode, text)
			}
		}
	}
	if n := s.Counts().Unauthorized; n != 2 {
		t.Errorf("%d times 401", n)
	}
	set(t, s, wrongPassword, faults.Fault{})
	if resp, _ := b.call(subscribeNewMail); resp.StatusCode != 401 {
		t.Errorf("a wrong password for all: %d", resp.StatusCode)
	}
	clearFault(t, s, wrongPassword)
	set(t, s, serverBusy, faults.Fault{Seconds: 2})
	if ms := between(t, a.must(subscribeNewMail), `BackOffMilliseconds">`, "<"); ms < "1000" || ms > "2000" {
		t.Errorf("a back-off of %s ms of 2 s", ms)
	}
	waitFor(t, "the end of the fault", func() bool { _, text := a.call(subscribeNewMail); return strings.Contains(text, "NoError") })
	set(t, s, exchangeAnswer, faults.Fault{Status: 503, Count: 1})
	if resp, _ := a.call(subscribeNewMail); resp.StatusCode != 503 {
		t.Errorf("a bare status: %d", resp.StatusCode)
	}
	set(t, s, exchangeAnswer, faults.Fault{Reason: "ErrorMailboxMoveInProgress", Count: 2})
	if text := a.must(getItem("a", "b", "c")); strings.Count(text, "ErrorMailboxMoveInProgress") != 3 {
		t.Errorf("not for each item: %s", text)
	}
	a.must(getStreamingEvents(1, "x"), "ErrorMailboxMoveInProgress")
}

func TestItemFaults(t *testing.T) {
	s, a, _ := pair(t)
	id := deliver(t, s, a.mailbox, "sick")
	set(t, s, itemUnreadable, faults.Fault{Mailbox: a.mailbox, Count: 1})
	a.must(getItem(id, id), "ErrorItemCorrupt", "NoError")
	a.must(findItem(0, 9, "Descending"), "sick")
	set(t, s, receivedAsSent, faults.Fault{})
	if text := a.must(getItem(id)); between(t, text, "<t:DateTimeReceived>", "<") != between(t, text, "<t:DateTimeSent>", "<") {
		t.Errorf("a read tells another time: %s", text)
	}
	if got := between(t, a.must(findItem(0, 9, "Descending")), "<t:DateTimeReceived>", "<"); got == "2026-11-22T09:00:00Z" {
		t.Errorf("a listing tells the Date too")
	}
}

func TestControlCharactersComeAsReferencesAndRaw(t *testing.T) {
	s := start(t, 1, Options{OnMessage: func(string, string, []byte) {}}) // not to be validated
	a := newClient(t, s, s.Mailboxes()[0])
	id := deliver(t, s, a.mailbox, "x")
	set(t, s, answerControlChars, faults.Fault{Count: 1})
	a.must(getItem(id), "<t:Subject>&#x1F;&#x0;x\x01\x0b")
	a.must(getItem(id), "<t:Subject>x</t:Subject>")
	set(t, s, answerUnescaped, faults.Fault{Count: 1})
	a.must(getItem(id), "<t:Subject>Tom & Jerry, 1 < 2, &nbsp; x</t:Subject>")
	a.must(getItem(id), "<t:Subject>x</t:Subject>")
}

func TestHugeAnswerGoesOnAsLongAsSomeoneReads(t *testing.T) {
	s, a, _ := pair(t)
	set(t, s, answerHuge, faults.Fault{Count: 1})
	resp, err := a.send(s.EWSURL, a.envelope(subscribeNewMail))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyN(io.Discard, resp.Body, 64<<20); err != nil {
		t.Errorf("%d bytes, then %v", n, err)
	}
	resp.Body.Close()
}

func TestRestartForgetsSubscriptionsAndStaysAway(t *testing.T) {
	s, a, _ := pair(t)
	id := a.subscribe(subscribeNewMail)
	o := a.stream(id)
	set(t, s, serverRestart, faults.Fault{Seconds: 30})
	if _, err := o.read(); err == nil || err == io.EOF {
		t.Errorf("a stream ends with %v", err)
	}
	if resp, err := a.send(s.EWSURL, ""); err == nil {
		resp.Body.Close()
		t.Error("the server answers while it is away")
	}
	set(t, s, serverRestart, faults.Fault{Seconds: 0.01}) // and is back
	waitFor(t, "the server", func() bool {
		resp, err := a.send(s.EWSURL, a.envelope(getStreamingEvents(1, id)))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(text), "ErrorSubscriptionNotFound")
	})
}

func TestClockOfExchangeCanBeWrong(t *testing.T) {
	s, a, _ := pair(t)
	set(t, s, faults.ClockSkew.Name, faults.Fault{Seconds: 48 * 3600})
	id := deliver(t, s, a.mailbox, "from the day after tomorrow")
	resp, text := a.call(getItem(id))
	for what, value := range map[string]string{"Date": resp.Header.Get("Date"), "received": between(t, text, "<t:DateTimeReceived>", "<")} {
		at, err := http.ParseTime(value)
		if err != nil {
			at, err = time.Parse(time.RFC3339, value)
		}
		if err != nil || (time.Until(at)-48*time.Hour).Abs() > time.Minute {
			t.Errorf("%s: %s, %v", what, value, err)
		}
	}
	set(t, s, faults.ClockSkew.Name, faults.Fault{Seconds: -60})
	resp, _ = a.call(getItem(id))
	if at, err := http.ParseTime(resp.Header.Get("Date")); err != nil || time.Since(at) < 30*time.Second {
		t.Errorf("Date: %v, %v", at, err)
	}
}

func TestDelayMeetsOperationsNotStreams(t *testing.T) {
	s, a, _ := pair(t)
	o := a.stream(a.subscribe(subscribeNewMail))
	set(t, s, exchangeDelay, faults.Fault{Seconds: 0.05, Mailbox: a.mailbox})
	began := time.Now()
	a.must(findItem(0, 1, "Descending"), "NoError")
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
	deliver(t, s, a.mailbox, "one")
	o.until("NewMailEvent")
}

func TestAServerAtItsLimitAnswersInClearBeforeTLS(t *testing.T) {
	s := start(t, 1, Options{})
	set(t, s, connectionsFull, faults.Fault{Count: 1})
	address := strings.TrimSuffix(strings.TrimPrefix(s.EWSURL, "https://"), "/EWS/Exchange.asmx")
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if said, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 503 Service Unavailable\r\n") {
		t.Errorf("%q, %v", said, err)
	}
	newClient(t, s, s.Mailboxes()[0]).must(subscribeNewMail, "NoError") // the next one is let in
}
