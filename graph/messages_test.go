package graph

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestAListingIsOrderedByWhatItsFilterBeginsWith(t *testing.T) {
	var got []*url.URL
	c := client(func(r *http.Request, _ string) *http.Response {
		got = append(got, r.URL)
		return reply(r, http.StatusOK, `{"value":[]}`)
	})
	since := time.Date(2026, 11, 27, 14, 0, 0, 0, time.FixedZone("", 3600))
	for _, top := range []int{50, 0, 5000} {
		if _, err := c.Messages(t.Context(), mara, since, top); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Messages(t.Context(), mara, time.Time{}, 50); err != nil {
		t.Fatal(err)
	}
	q := got[0].Query()
	if got[0].Path != "/v1.0/users/mara@contoso.com/mailFolders/inbox/messages" || q.Get("$filter") != "receivedDateTime ge 2026-11-27T13:00:00Z" ||
		q.Get("$orderby") != "receivedDateTime desc" || q.Get("$top") != "50" || q.Get("$select") != shownFields {
		t.Error(got[0])
	}
	if got[1].Query().Get("$top") != "1" || got[2].Query().Get("$top") != "1000" || got[3].Query().Has("$filter") {
		t.Error(got)
	}
}

func TestPagesMayBeShortAndEmptyAndAreFollowedByTheirLinks(t *testing.T) {
	pages := []string{
		`{"value":[{"id":"1","parentFolderId":"inbox"}],"@odata.nextLink":"` + base + `/v1.0/next?$skip=1"}`,
		`{"value":[],"@odata.nextLink":"` + base + `/v1.0/next?$skip=2"}`, `{"value":[{"id":"2"}]}`,
	}
	n := 0
	c := client(func(r *http.Request, _ string) *http.Response {
		if n > 0 && r.URL.Query().Get("$skip") != fmt.Sprint(n) {
			t.Error(r.URL)
		}
		n++
		return reply(r, http.StatusOK, pages[n-1], "Date", "Sat, 28 Nov 2026 14:00:00 GMT")
	})
	var ids []string
	p, err := c.Messages(t.Context(), mara, time.Time{}, 50)
	for {
		if err != nil || p.ServerTime.IsZero() {
			t.Fatal(err)
		}
		for _, m := range p.Messages {
			ids = append(ids, m.ItemID)
		}
		if p.Next == "" {
			break
		}
		p, err = c.More(t.Context(), mara, p.Next)
	}
	if n != 3 || strings.Join(ids, " ") != "1 2" {
		t.Errorf("%d pages: %v", n, ids)
	}
}

func TestALinkThatShowsTheBlanksOfItsFilterIsFollowed(t *testing.T) {
	var asked []string
	c := client(func(r *http.Request, _ string) *http.Response {
		asked = append(asked, r.URL.RequestURI())
		return reply(r, http.StatusOK, `{"value":[]}`)
	})
	if _, err := c.More(t.Context(), mara, base+"/v1.0/next?$filter=receivedDateTime ge 2026-11-28T14:00:00Z&$skip=50"); err != nil {
		t.Fatal(err)
	}
	if want := "/v1.0/next?$filter=receivedDateTime%20ge%202026-11-28T14:00:00Z&$skip=50"; len(asked) != 1 || asked[0] != want {
		t.Errorf("asked for %q, want %s", asked, want)
	}
}

func TestOneMessageIsReadByItselfAndSeveralByABatchOfWhatAMailboxAnswersAtOnce(t *testing.T) {
	var paths []string
	c := client(func(r *http.Request, body string) *http.Response {
		paths = append(paths, r.Method+" "+r.URL.Path)
		if r.Method == http.MethodGet {
			return reply(r, http.StatusOK, `{"id":"1","subject":"one"}`)
		}
		var list []string
		requests := parsed(t, body)["requests"].([]any)
		if len(requests) > atOnce {
			t.Errorf("%d at once", len(requests))
		}
		for _, one := range requests {
			id, to := one.(map[string]any)["id"], one.(map[string]any)["url"].(string)
			if !strings.HasPrefix(to, "/users/mara@contoso.com/messages/item") {
				t.Error(to)
			}
			subject, _, _ := strings.Cut(strings.TrimPrefix(to, "/users/mara@contoso.com/messages/"), "?")
			list = append([]string{fmt.Sprintf(`{"id":"%s","status":200,"body":{"id":"x","subject":%q}}`, id, subject)}, list...) // in any order
		}
		return reply(r, http.StatusOK, `{"responses":[`+strings.Join(list, ",")+`]}`)
	})
	if items, _, err := c.Read(t.Context(), mara, []string{"1"}); err != nil || items[0].Message.Subject != "one" {
		t.Errorf("%v %v", items, err)
	}
	var ids []string
	for i := range 10 {
		ids = append(ids, fmt.Sprint("item", i))
	}
	items, _, err := c.Read(t.Context(), mara, ids)
	for i, item := range items {
		if item.ID != ids[i] || item.Message == nil || item.Message.Subject != ids[i] {
			t.Errorf("%d: %+v", i, item)
		}
	}
	if err != nil || len(items) != 10 || len(paths) != 4 || paths[0] != "GET /v1.0/users/mara@contoso.com/messages/1" || paths[1] != "POST /v1.0/$batch" {
		t.Errorf("%v %v", paths, err)
	}
	for _, n := range []int{0, MaxItems + 1} {
		if _, _, err := c.Read(t.Context(), mara, make([]string, n)); err == nil {
			t.Errorf("%d ids are read", n)
		}
	}
}

func TestABatchThatAnswersNotWhatItWasAskedHarmsOnlyWhatIsMissing(t *testing.T) {
	c := answers(http.StatusOK, `{"responses":[{"id":"7","status":200},{"id":"x"},{"id":"1","status":200,"body":{"id":"2"}},{"id":"2","status":200,"body":"x"}]}`)
	items, _, err := c.Read(t.Context(), mara, []string{"1", "2", "3"})
	if err != nil || fault.Of(items[0].Err).Code != CodeUnparseable || items[1].Message == nil || fault.Of(items[2].Err).Code != CodeUnparseable {
		t.Errorf("%+v %v", items, err)
	}
	one, _, err := answers(http.StatusOK, `{"id":1}`).Read(t.Context(), mara, []string{"1"})
	for _, item := range append(one, items[0], items[2]) {
		if f := fault.Of(item.Err); err != nil || f.Code != CodeUnparseable || f.Scope != fault.Message {
			t.Errorf("%+v %v", item, err)
		}
	}
}

func TestAMessageThatHasLeftTheInboxIsGone(t *testing.T) {
	inbox := "inbox"
	looks := 0
	c := client(func(r *http.Request, _ string) *http.Response {
		switch {
		case strings.HasSuffix(r.URL.Path, "/mailFolders/inbox"):
			looks++
			return reply(r, http.StatusOK, `{"id":"`+inbox+`"}`)
		case strings.HasSuffix(r.URL.Path, "/messages/here"):
			return reply(r, http.StatusOK, `{"id":"here","parentFolderId":"`+inbox+`"}`)
		case strings.HasSuffix(r.URL.Path, "/messages/untold"):
			return reply(r, http.StatusOK, `{"id":"untold"}`)
		}
		return reply(r, http.StatusOK, `{"id":"moved","parentFolderId":"junk"}`)
	})
	read := func(id string) Item {
		items, _, err := c.Read(t.Context(), mara, []string{id})
		if err != nil {
			t.Fatal(err)
		}
		return items[0]
	}
	if item := read("moved"); item.Err != nil {
		t.Errorf("nobody knows yet which folder the Inbox is: %v", item.Err)
	}
	if _, err := c.Look(t.Context(), mara); err != nil {
		t.Fatal(err)
	}
	if f := fault.Of(read("moved").Err); !f.Gone || f.Scope != fault.Message || looks != 2 {
		t.Errorf("%v, %d looks", f, looks)
	}
	for _, id := range []string{"here", "untold"} {
		if item := read(id); item.Err != nil || looks != 2 {
			t.Errorf("%s: %v, %d looks", id, item.Err, looks)
		}
	}
	inbox = "another" // the mailbox was made anew
	if item := read("here"); item.Err != nil || looks != 3 {
		t.Errorf("%v, %d looks", item.Err, looks)
	}
}

func TestTheInboxesOfNoMoreMailboxesThanOneListensToAreRemembered(t *testing.T) {
	c := answers(http.StatusOK, `{"id":"inbox"}`)
	for i := range maxInboxes + 2 {
		c.inboxes.learn(fmt.Sprint(i), "inbox")
	}
	if n := len(c.inboxes.known); n > maxInboxes {
		t.Error(n)
	}
}

func TestWithMailReadBasicWhatItDoesNotShowIsAskedForOnceInAnHour(t *testing.T) {
	for name, status := range map[string]int{"refused": http.StatusForbidden, "not understood": http.StatusBadRequest} {
		synctest.Test(t, func(t *testing.T) {
			all, few := 0, 0
			c := client(func(r *http.Request, _ string) *http.Response {
				q := r.URL.Query()
				if q.Has("$expand") || strings.Contains(q.Get("$select"), "bodyPreview") {
					all++
					return reply(r, status, errorBody("ErrorAccessDenied", "Access is denied."))
				}
				few++
				return reply(r, http.StatusOK, `{"id":"1"}`)
			})
			c.queries = newQueries(true)
			for range 3 {
				items, _, err := c.Read(t.Context(), mara, []string{"1"})
				if err != nil || items[0].Err != nil {
					t.Errorf("%s: %v %v", name, items, err)
				}
			}
			if all != 1 || few != 3 {
				t.Errorf("%s: %d and %d requests", name, all, few)
			}
			<-time.After(basicFor)
			if _, _, err := c.Read(t.Context(), mara, []string{"1"}); err != nil || all != 2 {
				t.Errorf("%s: %d requests: a permission that is granted meanwhile is not noticed (%v)", name, all, err)
			}
		})
	}
}

// With RBAC for Applications the app may have Mail.Read for one mailbox, and less for another. What a message of the first is marked as is
// still asked for: its subject may not be shown.
func TestWhatIsNotShownOfOneMailboxIsAskedForOfTheOthers(t *testing.T) {
	c := client(func(r *http.Request, _ string) *http.Response {
		if strings.Contains(r.URL.Path, mara) && r.URL.Query().Has("$expand") {
			return reply(r, http.StatusForbidden, errorBody("ErrorAccessDenied", "Access is denied."))
		}
		if r.URL.Query().Has("$expand") {
			return reply(r, http.StatusOK, `{"id":"1","singleValueExtendedProperties":[{"id":"Integer 0x36","value":"2"}]}`)
		}
		return reply(r, http.StatusOK, `{"id":"1"}`)
	})
	for _, mailbox := range []string{mara, "omar@contoso.example"} {
		items, _, err := c.Read(t.Context(), mailbox, []string{"1"})
		if err != nil || items[0].Err != nil {
			t.Fatalf("%v %v", items, err)
		}
		if private := mailbox != mara; items[0].Message.Private != private {
			t.Errorf("%s: private %v", mailbox, items[0].Message.Private)
		}
	}
	for i := range maxInboxes + 10 {
		c.basic.learn(fmt.Sprint(i))
	}
	if n := len(c.basic.until); n > maxInboxes {
		t.Error(n)
	}
}

func TestAMailboxThatMayNotBeReadAtAllIsNotTakenForMailReadBasic(t *testing.T) {
	c := answers(http.StatusForbidden, errorBody("ErrorAccessDenied", "Access is denied."))
	if _, _, err := c.Read(t.Context(), mara, []string{"1"}); fault.Of(err).Scope != fault.Account || c.basic.asks(mara) {
		t.Error(err)
	}
}

func TestThePreviewIsAskedForOnlyWhereItIsWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		c := client(func(r *http.Request, _ string) *http.Response {
			if strings.Contains(r.URL.RawQuery, "bodyPreview") != wanted || !strings.Contains(r.URL.Query().Get("$expand"), "0x0036") {
				t.Error(r.URL)
			}
			return reply(r, http.StatusOK, `{"id":"1"}`)
		})
		c.queries = newQueries(wanted)
		if _, _, err := c.Read(t.Context(), mara, []string{"1"}); err != nil {
			t.Error(err)
		}
	}
}
