package inbox

// The rules of the log and its interleavings, each a test of its own.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func receivedAt(t time.Time) func(*message) { return func(m *message) { m.received = t } }
func readTells(t time.Time) func(*message)  { return func(m *message) { m.told = t } }
func ago(d time.Duration) time.Time         { return time.Now().Add(-d).Truncate(time.Second) }
func noID(m *message)                       { m.internetID = "" }
func corrupt(m *message)                    { m.unreadable = true }
func withID(id string) func(*message)       { return func(m *message) { m.internetID = id } }
func sentAt(t time.Time) func(*message)     { return func(m *message) { m.sent = t } }

func TestAHintAlertsTheDevicesOfItsMailboxOnly(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a1", alice)
		s.enrol("a2", alice)
		s.enrol("b1", bob)
		m := s.source.come(alice)
		synctest.Wait()
		s.accepted(1, "a1", m)
		s.accepted(1, "a2", m)
		s.accepted(0, "b1", m)
		if h := s.mailbox(alice).Status(); !h.Listed || h.Failing != nil || h.LastHint.IsZero() || h.LastMessage.IsZero() {
			t.Errorf("%+v", h)
		}
	})
}

func TestAnOutcomeIsOneWriteAndMovesNothing(t *testing.T) { // rule 2
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a1", alice)
		before := s.record(alice)
		lists := s.source.lists
		s.source.come(alice)
		synctest.Wait()
		after := s.record(alice)
		if after.End != before.End+1 || after.Listed != before.Listed || after.Since != before.Since || s.source.lists != lists {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
	})
}

func TestKilledBetweenTheAcceptanceOfAAndTheWriteWithBRetryingAndCBehind(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for _, id := range []string{"a", "b", "c"} {
			s.enrol(id, alice)
		}
		s.apns.hold("c", outcome.Throttled, time.Second)
		s.source.come(alice)
		synctest.Wait()
		release := make(chan struct{})
		hold := s.apns.answer
		s.apns.answer = func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "b" { // retrying
				select {
				case <-release:
				case <-ctx.Done():
				}
				return unanswered()
			}
			return hold(ctx, n)
		}
		m := s.source.come(alice)
		synctest.Wait() // a is accepted; the write waits half a second for b
		s.accepted(1, "a", m)
		s.kill()
		close(release)
		s.apns.set(func() { s.apns.answer = nil })
		s.start()
		s.pass(2 * time.Minute)
		s.accepted(1, "b", m)
		s.accepted(1, "c", m)
		s.inStep(alice)
		if n := len(s.apns.pushes("a", s.key("a", m))); n != 2 {
			t.Errorf("a got it %d times; a repeat within the second before a kill is what is promised here", n)
		}
	})
}

func TestWhatWasAnsweredASecondBeforeAKillIsNotSentAgain(t *testing.T) { // rule 10
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("slow", alice)
		s.apns.answer = func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "slow" {
				<-ctx.Done()
				return unanswered()
			}
			return subscriptions.Answer{}
		}
		m := s.source.come(alice)
		s.pass(time.Second)
		s.kill()
		s.apns.set(func() { s.apns.answer = nil })
		s.start()
		s.pass(time.Minute)
		s.accepted(1, "a", m)
		s.accepted(1, "slow", m)
	})
}

func TestALostHintsMessageAlertsWithinOneSafetyPoll(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		var lost, next *message
		s.source.quietly(func() { lost = s.source.come(alice) })
		s.pass(time.Second)
		next = s.source.come(alice)
		synctest.Wait()
		s.accepted(0, "a", lost)
		s.accepted(1, "a", next)
		s.pass(s.poll)
		s.accepted(1, "a", lost, next)
	})
}

// since moves with complete listings only: computed from the 256th newest entry at any time, it would pass the lost one.
func TestALostHintIsFoundAfterThreeHundredOthers(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		var lost *message
		s.source.quietly(func() { lost = s.source.come(alice) })
		for range 300 {
			s.pass(time.Second)
			s.source.come(alice)
		}
		s.pass(s.poll)
		s.accepted(1, "a", lost)
	})
}

func TestABusyMailboxIsListedBeforeItsLogGrowsLarge(t *testing.T) {
	inScene(t, func(s *scene) {
		s.poll = 24 * time.Hour
		s.start()
		s.enrol("a", alice)
		for range 2000 {
			s.pass(time.Second)
			s.source.come(alice)
		}
		synctest.Wait()
		if n := len(s.record(alice).Outcomes); n > 600+2*256 { // 600 of twice the tolerance, which no listing can prune
			t.Errorf("the log has %d entries", n)
		}
	})
}

func TestTwoHintsOfOneMessageAtTheSameInstantAlertOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.apns.set(func() { s.apns.delay = 100 * time.Millisecond })
		m := s.source.come(alice)
		s.source.hint(alice, m)
		synctest.Wait()
		s.source.hint(alice, m) // while it is sent
		s.pass(time.Second)
		s.source.hint(alice, m) // and when its outcome is known
		s.pass(time.Second)
		s.accepted(1, "a", m)
	})
}

func TestAMessageThatIsListedLaterUnderAnotherReceivedTimeAlertsOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Minute)
		m := s.source.come(alice, readTells(ago(5*time.Minute)))
		synctest.Wait()
		s.accepted(1, "a", m)
		s.pass(3 * s.poll)
		s.accepted(1, "a", m)
		if e := s.record(alice).Outcomes; len(e) != 1 || int64(e[0].Received) != m.received.Unix() {
			t.Errorf("the listing did not raise the entry's date: %+v", e)
		}
	})
}

func TestMailBetweenTheEnrolmentAndTheFirstListingOfAnEmptyMailbox(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		release := make(chan struct{})
		s.source.onList = func(int) { <-release }
		s.enrol("a", alice) // its first listing is held up
		var m *message
		s.source.quietly(func() { m = s.source.come(alice) })
		s.source.set(func() { s.source.onList = nil })
		close(release)
		s.pass(s.poll)
		s.accepted(1, "a", m)
	})
}

func TestASecondDeviceGetsNothingFromBeforeAndEverythingAfter(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		before := s.source.come(alice)
		s.pass(10 * time.Minute)
		s.enrol("b", alice)
		after := s.source.come(alice)
		s.pass(2 * s.poll)
		s.accepted(1, "a", before, after)
		s.accepted(0, "b", before)
		s.accepted(1, "b", after)
		s.inStep(alice)
	})
}

