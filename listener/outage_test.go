package listener

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
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
				most := 25
				if every > shortOutage {
					most += int(time.Hour / every)
				}
				if tries > most {
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
