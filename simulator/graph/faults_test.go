package graph

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
)

// hour is more than an access token is valid.
const hour = 61 * time.Minute

func TestNotificationsAreHeldWhenTheTokenOfTheirSubscriptionHasRunOut(t *testing.T) {
	for name, refresh := range map[string]func(w *world, id string) got{
		"PATCH": func(w *world, id string) got {
			return w.call(http.MethodPatch, "/subscriptions/"+id, map[string]any{"expirationDateTime": time.Now().Add(time.Hour).UTC().Format(longTime)})
		},
		"reauthorize": func(w *world, id string) got {
			return w.call(http.MethodPost, "/subscriptions/"+id+"/reauthorize", nil)
		},
	} {
		run(t, func(w *world) {
			id := w.subscribed(nil)
			w.pass(40 * time.Minute)
			if got := w.items(); len(got) != 0 {
				t.Fatalf("%s: told %v before a quarter of an hour before the token's end", name, got)
			}
			w.pass(hour - 40*time.Minute)
			if got := w.items(); !slices.Equal(got, []string{reauthorizationRequired}) {
				t.Errorf("%s: told %v before the token's end", name, got)
			}
			first := w.deliver(user, 1, 0)
			w.pass(time.Hour)
			if got := w.items(); len(got) != 0 {
				t.Fatalf("%s: told %v without a token", name, got)
			}
			w.token = w.newToken(graphURL + "/.default")
			if g := refresh(w, id); g.status >= 300 {
				t.Fatalf("%s: %d %s", name, g.status, g.raw)
			}
			synctest.Wait()
			second := w.deliver(user, 2, 0)
			if got := w.items(); !slices.Equal(got, []string{first, second}) {
				t.Errorf("%s: told %v, want %s, %s", name, got, first, second)
			}
		})
	}
}

func TestNotificationsAreNotHeldForMoreThanFourHours(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		w.pass(hour)
		w.deliver(user, 1, 0)
		w.pass(2 * time.Hour)
		second := w.deliver(user, 2, 0)
		w.pass(2*time.Hour + time.Minute)
		w.items()
		w.token = w.newToken(graphURL + "/.default")
		w.call(http.MethodPost, "/subscriptions/"+id+"/reauthorize", nil)
		if got := w.items(); !slices.Equal(got, []string{second}) {
			t.Errorf("told %v, want the message of two hours ago alone", got)
		}
	})
}

func TestATokenThatSoonRunsOutIsAskedForAgain(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		w.pass(50 * time.Minute)
		w.items()
		w.call(http.MethodPost, "/subscriptions/"+id+"/reauthorize", nil) // with the token of before
		w.pass(9 * time.Minute)
		if got := w.items(); !slices.Equal(got, []string{reauthorizationRequired}) {
			t.Errorf("told %v", got)
		}
	})
}

func TestFaultsOfNotifications(t *testing.T) {
	for name, c := range map[string]struct {
		fault string
		f     faults.Fault
		want  func(first, second string) []string
	}{
		"dropped":   {dropped, faults.Fault{Count: 1}, func(_, b string) []string { return []string{b} }},
		"missed":    {missedFault, faults.Fault{Count: 1}, func(_, b string) []string { return []string{missed, b} }},
		"doubled":   {doubled, faults.Fault{Count: 1}, func(a, b string) []string { return []string{a, a, b} }},
		"reordered": {reordered, faults.Fault{}, func(a, b string) []string { return []string{b, a} }},
		"another's": {dropped, faults.Fault{Mailbox: other}, func(a, b string) []string { return []string{a, b} }},
	} {
		run(t, func(w *world) {
			w.subscribed(nil)
			w.set(c.fault, c.f)
			first := w.deliver(user, 1, 0)
			synctest.Wait()
			second := w.deliver(user, 2, 0)
			w.pass(time.Second)
			if got, want := w.items(), c.want(first, second); !slices.Equal(got, want) {
				t.Errorf("%s: told %v, want %v", name, got, want)
			}
		})
	}
}

func TestNotificationThatIsLateComesLater(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		w.set(late, faults.Fault{Seconds: 90})
		w.deliver(user, 1, 0)
		w.pass(89 * time.Second)
		if got := w.items(); len(got) != 0 {
			t.Errorf("told %v", got)
		}
		w.pass(2 * time.Second)
		if got := w.items(); len(got) != 1 {
			t.Errorf("told %v", got)
		}
	})
}

func TestReorderedNotificationComesWhenTheFaultIsCleared(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		w.set(reordered, faults.Fault{})
		w.deliver(user, 1, 0)
		if got := w.items(); len(got) != 0 {
			t.Fatalf("told %v", got)
		}
		w.clear(reordered)
		if got := w.items(); len(got) != 1 {
			t.Errorf("told %v", got)
		}
	})
}

