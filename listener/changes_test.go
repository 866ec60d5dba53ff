package listener

// Listening by Microsoft Graph, and the move to it and back.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// tenant is an Exchange Online: the same mailboxes by EWS and by Graph, with other item ids.
type tenant struct {
	*exchange // by EWS
	graph     *exchange
	s         *scene

	mu    sync.Mutex
	subs  map[string]graph.Subscribed
	made  map[string]graph.Subscription
	calls map[string]int
	quiet bool  // Graph tells nothing
	fails error // every call by Graph
	deny  error // every POST
}

// online makes hq one that has Graph, too.
func (s *scene) online(listenBy string) *tenant {
	c := &tenant{exchange: s.hq, s: s, subs: map[string]graph.Subscribed{}, made: map[string]graph.Subscription{}, calls: map[string]int{}}
	c.graph = &exchange{t: s.t, url: graph.Root(graphBase), boxes: map[string]*folder{}}
	s.publicURL = "https://bell.contoso.example"
	s.entry = func(e *Entry) {
		e.ListenBy = listenBy
		a := &e.Accounts[0]
		a.Graph, a.Changes, a.GraphFinder = graphSource{c}, c, c
	}
	return c
}

// arrive delivers a message.
func (c *tenant) arrive(address string) *message {
	m := c.exchange.come(address)
	there := c.graph.come(address, func(g *message) {
		g.internetID, g.subject, g.received, g.sent = m.internetID, m.subject, m.received, m.sent
	})
	c.tell(address, there.id)
	return m
}

func (c *tenant) tell(address, item string) {
	item = strings.NewReplacer(" ", "_", ":", "_", ".", "_").Replace(item)
	c.mu.Lock()
	sub, made, quiet := c.subs[address], c.made[address], c.quiet
	c.mu.Unlock()
	if sub.ID == "" || quiet {
		return
	}
	body, err := json.Marshal(map[string]any{"value": []any{map[string]any{
		"subscriptionId": sub.ID, "clientState": made.ClientState, "changeType": "created", "resourceData": map[string]string{"id": item},
	}}})
	if err != nil {
		c.s.t.Fatal(err)
	}
	if w := c.post(made.NotificationURL, string(body)); w.Code != http.StatusAccepted {
		c.s.t.Errorf("a notification was answered %d", w.Code)
	}
}

func (c *tenant) post(url, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.s.l.Changes().ServeHTTP(w, httptest.NewRequest(http.MethodPost, strings.TrimPrefix(url, c.s.publicURL), strings.NewReader(body)))
	return w
}

func (c *tenant) called(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[what]++
	if what == "POST" && c.deny != nil {
		return c.deny
	}
	return c.fails
}

func (c *tenant) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[what]
}

// setGraph changes what Graph does.
func (c *tenant) setGraph(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *tenant) Find(_ context.Context, address string) (mail.Location, error) {
	if err := c.called("look"); err != nil {
		return mail.Location{}, err
	}
	return mail.Location{Entry: "hq", Source: mail.Graph, URL: graph.Root(graphBase), Primary: address, How: "Microsoft Graph", Found: time.Now()}, nil
}

