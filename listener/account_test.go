package listener

// What is wrong with a listener account, who may try it, and when.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// refusing is a streaming.Server whose streams bring an error.
type refusing struct {
	streaming.Server
	err error
}

func (r refusing) Stream(context.Context, mail.Location, streaming.Affinity, []string) (streaming.Stream, error) {
	return r, nil
}
func (r refusing) Next() (streaming.Envelope, error) { return streaming.Envelope{}, r.err }
func (r refusing) Close() error                      { return nil }

// healthOf is the health of an account with so many mailboxes, and how often its block was lifted.
func healthOf(mailboxes int) (h *health, lifted *int) {
	lifted = new(int)
	return &health{log: zap.NewNop(), mailboxes: func() int { return mailboxes }, lifted: func() { *lifted++ }}, lifted
}

// refuseAll has an account blocked: enough mailboxes are refused, and those that may try although it is blocked are too.
func refuseAll(h *health, f *fault.Error) {
	for i := range 2 * witnesses {
		if h.allowed(address(i)) == nil {
			_ = h.call(address(i)).note(f)
		}
	}
}

func TestWhatOneMailboxMeetsIsItsOwn(t *testing.T) {
	for _, code := range []string{"HTTP 401", "HTTP 403", "ErrorAccessDenied", "redirect", "HTTP 502"} {
		h, _ := healthOf(1250)
		err := h.call(alice).note(row(code, ""))
		if f := fault.Of(err); f.Scope == fault.Account || h.allowed(bob) != nil || h.allowed(alice) != nil {
			t.Errorf("%s of one mailbox stops its account: %v", code, err)
		}
		if pause := fault.Of(err).Pause(1); pause > time.Minute {
			t.Errorf("%s is asked about again in %v only", code, pause)
		}
	}
}

func TestThreeOfEightRefusedWhileFiveSucceedAreThreeMailboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := healthOf(8)
		for range 20 {
			for i := range 8 {
				if err := h.allowed(address(i)); err != nil {
					t.Fatal(i, err)
				}
				if i%3 == 0 {
					_ = h.call(address(i)).note(row("HTTP 403", ""))
				} else {
					_ = h.call(address(i)).note(nil)
				}
			}
			<-time.After(time.Second)
		}
	})
}

func TestWhatSeveralMeetWhileNoneIsLetInIsTheAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, lifted := healthOf(1250)
		_ = h.call(alice).note(row("HTTP 403", ""))
		<-time.After(window + 1)
		for i := range witnesses {
			if f, _ := h.state(); f != nil || h.allowed(address(i)) != nil {
				t.Fatalf("blocked after %d within %v", i, window)
			}
			_ = h.call(address(i)).note(row("HTTP 403", ""))
			if i == 0 {
				<-time.After(window)
			}
		}
		if h.allowed(address(0)) == nil {
			t.Error("one that was refused may try")
		}
		if f, _ := h.state(); f == nil {
			t.Fatal("it is not blocked")
		}
		if h.allowed(bob) != nil || h.allowed(carol) == nil {
			t.Error("not one of those that were not refused may try at a time")
		}
		_ = h.call(bob).note(nil)
		if h.allowed(address(0)) != nil || *lifted != 1 {
			t.Error("a success does not lift it at once")
		}
	})
}

func TestWhatAMailboxMetAloneIsNoEvidenceForTwoHours(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration
		blocked bool
	}{"until then": {ownFor - 1, false}, "then": {ownFor, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := healthOf(1250)
				refused := row("HTTP 403", "")
				_ = h.call(alice).note(refused)
				_ = h.call(bob).note(nil)
				for range 5 { // each time it is asked about, that is known again
					<-time.After(time.Hour)
					_ = h.call(alice).note(refused)
				}
				<-time.After(c.after)
				for i := range witnesses - 1 {
					_ = h.call(address(i)).note(refused)
				}
				_ = h.call(alice).note(refused)
				if f, _ := h.state(); (f != nil) != c.blocked {
					t.Errorf("after %v the account is blocked: %v", c.after, f)
				}
			})
		})
	}
}

