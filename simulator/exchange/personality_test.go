package exchange

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// startGromox runs one whose messages are not validated: they are not valid.
func startGromox(t *testing.T, heartbeat time.Duration) (*service, *ewsClient, *ewsClient) {
	t.Helper()
	s := start(t, 2, Options{Personality: Gromox, Heartbeat: heartbeat, OnMessage: func(string, string, []byte) {}})
	return s, newClient(t, s, s.Mailboxes()[0]), newClient(t, s, s.Mailboxes()[1])
}

// gromoxID is the id in the answer to a Subscribe.
func (c *ewsClient) gromoxID() string {
	c.t.Helper()
	return c.subscribe(subscribeNewMail)
}

func TestPersonalityIsKnown(t *testing.T) {
	if s, err := New(Options{Personality: "domino"}); err == nil || !strings.Contains(err.Error(), `"domino"`) {
		t.Errorf("%v, %v", s, err)
	}
}

func TestGromoxFaultsHaveStatus200AndNoDetail(t *testing.T) {
	s, a, _ := startGromox(t, time.Minute)
	refused := func(body, code string) {
		t.Helper()
		resp, text := a.call(body)
		if resp.StatusCode != 200 || !strings.Contains(text, `<faultcode xsi:type="xsd:string">`+code+"</faultcode>") || strings.Contains(text, "etail") {
			t.Errorf("not %s: %d %s", code, resp.StatusCode, text)
		}
	}
	set(t, s, serverBusy, faults.Fault{Count: 1})
	refused(subscribeNewMail, "ErrorServerBusy")
	refused("<m:GetStreamingEvents/>", "SOAP:Client")
	a.mailbox = "nobody@contoso.example"
	refused(subscribeNewMail, "ErrorCannotFindUser")
}

func TestGromoxHasItsOwnNamespacesAndPrefixes(t *testing.T) {
	s, a, _ := startGromox(t, 10*time.Millisecond)
	const open = `<SOAP:Envelope xmlns:SOAP="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">` +
		`<SOAP:Header><t:ServerVersionInfo xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" MajorVersion="15" MinorVersion="0" MajorBuildNumber="847" MinorBuildNumber="4040" Version="V2017_07_11"/></SOAP:Header><SOAP:Body>`
	text := a.must(subscribeNewMail, "<m:SubscriptionId>")
	if !strings.HasPrefix(text, xmlDeclaration+open+"<m:SubscribeResponse ") || !strings.HasSuffix(text, "</m:SubscribeResponse></SOAP:Body></SOAP:Envelope>") {
		t.Errorf("%s", text)
	}
	id := between(t, text, "<m:SubscriptionId>", "<")
	o := a.stream(id)
	e := o.until("StatusEvent")
	if want := "<m:Notifications><m:Notification><t:SubscriptionId>" + id + "</t:SubscriptionId><t:MoreEvents>false</t:MoreEvents><t:StatusEvent/></m:Notification></m:Notifications>"; !strings.HasPrefix(e, open) || !strings.Contains(e, want) {
		t.Errorf("a heartbeat: %s", e)
	}
	set(t, s, subscriptionsLost, faults.Fault{Mailbox: a.mailbox})
	o.until("<m:ErrorSubscriptionIds><SubscriptionId>" + id + "</SubscriptionId></m:ErrorSubscriptionIds>") // without a namespace
}

func TestGromoxHasAutodiscoverAsPlainXML(t *testing.T) {
	s, a, _ := startGromox(t, time.Minute)
	ask := func(address string) string {
		resp, err := a.send(s.AutodiscoverURL, `<Autodiscover xmlns="`+nsAutodiscoverRequest+`"><Request><EMailAddress>`+address+`</EMailAddress><AcceptableResponseSchema>`+nsAutodiscoverResponse+`</AcceptableResponseSchema></Request></Autodiscover>`)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d, %v", resp.StatusCode, err)
		}
		return string(text)
	}
	if text := ask("nobody@contoso.example"); !strings.Contains(text, "<ErrorCode>404</ErrorCode><Message>Not Found</Message>") {
		t.Errorf("%s", text)
	}
	text := ask(a.mailbox)
	for kind, has := range map[string]bool{"EXHTTP": true, "EXCH": true, "EXPR": false} {
		if strings.Contains(between(t, text, "<Protocol><Type>"+kind+"</Type>", "</Protocol>"), "<EwsUrl>") != has {
			t.Errorf("%s has a URL of EWS: want %v: %s", kind, has, text)
		}
	}
}

func TestGromoxRefusesChunkedRequests(t *testing.T) {
	s, a, _ := startGromox(t, time.Minute)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.EWSURL, io.NopCloser(strings.NewReader(a.envelope(subscribeNewMail)))) // of unknown length
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(a.user, a.password)
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusLengthRequired {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestGromoxTimesHaveSixDigitsAndDifferByCall(t *testing.T) {
	s, a, _ := startGromox(t, time.Minute)
	id := deliver(t, s, a.mailbox, "one")
	received, sent := map[string]bool{}, map[string]bool{}
	form := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	for _, body := range []string{getItem(id), findItem(0, 1, "Descending"), getItem(id)} {
		text := a.must(body)
		at := between(t, text, "<t:DateTimeReceived>", "<")
		if !form.MatchString(at) {
			t.Errorf("a time as %q", at)
		}
		received[at] = true
		if strings.Contains(text, "DateTimeSent") {
			sent[between(t, text, "<t:DateTimeSent>", ".")] = true // without the fraction
		}
	}
	if len(received) != 3 || len(sent) != 1 {
		t.Errorf("received times %v, times sent %v", received, sent)
	}
}

func TestGromoxTellsEventsWithTheNextHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, c := bareExchange(t)
		x.gromox = true
		w, done := record(x, c.request(t.Context(), subscribeNewMail))
		<-done
		id := between(t, w.Body.String(), "<m:SubscriptionId>", "</m:SubscriptionId>")
		began := time.Now()
		w, done = record(x, c.request(t.Context(), getStreamingEvents(1, id)))
		<-time.After(time.Second) // the bubble's clock
		if _, err := x.deliver(c.mailbox, time.Time{}, testMail("one")); err != nil {
			t.Fatal(err)
		}
		<-done
		body := w.Body.String()
		for _, want := range []string{"<m:Notifications/>", "<t:NewMailEvent><t:TimeStamp>" + began.Add(DefaultHeartbeat).UTC().Format(gromoxTime), "<m:Notification><t:SubscriptionId>" + id + "</t:SubscriptionId><t:MoreEvents>false</t:MoreEvents>", "<t:StatusEvent/>"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in %s", want, body)
			}
		}
		if strings.Contains(body, "Watermark") {
			t.Errorf("a watermark: %s", body)
		}
	})
}

func TestGromoxServesOneMailboxPerStreamAndGoesOnAfterItsErrors(t *testing.T) {
	s, a, b := startGromox(t, 10*time.Millisecond)
	idA, idB := a.gromoxID(), b.gromoxID()
	if idA != "AQAAAB4AAAA=" || idB != "AgAAAB4AAAA=" { // two small numbers, and minutes
		t.Errorf("ids %s and %s", idA, idB)
	}
	resp, err := a.send(s.EWSURL, a.envelope(getStreamingEvents(30, idA, idB, "99")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	o := &openStream{t, resp, bufio.NewReader(resp.Body)}
	for _, want := range [][]string{
		{"ErrorInvalidSubscription", "<SubscriptionId>" + idB + "</SubscriptionId><SubscriptionId>99</SubscriptionId>", ">Closed<"},
		{"NoError", ">OK<"},
	} {
		e := o.next()
		for _, w := range want {
			if !strings.Contains(e, w) {
				t.Errorf("no %q in %s", w, e)
			}
		}
	}
	b.must(`<m:Unsubscribe><m:SubscriptionId>`+idA+`</m:SubscriptionId></m:Unsubscribe>`, "ErrorSubscriptionAccessDenied")
	o.until(deliver(t, s, a.mailbox, "to the one that is impersonated"))
	set(t, s, subscriptionsLost, faults.Fault{Mailbox: a.mailbox})
	o.until("ErrorInvalidSubscription")
	for range 3 { // a stream of nothing beats
		if e := o.next(); !strings.Contains(e, ">OK<") {
			t.Errorf("told %s", e)
		}
	}
}

func TestGromoxUsesIDsAgainAfterARestart(t *testing.T) {
	s, a, b := startGromox(t, 10*time.Millisecond)
	idA := a.gromoxID()
	set(t, s, serverRestart, faults.Fault{Seconds: 0.01})
	var idB string
	waitFor(t, "the server", func() bool {
		resp, err := b.send(s.EWSURL, b.envelope(subscribeNewMail))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return false
		}
		idB = between(t, string(text), "<m:SubscriptionId>", "<")
		return true
	})
	if idA != idB {
		t.Errorf("ids %s and %s", idA, idB)
	}
}