func TestADeviceThatEnrolsWhileAnAlertIsSentIsNotForgotten(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.apns.set(func() { s.apns.delay = 300 * time.Millisecond })
		m := s.source.come(alice)
		s.pass(100 * time.Millisecond)
		s.enrol("b", alice) // a's answer is under way; nobody asked b
		s.pass(time.Minute)
		s.accepted(1, "a", m)
		s.accepted(1, "b", m) // received after its enrolment less a minute
		s.inStep(alice)
	})
}

func TestLiveMailThatComesBetweenACatchUpsListingAndItsWriteAlerts(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		release := s.apns.hold("b", outcome.Throttled, 10*time.Second)
		missed := s.source.come(alice)
		synctest.Wait()
		release()
		s.apns.set(func() { s.apns.delay = time.Second }) // the catch-up's push takes its time
		s.pass(10*time.Second + 500*time.Millisecond)
		s.accepted(1, "b", missed)
		live := s.source.come(alice) // after the listing, before the write
		s.pass(time.Minute)
		s.accepted(1, "a", missed, live)
		s.accepted(1, "b", missed, live)
		s.inStep(alice)
	})
}

func TestAWorkerThatPassedADeviceByWritesAfterItCaughtUp(t *testing.T) { // rule 6: who is behind is decided at the write
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		release := s.apns.hold("b", outcome.Throttled, time.Second)
		missed := s.source.come(alice)
		synctest.Wait()
		release()
		s.apns.answer = func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "a" {
				select { // a's answer keeps the live batch open while b catches up
				case <-time.After(4 * time.Second):
				case <-ctx.Done():
				}
			}
			return subscriptions.Answer{}
		}
		live := s.source.come(alice) // b is behind: passed by
		synctest.Wait()
		s.pass(2 * time.Second)
		s.accepted(1, "b", missed) // caught up, before the live batch is written
		s.pass(time.Minute)
		s.accepted(1, "a", missed, live)
		s.accepted(1, "b", live)
		s.inStep(alice)
	})
}

func TestSixHundredMessagesInOneGapAndAKillInTheMiddle(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Hour)
		s.stop()
		var all []*message
		for i := range 600 {
			all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*5*time.Second))))
		}
		s.apns.set(func() { s.apns.delay = 20 * time.Millisecond })
		s.start()
		s.pass(250 * time.Millisecond)
		s.kill()
		s.start()
		s.pass(300 * time.Millisecond)
		s.kill()
		s.start()
		s.pass(2 * time.Minute)
		for _, d := range []string{"a", "b"} {
			resent := 0
			for _, m := range all {
				switch n := len(s.apns.pushes(d, s.key(d, m))); {
				case n == 0:
					t.Fatalf("%s is lost on %s", m.id, d)
				default:
					resent += n - 1
				}
			}
			if resent > 2*batch {
				t.Errorf("%d were sent again to %s; at most a batch a kill", resent, d)
			}
		}
		s.inStep(alice)
	})
}

func TestPagesWhileMailArrivesAtTheTop(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.stop()
		var all []*message
		for i := range 300 {
			all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second))))
		}
		pages := 0
		s.source.onList = func(offset int) {
			if offset > 0 && pages < 3 {
				pages++
				s.source.quietly(func() { all = append(all, s.source.come(alice), s.source.come(alice)) })
			}
		}
		s.start()
		s.pass(2 * s.poll) // what comes during a listing is found by the next one
		s.accepted(1, "a", all...)
	})
}

func TestPagesWhileMailIsDeletedFromTheMiddle(t *testing.T) {
	for name, messages := range map[string]int{"the next page shifts": 300, "the next page is empty": 100} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				s.stop()
				var all []*message
				for i := range messages {
					all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second))))
				}
				deleted := all[:60]
				once := false
				s.source.onList = func(offset int) {
					if offset > 0 && !once {
						once = true
						s.source.take(alice, deleted...) // the pages shift by sixty: a page that goes on by its offset would skip them
					}
				}
				s.start()
				s.pass(time.Minute)
				s.accepted(1, "a", all[60:]...)
			})
		})
	}
}

func TestDeletingAHundredMessagesAlertsOfNothingOld(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		var old, all []*message
		s.source.quietly(func() {
			for i := range 200 {
				old = append(old, s.source.come(alice, receivedAt(ago(48*time.Hour+time.Duration(i)*time.Minute))))
			}
		})
		s.enrol("a", alice)
		for range 300 {
			s.pass(time.Second)
			all = append(all, s.source.come(alice))
		}
		s.pass(s.poll)
		s.source.take(alice, all[150:250]...)
		s.pass(3 * s.poll)
		s.accepted(0, "a", old...)
		s.accepted(1, "a", all...)
	})
}

func TestAMessageMovedOutAndBackAlertsOnce(t *testing.T) {
	for name, away := range map[string]time.Duration{"within a day": time.Hour, "later": 50 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				m := s.source.come(alice)
				synctest.Wait()
				s.source.take(alice, m)
				for passed := time.Duration(0); passed < away; passed += time.Hour {
					s.pass(time.Hour)
					s.source.come(alice) // the mailbox moves on
				}
				s.source.back(alice, m)
				s.source.hint(alice, m)
				s.pass(2 * s.poll)
				s.accepted(1, "a", m)
			})
		})
	}
}

// Rule 5: a record outlives its last device, with its log and its keys.
func TestTheLastDeviceRemovedAndEnrolledAgainGetsNothingASecondTime(t *testing.T) {
	for name, again := range map[string]string{"the same id": "a", "another id with its token": "b"} {
		for when, wait := range map[string]time.Duration{"while its push is in flight": 0, "ten seconds after its alert": 10 * time.Second,
			"when its record has just gone": subscriptions.Asleep + time.Minute} {
			t.Run(name+", "+when, func(t *testing.T) {
				inScene(t, func(s *scene) {
					s.start()
					s.enrol("a", alice)
					s.pass(time.Hour)
					s.apns.set(func() { s.apns.delay = 300 * time.Millisecond })
					m := s.source.come(alice)
					s.pass(100 * time.Millisecond)
					key, old := s.key("a", m), s.record(alice).ID
					s.pass(wait)
					s.remove("a")
					s.pass(wait)
					if err := s.book.Bury(context.Background(), time.Now()); err != nil {
						t.Fatal(err)
					}
					s.enrolToken(again, alice, "token-of-a")
					s.source.hint(alice, m)
					s.pass(2 * s.poll)
					if kept := s.record(alice).ID == old; kept != (wait < subscriptions.Asleep) {
						t.Errorf("the record is the old one: %v", kept)
					}
					total := len(s.apns.pushes("a", key))
					if again != "a" {
						total += len(s.apns.pushes(again, key))
					}
					if wait > subscriptions.Asleep {
						total += len(s.apns.pushes(again, s.key(again, m)))
					}
					if total != 1 {
						t.Errorf("the phone got %d alerts of one message", total)
					}
					s.inStep(alice)
				})
			})
		}
	}
}