func (c *tenant) Subscribe(ctx context.Context, at mail.Location, s graph.Subscription) (graph.Subscribed, error) { //nolint:unparam // an interface
	if err := c.called("POST"); err != nil {
		return graph.Subscribed{}, err
	}
	if w := c.post(s.NotificationURL+"?validationToken=a+b", ""); w.Body.String() != "a b" {
		c.s.t.Errorf("the handshake was answered %q", w.Body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[at.Primary] = s
	c.subs[at.Primary] = graph.Subscribed{ID: fmt.Sprintf("%s-%d", at.Primary, c.calls["POST"]), Expires: s.Until}
	return c.subs[at.Primary], nil
}

func (c *tenant) Renew(_ context.Context, _ mail.Location, _ string, until time.Time) (time.Time, error) {
	return until, c.called("PATCH")
}

func (c *tenant) Delete(_ context.Context, id string) error {
	if err := c.called("DELETE"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, s := range c.subs {
		if s.ID == id {
			delete(c.subs, address)
		}
	}
	return nil
}

func (c *tenant) Subscriptions(context.Context) (list []graph.Listed, err error) {
	if err := c.called("GET"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, s := range c.subs {
		list = append(list, graph.Listed{ID: s.ID, NotificationURL: c.made[address].NotificationURL, Expires: s.Expires})
	}
	return list, nil
}

// graphSource reads by Graph.
type graphSource struct{ c *tenant }

func (g graphSource) Kind() mail.Source { return mail.Graph }
func (g graphSource) Listings() int     { return 1000 }
func (g graphSource) Reads() int        { return 1000 }

func (g graphSource) Look(ctx context.Context, at mail.Location) (string, error) {
	return "", g.c.called("look")
}

func (g graphSource) Read(ctx context.Context, at mail.Location, ids []string) ([]inbox.Item, Answer, error) {
	if err := g.c.called("read"); err != nil {
		return nil, Answer{}, err
	}
	// The ids of a notification are written as Graph writes them.
	var list []inbox.Item
	g.c.graph.set(func() {
		for _, id := range ids {
			item := inbox.Item{ID: id, Err: row("ErrorItemNotFound", "")}
			for _, m := range g.c.graph.box(at.Primary).items {
				if strings.NewReplacer(" ", "_", ":", "_", ".", "_").Replace(m.id) == id || m.id == id {
					msg := m.tell()
					msg.ItemID = id
					item = inbox.Item{ID: id, Message: &msg}
				}
			}
			list = append(list, item)
		}
	})
	return list, g.c.graph.answer(at), nil
}

func (g graphSource) List(ctx context.Context, at mail.Location, p inbox.Part) (inbox.Page, Answer, error) {
	if err := g.c.called("list"); err != nil {
		return inbox.Page{}, Answer{}, err
	}
	return g.c.graph.List(ctx, at, p)
}

// by says by what mailboxes are read, and that they are listened to.
func (s *scene) by(want mail.Source, mailboxes ...string) {
	s.t.Helper()
	for _, m := range mailboxes {
		if got := s.wantState(subscriptions.Listening, m).Location.ReadBy(); got != want {
			s.t.Errorf("%s is read by %s; want %s", m, got, want)
		}
	}
}

func TestAMailboxOfAGraphEntryIsListenedToByItsNotifications(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByGraph)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		s.by(mail.Graph, alice)
		m := c.arrive(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		lists := c.count("list")
		s.stop()
		s.start()
		s.pass(time.Second)
		s.by(mail.Graph, alice)
		if c.count("POST") != 1 || c.count("look") != 1 || c.count("list") != lists+1 {
			t.Errorf("after a restart: %d subscriptions made, %d looks, %d listings", c.count("POST"), c.count("look"), c.count("list")-lists)
		}
		m = c.arrive(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		s.remove("a")
		s.pass(time.Second)
		if len(c.subs) != 0 {
			t.Error("its subscription outlives its last device")
		}
		if c.exchange.listings() != 0 {
			t.Error("EWS was asked")
		}
	})
}

func TestWhatGraphDoesNotTellOfIsFoundAndAlertedOfOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByGraph)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour + 10*time.Minute) // between two safety polls
		c.setGraph(func() { c.quiet = true })
		var all []*message
		for len(all) < 8 && c.count("POST") < 2 { // one that a listing finds at once could still be told of
			all = append(all, c.arrive(alice))
			s.pass(s.poll + 7*time.Minute) // not each at the same time before a poll
		}
		s.accepted(1, "a", all...)
		if c.count("POST") != 2 || len(all) < 2 {
			t.Errorf("%d subscriptions were made after %d messages: two within an hour replace one", c.count("POST"), len(all))
		}
		s.by(mail.Graph, alice)
	})
}

func TestARightToSubscribeThatIsMissingLeavesTheMailboxPolled(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByGraph)
		c.deny = &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true, Text: "Mail.Read is needed"}
		s.start()
		for i := range 20 {
			s.enrol(fmt.Sprint("a", i), address(i))
		}
		s.pass(time.Minute)
		for i := range 20 {
			status := s.wantState(subscriptions.Polling, address(i))
			if !strings.Contains(status.Reason, "Mail.Read is needed") || !strings.Contains(status.Reason, "listed every 1m0s") {
				t.Errorf("the reason is %q", status.Reason)
			}
		}
		m := c.arrive(address(3))
		s.pass(2 * time.Minute)
		s.accepted(1, "a3", m)
		if a := s.l.Load()[0].Accounts[0]; a.Blocked != nil {
			t.Errorf("the account is said to be blocked: %v", a.Blocked)
		}
	})
}

