package changes

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// contents is a Content whose messages are named by what is encrypted.
type contents struct {
	mu     sync.Mutex
	id     string   // of the present certificate
	former []string // those that can still be decrypted
	tokens []string // the last
	hangs  bool     // the token service does not answer
}

func (c *contents) set(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = id
}

func (c *contents) Rich() (graph.Rich, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return graph.Rich{Certificate: "der", CertificateID: c.id}, nil
}

func (c *contents) Present(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id == id
}

func (c *contents) Open(ctx context.Context, e *graph.Encrypted, tokens []string) (mail.Message, error) {
	if c.hangs {
		<-ctx.Done()
		return mail.Message{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens = tokens
	switch {
	case e.CertificateID != c.id && !slices.Contains(c.former, e.CertificateID):
		return mail.Message{}, graph.ErrNoKey
	case e.Data == "forged":
		return mail.Message{}, errors.New("it is not signed")
	}
	return mail.Message{ItemID: e.Data, Subject: "about " + e.Data}, nil
}

// withContent is a mailbox whose notifications have content.
func withContent(t *testing.T, c *contents) (*account, *server, *mailbox) {
	t.Helper()
	s := newServer()
	a := newAccount(t, s)
	a.content = c
	a.restart()
	m := a.join(alice)[0]
	pass(time.Second)
	return a, s, m
}

func (x sub) rich(item, data, certificate string) told {
	n := x.mail(item)
	n.Content = &graph.Encrypted{Data: data, CertificateID: certificate}
	return n
}

func TestAMessageThatComesInItsNotificationIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &contents{id: "one"}
		_, s, m := withContent(t, c)
		x := s.of(t, alice)
		if life := time.Until(x.expires); life > 24*time.Hour || m.box.Record().Graph.Certificate != "one" {
			t.Errorf("it lives for %v, and the record has %+v", life, m.box.Record().Graph)
		}
		s.post(x.rich("AAMk1", "AAMk1", "one"))
		synctest.Wait()
		if len(m.messages) != 1 || m.messages[0] != "about AAMk1" || len(m.told()) != 0 {
			t.Errorf("told %v, hinted at %v", m.messages, m.told())
		}
	})
}

func TestContentThatIsNotBelievedIsAHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, m := withContent(t, &contents{id: "one"})
		x := s.of(t, alice)
		forged := x
		forged.state = "guessed"
		s.post(x.rich("AAMk1", "forged", "one"), x.rich("AAMk2", "AAMk9", "one"), x.rich("AAMk3", "AAMk3", "lost"), x.mail("AAMk4"), forged.rich("AAMk5", "AAMk5", "one"))
		synctest.Wait()
		if want := []string{"AAMk1", "AAMk2", "AAMk3", "AAMk4"}; len(m.messages) != 0 || !slices.Equal(m.told(), want) {
			t.Errorf("told %v, hinted at %v", m.messages, m.told())
		}
	})
}

func TestASubscriptionForAKeyThatIsGoneIsReplacedWhenItWouldBeRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &contents{id: "one"}
		a, s, _ := withContent(t, c)
		s.set(func() { s.unique = true })
		c.set("two") // keys are in memory only
		a.restart()
		m := a.join(alice)[0]
		pass(time.Second)
		x := s.of(t, alice)
		s.post(x.rich("AAMk1", "AAMk1", "one"))
		synctest.Wait()
		if !slices.Equal(m.told(), []string{"AAMk1"}) || s.count("POST") != 1 {
			t.Errorf("told of %v after %d subscriptions were made", m.told(), s.count("POST"))
		}
		pass(graph.LongestRich * 3 / 4)
		if s.count("POST", alice) != 3 || m.box.Record().Graph.Certificate != "two" || len(s.alive()) != 1 || !m.listens() { // one was in the way
			t.Errorf("%d made, the record has %+v, %d alive, listens %v", s.count("POST"), m.box.Record().Graph, len(s.alive()), m.listens())
		}
		s.post(s.of(t, alice).rich("AAMk2", "AAMk2", "two"))
		synctest.Wait()
		if len(m.messages) != 1 {
			t.Errorf("told %v", m.messages)
		}
		a.content = nil // it is switched off
		a.restart()
		m = a.join(alice)[0]
		pass(graph.LongestRich)
		if m.box.Record().Graph.Certificate != "" || !m.listens() {
			t.Errorf("the record has %+v", m.box.Record().Graph)
		}
	})
}

func TestRichSubscriptionsAreRenewedAndNotMadeAgainWhileTheirKeyIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, m := withContent(t, &contents{id: "one"})
		pass(7 * 24 * time.Hour)
		if s.count("POST") != 1 || s.count("PATCH") < 7 || s.count("PATCH") > 20 || !m.listens() {
			t.Errorf("%d made, %d renewed", s.count("POST"), s.count("PATCH"))
		}
	})
}

