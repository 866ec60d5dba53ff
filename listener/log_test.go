package listener

// The rules of the log and its interleavings, each a test of its own.

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

func at(t time.Time) func(*message)     { return func(m *message) { m.received = t } }
func tells(t time.Time) func(*message)  { return func(m *message) { m.told = t } }
func ago(d time.Duration) time.Time     { return time.Now().Add(-d).Truncate(time.Second) }
func noID(m *message)                   { m.internetID = "" }
func unreadable(m *message)             { m.unreadable = true }
func withID(id string) func(*message)   { return func(m *message) { m.internetID = id } }
func sentAt(t time.Time) func(*message) { return func(m *message) { m.sent = t } }

func TestAHintRingsTheDevicesOfItsMailboxOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a1", alice)
		w.enrol("a2", alice)
		w.enrol("b1", bob)
		m := w.ex.come(alice)
		synctest.Wait()
		w.rang(1, "a1", m)
		w.rang(1, "a2", m)
		w.rang(0, "b1", m)
		if h := w.l.Hearing(w.book.Mailbox(alice)); h.State != subscriptions.Listening || h.LastHint.IsZero() {
			t.Errorf("%+v", h)
		}
	})
}

func TestAnOutcomeIsOneWriteAndMovesNothing(t *testing.T) { // rule 2
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a1", alice)
		before := w.record(alice)
		lists := w.ex.lists
		w.ex.come(alice)
		synctest.Wait()
		after := w.record(alice)
		if after.End != before.End+1 || after.Listed != before.Listed || after.Since != before.Since || w.ex.lists != lists {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
	})
}

func TestKilledBetweenTheAcceptanceOfAAndTheWriteWithBRetryingAndCBehind(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for _, id := range []string{"a", "b", "c"} {
			w.enrol(id, alice)
		}
		w.apns.hold("c", "throttled", time.Second)
		w.ex.come(alice)
		synctest.Wait()
		release := make(chan struct{})
		hold := w.apns.answer
		w.apns.answer = func(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer {
			if d.ID == "b" { // retrying
				select {
				case <-release:
				case <-ctx.Done():
				}
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
			}
			return hold(ctx, d, b)
		}
		m := w.ex.come(alice)
		synctest.Wait() // a is accepted; the write waits half a second for b
		w.rang(1, "a", m)
		w.kill()
		close(release)
		w.apns.set(func() { w.apns.answer = nil })
		w.start()
		w.pass(2 * time.Minute)
		w.rang(1, "b", m)
		w.rang(1, "c", m)
		w.level(alice)
		if n := len(w.apns.pushes("a", w.key("a", m))); n != 2 {
			t.Errorf("a was rung %d times; a repeat within the second before a kill is what is promised here", n)
		}
	})
}

func TestWhatWasAnsweredASecondBeforeAKillIsNotSentAgain(t *testing.T) { // rule 10
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("slow", alice)
		w.apns.answer = func(ctx context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "slow" {
				<-ctx.Done()
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
			}
			return subscriptions.Answer{}
		}
		m := w.ex.come(alice)
		w.pass(time.Second)
		w.kill()
		w.apns.set(func() { w.apns.answer = nil })
		w.start()
		w.pass(time.Minute)
		w.rang(1, "a", m)
		w.rang(1, "slow", m)
	})
}

func TestALostHintsMessageRingsWithinOneSafetyPoll(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		var lost, next *message
		w.ex.quietly(func() { lost = w.ex.come(alice) })
		w.pass(time.Second)
		next = w.ex.come(alice)
		synctest.Wait()
		w.rang(0, "a", lost)
		w.rang(1, "a", next)
		w.pass(w.poll)
		w.rang(1, "a", lost, next)
	})
}

// since moves with complete listings only: computed from the 256th newest entry at any time, it would pass the lost one.
func TestALostHintIsFoundAfterThreeHundredOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		var lost *message
		w.ex.quietly(func() { lost = w.ex.come(alice) })
		for range 300 {
			w.pass(time.Second)
			w.ex.come(alice)
		}
		w.pass(w.poll)
		w.rang(1, "a", lost)
	})
}

func TestABusyMailboxIsListedBeforeItsLogGrowsLarge(t *testing.T) {
	inWorld(t, func(w *world) {
		w.poll = 24 * time.Hour
		w.start()
		w.enrol("a", alice)
		for range 2000 {
			w.pass(time.Second)
			w.ex.come(alice)
		}
		synctest.Wait()
		if n := len(w.record(alice).Outcomes); n > 600 {
			t.Errorf("the log has %d entries", n)
		}
	})
}

func TestTwoHintsOfOneMessageAtTheSameInstantRingOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.apns.set(func() { w.apns.delay = 100 * time.Millisecond })
		m := w.ex.come(alice)
		w.ex.hint(alice, m)
		synctest.Wait()
		w.ex.hint(alice, m) // while it is rung
		w.pass(time.Second)
		w.ex.hint(alice, m) // and when its outcome is known
		w.pass(time.Second)
		w.rang(1, "a", m)
	})
}

func TestAMessageRungAndThenListedUnderAnotherReceivedTimeRingsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(10 * time.Minute)
		m := w.ex.come(alice, tells(ago(5*time.Minute)))
		synctest.Wait()
		w.rang(1, "a", m)
		w.pass(3 * w.poll)
		w.rang(1, "a", m)
		if e := w.record(alice).Outcomes; len(e) != 1 || int64(e[0].Received) != m.received.Unix() {
			t.Errorf("the listing did not raise the entry's date: %+v", e)
		}
	})
}

func TestMailBetweenTheEnrolmentAndTheFirstListingOfAnEmptyMailbox(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		release := make(chan struct{})
		w.ex.onList = func(int) { <-release }
		w.enrol("a", alice) // its first listing is held up
		var m *message
		w.ex.quietly(func() { m = w.ex.come(alice) })
		w.ex.set(func() { w.ex.onList = nil })
		close(release)
		w.pass(w.poll)
		w.rang(1, "a", m)
	})
}

func TestASecondDeviceRingsNothingFromBeforeAndEverythingAfter(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		before := w.ex.come(alice)
		w.pass(10 * time.Minute)
		w.enrol("b", alice)
		after := w.ex.come(alice)
		w.pass(2 * w.poll)
		w.rang(1, "a", before, after)
		w.rang(0, "b", before)
		w.rang(1, "b", after)
		w.level(alice)
	})
}

func TestADeviceThatEnrolsWhileAMessageIsRungIsNotForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.apns.set(func() { w.apns.delay = 300 * time.Millisecond })
		m := w.ex.come(alice)
		w.pass(100 * time.Millisecond)
		w.enrol("b", alice) // a's answer is under way; nobody asked b
		w.pass(time.Minute)
		w.rang(1, "a", m)
		w.rang(1, "b", m) // received after its enrolment less a minute
		w.level(alice)
	})
}

func TestLiveMailThatComesBetweenACatchUpsListingAndItsWriteRings(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		release := w.apns.hold("b", "throttled", 10*time.Second)
		missed := w.ex.come(alice)
		synctest.Wait()
		release()
		w.apns.set(func() { w.apns.delay = time.Second }) // the catch-up's push takes its time
		w.pass(10*time.Second + 500*time.Millisecond)
		w.rang(1, "b", missed)
		live := w.ex.come(alice) // after the listing, before the write
		w.pass(time.Minute)
		w.rang(1, "a", missed, live)
		w.rang(1, "b", missed, live)
		w.level(alice)
	})
}

func TestAWorkerThatPassedADeviceByWritesAfterItGotLevel(t *testing.T) { // rule 6: who is behind is decided at the write
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		release := w.apns.hold("b", "throttled", time.Second)
		missed := w.ex.come(alice)
		synctest.Wait()
		release()
		w.apns.answer = func(ctx context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "a" {
				select { // a's answer keeps the live batch open while b catches up
				case <-time.After(4 * time.Second):
				case <-ctx.Done():
				}
			}
			return subscriptions.Answer{}
		}
		live := w.ex.come(alice) // b is behind: passed by
		synctest.Wait()
		w.pass(2 * time.Second)
		w.rang(1, "b", missed) // level again, before the live batch is written
		w.pass(time.Minute)
		w.rang(1, "a", missed, live)
		w.rang(1, "b", live)
		w.level(alice)
	})
}

func TestSixHundredMessagesInOneGapAndAKillInTheMiddle(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		w.pass(time.Hour)
		w.stop()
		var all []*message
		for i := range 600 {
			all = append(all, w.ex.come(alice, at(ago(time.Duration(i)*5*time.Second))))
		}
		w.apns.set(func() { w.apns.delay = 20 * time.Millisecond })
		w.start()
		w.pass(250 * time.Millisecond)
		w.kill()
		w.start()
		w.pass(300 * time.Millisecond)
		w.kill()
		w.start()
		w.pass(2 * time.Minute)
		for _, d := range []string{"a", "b"} {
			resent := 0
			for _, m := range all {
				switch n := len(w.apns.pushes(d, w.key(d, m))); {
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
		w.level(alice)
	})
}

func TestPagesWhileMailArrivesAtTheTop(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.stop()
		var all []*message
		for i := range 300 {
			all = append(all, w.ex.come(alice, at(ago(time.Duration(i)*time.Second))))
		}
		pages := 0
		w.ex.onList = func(offset int) {
			if offset > 0 && pages < 3 {
				pages++
				w.ex.quietly(func() { all = append(all, w.ex.come(alice), w.ex.come(alice)) })
			}
		}
		w.start()
		w.pass(w.poll + time.Minute)
		w.rang(1, "a", all...)
	})
}

func TestPagesWhileMailIsDeletedFromTheMiddle(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.stop()
		var all []*message
		for i := range 300 {
			all = append(all, w.ex.come(alice, at(ago(time.Duration(i)*time.Second))))
		}
		deleted := all[:60]
		once := false
		w.ex.onList = func(offset int) {
			if offset > 0 && !once {
				once = true
				w.ex.take(alice, deleted...) // the pages shift by sixty: a page that goes on by its offset would skip them
			}
		}
		w.start()
		w.pass(time.Minute)
		w.rang(1, "a", all[60:]...)
	})
}

func TestDeletingAHundredMessagesRingsNothingOld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		var old, all []*message
		w.ex.quietly(func() {
			for i := range 200 {
				old = append(old, w.ex.come(alice, at(ago(48*time.Hour+time.Duration(i)*time.Minute))))
			}
		})
		w.enrol("a", alice)
		for range 300 {
			w.pass(time.Second)
			all = append(all, w.ex.come(alice))
		}
		w.pass(w.poll)
		w.ex.take(alice, all[150:250]...)
		w.pass(3 * w.poll)
		w.rang(0, "a", old...)
		w.rang(1, "a", all...)
	})
}

func TestAMessageMovedOutAndBackRingsOnce(t *testing.T) {
	for name, away := range map[string]time.Duration{"within a day": time.Hour, "later": 50 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("a", alice)
				m := w.ex.come(alice)
				synctest.Wait()
				w.ex.take(alice, m)
				for passed := time.Duration(0); passed < away; passed += time.Hour {
					w.pass(time.Hour)
					w.ex.come(alice) // the mailbox moves on
				}
				w.ex.back(alice, m)
				w.ex.hint(alice, m)
				w.pass(2 * w.poll)
				w.rang(1, "a", m)
			})
		})
	}
}

func TestTheLastDeviceRemovedAndEnrolledAgainDoesNotRingWhatWasRung(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(10 * time.Minute)
		m := w.ex.come(alice)
		synctest.Wait()
		w.rang(1, "a", m)
		old := w.record(alice).ID
		w.remove("a")
		w.pass(time.Minute + time.Second)
		w.enrol("a", alice)
		w.ex.hint(alice, m)
		w.pass(2 * w.poll)
		if w.record(alice).ID == old {
			t.Error("the record is the old one")
		}
		w.rang(0, "a", m) // under its new key: it is from before the enrolment
		if r := w.reasons(alice, w.key("a", m)); !contains(r, "late") && !contains(r, "before_enrolment") {
			t.Errorf("no reason is recorded: %v", r)
		}
	})
}

func TestAChangedTokenKeepsItsPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		release := w.apns.hold("a", "throttled", time.Minute)
		m := w.ex.come(alice)
		synctest.Wait()
		w.enrolToken("a", alice, "another token")
		if w.record(alice).BehindOf("a") == nil {
			t.Fatal("it lost its place")
		}
		release()
		w.pass(2 * time.Minute)
		w.rang(1, "a", m)
	})
}

func TestAChangedMailboxStartsAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(10 * time.Minute)
		old := w.ex.come(bob)
		w.pass(10 * time.Minute)
		w.enrol("a", bob)
		now := w.ex.come(bob)
		w.pass(2 * w.poll)
		w.rang(0, "a", old)
		w.rang(1, "a", now)
		if w.book.Mailbox(alice) != nil || len(w.ex.unsubs) != 1 {
			t.Errorf("the old mailbox is still heard; given back: %v", w.ex.unsubs)
		}
	})
}

func TestMessagesWithoutAndWithADoubledMessageID(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		none1 := w.ex.come(alice, noID)
		none2 := w.ex.come(alice, noID)
		w.pass(time.Minute)
		twice1 := w.ex.come(alice, withID("<same@fabrikam.example>"))
		w.pass(time.Minute)
		twice2 := w.ex.come(alice, withID("<same@fabrikam.example>")) // reused, sent a minute later
		w.pass(2 * w.poll)
		w.rang(1, "a", none1, none2, twice1, twice2)
	})
}

func TestADateOf1970OrOf2038DoesNotDecide(t *testing.T) {
	for name, date := range map[string]time.Time{"1970": time.Unix(1, 0), "2038": time.Unix(1<<31-2, 0)} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("a", alice)
				w.pass(time.Hour)
				header := w.ex.come(alice, sentAt(date))
				synctest.Wait()
				told := w.ex.come(alice, sentAt(date.Add(time.Hour)), tells(date)) // the read tells the sender's Date
				synctest.Wait()
				var unheard *message
				w.ex.quietly(func() { unheard = w.ex.come(alice, sentAt(date.Add(2*time.Hour)), tells(date)) })
				w.pass(2 * w.poll)
				w.rang(1, "a", header, told, unheard)
				if next := w.ex.come(alice); next != nil {
					w.pass(w.poll)
					w.rang(1, "a", next)
				}
			})
		})
	}
}

func TestMailReceivedHalfAnHourInThePastWhileNothingListens(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(5 * time.Hour)
		known := w.ex.come(alice)
		w.pass(w.poll)
		w.stop()
		held := w.ex.come(alice, at(known.received.Add(-30*time.Minute))) // older than the newest that was dealt with
		w.start()
		w.pass(time.Minute)
		w.rang(1, "a", known, held)
	})
}

func TestThreeHundredMessagesDatedInTheFuture(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		var today, hinted, unheard []*message
		for i := range 10 {
			today = append(today, w.ex.come(alice))
			w.pass(time.Second)
			hinted = append(hinted, w.ex.come(alice, at(time.Now().Add(time.Duration(100+i)*time.Hour))))
			w.pass(time.Second)
		}
		w.ex.quietly(func() {
			for i := range 300 {
				unheard = append(unheard, w.ex.come(alice, at(time.Now().Add(time.Duration(200+i)*time.Hour))))
			}
		})
		w.pass(w.poll)
		var more *message
		w.ex.quietly(func() { more = w.ex.come(alice) }) // mail of today is still found
		w.pass(w.poll)
		w.rang(1, "a", today...)
		w.rang(1, "a", hinted...)
		w.rang(0, "a", unheard...) // settled by the listing
		w.rang(1, "a", more)
		if r := w.reasons(alice, w.key("a", unheard[0])); !contains(r, "future") {
			t.Errorf("the reason is %v", r)
		}
	})
}

func TestAServersClockTwoDaysAheadAndThenRightAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		ok := w.ex.come(alice)
		w.pass(w.poll)
		w.ex.set(func() { w.ex.skew = 48 * time.Hour })
		ahead := w.ex.come(alice)
		w.pass(w.poll)
		w.enrol("b", bob) // while it is ahead
		synctest.Wait()
		w.enrol("b2", alice)
		w.ex.set(func() { w.ex.skew = 0 })
		w.pass(2 * w.poll)
		right := w.ex.come(alice)
		rightBob := w.ex.come(bob)
		w.pass(2 * w.poll)
		w.rang(1, "a", ok, ahead, right)
		w.rang(1, "b2", right)
		w.rang(1, "b", rightBob)
	})
}

func TestASummaryWhoseAnswerIsLostThenAKillThenALargerSummary(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(12 * time.Hour)
		w.stop()
		var old []*message
		for i := range 5 {
			old = append(old, w.ex.come(alice, at(ago(time.Duration(2+i)*time.Hour))))
		}
		w.apns.set(func() { w.apns.delay = time.Second })
		w.start()
		w.pass(500 * time.Millisecond) // APNs has it, its answer is under way
		w.kill()
		for i := range 3 {
			old = append(old, w.ex.come(alice, at(ago(90*time.Minute+time.Duration(i)*time.Minute))))
		}
		w.start()
		w.pass(time.Minute)
		last := w.apns.pushes("a", w.key("a", old[0]))
		if len(last) != 2 || !last[1].summary || last[1].n != 8 || last[0].id != last[1].id {
			t.Errorf("the repeat is %+v; want one larger summary with the same collapse id", last)
		}
		w.rang(1, "a", old[5:]...)
		w.level(alice)
	})
}

func TestAMessageThatCannotBeReadAtFirstAndCanBeLater(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		m := w.ex.come(alice, unreadable)
		other := w.ex.come(alice)
		synctest.Wait()
		w.rang(0, "a", m)
		w.rang(1, "a", other) // it harms only itself
		w.pass(30 * time.Second)
		w.ex.mend(m)
		w.pass(2 * w.poll)
		w.rang(1, "a", m)
	})
}

func TestAMessageThatNeverCanBeReadRingsGenericallyAndOnce(t *testing.T) { // rule 9
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		m := w.ex.come(alice, unreadable)
		w.pass(9 * time.Minute)
		generic := w.apns.pushes("a", w.book.Secret().ItemKey(w.record(alice).ID, m.id))
		if len(generic) != 1 {
			t.Errorf("it rang %d times generically within ten minutes", len(generic))
		}
		w.ex.mend(m)
		w.ex.hint(alice, m)
		w.pass(3 * w.poll)
		w.rang(0, "a", m) // either key makes it dealt with
	})
}

func TestAMessageOnlyListedThatNeverCanBeReadRingsGenericallyAndOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		var m *message
		w.ex.quietly(func() { m = w.ex.come(alice, unreadable) })
		w.pass(w.poll + 20*time.Minute)
		w.ex.mend(m)
		w.pass(3 * w.poll)
		if n := len(w.apns.pushes("a", w.book.Secret().ItemKey(w.record(alice).ID, m.id))); n != 1 {
			t.Errorf("it rang %d times generically", n)
		}
		w.rang(0, "a", m)
		w.level(alice)
		if w.record(alice).Listed != m.received.Unix() {
			t.Error("the listing was never completed")
		}
	})
}

func TestAGracefulStopInTheMiddleOfAListing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.stop()
		var all []*message
		for i := range 100 {
			all = append(all, w.ex.come(alice, at(ago(time.Duration(i)*time.Second))))
		}
		w.apns.set(func() { w.apns.delay = 50 * time.Millisecond })
		w.start()
		w.pass(120 * time.Millisecond)
		w.stop()
		w.start()
		w.pass(time.Minute)
		w.rang(1, "a", all...) // not one a second time: what was begun was written
		w.level(alice)
	})
}

func TestMailIsSummedUpAfterAnHourAndLateAfterADay(t *testing.T) { // rule 8
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(60 * time.Hour)
		w.stop()
		var fresh, old1, old2, late *message
		w.ex.quietly(func() { // a hint would count their age from itself
			fresh = w.ex.come(alice, at(ago(30*time.Minute)))
			old1 = w.ex.come(alice, at(ago(3*time.Hour)))
			old2 = w.ex.come(alice, at(ago(20*time.Hour)))
			late = w.ex.come(alice, at(ago(30*time.Hour)))
		})
		w.start()
		w.pass(time.Minute)
		w.rang(1, "a", fresh, old1, old2)
		w.rang(0, "a", late)
		if p := w.apns.pushes("a", w.key("a", old1)); !p[0].summary || p[0].n != 2 {
			t.Errorf("%+v", p)
		}
		if r := w.reasons(alice, w.key("a", late)); !contains(r, "late") {
			t.Errorf("the reason is %v", r)
		}
	})
}

