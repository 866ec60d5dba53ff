package graph

import (
	"net/http"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
)

func TestNewMessageIsToldByTheObjectIDOfItsUser(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil, "Prefer", `IdType="ImmutableId"`)
		item := w.deliver(user, 1, 0)
		w.deliver(other, 2, 0)
		posts := w.told()
		if len(posts) != 1 || len(posts[0].items) != 1 || posts[0].at != callback {
			t.Fatalf("%+v", posts)
		}
		box, _ := w.org.AtOnline(user)
		immutable := w.get("/users/"+user+"/messages/"+item, "Prefer", `IdType="ImmutableId"`).text("id")
		c := posts[0].items[0]
		name := "Users/" + box.Object + "/Messages/" + immutable
		if c.SubscriptionID != id || c.ClientState != "secret" || c.ChangeType != "created" || c.Resource != name || c.ResourceData.URI != name || c.ResourceData.ID != immutable || c.TenantID != w.tenant.ID() {
			t.Errorf("%s", posts[0].raw)
		}
		if g := w.get("/" + name); g.status != http.StatusOK {
			t.Errorf("it cannot be read by its name: %d %s", g.status, g.raw)
		}
	})
}

func TestWhatIsNotAcceptedIsToldAgainForFourHours(t *testing.T) {
	run(t, func(w *world) {
		w.subscribed(nil)
		w.answers(func(post) (int, time.Duration) { return http.StatusServiceUnavailable, 0 })
		w.deliver(user, 1, 0)
		began := time.Now()
		w.pass(5 * time.Hour)
		posts := w.told()
		tries := 0
		for _, p := range posts {
			if p.items[0].ResourceData == nil {
				continue
			}
			if tries++; p.time.Sub(began) > 4*time.Hour {
				t.Errorf("told %v later", p.time.Sub(began))
			}
		}
		if tries < 5 {
			t.Errorf("%d tries", tries)
		}
		w.answers(nil)
		w.deliver(user, 2, 0)
	})
}

func TestMailboxThatMovesAwayLosesItsSubscriptions(t *testing.T) {
	run(t, func(w *world) {
		id := w.subscribed(nil)
		if err := w.org.Move(user, exchange.OnPremises); err != nil {
			t.Fatal(err)
		}
		if got := w.items(); len(got) != 1 || got[0] != subscriptionRemoved {
			t.Errorf("told %v", got)
		}
		if g := w.get("/subscriptions/" + id); g.status != http.StatusNotFound {
			t.Errorf("it is there: %d", g.status)
		}
		w.deliver(user, 1, 0)
		if got := w.items(); len(got) != 0 {
			t.Errorf("told %v", got)
		}
		if err := w.org.Move(user, exchange.Online); err != nil {
			t.Fatal(err)
		}
		w.subscribed(nil)
		if w.deliver(user, 2, 0); len(w.items()) != 1 {
			t.Error("nothing is told after it came back")
		}
	})
}
