package callbacks

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/marks"
	"github.com/mailbell/mailbell/listener/refusal"
	"github.com/mailbell/mailbell/mail"
)

// Rule 11: subscribe, hear the first callback, list.
func TestAMailboxIsSubscribedThenItsFirstCallbackComesAndThenItIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.silent = true
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		if len(s.made()) != 1 || m.listens() || m.listings() > 0 || m.Awaits() != "callback: awaited" || m.failing() != "" {
			t.Fatalf("%d calls, listens %v, %d listings, %s", len(s.made()), m.listens(), m.listings(), m.Awaits())
		}
		s.status(alice)
		synctest.Wait()
		if !m.listens() || m.listings() != 1 {
			t.Errorf("listens %v, %d listings after the first callback", m.listens(), m.listings())
		}
		s.status(alice)
		pass(time.Minute)
		if m.listings() != 1 {
			t.Errorf("%d listings: it was listed already", m.listings())
		}
		s.tell(alice, "AAMk1", "AAMk2")
		if told := m.told(); !slices.Equal(told, []string{"AAMk1", "AAMk2"}) {
			t.Errorf("told of %v", told)
		}
		if m.listings() != 1 {
			t.Errorf("%d listings: nothing was lost", m.listings())
		}
	})
}

func TestAFirstCallbackThatComesBeforeTheAnswerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.early = true
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		if !m.listens() || m.listings() != 1 || s.sub(alice).ended {
			t.Errorf("listens %v, %d listings, ended %v", m.listens(), m.listings(), s.sub(alice).ended)
		}
	})
}

func TestACallbackThatDoesNotComeIsSaidWithTheURLAndWithoutTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		s := newServer()
		s.silent = true
		a := newAccount(t, s)
		a.o.Log = zap.New(core)
		m := a.join(alice)[0]
		pass(firstCallback + time.Second)
		f, next := m.Failing()
		if f == nil || f.Code != CodeUnreached || m.listens() {
			t.Fatalf("%v, listens %v", f, m.listens())
		}
		for _, want := range []string{publicURL + Path, "firewall", "-InternetWebProxy", "certificate"} {
			if !strings.Contains(f.Text, want) {
				t.Errorf("%q does not name %s", f.Text, want)
			}
		}
		secret := s.made()[0].push.Secret
		if len(secret) < 22 {
			t.Errorf("the secret has %d characters: less than 128 bits", len(secret))
		}
		for _, e := range logs.All() {
			if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, secret) {
				t.Errorf("the secret is in the log: %s", text)
			}
		}
		if strings.Contains(f.Error(), secret) {
			t.Error("the secret is in the error")
		}
		if left := time.Until(next); left <= 0 || left > DefaultFrequency+firstCallback {
			t.Errorf("tried again in %v", left)
		}
		listed := m.listings()
		if listed != 1 {
			t.Errorf("%d listings: mail does not wait for the callback", listed)
		}
		pass(3 * time.Minute)
		if got := m.listings() - listed; got < 2 || got > 3 {
			t.Errorf("%d polls in three minutes", got)
		}
		s.set(func() { s.silent = false })
		pass(DefaultFrequency - 3*time.Minute - 2*time.Second)
		if n := len(s.made()); n != 1 {
			t.Errorf("%d subscriptions: the server may still repeat its post", n)
		}
		pass(firstCallback)
		if !m.listens() || m.failing() != "" || len(s.made()) != 2 {
			t.Errorf("listens %v, %s, %d calls: the server had given the post up", m.listens(), m.failing(), len(s.made()))
		}
	})
}

func TestAGapBetweenCallbacksHasTheMailboxListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		s.tell(alice, "AAMk1")
		if m.listings() != before {
			t.Fatalf("%d listings more without a gap", m.listings()-before)
		}
		s.lose(alice)
		s.tell(alice, "AAMk3")
		if m.listings() != before+1 || !slices.Equal(m.told(), []string{"AAMk1", "AAMk3"}) {
			t.Errorf("%d listings more after a gap, told of %v", m.listings()-before, m.told())
		}
	})
}

func TestACallbackThatIsRepeatedIsNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		s.tell(alice, "AAMk1")
		s.set(func() { s.subs[alice].mark-- }) // our answer was lost
		if w := s.post(s.sub(alice), "AAMk1"); w.Code != http.StatusOK || s.sub(alice).ended {
			t.Errorf("%d, ended %v", w.Code, s.sub(alice).ended)
		}
		s.tell(alice, "AAMk2")
		if m.listings() != before {
			t.Errorf("%d listings more", m.listings()-before)
		}
	})
}