func TestAMessageWhoseKeysCannotBeHadIsReadAfterSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, m := withContent(t, &contents{id: "one", hangs: true})
		s.post(s.of(t, alice).rich("AAMk1", "AAMk1", "one"))
		pass(openTimeout + time.Second)
		if !slices.Equal(m.told(), []string{"AAMk1"}) {
			t.Errorf("told of %v", m.told())
		}
	})
}

var errNoContent = &fault.Error{Op: "POST subscriptions", Code: "ExtensionError", Text: "Graph does not accept the subscription", Scope: fault.Mailbox,
	Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}

// refusedTo has content refused to mailboxes.
func refusedTo(who func(mailbox string) bool) func(string) error {
	return func(mailbox string) error {
		if who(mailbox) {
			return errNoContent
		}
		return nil
	}
}

func everybody(string) bool { return true }

// withoutContentOf is why notifications come without their messages; empty: they do not.
// newAccountWithContent is a newAccount that has the messages in its notifications.
func newAccountWithContent(t *testing.T, s *server) *account {
	t.Helper()
	a := newAccount(t, s)
	a.content = &contents{id: "one"}
	a.restart()
	return a
}

func withoutContentOf(m *mailbox) string {
	if f := m.WithoutContent(); f != nil {
		return f.Code
	}
	return ""
}

func TestWhereContentIsRefusedAMailboxIsListenedToWithoutItAndItIsAskedForAgainDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.unique = true
		s.poor = refusedTo(everybody)
		a := newAccountWithContent(t, s)
		m := a.join(alice)[0]
		pass(time.Second)
		x := s.of(t, alice)
		if life := time.Until(x.expires); life < 6*24*time.Hour || m.box.Record().Graph.Certificate != "" || !m.listens() || m.failing() != "" {
			t.Errorf("it lives for %v, the record has %+v, %s", life, m.box.Record().Graph, m.failing())
		}
		s.post(x.mail("AAMk1"))
		synctest.Wait()
		if !slices.Equal(m.told(), []string{"AAMk1"}) || withoutContentOf(m) != CodeContent {
			t.Errorf("told of %v, without content: %q", m.told(), withoutContentOf(m))
		}
		for range 23 { // as often as an access token ends
			pass(time.Hour)
			s.post(x.life(graph.ReauthorizationRequired))
		}
		if n := s.count("POST"); n != 2 {
			t.Errorf("%d POSTs within a day", n)
		}
		pass(2 * time.Hour)
		if n := s.count("POST"); n != 5 || len(s.alive()) != 1 || !m.listens() { // with content, without, and without once more, for one was in the way
			t.Errorf("%d POSTs after a day, %d subscriptions, listens %v", n, len(s.alive()), m.listens())
		}
		s.set(func() { s.poor = nil })
		pass(25 * time.Hour)
		if m.box.Record().Graph.Certificate != "one" || !m.listens() || withoutContentOf(m) != "" || len(s.alive()) != 1 {
			t.Errorf("once it is taken the record has %+v; without content: %q", m.box.Record().Graph, withoutContentOf(m))
		}
	})
}

func TestARestartKeepsASubscriptionWithoutContentAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &contents{id: "one"}
		a, s, _ := withContent(t, c)
		a.content = nil
		a.restart()
		a.join(alice)
		pass(graph.LongestRich)
		a.content = c
		a.restart()
		posts := s.count("POST")
		m := a.join(alice)[0]
		pass(time.Minute)
		if s.count("POST") != posts || withoutContentOf(m) != CodeContent {
			t.Errorf("%d POSTs, without content: %q", s.count("POST")-posts, withoutContentOf(m))
		}
		for range 26 {
			pass(time.Hour)
			s.post(s.of(t, alice).life(graph.ReauthorizationRequired))
		}
		if m.box.Record().Graph.Certificate != "one" || withoutContentOf(m) != "" {
			t.Errorf("the record has %+v", m.box.Record().Graph)
		}
	})
}

func TestAFewMailboxesADayAskForContentThatIsRefusedToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait = 500 * time.Millisecond
		s.poor = refusedTo(everybody)
		a := newAccountWithContent(t, s)
		const mailboxes = 1000
		for i := range mailboxes {
			a.join(address(i))
		}
		pass(5 * time.Minute)
		first := s.count("POST") - mailboxes
		pass(10 * 24 * time.Hour)
		later := s.count("POST") - mailboxes - first
		if first > maxWriting || later > 10*30 || len(s.alive()) != mailboxes {
			t.Errorf("%d POSTs too many at first, %d in ten days; %d subscriptions", first, later, len(s.alive()))
		}
	})
}

