package listener

// Look-ups harm nobody but whom they are for: they have workers of their own, a bound, and an end.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// autodiscover is a Finder that takes its time, and counts who asks at once.
type autodiscover struct {
	takes     time.Duration
	now, most atomic.Int32
}

func (f *autodiscover) Find(ctx context.Context, address string) (mail.Location, error) {
	f.most.Store(max(f.most.Load(), f.now.Add(1)))
	defer f.now.Add(-1)
	if !pause.For(ctx, f.takes) {
		return mail.Location{}, ctx.Err()
	}
	return mail.Location{Entry: "hq", URL: hqURL, Primary: address, Found: time.Now()}, nil
}

func TestNoMoreMailboxesOfAnEntryAreLookedUpAtOnceThanMayBe(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &autodiscover{takes: time.Second}
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		s.start()
		for i := range 3 * maxLookups {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		if n := f.most.Load(); n != maxLookups {
			t.Errorf("%d at once, want %d", n, maxLookups)
		}
		s.listening("hq", address(0), address(3*maxLookups-1))
	})
}

func TestLookUpsThatHangHoldNoMailboxWhoseLocationIsKnownAndNoOtherEntry(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &autodiscover{}
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		s.second("other").homes["olga@fabrikam.example"] = true
		s.also[0].Domains = []string{"fabrikam.example"}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		f.takes = 24 * time.Hour
		for i := range 2 * maxLookups {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.stop()
		s.start()
		s.pass(3 * time.Second)
		s.listening("hq", alice)
		s.enrol("o", "olga@fabrikam.example")
		s.pass(3 * time.Second)
		s.listening("other", "olga@fabrikam.example")
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		s.wantState(subscriptions.Resolving, address(0), address(2*maxLookups-1))
		if s.l.Placed() {
			t.Error("it says that every mailbox has been looked up")
		}
	})
}

// slow is a store that takes its time, and counts the locations that are written at once.
type slow struct {
	*storetest.Memory
	now, most atomic.Int32
}

func (w *slow) Write(ctx context.Context, c subscriptions.Change) error {
	if c.Put[0].Subscription == "" {
		w.most.Store(max(w.most.Load(), w.now.Add(1)))
		defer w.now.Add(-1)
	}
	<-time.After(10 * time.Millisecond)
	return w.Memory.Write(ctx, c)
}

func TestAStartPlacesNoMoreMailboxesAtOnceThanMayBe(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 3 * maxKnown {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		s.stop()
		s.entry = func(e *Entry) { e.Accounts[0].Name = "another" } // each record is written
		store := &slow{Memory: s.store}
		s.start()
		s.stop()
		book, err := subscriptions.Open(s.t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		s.entry = func(e *Entry) { e.Accounts[0].Name = "and another" }
		s.open(book)
		<-time.After(25 * time.Millisecond)
		if n := store.most.Load(); n != maxKnown {
			t.Errorf("%d writes at once, want %d", n, maxKnown)
		}
		s.pass(time.Minute)
		s.listening("hq", address(0), address(3*maxKnown-1))
	})
}

func TestAStopDoesNotWaitForALookUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", &autodiscover{takes: time.Hour} }
		s.start()
		for i := range maxLookups + 1 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		began := time.Now()
		s.stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAMailboxThatLosesItsDeviceWhileItIsLookedUpLeavesNothingBehind(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", &autodiscover{takes: time.Minute} }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		s.remove("a")
		s.enrol("again", alice)
		s.pass(time.Second)
		s.remove("again")
		s.pass(5 * time.Minute)
		a := s.l.Load()[0].Accounts[0]
		if a.Mailboxes != 0 || a.Streams != 0 || len(s.hq.alive()) > 0 || len(s.l.mailboxes()) > 0 {
			t.Errorf("%+v, %d subscriptions", a, len(s.hq.alive()))
		}
	})
}

// A device is enrolled just when following its mailbox has ended for want of one, and before all of that is cleaned up.
func TestAMailboxThatGetsADeviceWhileItLosesItsLastOneIsRead(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		m := s.mailbox(alice)
		m.mu.Lock() // it gets no further than this
		var removed sync.WaitGroup
		removed.Go(func() { s.remove("a") })
		for s.l.following() > 0 {
			runtime.Gosched()
		}
		_, _, err := s.l.Enrol(context.Background(), enrolment("b", alice, "token-of-b"), nil)
		m.mu.Unlock()
		removed.Wait()
		if err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		mail := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "b", mail)
	})
}