func TestMailboxesGoOverToGraphByCommandAndBackAndNothingIsLostOrToldOfTwice(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByStreaming)
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		s.by(mail.EWS, alice, bob)
		all := map[string][]*message{alice: {c.arrive(alice)}, bob: {c.arrive(bob)}}
		s.pass(time.Second)

		command := func(listenBy, mailbox string, want int) {
			t.Helper()
			c.exchange.quietly(func() { // lost while it goes over
				c.setGraph(func() { c.quiet = true })
				for address := range all {
					all[address] = append(all[address], c.arrive(address))
				}
				c.setGraph(func() { c.quiet = false })
			})
			n, err := s.l.ListenBy(context.Background(), "hq", listenBy, mailbox)
			if n != want || err != nil {
				t.Errorf("%s %s: %d go over, %v", listenBy, mailbox, n, err)
			}
			for address := range all {
				all[address] = append(all[address], c.arrive(address))
			}
			s.pass(time.Minute)
			for address := range all {
				all[address] = append(all[address], c.arrive(address))
			}
			s.pass(s.poll + 10*time.Minute)
		}
		command(ByGraph, alice, 1)
		s.by(mail.Graph, alice)
		s.by(mail.EWS, bob)
		record := s.record(alice).ID
		s.stop()
		s.start()
		s.pass(time.Minute)
		s.by(mail.Graph, alice) // also after a restart
		s.by(mail.EWS, bob)
		command(ByGraph, "", 1)
		s.by(mail.Graph, alice, bob)
		s.enrol("c", carol) // goes where the others are
		s.pass(time.Minute)
		s.by(mail.Graph, carol)
		s.stop()
		s.start()
		s.pass(time.Minute)
		s.by(mail.Graph, alice, bob, carol)
		command(ByStreaming, "", 3)
		s.by(mail.EWS, alice, bob, carol)
		if s.record(alice).ID != record || s.record(alice).Graph != nil {
			t.Error("the record is another one, or still has a subscription at Graph")
		}
		if len(c.subs) != 0 {
			t.Errorf("%d subscriptions are left at Graph", len(c.subs))
		}
		s.accepted(1, "a", all[alice]...)
		s.accepted(1, "b", all[bob]...)
	})
}

// slowFinder takes its time.
type slowFinder struct {
	Finder
	takes time.Duration
}

func (f *slowFinder) Find(ctx context.Context, address string) (mail.Location, error) {
	pause.For(ctx, f.takes)
	return f.Finder.Find(ctx, address)
}

func TestAMailboxThatIsBeingLookedUpGoesOverByCommandAllTheSame(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByStreaming)
		ews, online := &slowFinder{Finder: &autodiscover{}}, s.entry
		byGraph := &slowFinder{Finder: c}
		s.entry = func(e *Entry) {
			online(e)
			e.URL, e.Accounts[0].Finder, e.Accounts[0].GraphFinder = "", ews, byGraph
		}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		command := func(slow *slowFinder, listenBy string) {
			t.Helper()
			slow.takes = 10 * time.Second
			m := s.mailbox(alice)
			m.relocate(m.linked())
			s.pass(time.Second)
			if _, err := s.l.ListenBy(context.Background(), "hq", listenBy, alice); err != nil {
				t.Error(err)
			}
			slow.takes = 0
			s.pass(time.Minute)
		}
		command(ews, ByGraph)
		s.by(mail.Graph, alice)
		command(byGraph, ByStreaming)
		s.by(mail.EWS, alice)
	})
}

func TestACommandThatCannotBeObeyedChangesNothing(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByStreaming)
		s.second("partner")
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		for name, command := range map[string][3]string{
			"listen_by": {"hq", "pull", ""}, "push": {"hq", ByPush, ""}, "mailbox": {"hq", ByGraph, "nobody@contoso.example"}, "no Graph": {"partner", ByGraph, ""},
		} {
			_, err := s.l.ListenBy(context.Background(), command[0], command[1], command[2])
			if _, ok := errors.AsType[*subscriptions.FieldError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := s.l.ListenBy(context.Background(), "nowhere", ByGraph, ""); !errors.Is(err, ErrNoExchange) {
			t.Error(err)
		}
		c.setGraph(func() {
			c.fails = &fault.Error{Op: "GET", Code: "HTTP 403", Scope: fault.Account, Remedy: fault.Fix, Text: "no consent"}
		})
		n, err := s.l.ListenBy(context.Background(), "hq", ByGraph, "")
		if n != 0 || err == nil || fault.Of(err).Text != "no consent" {
			t.Errorf("%d, %v: Graph lets nobody in", n, err)
		}
		s.pass(time.Minute)
		s.by(mail.EWS, alice)
	})
}