func TestPostWithItemsOfOthersHasOursToo(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		w.set(foreign, faults.Fault{})
		w.deliver(user, 1, 0)
		posts := w.told()
		if len(posts) != 1 || len(posts[0].items) != 4 {
			t.Fatalf("%d posts", len(posts))
		}
		ours := 0
		states := map[string]bool{}
		for _, c := range posts[0].items {
			if c.SubscriptionID == id {
				ours++
			} else {
				states[c.ClientState] = true
			}
		}
		if ours != 1 || !states[""] || !states["someone-else"] || !states["secret"] {
			t.Errorf("%s", posts[0].raw)
		}
	})
}

func TestFaultsOfSubscriptionsHappenAtOnce(t *testing.T) {
	run(t, func(w *world) {
		ours := w.subscribed(nil)
		theirs := w.subscribed(map[string]any{"resource": "/users/" + other + "/messages"})
		w.set(reauthorise, faults.Fault{Mailbox: user})
		if got := w.items(); !slices.Equal(got, []string{reauthorizationRequired}) {
			t.Errorf("told %v", got)
		}
		w.set(tokenEnds, faults.Fault{Mailbox: user})
		id := w.deliver(user, 1, 0)
		if got := w.items(); !slices.Equal(got, []string{reauthorizationRequired}) {
			t.Errorf("told %v", got)
		}
		w.call(http.MethodPost, "/subscriptions/"+ours+"/reauthorize", nil)
		if got := w.items(); !slices.Equal(got, []string{id}) {
			t.Errorf("told %v", got)
		}
		w.set(removedFault, faults.Fault{Mailbox: user})
		if got := w.items(); !slices.Equal(got, []string{subscriptionRemoved}) || w.get("/subscriptions/"+ours).status != http.StatusNotFound {
			t.Errorf("told %v", got)
		}
		w.set(forgotten, faults.Fault{})
		if got := w.items(); len(got) != 0 || w.get("/subscriptions/"+theirs).status != http.StatusNotFound {
			t.Errorf("told %v", got)
		}
		w.subscribed(nil)
		w.set(lifecycleDropped, faults.Fault{})
		w.set(removedFault, faults.Fault{})
		if got := w.items(); len(got) != 0 {
			t.Errorf("told %v", got)
		}
	})
}

func TestMailboxAnswersFourRequestsAtATime(t *testing.T) {
	run(t, func(w *world) {
		w.set(delayed, faults.Fault{Seconds: 1})
		var wg sync.WaitGroup
		var mu sync.Mutex
		status := map[int]int{}
		for range 6 {
			wg.Go(func() {
				g := w.get("/users/" + user + "/messages")
				mu.Lock()
				defer mu.Unlock()
				status[g.status]++
				if g.status == http.StatusTooManyRequests && (g.code() != "ApplicationThrottled" || g.header.Get("Retry-After") != "1" || !strings.Contains(g.raw, "MailboxConcurrency")) {
					t.Errorf("%v %s", g.header, g.raw)
				}
			})
		}
		wg.Wait()
		if status[200] != 4 || status[429] != 2 || w.graph.Counts().Throttled != 2 {
			t.Errorf("%v", status)
		}
		if g := w.get("/users/" + user + "/messages"); g.status != http.StatusOK {
			t.Errorf("afterwards: %d", g.status)
		}
	})
}

func TestLimitsEndWithTheirWindow(t *testing.T) {
	for reason, c := range map[string]struct {
		request func(w *world) got
		window  time.Duration
	}{
		limitMailbox: {func(w *world) got { return w.get("/users/" + user + "/messages") }, 10 * time.Minute},
		limitApp:     {func(w *world) got { return w.get("/users/nobody@contoso.example/messages") }, 10 * time.Second},
		limitWrites:  {func(w *world) got { return w.call(http.MethodDelete, "/subscriptions/x", nil) }, 20 * time.Second},
	} {
		run(t, func(w *world) {
			w.set(limitLowered, faults.Fault{Reason: reason, Limit: 3})
			for range 3 {
				if g := c.request(w); g.status == http.StatusTooManyRequests {
					t.Fatalf("%s: within the limit: %d %s", reason, g.status, g.raw)
				}
			}
			w.pass(time.Second)
			g := c.request(w)
			if g.status != http.StatusTooManyRequests || g.header.Get("Retry-After") != fmt.Sprint(int(c.window.Seconds())-1) {
				t.Errorf("%s: over the limit: %d, Retry-After %s", reason, g.status, g.header.Get("Retry-After"))
			}
			if reason == limitWrites && w.get("/subscriptions").status != http.StatusOK {
				t.Error("subscriptions cannot be listed while writes are throttled")
			}
			w.pass(c.window)
			if g := c.request(w); g.status == http.StatusTooManyRequests {
				t.Errorf("%s: after its window: %d", reason, g.status)
			}
		})
	}
}

