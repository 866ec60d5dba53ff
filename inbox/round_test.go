package inbox

// A round by itself: who is in it, what is written of it, and what is not begun.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// counting is a store that counts its writes.
type counting struct {
	*storetest.Memory
	n atomic.Int32
}

func (c *counting) Write(ctx context.Context, change subscriptions.Change) error {
	c.n.Add(1)
	return c.Memory.Write(ctx, change)
}

func TestAnswersWithinHalfASecondOfTheFirstAreOneWrite(t *testing.T) {
	for wait, writes := range map[time.Duration]int32{400 * time.Millisecond: 1, 600 * time.Millisecond: 2} {
		inScene(t, func(s *scene) {
			store := &counting{Memory: s.store}
			s.start()
			s.stop()
			var err error
			if s.book, err = subscriptions.Open(context.Background(), store); err != nil {
				t.Fatal(err)
			}
			s.in = New(Options{Book: s.book, Sender: s.apns, MaxAge: time.Hour, Log: zap.NewNop()})
			s.enrol("a", alice)
			s.enrol("b", alice)
			s.pass(time.Minute)
			s.apns.set(func() {
				s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
					<-time.After(time.Second) // APNs takes its time, and b's answer more
					if n.Device == "b" {
						<-time.After(wait)
					}
					return subscriptions.Answer{}
				}
			})
			before := store.n.Load()
			m := s.source.come(alice)
			s.pass(10 * time.Second)
			s.accepted(1, "a", m)
			s.accepted(1, "b", m)
			if n := store.n.Load() - before; n != writes {
				t.Errorf("%d writes of two answers %v apart, want %d", n, wait, writes)
			}
		})
	}
}

func TestLiveMailPassesADeviceBehindAndReachesAllOthersAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		devices := []string{"a", "b", "c"}
		for _, id := range devices {
			s.enrol(id, alice)
		}
		s.pass(time.Minute)
		for _, stuck := range devices {
			s.apns.hold(stuck, outcome.TopicAway, 0)
			s.source.come(alice)
			s.pass(time.Second)
			lists := s.source.lists
			m := s.source.come(alice)
			s.pass(10 * time.Millisecond)
			for _, id := range devices {
				want := 1
				if id == stuck {
					want = 0
				}
				s.accepted(want, id, m)
			}
			if s.source.lists != lists {
				t.Errorf("%s is behind, and others had to catch up", stuck)
			}
			s.apns.set(func() { s.apns.answer = nil })
			s.in.TopicReady(topic, "production")
			s.pass(time.Second)
			s.inStep(alice)
		}
	})
}

// As many pushes to the phones of its topic are under way as there may be: the push waits, and much may happen meanwhile.
func TestAPushThatWaitedForItsPlaceIsNotBegunForAPhoneThatLeftNorAtTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *scene)
		pushes    int
	}{
		"nothing":              {func(*scene) {}, 1},
		"the device leaves":    {func(s *scene) { s.remove("a") }, 0},
		"its token changes":    {func(s *scene) { s.enrolToken("a", alice, "another token") }, 1}, // by its catch-up
		"mailbell is stopping": {func(s *scene) { s.in.stopping.Store(true) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				p := s.in.pushersOf(app{topic, "production"})
				end := make(chan struct{})
				for range maxPushes {
					p.push(true, func() { <-end })
				}
				s.source.come(alice)
				s.pass(time.Second)
				c.meanwhile(s)
				close(end)
				s.pass(10 * time.Second)
				if s.apns.calls != c.pushes {
					t.Errorf("%d pushes were begun, want %d", s.apns.calls, c.pushes)
				}
			})
		})
	}
}

func TestADeviceThatMayBeTriedAgainAtOnceIsTriedFourTimesASecond(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		var tries atomic.Int32
		s.apns.set(func() {
			s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
				if tries.Add(1) > 20 {
					return subscriptions.Answer{}
				}
				return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Throttled, Next: time.Now()}
			}
		})
		m := s.source.come(alice)
		s.pass(time.Second - time.Millisecond)
		if n := tries.Load(); n < 3 || n > 4 {
			t.Errorf("%d tries within a second", n)
		}
		s.pass(time.Minute)
		s.accepted(1, "a", m)
	})
}