func TestATenantThatSwitchesEWSOffHasItsMailboxesGoOverToGraph(t *testing.T) {
	for _, mailboxes := range []int{1, 2, 30} {
		t.Run(fmt.Sprint(mailboxes), func(t *testing.T) {
			inScene(t, func(s *scene) {
				c := s.online(ByStreaming)
				s.start()
				for i := range mailboxes {
					s.enrol(fmt.Sprint("a", i), address(i))
				}
				s.pass(time.Hour)
				var all []*message
				for i := range mailboxes {
					s.by(mail.EWS, address(i))
				}
				c.exchange.set(func() { c.exchange.fails = row("HTTP 403", "") })
				c.exchange.end(errReset)
				for i := range mailboxes {
					all = append(all, c.arrive(address(i)))
				}
				s.pass(10 * time.Minute)
				for i := range mailboxes {
					s.by(mail.Graph, address(i))
					s.accepted(1, fmt.Sprint("a", i), all[i])
				}
				if a := s.l.Load()[0].Accounts[0]; a.Blocked != nil {
					t.Errorf("the account counts as blocked, though nobody needs EWS any more: %v", a.Blocked)
				}
				s.stop()
				s.start()
				s.enrol("new", "new@contoso.example")
				s.pass(time.Minute)
				s.by(mail.Graph, address(0), "new@contoso.example")
			})
		})
	}
}

func TestARefusalOfOneMailboxIsNoSwitchOfTheTenant(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByStreaming)
		s.start()
		for i := range 10 {
			s.enrol(fmt.Sprint("a", i), address(i))
		}
		s.pass(time.Hour)
		c.exchange.set(func() { c.exchange.sick = map[string]error{address(0): row("HTTP 403", "")} })
		c.exchange.forget(address(0))
		s.pass(2 * time.Hour)
		for i := 1; i < 10; i++ {
			s.by(mail.EWS, address(i))
		}
		if c.count("look") != 0 {
			t.Error("Graph was asked")
		}
	})
}

func TestATenantThatRefusesEWSAndGraphKeepsItsMailboxesWhereTheyWere(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByStreaming)
		s.start()
		for i := range 5 {
			s.enrol(fmt.Sprint("a", i), address(i))
		}
		s.pass(time.Hour)
		c.setGraph(func() {
			c.fails = &fault.Error{Op: "GET", Code: "HTTP 403", Scope: fault.Account, Remedy: fault.Fix, After: time.Hour}
		})
		c.exchange.set(func() { c.exchange.fails = row("HTTP 403", "") })
		c.exchange.end(errReset)
		s.pass(10 * time.Minute)
		m := c.arrive(address(2))
		for i := range 5 {
			if at := s.status(address(i)).Location; at.ReadBy() != mail.EWS {
				t.Errorf("%s is read by %s", address(i), at.ReadBy())
			}
		}
		c.exchange.set(func() { c.exchange.fails = nil }) // the administrator has switched it on again
		s.pass(2 * time.Hour)
		for i := range 5 {
			s.by(mail.EWS, address(i))
		}
		s.accepted(1, "a2", m)
	})
}

func TestAMailboxThatMovesBetweenPremisesAndGraphKeepsItsLogBothWays(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByGraph)
		premises := s.second("premises")
		c.setGraph(func() { c.fails = nil })
		s.start()
		premises.homes = map[string]bool{}
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.by(mail.Graph, alice)
		record := s.record(alice).ID
		first := c.arrive(alice)
		s.pass(time.Minute)

		gone := &fault.Error{Op: "GET", Code: "MailboxNotEnabledForRESTAPI", Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Moved: true, Elsewhere: true}
		c.setGraph(func() { c.fails = gone })
		premises.set(func() {
			premises.homes[alice] = true
			premises.n++
			premises.box(alice).items = append(premises.box(alice).items, &message{id: premises.itemID(), internetID: first.internetID, subject: first.subject, received: first.received, sent: first.sent})
		})
		second := premises.come(alice)
		s.pass(s.poll + 5*time.Minute)
		s.listening("premises", alice)

		premises.set(func() { delete(premises.homes, alice) })
		c.setGraph(func() { c.fails = nil })
		c.graph.come(alice, func(g *message) {
			g.internetID, g.subject, g.received, g.sent = second.internetID, second.subject, second.received, second.sent
		})
		third := c.arrive(alice)
		premises.end(errReset)
		s.pass(s.poll + 5*time.Minute)
		s.by(mail.Graph, alice)
		s.accepted(1, "a", first, second, third)
		if s.record(alice).ID != record {
			t.Error("it has another record")
		}
	})
}

func TestTheHandlerOfGraphKnowsOnlyItsOwnPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := changes.NewReceiver("https://bell.contoso.example", mail.Secret{1}, nil)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/callbacks/ews/x", strings.NewReader("")))
		if w.Code != http.StatusNotFound {
			t.Error(w.Code)
		}
		r.Close()
	})
}
