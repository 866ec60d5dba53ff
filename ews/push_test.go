package ews

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/google/go-cmp/cmp"
)

// pushedStatus is the SendNotification that Exchange 2016 was recorded to send, and pushedPost one with two new messages.
const (
	pushedStatus = `<?xml version="1.0" encoding="utf-8"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">
    <s:Header><t:RequestServerVersion xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" Version="Exchange2016"/></s:Header>
    <s:Body>
        <m:SendNotification xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">
            <m:ResponseMessages>
                <m:SendNotificationResponseMessage ResponseClass="Success">
                    <m:ResponseCode>NoError</m:ResponseCode>
                    <m:Notification>
                        <t:SubscriptionId>XXXXX=</t:SubscriptionId>
                        <t:PreviousWatermark>AAAAA=</t:PreviousWatermark>
                        <t:MoreEvents>false</t:MoreEvents>
                        <t:StatusEvent><t:Watermark>BBBBB=</t:Watermark></t:StatusEvent>
                    </m:Notification>
                </m:SendNotificationResponseMessage>
            </m:ResponseMessages>
        </m:SendNotification>
    </s:Body>
</s:Envelope>`
	pushedMail = `<t:NewMailEvent><t:Watermark>%s</t:Watermark><t:TimeStamp>2026-11-28T10:00:00Z</t:TimeStamp>` +
		`<t:ItemId Id="%s" ChangeKey="x"/><t:ParentFolderId Id="inbox" ChangeKey="y"/></t:NewMailEvent>`
)

var pushedPost = strings.Replace(pushedStatus, `<t:StatusEvent><t:Watermark>BBBBB=</t:Watermark></t:StatusEvent>`,
	fmt.Sprintf(pushedMail, "BBBBB=", "AAMk1")+`<t:ModifiedEvent><t:Watermark>CCCCC=</t:Watermark><t:ItemId Id="other"/></t:ModifiedEvent>`+fmt.Sprintf(pushedMail, "DDDDD=", "AAMk&amp;2"), 1)

func TestANotificationIsReadByLocalNames(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want []Pushed
	}{
		"a status":          {pushedStatus, []Pushed{{Subscription: "XXXXX=", Previous: "AAAAA=", Watermark: "BBBBB="}}},
		"new mail":          {pushedPost, []Pushed{{Subscription: "XXXXX=", Previous: "AAAAA=", Watermark: "DDDDD=", Items: []string{"AAMk1", "AAMk&2"}}}},
		"other namespaces":  {strings.NewReplacer("<t:", "<x:", "</t:", "</x:", "<m:", "<", "</m:", "</").Replace(pushedPost), []Pushed{{Subscription: "XXXXX=", Previous: "AAAAA=", Watermark: "DDDDD=", Items: []string{"AAMk1", "AAMk&2"}}}},
		"something behind":  {pushedStatus + "\n\n", []Pushed{{Subscription: "XXXXX=", Previous: "AAAAA=", Watermark: "BBBBB="}}},
		"an error":          {strings.NewReplacer("Success", "Error", "NoError", "ErrorMissedNotificationEvents").Replace(pushedStatus), []Pushed{{Subscription: "XXXXX=", Previous: "AAAAA=", Watermark: "BBBBB=", Code: "ErrorMissedNotificationEvents"}}},
		"no notification":   {`<Envelope><Body><SendNotification><ResponseMessages><SendNotificationResponseMessage/></ResponseMessages></SendNotification></Body></Envelope>`, []Pushed{{}}},
		"two subscriptions": {`<E:Envelope><Body><SendNotification><R><M><Notification><SubscriptionId>1</SubscriptionId></Notification></M><M><Notification><SubscriptionId>2</SubscriptionId></Notification></M></R></SendNotification></Body></E:Envelope>`, []Pushed{{Subscription: "1"}, {Subscription: "2"}}},
	} {
		got, err := new(Posts).Read(strings.NewReader(test.body))
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestWhatIsNoNotificationIsRefusedAndNeverQuoted(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":          "",
		"text":             "hunter2",
		"another document": "<hunter2/>",
		"another body":     "<Envelope><Body><hunter2/></Body></Envelope>",
		"cut off":          pushedPost[:len(pushedPost)/2],
		"a document type":  `<!DOCTYPE hunter2 [<!ENTITY a "hunter2">]>` + pushedStatus,
		"a late DTD":       strings.Replace(pushedStatus, "<s:Body>", `<!DOCTYPE hunter2><s:Body>`, 1),
		"too large":        strings.Replace(pushedStatus, "<s:Body>", "<s:Body>"+strings.Repeat(" ", MaxNotification), 1),
		"too deep":         "<Envelope>" + strings.Repeat("<hunter2>", 100),
		"UTF-16":           "\xff\xfe<\x00E\x00",
		"wrong tags":       strings.Replace(pushedStatus, "</s:Body>", "</s:hunter2>", 1),
	} {
		list, err := new(Posts).Read(strings.NewReader(body))
		switch {
		case err == nil:
			t.Errorf("%s: %+v", name, list)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unending never ends.
type unending struct{ read int }

func (e *unending) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

func TestOfANotificationThatDoesNotEndNoMoreIsReadThanIsAllowed(t *testing.T) {
	for _, begin := range []string{"", "<Envelope>", "<Envelope a='", "<!--"} {
		e := &unending{}
		if _, err := new(Posts).Read(io.MultiReader(strings.NewReader(begin), e)); err == nil {
			t.Errorf("%q is read", begin)
		}
		if e.read > MaxNotification+keptBuffer {
			t.Errorf("%q: %d bytes were read", begin, e.read)
		}
	}
}

func TestTheAnswersToANotificationAreValid(t *testing.T) {
	schema := preparedSchema(t)
	for want, answer := range map[string]string{"OK": ResultOK, "Unsubscribe": ResultUnsubscribe} {
		doc := etree.NewDocument()
		if err := doc.ReadFromString(answer); err != nil {
			t.Fatal(err)
		}
		result := doc.FindElement("/Envelope/Body/SendNotificationResult")
		if result == nil || result.FindElement("SubscriptionStatus").Text() != want {
			t.Fatalf("%s: %s", want, answer)
		}
		file := filepath.Join(t.TempDir(), "result.xml")
		if err := etree.NewDocumentWithRoot(result.Copy()).WriteToFile(file); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "xmllint", "--noout", "--schema", schema, file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", want, err, out)
		}
	}
}

func TestAPushSubscriptionHasItsIDAndWatermark(t *testing.T) {
	answer, err := os.ReadFile(filepath.Join("..", "testdata", "ews", "14-subscribe-push-response.xml"))
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(answer))}, nil
	})})
	id, watermark, _, err := c.SubscribePush(t.Context(), target, Push{URL: "https://bell.contoso.example/", Secret: "s3cr3t"})
	if id != "83826921-afdf-48be-b469-628cc02b5f49" || watermark != "AQAAAOpvG0LURVdOhQkPOWZLPcI8EgAAAAAAAAE=" || err != nil {
		t.Errorf("%q, %q, %v", id, watermark, err)
	}
}

