package listener

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// What cannot be listened to is polling while it is listed, and failing where it is neither.
func TestAMailboxThatIsNotListenedToIsPolledWhileItCanBeListed(t *testing.T) {
	group := &fault.Error{Op: "test", Code: "group", Scope: fault.Group, Remedy: fault.Wait, After: time.Hour}
	account := &fault.Error{Op: "test", Code: "account", Scope: fault.Account, Remedy: fault.Fix, After: time.Hour}
	denied := row("ErrorImpersonateUserDenied", "")
	for name, c := range map[string]struct {
		subscribe, all error
		want           subscriptions.State
		why            string
	}{
		"it may not be subscribed":            {denied, nil, subscriptions.Polling, "ErrorImpersonateUserDenied"},
		"it may not be subscribed nor listed": {nil, denied, subscriptions.Failing, "ErrorImpersonateUserDenied"},
		"its group has trouble":               {group, nil, subscriptions.Polling, "group"},
		"its account has trouble":             {account, nil, subscriptions.Failing, "account"},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hq.subFail, s.hq.fails = map[string]error{alice: c.subscribe}, c.all
				s.start()
				s.enrol("a", alice)
				s.pass(10 * time.Second)
				st := s.wantState(c.want, alice)
				if !strings.Contains(st.Reason, c.why) || st.Next.Before(time.Now()) || !st.LastHeartbeat.IsZero() {
					t.Errorf("%+v", st)
				}
				if n := s.l.Count(); n[c.want] != 1 {
					t.Errorf("%v", n)
				}
			})
		})
	}
}

// failing is a membership that says why it does not listen.
type failing struct {
	membership
	f *fault.Error
}

func (f failing) Failing() (*fault.Error, time.Time) { return f.f, time.Now().Add(time.Minute) }

func TestWhoseErrorItIsDecidesWhetherAMailboxIsPolled(t *testing.T) {
	for _, c := range []struct {
		scope  fault.Scope
		listed bool
		want   subscriptions.State
	}{
		{fault.Mailbox, true, subscriptions.Polling}, {fault.Mailbox, false, subscriptions.Failing},
		{fault.Group, true, subscriptions.Polling}, {fault.Group, false, subscriptions.Polling},
		{fault.Account, true, subscriptions.Failing}, {fault.Account, false, subscriptions.Failing},
		{fault.Server, true, subscriptions.Failing}, {fault.Server, false, subscriptions.Failing},
	} {
		inScene(t, func(s *scene) {
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute)
			if !c.listed {
				s.hq.set(func() { s.hq.onList = func(string, int) { <-time.After(time.Minute) } })
				s.mailbox(alice).work.List()
			}
			k := &link{m: s.mailbox(alice), member: failing{f: &fault.Error{Code: "code", Scope: c.scope}}}
			if got, reason, next, why := k.state(); why == nil || got != c.want || !strings.Contains(reason, "code") || next.IsZero() {
				t.Errorf("%s, listed %v: %s (%s)", c.scope, c.listed, got, reason)
			}
			s.pass(2 * time.Minute)
		})
	}
}

func TestAMailboxWithoutALocationSaysWhatItWaitsFor(t *testing.T) {
	hq := &entry{Entry: &Entry{Name: "hq"}}
	one := &account{Account: &Account{Name: "one"}}
	why := &fault.Error{Op: "look-up", Code: "code", Text: "text"}
	failed := failure{why: why}
	asked := []*entry{hq}
	for name, c := range map[string]struct {
		m                         *mailbox
		state                     subscriptions.State
		exchange, account, reason string
	}{
		"nobody was asked yet": {&mailbox{}, subscriptions.Resolving, "", "", ""},
		"there is no room":     {&mailbox{entry: hq}, subscriptions.WaitingForCapacity, "hq", "", words(hq.full())},
		"it has a seat":        {&mailbox{entry: hq, account: one}, subscriptions.Resolving, "hq", "one", ""},
		"its first one failed": {&mailbox{quest: &quest{failure: failed}}, subscriptions.Failing, "", "", why.Error()},
		"its look-up failed":   {&mailbox{quest: &quest{failure: failure{why: why, where: hq}, asked: asked}}, subscriptions.Failing, "hq", "", why.Error()},
		"it keeps its seat": {&mailbox{quest: &quest{failure: failed, asked: asked}, entry: hq, account: one},
			subscriptions.Failing, "hq", "one", why.Error()},
		"nobody covers it": {&mailbox{quest: &quest{failure: failed, asked: []*entry{}}}, subscriptions.Failing, "", "", "code: text"},
		"it is out of scope": {&mailbox{quest: &quest{failure: failure{why: why, where: hq, outOfScope: true}, asked: asked}},
			subscriptions.OutOfScope, "hq", "", "code: text"},
	} {
		got := c.m.standing()
		if got.State != c.state || got.Exchange != c.exchange || got.Account != c.account || got.Reason != c.reason {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestADeviceStandsAsItsMailboxDoesOrBehind(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("behind", alice)
		s.pass(time.Minute)
		s.apns.hold("behind")
		s.hq.come(alice)
		s.pass(time.Minute)
		box := s.book.Mailbox(alice)
		if got := s.l.Standing(box, "a"); got.State != subscriptions.Listening {
			t.Errorf("a is %s", got.State)
		}
		if got := s.l.Standing(box, "behind"); got.State != subscriptions.BehindState || got.Reason != "topic_away" {
			t.Errorf("the other is %s: %s", got.State, got.Reason)
		}
		s.remove("a")
		s.remove("behind")
		if got := s.l.Standing(box, "a"); got.State != subscriptions.Resolving {
			t.Errorf("without a mailbox: %s", got.State)
		}
		if st := s.l.Status(box); st.State != subscriptions.Resolving {
			t.Errorf("%+v", st)
		}
	})
}

func TestATryWhoseTimeHasComeIsNotToldAsTheNext(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		m := s.l.mailbox(s.book.Mailbox(alice))
		for wait, want := range map[time.Duration]bool{time.Minute: true, 0: false, -time.Minute: false} {
			next := time.Now().Add(wait)
			m.mu.Lock()
			m.quest = &quest{failure: failure{why: row("ErrorServerBusy", ""), next: next}}
			m.mu.Unlock()
			if got := m.standing().Next; got.Equal(next) != want || got.IsZero() == want {
				t.Errorf("in %v: %v", wait, got)
			}
		}
		m.mu.Lock()
		m.quest = nil
		m.mu.Unlock()
	})
}

func TestMailboxesAreCountedByStateAndStreamsWithTheirHints(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.stop()
		registry := prometheus.NewRegistry()
		s.in = inbox.New(inbox.Options{Book: s.book, Sender: s.apns, MaxAge: time.Hour, Log: zap.NewNop()})
		s.l = New(Options{Book: s.book, Inbox: s.in, Log: zap.NewNop(), Metrics: registry, Entries: []Entry{{
			Name: "hq", Domains: []string{"contoso.example"}, URL: hqURL, MailboxesPerAccount: 10, SubscriptionsPerConnection: 10, SafetyPoll: time.Hour,
			Accounts: []Account{{Name: "listener-01", Source: s.hq, Streams: s.hq}}}}})
		s.l.Start()
		s.pass(time.Minute)
		s.hq.come(alice)
		s.pass(time.Minute)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		for name, want := range map[string]float64{"mailbell_mailboxes listening": 1, "mailbell_mailboxes failing": 0, "mailbell_streams": 1, "mailbell_hints_total": 1} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v, want %v (%v)", name, v, want, ok)
			}
		}
	})
}
