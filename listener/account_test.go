package listener

// What is wrong with a listener account, who may try it, and when.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

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

func TestOneCallerAtATimeTriesWhetherAnAccountWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{log: zap.NewNop()}
		refused := row("HTTP 401", "")
		_ = a.note(refused)
		if err := a.allowed(); err == nil || fault.Of(err).After > firstBlock || fault.Of(err).After <= 0 || refused.After != row("HTTP 401", "").After {
			t.Errorf("it is free, or does not say for how long it is not: %v", err)
		}
		<-time.After(firstBlock)
		if a.allowed() != nil {
			t.Error("nobody may try")
		}
		if a.allowed() == nil {
			t.Error("a second caller tries meanwhile")
		}
		<-time.After(probe)
		if a.allowed() != nil {
			t.Error("the one who tried has not come back, and nobody else may try")
		}
		_ = a.note(nil)
		for range 2 {
			if a.allowed() != nil {
				t.Error("it works, and is not free")
			}
		}
	})
}

func TestABlockGrowsToFourMinutesAndIsAsLongAsAPolicySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{log: zap.NewNop()}
		for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, maxBlock, maxBlock} {
			_ = a.note(row("HTTP 401", ""))
			if _, next := a.state(); time.Until(next) != want {
				t.Errorf("%v, want %v", time.Until(next), want)
			}
		}
		_ = a.note(row("HTTP 403", ""))
		if _, next := a.state(); time.Until(next) != time.Hour {
			t.Errorf("a policy: %v", time.Until(next))
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
		a := &account{log: zap.NewNop()}
		_ = a.note(row("HTTP 401", ""))
		if err := a.note(c.err); !errors.Is(err, c.err) {
			t.Errorf("%s became %v", name, err)
		}
		if ends := a.allowed() == nil; ends != c.ends {
			t.Errorf("%s ends the block: %v", name, ends)
		}
	}
}

// A stream was opened with the credential of then: its end does not say that the one of now is accepted.
func TestTheEndOfAStreamDoesNotEndABlockAndARefusalInOneBeginsIt(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		blocked bool // before
		want    bool
	}{
		"cut":     {row("cut", ""), true, true},
		"denied":  {row("ErrorAccessDenied", ""), false, true},
		"nothing": {row("ErrorSubscriptionNotFound", ""), false, false},
	} {
		a := &account{Account: &Account{Streams: refusing{err: c.err}}, log: zap.NewNop()}
		s, err := guarded{a}.Stream(t.Context(), mail.Location{}, streaming.Affinity{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.blocked {
			_ = a.note(row("HTTP 401", ""))
		}
		if _, err := s.Next(); !errors.Is(err, c.err) {
			t.Errorf("%s became %v", name, err)
		}
		if f, _ := a.state(); (f != nil) != c.want {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestNoCallIsMadeWithAnAccountThatIsBlocked(t *testing.T) {
	a := &account{Account: &Account{}, log: zap.NewNop()} // a call would be one of nil
	_ = a.note(row("HTTP 401", ""))
	k := &link{account: a}
	g := guarded{a}
	_, err1 := k.Read(t.Context(), []string{"item"})
	_, err2 := k.List(t.Context(), 0, 50)
	_, _, err3 := g.Subscribe(t.Context(), mail.Location{}, streaming.Affinity{})
	_, err4 := g.Stream(t.Context(), mail.Location{}, streaming.Affinity{}, nil)
	err5 := g.Unsubscribe(t.Context(), mail.Location{}, "id")
	err6 := a.locate(t.Context(), alice).err
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
	inScene(t, func(s *scene) {
		s.start()
		accounts := func(n int) (list []Account) {
			for i := range n {
				list = append(list, Account{Name: fmt.Sprint(i), Source: s.hq, Streams: s.hq})
			}
			return list
		}
		core, logs := observer.New(zap.WarnLevel)
		l := New(Options{Book: s.book, Inbox: s.in, Log: zap.New(core), Entries: []Entry{{Name: "one", Accounts: accounts(10)}, {Name: "two", Accounts: accounts(5)}}})
		defer l.Close()
		load := l.Load()
		if n, m := len(load[0].Accounts), len(load[1].Accounts); n != 10 || m != 2 {
			t.Errorf("%d and %d accounts", n, m)
		}
		if all := logs.All(); len(all) != 1 || all[0].ContextMap()["unused"] != int64(3) {
			t.Errorf("%v", all)
		}
	})
}

func TestAnAccountThatCannotWorkIsNotAskedWhereMailboxesLive(t *testing.T) {
	one, two := &account{Account: &Account{Name: "one"}, log: zap.NewNop()}, &account{Account: &Account{Name: "two"}, log: zap.NewNop()}
	e := &entry{accounts: []*account{one, two}}
	if a, b := e.asker(""), e.asker(""); a == b {
		t.Error("they do not take turns")
	}
	if e.asker("two") != two {
		t.Error("the one that the mailbox had is not asked")
	}
	_ = two.note(row("HTTP 401", ""))
	for range 4 {
		if e.asker("") != one || e.asker("two") != one {
			t.Error("one that cannot work is asked")
		}
	}
	_ = one.note(row("HTTP 401", ""))
	if e.asker("two") != two {
		t.Error("where none can work, the one that the mailbox had tries")
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