func TestAnOutcomeIsEnteredInASleepingRecordAndOutlivesAKill(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.apns.set(func() { s.apns.delay = 300 * time.Millisecond })
		m := s.source.come(alice)
		s.pass(100 * time.Millisecond)
		s.remove("a") // in the middle of the round
		s.pass(time.Minute)
		s.kill()
		s.start()
		s.enrol("a", alice)
		s.source.hint(alice, m)
		s.pass(2 * s.poll)
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

// Rule 6: a push belongs to its phone.
func TestAnIDTakenOverWithItsTokenWhileAPushIsInFlight(t *testing.T) {
	for name, answered := range map[string]time.Duration{"the answer comes before the write": 300 * time.Millisecond, "and after it": 8 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("other", alice)
				s.pass(time.Hour)
				s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
					if n.Phone.Token == "token-of-a" {
						<-time.After(answered)
					}
					return subscriptions.Answer{}
				}
				m := s.source.come(alice)
				s.pass(100 * time.Millisecond)
				key := s.key("a", m)
				s.enrolToken("b", alice, "token-of-a")
				s.pass(2 * s.poll)
				if n := len(s.apns.pushes("a", key)) + len(s.apns.pushes("b", key)); n != 1 {
					t.Errorf("the phone got %d alerts", n)
				}
				s.accepted(1, "other", m)
				s.inStep(alice)
			})
		})
	}
}

func TestAChangedTokenWhileAPushToTheOldOneIsInFlight(t *testing.T) {
	for name, c := range map[string]struct {
		result subscriptions.Result
		reason outcome.Reason
	}{
		"accepted": {subscriptions.Accepted, ""}, "a 410": {subscriptions.Gone, "Unregistered"}, "cut off": {subscriptions.NotBefore, outcome.Unanswered},
	} {
		for _, owed := range []bool{false, true} { // the push is that of a catch-up
			t.Run(fmt.Sprintf("%s, owed: %v", name, owed), func(t *testing.T) {
				inScene(t, func(s *scene) {
					s.start()
					s.enrol("a", alice)
					s.pass(time.Hour)
					throttled := time.Now()
					if owed {
						throttled = throttled.Add(time.Second)
					}
					s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
						switch {
						case n.Phone.Token != "token-of-a":
							return subscriptions.Answer{}
						case time.Now().Before(throttled):
							return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Throttled, Next: throttled}
						}
						<-time.After(time.Second)
						return subscriptions.Answer{Result: c.result, Reason: c.reason, At: time.Now(), Next: time.Now().Add(time.Second)}
					}
					m := s.source.come(alice)
					s.pass(time.Until(throttled) + 100*time.Millisecond)
					s.enrolToken("a", alice, "a new token")
					s.pass(2 * s.poll)
					if _, ok := s.book.Device("a"); !ok {
						t.Fatal("the enrolment is gone, for the old token's answer")
					}
					s.accepted(1, "a", m) // on the new token
					s.inStep(alice)
				})
			})
		}
	}
}

func TestAnswersBetweenADraftAndItsWriteAndAKill(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 50 {
			s.enrol(fmt.Sprint("d", i), alice)
		}
		s.pass(time.Minute)
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device != "d0" {
				<-time.After(600 * time.Millisecond)
			}
			return subscriptions.Answer{}
		}
		m := s.source.come(alice)
		s.pass(700 * time.Millisecond)
		s.kill()
		s.apns.set(func() { s.apns.answer = nil })
		s.start()
		s.pass(5 * time.Minute)
		for i := range 50 {
			if n := len(s.apns.pushes(fmt.Sprint("d", i), s.key(fmt.Sprint("d", i), m))); n < 1 || n > 2 {
				t.Errorf("%d alerts", n)
			}
		}
		s.inStep(alice)
	})
}

// Rules 4 and 5: clocks of one organisation may differ by the tolerance, another way with each answer.
func TestADateFourMinutesOffByTurnsHarmsNothing(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": -4 * time.Minute, "ahead": 4 * time.Minute, "by turns": 0} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.source.date = func(n int) time.Duration {
					if off != 0 {
						return off
					}
					return []time.Duration{-4 * time.Minute, 4 * time.Minute}[n%2]
				}
				s.start()
				s.enrol("a", alice)
				var all []*message
				all = append(all, s.source.come(alice)) // right after the first enrolment
				s.pass(time.Hour)
				s.apns.set(func() { s.apns.delay = 100 * time.Millisecond })
				for range 20 {
					all = append(all, s.source.come(alice))
					s.mailbox(alice).List() // a listing runs while hints come
					s.source.quietly(func() { all = append(all, s.source.come(alice)) })
					s.pass(200 * time.Millisecond)
				}
				s.enrol("b", alice) // in a mailbox in use
				after := s.source.come(alice)
				all = append(all, after)
				release := s.apns.hold("b", outcome.Throttled, time.Second)
				caught := s.source.come(alice)
				all = append(all, caught)
				s.pass(500 * time.Millisecond)
				release()
				s.pass(3 * s.poll)
				s.accepted(1, "a", all...)
				s.accepted(1, "b", after, caught)
				for _, d := range s.decisions(alice) {
					switch d.Reason {
					case outcome.Future, outcome.Late, outcome.Clock:
						t.Errorf("%+v", d)
					}
				}
				s.inStep(alice)
			})
		})
	}
}