func TestWhoWasRefusedAloneTriesABlockedAccountLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := healthOf(1250)
		_ = h.call(alice).note(row("HTTP 403", ""))
		_ = h.call(bob).note(nil)
		refuseAll(h, row("HTTP 401", ""))
		wait := func() time.Duration { return fault.Of(h.allowed(alice)).After }
		if wait() != firstBlock+probe {
			t.Errorf("it may try in %v, want %v after the others", wait(), probe)
		}
		<-time.After(firstBlock)
		if wait() != probe {
			t.Errorf("it may try in %v", wait())
		}
		<-time.After(probe)
		if err := h.allowed(alice); err != nil {
			t.Errorf("nobody else has tried: %v", err)
		}
	})
}

// A tenant switches EWS off. What was under way then says that nobody's refusal is its own, and that the account works.
func TestAnAnswerSaysNothingOfWhatOthersHaveMetSinceItsCallBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, lifted := healthOf(4)
		off := row("HTTP 403", "")
		early, late := h.call(address(0)), h.call(address(0)) // under way when the first is refused
		<-time.After(time.Second)
		for i := range 4 {
			_ = h.call(address(i)).note(off)
			if i == 1 {
				_ = early.note(nil)
			}
		}
		_ = late.note(nil)
		if f, _ := h.state(); f == nil || *lifted != 0 || len(h.own) > 0 {
			t.Errorf("blocked: %v, lifted %d times, refused by themselves: %v", f, *lifted, h.own)
		}
		<-time.After(firstBlock)
		_ = h.call(address(0)).note(nil)
		if f, _ := h.state(); f != nil || *lifted != 1 {
			t.Errorf("it works, and is blocked: %v, lifted %d times", f, *lifted)
		}
	})
}

func TestABlockIsLoggedOnceEachTimeThatTheAccountIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		h, _ := healthOf(1250)
		h.log = zap.New(core)
		_ = h.call(address(0)).note(row("HTTP 401", ""))
		if logs.Len() != 0 {
			t.Errorf("one mailbox was refused: %v", logs.All())
		}
		refuseAll(h, row("HTTP 401", ""))
		if logs.Len() != 1 {
			t.Errorf("%d errors for a block", logs.Len())
		}
		<-time.After(firstBlock)
		_ = h.allowed(alice)
		_ = h.call(alice).note(row("HTTP 401", ""))
		if logs.Len() != 2 {
			t.Errorf("%d errors after the first try", logs.Len())
		}
	})
}

func TestMailboxesThatAreRefusedSilenceNoneOfTheOthers(t *testing.T) {
	for _, code := range []string{"HTTP 401", "HTTP 403", "redirect", "HTTP 502"} {
		t.Run(code, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				for i := range 8 {
					s.enrol(fmt.Sprint("d", i), address(i))
				}
				s.pass(time.Minute)
				s.hq.set(func() {
					s.hq.sick = map[string]error{}
					for i := range 3 { // the anchor is among them
						s.hq.sick[address(i)] = row(code, "")
					}
				})
				for range 3 {
					s.hq.end(errReset)
					for i := range 8 {
						s.hq.come(address(i))
					}
					s.pass(5 * time.Second)
					for i := 3; i < 8; i++ {
						s.wantState(subscriptions.Listening, address(i))
						s.accepted(1, fmt.Sprint("d", i), s.hq.boxes[address(i)].items...)
					}
				}
				s.hq.set(func() { s.hq.sick = nil })
				s.pass(5 * time.Minute)
				for i := range 8 {
					s.wantState(subscriptions.Listening, address(i))
					s.accepted(1, fmt.Sprint("d", i), s.hq.boxes[address(i)].items...)
				}
			})
		})
	}
}

