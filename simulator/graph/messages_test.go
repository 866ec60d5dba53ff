package graph

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
)

func TestOnlyATokenForGraphOpensGraph(t *testing.T) {
	run(t, func(w *world) {
		path := "/users/" + user + "/mailFolders/inbox"
		if g := w.get(path); g.status != http.StatusOK {
			t.Fatalf("a token for Graph: %d %s", g.status, g.raw)
		}
		ours := w.token
		for name, header := range map[string]string{
			"a token for EWS": "Bearer " + w.newToken("https://outlook.office365.com/.default"),
			"no token":        "",
			"no JWT":          "Bearer abc",
			"a forged one":    "Bearer " + ours[:len(ours)-8] + "AAAAAAAA",
			"Basic":           "Basic dTpw",
		} {
			g := w.get(path, "Authorization", header)
			if g.status != http.StatusUnauthorized || g.code() != "InvalidAuthenticationToken" || !strings.HasPrefix(g.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		}
		if w.token = w.newToken("https://graph.microsoft.com/.default"); w.get(path).status != http.StatusOK {
			t.Error("the well-known name of Graph is not its name")
		}
		w.pass(61 * time.Minute)
		if g := w.get(path); g.status != http.StatusUnauthorized {
			t.Errorf("a token of an hour ago: %d", g.status)
		}
	})
}

func TestAnAppMayDoWhatItsTokenGrants(t *testing.T) {
	mail := map[string]any{"message": map[string]any{
		"subject": "hello", "body": map[string]any{"contentType": "text", "content": "x"},
		"toRecipients": []any{map[string]any{"emailAddress": map[string]any{"address": user}}},
	}}
	for roles, want := range map[string][4]int{
		"":                    {403, 403, 403, 403},
		"Mail.Send":           {403, 403, 403, 202},
		"Mail.ReadBasic.All":  {200, 403, 403, 403},
		"Mail.Read":           {200, 200, 201, 403},
		"Mail.ReadWrite":      {200, 200, 201, 403},
		"Mail.Read Mail.Send": {200, 200, 201, 202},
	} {
		runAs(t, strings.Fields(roles), func(w *world) {
			got := [4]int{
				w.get("/users/" + user + "/messages?$select=subject").status,
				w.get("/users/" + user + "/messages?$select=bodyPreview").status,
				w.subscribe(nil).status,
				w.call(http.MethodPost, "/users/"+user+"/sendMail", mail).status,
			}
			if got != want {
				t.Errorf("%q: reading, with previews, subscribing, sending: %v, want %v", roles, got, want)
			}
			all, err := w.org.MessagesAtOnline(user, "", time.Time{}, time.Time{})
			if sent := want[3] == 202; err != nil || len(all) == 1 != sent {
				t.Errorf("%q: %d messages came, %v", roles, len(all), err)
			}
		})
	}
}

func TestErrorsHaveTheBodyAndTheIDsOfGraph(t *testing.T) {
	run(t, func(w *world) {
		const id = "11111111-2222-4333-8444-555555555555"
		g := w.get("/users/nobody@contoso.example/mailFolders/inbox", "client-request-id", id)
		inner, _ := g.body["error"].(map[string]any)["innerError"].(map[string]any)
		if g.status != http.StatusNotFound || g.code() != "ErrorInvalidUser" || inner["client-request-id"] != id || inner["request-id"] != g.header.Get("request-id") || g.header.Get("request-id") == "" {
			t.Errorf("%d %s %v", g.status, g.raw, g.header)
		}
		if _, err := time.Parse(innerTime, fmt.Sprint(inner["date"])); err != nil {
			t.Error(err)
		}
	})
}

func TestMailboxThatIsNotAtOnlineIsNotFoundWithTheReason(t *testing.T) {
	run(t, func(w *world) {
		box, _ := w.org.AtOnline(resident)
		for name, code := range map[string]string{
			resident: "MailboxNotEnabledForRESTAPI", box.Object: "MailboxNotEnabledForRESTAPI", "nobody@contoso.example": "ErrorInvalidUser",
			"11111111-2222-4333-8444-555555555555": "ResourceNotFound",
		} {
			if g := w.get("/users/" + name + "/messages"); g.status != http.StatusNotFound || g.code() != code {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		}
		w.set(noMailbox, faults.Fault{Reason: "bare"})
		if g := w.get("/users/" + user + "/messages"); g.status != http.StatusNotFound || g.raw != "" {
			t.Errorf("a bare 404: %d %q", g.status, g.raw)
		}
		w.clear(noMailbox)
		if err := w.org.Move(resident, exchange.Online); err != nil {
			t.Fatal(err)
		}
		if g := w.get("/users/" + box.Object + "/messages"); g.status != http.StatusOK {
			t.Errorf("after its move: %d %s", g.status, g.raw)
		}
	})
}

func TestInboxIsFoundByEveryNameOfItsMailboxAndCountsItsMail(t *testing.T) {
	run(t, func(w *world) {
		w.deliver(user, 1, time.Minute)
		if err := w.org.AddAlias("alias@contoso.example", user); err != nil {
			t.Fatal(err)
		}
		box, err := w.org.AtOnline(user)
		if err != nil {
			t.Fatal(err)
		}
		id := ""
		for _, path := range []string{user + "/mailFolders/inbox", user + "/mailFolders('inbox')", strings.ToUpper(user) + "/mailfolders/Inbox", box.Object + "/mailFolders/inbox", "alias@contoso.example/mailFolders/inbox"} {
			g := w.get("/users/" + path)
			if g.status != http.StatusOK || g.body["totalItemCount"] != 1.0 || g.body["unreadItemCount"] != 1.0 || g.body["displayName"] != "Inbox" {
				t.Errorf("%s: %d %s", path, g.status, g.raw)
			}
			id = g.text("id")
		}
		if g := w.get("/users/" + user + "/mailFolders/" + id + "/messages"); len(g.value()) != 1 {
			t.Errorf("by the folder's id: %d %s", g.status, g.raw)
		}
	})
}

func TestNothingIsKeptOfAMailboxThatIsRemoved(t *testing.T) {
	run(t, func(w *world) {
		box, err := w.org.AtOnline(user)
		if err != nil {
			t.Fatal(err)
		}
		w.subscribed(nil)
		w.get("/users/" + box.Object + "/mailFolders/inbox")
		if err := w.org.RemoveMailbox(user); err != nil {
			t.Fatal(err)
		}
		if g := w.get("/users/" + box.Object + "/mailFolders/inbox"); g.status != http.StatusNotFound {
			t.Errorf("%d %s", g.status, g.raw)
		}
		if n := len(w.graph.limits.mailboxes) + len(w.graph.boxes) + len(w.graph.subs); n != 0 {
			t.Errorf("%d things of it are kept", n)
		}
	})
}

func TestListIsFilteredOrderedAndPagedToItsEnd(t *testing.T) {
	run(t, func(w *world) {
		for n := range 10 {
			w.deliver(user, n, time.Duration(n)*time.Hour)
		}
		since := time.Now().Add(-6*time.Hour - time.Minute).UTC().Format(time.RFC3339)
		path := "/users/" + user + "/mailFolders('inbox')/messages?$filter=receivedDateTime ge " + since + "&$orderby=receivedDateTime desc&$select=subject,receivedDateTime&$top=3"
		var subjects []string
		pages := 0
		for path != "" {
			g := w.get(path)
			if g.status != http.StatusOK {
				t.Fatalf("%d %s", g.status, g.raw)
			}
			pages++
			for _, m := range g.value() {
				subjects = append(subjects, fmt.Sprint(m["subject"]))
				if len(m) != 4 || m["id"] == nil || m["@odata.etag"] == nil { // with subject and receivedDateTime
					t.Errorf("more or less than was asked for: %v", m)
				}
			}
			path = g.text("@odata.nextLink")
			if path != "" && (!strings.HasPrefix(path, graphURL+"/v1.0/users/") || !strings.Contains(path, "$skiptoken=")) {
				t.Errorf("the link %s", path)
			}
		}
		want := "message 0 message 1 message 2 message 3 message 4 message 5 message 6"
		if got := strings.Join(subjects, " "); got != want || pages != 3 {
			t.Errorf("%d pages: %s", pages, got)
		}
	})
}

func TestPagesNeitherRepeatNorMissWhenMailComesUnlessTheyDrift(t *testing.T) {
	list := func(w *world) (subjects []string) {
		path := "/users/" + user + "/messages?$top=2&$orderby=receivedDateTime desc"
		for n := 100; path != ""; n++ {
			g := w.get(path)
			for _, m := range g.value() {
				subjects = append(subjects, strings.TrimPrefix(fmt.Sprint(m["subject"]), "message "))
			}
			path = g.text("@odata.nextLink")
			w.deliver(user, n, 0)
			w.pass(time.Second)
		}
		return subjects
	}
	for name, want := range map[string]string{"": "0 1 2 3", pagesDrift: "0 1 1 2 2 3"} {
		run(t, func(w *world) {
			for n := range 4 {
				w.deliver(user, n, time.Duration(n+1)*time.Hour)
			}
			if name != "" {
				w.set(name, faults.Fault{})
			}
			if got := strings.Join(list(w), " "); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		})
	}
}

func TestWhatIsOrderedByStandsFirstInTheFilter(t *testing.T) {
	run(t, func(w *world) {
		const since = "receivedDateTime ge 2026-01-01T00:00:00Z"
		for query, code := range map[string]string{
			"$filter=" + since + " and isRead eq false&$orderby=receivedDateTime desc": "",
			"$filter=isRead eq false": "",
			"$filter=isRead eq false and " + since + "&$orderby=receivedDateTime desc": "InefficientFilter",
			"$filter=isRead eq false&$orderby=receivedDateTime desc":                   "InefficientFilter",
			"$filter=receivedDateTime ge yesterday":                                    "BadRequest",
			"$filter=receivedDateTime":                                                 "BadRequest",
			"$filter=colour eq 1":                                                      "BadRequest",
			"$filter=internetMessageId eq '<1@fabrikam.example>'":                      "ErrorInvalidProperty",
			"$select=subject,colour":                                                   "BadRequest",
			"$top=1001":                                                                "ErrorInvalidParameter",
			"$top=0":                                                                   "ErrorInvalidParameter",
			"$skiptoken=!":                                                             "ErrorInvalidParameter",
			"$skip=-1":                                                                 "BadRequest",
			"$deltatoken=latest":                                                       "BadRequest",
		} {
			g := w.get("/users/" + user + "/messages?" + query)
			if g.code() != code || (code == "") != (g.status == http.StatusOK) || code != "" && g.status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", query, g.status, g.raw)
			}
		}
	})
}

func TestMessageHasItsPropertiesAndNoContentWithBasicRights(t *testing.T) {
	run(t, func(w *world) {
		id := w.deliver(user, 7, time.Minute)
		g := w.get("/users/" + user + "/messages/" + id)
		from, _ := g.body["from"].(map[string]any)["emailAddress"].(map[string]any)
		if g.status != http.StatusOK || g.text("subject") != "message 7" || g.text("internetMessageId") != "<7@fabrikam.example>" || g.text("sentDateTime") != "2026-11-26T09:00:00Z" ||
			from["name"] != "Ann Example" || from["address"] != "ann@fabrikam.example" || g.text("bodyPreview") != "This is message 7." || g.body["isRead"] != any(false) || g.text("importance") != "normal" || g.text("id") != id {
			t.Errorf("%d %s", g.status, g.raw)
		}
		w.set(basicRights, faults.Fault{})
		g = w.get("/users/" + user + "/messages/" + id)
		if _, preview := g.body["bodyPreview"]; g.status != http.StatusOK || preview || strings.Contains(g.raw, "This is") || g.text("subject") == "" {
			t.Errorf("with basic rights: %d %s", g.status, g.raw)
		}
		for _, path := range []string{"/" + id + "?$select=subject,bodyPreview", "?$select=body", "/" + id + extended} {
			if g := w.get("/users/" + user + "/messages" + path); g.status != http.StatusForbidden || g.code() != "ErrorAccessDenied" {
				t.Errorf("with basic rights: %s: %d %s", path, g.status, g.raw)
			}
		}
		if g := w.get("/users/" + user + "/messages/" + id[:len(id)-4] + "AAAA"); g.status != http.StatusNotFound || g.code() != "ErrorItemNotFound" {
			t.Errorf("an unknown id: %d %s", g.status, g.raw)
		}
		if g := w.get("/users/" + other + "/messages/" + id); g.status != http.StatusNotFound {
			t.Errorf("in another mailbox: %d", g.status)
		}
	})
}

// extended asks for the sensitivity and the message class.
const extended = "?$select=id&$expand=singleValueExtendedProperties($filter=id eq 'Integer 0x0036' or id eq 'String 0x001A')"

func TestSensitivityAndClassAreExtendedProperties(t *testing.T) {
	run(t, func(w *world) {
		id, err := w.org.Deliver(user, time.Time{}, []byte("From: a@b.example\r\nSensitivity: Private\r\n\r\nx"))
		if err != nil {
			t.Fatal(err)
		}
		g := w.get("/users/" + user + "/messages/" + urlSafe(id) + extended)
		if !strings.Contains(g.raw, `"singleValueExtendedProperties":[{"id":"Integer 0x36","value":"2"},{"id":"String 0x1a","value":"IPM.Note"}]`) {
			t.Errorf("%d %s", g.status, g.raw)
		}
		if g := w.get("/users/" + user + "/messages/" + urlSafe(id) + "?$expand=attachments"); g.status != http.StatusBadRequest {
			t.Errorf("%d %s", g.status, g.raw)
		}
	})
}

func TestImmutableIDStaysWhenAMessageMovesToAnotherFolder(t *testing.T) {
	run(t, func(w *world) {
		prefer := []string{"Prefer", `IdType="ImmutableId"`}
		id := w.deliver(user, 1, time.Minute)
		immutable := w.get("/users/"+user+"/messages/"+id, prefer...).text("id")
		if immutable == id || immutable == "" || strings.ContainsAny(immutable, "+/") {
			t.Fatalf("the immutable id %q", immutable)
		}
		if _, err := w.org.MoveItem(user, standard(id), true); err != nil {
			t.Fatal(err)
		}
		if g := w.get("/users/" + user + "/messages/" + id); g.status != http.StatusNotFound {
			t.Errorf("the id of before the move: %d", g.status)
		}
		if g := w.get("/users/"+user+"/messages/"+immutable, prefer...); g.status != http.StatusOK || g.text("id") != immutable {
			t.Errorf("by the immutable id: %d %s", g.status, g.raw)
		}
	})
}

func TestBatchHasAStatusForEachRequest(t *testing.T) {
	run(t, func(w *world) {
		id := w.deliver(user, 1, time.Minute)
		requests := []map[string]any{
			{"id": "1", "method": "GET", "url": "/users/" + user + "/messages/" + id + "?$select=subject", "headers": map[string]string{"Prefer": `IdType="ImmutableId"`}},
			{"id": "2", "method": "GET", "url": "/users/" + resident + "/messages/" + id},
			{"id": "3", "method": "GET", "url": "/users/" + user + "/messages/x", "dependsOn": []string{"1"}},
			{"id": "4", "method": "GET", "url": "users/" + user + "/messages/" + id, "dependsOn": []string{"3"}},
		}
		g := w.call(http.MethodPost, "/$batch", map[string]any{"requests": requests})
		responses, _ := g.body["responses"].([]any)
		if g.status != http.StatusOK || len(responses) != 4 {
			t.Fatalf("%d %s", g.status, g.raw)
		}
		status := map[string]float64{}
		for _, r := range responses {
			m := r.(map[string]any)
			status[fmt.Sprint(m["id"])], _ = m["status"].(float64)
			if m["id"] == "1" && m["body"].(map[string]any)["subject"] != "message 1" {
				t.Errorf("%v", m)
			}
		}
		if status["1"] != 200 || status["2"] != 404 || status["3"] != 404 || status["4"] != 424 {
			t.Errorf("%v", status)
		}
		for name, wrong := range map[string][]map[string]any{
			"more than 20": make([]map[string]any, 21),
			"none":         {},
			"an id twice":  {requests[0], requests[0]},
			"depends on a later one": {
				{"id": "a", "method": "GET", "url": "/x", "dependsOn": []string{"b"}}, {"id": "b", "method": "GET", "url": "/x"}},
		} {
			for i, r := range wrong {
				if r == nil {
					wrong[i] = map[string]any{"id": fmt.Sprint(i), "method": "GET", "url": "/users/" + user + "/messages"}
				}
			}
			if g := w.call(http.MethodPost, "/$batch", map[string]any{"requests": wrong}); g.status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		}
	})
}

func TestFourRequestsOfABatchRunAtATimeAgainstAMailbox(t *testing.T) {
	run(t, func(w *world) {
		w.set(delayed, faults.Fault{Seconds: 1})
		batch := func(users ...string) (took time.Duration, bad int) {
			var requests []map[string]any
			for i := range 20 {
				requests = append(requests, map[string]any{"id": fmt.Sprint(i), "method": "GET", "url": "/users/" + users[i%len(users)] + "/messages"})
			}
			began := time.Now()
			g := w.call(http.MethodPost, "/$batch", map[string]any{"requests": requests})
			for _, r := range g.body["responses"].([]any) {
				if r.(map[string]any)["status"] != 200.0 {
					bad++
				}
			}
			return time.Since(began), bad
		}
		if took, bad := batch(user); took != 5*time.Second || bad != 0 {
			t.Errorf("20 requests to a mailbox: %v, %d failed", took, bad)
		}
		if took, bad := batch(user, other); took != 3*time.Second || bad != 0 {
			t.Errorf("20 requests to two mailboxes: %v, %d failed", took, bad)
		}
	})
}