// A look-up waits behind others that hang while its mailbox loses its last device and gets another, which knows the location from the record.
func TestALookUpThatCameTooLateTakesNothingFromTheNext(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", &autodiscover{} }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.apns.stuck = map[string]int{"a": 0} // what is in flight keeps the mailbox open
		s.hq.come(alice)
		s.pass(time.Second)
		late, q := s.mailbox(alice), s.l.entries[0].lookups
		q.most = 0
		late.relocate(late.linked())
		s.remove("a")
		s.enrol("b", alice)
		s.pass(2 * time.Second)
		kept := s.record(alice).Subscription
		q.active, q.most = 1, maxLookups
		q.work(context.Background())
		if got := s.record(alice).Subscription; got != kept || kept == "" {
			t.Errorf("the record has the subscription %q, and had %q", got, kept)
		}
		if err := late.settle(context.Background(), s.l.entries[0].accounts[0], s.record(alice).Location()); err != nil || late.linked() != nil {
			t.Error("one that was under way has the mailbox read", err)
		}
		mail := s.hq.come(alice)
		s.pass(time.Minute)
		s.accepted(1, "b", mail)
	})
}

func TestMailboxesThatWereNotFoundTogetherAreNotLookedForAgainTogether(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hybrid()
		s.start()
		for i := range 20 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(10 * time.Minute)
		at := map[time.Time]bool{}
		for i := range 20 {
			at[s.wantState(subscriptions.Failing, address(i)).Next] = true
		}
		if len(at) < 18 {
			t.Errorf("20 mailboxes are looked for again at %d times", len(at))
		}
	})
}

func TestTheServiceStaysReadyOnceEveryMailboxWasLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &autodiscover{takes: 30 * time.Second}
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		if s.l.Placed() {
			t.Error("it is ready before its mailbox was looked up")
		}
		s.pass(2 * time.Minute)
		if !s.l.Placed() {
			t.Fatal("it is not ready")
		}
		s.enrol("b", bob)
		if !s.l.Placed() {
			t.Error("an enrolment makes a running service unready while Autodiscover is asked")
		}
		s.pass(2 * time.Minute)
	})
}

// A server that fails for an hour may have lost its mailboxes to another.
func TestAServerThatFailsForMoreThanAnHourHasItsMailboxesLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		looks := hq.looked()
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		hq.end(errReset)
		s.pass(58 * time.Minute)
		if hq.looked() > looks {
			t.Error("it is looked up within the hour")
		}
		s.pass(10 * time.Minute)
		if hq.looked() == looks {
			t.Error("it is not looked up")
		}
		hq.set(func() { hq.fails = nil })
		s.pass(6 * time.Minute)
		s.listening("hq", alice)
	})
}

// While nobody knows where it lives, it is not read where it lived.
func TestAMailboxIsNotReadWhileItIsLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		hq.set(func() { hq.onLook = func(string) { <-time.After(10 * time.Second) } })
		hq.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(time.Second)
		lists := hq.listings()
		s.mailbox(alice).work.List()
		s.pass(5 * time.Second)
		if hq.listings() != lists {
			t.Error("it was listed")
		}
		s.pass(10 * time.Second)
		s.listening("hq", alice)
	})
}

func TestASubscriptionThatWasGivenBackIsNotUsedWhereItsMailboxIsFoundAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		old, streams := s.record(alice).Subscription, len(hq.opened())
		hq.reports(old, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(10 * time.Second)
		s.listening("hq", alice)
		if !slices.Contains(hq.givenBack(), old) {
			t.Errorf("given back: %v", hq.givenBack())
		}
		for _, st := range hq.opened()[streams:] {
			if slices.Contains(st.ids, old) {
				t.Error("a stream was opened with it")
			}
		}
	})
}

func TestALocationThatWasDoubtedBeforeARestartIsNotTrustedAfterIt(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		hq.set(func() { hq.onLook = func(string) { <-time.After(10 * time.Second) } })
		hq.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(time.Second)
		s.stop()
		hq.set(func() { hq.onLook = nil })
		hq.move(alice, cloud)
		tries := hq.subscribed()
		s.start()
		s.pass(time.Second)
		s.listening("cloud", alice)
		if hq.subscribed() != tries {
			t.Error("it was subscribed where it was doubted")
		}
	})
}

func TestAccountsAreFilledOneAfterTheOtherAndMailboxesKeepTheirs(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) {
			e.MailboxesPerAccount = 3
			e.Accounts = append(e.Accounts, Account{Name: "listener-02", Source: s.hq, Streams: s.hq}, Account{Name: "listener-03", Source: s.hq, Streams: s.hq})
		}
		s.start()
		for i := range 7 {
			s.enrol(fmt.Sprint("d", i), address(i))
			s.pass(time.Second)
		}
		accounts := map[int]string{}
		for i := range 7 {
			accounts[i] = s.status(address(i)).Account
		}
		for i, want := range []int{3, 3, 1} {
			if n := s.l.Load()[0].Accounts[i].Mailboxes; n != want {
				t.Errorf("account %d has %d mailboxes, want %d", i, n, want)
			}
		}
		tries := s.hq.subscribed()
		s.stop()
		s.start()
		s.pass(time.Minute)
		for i := range 7 {
			if got := s.status(address(i)).Account; got != accounts[i] {
				t.Errorf("%s went from %s to %s", address(i), accounts[i], got)
			}
		}
		if s.hq.subscribed() != tries {
			t.Errorf("%d new subscriptions", s.hq.subscribed()-tries)
		}
	})
}

