package listener

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

var offsetOf = regexp.MustCompile(`Offset="(\d+)"`)

// stingy is an Inbox of n messages that shows so many in a page, and says or does not say which page is the last.
func stingy(n, page int, says bool, calls *int) EWS {
	return byEWS(func(_ *http.Request, body string) (int, string) {
		*calls++
		offset, err := strconv.Atoi(offsetOf.FindStringSubmatch(body)[1])
		if err != nil {
			return http.StatusBadRequest, ""
		}
		var items []string
		for i := offset; i < min(n, offset+page); i++ {
			items = append(items, fmt.Sprintf(`<t:Message><t:ItemId Id="%d"/></t:Message>`, i))
		}
		return http.StatusOK, found(says && offset+page >= n, items...)
	})
}

func TestAPageOfEWSBeginsWithTheLastMessageOfTheOneBefore(t *testing.T) {
	for name, c := range map[string]struct {
		messages, page int
		says           bool
		pages, calls   int
	}{
		"an empty Inbox":                        {0, 50, true, 1, 1},
		"one message":                           {1, 50, true, 1, 1},
		"a page":                                {50, 50, true, 1, 1},
		"more than a page":                      {51, 50, true, 2, 2},
		"an empty Inbox that never says so":     {0, 50, false, 1, 1},
		"one message, which never says so":      {1, 50, false, 1, 2}, // is there one beyond?
		"a page that never says so":             {50, 50, false, 2, 3},
		"more than a page that never says so":   {51, 50, false, 3, 4},
		"a server that gives one after another": {3, 1, true, 2, 4}, // whose second page does not begin with what the first has shown
	} {
		calls, pages := 0, 0
		e := stingy(c.messages, c.page, c.says, &calls)
		last, shown := "", 0
		p := inbox.Part{Limit: 50}
		for {
			page, _, err := e.List(t.Context(), mail.Location{Primary: alice}, p)
			if err != nil || !page.Overlaps {
				t.Fatal(name, err)
			}
			pages++
			begins := len(page.Messages) > 0 && page.Messages[0].ItemID == last
			if pages > 1 && !begins {
				if c.page > 1 {
					t.Errorf("%s: page %d begins with %v", name, pages, page.Messages)
				}
				break
			}
			shown += len(page.Messages)
			if page.Next == "" {
				break
			}
			last = page.Messages[len(page.Messages)-1].ItemID
			p.After = page.Next
		}
		if pages != c.pages || calls != c.calls || c.page > 1 && shown != c.messages+pages-1 {
			t.Errorf("%s: %d pages by %d calls with %d messages", name, pages, calls, shown)
		}
	}
}

func TestASubscriptionIsGivenBackWithTheAffinityOfItsGroup(t *testing.T) {
	var h http.Header
	e := byEWS(func(r *http.Request, _ string) (int, string) {
		h = r.Header
		return http.StatusOK, ""
	})
	_ = e.Unsubscribe(t.Context(), mail.Location{Primary: alice}, streaming.Affinity{Anchor: bob, Cookie: "mbx1~1"}, "id")
	if h.Get("X-AnchorMailbox") != bob || h.Get("Cookie") != "X-BackEndOverrideCookie=mbx1~1" || h.Get("X-PreferServerAffinity") != "true" {
		t.Errorf("%v", h)
	}
}