func TestSixHundredMessagesWithinTenMinutesAreKeptAndNotListedAgainAndAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		s.poll = 24 * time.Hour
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.source.set(func() { s.source.lists = 0 })
		var all []*message
		for range 600 {
			s.pass(900 * time.Millisecond)
			all = append(all, s.source.come(alice))
		}
		s.pass(time.Second)
		if s.source.lists > 10 {
			t.Errorf("%d calls to list it", s.source.lists)
		}
		s.accepted(1, "a", all...)
		if n := len(s.record(alice).Outcomes); n < 600 {
			t.Errorf("the record keeps %d", n)
		}
	})
}

func TestAChangedTokenKeepsItsPlace(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		release := s.apns.hold("a", outcome.Throttled, time.Minute)
		m := s.source.come(alice)
		synctest.Wait()
		s.enrolToken("a", alice, "another token")
		if s.record(alice).BehindOf("a") == nil {
			t.Fatal("it lost its place")
		}
		release()
		s.pass(2 * time.Minute)
		s.accepted(1, "a", m)
	})
}

func TestAChangedTokenWaitsForNothingThatTheOldOneWaitedFor(t *testing.T) {
	for name, next := range map[string]time.Duration{"until a time": time.Hour, "for a word of its sender": 0} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				release := s.apns.hold("a", outcome.NoTopic, next)
				owed := s.source.come(alice)
				s.pass(time.Minute)
				release()
				s.enrolToken("a", alice, "a new token")
				live := s.source.come(alice)
				s.pass(10 * time.Second)
				s.accepted(1, "a", owed, live)
				s.inStep(alice)
			})
		})
	}
}

func TestAnEnrolledIDThatTakesATokenGetsWhatItsPhoneIsOwed(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "a" || n.Phone.Token == "token-of-b" {
				return unanswered()
			}
			return subscriptions.Answer{}
		}
		before := s.source.come(alice) // b is enrolled later
		s.pass(2 * mail.Tolerance)
		s.enrol("b", alice)
		s.pass(time.Minute)
		after := s.source.come(alice)
		s.pass(time.Minute)
		s.enrolToken("b", alice, "token-of-a")
		s.pass(time.Hour)
		s.accepted(1, "b", before, after)
		s.inStep(alice)
	})
}

func TestAnIDThatTakesATokenWhileItCatchesUpGetsWhatItsPhoneIsOwed(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		away := true
		s.apns.answer = func(context.Context, subscriptions.Notification) (a subscriptions.Answer) {
			s.apns.set(func() {
				if away {
					a = unanswered()
					a.Next = time.Now().Add(time.Minute)
				}
			})
			return a
		}
		before := s.source.come(alice) // b is enrolled later
		s.pass(2 * mail.Tolerance)
		s.enrol("b", alice)
		after := s.source.come(alice)
		s.pass(time.Second)
		s.apns.set(func() { away = false })
		take := sync.OnceFunc(func() {
			e := subscriptions.Enrolment{ID: "b", Mailbox: alice, Token: "token-of-a", Topic: topic, Environment: "production"}
			if _, err := s.book.Enrol(context.Background(), e, time.Now(), time.Now()); err != nil {
				t.Error(err)
			}
		})
		s.source.set(func() { s.source.onList = func(int) { take() } }) // that of the catch-up is the next one
		s.pass(time.Hour)
		s.accepted(1, "b", before, after)
		s.inStep(alice)
	})
}

// What is from before the enrolment of one id is not from before that of another.
func TestAnIDThatTakesATokenInARoundGetsWhatItsPhoneIsOwed(t *testing.T) {
	for taker, token := range map[string]string{"a": "token-of-b", "b": "token-of-a"} {
		t.Run(taker, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				received := time.Now()
				s.pass(2 * mail.Tolerance)
				var m *message
				s.source.quietly(func() { // the listing after an enrolment finds it
					m = s.source.come(alice)
					m.received = received
				})
				s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
					<-time.After(time.Second)
					return unanswered()
				}
				s.enrol("b", alice)
				s.enrolToken(taker, alice, token) // while it is sent to a
				s.pass(time.Minute)
				s.apns.set(func() { s.apns.answer = nil })
				s.pass(time.Hour)
				s.accepted(1, taker, m)
				s.inStep(alice)
			})
		})
	}
}

func TestAChangedMailboxStartsAnew(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Minute)
		old := s.source.come(bob)
		s.pass(10 * time.Minute)
		s.enrol("a", bob)
		now := s.source.come(bob)
		s.pass(2 * s.poll)
		s.accepted(0, "a", old)
		s.accepted(1, "a", now)
		if s.book.Mailbox(alice) != nil {
			t.Error("the old mailbox is still in the book")
		}
	})
}

func TestMessagesWithoutAndWithADoubledMessageID(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		none1 := s.source.come(alice, noID)
		none2 := s.source.come(alice, noID)
		s.pass(time.Minute)
		twice1 := s.source.come(alice, withID("<same@fabrikam.example>"))
		s.pass(time.Minute)
		twice2 := s.source.come(alice, withID("<same@fabrikam.example>")) // reused, sent a minute later
		s.pass(2 * s.poll)
		s.accepted(1, "a", none1, none2, twice1, twice2)
	})
}

func TestADateOf1970OrOf2038DoesNotDecide(t *testing.T) {
	for name, date := range map[string]time.Time{"1970": time.Unix(1, 0), "2038": time.Unix(1<<31-2, 0)} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				header := s.source.come(alice, sentAt(date))
				synctest.Wait()
				told := s.source.come(alice, sentAt(date.Add(time.Hour)), readTells(date)) // the read tells the sender's Date
				synctest.Wait()
				var unhinted *message
				s.source.quietly(func() { unhinted = s.source.come(alice, sentAt(date.Add(2*time.Hour)), readTells(date)) })
				s.pass(2 * s.poll)
				s.accepted(1, "a", header, told, unhinted)
				if next := s.source.come(alice); next != nil {
					s.pass(s.poll)
					s.accepted(1, "a", next)
				}
			})
		})
	}
}

func TestMailReceivedHalfAnHourInThePastWhileNothingListens(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(5 * time.Hour)
		known := s.source.come(alice)
		s.pass(s.poll)
		s.stop()
		held := s.source.come(alice, receivedAt(known.received.Add(-30*time.Minute))) // older than the newest that was dealt with
		s.start()
		s.pass(time.Minute)
		s.accepted(1, "a", known, held)
	})
}

