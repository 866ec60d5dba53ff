package inbox

// The parts of a mailbox by themselves.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestTheNewestSixteenItemsAreRemembered(t *testing.T) {
	var s seen
	for i := range uint32(3 * maxSeen) {
		if s.add(i + 1) {
			t.Fatalf("item %d is new, and known", i)
		}
		if !s.add(i + 1) {
			t.Fatalf("item %d is forgotten at once", i)
		}
	}
	for i := uint32(2 * maxSeen); i < 3*maxSeen; i++ {
		if !s.add(i + 1) {
			t.Errorf("item %d is forgotten", i)
		}
	}
	if s.add(2 * maxSeen) {
		t.Error("an older item is still known")
	}
}

func TestAPhoneIsInFlightUntilEachOfItsPushesHasEnded(t *testing.T) {
	var f flight
	a, b := subscriptions.Line{Token: "a", Topic: topic}, subscriptions.Line{Token: "b", Topic: topic}
	if f.has(a) || !f.empty() {
		t.Error("something is in flight before anything began")
	}
	f.begin(a)
	f.begin(a)
	f.begin(b)
	f.end(b)
	if !f.has(a) || f.has(b) || f.empty() {
		t.Error("the wrong phone is in flight")
	}
	f.end(a)
	if !f.has(a) || f.empty() {
		t.Error("the second push to the phone has not ended")
	}
	f.end(a)
	if f.has(a) || !f.empty() || len(f.list) != 0 {
		t.Error("a phone without a push costs something")
	}
}

func TestLateAnswersThatWaitTogetherAreEnteredTogether(t *testing.T) {
	var l late
	if !l.add(lateAnswer{}) {
		t.Error("nobody is at it, and nobody enters it")
	}
	if l.add(lateAnswer{}) {
		t.Error("two are at it")
	}
	if n := len(l.take()); n != 2 {
		t.Errorf("%d are entered together", n)
	}
	if l.add(lateAnswer{}) {
		t.Error("two are at it")
	}
	if n := len(l.take()); n != 1 {
		t.Errorf("%d are entered", n)
	}
	if n := len(l.take()); n != 0 || !l.add(lateAnswer{}) {
		t.Error("the next answer is entered by nobody")
	}
}

func TestAnswersThatCannotBeRecordedAreLogged(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		core, logs := observer.New(zap.ErrorLevel)
		s.in.log = zap.New(core)
		m := s.mailbox(alice)
		device, _ := m.box.Device("a")
		a := alert{device: device, keys: []mail.Key{{1}}, notification: subscriptions.Notification{Phone: device.Phone()}}
		enter := func(ctx context.Context, want int, when string) {
			t.Helper()
			entered := make(chan struct{})
			m.flight.begin(a.line())
			m.enterLate(ctx, &a, subscriptions.Answer{Result: subscriptions.Accepted}, func() { close(entered) })
			<-entered
			if n := logs.FilterMessage("answers of APNs could not be recorded").Len(); n != want {
				t.Errorf("%s: %d errors, want %d", when, n, want)
			}
		}
		enter(context.Background(), 0, "recorded")
		ended, end := context.WithCancel(context.Background())
		end()
		s.store.Fail(errors.New("redis is away"))
		enter(ended, 1, "the process ends while the state is away")
		s.store.Fail(nil)
		s.remove("a")
		s.pass(2 * subscriptions.Asleep)
		if err := s.book.Bury(context.Background(), time.Now()); err != nil {
			t.Fatal(err)
		}
		enter(context.Background(), 1, "the record has gone with its last device")
	})
}

func TestAnItemIsTriedThreeTimesWithinTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex // between the callbacks of two timers
		var tried []time.Duration
		u := unreadable{}
		var again func()
		again = func() {
			mu.Lock()
			defer mu.Unlock()
			tried = append(tried, time.Since(began))
			if last, counted := u.try("item", time.Time{}, again); !counted || last != (len(tried) == 2) {
				t.Errorf("try %d: last %v, counted %v", len(tried)+1, last, counted)
			}
		}
		if last, counted := u.try("item", time.Time{}, again); last || !counted {
			t.Errorf("the first try: last %v, counted %v", last, counted)
		}
		if last, counted := u.try("item", time.Time{}, again); last || counted {
			t.Errorf("a read before its time: last %v, counted %v", last, counted)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if len(tried) != 2 || tried[0] != time.Minute || tried[1] != 6*time.Minute {
			t.Errorf("it was tried again after %v", tried)
		}
	})
}

func TestAnItemThatIsForgottenIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := unreadable{}
		u.forget("an item that never failed")
		for _, c := range []struct {
			item string
			end  func(item string)
		}{
			{"one that was read", func(item string) { u.forget(item) }},
			{"one of another Exchange", func(string) { u.forgetAll() }},
			{"one of a mailbox that is closed", func(string) { u.close() }},
			{"one that was read after that", func(item string) { u.forget(item) }},
			{"one of another Exchange after that", func(string) { u.forgetAll() }},
			{"one that failed after that", func(string) { u.close() }},
		} {
			if last, counted := u.try(c.item, time.Time{}, func() { t.Errorf("%s is tried again", c.item) }); last || !counted {
				t.Errorf("%s: last %v, counted %v", c.item, last, counted)
			}
			c.end(c.item)
		}
		<-time.After(time.Hour)
	})
}

