package listener

// What once went wrong, and must not again.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// An answer may come after the round was closed and before its outcome is written (here: the write is being tried again).
func TestAnAnswerThatComesWhileTheOutcomeIsBeingWrittenIsKept(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", alice)
		w.pass(time.Minute)
		w.apns.answer = func(_ context.Context, d subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
			if d.ID == "a" {
				return subscriptions.Answer{Result: subscriptions.Accepted, At: time.Now()}
			}
			return subscriptions.Answer{}
		}
		w.apns.delay = 1900 * time.Millisecond // b's answer; a's comes at once, so that the outcome is first written at 500 ms, and then every 300 ms
		w.store.Fail(errors.New("redis is away for a moment"))
		m := w.ex.come(alice)
		w.pass(1800 * time.Millisecond)
		w.store.Fail(nil)
		w.pass(time.Minute)
		w.rang(1, "b", m)
	})
}

// A store may answer and take no writes: a full disk, a Redis at its maxmemory.
func TestNothingIsRungWhileTheStoreAnswersAndTakesNoWrites(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 20 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Minute)
		w.store.Fail(errors.New("no space left on device"))
		rang := 0
		var all []*message
		for i := range 20 {
			m := w.ex.come(address(i))
			all = append(all, m)
			w.pass(time.Second)
			rang += len(w.apns.pushes(fmt.Sprint("d", i), w.key(fmt.Sprint("d", i), m)))
		}
		if rang > 1 {
			t.Errorf("%d rang that cannot be written down", rang)
		}
		w.store.Fail(nil)
		w.pass(time.Minute)
		for i, m := range all {
			w.rang(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestACatchUpRingsNothingThatCannotBeWrittenDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		release := w.apns.hold("a", "topic_away", 0)
		for range 10 {
			w.ex.come(alice)
		}
		w.pass(time.Minute)
		w.store.Fail(errors.New("redis is away"))
		w.store.Close()
		_ = w.book.Mailbox(alice).Update(t.Context(), func(*subscriptions.Draft) {}) // any write: it is known to be away
		release()
		w.l.TopicReady("com.contoso.mail", "production")
		w.pass(time.Minute)
		if n := len(w.apns.got["a"]); n > 0 {
			t.Errorf("%d rang while the state was away: a kill now rings them again", n)
		}
		w.kill()
		w.start()
		w.pass(time.Minute)
	})
}

// Leaving one mailbox and joining another is one write.
func TestARefusedChangeOfMailboxLeavesTheEnrolmentAsItWas(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		for i := range subscriptions.MaxDevices {
			if _, err := w.book.Enrol(t.Context(), subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: bob, Token: fmt.Sprint(i)}, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		w.pass(time.Minute)
		_, _, err := w.l.Enrol(t.Context(), subscriptions.Enrolment{ID: "a", Mailbox: bob, Token: "token-of-a", Topic: "com.contoso.mail", Environment: "production"})
		if err == nil {
			t.Fatal("it was not refused")
		}
		if _, ok := w.book.Device("a"); !ok {
			t.Error("the refused request has removed the enrolment that the device had")
		}
		w.pass(24 * time.Hour)
		if n := len(w.l.boxes); n != 0 && w.book.Mailbox(alice) == nil {
			t.Errorf("%d mailbox is still heard that has no device and no record; unsubscribed: %d", n, len(w.ex.unsubs))
		}
	})
}

func subscribeError(code string, relocate bool, r fault.Remedy, after time.Duration) error {
	return &ews.Error{Fault: &fault.Error{Op: "Subscribe", Code: code, Scope: fault.Mailbox, Remedy: r, After: after},
		Row: ews.Row{Code: code, Scope: fault.Mailbox, Remedy: r, Relocate: relocate}}
}

func TestAMailboxThatMovedAndCannotBeSubscribedIsPolled(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &finder{url: "https://old.contoso.example/EWS/Exchange.asmx"}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		moving := subscribeError("ErrorMailboxMoveInProgress", true, fault.Wait, 4*time.Minute)
		w.ex.subFail = map[string]error{alice: moving}
		w.ex.fails = moving // while it moves it can neither be subscribed nor listed
		w.enrol("a", alice)
		w.pass(9 * time.Minute) // the second failure: it is looked up again
		f.set(func() { f.url = "https://new.contoso.example/EWS/Exchange.asmx" })
		w.ex.set(func() { // it has arrived, and the new server lets it be read, and not subscribed
			w.ex.fails = nil
			w.ex.subFail[alice] = subscribeError("ErrorExceededSubscriptionCount", false, fault.Wait, 30*time.Minute)
		})
		m := w.ex.come(alice)
		w.pass(12 * time.Hour)
		if h := w.state(alice); h.State != subscriptions.Polling {
			t.Errorf("%s: %s; last listing %v", h.State, h.Reason, h.LastListing)
		}
		if n := len(w.apns.pushes("a", w.key("a", m))); n == 0 {
			t.Error("its mail rang nowhere within 12 hours")
		}
	})
}

func TestTriesOfAnItemThatWasReadAreForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		for range maxHints {
			m := w.ex.come(alice, func(m *message) { m.unreadable = true })
			w.pass(time.Second)
			w.ex.mend(m)
			w.pass(10 * time.Minute)
			w.rang(1, "a", m)
		}
		if n := len(w.l.boxes[w.book.Mailbox(alice)].tries); n > 0 {
			t.Errorf("%d tries are kept of items that were read long ago", n)
		}
		m := w.ex.come(alice, func(m *message) { m.unreadable = true })
		w.pass(time.Second)
		if n := len(w.apns.got["a"]); n > maxHints {
			t.Error("it rang generically at its first failure")
		}
		w.ex.mend(m)
		w.pass(time.Hour)
	})
}

func TestASubscriptionThatCannotBeWrittenDownIsNotMadeAgainAndAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		w.ex.set(func() {
			w.ex.subFail = map[string]error{alice: subscribeError("ErrorServerBusy", false, fault.Retry, 0)}
		})
		w.enrol("b", bob) // keeps the stream: see the test of a spoilt one
		w.pass(time.Second)
		w.ex.forget(alice)
		w.pass(time.Second)
		w.store.Fail(errors.New("redis is away"))
		w.ex.set(func() { w.ex.subFail = nil })
		var tries, made, back int
		w.ex.set(func() { tries = w.ex.tries })
		w.pass(10 * time.Minute)
		w.store.Fail(nil)
		w.pass(time.Minute)
		w.ex.set(func() { made, back = w.ex.tries-tries, len(w.ex.unsubs) })
		if made-back > 2 {
			t.Errorf("%d subscriptions were made in ten minutes for one mailbox, %d given back", made, back)
		}
	})
}

type slowFinder struct{ finder }

func (f *slowFinder) Find(ctx context.Context, address string) (mail.Location, error) {
	pause.For(ctx, 30*time.Second)
	return f.finder.Find(ctx, address)
}

// A stream may be spoilt, stay open and have nobody left to hear. In real time: where the group's loop spins, the fake clock
// stands still for ever.
func TestAGroupWithoutASubscriptionAndWithASpoiltStreamRests(t *testing.T) {
	ex := &exchange{boxes: map[string]*inbox{}}
	store := &storetest.Memory{}
	book, err := subscriptions.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	l := New(Options{Book: book, Ringer: &apns{t: t, got: map[string]map[string][]push{}, flying: map[string]bool{}, killed: make(chan struct{})}, MaxAge: time.Hour, Log: zap.NewNop(), Entries: []Entry{{
		Name: "hq", Domains: []string{"contoso.example"}, URL: "https://mail.contoso.example/EWS/Exchange.asmx", MailboxesPerAccount: 10, SubscriptionsPerConnection: 200,
		SafetyPoll: time.Hour, Accounts: []Account{{Name: "listener-01", Source: ex}}}}})
	defer l.Close()
	l.Start()
	if _, _, err := l.Enrol(t.Context(), subscriptions.Enrolment{ID: "a", Mailbox: alice, Token: "a", Topic: "t", Environment: "production"}); err != nil {
		t.Fatal(err)
	}
	<-time.After(500 * time.Millisecond)
	ex.set(func() {
		ex.subFail = map[string]error{alice: subscribeError("ErrorServerBusy", false, fault.Wait, 5*time.Minute)}
	})
	ex.forget(alice) // the server says so in the stream, which stays open
	<-time.After(500 * time.Millisecond)
	before := cpu(t)
	<-time.After(time.Second)
	if used := cpu(t) - before; used > 300*time.Millisecond {
		t.Errorf("%v of CPU in a second in which nothing was to be done", used)
	}
}

func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestTheFirstPlacementIsMadeOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &slowFinder{finder: finder{url: "https://mail.contoso.example/EWS/Exchange.asmx"}}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		w.enrol("a", alice)
		w.pass(2 * time.Minute)
		if !w.l.Placed() {
			t.Fatal("not placed")
		}
		w.enrol("b", bob)
		if !w.l.Placed() {
			t.Error("an enrolment makes a running service unready while Autodiscover is asked")
		}
		w.pass(2 * time.Minute)
	})
}

