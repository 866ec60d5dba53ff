package graph

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

func TestSubscribingAsksBothURLsBeforeItIsAnswered(t *testing.T) {
	run(t, func(w *world) {
		g := w.subscribe(nil)
		if g.status != http.StatusCreated || g.text("id") == "" || g.body["clientState"] != nil || g.text("resource") != "/users/"+user+"/mailFolders('inbox')/messages" {
			t.Fatalf("%d %s", g.status, g.raw)
		}
		if strings.Contains(g.raw, "secret") {
			t.Error("the clientState is shown")
		}
		if len(w.asked) != 2 || w.asked[0].Path != "/callbacks/graph/x" || w.asked[1].Path != "/lifecycle/x" {
			t.Fatalf("asked %v", w.asked)
		}
		token := w.asked[0].Query().Get("validationToken")
		if !strings.Contains(token, ": ") || !strings.Contains(w.asked[0].RawQuery, "+") || !strings.Contains(w.asked[1].RawQuery, "%20") || !strings.Contains(w.asked[1].RawQuery, "%3A") {
			t.Errorf("asked %v", w.asked)
		}
		if all := w.graph.Subscriptions(); len(all) != 1 || all[0].ID != g.text("id") || all[0].Mailbox != user || all[0].ClientState != "secret" || w.graph.Counts().Subscriptions != 1 {
			t.Errorf("%+v", all)
		}
	})
}

func TestSubscriptionIsNotMadeWhereTheHandshakeFails(t *testing.T) {
	for name, c := range map[string]struct {
		echo func(string) *http.Response
		text string
	}{
		"another status": {func(s string) *http.Response { return respond(http.StatusForbidden, "text/plain", s) }, "HTTP status code is 'Forbidden'"},
		"another type":   {func(s string) *http.Response { return respond(http.StatusOK, "text/html", s) }, "text/plain"},
		"another text":   {func(s string) *http.Response { return respond(http.StatusOK, "text/plain", s+" ") }, "exactly match"},
		"as it came": {func(s string) *http.Response {
			return respond(http.StatusOK, "text/plain", strings.ReplaceAll(s, " ", "+"))
		}, "exactly match"},
		"a redirect": {func(s string) *http.Response { return respond(http.StatusFound, "text/plain", s) }, "Found"},
	} {
		run(t, func(w *world) {
			w.echo = c.echo
			g := w.subscribe(nil)
			if g.status != http.StatusBadRequest || g.code() != "ValidationError" || !strings.Contains(g.raw, c.text) || w.graph.Counts().Subscriptions != 0 {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		})
	}
	run(t, func(w *world) {
		w.echoIn = 9 * time.Second
		if g := w.subscribe(map[string]any{"lifecycleNotificationUrl": nil}); g.status != http.StatusCreated {
			t.Errorf("after 9 s: %d %s", g.status, g.raw)
		}
		w.echoIn = 11 * time.Second
		began := time.Now()
		if g := w.subscribe(map[string]any{"changeType": "created,updated"}); g.status != http.StatusBadRequest || !strings.Contains(g.raw, "timed out") || time.Since(began) != 10*time.Second {
			t.Errorf("after 11 s: %d %s after %v", g.status, g.raw, time.Since(began))
		}
	})
	run(t, func(w *world) {
		w.set(unreachable, faults.Fault{})
		if g := w.subscribe(nil); g.status != http.StatusBadRequest || !strings.Contains(g.raw, "timed out") {
			t.Errorf("%d %s", g.status, g.raw)
		}
	})
}

func TestSubscriptionLastsAsLongAsItMay(t *testing.T) {
	run(t, func(w *world) {
		at := func(d time.Duration) map[string]any {
			return map[string]any{"expirationDateTime": time.Now().Add(d).UTC().Format(longTime)}
		}
		if g := w.subscribe(at(10_071 * time.Minute)); g.status != http.StatusBadRequest || !strings.Contains(g.raw, "Subscription expiration can only be 10070 minutes in the future.") {
			t.Errorf("too long: %d %s", g.status, g.raw)
		}
		if g := w.subscribe(at(-time.Minute)); g.status != http.StatusBadRequest {
			t.Errorf("in the past: %d %s", g.status, g.raw)
		}
		w.set(expiryLimit, faults.Fault{Limit: 4230})
		if g := w.subscribe(at(5000 * time.Minute)); g.status != http.StatusBadRequest || !strings.Contains(g.raw, "4230 minutes") {
			t.Errorf("over the lower limit: %d %s", g.status, g.raw)
		}
		g := w.subscribe(at(time.Minute))
		expires, err := time.Parse(time.RFC3339Nano, g.text("expirationDateTime"))
		if g.status != http.StatusCreated || err != nil || time.Until(expires) != 45*time.Minute {
			t.Fatalf("a short one: %d %s", g.status, g.raw)
		}
		w.pass(44 * time.Minute)
		if g := w.get("/subscriptions/" + g.text("id")); g.status != http.StatusOK {
			t.Errorf("before its end: %d", g.status)
		}
		w.pass(2 * time.Minute)
		w.token = w.newToken(graphURL + "/.default")
		if g := w.get("/subscriptions/" + g.text("id")); g.status != http.StatusNotFound {
			t.Errorf("after its end: %d", g.status)
		}
	})
}

func TestSubscribingIsRefusedWithTheReason(t *testing.T) {
	run(t, func(w *world) {
		for name, c := range map[string]struct {
			changes map[string]any
			status  int
			code    string
		}{
			"no changeType":      {map[string]any{"changeType": nil}, 400, "InvalidRequest"},
			"a wrong changeType": {map[string]any{"changeType": "created,seen"}, 400, "InvalidRequest"},
			"no URL":             {map[string]any{"notificationUrl": nil}, 400, "InvalidRequest"},
			"a plain URL":        {map[string]any{"notificationUrl": "http://bell.test/x"}, 400, "InvalidRequest"},
			"a plain lifecycle":  {map[string]any{"lifecycleNotificationUrl": "http://bell.test/x"}, 400, "InvalidRequest"},
			"a long clientState": {map[string]any{"clientState": strings.Repeat("x", 129)}, 400, "InvalidRequest"},
			"no expiry":          {map[string]any{"expirationDateTime": nil}, 400, "InvalidRequest"},
			"no date":            {map[string]any{"expirationDateTime": "soon"}, 400, "InvalidRequest"},
			"another resource":   {map[string]any{"resource": "/users/" + user + "/events"}, 400, "ExtensionError"},
			"on premises":        {map[string]any{"resource": "/users/" + resident + "/mailFolders('inbox')/messages"}, 404, "ExtensionError"},
			"nobody":             {map[string]any{"resource": "/users/nobody@contoso.example/messages"}, 404, "ExtensionError"},
		} {
			if g := w.subscribe(c.changes); g.status != c.status || g.code() != c.code {
				t.Errorf("%s: %d %s", name, g.status, g.raw)
			}
		}
		w.set(basicRights, faults.Fault{})
		if g := w.subscribe(nil); g.status != http.StatusForbidden || g.code() != "ExtensionError" || !strings.Contains(g.raw, "Status Code: Forbidden; Reason: Access is denied") {
			t.Errorf("with basic rights: %d %s", g.status, g.raw)
		}
		w.clear(basicRights)
		w.set(denied, faults.Fault{Mailbox: user})
		if g := w.subscribe(nil); g.status != http.StatusForbidden {
			t.Errorf("without the right to the mailbox: %d %s", g.status, g.raw)
		}
	})
}

func TestSecondSubscriptionOfTheSameKindIsRefusedByTheIDOfTheFirst(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		g := w.subscribe(map[string]any{"clientState": "another"})
		if g.status != http.StatusConflict || g.code() != "ObjectIdentifierInUse" || !strings.Contains(g.raw, "Subscription Id "+id+" already exists") {
			t.Errorf("%d %s", g.status, g.raw)
		}
		w.set(duplicates, faults.Fault{})
		second := w.subscribed(nil)
		if g := w.call(http.MethodDelete, "/subscriptions/"+id, nil); g.status != http.StatusNoContent {
			t.Errorf("deleted: %d %s", g.status, g.raw)
		}
		if g := w.call(http.MethodDelete, "/subscriptions/"+id, nil); g.status != http.StatusNotFound {
			t.Errorf("deleted twice: %d %s", g.status, g.raw)
		}
		if g := w.get("/subscriptions/" + second); g.status != http.StatusOK {
			t.Errorf("the second: %d", g.status)
		}
	})
}