func TestATestThatPassesWakesWhatWaits(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		s.hq.set(func() { s.hq.fails = row("HTTP 403", "") })
		s.hq.end(errReset)
		a, b := s.hq.come(alice), s.hq.come(bob)
		s.pass(30 * time.Minute)
		s.wantState(subscriptions.Failing, alice, bob)
		s.hq.set(func() { s.hq.fails = nil })
		if _, err := s.l.Locate(t.Context(), alice, ""); err != nil {
			t.Errorf("a test does not ask a blocked account: %v", err)
		}
		s.l.Worked(alice)
		s.pass(5 * time.Second)
		s.accepted(1, "a", a)
		s.accepted(1, "b", b)
		s.listening("hq", alice, bob)
	})
}

// Of three mailboxes one is refused by itself, or was until it was removed. Then the account is.
func TestWhoIsRefusedAloneIsNotWaitedForAsAWitness(t *testing.T) {
	for name, c := range map[string]struct {
		after     time.Duration
		witnesses int
	}{"it is here": {time.Minute, 2}, "it was removed long ago": {ownFor, 3}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := healthOf(3)
				_ = h.call(alice).note(row("HTTP 403", ""))
				_ = h.call(bob).note(nil)
				<-time.After(c.after)
				for i := range c.witnesses {
					if f, _ := h.state(); f != nil {
						t.Errorf("it is blocked after %d", i)
					}
					_ = h.call(address(i)).note(row("HTTP 403", ""))
				}
				if f, _ := h.state(); f == nil {
					t.Errorf("%d were refused, and it is not blocked", c.witnesses)
				}
			})
		})
	}
}

func TestAnAccountOfOneMailboxNeedsNoMoreWitnesses(t *testing.T) {
	h, _ := healthOf(1)
	_ = h.call(alice).note(row("HTTP 401", ""))
	if f, _ := h.state(); f == nil {
		t.Error("it is not said to be refused")
	}
}

// Whoever enrols and removes phones for years, for mailboxes that are never let in, does not fill the memory. Those that were refused long ago
// are forgotten first.
func TestNoMoreRefusedMailboxesAreRememberedThanAnInstanceListensTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := healthOf(1250)
		refuse := func(from, to int) {
			for i := from; i < to; i++ {
				_ = h.call(address(i)).note(row("HTTP 403", ""))
			}
			_ = h.call(alice).note(nil)
		}
		refuse(0, maxRefused)
		<-time.After(ownFor / 2)
		refuse(maxRefused, 2*maxRefused)
		if len(h.own) != maxRefused {
			t.Errorf("%d mailboxes are remembered", len(h.own))
		}
		<-time.After(ownFor / 2)
		refuse(maxRefused, maxRefused+1)
		if _, ok := h.own[address(maxRefused)]; !ok || len(h.own) != 1 {
			t.Errorf("of those that were refused long ago %d are remembered", len(h.own))
		}
		for i := range 2 * maxRefused { // while nobody is let in
			_ = h.call(address(i)).note(row("HTTP 403", ""))
		}
		if len(h.refused) > maxRefused {
			t.Errorf("%d refusals are remembered", len(h.refused))
		}
	})
}

func TestOneCallerAtATimeTriesWhetherAnAccountWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := healthOf(1250)
		refused := row("HTTP 401", "")
		refuseAll(h, refused)
		if err := h.allowed(bob); err == nil || fault.Of(err).After > firstBlock || fault.Of(err).After <= 0 || refused.After != row("HTTP 401", "").After {
			t.Errorf("it is free, or does not say for how long it is not: %v", err)
		}
		<-time.After(firstBlock)
		if h.allowed(alice) != nil {
			t.Error("nobody may try")
		}
		if h.allowed(bob) == nil {
			t.Error("a second caller tries meanwhile")
		}
		<-time.After(probe)
		if h.allowed(bob) != nil {
			t.Error("the one who tried has not come back, and nobody else may try")
		}
		_ = h.call(bob).note(nil)
		for range 2 {
			if h.allowed(alice) != nil {
				t.Error("it works, and is not free")
			}
		}
	})
}

