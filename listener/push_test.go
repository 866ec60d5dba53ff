package listener

// Listening by push, and the fallback to it.

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// posting is an exchange that posts.
type posting struct {
	*exchange
	s      *scene
	mu     sync.Mutex
	urls   map[string]string // by mailbox
	ids    map[string]string
	marks  map[string]int
	tries  int
	refuse error
}

// byPush gives the entry of hq push notifications.
func (s *scene) byPush(listenBy string) *posting {
	p := &posting{exchange: s.hq, s: s, urls: map[string]string{}, ids: map[string]string{}, marks: map[string]int{}}
	s.publicURL = "https://bell.contoso.example"
	s.entry = func(e *Entry) {
		e.ListenBy = listenBy
		e.Accounts[0].Pushes = p
	}
	return p
}

func (p *posting) SubscribePush(_ context.Context, at mail.Location, _ callbacks.Affinity, to ews.Push) (callbacks.Subscribed, error) {
	p.exchange.mu.Lock()
	sick, onSub := p.sick[at.Primary], p.onSub
	p.exchange.mu.Unlock()
	if onSub != nil {
		defer onSub(at.Primary)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries++
	if sick != nil {
		return callbacks.Subscribed{}, sick
	}
	if p.refuse != nil {
		return callbacks.Subscribed{}, p.refuse
	}
	id := fmt.Sprint("push-", p.tries)
	p.urls[at.Primary], p.ids[at.Primary], p.marks[at.Primary] = strings.TrimPrefix(to.URL, p.s.publicURL)+to.Secret, id, 0
	go p.post(at.Primary, `<StatusEvent><Watermark>1</Watermark></StatusEvent>`)
	return callbacks.Subscribed{ID: id, Watermark: "0"}, nil
}

// post posts an event.
func (p *posting) post(mailbox, event string) (answer string) {
	p.mu.Lock()
	before := p.marks[mailbox]
	p.marks[mailbox]++
	body := fmt.Sprintf(`<Envelope><Body><SendNotification><ResponseMessages><Message ResponseClass="Success"><Notification><SubscriptionId>%s</SubscriptionId>`+
		`<PreviousWatermark>%d</PreviousWatermark>%s</Notification></Message></ResponseMessages></SendNotification></Body></Envelope>`, p.ids[mailbox], before, event)
	url := p.urls[mailbox]
	p.mu.Unlock()
	w := httptest.NewRecorder()
	p.s.l.Callbacks().ServeHTTP(w, httptest.NewRequest(http.MethodPost, url, strings.NewReader(body)))
	return w.Body.String()
}

// comes delivers a message that a callback tells of. Its id is in base64, as those of Exchange are.
func (p *posting) comes(mailbox string) *message {
	m := p.come(mailbox, func(m *message) {
		m.id = "AAMk" + strings.ReplaceAll(m.id[strings.LastIndex(m.id, "item-"):], "item-", "")
	})
	p.mu.Lock()
	mark := p.marks[mailbox] + 1
	p.mu.Unlock()
	p.post(mailbox, fmt.Sprintf(`<NewMailEvent><Watermark>%d</Watermark><ItemId Id="%s"/></NewMailEvent>`, mark, m.id))
	return m
}

func unsupported() error {
	return &fault.Error{Op: "Subscribe", Code: "ErrorSchemaValidation", Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}
}

func TestACallbackHasAMessageReadAndAlertedOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		p := s.byPush(ByPush)
		s.start()
		s.enrol("phone", alice)
		s.pass(time.Second)
		if s.wantState(subscriptions.Listening, alice); s.hq.subscribed() != 0 {
			t.Errorf("%d streaming subscriptions", s.hq.subscribed())
		}
		lists := s.hq.listings()
		m := p.comes(alice)
		s.pass(time.Second)
		s.accepted(1, "phone", m)
		if n := s.hq.listings() - lists; n != 0 {
			t.Errorf("%d listings for it", n)
		}
		s.pass(time.Hour)
		s.accepted(1, "phone", m)
	})
}

func TestAServerWithoutStreamingCallsBack(t *testing.T) {
	inScene(t, func(s *scene) {
		p := s.byPush(ByStreaming)
		everybody := []string{alice, bob, carol, address(1), address(2)}
		s.hq.subFail = map[string]error{}
		for _, a := range everybody {
			s.hq.subFail[a] = unsupported()
		}
		s.start()
		for i, a := range everybody {
			s.enrol(fmt.Sprint("phone-", i), a)
		}
		s.pass(time.Minute)
		s.wantState(subscriptions.Listening, everybody...)
		m := p.comes(bob)
		s.pass(time.Second)
		s.accepted(1, "phone-1", m)
		before := p.tries
		s.stop()
		s.start() // it begins with streaming, is refused again, and takes the kept subscriptions up
		s.pass(time.Minute)
		late := p.comes(bob)
		s.pass(time.Second)
		s.accepted(1, "phone-1", late)
		s.wantState(subscriptions.Listening, bob)
		if p.tries != before {
			t.Errorf("%d push subscriptions more after the restart", p.tries-before)
		}
	})
}

// heldBack is what a stream ends with that never brings anything.
func heldBack() error {
	return &fault.Error{Op: "GetStreamingEvents", Code: ews.CodeHeldBack, Scope: fault.Group, Remedy: fault.Wait}
}