func TestNoMoreItemsAreTriedAgainThanTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := unreadable{}
		for i := range maxUnreadable {
			if last, _ := u.try(fmt.Sprint(i), time.Time{}, func() {}); last {
				t.Fatalf("item %d is given up at once", i)
			}
		}
		if last, counted := u.try("one more", time.Time{}, func() {}); !last || !counted {
			t.Error("one more than the bound is tried again")
		}
		u.close()
	})
}

func TestARoundIsOverWithItsLastAnswer(t *testing.T) {
	accepting := newAlarm(time.Hour)
	r := newRound(accepting)
	r.left = 2
	a := alert{device: &subscriptions.Device{ID: "a"}, keys: []mail.Key{{1}}}
	if !r.answer(&a, subscriptions.Answer{Result: subscriptions.Accepted}) {
		t.Error("an answer before the draft is late")
	}
	if len(accepting.calls) != 1 {
		t.Error("the first acceptance is not noticed")
	}
	r.leave()
	select {
	case <-r.over:
		t.Error("it is over with an answer missing")
	default:
	}
	r.leave()
	<-r.over
	r.close()
	if r.open() {
		t.Error("a push may begin in a closed round")
	}
	r.stage = drafted
	if r.answer(&a, subscriptions.Answer{Result: subscriptions.Accepted}) {
		t.Error("an answer after the draft is in time")
	}
}

func TestAPushThatWasNotAnsweredIsARepeatTheNextTime(t *testing.T) { // rule 10
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		var repeats []bool
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			repeats = append(repeats, n.Repeat)
			if len(repeats) == 1 {
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Unanswered, Next: time.Now().Add(time.Second), Unknown: true}
			}
			return subscriptions.Answer{}
		}
		s.source.come(alice)
		s.pass(time.Minute)
		s.source.come(alice)
		s.pass(time.Minute)
		if !slices.Equal(repeats, []bool{false, true, false}) {
			t.Errorf("repeats: %v", repeats)
		}
	})
}

func TestDoubtsAreBounded(t *testing.T) {
	var d doubts
	l := subscriptions.Line{Token: "a", Topic: topic}
	for i := range 2 * maxDoubts {
		d.note(l, []mail.Key{{byte(i), byte(i >> 8)}}, true)
	}
	if len(d.open) != maxDoubts {
		t.Errorf("%d are remembered", len(d.open))
	}
	if !d.has(l, []mail.Key{{9, 9}, {0}}) || d.has(subscriptions.Line{Token: "b"}, []mail.Key{{0}}) {
		t.Error("a doubt is not its phone's, or not found beside another message of a summary")
	}
	d.note(l, []mail.Key{{0}}, false)
	if d.has(l, []mail.Key{{0}}) {
		t.Error("an answer leaves a doubt")
	}
}

// A copy of a message has no outcome of its own, so no write of the record takes the decision about it along.
func TestADecisionWithoutAnOutcomeIsWrittenWithItsTurn(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		m := s.source.come(alice)
		s.pass(time.Minute)
		s.source.come(alice, withID(m.internetID), sentAt(m.sent))
		s.pass(time.Second)
		s.kill()
		s.store.Fail(nil)
		book, err := subscriptions.Open(t.Context(), s.store)
		if err != nil {
			t.Fatal(err)
		}
		list, err := book.Mailbox(alice).Decisions(t.Context())
		if err != nil || len(list) != 2 || list[0].Reason != outcome.Known || list[1].Outcome != outcome.Accepted {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

func TestAGracefulStopWritesWhatWasDecided(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.book.Mailbox(alice).Decide(subscriptions.Decision{Device: "a", Outcome: outcome.Behind})
		s.stop()
		book, err := subscriptions.Open(t.Context(), s.store)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := book.Mailbox(alice).Decisions(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Answers are entered by several goroutines, and each looks then who is behind: one may have looked before the other's write.
func TestAnOlderLookAtWhoIsBehindDelaysNobody(t *testing.T) {
	due := func(in time.Duration) subscriptions.Behind {
		return subscriptions.Behind{Device: "a", Next: time.Now().Add(in)}
	}
	for name, older := range map[string]func() []subscriptions.Behind{
		"nobody was":                  func() []subscriptions.Behind { return nil },
		"another was, until tomorrow": func() []subscriptions.Behind { return []subscriptions.Behind{due(24 * time.Hour)} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w waiting
				looked := 0
				look := func() { looked++ }
				defer w.close()
				w.begin([]subscriptions.Behind{due(time.Minute)}, look)
				w.begin(older(), look)
				<-time.After(2 * time.Minute)
				synctest.Wait()
				if looked != 1 {
					t.Errorf("it was looked %d times", looked)
				}
				if w.begin([]subscriptions.Behind{due(time.Minute)}, look) {
					t.Error("one that is not due begins")
				}
				<-time.After(2 * time.Minute)
				synctest.Wait()
				if looked != 2 {
					t.Errorf("it was looked %d times afterwards", looked)
				}
				w.begin([]subscriptions.Behind{due(time.Minute)}, look)
				w.close()
				w.open()
				w.attach()
				w.begin([]subscriptions.Behind{due(time.Minute)}, look)
				<-time.After(2 * time.Minute)
				synctest.Wait()
				if looked != 3 {
					t.Errorf("it was looked %d times once it was opened again", looked)
				}
			})
		})
	}
}