func TestSilenceForTwiceTheStatusFrequencyHasTheMailboxSubscribedAnewAndListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		for range 5 {
			pass(DefaultFrequency)
			s.status(alice)
		}
		if len(s.made()) != 1 {
			t.Fatalf("%d subscriptions although it talked", len(s.made()))
		}
		old, before := s.sub(alice), m.listings()
		pass(2*DefaultFrequency - time.Second)
		if len(s.made()) != 1 || !m.listens() {
			t.Fatalf("%d subscriptions, listens %v: it is not silent for that long", len(s.made()), m.listens())
		}
		pass(2 * time.Second)
		if len(s.made()) != 2 || !m.listens() || m.listings() != before+1 {
			t.Errorf("%d subscriptions, listens %v, %d listings more", len(s.made()), m.listens(), m.listings()-before)
		}
		if first, second := s.made()[0].push, s.made()[1].push; first.Secret == second.Secret {
			t.Error("two subscriptions have one secret")
		}
		s.post(old, "AAMk9")
		if !old.ended {
			t.Error("the old subscription goes on")
		}
		if told := m.told(); len(told) > 0 {
			t.Errorf("the old subscription was believed: %v", told)
		}
	})
}

func TestAMailboxThatLeavesEndsItsSubscriptionAtTheNextCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		m.Leave()
		before := m.listings()
		s.tell(alice, "AAMk1")
		if !s.sub(alice).ended || len(m.told()) > 0 {
			t.Errorf("ended %v, told of %v", s.sub(alice).ended, m.told())
		}
		pass(time.Hour)
		if m.listings() != before || len(s.made()) != 1 {
			t.Errorf("%d listings and %d subscriptions more", m.listings()-before, len(s.made())-1)
		}
	})
}

func TestAMailboxThatLeavesWhileItIsSubscribedEndsThatToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait, s.silent = 5*time.Second, true
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		m.Leave()
		pass(10 * time.Second)
		s.tell(alice, "AAMk1")
		if !s.sub(alice).ended || m.box.Record().Subscription != "" {
			t.Errorf("ended %v, recorded %q", s.sub(alice).ended, m.box.Record().Subscription)
		}
	})
}

func TestARestartKeepsASubscriptionThatTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice, bob)
		pass(time.Minute)
		a.restart()
		s.tell(bob, "AAMk0") // before bob has joined
		if s.sub(bob).ended {
			t.Fatal("a subscription of the last start was ended")
		}
		list := a.join(alice, bob)
		pass(time.Second)
		if list[0].listings() != 1 || list[1].listings() != 1 {
			t.Errorf("%d and %d listings: both are listed at once", list[0].listings(), list[1].listings())
		}
		if list[0].listens() || !list[1].listens() {
			t.Errorf("alice listens %v, bob %v: only bob's callback came", list[0].listens(), list[1].listens())
		}
		s.tell(alice, "AAMk1")
		if !list[0].listens() || !slices.Equal(list[0].told(), []string{"AAMk1"}) {
			t.Errorf("alice listens %v, told of %v", list[0].listens(), list[0].told())
		}
		for range 12 {
			pass(DefaultFrequency)
			s.status(alice)
			s.status(bob)
		}
		if n := len(s.made()); n != 2 {
			t.Errorf("%d subscriptions, want the 2 of the first start", n)
		}
	})
}

func TestARestartReplacesASubscriptionThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice)
		pass(time.Minute)
		a.restart()
		m := a.join(alice)[0]
		pass(2*DefaultFrequency - time.Second)
		polls := m.listings()
		if m.listens() || len(s.made()) != 1 || polls < 8 {
			t.Fatalf("listens %v, %d subscriptions, %d listings", m.listens(), len(s.made()), polls)
		}
		pass(3 * time.Second)
		if !m.listens() || len(s.made()) != 2 {
			t.Errorf("listens %v, %d subscriptions", m.listens(), len(s.made()))
		}
	})
}

func TestASubscriptionOfTheLastStartEndsWhereItsMailboxHasNoDeviceAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice)
		pass(time.Minute)
		a.restart()
		if _, _, err := a.book.Remove(context.Background(), "phone-of-"+alice); err != nil {
			t.Fatal(err)
		}
		s.status(alice)
		if !s.sub(alice).ended {
			t.Error("it goes on")
		}
	})
}

func TestASubscriptionOfTheLastStartWhoseMailboxDoesNotJoinEndsAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice)
		pass(time.Minute)
		a.restart()
		pass(keptFor - time.Second)
		s.status(alice)
		if s.sub(alice).ended {
			t.Fatal("it ended too early")
		}
		pass(2 * time.Second)
		s.status(alice)
		if !s.sub(alice).ended {
			t.Error("it goes on")
		}
	})
}

func TestAServerWithoutWatermarksHasNoGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		bare := regexp.MustCompile(`<t:(Previous)?Watermark>[^<]*</t:(Previous)?Watermark>`)
		for i := range 10 {
			body := bare.ReplaceAllString(notification("sub-1", 7*i, 7*i+1, fmt.Sprint("AAMk", i)), "")
			if w := deliver(s.receiver, s.sub(alice).url, body); w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		if len(m.told()) != 10 || m.listings() != before {
			t.Errorf("told of %d, %d listings more", len(m.told()), m.listings()-before)
		}
	})
}

func TestAMailboxThatIsRefusedNotificationsIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(call) error { return refusalOf("ErrorExceededSubscriptionCount") }
		m := newAccount(t, s).join(alice)[0]
		pass(10*time.Minute + time.Second)
		if got := m.failing(); got != "ErrorExceededSubscriptionCount" {
			t.Errorf("failing: %q", got)
		}
		if n := m.listings(); n < 8 || n > 11 {
			t.Errorf("%d listings in ten minutes", n)
		}
		if n := len(s.made()); n != 1 {
			t.Errorf("%d subscriptions were tried", n)
		}
		s.set(func() { s.refuse = nil })
		pass(2 * time.Hour)
		if !m.listens() {
			t.Error("it is not listened to once it may be")
		}
	})
}

func TestASubscriptionThatDoesNotTellOfAMessageIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(5 * time.Minute)
		m.Unhinted(30 * time.Second) // its callback may be on its way
		m.Unhinted(time.Hour)        // from before
		pass(time.Second)
		if n := len(s.made()); n != 1 {
			t.Fatalf("%d subscriptions", n)
		}
		m.Unhinted(2 * time.Minute)
		pass(time.Second)
		if n := len(s.made()); n != 2 || !m.listens() {
			t.Errorf("%d subscriptions, listens %v", n, m.listens())
		}
	})
}

func TestAMailboxThatIsElsewhereLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(call) error { return refusalOf("ErrorNonExistentMailbox") }
		a := newAccount(t, s)
		a.verdict = func(*fault.Error) bool { return true }
		m := a.join(alice)[0]
		pass(2 * time.Hour)
		if m.doubts != 1 || len(s.made()) != 1 {
			t.Errorf("%d doubts, %d subscriptions", m.doubts, len(s.made()))
		}
		s.set(func() { s.refuse = nil })
		m.Join(here(alice))
		pass(time.Second)
		if !m.listens() {
			t.Error("it is not listened to where it is found again")
		}
	})
}

// What a server or an account says that it does not know is asked again once a listing shows the opposite; other refusals wait as they are.
func TestAMailboxThatWasListedAllTheSameIsSubscribedSoon(t *testing.T) {
	for name, test := range map[string]struct {
		fault fault.Error
		soon  bool
	}{
		"it was elsewhere":         {fault.Error{Elsewhere: true}, true},
		"nobody else has met it":   {fault.Error{Unproven: true}, true},
		"it has too many of them":  {fault.Error{}, false},
		"the server is being busy": {fault.Error{Moved: true}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			f := test.fault
			f.Op, f.Code, f.Scope, f.Remedy, f.After = "Subscribe", "ErrorX", fault.Mailbox, fault.Wait, 10*time.Minute
			s.refuse = func(call) error { return &f }
			m := newAccount(t, s).join(alice)[0]
			pass(time.Second)
			s.set(func() { s.refuse = nil })
			m.Listed()
			pass(refusal.MaxReturn)
			if m.listens() != test.soon {
				t.Errorf("%s: listens %v, want %v", name, m.listens(), test.soon)
			}
			m.Listed()
			if n := len(s.made()); test.soon && n != 2 {
				t.Errorf("%s: %d calls", name, n)
			}
		})
	}
}

func TestWhatWasWrongAtOneLocationIsForgottenAtAnother(t *testing.T) {
	for name, to := range map[string]*mail.Location{
		"another server":  {URL: "https://other.example/EWS/Exchange.asmx", Primary: alice},
		"another address": {URL: here(alice).URL, Primary: "ann@contoso.example"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			s.refuse = func(call) error { return refusalOf("ErrorX") }
			m := newAccount(t, s).join(alice)[0]
			pass(time.Second)
			m.Leave()
			m.Leave()
			s.set(func() { s.refuse = nil })
			m.Join(here(alice))
			m.Join(to) // it has joined
			pass(time.Minute)
			if n := len(s.made()); n != 1 || m.failing() != "ErrorX" {
				t.Errorf("%s: %d calls, failing %q: it waits as before", name, n, m.failing())
			}
			m.Leave()
			m.Join(to)
			pass(time.Second)
			if !m.listens() || s.made()[1].mailbox != to.Primary {
				t.Errorf("%s: it is not listened to there", name)
			}
		})
	}
}

func TestAfterTheCloseNobodyJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		a.Close()
		m.Join(here(alice))
		pass(time.Minute)
		if n := len(s.made()); n != 0 || m.failing() != "" || m.listens() {
			t.Errorf("%d calls, failing %q, listens %v", n, m.failing(), m.listens())
		}
	})
}

func TestTheFirstOfAGroupLeadsTheOthersToItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait = 100 * time.Millisecond
		newAccount(t, s).join(bob, alice)
		pass(time.Second)
		calls := s.made()
		if len(calls) != 2 {
			t.Fatalf("%d calls", len(calls))
		}
		first, second := calls[0], calls[1]
		if first.a != (Affinity{Anchor: first.mailbox}) || second.a != (Affinity{Anchor: first.mailbox, Cookie: "cookie-of-" + first.mailbox}) {
			t.Errorf("%+v, then %+v", first.a, second.a)
		}
		if first.push.Frequency != DefaultFrequency || first.push.URL != publicURL+Path {
			t.Errorf("%+v", first.push.URL)
		}
	})
}

func TestAMailboxThatHangsKeepsTheOthersOfItsGroupWaitingForMomentsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(c call) error {
			if c.mailbox == alice {
				<-time.After(time.Hour)
			}
			return nil
		}
		list := newAccount(t, s).join(alice, bob)
		pass(leading + time.Second)
		if !list[1].listens() {
			t.Error("bob waits for alice")
		}
	})
}

func TestSubscribesAreBoundedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice) // leads
		pass(time.Second)
		s.set(func() { s.wait = time.Minute })
		for i := range 4 * subscribing {
			a.join(fmt.Sprintf("user%03d@contoso.example", i))
		}
		pass(5 * time.Second)
		if n := len(s.made()) - 1; n != subscribing {
			t.Errorf("%d calls at once, want %d", n, subscribing)
		}
	})
}

func TestFloodedMailboxesAreMarkedWithinBoundsAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		for i := range 10_000 {
			s.tell(alice, fmt.Sprintf("AAMk%d", i))
			if i%1000 == 0 {
				pass(time.Second)
			}
		}
		if n := len(m.told()); n > marks.Most+10*marks.ASecond+1 {
			t.Errorf("%d hints of 10,000 in ten seconds", n)
		}
		pass(marks.Overflow + time.Second)
		if n := m.listings() - before; n < 1 || n > 4 {
			t.Errorf("%d listings more", n)
		}
	})
}

func TestListingsForGapsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		for i := range 1000 {
			s.lose(alice)
			s.status(alice)
			if i%100 == 0 {
				pass(time.Second)
			}
		}
		if n := m.listings() - before; n > marks.Most+10*marks.ASecond+4 {
			t.Errorf("%d listings in ten seconds", n)
		}
	})
}

func TestWhatDoesNotLookLikeAnItemIsNotReadButListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		s.tell(alice, "no item id")
		s.tell(alice, strings.Repeat("A", maxItem+1))
		if len(m.told()) > 0 || m.listings() == before {
			t.Errorf("told of %q, %d listings more", m.told(), m.listings()-before)
		}
	})
}

func TestAnotherSubscriptionOfAKnownSecretEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		w := deliver(s.receiver, s.sub(alice).url, notification("another", 1, 2, "AAMk1"))
		if !strings.Contains(w.Body.String(), "Unsubscribe") || len(m.told()) > 0 {
			t.Errorf("%s, told of %v", w.Body, m.told())
		}
		s.tell(alice, "AAMk2")
		if s.sub(alice).ended || !m.listens() {
			t.Error("its own subscription does not go on")
		}
	})
}

func TestNobodyLearnsFromAnAnswerWhetherASecretIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		m.Leave()
		mine := deliver(s.receiver, s.sub(alice).url, notification("sub-1", 1, 2))
		for _, secret := range []string{"x", strings.Repeat("A", 22), strings.Repeat("A", 4000), "%2e%2e"} {
			w := deliver(s.receiver, Path+secret, "anything")
			if w.Code != http.StatusOK || w.Body.String() != mine.Body.String() || fmt.Sprint(w.Header()) != fmt.Sprint(mine.Header()) {
				t.Errorf("%.20s: %d %s %v", secret, w.Code, w.Body, w.Header())
			}
		}
	})
}

func TestAnythingElseIsNotFoundOrNotAllowed(t *testing.T) {
	s := newServer()
	newAccount(t, s)
	for target, want := range map[string]int{
		"POST " + Path: 404, "POST /callbacks": 404, "POST /callbacks/graph/x": 404, "POST " + Path + "a/b": 404, "GET " + Path + "a/": 404,
		"GET " + Path + "x": 405, "PUT " + Path + "x": 405, "HEAD " + Path + "x": 405, "POST " + Path + "x": 200,
	} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		s.receiver.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("")))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
		if want == 405 && w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", target, w.Header().Get("Allow"))
		}
	}
}

func TestUnreadablePostsOfWhoKnowsTheSecretAreRefusedAndTheMailboxListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Minute)
		before := m.listings()
		for _, body := range []string{"", "x", "<a/>", "<!DOCTYPE a><Envelope/>", "<Envelope><Body/></Envelope>", notification("sub-1", 1, 2, "AAMk")[:300],
			"<Envelope>" + strings.Repeat(" ", 300<<10) + "</Envelope>"} {
			if w := deliver(s.receiver, s.sub(alice).url, body); w.Code != http.StatusBadRequest {
				t.Errorf("%.20s…: %d", body, w.Code)
			}
		}
		pass(marks.Overflow + time.Second)
		if len(m.told()) > 0 || m.listings() != before+1 {
			t.Errorf("told of %v, %d listings more", m.told(), m.listings()-before)
		}
	})
}

func TestACredentialThatWasReplacedHasWhatWaitsSubscribedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(call) error {
			return &fault.Error{Op: "Subscribe", Code: "HTTP 401", Scope: fault.Account, Remedy: fault.Fix, After: time.Hour}
		}
		a := newAccount(t, s)
		m := a.join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.refuse = nil })
		a.Retry()
		pass(time.Second)
		if !m.listens() {
			t.Error("it waits")
		}
	})
}

func TestAStateThatCannotBeWrittenHasNobodySubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		a.store.Fail(context.DeadlineExceeded)
		m.Join(here(alice))
		pass(time.Minute)
		if m.listens() || m.failing() != "state_away" {
			t.Errorf("listens %v, failing %q", m.listens(), m.failing())
		}
		a.store.Fail(nil)
		pass(10 * time.Minute)
		if !m.listens() {
			t.Error("it is not listened to once the state can be written")
		}
	})
}

func TestADayOfCallbacksLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		list := a.join(alice, bob)
		pass(time.Minute)
		for range 288 {
			pass(DefaultFrequency)
			s.status(alice)
			s.status(bob)
		}
		if n := len(s.made()); n != 2 {
			t.Errorf("%d subscriptions in a day", n)
		}
		for _, m := range list {
			if m.listings() != 1 || !m.listens() {
				t.Errorf("%s: %d listings, listens %v", m.address, m.listings(), m.listens())
			}
		}
		a.o.Receiver.mu.RLock()
		defer a.o.Receiver.mu.RUnlock()
		if n := len(a.o.Receiver.members); n != 2 || len(a.o.Receiver.kept) != 0 {
			t.Errorf("%d secrets, %d kept", n, len(a.o.Receiver.kept))
		}
	})
}