func TestThreeHundredMessagesDatedInTheFuture(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		var today, hinted, unhinted []*message
		for i := range 10 {
			today = append(today, s.source.come(alice))
			s.pass(time.Second)
			hinted = append(hinted, s.source.come(alice, receivedAt(time.Now().Add(time.Duration(100+i)*time.Hour))))
			s.pass(time.Second)
		}
		s.source.quietly(func() {
			for i := range 300 {
				unhinted = append(unhinted, s.source.come(alice, receivedAt(time.Now().Add(time.Duration(200+i)*time.Hour))))
			}
		})
		s.pass(s.poll)
		var more *message
		s.source.quietly(func() { more = s.source.come(alice) }) // mail of today is still found
		s.pass(s.poll)
		s.accepted(1, "a", today...)
		s.accepted(1, "a", hinted...)
		s.accepted(0, "a", unhinted...) // the listing has decided about them
		s.accepted(1, "a", more)
		if r := s.reasons(alice, s.key("a", unhinted[0])); !contains(r, "future") {
			t.Errorf("the reason is %v", r)
		}
	})
}

func TestAServersClockTwoDaysAheadAndThenRightAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		ok := s.source.come(alice)
		s.pass(s.poll)
		s.source.set(func() { s.source.ahead = 48 * time.Hour })
		ahead := s.source.come(alice)
		s.pass(s.poll)
		s.enrol("b", bob) // while it is ahead
		synctest.Wait()
		s.enrol("b2", alice)
		s.source.set(func() { s.source.ahead = 0 })
		s.pass(2 * s.poll)
		right := s.source.come(alice)
		rightBob := s.source.come(bob)
		s.pass(2 * s.poll)
		s.accepted(1, "a", ok, ahead, right)
		s.accepted(1, "b2", right)
		s.accepted(1, "b", rightBob)
	})
}

func TestASummaryWhoseAnswerIsLostThenAKillThenALargerSummary(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(12 * time.Hour)
		s.stop()
		var old []*message
		s.source.quietly(func() { // a hint would count their age from itself
			for i := range 5 {
				old = append(old, s.source.come(alice, receivedAt(ago(time.Duration(2+i)*time.Hour))))
			}
		})
		s.apns.set(func() { s.apns.delay = time.Second })
		s.start()
		s.pass(500 * time.Millisecond) // APNs has it, its answer is under way
		s.kill()
		s.source.quietly(func() {
			for i := range 3 {
				old = append(old, s.source.come(alice, receivedAt(ago(90*time.Minute+time.Duration(i)*time.Minute))))
			}
		})
		s.start()
		s.pass(time.Minute)
		last := s.apns.pushes("a", s.key("a", old[0]))
		if len(last) != 2 || !last[1].summary || last[1].n != 8 || last[0].id != last[1].id {
			t.Errorf("the repeat is %+v; want one larger summary with the same collapse id", last)
		}
		s.accepted(1, "a", old[5:]...)
		s.inStep(alice)
	})
}

func TestAMessageThatCannotBeReadAtFirstAndCanBeLater(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		m := s.source.come(alice, corrupt)
		other := s.source.come(alice)
		synctest.Wait()
		s.accepted(0, "a", m)
		s.accepted(1, "a", other) // it harms only itself
		s.pass(30 * time.Second)
		s.source.mend(m)
		s.pass(2 * s.poll)
		s.accepted(1, "a", m)
	})
}

// A server that throttles answers to some of the reads of a batch, and to others the next time: what it has answered is not read again.
func TestWhatWasReadOfABatchIsDealtWithThoughOthersAreThrottled(t *testing.T) {
	for name, hinted := range map[string]bool{"hinted": true, "listed": false} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Second)
				var others []*message
				var throttled *message
				s.source.quietly(func() {
					throttled = s.source.come(alice, func(m *message) { m.throttled = true })
					others = []*message{s.source.come(alice), s.source.come(alice)}
				})
				if hinted {
					for _, m := range append(others, throttled) {
						s.source.hint(alice, m)
					}
				} else {
					s.mailbox(alice).List()
				}
				s.pass(10 * time.Second) // whatever was read by itself has met the other by then
				s.accepted(1, "a", others...)
				s.accepted(0, "a", throttled)
				if f := s.mailbox(alice).Status().Failing; f == nil || f.Code != "throttled" {
					t.Errorf("the mailbox fails by %v", f)
				}
				s.source.set(func() { throttled.throttled = false })
				s.pass(time.Minute)
				s.accepted(1, "a", append(others, throttled)...)
			})
		})
	}
}

func TestACatchUpSendsWhatWasReadOfABatchThoughOthersAreThrottled(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.Unanswered, time.Second)
		throttled, sick, others := s.source.come(alice), s.source.come(alice), []*message{s.source.come(alice), s.source.come(alice)}
		s.pass(10 * time.Second)
		s.source.set(func() { throttled.throttled, sick.unreadable = true, true })
		release()
		s.pass(10 * time.Second)
		s.accepted(1, "a", others...)
		s.accepted(0, "a", throttled, sick)
		s.source.set(func() { throttled.throttled, sick.unreadable = false, false })
		s.pass(time.Minute)
		s.accepted(1, "a", append(others, throttled, sick)...)
		s.inStep(alice)
	})
}

// The mailbox cannot be read on, and would be tried within seconds.
func TestACatchUpThatFailsTriesNoDeviceBeforeItsAnswerSays(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.apns.hold("a", outcome.Unanswered, time.Second)
		throttled, _ := s.source.come(alice), s.source.come(alice)
		s.pass(10 * time.Second)
		s.source.set(func() { throttled.throttled = true })
		tries := 0
		s.apns.set(func() {
			s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
				tries++
				a := unanswered()
				a.Next = time.Now().Add(20 * time.Minute)
				return a
			}
		})
		s.pass(15 * time.Minute)
		s.apns.set(func() {
			if tries != 1 {
				t.Errorf("%d tries", tries)
			}
		})
	})
}

func TestAMessageThatNeverCanBeReadAlertsGenericallyAndOnce(t *testing.T) { // rule 9
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		m := s.source.come(alice, corrupt)
		s.pass(9 * time.Minute)
		generic := s.apns.pushes("a", s.book.Secret().ItemKey(s.record(alice).ID, m.id))
		if len(generic) != 1 {
			t.Errorf("%d generic alerts within ten minutes", len(generic))
		}
		s.source.mend(m)
		s.source.hint(alice, m)
		s.pass(3 * s.poll)
		s.accepted(0, "a", m) // either key makes it dealt with
	})
}

