package listener

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// served is a server without a network.
type served func(r *http.Request, body string) (status int, answer string)

func (f served) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(b)
	}
	status, answer := f(r, body)
	kind := "application/json"
	if strings.HasPrefix(answer, "<") {
		kind = "text/xml"
	}
	return &http.Response{
		StatusCode: status, Request: r, Header: http.Header{"Content-Type": {kind}, "Date": {"Sat, 28 Nov 2026 14:00:00 GMT"}}, Body: io.NopCloser(strings.NewReader(answer)),
	}, nil
}

const graphBase = "https://graph.microsoft.com"

func byGraph(f served) Graph {
	return Graph{graph.New(graph.Options{HTTP: f, Base: graphBase})}
}

func byEWS(f served) EWS {
	return EWS{Client: ews.New(ews.Options{HTTP: f})}
}

// found is an answer of FindItem with these items.
func found(last bool, items ...string) string {
	return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:FindItemResponse xmlns:m="m" xmlns:t="t"><m:ResponseMessages>` +
		`<m:FindItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode>` +
		fmt.Sprintf(`<m:RootFolder IncludesLastItemInRange="%v"><t:Items>`, last) + strings.Join(items, "") +
		`</t:Items></m:RootFolder></m:FindItemResponseMessage></m:ResponseMessages></m:FindItemResponse></s:Body></s:Envelope>`
}

func TestAMessageHasTheSameKeyOverEWSAndGraph(t *testing.T) { // rule 1
	type told struct{ id, subject, sent string }
	for name, c := range map[string]struct{ ews, graph told }{
		"a message":               {told{"<1@fabrikam.com>", "Minutes", "2026-11-28T13:59:58Z"}, told{"<1@fabrikam.com>", "Minutes", "2026-11-28T13:59:58Z"}},
		"with blanks in its id":   {told{" <1 @fabrikam.com>\t", "Minutes", "2026-11-28T13:59:58Z"}, told{" <1 @fabrikam.com>\\t", "Minutes", "2026-11-28T13:59:58Z"}},
		"with an & in its id":     {told{"&lt;a&amp;b@fabrikam.com&gt;", "x", "2026-11-28T13:59:58Z"}, told{"<a&b@fabrikam.com>", "x", "2026-11-28T13:59:58Z"}},
		"to a fraction":           {told{"<1@fabrikam.com>", "x", "2026-11-28T13:59:58.999999999Z"}, told{"<1@fabrikam.com>", "x", "2026-11-28T13:59:58Z"}},
		"in another zone":         {told{"<1@fabrikam.com>", "x", "2026-11-28T14:59:58+01:00"}, told{"<1@fabrikam.com>", "x", "2026-11-28T13:59:58Z"}},
		"without an id":           {told{"", "Übung &amp; mehr", "2026-11-28T13:59:58Z"}, told{"", "Übung & mehr", "2026-11-28T13:59:58Z"}},
		"without a time":          {told{"<1@fabrikam.com>", "x", ""}, told{"<1@fabrikam.com>", "x", "0001-01-01T00:00:00Z"}},
		"a listing cuts subjects": {told{"", strings.Repeat("ü", 255), "2026-11-28T13:59:58Z"}, told{"", strings.Repeat("ü", 400), "2026-11-28T13:59:58Z"}},
	} {
		item := `<t:Message><t:ItemId Id="AAMk" ChangeKey="CQ"/><t:Subject>` + c.ews.subject + `</t:Subject>`
		if c.ews.sent != "" {
			item += `<t:DateTimeSent>` + c.ews.sent + `</t:DateTimeSent>`
		}
		if c.ews.id != "" {
			item += `<t:InternetMessageId>` + strings.ReplaceAll(strings.ReplaceAll(c.ews.id, "<", "&lt;"), ">", "&gt;") + `</t:InternetMessageId>`
		}
		item += `</t:Message>`
		list := `{"id":"AAkALg","subject":"` + c.graph.subject + `","sentDateTime":"` + c.graph.sent + `","internetMessageId":"` + c.graph.id + `"}`
		one, _, err1 := byEWS(func(*http.Request, string) (int, string) { return 200, found(true, item) }).List(t.Context(), mail.Location{Primary: alice}, inbox.Part{Limit: 50})
		other, _, err2 := byGraph(func(*http.Request, string) (int, string) { return 200, `{"value":[` + list + `]}` }).List(t.Context(), mail.Location{Primary: alice}, inbox.Part{Limit: 50})
		if err1 != nil || err2 != nil || len(one.Messages) != 1 || len(other.Messages) != 1 {
			t.Fatal(name, one, err1, other, err2)
		}
		secret := mail.Secret{1}
		if secret.Key("record", &one.Messages[0]) != secret.Key("record", &other.Messages[0]) {
			t.Errorf("%s: two keys\n%s", name, cmp.Diff(one.Messages[0], other.Messages[0]))
		}
	}
}

func TestGraphIsReadByItsLinksAndClock(t *testing.T) {
	g := byGraph(func(r *http.Request, _ string) (int, string) {
		if r.URL.Query().Get("$skip") == "" {
			return 200, `{"value":[{"id":"1"}],"@odata.nextLink":"` + graphBase + `/v1.0/x?$skip=1"}`
		}
		return 200, `{"value":[{"id":"2"}]}`
	})
	at := mail.Location{Primary: alice}
	first, a, err := g.List(t.Context(), at, inbox.Part{Limit: 50})
	if err != nil || first.Next == "" || first.Overlaps || !a.Clock.Equal(time.Date(2026, 11, 28, 14, 0, 0, 0, time.UTC)) || a.Ours.IsZero() {
		t.Errorf("%+v %+v %v", first, a, err)
	}
	second, _, err := g.List(t.Context(), at, inbox.Part{After: first.Next, Limit: 50})
	if err != nil || second.Next != "" || second.Messages[0].ItemID != "2" {
		t.Errorf("%+v %v", second, err)
	}
	items, _, err := g.Read(t.Context(), at, []string{"1"})
	if err != nil || len(items) != 1 || items[0].ID != "1" || items[0].Message == nil || g.Kind() != mail.Graph || g.Reads() < 1 || g.Listings() < 1 {
		t.Errorf("%+v %v", items, err)
	}
}

func TestGraphFindsTheMailboxesOfExchangeOnline(t *testing.T) {
	g := byGraph(func(r *http.Request, _ string) (int, string) {
		if strings.Contains(r.URL.Path, alice) {
			return 200, `{"id":"inbox"}`
		}
		return 404, `{"error":{"code":"MailboxNotEnabledForRESTAPI","message":"The mailbox is either inactive, soft-deleted, or is hosted on-premise."}}`
	})
	f := GraphFinder{Client: g.Client, Entry: "cloud", Base: graphBase}
	at, err := f.Find(t.Context(), strings.ToUpper(alice))
	want := mail.Location{Entry: "cloud", Source: mail.Graph, URL: graphBase + "/v1.0", Primary: alice, How: "Microsoft Graph", Found: at.Found}
	if diff := cmp.Diff(want, at); err != nil || diff != "" || at.Found.IsZero() {
		t.Error(err, diff)
	}
	if _, err := f.Find(t.Context(), bob); !fault.Of(err).Elsewhere {
		t.Errorf("a mailbox on premises: %v", err)
	}
	if _, err := f.Find(t.Context(), "nobody"); err == nil {
		t.Error("an address that is none is asked for")
	}
	if _, err := g.Look(t.Context(), at); err != nil {
		t.Error(err)
	}
}

func TestGraphSubscribesToTheMailboxAtALocation(t *testing.T) {
	var did []string
	g := byGraph(func(r *http.Request, body string) (int, string) {
		if r.Method == http.MethodPost && !strings.Contains(body, `"resource":"/users/`+alice+`/mailFolders('inbox')/messages"`) {
			t.Error(body)
		}
		did = append(did, r.Method+" "+r.URL.Path)
		return 200, `{"id":"1","expirationDateTime":"2026-12-04T00:00:00Z","value":[{"id":"1"}]}`
	})
	at := mail.Location{Primary: alice}
	made, err := g.Subscribe(t.Context(), at, graph.Subscription{})
	if err != nil || made.ID != "1" {
		t.Error(made, err)
	}
	if until, err := g.Renew(t.Context(), at, "1", time.Now()); err != nil || until.IsZero() {
		t.Error(until, err)
	}
	if list, err := g.Subscriptions(t.Context()); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	if err := g.Delete(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	want := []string{"POST /v1.0/subscriptions", "PATCH /v1.0/subscriptions/1", "GET /v1.0/subscriptions", "DELETE /v1.0/subscriptions/1"}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Error(diff)
	}
}