func TestAStatusFrequencyIsOfWholeMinutesWithinTheSchema(t *testing.T) {
	for frequency, want := range map[time.Duration]string{0: ">1<", time.Second: ">1<", time.Minute + 1: ">2<", 5 * time.Minute: ">5<", 24 * time.Hour: ">1440<", 48 * time.Hour: ">1440<"} {
		var b bytes.Buffer
		subscribePush(Push{Frequency: frequency})(&b, version2013)
		if !strings.Contains(b.String(), "StatusFrequency"+want) {
			t.Errorf("%v: %s", frequency, b.String())
		}
	}
}

func TestTheSecretOfACallbackIsInNoError(t *testing.T) {
	const secret = "0123456789abcdefghijkl"
	for _, text := range []string{
		"The URL 'https://bell.contoso.example/callbacks/ews/" + secret + "' is not valid.",
		strings.Repeat("x", maxServerText-12) + " " + secret, // cut within the secret
		secret + secret,
	} {
		answer := `<Envelope><Body><SubscribeResponse><ResponseMessages><SubscribeResponseMessage ResponseClass="Error"><MessageText>` + text +
			`</MessageText><ResponseCode>ErrorInvalidPushSubscriptionUrl</ResponseCode></SubscribeResponseMessage></ResponseMessages></SubscribeResponse></Body></Envelope>`
		c := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer))}, nil
		})})
		_, _, _, err := c.SubscribePush(t.Context(), target, Push{URL: "https://bell.contoso.example/callbacks/ews/", Secret: secret})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Fault.Code != "ErrorInvalidPushSubscriptionUrl" || !e.Fault.Untold {
			t.Fatalf("%v", err)
		}
		if strings.Contains(err.Error(), secret[:leastHidden]) {
			t.Errorf("%v", err)
		}
	}
}

// Whoever finds the URL may post anything.
func FuzzNotification(f *testing.F) {
	for _, seed := range []string{pushedStatus, pushedPost, "", "<a", "<Envelope/>", "<!DOCTYPE a>" + pushedStatus, pushedPost[:700], "\xef\xbb\xbf" + pushedStatus, strings.ReplaceAll(pushedStatus, ">", "&gt;>")} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := new(Posts).Read(bytes.NewReader(body))
		if (err == nil) != (len(list) > 0) {
			t.Errorf("%d notifications, %v", len(list), err)
		}
		if len(body) > MaxNotification && err == nil && !bytes.Contains(body[:MaxNotification], []byte("Envelope")) {
			t.Error("too large, and read")
		}
		for _, n := range list {
			for _, item := range n.Items {
				if item == "" {
					t.Error("an item without an id")
				}
			}
		}
		slow, slowErr := new(Posts).Read(oneByOne{bytes.NewReader(body)})
		if (err == nil) != (slowErr == nil) || cmp.Diff(list, slow) != "" {
			t.Errorf("read at once %v (%v), byte by byte %v (%v)", list, err, slow, slowErr)
		}
	})
}

// oneByOne is a slow reader.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }
