package listener

// Devices come and go, and mailboxes turn out to be one.

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// Leaving one mailbox and joining another is one write.
func TestARefusedChangeOfMailboxLeavesTheEnrolmentAsItWas(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		for i := range subscriptions.MaxDevices {
			if _, err := s.book.Enrol(s.t.Context(), subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: bob, Token: fmt.Sprint(i)}, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		s.pass(time.Minute)
		_, _, err := s.l.Enrol(s.t.Context(), enrolment("a", bob, "token-of-a"), nil)
		if err == nil {
			t.Fatal("it was not refused")
		}
		if _, ok := s.book.Device("a"); !ok {
			t.Error("the refused request has removed the enrolment that the device had")
		}
		s.pass(24 * time.Hour)
		if n := len(s.l.mailboxes()); n != 0 && s.book.Mailbox(alice) == nil {
			t.Errorf("%d mailbox is still followed that has no device and no record; unsubscribed: %d", n, len(s.hq.givenBack()))
		}
	})
}

// A mailbox that is joined to another brings devices that had alerts of what the other's log holds.
func TestAMailboxThatWasRenamedAndJoinedAlertsOfEachMessageOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		const renamed = "alice.smith@contoso.example"
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		s.enrol("a", alice)
		s.pass(25 * time.Hour)
		f.set(func() { f.primary[alice] = renamed }) // the old address stays as another one; the portal enrols a second phone under the new one
		s.enrol("b", renamed)
		s.pass(time.Minute)
		var all []*message
		for range 3 {
			m := s.hq.come(alice)
			other := *m
			s.hq.come(renamed, func(n *message) { *n = other })
			all = append(all, m)
			s.pass(time.Minute)
		}
		count := func() int { return len(s.apns.got["a"]) }
		if count() != len(all) {
			t.Fatalf("a has %d", count())
		}
		release := s.apns.hold("a")
		for _, told := range []bool{true, false, true} { // to alice's own subscription
			m := &message{}
			come := func() { m = s.hq.come(alice) }
			if told {
				come()
			} else {
				s.hq.quietly(come)
			}
			other := *m
			s.hq.come(renamed, func(n *message) { *n = other })
			all = append(all, m)
			s.pass(time.Minute)
		}
		s.stop()
		s.start() // the location of alice is a day old: she is looked up, and joined
		s.pass(time.Minute)
		if s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
			t.Fatal("not joined")
		}
		release()
		s.in.TopicReady("com.contoso.mail", "production")
		s.pass(time.Minute)
		if n := count(); n != len(all) {
			t.Errorf("a had %d alerts for %d messages", n, len(all))
		}
	})
}

// A push is in flight whose mailbox is found to be another's: that one knows nothing of it.
func TestADeviceThatGetsANewTokenIsCaughtUpAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a")
		s.hq.come(alice)
		s.pass(time.Minute)
		release()
		for _, c := range []struct {
			token string
			got   int
		}{{"token-of-a", 0}, {"a new token", 1}} { // the same once more ends no waiting
			if _, _, err := s.l.Enrol(t.Context(), enrolment("a", alice, c.token), nil); err != nil {
				t.Fatal(err)
			}
			s.pass(10 * time.Second)
			if n := len(s.apns.got["a"]); n != c.got {
				t.Errorf("enrolled with %s it has %d alerts, want %d", c.token, n, c.got)
			}
		}
	})
}

func TestAMailboxIsJoinedToAnotherOnceNothingOfItIsInFlight(t *testing.T) {
	for name, after := range map[string]time.Duration{"in its round": time.Second, "behind its round": 10 * time.Second, "never": 0} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				const renamed = "alice.smith@contoso.example"
				f := &finder{url: hqURL, primary: map[string]string{}}
				s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				f.set(func() { f.primary[alice] = renamed })
				s.enrol("b", renamed)
				s.pass(10 * time.Minute)
				come := func() {
					other := *s.hq.come(alice)
					s.hq.come(renamed, func(n *message) { *n = other })
				}
				answer := make(chan struct{})
				if after > 0 {
					s.apns.slow = map[string]chan struct{}{"a": answer}
				}
				come()
				s.pass(after)
				box, m := s.book.Mailbox(alice), s.mailbox(alice)
				m.relocate(m.linked())
				s.pass(after)
				if joined := s.book.Mailbox(alice) != box; joined != (after == 0) {
					t.Errorf("joined: %v", joined)
				}
				close(answer)
				s.pass(200 * time.Millisecond)
				if s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
					t.Error("they are not joined")
				}
				s.pass(time.Minute)
				come()
				s.pass(time.Minute)
				if a, b := len(s.apns.got["a"]), len(s.apns.got["b"]); a != 2 || b != 2 {
					t.Errorf("a had %d alerts and b %d for 2 messages", a, b)
				}
				s.inStep(renamed)
			})
		})
	}
}

// A listing is due where something is new, not at each of the portal's repetitions.
func TestAnEnrolmentHasItsMailboxListedOnlyWhereSomethingIsNew(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		listings := 0
		s.hq.onList = func(string, int) { listings++ }
		want := func(n int, what string) {
			t.Helper()
			s.pass(time.Minute)
			if listings != n {
				t.Errorf("%s: %d listings, want %d", what, listings, n)
			}
			listings = 0
		}
		s.enrol("a", alice)
		want(1, "a new mailbox, once its stream is open")
		s.enrol("a", alice)
		want(0, "the same again")
		s.enrol("a2", alice)
		want(1, "a second device")
		if _, _, err := s.l.Enrol(s.t.Context(), enrolment("a", alice, "another"), nil); err != nil {
			t.Fatal(err)
		}
		want(0, "another token")
		s.enrol("b", bob)
		want(1, "another mailbox")
		s.enrol("a2", bob)
		want(1, "a device that goes over to it")
		s.stop()
		s.start()
		want(2, "a start")
	})
}

func TestADeviceGetsAlertsSinceItsEnrolmentOnTheServersClockLessTheTolerance(t *testing.T) { // rule 5
	for _, skew := range []time.Duration{0, 3 * time.Minute, -3 * time.Minute} {
		inScene(t, func(s *scene) {
			s.hq.skew = skew
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute) // an answer has told its clock
			s.enrol("b", bob)
			want := time.Now().Add(skew - mail.Tolerance)
			if d, _ := s.book.Device("b"); d.Since.Sub(want).Abs() > time.Second {
				t.Errorf("a server %v ahead: since %v, want %v", skew, d.Since, want)
			}
		})
	}
}

func TestADeviceThatIsEnrolledWhileNobodyKnowsTheServersClockGetsWhatComesAfterwards(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.skew = 2 * time.Hour
		s.start()
		before := s.hq.come(alice, received(time.Now().Add(time.Hour)))
		s.enrol("a", alice)
		m := s.hq.come(alice) // before anybody listens
		s.pass(time.Minute)
		s.accepted(1, "a", m)
		s.accepted(0, "a", before)
		if d, _ := s.book.Device("a"); d.Since.Sub(d.Created) < s.hq.skew-mail.Tolerance-time.Minute {
			t.Errorf("it gets what came in since %v; it enrolled at %v, which is %v earlier than there", d.Since, d.Created, s.hq.skew)
		}
	})
}

func TestADeviceThatIsGoneIsRemovedUnlessItHasAnotherPhoneByNow(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Minute)
		old, _ := s.book.Device("a")
		if _, _, err := s.l.Enrol(s.t.Context(), enrolment("a", alice, "another"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.l.RemoveGone(s.t.Context(), old); err != nil {
			t.Error(err)
		}
		if _, ok := s.book.Device("a"); !ok {
			t.Error("an enrolment with another token was removed")
		}
		now, _ := s.book.Device("a")
		for range 2 { // two answers may say so
			if _, err := s.l.RemoveGone(s.t.Context(), now); err != nil {
				t.Error(err)
			}
		}
		if _, ok := s.book.Device("a"); ok {
			t.Error("a phone that is gone stays enrolled")
		}
		s.apns.gone = map[string]bool{"token-of-b": true}
		s.hq.come(alice)
		s.pass(time.Minute)
		if _, ok := s.book.Device("b"); ok || len(s.l.mailboxes()) > 0 || len(s.hq.givenBack()) != 1 {
			t.Errorf("the last device is gone: %d mailboxes are followed, given back %v", len(s.l.mailboxes()), s.hq.givenBack())
		}
	})
}

func TestATokenThatIsEnrolledUnderAnotherIdTakesOver(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		if _, created, err := s.l.Enrol(s.t.Context(), enrolment("b", alice, "token-of-a"), nil); !created || err != nil {
			t.Errorf("%v, %v", created, err)
		}
		if _, ok := s.book.Device("a"); ok {
			t.Error("the phone has two enrolments")
		}
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "b", m)
	})
}

// What its former phone waited for, which went to another id with its token or was removed, is nothing that its new one waits for.
func TestAnIdThatIsEnrolledAgainDoesNotWaitForItsFormerPhone(t *testing.T) {
	for name, leave := range map[string]func(s *scene){
		"its token was taken over": func(s *scene) {
			if _, _, err := s.l.Enrol(s.t.Context(), enrolment("b", alice, "token-of-a"), nil); err != nil {
				s.t.Fatal(err)
			}
		},
		"it was removed": func(s *scene) { s.remove("a") },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("other", alice)
				s.pass(time.Minute)
				release := s.apns.hold("a")
				s.hq.come(alice)
				s.pass(time.Second) // it waits for the word that its topic is ready
				leave(s)
				release()
				if _, _, err := s.l.Enrol(s.t.Context(), enrolment("a", alice, "another token"), nil); err != nil {
					t.Fatal(err)
				}
				s.pass(time.Minute)
				s.apns.mu.Lock()
				s.apns.later = map[string]time.Duration{"a": time.Second}
				s.apns.mu.Unlock()
				m := s.hq.come(alice)
				s.pass(5 * time.Second)
				s.accepted(1, "a", m)
				s.inStep(alice)
			})
		})
	}
}

// What has begun is not cut off, but no further attempt begins once the phone is not enrolled any more.
func TestNoAttemptBeginsForAPhoneThatIsNotEnrolledAnyMore(t *testing.T) {
	for name, c := range map[string]struct {
		end func(s *scene)
		may bool
	}{
		"removed":               {func(s *scene) { s.remove("a") }, false},
		"under another id":      {func(s *scene) { _, _, _ = s.l.Enrol(s.t.Context(), enrolment("b", alice, "token-of-a"), nil) }, true},
		"its token was changed": {func(s *scene) { _, _, _ = s.l.Enrol(s.t.Context(), enrolment("a", alice, "another"), nil) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("other", alice)
				s.pass(time.Minute)
				s.apns.stuck = map[string]int{"a": 0}
				s.hq.come(alice)
				s.pass(time.Second)
				attempt := s.apns.last // one to its new token may begin meanwhile
				if s.apns.underWay("a") != 1 || !attempt.May() {
					t.Fatal("nothing is under way")
				}
				c.end(s)
				if may := attempt.May(); may != c.may {
					t.Errorf("a further attempt may begin: %v", may)
				}
			})
		})
	}
}

// counted is a store that counts the writes of records.
type counted struct {
	*storetest.Memory
	writes atomic.Int32
}

func (c *counted) Write(ctx context.Context, change subscriptions.Change) error {
	c.writes.Add(int32(len(change.Put)))
	return c.Memory.Write(ctx, change)
}

func TestAMailboxThatNobodyHasToBeAskedForIsWrittenAtItsEnrolmentAndWithItsSubscription(t *testing.T) {
	inScene(t, func(s *scene) {
		store := &counted{Memory: s.store}
		book, err := subscriptions.Open(s.t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		s.open(book)
		s.enrol("b", bob) // whose answers tell the server's clock
		s.pass(time.Minute)
		store.writes.Store(0)
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.listening("hq", alice)
		if n := store.writes.Load(); n != 2 {
			t.Errorf("it was written %d times", n)
		}
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
	})
}

// Where the accounts are full, nobody knows who will listen to it.
func TestAMailboxThatWaitsForRoomIsWrittenWithNoAccount(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.MailboxesPerAccount = 1 }
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		if r := s.record(bob); r.Account != "" || r.At != nil {
			t.Errorf("it is at %v, and %q listens", r.At, r.Account)
		}
		s.wantState(subscriptions.WaitingForCapacity, bob)
		s.remove("a")
		s.pass(time.Minute)
		s.listening("hq", bob)
	})
}