func TestStreamingIsGivenUpOnlyWhereSeveralMailboxesMeetThatItIsNotThere(t *testing.T) {
	busy := &fault.Error{Op: "Subscribe", Code: "ErrorServerBusy", Scope: fault.Mailbox, Remedy: fault.Wait}
	for name, test := range map[string]struct {
		mailboxes int
		met       func(f *fallback)
		want      bool
	}{
		"three are refused": {10, func(f *fallback) {
			f.failed(alice, unsupported())
			f.failed(bob, heldBack())
			f.failed(carol, unsupported())
		}, true},
		"two are refused": {10, func(f *fallback) { f.failed(alice, unsupported()); f.failed(bob, heldBack()) }, false},
		"one is refused again and again": {10, func(f *fallback) {
			f.failed(alice, heldBack())
			f.failed(alice, heldBack())
			f.failed(alice, heldBack())
		}, false},
		"all of two are refused":           {2, func(f *fallback) { f.failed(alice, heldBack()); f.failed(bob, heldBack()) }, true},
		"the server is busy":               {1, func(f *fallback) { f.failed(alice, busy); f.failed(alice, context.Canceled); f.failed(alice, nil) }, false},
		"a stream has brought something":   {1, func(f *fallback) { f.streamed(); f.failed(alice, heldBack()) }, false},
		"there is nothing to fall back to": {1, func(*fallback) { var none *fallback; none.streamed(); none.failed(alice, heldBack()) }, false},
	} {
		f := newFallback(zap.NewNop(), func() int { return test.mailboxes }, func() bool { return true }, func(task func()) bool { task(); return true })
		test.met(f)
		if f.push != test.want {
			t.Errorf("%s: push %v, want %v", name, f.push, test.want)
		}
	}
}

// With kept subscriptions the streams are the first that a server is asked for after a start. One that hangs then is not one without streaming.
func TestAServerThatHangsAtARestartIsNotTakenForOneWithoutStreaming(t *testing.T) {
	inScene(t, func(s *scene) {
		p := s.byPush(ByStreaming)
		s.start()
		everybody := []string{alice, bob, carol, address(1), address(2)}
		for i, a := range everybody {
			s.enrol(fmt.Sprint("phone-", i), a)
		}
		s.pass(time.Minute)
		s.stop()
		s.hq.set(func() { s.hq.fails = heldBack() })
		s.start()
		s.pass(2 * time.Minute)
		s.hq.set(func() { s.hq.fails = nil })
		s.pass(5 * time.Minute)
		s.wantState(subscriptions.Listening, everybody...)
		if p.tries != 0 {
			t.Errorf("%d push subscriptions", p.tries)
		}
	})
}

func TestOneMailboxThatIsRefusedStreamingChangesNothingForTheOthers(t *testing.T) {
	inScene(t, func(s *scene) {
		p := s.byPush(ByStreaming)
		s.hq.subFail = map[string]error{alice: unsupported(), address(1): unsupported(), address(2): unsupported(), address(3): unsupported()}
		s.start()
		s.enrol("other", bob)
		s.pass(time.Minute)
		s.wantState(subscriptions.Listening, bob)
		for i, a := range []string{alice, address(1), address(2), address(3)} {
			s.enrol(fmt.Sprint("phone-", i), a)
		}
		s.pass(time.Minute)
		s.wantState(subscriptions.Polling, alice, address(3))
		s.wantState(subscriptions.Listening, bob)
		if p.tries != 0 {
			t.Errorf("%d push subscriptions although streaming works", p.tries)
		}
	})
}

func TestWithoutPublicURLAServerWithoutStreamingIsPolled(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.subFail = map[string]error{alice: unsupported()}
		s.start()
		s.enrol("phone", alice)
		s.pass(time.Minute)
		s.wantState(subscriptions.Polling, alice)
		lists := s.hq.listings()
		s.pass(10 * time.Minute)
		if n := s.hq.listings() - lists; n < 8 || n > 11 {
			t.Errorf("%d listings in ten minutes", n)
		}
		m := s.hq.come(alice)
		s.pass(2 * time.Minute)
		s.accepted(1, "phone", m)
	})
}

func TestAMailboxThatChangesFromStreamingToPushUsesNeitherIDForTheOther(t *testing.T) {
	inScene(t, func(s *scene) {
		p := s.byPush(ByStreaming)
		s.start()
		s.enrol("phone", alice)
		s.pass(time.Second)
		stream := s.record(alice).Subscription
		for _, by := range []string{ByPush, ByStreaming} {
			s.stop()
			s.entry = func(e *Entry) {
				e.ListenBy = by
				e.Accounts[0].Pushes = p
			}
			s.start()
			s.pass(time.Minute)
			s.wantState(subscriptions.Listening, alice)
			r := s.record(alice)
			if r.Subscription == stream || (r.Callback != "") != (by == ByPush) {
				t.Errorf("%s: subscription %q, callback %q", by, r.Subscription, r.Callback)
			}
			stream = r.Subscription
		}
		if answer := p.post(alice, ""); !strings.Contains(answer, "Unsubscribe") {
			t.Errorf("the push subscription goes on: %s", answer)
		}
		synctest.Wait()
	})
}

func TestNobodyIsRememberedForAFallbackThatIsDecided(t *testing.T) {
	for name, c := range map[string]struct {
		decide func(f *fallback)
		push   bool
	}{
		"streaming works":    {(*fallback).streamed, false},
		"there is no stream": {func(f *fallback) { f.failed(alice, unsupported()) }, true},
	} {
		f := newFallback(zap.NewNop(), func() int { return 1 }, func() bool { return true }, func(func()) bool { return true })
		f.join(&either{})
		if len(f.joined) != 1 {
			t.Errorf("%s: %d are remembered before", name, len(f.joined))
		}
		c.decide(f)
		if push := f.join(&either{}); push != c.push || len(f.joined) > 0 {
			t.Errorf("%s: by push %t, %d are remembered", name, push, len(f.joined))
		}
	}
}