func TestASubscribeThatHangsIsGivenUpAndItsMailboxTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait = time.Hour
		m := newAccount(t, s).join(alice)[0]
		pass(within + time.Second)
		if m.failing() != "timeout" || m.listings() != 1 {
			t.Errorf("failing %q, %d listings", m.failing(), m.listings())
		}
		s.set(func() { s.wait = 0 })
		pass(10 * time.Minute)
		if !m.listens() {
			t.Error("it is not tried again")
		}
	})
}

func TestAMailboxThatLedItsGroupAndLeavesLeadsNobodyAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		first := a.join(alice)[0]
		pass(time.Second)
		first.Leave()
		a.join(bob)
		pass(time.Second)
		if got := s.made()[1].a; got != (Affinity{Anchor: bob}) {
			t.Errorf("bob was led to %+v", got)
		}
	})
}

// What was asked while another led the group says nothing of who leads it when the answer comes.
func TestAnAnswerThatComesLateChangesNothingOfWhoLeads(t *testing.T) {
	const carol, dave = "carol@contoso.example", "dave@contoso.example"
	misled := &fault.Error{Op: "Subscribe", Code: "ErrorProxyRequestNotAllowed", Scope: fault.Mailbox, Remedy: fault.Retry, Misled: true}
	for name, answer := range map[string]error{"it was made": nil, "it was led astray": misled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				a := newAccount(t, s)
				first := a.join(alice)[0]
				pass(time.Second)
				s.set(func() {
					s.refuse = func(c call) error {
						if c.mailbox == bob && c.a.Anchor == alice {
							<-time.After(10 * time.Second)
							return answer
						}
						return nil
					}
				})
				a.join(bob)
				pass(time.Second)
				first.Leave()
				if answer != nil {
					a.join(carol) // it leads now
				}
				pass(20 * time.Second)
				a.join(dave)
				pass(time.Second)
				calls := s.made()
				want := Affinity{Anchor: dave}
				if answer != nil {
					want = Affinity{Anchor: carol, Cookie: "cookie-of-" + carol}
				}
				if got := calls[len(calls)-1]; got.mailbox != dave || got.a != want {
					t.Errorf("%s was led by %+v", got.mailbox, got.a)
				}
			})
		})
	}
}

func TestADeviceThatIsRemovedWhileItsMailboxIsSubscribedLeavesNoSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait = 5 * time.Second
		a := newAccount(t, s)
		m := a.join(alice)[0]
		pass(time.Second)
		if _, _, err := a.book.Remove(context.Background(), "phone-of-"+alice); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if m.box.Record().Subscription != "" || m.failing() != "" {
			t.Errorf("recorded %q, failing %q", m.box.Record().Subscription, m.failing())
		}
		s.status(alice)
		if !s.sub(alice).ended {
			t.Error("it goes on at the server")
		}
	})
}

func TestAMailboxThatGetsADeviceBeforeItLeavesIsListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		s.refuse = func(c call) error {
			s.set(func() { s.refuse = nil })
			_, _, err := a.book.Remove(context.Background(), "phone-of-"+alice)
			return err
		}
		m.Join(here(alice))
		pass(time.Minute)
		calls := len(s.made())
		a.member(alice)
		pass(time.Minute)
		if !m.listens() || calls != 1 {
			t.Errorf("listens: %v; %d calls without a device", m.listens(), calls)
		}
	})
}

// Who only tries whether callbacks come gets the one that it waits for, and ends no subscription of anybody.
func TestATrialEndsNothingButItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		newAccount(t, s).join(alice)
		pass(time.Second)
		secret, came, forget := s.receiver.Expect()
		isClosed := func() bool {
			select {
			case <-came:
				return true
			default:
				return false
			}
		}
		trials := s.receiver.Trials()
		for _, path := range []string{s.sub(alice).url, Path + "unknown", "/elsewhere/" + secret} {
			if w := deliver(trials, path, "<a/>"); w.Code != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
		w := httptest.NewRecorder()
		trials.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path+secret, nil))
		if w.Code != http.StatusServiceUnavailable || isClosed() {
			t.Errorf("GET: %d, came %v", w.Code, isClosed())
		}
		for _, h := range []http.Handler{trials, s.receiver} {
			if w := deliver(h, Path+secret, ""); !strings.Contains(w.Body.String(), "Unsubscribe") || !isClosed() {
				t.Errorf("%s, came %v", w.Body, isClosed())
			}
		}
		forget()
		if w := deliver(trials, Path+secret, ""); w.Code != http.StatusServiceUnavailable {
			t.Errorf("forgotten: %d", w.Code)
		}
	})
}