func TestListOfSubscriptionsIsPagedAndShowsNoSecret(t *testing.T) {
	run(t, func(w *world) {
		want := []string{w.subscribed(nil), w.subscribed(map[string]any{"resource": "/users/" + other + "/messages"})}
		w.set(pagesShort, faults.Fault{})
		var ids []string
		for path := "/subscriptions"; path != ""; {
			g := w.get(path)
			if g.status != http.StatusOK || strings.Contains(g.raw, `"secret"`) || len(g.value()) != 1 {
				t.Fatalf("%d %s", g.status, g.raw)
			}
			ids = append(ids, g.value()[0]["id"].(string))
			path = g.text("@odata.nextLink")
		}
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("%v, want %v", ids, want)
		}
		if g := w.get("/subscriptions?$filter=resource eq 'x'"); g.status != http.StatusBadRequest {
			t.Errorf("filtered: %d", g.status)
		}
	})
}

func TestRenewalMovesTheEndAndTheURLButNotTheLifecycleURL(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		until := time.Now().Add(10_000 * time.Minute).UTC().Format(longTime)
		g := w.call(http.MethodPatch, "/subscriptions/"+id, map[string]any{"expirationDateTime": until})
		if g.status != http.StatusOK || g.text("expirationDateTime") != until {
			t.Errorf("%d %s", g.status, g.raw)
		}
		asked := len(w.asked)
		if g := w.call(http.MethodPatch, "/subscriptions/"+id, map[string]any{"notificationUrl": "https://other.test/x"}); g.status != http.StatusOK || g.text("notificationUrl") != "https://other.test/x" || len(w.asked) != asked+1 {
			t.Errorf("%d %s, asked %v", g.status, g.raw, w.asked)
		}
		if g := w.call(http.MethodPatch, "/subscriptions/"+id, map[string]any{"lifecycleNotificationUrl": "https://other.test/x"}); g.status != http.StatusBadRequest {
			t.Errorf("%d %s", g.status, g.raw)
		}
		if g := w.call(http.MethodPatch, "/subscriptions/unknown", map[string]any{"expirationDateTime": until}); g.status != http.StatusNotFound {
			t.Errorf("%d %s", g.status, g.raw)
		}
		if g := w.call(http.MethodPost, "/subscriptions/"+id+"/reauthorize", nil); g.status != http.StatusNoContent {
			t.Errorf("%d %s", g.status, g.raw)
		}
		for status, code := range map[int]string{400: "ErrorInvalidParameter", 404: "ResourceNotFound"} {
			w.set(renewalRefused, faults.Fault{Status: status, Count: 1})
			if g := w.call(http.MethodPatch, "/subscriptions/"+id, map[string]any{"expirationDateTime": until}); g.status != status || g.code() != code {
				t.Errorf("%d %s", g.status, g.raw)
			}
		}
	})
}