func missingOnce(m *message) { m.missing = 1 }

// A front end may not know yet what another has told of, or shown.
func TestAMessageThatIsNotFoundAtFirstAlertsAMomentLaterAndHoldsNothingBack(t *testing.T) { // rule 9
	for name, come := range map[string]func(s *scene) (missing, other *message){
		"hinted": func(s *scene) (missing, other *message) {
			return s.source.come(alice, missingOnce), s.source.come(alice)
		},
		"listed only": func(s *scene) (missing, other *message) {
			s.source.quietly(func() { missing, other = s.source.come(alice, missingOnce), s.source.come(alice) })
			s.mailbox(alice).List()
			return missing, other
		},
		"hinted while a listing waits for it": func(s *scene) (missing, other *message) {
			s.source.quietly(func() {
				missing, other = s.source.come(alice, func(m *message) { m.missing = 2 }), s.source.come(alice)
			})
			s.mailbox(alice).List()
			synctest.Wait()
			s.source.hint(alice, missing)
			return missing, other
		},
		"listed while a hint waits for it": func(s *scene) (missing, other *message) {
			missing, other = s.source.come(alice, func(m *message) { m.missing = 2 }), s.source.come(alice)
			synctest.Wait()
			s.mailbox(alice).List()
			return missing, other
		},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				missing, other := come(s)
				synctest.Wait()
				s.accepted(1, "a", other)
				s.accepted(0, "a", missing)
				s.pass(secondLook + time.Second)
				s.accepted(1, "a", missing)
				lists := s.source.lists
				s.pass(5 * time.Minute)
				if s.source.lists != lists || len(s.mailbox(alice).unreadable.items) > 0 {
					t.Errorf("%d listings more, and %d items are still looked for", s.source.lists-lists, len(s.mailbox(alice).unreadable.items))
				}
				s.pass(2 * s.poll)
				if s.record(alice).Listed < missing.received.Unix() {
					t.Error("the Inbox was never listed")
				}
			})
		})
	}
}

// Mostly it was deleted or moved: that costs one read more, and no listing where it was hinted.
func TestAMessageThatIsGoneIsLookedForOnceMore(t *testing.T) {
	for name, c := range map[string]struct {
		reads, lists int
		come         func(s *scene) *message
	}{
		"hinted": {2, 0, func(s *scene) *message {
			var m *message
			s.source.quietly(func() { m = s.source.come(alice) })
			s.source.take(alice, m)
			s.source.hint(alice, m)
			return m
		}},
		"listed, and deleted before it was read": {1, 2, func(s *scene) *message {
			var m *message
			s.source.quietly(func() { m = s.source.come(alice) })
			read := s.source.onRead
			s.source.set(func() {
				s.source.onRead = func() {
					read()
					s.source.take(alice, m)
				}
			})
			s.mailbox(alice).List()
			return m
		}},
		"listed again and again, and never found": {2, 2, func(s *scene) *message {
			var m *message
			s.source.quietly(func() { m = s.source.come(alice, func(m *message) { m.missing = 100 }) })
			s.mailbox(alice).List()
			return m
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				reads := 0
				s.source.onRead = func() { s.source.set(func() { reads++ }) }
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				lists := s.source.lists
				m := c.come(s)
				s.pass(time.Minute)
				if reads != c.reads || s.source.lists-lists != c.lists || len(s.mailbox(alice).unreadable.items) > 0 {
					t.Errorf("%d reads, %d listings, %d items are still looked for", reads, s.source.lists-lists, len(s.mailbox(alice).unreadable.items))
				}
				s.accepted(0, "a", m)
				s.inStep(alice)
			})
		})
	}
}

// A front end that is far behind: more is missing than is looked for message by message.
func TestHoweverManyMessagesAreNotFoundAtFirstAllAlert(t *testing.T) {
	for name, come := range map[string]func(s *scene, come func()){
		"hinted": func(_ *scene, come func()) { come() },
		"listed only": func(s *scene, come func()) {
			s.source.quietly(come)
			s.mailbox(alice).List()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				var all []*message
				come(s, func() {
					for range 2*maxUnreadable + 20 {
						all = append(all, s.source.come(alice, missingOnce))
					}
				})
				s.pass(2 * readAgain[0])
				s.accepted(1, "a", all...)
				s.inStep(alice)
				if n := len(s.mailbox(alice).unreadable.items); n > 0 {
					t.Errorf("%d items are still looked for", n)
				}
			})
		})
	}
}

// The stream is not to blame for it.
func TestAMessageThatAHintNamedIsNotRecoveredByTheListingThatFindsIt(t *testing.T) {
	for name, change := range map[string]func(m *message){"not found at first": missingOnce, "not readable at first": corrupt} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				m := s.source.come(alice, change)
				s.pass(secondLook / 2)
				s.source.mend(m)
				s.mailbox(alice).List()
				synctest.Wait()
				s.accepted(1, "a", m)
				if s.source.unhinted > 0 {
					t.Error("it counts as a message that no hint had named")
				}
			})
		})
	}
}

func TestACatchUpLooksOnceMoreForWhatItDoesNotFind(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.Unanswered, time.Minute)
		m := s.source.come(alice)
		s.pass(10 * time.Second)
		s.source.set(func() { m.missing = 1 })
		release()
		s.pass(2 * time.Minute)
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

func TestAMessageOnlyListedThatNeverCanBeReadAlertsGenericallyAndOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		var m *message
		s.source.quietly(func() { m = s.source.come(alice, corrupt) })
		s.pass(s.poll + 20*time.Minute)
		if at := s.mailbox(alice).Status().LastHint; !at.IsZero() {
			t.Errorf("the status has a hint at %v", at)
		}
		s.source.mend(m)
		s.source.hint(alice, m) // now it is told of
		s.pass(3 * s.poll)
		if n := len(s.apns.pushes("a", s.book.Secret().ItemKey(s.record(alice).ID, m.id))); n != 1 {
			t.Errorf("%d generic alerts", n)
		}
		s.accepted(0, "a", m)
		s.inStep(alice)
		if s.record(alice).Listed != m.received.Unix() {
			t.Error("the listing was never completed")
		}
	})
}