func TestWritesToSubscriptionsAreAThousandIn20Seconds(t *testing.T) {
	run(t, func(w *world) {
		refused := 0
		for range 1001 {
			if g := w.call(http.MethodDelete, "/subscriptions/x", nil); g.status == http.StatusTooManyRequests {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d of 1,001 refused", refused)
		}
	})
}

// slowly has the endpoint answer the posts with these numbers after longer than it may take.
func slowly(w *world, numbers ...int) {
	n := 0
	w.answers(func(post) (int, time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n++; slices.Contains(numbers, n) {
			return http.StatusAccepted, time.Minute
		}
		return http.StatusAccepted, 0
	})
}

func TestSlowEndpointIsToldLaterAndThenNothing(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		slowly(w, 5, 11)
		for n := range 16 {
			w.deliver(user, n, 0)
			synctest.Wait()
		}
		w.pass(30 * time.Second) // two took 10 s, and came again after as long
		if got := len(w.items()); got != 18 {
			t.Fatalf("%d were told, want each of 16, and two twice", got)
		}
		w.deliver(user, 17, 0) // 2 of 18 answers were slow: more than 10 %
		w.pass(9 * time.Second)
		if got := w.items(); len(got) != 0 {
			t.Errorf("told %v at once", got)
		}
		slowly(w, 1, 2)
		w.pass(2 * time.Second)
		if got := w.items(); len(got) != 1 {
			t.Errorf("told %v after 10 s", got)
		}
		w.pass(2 * time.Minute) // it is slow again, twice: 4 of 21
		w.items()
		w.deliver(user, 18, 0)
		w.pass(5 * time.Minute)
		if got := w.items(); len(got) != 0 {
			t.Errorf("told %v", got)
		}
		w.pass(5 * time.Minute)
		w.deliver(user, 19, 0)
		if got := w.items(); len(got) != 1 {
			t.Errorf("told %v after the window", got)
		}
	})
}

func TestShortAndEmptyPagesHaveALinkToTheRest(t *testing.T) {
	for _, fault := range []string{pagesShort, pagesEmpty} {
		run(t, func(w *world) {
			for n := range 5 {
				w.deliver(user, n, time.Duration(n)*time.Hour)
			}
			w.set(fault, faults.Fault{Count: 2})
			found, pages := 0, 0
			for path := "/users/" + user + "/mailFolders/inbox/messages?$top=6&$orderby=receivedDateTime desc"; path != ""; pages++ {
				g := w.get(path)
				found += len(g.value())
				path = g.text("@odata.nextLink")
			}
			if found != 5 || pages != 3 {
				t.Errorf("%s: %d messages in %d pages", fault, found, pages)
			}
		})
	}
}

func TestLinkThatLeadsElsewhereIsOfAnotherHost(t *testing.T) {
	run(t, func(w *world) {
		w.deliver(user, 1, 0)
		w.deliver(user, 2, 0)
		w.set(linkElsewhere, faults.Fault{})
		u, err := url.Parse(w.get("/users/" + user + "/messages?$top=1").text("@odata.nextLink"))
		if err != nil || u.Host == "" || "https://"+u.Host == graphURL {
			t.Errorf("%v, %v", u, err)
		}
	})
}

func TestFaultsOfAnswers(t *testing.T) {
	run(t, func(w *world) {
		id := w.deliver(user, 1, 0)
		path := "/users/" + user + "/messages/" + id
		for _, c := range []struct {
			fault  string
			f      faults.Fault
			status int
			code   string
		}{
			{answered, faults.Fault{Status: 504, Reason: "UnknownError"}, 504, "UnknownError"},
			{answered, faults.Fault{}, 503, "ServiceUnavailable"},
			{throttledFault, faults.Fault{Mailbox: user, Seconds: 7}, 429, "ApplicationThrottled"},
			{denied, faults.Fault{Mailbox: user}, 403, "ErrorAccessDenied"},
			{noMailbox, faults.Fault{Mailbox: user}, 404, "MailboxNotEnabledForRESTAPI"},
			{noMailbox, faults.Fault{Reason: "ErrorInvalidUser"}, 404, "ErrorInvalidUser"},
			{unreadable, faults.Fault{}, 500, "ErrorItemCorrupt"},
		} {
			w.set(c.fault, c.f)
			g := w.get(path)
			if g.status != c.status || g.code() != c.code {
				t.Errorf("%s %+v: %d %s", c.fault, c.f, g.status, g.raw)
			}
			if c.status == 429 && g.header.Get("Retry-After") != "7" {
				t.Errorf("Retry-After %s", g.header.Get("Retry-After"))
			}
			w.clear(c.fault)
			if g := w.get(path); g.status != http.StatusOK {
				t.Errorf("%s cleared: %d", c.fault, g.status)
			}
		}
	})
}

func TestMailboxThatLeavesSilentlyTellsNothing(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		w.set("move_silent", faults.Fault{})
		if err := w.org.Move(user, exchange.OnPremises); err != nil {
			t.Fatal(err)
		}
		if got := w.items(); len(got) != 0 || w.graph.Counts().Subscriptions != 0 {
			t.Errorf("told %v", got)
		}
	})
}

func TestMailThatIsMovedIntoTheInboxIsTold(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		id, err := w.org.MoveItem(user, standard(w.deliver(user, 1, 0)), true)
		if err != nil {
			t.Fatal(err)
		}
		w.items()
		if id, err = w.org.MoveItem(user, id, false); err != nil {
			t.Fatal(err)
		}
		if got := w.items(); !slices.Equal(got, []string{urlSafe(id)}) {
			t.Errorf("told %v, want %s", got, urlSafe(id))
		}
	})
}