func TestAMailboxGetsRoomAtAnyAccountThatHasSomeAndRatherAtItsOwn(t *testing.T) {
	one, two := &account{Account: &Account{Name: "one"}}, &account{Account: &Account{Name: "two"}}
	s := newSeats([]*account{one, two}, 2, 200)
	for i, c := range []struct {
		had  string
		want *account
	}{{"two", two}, {"one", one}, {"", one}, {"one", two}, {"two", nil}} {
		if got := s.take(&mailbox{}, c.had, grouping{}); got != c.want {
			t.Errorf("%d: who had %q gets %v, want %v", i, c.had, got, c.want)
		}
	}
	if s.taken(one) != 2 || s.taken(two) != 2 || s.queue() != 1 {
		t.Errorf("%d and %d mailboxes, %d wait", s.taken(one), s.taken(two), s.queue())
	}
}

func TestAnErrorOfALocationIsTriedAgainWhenThatMayBeDoubted(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Second)
		k := s.mailbox(alice).linked()
		unknown, busy := row("ErrorNonExistentMailbox", ""), row("ErrorServerBusy", "")
		judged := func(err error, remedy fault.Remedy, after time.Duration) {
			t.Helper()
			if f := fault.Of(k.judge(err)); f.Remedy != remedy || f.After != after {
				t.Errorf("%s: %s, after %v; want %s, %v", f.Code, f.Remedy, f.After, remedy, after)
			}
		}
		judged(unknown, fault.Wait, 20*time.Second)
		s.pass(18 * time.Second)
		judged(unknown, fault.Wait, leastWait)
		judged(busy, fault.Wait, busy.After)
		s.pass(3 * time.Second)
		hq.move(alice, cloud)
		judged(unknown, fault.Retry, 0)
		s.pass(5 * time.Second)
		s.listening("cloud", alice)
		judged(busy, fault.Retry, 0) // the answer of a call that began before
		if unknown.Remedy != fault.Fix || busy.After == 0 {
			t.Error("the error of others was changed")
		}
	})
}

// contradictory is an Exchange whose look-ups name another server than its other answers.
type contradictory struct{ *exchange }

func (c contradictory) Look(ctx context.Context, at mail.Location) (string, error) {
	_, err := c.exchange.Look(ctx, at)
	return "ex01", err
}

func TestAnswersThatContradictALookUpDoNotHaveTheNextOneMadeAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.servers = map[string]string{alice: "ex02"}
		s.entry = func(e *Entry) {
			e.MailboxServers, e.Accounts[0].Source = []string{"ex01"}, contradictory{s.hq}
		}
		s.start()
		s.enrol("a", alice)
		for range 60 {
			s.hq.come(alice)
			s.pass(10 * time.Second)
		}
		if n := s.hq.looked(); n < 5 || n > 21 {
			t.Errorf("%d look-ups in ten minutes", n)
		}
	})
}

// The record cannot say that its location is doubted: it is asked for all the same.
func TestALocationIsDoubtedAlsoWhereThatCannotBeWrittenDown(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.store.Fail(io.ErrUnexpectedEOF)
		hq.move(alice, cloud)
		hq.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(time.Second)
		if cloud.looked() == 0 {
			t.Error("it is taken to live where it was doubted")
		}
		s.store.Fail(nil)
		s.pass(time.Minute)
		s.listening("cloud", alice)
	})
}

func TestTheStateIsBlamedForWhatCannotBeWrittenDown(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.store.Fail(io.ErrUnexpectedEOF)
		s.pass(time.Minute)
		for address, standing := range s.l.Faulty() {
			if address != alice || standing.Fault.Peer != fault.StateStore || !errors.Is(standing.Fault, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %v", address, standing.Fault)
			}
		}
		if n := len(maps.Collect(s.l.Faulty())); n != 1 {
			t.Errorf("%d mailboxes are faulty", n)
		}
		s.store.Fail(nil)
		s.pass(time.Minute)
		s.listening("hq", alice)
	})
}

func TestAMailboxThatIsFoundAgainWhereItCannotBeSubscribedIsNotAskedForMoreOften(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		hq.subFail = map[string]error{alice: row("ErrorReadEventsFailed", "")}
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Minute)
		if n := hq.subscribed(); n > 30 {
			t.Errorf("%d calls of Subscribe within ten minutes", n)
		}
	})
}

func TestAMailboxThatHasADeviceIsNotLeft(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.l.unfollow(s.book.Mailbox(alice)) // its last device has gone, and another has come since
		s.listening("hq", alice)
	})
}

// Its last device may leave between an enrolment and the following of its mailbox.
func TestAMailboxWithoutADeviceIsNotFollowed(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		box := s.book.Mailbox(alice)
		s.remove("a")
		if m, known := s.l.follow(box); m != nil || known || s.l.following() != 0 {
			t.Errorf("%d mailboxes are followed", s.l.following())
		}
	})
}