func TestAGracefulStopInTheMiddleOfAListing(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.stop()
		var all []*message
		for i := range 100 {
			all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second))))
		}
		s.apns.set(func() { s.apns.delay = 50 * time.Millisecond })
		s.start()
		s.pass(120 * time.Millisecond)
		s.stop()
		s.start()
		s.pass(time.Minute)
		s.accepted(1, "a", all...) // not one a second time: what was begun was written
		s.inStep(alice)
	})
}

func TestMailIsSummedUpAfterAnHourAndLateAfterADay(t *testing.T) { // rule 8
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(60 * time.Hour)
		s.stop()
		var fresh, old1, old2, late *message
		s.source.quietly(func() { // a hint would count their age from itself
			fresh = s.source.come(alice, receivedAt(ago(30*time.Minute)))
			old1 = s.source.come(alice, receivedAt(ago(3*time.Hour)))
			old2 = s.source.come(alice, receivedAt(ago(20*time.Hour)))
			late = s.source.come(alice, receivedAt(ago(30*time.Hour)))
		})
		s.start()
		s.pass(time.Minute)
		s.accepted(1, "a", fresh, old1, old2)
		s.accepted(0, "a", late)
		if p := s.apns.pushes("a", s.key("a", old1)); !p[0].summary || p[0].n != 2 {
			t.Errorf("%+v", p)
		}
		if r := s.reasons(alice, s.key("a", late)); !contains(r, "late") {
			t.Errorf("the reason is %v", r)
		}
	})
}

func TestMailThatGraphTellsOfIsAsOldAsItsReceivedTime(t *testing.T) { // rule 8
	for kind, want := range map[mail.Source]bool{mail.EWS: false, mail.Graph: true} {
		inScene(t, func(s *scene) {
			s.source.kind = kind
			s.source.ahead = 2 * time.Minute // its clock, by which it stamps mail
			s.start()
			s.enrol("a", alice)
			s.pass(60 * time.Hour)
			fresh := s.source.come(alice)
			moved := s.source.come(alice, receivedAt(ago(3*time.Hour))) // moved in, or restored: Graph calls that created, too
			restored := s.source.come(alice, receivedAt(ago(30*time.Hour)))
			s.pass(time.Minute)
			s.accepted(1, "a", fresh, moved)
			if got := s.apns.pushes("a", s.key("a", moved))[0].summary; got != want {
				t.Errorf("%s: a message of three hours ago is summed up: %v", kind, got)
			}
			if got := contains(s.reasons(alice, s.key("a", restored)), "late"); got != want {
				t.Errorf("%s: a message of thirty hours ago is late: %v", kind, got)
			}
		})
	}
}

func TestAStuckDeviceHoldsNoOther(t *testing.T) { // promise 3
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("stuck", alice)
		var free atomic.Bool
		s.apns.answer = func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "stuck" && !free.Load() {
				select {
				case <-time.After(30 * time.Second):
				case <-ctx.Done():
				}
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Unanswered, Next: time.Now().Add(time.Minute)}
			}
			return subscriptions.Answer{}
		}
		var all []*message
		for range 20 {
			all = append(all, s.source.come(alice))
			s.pass(time.Second)
			s.accepted(1, "a", all...)
		}
		free.Store(true)
		s.pass(5 * time.Minute)
		s.accepted(1, "stuck", all...)
		s.inStep(alice)
	})
}

func TestATopicThatIsReadyAgainIsCaughtUpAtOnce(t *testing.T) { // rule 12
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		lists := s.source.lists
		m := s.source.come(alice)
		s.pass(5 * time.Minute) // before the first safety poll
		s.accepted(0, "a", m)
		if s.source.lists != lists || s.apns.calls != 1 {
			t.Errorf("%d pushes; the mailbox was listed for a device that could not be reached: %v", s.apns.calls, s.source.lists != lists)
		}
		release()
		s.in.TopicReady("com.contoso.mail", "sandbox")
		s.in.TopicReady("com.fabrikam.mail", "production")
		s.pass(time.Second)
		if s.source.lists != lists {
			t.Error("the mailbox was listed for a topic that its device has not")
		}
		s.in.TopicReady("com.contoso.mail", "production")
		s.pass(time.Second)
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

func TestACatchUpWhoseMailboxCannotBeReadIsTriedAgainAfterSeconds(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		m := s.source.come(alice)
		s.pass(time.Minute)
		lists := s.source.lists
		s.source.set(func() {
			s.source.fails = &fault.Error{Op: "FindItem", Code: "cut", Scope: fault.Mailbox, Remedy: fault.Retry}
		})
		release()
		s.in.TopicReady(topic, "production")
		s.pass(4 * time.Second)
		if n := s.source.lists - lists; n != 1 {
			t.Errorf("%d tries within seconds", n)
		}
		if b := s.record(alice).BehindOf("a"); b == nil || b.Reason != outcome.MailboxFailing {
			t.Errorf("it does not say why the device is behind: %+v", b)
		}
		s.source.set(func() { s.source.fails = nil })
		s.pass(4 * time.Second)
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

// unread is a link by which a mailbox can be listed, and nothing be read.
type unread struct{ Link }

func (unread) Read(context.Context, []string) (Items, error) {
	return Items{Clock: time.Now()}, &fault.Error{Op: "GetItem", Code: "ErrorMailboxStoreUnavailable", Scope: fault.Mailbox, Remedy: fault.Wait}
}

// Each try is a listing, a read and a write.
func TestACatchUpThatFailsAgainAndAgainIsTriedAsSeldomAsItsMailbox(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		m := s.mailbox(alice)
		well := m.link.Load().Link
		tries := func() (n int) {
			s.source.set(func() { n = s.source.lists })
			return n
		}
		for range 2 {
			release := s.apns.hold("a", outcome.TopicAway, 0)
			owed := s.source.come(alice)
			s.pass(time.Second)
			m.Attach(unread{well})
			release()
			s.in.TopicReady(topic, "production")
			s.pass(time.Second)
			before := tries()
			s.pass(10 * time.Second)
			if tries() == before {
				t.Error("the second try is not made within seconds")
			}
			s.pass(50 * time.Minute)
			if n := tries() - before; n > 40 {
				t.Errorf("%d tries within an hour", n)
			}
			m.Attach(well)
			s.pass(5 * time.Minute)
			s.accepted(1, "a", owed)
			s.inStep(alice)
		}
	})
}