func TestContentThatIsRefusedToOneMailboxIsNotRefusedToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.poor = refusedTo(func(mailbox string) bool { return mailbox == alice })
		a := newAccountWithContent(t, s)
		m := a.join(alice, bob)
		pass(time.Second)
		if m[0].box.Record().Graph.Certificate != "" || m[1].box.Record().Graph.Certificate != "one" || withoutContentOf(m[1]) != "" {
			t.Errorf("%+v, %+v", m[0].box.Record().Graph, m[1].box.Record().Graph)
		}
	})
}

// A right may be granted for some mailboxes only.
func TestContentThatIsRefusedToManyIsTakenByAllOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mailboxes = 60
		refused := map[string]bool{}
		for i := range mailboxes {
			refused[address(i)] = i%5 > 0
		}
		s := newServer()
		s.poor = refusedTo(func(mailbox string) bool { return refused[mailbox] })
		a := newAccountWithContent(t, s)
		var boxes []*mailbox
		wantContent := func(when string) {
			t.Helper()
			for i, m := range boxes {
				if has := m.box.Record().Graph.Certificate != ""; has == refused[address(i)] || !m.listens() {
					t.Errorf("%s %s has content: %v, and is listened to: %v", when, address(i), has, m.listens())
				}
			}
		}
		for i := range mailboxes {
			boxes = append(boxes, a.join(address(i))...)
			pass(time.Minute)
		}
		pass(25 * time.Hour)
		wantContent("after a day")
		pass(5 * 24 * time.Hour)
		s.set(func() { refused[address(1)] = false })
		boxes = append(boxes, a.join(address(mailboxes))...)
		pass(25 * time.Hour)
		wantContent("after a week")
	})
}

// It was to be replaced for its content only. Else it would end, or tell nothing once its access token has: it is not renewed any more then.
func TestASubscriptionThatCannotBeReplacedForItsContentIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.poor = refusedTo(everybody)
		a := newAccountWithContent(t, s)
		m := a.join(alice)[0]
		pass(time.Minute)
		id := s.of(t, alice).id
		s.set(func() { s.refuse = refusesNewOnes })
		for range 10 * 24 {
			pass(time.Hour)
			renewals := s.count("PATCH")
			s.post(s.of(t, alice).life(graph.ReauthorizationRequired))
			pass(2 * authoriseWithin)
			if s.count("PATCH") == renewals {
				t.Fatal("it gets no new access token")
			}
		}
		if !m.listens() || s.of(t, alice).id != id {
			t.Errorf("listens %v, by %s", m.listens(), s.of(t, alice).id)
		}
		s.set(func() { s.refuse, s.poor = nil, nil })
		pass(25 * time.Hour)
		if m.box.Record().Graph.Certificate != "one" {
			t.Error("it is not replaced once it can be")
		}
	})
}

// refusesNewOnes refuses all subscriptions for long.
func refusesNewOnes(op, _ string) error {
	if op != "POST" {
		return nil
	}
	return &fault.Error{Op: op, Code: graph.CodeFull, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true}
}

func TestAMailboxIsPolledWhoseSubscriptionWasRemovedForAnotherThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.unique = true
		s.poor = refusedTo(everybody)
		a := newAccountWithContent(t, s)
		m := a.join(alice)[0]
		pass(time.Minute)
		removed := false
		s.set(func() {
			s.refuse = func(op, mailbox string) error {
				removed = removed || op == "DELETE"
				if !removed {
					return nil
				}
				return refusesNewOnes(op, mailbox)
			}
		})
		pass(26 * time.Hour)
		if len(s.alive()) > 0 || m.listens() || m.failing() != graph.CodeFull {
			t.Errorf("%d subscriptions, listens %v, failing %q", len(s.alive()), m.listens(), m.failing())
		}
		s.set(func() { s.refuse = nil })
		pass(2 * time.Hour)
		if !m.listens() {
			t.Errorf("it is not listened to again: %q", m.failing())
		}
	})
}

// What is refused with content and without is not the content.
func TestASubscriptionThatIsRefusedEitherWayIsPolledAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		denied := &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}
		s.refuse = func(op, _ string) error {
			if op == "POST" {
				return denied
			}
			return nil
		}
		a := newAccountWithContent(t, s)
		m := a.join(alice)[0]
		pass(time.Minute)
		if m.failing() != graph.CodeDenied || withoutContentOf(m) != "" {
			t.Errorf("failing %q, without content %q", m.failing(), withoutContentOf(m))
		}
	})
}