func TestASummaryCameWhenItsNewestMessageCame(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(60 * time.Hour)
		s.stop()
		var newest *message
		s.source.quietly(func() {
			s.source.come(alice, receivedAt(ago(5*time.Hour)))
			newest = s.source.come(alice, receivedAt(ago(2*time.Hour)))
			s.source.come(alice, receivedAt(ago(3*time.Hour)))
		})
		s.start()
		s.pass(time.Minute)
		found := false
		for _, d := range s.decisions(alice) {
			if d.Outcome == outcome.Accepted {
				found = true
				if !d.Came.Equal(newest.received) || d.Key != s.key("a", newest) || d.At.IsZero() {
					t.Errorf("%+v; the newest came at %v", d, newest.received)
				}
			}
		}
		if !found {
			t.Error("nothing was accepted")
		}
	})
}

func TestAMoveToAnotherEnvironmentIsLoggedOnceItIsWritten(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *scene)
		moved     bool
	}{
		"written":                {func(*scene) {}, true},
		"the token has changed":  {func(s *scene) { s.enrolToken("a", alice, "another token") }, false},
		"it could not be":        {func(s *scene) { s.store.Fail(errors.New("redis is away")) }, false},
		"the device has left it": {func(s *scene) { s.remove("a") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("b", alice)
				s.pass(time.Minute)
				core, logs := observer.New(zap.InfoLevel)
				s.in.log = zap.New(core)
				m := s.mailbox(alice)
				d, _ := m.box.Device("a")
				was := d.Phone()
				c.meanwhile(s)
				m.moveEnrolment(was, "sandbox")
				s.store.Fail(nil)
				if n := logs.FilterMessageSnippet("wrong environment").Len(); (n == 1) != c.moved {
					t.Errorf("said %d times", n)
				}
				for _, id := range []string{"a", "b"} {
					if d, ok := s.book.Device(id); ok && (d.Environment == "sandbox") != (id == "a" && c.moved) {
						t.Errorf("%s is in %s", id, d.Environment)
					}
				}
			})
		})
	}
}

func TestADeviceThatIsGoneAndCannotBeRemovedIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		logs int
	}{"removed": {nil, 0}, "not removed": {errors.New("redis is away"), 1}} {
		inScene(t, func(s *scene) {
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute)
			core, logs := observer.New(zap.ErrorLevel)
			s.in.log = zap.New(core)
			s.in.o.Unenrol = func(context.Context, subscriptions.Device, outcome.Reason) error { return c.err }
			s.apns.set(func() {
				s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
					return subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered"}
				}
			})
			s.source.come(alice)
			s.pass(time.Second)
			if logs.Len() != c.logs {
				t.Errorf("%s: %v", name, logs.All())
			}
		})
	}
}

func TestAnAlertThatEndsWithoutAcceptanceIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		answer subscriptions.Answer
		told   bool
	}{
		"accepted":  {subscriptions.Answer{Result: subscriptions.Accepted, Status: 200}, false},
		"refused":   {subscriptions.Answer{Result: subscriptions.Refused, Reason: "BadTopic", Status: 400}, true},
		"gone":      {subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered", Status: 410}, true},
		"throttled": {subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Throttled, Status: 429, Next: time.Now().Add(time.Hour)}, false},
	} {
		inScene(t, func(s *scene) {
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute)
			var told []string
			var reason outcome.Reason
			s.in.o.Lost = func(d subscriptions.Device, of subscriptions.Decision) {
				told = append(told, fmt.Sprint(d.ID, " ", d.Mailbox, " ", of.Device, " ", of.Reason, " ", of.Status))
			}
			s.in.o.Unenrol = func(_ context.Context, _ subscriptions.Device, r outcome.Reason) error {
				reason = r
				return nil
			}
			s.apns.set(func() {
				s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer { return c.answer }
			})
			s.source.come(alice)
			s.pass(time.Second)
			want := []string{fmt.Sprint("a ", alice, " a ", c.answer.Reason, " ", c.answer.Status)}
			if !c.told {
				want = nil
			}
			if !slices.Equal(told, want) {
				t.Errorf("%s: told %q, want %q", name, told, want)
			}
			if c.answer.Result == subscriptions.Gone && reason != c.answer.Reason {
				t.Errorf("%s: removed for %q", name, reason)
			}
		})
	}
}

func TestARoundWithoutADeviceIsOverAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		r := newRound(s.in.accepting)
		began := time.Now()
		s.mailbox(alice).pushAll(context.Background(), r, nil)
		if time.Since(began) > 0 || r.open() {
			t.Errorf("it took %v, and is open: %v", time.Since(began), r.open())
		}
	})
}