func TestABlockGrowsToFourMinutesAndAPolicyIsAskedWithinMinutesBeforeItIsHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := &fault.Error{Code: "asks for as long as that", Scope: fault.Account, After: maxBlock}
		for f, last := range map[*fault.Error]time.Duration{row("HTTP 401", ""): maxBlock, row("HTTP 403", ""): time.Hour, soon: maxBlock} {
			h, _ := healthOf(1250)
			refuseAll(h, f)
			for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, maxBlock, last, last} {
				_, next := h.state()
				if time.Until(next) != want {
					t.Errorf("%s: %v, want %v", f.Code, time.Until(next), want)
				}
				<-time.After(time.Until(next))
				if err := h.allowed(alice); err != nil {
					t.Error(err)
				}
				_ = h.call(alice).note(f)
			}
		}
	})
}

func TestOnlyWhatTheServerSaysEndsABlock(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		ends bool
	}{
		"success":                  {nil, true},
		"an error of the mailbox":  {row("ErrorImpersonateUserDenied", ""), true},
		"an error of the server":   {row("HTTP 503", ""), false},
		"our own end":              {fmt.Errorf("Subscribe: %w", context.Canceled), false},
		"a call that was given up": {fmt.Errorf("Subscribe: %w", context.DeadlineExceeded), false},
	} {
		h, _ := healthOf(1250)
		refuseAll(h, row("HTTP 401", ""))
		if err := h.call(alice).note(c.err); !errors.Is(err, c.err) {
			t.Errorf("%s became %v", name, err)
		}
		if ends := h.allowed(alice) == nil; ends != c.ends {
			t.Errorf("%s ends the block: %v", name, ends)
		}
	}
}

// blockable is an account of one mailbox: one refusal blocks it.
func blockable(a *Account) *account {
	h, _ := healthOf(1)
	look, _ := healthOf(1)
	n := &account{Account: a, entry: &entry{Entry: &Entry{Name: "hq", URL: hqURL}}, log: zap.NewNop(), finding: look}
	n.byEWS = &way{account: n, source: a.Source, calls: h}
	return n
}

func TestARefusalOfAutodiscoverHoldsLookUpsOnly(t *testing.T) {
	a := blockable(&Account{Finder: refusingFinder{}})
	a.entry.URL = ""
	found := a.locate(t.Context(), alice, false)
	if found.err == nil || found.err.Code != "HTTP 401" {
		t.Fatal(found.err)
	}
	if f, _ := a.finding.state(); f == nil {
		t.Error("look-ups are not held")
	}
	if err := a.byEWS.calls.allowed(alice); err != nil {
		t.Errorf("EWS is held too: %v", err)
	}
}

// refusingFinder is an Autodiscover that does not accept the password.
type refusingFinder struct{}

func (refusingFinder) Find(context.Context, string) (mail.Location, error) {
	return mail.Location{}, row("HTTP 401", "")
}