func TestACatchUpDoesNotWaitAnyLongerOnceItsMailboxCanBeRead(t *testing.T) {
	for name, mended := range map[string]func(m *Mailbox){
		"it is listed":          (*Mailbox).List,
		"the listener knows it": func(m *Mailbox) { m.Retry(func(*fault.Error) bool { return true }) },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				release := s.apns.hold("a", outcome.TopicAway, 0)
				owed := s.source.come(alice)
				s.pass(time.Minute)
				s.source.set(func() {
					s.source.fails = &fault.Error{Op: "FindItem", Code: "ErrorImpersonateUserDenied", Scope: fault.Mailbox, Remedy: fault.Fix} // for an hour
				})
				release()
				s.in.TopicReady(topic, "production")
				s.pass(time.Minute)
				s.source.set(func() { s.source.fails = nil })
				s.apns.set(func() { s.apns.delay = 3 * time.Second })
				mended(s.mailbox(alice))
				s.pass(time.Second)
				live := s.source.come(alice) // while it catches up
				s.pass(10 * time.Second)
				s.accepted(1, "a", owed, live)
				s.inStep(alice)
			})
		})
	}
}

// Its worker has failed as well, and reads what a notification told of before any device is tried again.
func TestACatchUpDoesNotWaitAnyLongerOnceItsMailboxIsReadAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		owed := s.source.come(alice)
		s.pass(time.Minute)
		offline := &fault.Error{Op: "FindItem", Code: "ErrorMailboxStoreUnavailable", Scope: fault.Mailbox, Remedy: fault.Wait}
		s.source.set(func() { s.source.fails = offline })
		release()
		s.in.TopicReady(topic, "production")
		s.pass(20 * time.Minute) // the devices are tried every few minutes by now
		live := s.source.come(alice)
		s.pass(time.Second)
		s.source.set(func() { s.source.fails = nil })
		s.pass(6 * time.Second)
		s.accepted(1, "b", live)
		s.accepted(1, "a", owed, live)
		s.inStep(alice)
	})
}

func TestACatchUpReadsAgainWithinSecondsWhatCannotBeRead(t *testing.T) { // and then its device gets an alert without content
	for name, mended := range map[string]bool{"and can be": true, "and cannot be": false} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.content = alerts.SenderSubject
				s.start()
				s.enrol("a", alice)
				release := s.apns.hold("a", outcome.TopicAway, 0)
				m := s.source.come(alice)
				other := s.source.come(alice)
				s.pass(time.Minute)
				s.source.set(func() { m.unreadable = true })
				release()
				s.in.TopicReady(topic, "production")
				s.pass(2 * time.Second)
				s.accepted(0, "a", m, other) // it is tried again before
				if mended {
					s.source.mend(m)
				}
				s.pass(3 * time.Second)
				s.accepted(1, "a", m, other)
				last := s.apns.pushes("a", s.key("a", m))[0]
				if content := strings.Contains(last.payload, m.subject); content != mended {
					t.Errorf("the alert has content: %v: %s", content, last.payload)
				}
				s.inStep(alice)
				s.pass(time.Hour)
				s.accepted(1, "a", m, other)
			})
		})
	}
}

func TestATopicThatWasAwayIsTriedAtTheNextStart(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		m := s.source.come(alice)
		s.pass(time.Minute)
		s.stop()
		release()
		s.start()
		s.pass(5 * time.Second)
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

func TestAWriteThatFailsIsRepeatedAndNothingAlertsTwice(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.store.Fail(errors.New("disk full"))
		m := s.source.come(alice)
		s.pass(10 * time.Second)
		s.source.hint(alice, m)
		s.pass(10 * time.Second)
		if f := s.mailbox(alice).Status().Failing; f == nil || f.Code != "state_away" {
			t.Errorf("what comes next waits for that write, and the status says %v", f)
		}
		s.store.Fail(nil)
		s.pass(time.Minute)
		if f := s.mailbox(alice).Status().Failing; f != nil {
			t.Errorf("it was written, and the status says %v", f)
		}
		s.accepted(1, "a", m)
		s.inStep(alice)
	})
}

func TestADeviceThatAPNsDeclaredGoneIsRemoved(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "b" {
				return subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered"}
			}
			return subscriptions.Answer{}
		}
		m := s.source.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		if _, ok := s.book.Device("b"); ok {
			t.Error("it is still enrolled")
		}
		s.inStep(alice)
	})
}

// A token that is confirmed after APNs declared it gone may work again: APNs says so itself with the next alert.
func TestADeviceThatEnrolsAnewWhileItsTokenIsDeclaredGoneIsKept(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
			<-time.After(time.Second)
			return subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered"}
		}
		s.source.come(alice)
		s.pass(100 * time.Millisecond)
		s.enrol("a", alice)
		s.pass(time.Minute)
		if _, ok := s.book.Device("a"); !ok {
			t.Fatal("it was removed for what APNs said of its former enrolment")
		}
		s.source.come(alice)
		s.pass(time.Minute)
		if _, ok := s.book.Device("a"); ok {
			t.Error("it is still enrolled, although APNs has said it again")
		}
	})
}

func TestADeviceMovesToTheEnvironmentThatKnowsItsToken(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Phone.Environment == "production" {
				return subscriptions.Answer{Result: subscriptions.Accepted, Environment: "sandbox", At: time.Now()}
			}
			return subscriptions.Answer{}
		}
		s.source.come(alice)
		synctest.Wait()
		if d, _ := s.book.Device("a"); d.Environment != "sandbox" || d.Since.IsZero() {
			t.Errorf("%+v", d)
		}
		m := s.source.come(alice)
		synctest.Wait()
		s.accepted(1, "a", m)
	})
}

func TestNoAttemptBeginsAfterADeviceWasRemoved(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		waits, attempts := make(chan struct{}), 0
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device != "b" {
				return subscriptions.Answer{}
			}
			for range 3 { // the sender tries again
				if !n.May() {
					break
				}
				attempts++
				<-waits
			}
			return unanswered()
		}
		s.source.come(alice)
		synctest.Wait()
		s.remove("b")
		close(waits)
		s.pass(time.Minute)
		if attempts != 1 {
			t.Errorf("%d attempts; all but the first began after the removal", attempts)
		}
		if s.record(alice).BehindOf("b") != nil {
			t.Error("the record remembers it")
		}
		s.inStep(alice)
	})
}