func TestAStuckDeviceHoldsNoOther(t *testing.T) { // promise 3
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("stuck", alice)
		var free atomic.Bool
		w.apns.answer = func(ctx context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "stuck" && !free.Load() {
				select {
				case <-time.After(30 * time.Second):
				case <-ctx.Done():
				}
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered", Next: time.Now().Add(time.Minute)}
			}
			return subscriptions.Answer{}
		}
		var all []*message
		for range 20 {
			all = append(all, w.ex.come(alice))
			w.pass(time.Second)
			w.rang(1, "a", all...)
		}
		free.Store(true)
		w.pass(5 * time.Minute)
		w.rang(1, "stuck", all...)
		w.level(alice)
	})
}

func TestATopicThatIsReadyAgainIsCaughtUpAtOnce(t *testing.T) { // rule 12
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		release := w.apns.hold("a", "topic_away", 0)
		m := w.ex.come(alice)
		synctest.Wait()
		lists := w.ex.lists
		w.pass(10 * time.Minute)
		w.rang(0, "a", m)
		if w.ex.lists != lists {
			t.Error("the mailbox was listed for a device that could not be rung")
		}
		release()
		w.l.TopicReady("com.contoso.mail", "production")
		w.pass(time.Second)
		w.rang(1, "a", m)
		w.level(alice)
	})
}

func TestATopicThatWasAwayIsTriedAtTheNextStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		release := w.apns.hold("a", "topic_away", 0)
		m := w.ex.come(alice)
		w.pass(time.Minute)
		w.stop()
		release()
		w.start()
		w.pass(5 * time.Second)
		w.rang(1, "a", m)
		w.level(alice)
	})
}

func TestAWriteThatFailsIsRepeatedAndNothingRingsTwice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.store.Fail(errors.New("disk full"))
		m := w.ex.come(alice)
		w.pass(10 * time.Second)
		w.ex.hint(alice, m)
		w.pass(10 * time.Second)
		w.store.Fail(nil)
		w.pass(time.Minute)
		w.rang(1, "a", m)
		w.level(alice)
	})
}

func TestADeviceThatApnsDeclaredGoneIsRemoved(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		w.apns.answer = func(_ context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "b" {
				return subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered"}
			}
			return subscriptions.Answer{}
		}
		m := w.ex.come(alice)
		w.pass(time.Second)
		w.rang(1, "a", m)
		if _, ok := w.book.Device("b"); ok {
			t.Error("it is still enrolled")
		}
		w.level(alice)
	})
}

func TestADeviceMovesToTheEnvironmentThatKnowsItsToken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.apns.answer = func(_ context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.Environment == "production" {
				return subscriptions.Answer{Result: subscriptions.Accepted, Environment: "sandbox", At: time.Now()}
			}
			return subscriptions.Answer{}
		}
		w.ex.come(alice)
		synctest.Wait()
		if d, _ := w.book.Device("a"); d.Environment != "sandbox" || d.Since.IsZero() {
			t.Errorf("%+v", d)
		}
		m := w.ex.come(alice)
		synctest.Wait()
		w.rang(1, "a", m)
	})
}

func TestNoAlertBeginsAfterADeviceWasRemoved(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		entered := make(chan struct{})
		w.apns.answer = func(ctx context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "b" { // the sender is about to try again
				close(entered)
				<-ctx.Done()
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
			}
			return subscriptions.Answer{}
		}
		m := w.ex.come(alice)
		<-entered
		k := w.key("b", m)
		w.remove("b") // returns only when the sender has let go
		if w.book.Mailbox(alice).Record().BehindOf("b") != nil {
			t.Error("the record remembers it")
		}
		w.pass(time.Minute)
		if len(w.apns.pushes("b", k)) != 0 {
			t.Error("it was rung")
		}
		w.level(alice)
	})
}