// A stream was opened with the credential of then: its end does not say that the one of now is accepted.
func TestTheEndOfAStreamDoesNotEndABlockAndARefusalInOneBeginsIt(t *testing.T) {
	for name, c := range map[string]struct {
		err     *fault.Error
		blocked bool // before
		want    bool
	}{
		"cut":     {row("cut", ""), true, true},
		"denied":  {row("ErrorAccessDenied", ""), false, true},
		"nothing": {row("ErrorSubscriptionNotFound", ""), false, false},
	} {
		a := blockable(&Account{Streams: refusing{err: c.err}})
		s, err := guarded{a}.Stream(t.Context(), mail.Location{}, streaming.Affinity{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.blocked {
			_ = a.byEWS.calls.call(alice).note(row("HTTP 401", ""))
		}
		if _, err := s.Next(); fault.Of(err).Code != c.err.Code {
			t.Errorf("%s became %v", name, err)
		}
		if f, _ := a.byEWS.calls.state(); (f != nil) != c.want {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestNoCallIsMadeWithAnAccountThatIsBlocked(t *testing.T) {
	a := blockable(&Account{}) // a call would be one of nil
	_ = a.byEWS.calls.call(alice).note(row("HTTP 401", ""))
	a.byEWS.calls.trials = 0
	a.entry.MailboxServers = []string{"mbx1"}
	k := &link{way: a.byEWS, at: &mail.Location{}}
	g := guarded{a}
	_, err1 := k.Read(t.Context(), []string{"item"})
	_, err2 := k.List(t.Context(), inbox.Part{Limit: 50})
	_, _, err3 := g.Subscribe(t.Context(), mail.Location{}, streaming.Affinity{})
	_, err4 := g.Stream(t.Context(), mail.Location{}, streaming.Affinity{}, nil)
	err5 := g.Unsubscribe(t.Context(), mail.Location{}, streaming.Affinity{}, "id")
	err6 := a.locate(t.Context(), alice, false).err
	for i, err := range []error{err1, err2, err3, err4, err5, err6} {
		if fault.Of(err).Code != "HTTP 401" {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestAWrongPasswordIsTriedByOneAtATimeAndHealsWithinFiveMinutes(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 100 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Second)
		calls := 0
		s.hq.set(func() {
			s.hq.fails = denied("HTTP 401", fault.Account, fault.Fix)
			s.hq.onList = func(string, int) { s.hq.set(func() { calls++ }) }
		})
		s.hq.end(errReset)
		s.pass(time.Hour)
		h := s.wantState(subscriptions.Failing, address(0))
		if !strings.Contains(h.Reason, "401") || h.Next.IsZero() || time.Until(h.Next) > 6*time.Minute {
			t.Errorf("reason %q, next try in %v", h.Reason, time.Until(h.Next))
		}
		if calls > 130 { // those under way at the beginning, and then one at a time
			t.Errorf("%d sign-ins failed within an hour: the account would be locked out", calls)
		}
		var all []*message
		for i := range 100 {
			all = append(all, s.hq.come(address(i)))
		}
		s.hq.set(func() { s.hq.fails = nil })
		s.pass(7 * time.Minute)
		for i, m := range all {
			s.wantState(subscriptions.Listening, address(i))
			s.accepted(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestANewCredentialIsTriedAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 20 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		refused := row("ErrorAccessDenied", "") // hourly
		s.hq.set(func() { s.hq.fails = refused })
		s.hq.end(errReset)
		s.enrol("new", bob)
		s.pass(90 * time.Minute)
		s.wantState(subscriptions.Failing, address(0))
		if a := s.l.Load()[0].Accounts[0]; a.Blocked == nil || a.Blocked.Code != "ErrorAccessDenied" || a.Next.IsZero() || a.Streams != 0 || a.Mailboxes != 21 {
			t.Errorf("%+v", a)
		}
		var all []*message
		for i := range 20 {
			all = append(all, s.hq.come(address(i)))
		}
		s.hq.set(func() { s.hq.fails = nil })
		s.l.AccountChanged("hq", "listener-01")
		s.pass(10 * time.Second)
		s.listening("hq", bob)
		for i, m := range all {
			s.listening("hq", address(i))
			s.accepted(1, fmt.Sprint("d", i), m)
		}
		if a := s.l.Load()[0].Accounts[0]; a.Blocked != nil || a.Streams != 1 {
			t.Errorf("%+v", a)
		}
	})
}

func TestANewCredentialIsThatOfItsAccountAndOfNoOther(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		both := []Account{{Name: "one", Source: s.hq, Streams: s.hq}, {Name: "two", Source: s.hq, Streams: s.hq}}
		l := New(Options{Book: s.book, Inbox: s.in, Log: zap.NewNop(), Entries: []Entry{{Name: "hq", Accounts: both}, {Name: "cloud", Accounts: both}}})
		defer l.Close()
		for _, e := range l.entries {
			for _, a := range e.accounts {
				_ = a.byEWS.calls.call(alice).note(row("HTTP 401", ""))
				_ = a.finding.call(alice).note(row("HTTP 401", ""))
			}
		}
		l.AccountChanged("hq", "two")
		for _, load := range l.Load() {
			for _, a := range load.Accounts {
				changed := load.Exchange == "hq" && a.Name == "two"
				if (a.Blocked == nil) != changed || (a.Finding == nil) != changed || a.Next.IsZero() != changed {
					t.Errorf("%s of %s: %+v", a.Name, load.Exchange, a)
				}
			}
		}
	})
}

func TestANewCredentialOfTheEntryThatIsAskedPlacesItsMailboxesAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		hq.fails = row("ErrorAccessDenied", "")
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.wantState(subscriptions.Failing, alice)
		hq.set(func() { hq.fails = nil })
		s.l.AccountChanged("hq", "listener-01")
		s.pass(5 * time.Second)
		s.listening("hq", alice)
	})
}

func TestANewCredentialOfAnEntryThatIsOnlyAskedPlacesTheMailboxesOfTheOthers(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		cloud.homes[alice] = true
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.listening("cloud", alice)
		hq.set(func() { hq.fails = row("ErrorAccessDenied", "") })
		cloud.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(10 * time.Minute)
		s.wantState(subscriptions.Failing, alice)
		hq.set(func() { hq.fails = nil })
		s.l.AccountChanged("hq", "listener-01")
		s.pass(10 * time.Second)
		s.listening("cloud", alice)
	})
}

func TestAnotherProxyIsTriedAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		refusal := &fault.Error{Op: "connect", Code: "proxy", Scope: fault.Server, Remedy: fault.Fix, After: time.Hour}
		s.hq.fails = refusal
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Minute)
		if h := s.status(alice); h.State == subscriptions.Listening {
			t.Fatalf("listened to through a proxy that refuses")
		}
		s.hq.set(func() { s.hq.fails = nil })
		m := s.hq.come(alice)
		s.l.ConnectionsChanged()
		s.pass(time.Second)
		s.accepted(1, "a", m)
		if h := s.status(alice); h.State != subscriptions.Listening {
			t.Errorf("%s, %s", h.State, h.Reason)
		}
	})
}

func TestAnInstanceOwnsTwelveAccountsAndSaysHowManyItLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		has, owns []int
		full      string // what a mailbox of the last entry is told that finds no room
	}{
		"as many as there may be":          {[]int{10, 2}, []int{10, 2}, "every listener account of 1 has its 0 mailboxes"},
		"more":                             {[]int{10, 5}, []int{10, 2}, "every listener account of 1 has its 0 mailboxes; 3 more are not used, for an instance owns 12 at most"},
		"no entry takes all of another's":  {[]int{12, 12, 1}, []int{10, 1, 1}, "every listener account of 2 has its 0 mailboxes"},
		"more entries than there may be":   {slices.Repeat([]int{2}, 13), append(slices.Repeat([]int{1}, 12), 0), "no listener account of 12 is used: an instance owns 12 at most, and other entries have them"},
		"an entry without accounts is not": {[]int{0, 1}, []int{0, 1}, "every listener account of 1 has its 0 mailboxes"},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				core, logs := observer.New(zap.WarnLevel)
				o := Options{Book: s.book, Inbox: s.in, Log: zap.New(core)}
				unused := int64(0)
				for i, n := range c.has {
					e := Entry{Name: fmt.Sprint(i)}
					for range n {
						e.Accounts = append(e.Accounts, Account{Name: fmt.Sprint(i, len(e.Accounts)), Source: s.hq, Streams: s.hq})
					}
					o.Entries = append(o.Entries, e)
					unused += int64(n - c.owns[i])
				}
				l := New(o)
				defer l.Close()
				for i, load := range l.Load() {
					if n := len(load.Accounts); n != c.owns[i] {
						t.Errorf("%d accounts of entry %d are owned, want %d", n, i, c.owns[i])
					}
				}
				for _, said := range logs.All() {
					unused -= said.ContextMap()["unused"].(int64)
				}
				if unused != 0 {
					t.Errorf("%d accounts too few or too many are said to be left unused: %v", unused, logs.All())
				}
				if text := l.entries[len(l.entries)-1].full().Text; text != c.full {
					t.Errorf("%q, want %q", text, c.full)
				}
			})
		})
	}
}

