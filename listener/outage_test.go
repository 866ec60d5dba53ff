package listener

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Streams that are open outlive that the server answers no call; callbacks come all the same.
func TestWhatWaitsForAServerIsTriedOnceItAnswersForAnotherMailbox(t *testing.T) {
	for _, listenBy := range []string{"streaming", ByPush} {
		t.Run(listenBy, func(t *testing.T) {
			inScene(t, func(s *scene) {
				var p *posting
				if listenBy == ByPush {
					p = s.byPush(listenBy)
				}
				s.start()
				const n = 20
				for i := range n {
					s.enrol(fmt.Sprint("d", i), address(i))
				}
				s.enrol("behind", address(0))
				s.pass(time.Minute)
				release := s.apns.hold("behind")
				owed := s.hq.come(address(0))
				s.mailbox(address(0)).work.List()
				s.pass(time.Minute)
				release()
				s.fails(p, row("HTTP 503", ""), false)
				s.in.TopicReady(topic, "production")
				var waits []*message
				for i := range n {
					waits = append(waits, s.hq.come(address(i)))
					s.mailbox(address(i)).work.List()
				}
				s.pass(20 * time.Minute)
				s.fails(p, nil, false)
				first := func() bool {
					for i, m := range waits {
						if s.apns.accepted(fmt.Sprint("d", i), s.key(fmt.Sprint("d", i), m)) > 0 {
							return true
						}
					}
					return false
				}
				for !first() {
					s.pass(time.Second)
				}
				s.pass(time.Second)
				for i, m := range waits {
					s.accepted(1, fmt.Sprint("d", i), m)
				}
				s.accepted(1, "behind", owed, waits[0])
				s.inStep(address(0))
			})
		})
	}
}

// Else one mailbox would be tried as often as others are answered.
func TestAServerThatFailsForOneMailboxIsNotTriedWithEachAnswerForAnother(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 2 * shortOutage, 10 * time.Minute} {
		t.Run(every.String(), func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("b", bob)
				s.pass(time.Hour)
				tries := 0
				s.hq.set(func() {
					s.hq.sick = map[string]error{alice: row("HTTP 503", "")}
					s.hq.onList = func(mailbox string, _ int) {
						if mailbox == alice {
							s.hq.set(func() { tries++ })
						}
					}
				})
				s.mailbox(alice).work.List()
				for range time.Hour / every {
					s.hq.come(bob)
					s.pass(every)
				}
				s.wantState(subscriptions.Failing, alice)
				synctest.Wait()
				if tries > 25 {
					t.Errorf("%d tries in an hour", tries)
				}
			})
		})
	}
}

func TestMailboxesThatNobodyCouldFindAreLookedUpOnceAnotherIsFound(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &finder{url: hqURL, fails: &fault.Error{Op: "Autodiscover", Code: "connect", Scope: fault.Server, Remedy: fault.Wait}}
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		s.start()
		const n = 20
		for i := range n {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(20 * time.Minute)
		s.wantState(subscriptions.Failing, address(0))
		asked := len(f.askedFor())
		f.set(func() { f.fails = nil })
		for len(f.askedFor()) == asked {
			s.pass(time.Second)
		}
		s.pass(11 * time.Second)
		for i := range n {
			s.listening("hq", address(i))
		}
		if more := len(f.askedFor()) - asked; more > n {
			t.Errorf("asked %d times for %d", more, n)
		}
	})
}

// outages has the server fail for carol only, for longer than a shortOutage, again and again for an hour.
func (s *scene) outages(at *exchange) {
	for range 20 {
		at.set(func() { at.sick[carol] = row("HTTP 503", "") })
		s.mailbox(carol).work.List()
		s.pass(2 * time.Minute)
		at.set(func() { delete(at.sick, carol) })
		s.mailbox(carol).retry(ofOutage)
		s.pass(time.Minute)
	}
}

// What else one waits for, another's answer does not end: a refusal, which may be a password's, or the server's own word of when to come again.
func TestTheEndOfAnOutageHasNobodyTriedWhoWaitsForSomethingElse(t *testing.T) {
	busy := row("HTTP 503", "")
	busy.After, busy.Asked = time.Hour, true
	for _, c := range []struct {
		name string
		why  *fault.Error
		most int
	}{{"refused", row("HTTP 403", ""), 8}, {"told when", busy, 2}} {
		for _, listenBy := range []string{"streaming", ByPush} {
			t.Run(c.name+" "+listenBy, func(t *testing.T) {
				inScene(t, func(s *scene) {
					if listenBy == ByPush {
						s.byPush(listenBy)
					}
					s.start()
					for i, m := range []string{alice, carol, address(1), address(2)} {
						s.enrol(fmt.Sprint("d", i), m)
					}
					s.pass(time.Minute)
					lists, subscribes := map[string]int{}, map[string]int{}
					s.hq.set(func() {
						s.hq.sick = map[string]error{bob: c.why}
						s.hq.onList = func(m string, _ int) { s.hq.set(func() { lists[m]++ }) }
						s.hq.onSub = func(m string) { s.hq.set(func() { subscribes[m]++ }) }
					})
					s.enrol("b", bob)
					s.outages(s.hq)
					if lists[bob] > c.most || subscribes[bob] > c.most {
						t.Errorf("subscribed %d times in an hour, listed %d times", subscribes[bob], lists[bob])
					}
				})
			})
		}
	}
}