// A mailbox that is joined to another brings devices that have been rung for what the other's log holds.
func TestAMailboxThatWasRenamedAndJoinedRingsNothingAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		const renamed = "alice.smith@contoso.example"
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		w.enrol("a", alice)
		w.pass(25 * time.Hour)
		f.set(func() { f.primary[alice] = renamed }) // the old address stays as another one; the portal enrols a second phone under the new one
		w.enrol("b", renamed)
		w.pass(time.Minute)
		var all []*message
		for range 3 {
			m := w.ex.come(alice)
			other := *m
			w.ex.come(renamed, func(n *message) { *n = other })
			all = append(all, m)
			w.pass(time.Minute)
		}
		count := func() (n int) {
			for _, pushes := range w.apns.got["a"] {
				n += len(pushes)
			}
			return n
		}
		if count() != len(all) {
			t.Fatalf("a has %d", count())
		}
		w.stop()
		w.start() // the place of alice is a day old: she is looked up, and joined
		w.pass(time.Minute)
		if w.book.Mailbox(alice) != w.book.Mailbox(renamed) {
			t.Fatal("not joined")
		}
		if n := count(); n != len(all) {
			t.Errorf("a was rung %d times for %d messages", n, len(all))
		}
	})
}

// hanging is a store that hangs as a Redis does that takes connections and answers nothing: each write takes a second here, and
// five in truth.
type hanging struct {
	*storetest.Memory
	hangs atomic.Bool
	n     atomic.Int32
}

func (h *hanging) Write(ctx context.Context, c subscriptions.Change) error {
	if !h.hangs.Load() {
		return h.Memory.Write(ctx, c)
	}
	if ctx.Err() != nil && h.n.Add(1)%2 == 0 {
		return ctx.Err()
	}
	<-time.After(time.Second)
	return errors.New("i/o timeout")
}

// The network is gone: neither APNs nor Redis answers, and each late answer wants its write, one after the other. In real time,
// for a mutex that is waited for stops the fake clock.
func TestAStopIsBoundedWhereNothingAnswers(t *testing.T) {
	store, ex := &hanging{Memory: &storetest.Memory{}}, &exchange{boxes: map[string]*inbox{}}
	book, err := subscriptions.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	silent := &apns{t: t, got: map[string]map[string][]push{}, flying: map[string]bool{}, killed: make(chan struct{})}
	silent.answer = func(ctx context.Context, _ subscriptions.Device, _ subscriptions.Bell) subscriptions.Answer {
		<-ctx.Done()
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered", Next: time.Now()}
	}
	l := New(Options{Book: book, Ringer: silent, MaxAge: time.Hour, Log: zap.NewNop(), Entries: []Entry{{
		Name: "hq", Domains: []string{"contoso.example"}, URL: "https://mail.contoso.example/EWS/Exchange.asmx", MailboxesPerAccount: 10, SubscriptionsPerConnection: 200,
		SafetyPoll: time.Hour, Accounts: []Account{{Name: "listener-01", Source: ex}}}}})
	l.grace = time.Second
	l.Start()
	for i := range 20 {
		id := fmt.Sprint("d", i)
		if _, _, err := l.Enrol(t.Context(), subscriptions.Enrolment{ID: id, Mailbox: alice, Token: id, Topic: "t", Environment: "production"}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(time.Second)
	ex.come(alice)
	<-time.After(patience + time.Second) // its outcome is written
	store.hangs.Store(true)
	begin := time.Now()
	l.Close()
	if took := time.Since(begin); took > l.grace+3*time.Second {
		t.Errorf("with writes that take a second each, closing took %v; they take five", took.Round(time.Second))
	}
}

// A long listing reads live mail between its batches: what that has rung is not summed up too.
func TestAMessageHintedWhileItsListingIsDealtWithIsNotSummedUpToo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(60 * time.Hour)
		w.stop()
		var fresh []*message
		var old *message
		w.ex.quietly(func() {
			for i := range 2 * batch {
				fresh = append(fresh, w.ex.come(alice, at(ago(time.Duration(i)*time.Minute))))
			}
			old = w.ex.come(alice, at(ago(3*time.Hour)))
		})
		w.apns.set(func() { w.apns.delay = 100 * time.Millisecond })
		w.start()
		w.pass(50 * time.Millisecond)
		w.ex.hint(alice, old)
		w.pass(time.Minute)
		w.rang(1, "a", fresh...)
		w.rang(1, "a", old)
		if p := w.apns.pushes("a", w.key("a", old)); p[0].summary {
			t.Error("the hint came too late to test anything")
		}
	})
}
