package listener

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// inFoundScene runs a test for each kind of listening over EWS, with alice listened to, whose location was found by Autodiscover two hours ago.
func inFoundScene(t *testing.T, test func(s *scene, known *finder, p *posting)) {
	for _, listenBy := range []string{"streaming", ByPush} {
		t.Run(listenBy, func(t *testing.T) {
			inScene(t, func(s *scene) {
				var p *posting
				if listenBy == ByPush {
					p = s.byPush(listenBy)
				}
				known, by := &finder{url: hqURL}, s.entry
				s.entry = func(e *Entry) {
					if by != nil {
						by(e)
					}
					e.URL, e.Accounts[0].Finder = "", known
				}
				s.start()
				s.enrol("phone", alice)
				s.pass(2 * time.Hour)
				s.wantState(subscriptions.Listening, alice)
				test(s, known, p)
			})
		})
	}
}

// fails has every call fail, and where cut is set the streams break; nil: all is well again.
func (s *scene) fails(p *posting, f *fault.Error, cut bool) {
	var err error
	if f != nil {
		err = f
	}
	s.hq.set(func() { s.hq.fails = err })
	if p != nil {
		p.mu.Lock()
		p.refuse = err
		p.mu.Unlock()
	}
	if cut {
		s.hq.end(errReset)
	}
}

// Where a server was switched off for another one, only Autodiscover knows. Its mailboxes are looked up again, however they are listened to.
func TestAMailboxWhoseServerIsGoneIsLookedUpAgain(t *testing.T) {
	for code, within := range map[string]time.Duration{
		"connect": 20 * time.Minute, "timeout": 20 * time.Minute, "HTTP 503": 20 * time.Minute, "not EWS": 20 * time.Minute, "certificate": 20 * time.Minute,
		"redirect": 5 * time.Minute, "HTTP 404": 5 * time.Minute,
	} {
		t.Run(code, func(t *testing.T) {
			inFoundScene(t, func(s *scene, known *finder, p *posting) {
				s.fails(p, row(code, ""), true)
				asked := len(known.askedFor())
				s.mailbox(alice).work.List() // there is mail, or it is polled
				s.pass(within)
				if len(known.askedFor()) == asked {
					t.Error("nobody has asked Autodiscover for it")
				}
				asked = len(known.askedFor())
				s.pass(3 * time.Hour)
				if s.wantState(subscriptions.Failing, alice); len(known.askedFor()) == asked {
					t.Error("nobody asks again")
				}
				if n := len(known.askedFor()) - asked; n > 3*12 {
					t.Errorf("asked %d times in three hours", n)
				}
			})
		})
	}
}

// Until it is found elsewhere it stays where it is: with its subscription, and read there as soon as that works, whatever Autodiscover says.
func TestAMailboxThatIsLookedUpForAnOutageStaysUnlessItIsFoundElsewhere(t *testing.T) {
	for name, answer := range map[string]error{
		"it is found there":            nil,
		"Autodiscover is away as well": &fault.Error{Op: "Autodiscover", Code: "connect", Scope: fault.Server, Remedy: fault.Wait},
	} {
		t.Run(name, func(t *testing.T) {
			inFoundScene(t, func(s *scene, known *finder, p *posting) {
				had, tries := s.record(alice).Subscription, s.hq.subscribed()
				known.set(func() { known.fails = answer })
				s.fails(p, row("connect", ""), true)
				asked := len(known.askedFor())
				s.mailbox(alice).work.List()
				s.pass(90 * time.Minute)
				if len(known.askedFor()) == asked {
					t.Fatal("it was not looked up")
				}
				s.fails(p, nil, false)
				m := s.hq.come(alice)
				s.pass(5*time.Minute + time.Second)
				s.accepted(1, "phone", m)
				if got := s.record(alice).Subscription; p == nil && got != had || p == nil && s.hq.subscribed() != tries || len(s.hq.givenBack()) > 0 {
					t.Errorf("it has the subscription %q, and had %q; given back: %q", got, had, s.hq.givenBack())
				}
			})
		})
	}
}

func TestAPushSubscriptionOutlivesAnOutageInWhichItsMailboxIsLookedUp(t *testing.T) {
	inFoundScene(t, func(s *scene, known *finder, p *posting) {
		if p == nil {
			return
		}
		had, asked := s.record(alice).Subscription, len(known.askedFor())
		s.hq.set(func() { s.hq.fails = row("HTTP 503", "") }) // what it posts comes all the same
		s.mailbox(alice).work.List()
		for range 9 {
			p.post(alice, `<StatusEvent><Watermark>1</Watermark></StatusEvent>`)
			s.pass(5 * time.Minute)
		}
		s.fails(p, nil, false)
		p.post(alice, `<StatusEvent><Watermark>1</Watermark></StatusEvent>`)
		s.pass(5*time.Minute + time.Second)
		if got := s.record(alice).Subscription; len(known.askedFor()) == asked || got != had {
			t.Errorf("it has the subscription %q, and had %q; looked up %d times", got, had, len(known.askedFor())-asked)
		}
		s.wantState(subscriptions.Listening, alice)
		m := p.comes(alice)
		s.pass(time.Second)
		s.accepted(1, "phone", m)
	})
}

func TestAMailboxThatIsFoundElsewhereInAnOutageMovesThere(t *testing.T) {
	inFoundScene(t, func(s *scene, known *finder, p *posting) {
		const there = "https://new.contoso.example/EWS/Exchange.asmx"
		had := s.record(alice).Subscription
		known.set(func() { known.url = there })
		s.fails(p, row("redirect", ""), true)
		s.mailbox(alice).work.List()
		s.pass(5 * time.Minute)
		s.fails(p, nil, false)
		s.pass(5*time.Minute + time.Second)
		s.listening("hq", alice)
		if r := s.record(alice); r.Location().URL != there || r.Subscription == had {
			t.Errorf("it is at %s, and has the subscription %q", r.Location().URL, r.Subscription)
		}
	})
}

// A page of maintenance, for example.
func TestAMailboxIsListenedToSoonAfterItsServerHasStoppedToRedirect(t *testing.T) {
	inFoundScene(t, func(s *scene, _ *finder, p *posting) {
		s.fails(p, row("redirect", ""), true)
		s.mailbox(alice).work.List()
		s.pass(30 * time.Minute)
		s.wantState(subscriptions.Failing, alice)
		s.fails(p, nil, false)
		s.pass(6 * time.Minute)
		s.wantState(subscriptions.Listening, alice)
	})
}