func TestAnAccountThatCannotWorkIsNotAskedWhereMailboxesLive(t *testing.T) {
	one, two := blockable(&Account{Name: "one"}), blockable(&Account{Name: "two"})
	e := &entry{Entry: &Entry{URL: hqURL}, accounts: []*account{one, two}}
	if a, b := e.asker("", mail.EWS), e.asker("", mail.EWS); a == b {
		t.Error("they do not take turns")
	}
	if e.asker("two", mail.EWS) != two {
		t.Error("the one that the mailbox had is not asked")
	}
	_ = two.byEWS.calls.call(alice).note(row("HTTP 401", ""))
	for range 4 {
		if e.asker("", mail.EWS) != one || e.asker("two", mail.EWS) != one {
			t.Error("one that cannot work is asked")
		}
	}
	_ = one.byEWS.calls.call(alice).note(row("HTTP 401", ""))
	if e.asker("two", mail.EWS) != two {
		t.Error("where none can work, the one that the mailbox had tries")
	}
	one.byEWS.calls.unblock()
	two.byEWS.calls.unblock()
	_ = two.finding.call(alice).note(row("HTTP 401", ""))
	if e.asker("two", mail.EWS) != two {
		t.Error("one that Autodiscover refuses is not asked, although nobody has to ask Autodiscover")
	}
	two.entry.URL = ""
	if e.asker("two", mail.EWS) != one {
		t.Error("one that Autodiscover refuses is asked")
	}
}

func TestTheAccountsAfterOneThatCannotWorkAreAskedInTheirOrder(t *testing.T) {
	e := &entry{Entry: &Entry{URL: hqURL}}
	for i := range 3 {
		e.accounts = append(e.accounts, blockable(&Account{Name: fmt.Sprint(i)}))
	}
	for i, a := range e.accounts {
		for range 2 {
			if got := e.asker(a.Name, mail.EWS); got != a {
				t.Errorf("%s is asked for a mailbox of %s", got.Name, a.Name)
			}
		}
		_ = a.byEWS.calls.call(alice).note(row("HTTP 401", ""))
		if got, want := e.asker(a.Name, mail.EWS), e.accounts[(i+1)%3]; got != want {
			t.Errorf("%s is asked where %s cannot work, want %s", got.Name, a.Name, want.Name)
		}
		a.byEWS.calls.unblock()
	}
}

func TestANewCredentialDoesNotHaveLookedForWhatIsUnknown(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		s.start()
		s.enrol("a", alice)
		s.pass(10 * time.Minute)
		looks := hq.looked() + cloud.looked()
		s.l.AccountChanged("hq", "listener-01")
		s.l.ConnectionsChanged()
		s.pass(time.Minute)
		if n := hq.looked() + cloud.looked() - looks; n > 0 {
			t.Errorf("%d look-ups for a mailbox that nobody has", n)
		}
	})
}

func TestWhatFailedForAServerIsTriedOnceItsStreamsAreOpenAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.hq.set(func() {
			s.hq.readFail = &fault.Error{Op: "test", Code: "away", Scope: fault.Server, Remedy: fault.Fix, After: time.Hour}
		})
		m := s.hq.come(alice)
		s.pass(time.Minute)
		s.wantState(subscriptions.Failing, alice)
		s.hq.set(func() { s.hq.readFail = nil })
		s.hq.end(io.EOF)
		s.pass(2 * time.Second)
		s.accepted(1, "a", m)
	})
}