func TestTheEndOfAnOutageOfGraphHasNobodyTriedWhoIsDeniedARight(t *testing.T) {
	inScene(t, func(s *scene) {
		c := s.online(ByGraph)
		c.deny = &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}
		c.graph.sick = map[string]error{}
		s.start()
		s.enrol("c", carol)
		for i := range 20 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Hour)
		before := c.count("POST")
		c.graph.set(func() { // else they are polled, and answered meanwhile
			for i := range 20 {
				c.graph.sick[address(i)] = row("HTTP 503", "")
			}
		})
		s.outages(c.graph)
		if n := c.count("POST") - before; n > 15 {
			t.Errorf("%d tries to subscribe in an hour", n)
		}
	})
}

// deadDomain is an Autodiscover that answers for all mail domains but one.
type deadDomain struct{ finder }

func (f *deadDomain) Find(ctx context.Context, address string) (mail.Location, error) {
	at, err := f.finder.Find(ctx, address)
	if mail.Domain(address) == "fabrikam.example" {
		return mail.Location{}, &fault.Error{Op: "Autodiscover", Code: "connect", Scope: fault.Server, Remedy: fault.Wait}
	}
	return at, err
}

func TestMailboxesOfADomainWhoseAutodiscoverIsAwayAreNotLookedUpWithEachOfAnother(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &deadDomain{finder{url: hqURL}}
		s.entry = func(e *Entry) {
			e.URL, e.Accounts[0].Finder = "", f
			e.Domains = append(e.Domains, "fabrikam.example")
		}
		s.start()
		s.enrol("x", "dan@fabrikam.example")
		for i := range 30 {
			s.enrol(fmt.Sprint("d", i), address(i))
			s.pass(2 * shortOutage)
		}
		n := 0
		for _, a := range f.askedFor() {
			if a == "dan@fabrikam.example" {
				n++
			}
		}
		if n > 20 {
			t.Errorf("looked up %d times in an hour", n)
		}
	})
}

func TestASubscribeThatIsUnderWayWhenAnOutageEndsIsMadeAgainAtOnce(t *testing.T) {
	for _, listenBy := range []string{"streaming", ByPush} {
		t.Run(listenBy, func(t *testing.T) {
			inScene(t, func(s *scene) {
				if listenBy == ByPush {
					s.byPush(listenBy)
				}
				s.start()
				s.enrol("c", carol)
				s.pass(time.Minute)
				s.hq.set(func() { s.hq.sick = map[string]error{bob: row("HTTP 503", ""), carol: row("HTTP 503", "")} })
				s.mailbox(carol).work.List()
				s.enrol("b", bob)
				s.pass(20 * time.Minute)
				begun, answer := make(chan struct{}), make(chan struct{})
				s.hq.set(func() {
					s.hq.onSub = func(string) {
						s.hq.set(func() { s.hq.onSub = nil })
						close(begun)
						<-answer
					}
				})
				<-begun
				s.hq.set(func() { s.hq.sick = nil })
				s.mailbox(carol).retry(ofOutage)
				s.pass(time.Second)
				close(answer)
				s.pass(5 * time.Second)
				s.listening("hq", bob)
			})
		})
	}
}

// A stream that is cut again and again has nobody tried with each that is opened who was refused, or told when to come again.
func TestAStreamThatOpensHasNobodySubscribedWhoWaitsForSomethingElse(t *testing.T) {
	busy := row("HTTP 503", "")
	busy.After, busy.Asked = time.Hour, true
	for name, c := range map[string]struct {
		why  *fault.Error
		most int
	}{"refused": {row("HTTP 403", ""), 8}, "told when": {busy, 2}} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				for i, m := range []string{alice, carol, address(1), address(2)} {
					s.enrol(fmt.Sprint("d", i), m)
				}
				s.pass(time.Minute)
				before := s.hq.subscribed()
				s.hq.set(func() { s.hq.subFail = map[string]error{bob: c.why} })
				s.enrol("b", bob)
				for range 120 {
					s.pass(30 * time.Second)
					s.hq.end(errReset)
				}
				if n := s.hq.subscribed() - before; n > c.most {
					t.Errorf("subscribed %d times in an hour", n)
				}
			})
		})
	}
}
