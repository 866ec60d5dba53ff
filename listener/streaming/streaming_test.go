package streaming

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/subscriptions"
)

// Rule 11: subscribe, open the stream, list.
func TestAMailboxIsSubscribedThenItsStreamOpensAndThenItIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.silent = true
		s.wait = func(_ context.Context, c call) error {
			<-time.After(time.Second) // each call takes its time
			return nil
		}
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(3 * time.Second)
		if len(s.made("Subscribe")) != 1 || len(s.made("Stream")) != 1 || m.box.Record().Subscription == "" {
			t.Fatalf("%+v", s.calls)
		}
		if m.listings() > 0 || m.listens() {
			t.Error("the first envelope has not come")
		}
		s.say(said{})
		synctest.Wait()
		if m.listings() != 1 || !m.listens() {
			t.Errorf("%d listings after the first envelope", m.listings())
		}
		s.say(said{})
		pass(time.Minute)
		if m.listings() != 1 {
			t.Errorf("%d listings: it was listed already", m.listings())
		}
	})
}

func TestAMailboxWhoseFirstEnvelopeIsLateIsListedAllTheSameAndOnceMoreWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.silent = true
		m := newAccount(t, s, 200).join(alice)[0]
		pass(40 * time.Second)
		if m.listings() != 1 || m.lists[0].Sub(s.made("Subscribe")[0].at) > listAnyway {
			t.Errorf("listed at %v", m.lists)
		}
		if m.listens() {
			t.Error("nobody knows whether anything reaches us")
		}
		s.say(said{events: []Event{{Subscription: "sub-1", Item: "item"}}})
		pass(time.Second)
		if m.listings() != 2 || !m.listens() || !slices.Equal(m.told(), []string{"item"}) {
			t.Errorf("%d listings, told of %v", m.listings(), m.told())
		}
	})
}

// The process before this one was killed; the server goes on writing into its stream until the new one is open.
func TestKeptSubscriptionsAreOpenedAgainAndTheirMailboxesListedOnceTheStreamIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice, bob)
		pass(time.Minute)
		a.Close()
		if got := s.made("Unsubscribe"); len(got) > 0 {
			t.Errorf("given back at a stop: %+v", got)
		}
		s.set(func() { s.silent = true })
		a.start(s, 200)
		again := a.join(alice, bob)
		pass(time.Second)
		if len(s.made("Stream")) != 2 || again[0].listings()+again[1].listings() > 0 {
			t.Errorf("%d streams; listed %d and %d times, and only its first envelope shows that a stream is open", len(s.made("Stream")), again[0].listings(), again[1].listings())
		}
		s.say(said{})
		synctest.Wait()
		if again[0].listings() != 1 || again[1].listings() != 1 {
			t.Errorf("listed %d and %d times", again[0].listings(), again[1].listings())
		}
		if n := len(s.made("Subscribe")); n != 2 {
			t.Errorf("%d subscriptions; the old ones are good", n)
		}
	})
}

func TestAStreamOpensWithoutWaitingForMembersThatAreNotSubscribedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		answer := make(chan struct{})
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Subscribe" && c.mailbox == bob {
				<-answer
			}
			return nil
		}
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(3 * time.Second)
		if !list[0].listens() || list[1].listens() || !list[2].listens() {
			t.Fatal("the stream waits for the one that hangs")
		}
		close(answer)
		pass(3 * time.Second)
		for i, m := range list {
			if !m.listens() || m.listings() != 1 {
				t.Errorf("%s: %d listings", m.address, list[i].listings())
			}
		}
	})
}

func TestASubscribeThatHangsIsGivenUpAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Subscribe" && len(s.made("Subscribe")) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		m := newAccount(t, s, 200).join(alice)[0]
		pass(within)
		if f, next := m.Failing(); f == nil || f.Code != "hangs" || next.IsZero() {
			t.Errorf("%v, %v", f, next)
		}
		pass(10 * time.Second)
		if !m.listens() {
			t.Error("it is not tried again")
		}
	})
}

func TestAMailboxJoinsWithoutAListingOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		var list []*mailbox
		for i := range 51 {
			list = append(list, a.join(numbered(i))...)
			pass(time.Second)
		}
		for _, m := range list {
			if m.listings() != 1 || !m.listens() {
				t.Errorf("%s was listed %d times", m.address, m.listings())
			}
			s.tell(m.address, "new")
			synctest.Wait()
			if !slices.Equal(m.told(), []string{"new"}) {
				t.Errorf("%s was told of %v", m.address, m.told())
			}
		}
		if got := s.alive(); len(got) != lines || got[0]+got[1] != 51 {
			t.Errorf("streams with %v subscriptions are open", got)
		}
	})
}

func TestWhatAStreamBringsWhileItIsHandedOverIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice)
		pass(time.Second)
		m := a.join(bob)[0]
		pass(time.Second)
		a.join(carol)
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			s.tell(bob, want[i])
			pass(10 * time.Millisecond)
		}
		if !slices.Equal(m.told(), want) {
			t.Errorf("%v", m.told())
		}
	})
}

// A server may leave the old stream open, or it dies just then.
func TestAStreamThatIsNotHandedOverWholeIsCutAndItsMailboxesListed(t *testing.T) {
	for name, end := range map[string]func(old *stream){
		"it does not end": func(*stream) {},
		"it breaks":       func(old *stream) { old.finish(errReset) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				a := newAccount(t, s, 200)
				other := a.join(alice)[0]
				pass(time.Minute)
				m := a.join(bob)[0]
				pass(time.Minute)
				s.set(func() { s.ignores = true })
				b := a.join(carol)[0]
				pass(time.Second)
				end(s.streams[1])
				pass(handOver)
				if m.listings() != 2 || b.listings() != 1 || other.listings() != 1 {
					t.Errorf("listed %d, %d and %d times", m.listings(), b.listings(), other.listings())
				}
				if got := s.alive(); !slices.Equal(got, []int{1, 2}) {
					t.Errorf("streams with %v subscriptions are open", got)
				}
			})
		})
	}
}

// Nobody knows yet that the newer stream is open when the older one dies.
func TestAMailboxWhoseStreamDiesWhileItIsHandedOverIsListedOnceTheNewOneHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice)
		pass(time.Minute)
		m := a.join(bob)[0]
		pass(time.Minute)
		s.set(func() { s.ignores, s.silent = true, true })
		a.join(carol)
		pass(time.Second)
		s.streams[1].finish(errReset)
		pass(time.Second)
		if m.listings() != 1 {
			t.Errorf("%d listings: the new stream has not begun", m.listings())
		}
		s.say(said{})
		pass(time.Second)
		if m.listings() != 2 {
			t.Errorf("%d listings", m.listings())
		}
	})
}

func TestTheFirstEnvelopeOfAnOlderStreamDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.ignores, s.silent = true, true
		a := newAccount(t, s, 200)
		a.join(alice)
		pass(time.Second)
		m := a.join(bob)[0]
		pass(time.Second)
		a.join(carol)
		pass(time.Second)
		s.streams[1].said <- said{}
		synctest.Wait()
		if m.listings() > 0 || m.listens() {
			t.Error("listed at the word of a stream that was followed")
		}
		s.say(said{})
		synctest.Wait()
		if m.listings() != 1 || !m.listens() {
			t.Errorf("%d listings", m.listings())
		}
	})
}

func TestAMailboxListensWithoutABreakWhileOthersJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice)
		pass(time.Minute)
		m := a.join(bob)[0]
		pass(time.Minute)
		before, _ := m.Listening()
		a.join(carol)
		pass(time.Minute)
		if since, last := m.Listening(); !since.Equal(before) || last.Before(before.Add(time.Minute-time.Second)) {
			t.Errorf("since %v, before %v; last %v", since, before, last)
		}
	})
}

// What it was to bring is lost where an opening breaks, and not where none began.
func TestAnOpeningThatFailsHasItsMailboxesListedWhereItMayHaveTakenSomething(t *testing.T) {
	network, refused := denied(fault.Server, fault.Retry, 0), denied(fault.Server, fault.Retry, 0)
	network.Missed = true
	for name, c := range map[string]struct {
		err      error
		members  []string
		listings int
	}{
		"it broke":         {network, []string{alice}, 2},
		"it was refused":   {refused, []string{alice}, 1},
		"tried as another": {refused, []string{alice, bob}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				list := newAccount(t, s, 200).join(c.members...)
				pass(time.Minute)
				s.set(func() { s.refuse = on("Stream", c.err, alice) })
				s.cut(io.EOF)
				pass(100 * time.Millisecond)
				s.set(func() { s.refuse = nil })
				pass(2 * time.Second)
				for _, m := range list {
					if m.listings() != c.listings || !m.listens() {
						t.Errorf("%s was listed %d times, want %d", m.address, m.listings(), c.listings)
					}
				}
			})
		})
	}
}

func TestAStreamThatEndsBeforeItsFirstEnvelopeIsTriedAsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.silent = true
		newAccount(t, s, 200).join(alice, bob)
		pass(time.Second)
		s.cut(denied(fault.Group, fault.Wait, 10*time.Minute))
		pass(time.Second)
		if calls := s.made("Stream"); len(calls) != 2 || calls[0].mailbox != alice || calls[1].mailbox != bob {
			t.Errorf("%+v", calls)
		}
	})
}

func TestFailuresAreForgottenOnceAStreamHasLasted(t *testing.T) {
	for name, end := range map[string]error{"cut": errReset, "clean": io.EOF} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				m := newAccount(t, s, 200).join(alice)[0]
				pass(time.Minute)
				s.set(func() { s.refuse = on("Stream", denied(fault.Server, fault.Retry, 0)) })
				s.cut(errReset)
				pass(20 * time.Minute)
				s.set(func() { s.refuse = nil })
				pass(2 * time.Minute)
				s.cut(end)
				pass(time.Second)
				if !m.listens() {
					t.Error("it waits as if the stream had never been open")
				}
				s.set(func() { s.refuse = on("Stream", denied(fault.Server, fault.Retry, 0)) })
				s.cut(end)
				pass(2 * time.Second)
				s.set(func() { s.refuse = nil })
				pass(5 * time.Second)
				if !m.listens() {
					t.Error("the first failures in a row count for more")
				}
			})
		})
	}
}

func TestAServerThatEndsEachStreamAtOnceIsNotAskedWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		newAccount(t, s, 200).join(alice)
		pass(time.Minute)
		for range 600 {
			s.cut(io.EOF)
			pass(100 * time.Millisecond)
		}
		if n := len(s.made("Stream")); n > 15 {
			t.Errorf("%d streams within a minute", n)
		}
	})
}

func TestAfterACleanEndNothingIsListedAndAfterAnyOtherEverything(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		listings int
	}{
		"clean": {io.EOF, 1},
		"cut":   {&fault.Error{Op: "test", Code: "cut", Scope: fault.Group, Remedy: fault.Retry, Missed: true}, 2},
		"reset": {errReset, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				list := newAccount(t, s, 200).join(alice, bob)
				pass(time.Minute)
				s.cut(c.err)
				s.tell(bob, "between")
				synctest.Wait()
				if c.err != io.EOF && list[0].listens() {
					t.Error("it says that it listens without a stream")
				}
				pass(time.Second)
				for _, m := range list {
					if m.listings() != c.listings || !m.listens() {
						t.Errorf("%s was listed %d times", m.address, m.listings())
					}
				}
				if !slices.Equal(list[1].told(), []string{"between"}) {
					t.Errorf("told of %v", list[1].told())
				}
			})
		})
	}
}

func TestAStreamThatIsCutBeforeItsFirstEnvelopeLeavesItsMailboxesToBeListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.silent = true })
		s.cut(errReset)
		pass(time.Second) // the next one is open and silent
		s.cut(io.EOF)
		s.set(func() { s.silent = false })
		pass(3 * time.Second)
		if m.listings() != 2 || !m.listens() {
			t.Errorf("%d listings: the one after the cut is still owed", m.listings())
		}
	})
}

func TestALostSubscriptionNeverSilencesItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob)
		pass(time.Minute)
		s.forget(alice)
		synctest.Wait()
		if list[0].listens() || !list[1].listens() {
			t.Error("the wrong one listens")
		}
		pass(5 * time.Second)
		if list[0].listings() != 2 || list[1].listings() != 1 {
			t.Errorf("listed %d and %d times", list[0].listings(), list[1].listings())
		}
		for _, m := range list {
			s.tell(m.address, "new")
			synctest.Wait()
			if !m.listens() || !slices.Equal(m.told(), []string{"new"}) {
				t.Errorf("%s was told of %v", m.address, m.told())
			}
		}
	})
}

func TestMissedNotificationsAreListedAtOnceAndTheSubscriptionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(numbered(0), numbered(1), numbered(2), numbered(3))
		pass(time.Minute)
		for _, m := range list[1:] {
			s.say(said{err: &fault.Error{Op: "test", Code: "missed", Scope: fault.Mailbox, Remedy: fault.Retry, Missed: true, Subscriptions: []string{m.box.Record().Subscription}}})
		}
		synctest.Wait()
		pass(10 * time.Second)
		for i, m := range list {
			if want := min(i, 1) + 1; m.listings() != want {
				t.Errorf("%s was listed %d times, want %d", m.address, m.listings(), want)
			}
		}
		if len(s.made("Subscribe")) != 4 {
			t.Error("a subscription that goes on was made anew")
		}
	})
}

func TestAMailboxThatLeavesGivesItsSubscriptionBackWhereItWasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		list := a.join(alice, bob)
		pass(time.Minute)
		id := list[0].box.Record().Subscription
		list[0].Leave()
		list[0].Leave()
		pass(time.Hour)
		if back := s.made("Unsubscribe"); len(back) > 0 || len(s.made("Stream")) != 1 {
			t.Errorf("given back while its stream is open: %+v; %d streams were opened", back, len(s.made("Stream")))
		}
		s.cut(io.EOF)
		pass(time.Second)
		back := s.made("Unsubscribe")
		if len(back) != 1 || back[0].ids[0] != id || back[0].mailbox != alice || list[0].listens() {
			t.Errorf("given back: %+v, want %s", back, id)
		}
		s.tell(bob, "new")
		synctest.Wait()
		if !slices.Equal(list[1].told(), []string{"new"}) {
			t.Error("the other is silent")
		}
		list[1].Leave()
		pass(time.Second)
		if got := s.alive(); len(got) > 0 || a.Open() != 0 || len(a.groups) > 0 {
			t.Errorf("nobody is left, and streams with %v subscriptions are open", got)
		}
	})
}

// The stream that is being opened would have a bad id, and be opened again.
func TestAMailboxThatLeavesWhileItsStreamIsBeingOpenedGivesItsSubscriptionBackAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		opens := make(chan struct{})
		s.wait = func(_ context.Context, c call) error {
			if c.op == "Stream" {
				<-opens
			}
			return nil
		}
		list := newAccount(t, s, 200).join(alice, bob)
		pass(3 * time.Second)
		list[1].Leave()
		pass(time.Second)
		if back := s.made("Unsubscribe"); len(back) > 0 {
			t.Errorf("given back: %+v", back)
		}
		close(opens)
		pass(time.Minute)
		wantListened(t, list[0])
		if n := len(s.made("Stream")); n != 1 {
			t.Errorf("%d streams were opened", n)
		}
		s.cut(io.EOF)
		pass(time.Minute)
		if back := s.made("Unsubscribe"); len(back) != 1 {
			t.Errorf("given back: %+v", back)
		}
	})
}

func TestAnUnsubscribeThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(time.Second)
		s.set(func() {
			s.wait = func(ctx context.Context, c call) error {
				<-ctx.Done()
				return ctx.Err()
			}
		})
		m.Leave()
		pass(within)
		if len(s.alive()) > 0 {
			t.Error("the group does not end")
		}
	})
}

func TestASubscriptionThatIsNotGivenBackIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		logs int
	}{"given back": {nil, 0}, "refused": {denied(fault.Mailbox, fault.Retry, 0), 1}} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			a := newAccount(t, s, 200)
			core, logs := observer.New(zap.InfoLevel)
			a.Groups.o.Log = zap.New(core)
			m := a.join(alice)[0]
			pass(time.Second)
			s.set(func() { s.refuse = on("Unsubscribe", c.err) })
			m.Leave()
			pass(time.Second)
			if n := logs.FilterMessageSnippet("was not given back").Len(); n != c.logs {
				t.Errorf("%s: said %d times", name, n)
			}
		})
	}
}

func TestAnUnsubscribeMayTakeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(time.Second)
		s.set(func() {
			s.wait = func(ctx context.Context, c call) error {
				pause.For(ctx, 5*time.Second)
				return ctx.Err()
			}
		})
		m.Leave()
		pass(time.Minute)
		if len(s.queues) > 0 {
			t.Errorf("%d subscriptions are left at the server", len(s.queues))
		}
	})
}

func TestGroupsAreSplitAtTheirBound(t *testing.T) {
	for _, bound := range []int{1, 2, 3, 7} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			a := newAccount(t, s, bound)
			var addresses []string
			for i := range 7 {
				addresses = append(addresses, numbered(i))
			}
			list := a.join(addresses...)
			pass(3 * time.Second)
			sizes := s.alive()
			if want := (7 + bound - 1) / bound; len(sizes) != want || slices.Max(sizes) > bound || a.Open() != want {
				t.Errorf("streams with %v subscriptions; the bound is %d", sizes, bound)
			}
			for _, m := range list {
				s.tell(m.address, "new")
				synctest.Wait()
				if !slices.Equal(m.told(), []string{"new"}) {
					t.Errorf("%s was told of %v", m.address, m.told())
				}
			}
		})
	}
}

func TestMailboxesOfDifferentServersShareNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		for i, change := range []struct{ url, group string }{{"https://one.example", "a"}, {"https://one.example", "b"}, {"https://two.example", "a"}} {
			at := here(numbered(i))
			at.URL, at.Group = change.url, change.group
			a.mailbox(numbered(i)).Join(at)
		}
		pass(3 * time.Second)
		if got := s.alive(); !slices.Equal(got, []int{1, 1, 1}) {
			t.Errorf("streams with %v subscriptions", got)
		}
	})
}

// "How to: Maintain affinity": the first by name is subscribed first, and the others with its name and cookie.
func TestTheFirstByNameLeadsItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = func(call) error { return denied(fault.Account, fault.Wait, time.Hour) } // until all have joined
		a := newAccount(t, s, 200)
		a.join(carol, bob, alice)
		pass(3 * time.Second)
		s.set(func() { s.refuse, s.calls = nil, nil })
		a.Retry()
		pass(3 * time.Second)
		calls := s.made("Subscribe")
		if calls[0].mailbox != alice || calls[0].a != (Affinity{Anchor: alice}) {
			t.Errorf("first %+v", calls[0])
		}
		led := Affinity{Anchor: alice, Cookie: "cookie-of-" + alice}
		for _, c := range append(calls[1:], s.made("Stream")...) {
			if c.a != led {
				t.Errorf("%+v", c)
			}
		}
	})
}

func TestWhereTheFirstCannotLeadTheNextDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Fix, time.Hour), alice)
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(3 * time.Second)
		for _, c := range s.made("Stream") {
			if c.mailbox != bob || c.a != (Affinity{Anchor: bob, Cookie: "cookie-of-" + bob}) {
				t.Errorf("%+v", c)
			}
		}
		list[1].Leave()
		pass(3 * time.Second)
		s.cut(io.EOF)
		pass(3 * time.Second)
		if c := s.made("Stream"); c[len(c)-1].a != (Affinity{Anchor: carol, Cookie: "cookie-of-" + bob}) {
			t.Errorf("the anchor has left: %+v", c[len(c)-1])
		}
	})
}

// A member that takes long has the next one tried, whose cookie the others have by the time it answers.
func TestOfTwoThatMayLeadTheOneLeadsWhoIsSubscribedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(ctx context.Context, c call) error {
			if c.mailbox == alice {
				pause.For(ctx, 4*brisk)
			}
			return ctx.Err()
		}
		a := newAccount(t, s, 200)
		a.join(alice, bob)
		pass(3 * time.Second)
		a.join(carol)
		pass(3 * time.Second)
		if calls := s.made("Subscribe"); len(calls) != 3 || calls[2].a != (Affinity{Anchor: bob, Cookie: "cookie-of-" + bob}) {
			t.Errorf("%+v", calls)
		}
	})
}

func TestAfterARestartTheFirstKeptSubscriptionLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice, bob)
		pass(time.Minute)
		a.Close()
		a.start(s, 200)
		a.join(alice, bob, carol)
		pass(3 * time.Second)
		if calls := s.made("Subscribe"); len(calls) != 3 || calls[2].mailbox != carol || calls[2].a != (Affinity{Anchor: alice}) {
			t.Errorf("%+v", calls)
		}
	})
}

// After a restart a group has no cookie. Who comes then has a stream beside that of the others, and the anchor is not on it: the stream is
// opened all the same where the anchor had it subscribed.
func TestAStreamWithoutTheAnchorIsOpenedOnItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.affine = true
		a := newAccount(t, s, 200)
		a.join(alice, bob)
		pass(time.Minute)
		a.Close()
		a.start(s, 200)
		a.join(alice, bob)
		pass(time.Minute)
		late := a.join(carol)[0]
		pass(time.Minute)
		if since, _ := late.Listening(); since.IsZero() {
			f, _ := late.Failing()
			t.Errorf("it is not listened to: %v; %d Subscribes", f, len(s.made("Subscribe")))
		}
	})
}

func TestAGroupThatWasMisledLeavesItsCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = 50 // they lose their subscriptions at once: whoever kept one for a moment would lead the others
		s := newServer(t)
		a := newAccount(t, s, 200)
		for i := range members {
			a.join(numbered(i))
		}
		pass(time.Minute)
		f := lostSubscription(s.streams[len(s.streams)-1].ids...)
		f.Misled = true
		s.set(func() { clear(s.queues) })
		s.say(said{err: f})
		pass(10 * time.Second)
		calls := s.made("Subscribe")[members:]
		if len(calls) != members || calls[0].a != (Affinity{Anchor: calls[0].mailbox}) {
			t.Fatalf("%+v", calls)
		}
		for _, c := range calls[1:] {
			if c.a != (Affinity{Anchor: calls[0].mailbox, Cookie: "cookie-of-" + calls[0].mailbox}) {
				t.Errorf("%+v", c)
			}
		}
	})
}

func TestACompanyThatEnrolsDoesNotHaveItsStreamOpenedForEachPhone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		first := a.join(numbered(0))[0]
		pass(time.Minute)
		began := time.Now()
		var list []*mailbox
		for i := range 100 {
			list = append(list, a.join(numbered(1+i))...)
			pass(100 * time.Millisecond)
		}
		pass(3 * time.Second)
		if n, most := len(s.made("Stream"))-1, int(time.Since(began)/gather)+1; n > most {
			t.Errorf("%d streams were opened within %v", n, time.Since(began))
		}
		for _, m := range list {
			if !m.listens() {
				t.Errorf("%s is not listened to", m.address)
			}
		}
		for i, m := range list { // nobody waits for the last one
			if waited := m.lists[0].Sub(began.Add(time.Duration(i) * 100 * time.Millisecond)); waited > gather+time.Second {
				t.Errorf("%s waited for %v", m.address, waited)
			}
		}
		if first.listings() != 1 {
			t.Errorf("the first was listed %d times", first.listings())
		}
	})
}

func TestAMailboxThatMayNotBeSubscribedHarmsOnlyItselfAndIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Fix, time.Hour), alice)
		list := newAccount(t, s, 200).join(alice, bob)
		pass(time.Second)
		f, next := list[0].Failing()
		if f == nil || f.Code != "denied" || time.Until(next) < 55*time.Minute || list[0].listings() != 1 {
			t.Errorf("%v, in %v; listed %d times", f, time.Until(next), list[0].listings())
		}
		if f, _ := list[1].Failing(); f != nil || !list[1].listens() {
			t.Errorf("the other one: %v", f)
		}
		pass(50 * time.Minute)
		if n := len(s.made("Subscribe")); n != 2 {
			t.Errorf("%d calls; it takes a person", n)
		}
		s.set(func() { s.refuse = nil })
		pass(30 * time.Minute)
		if f, _ := list[0].Failing(); f != nil || !list[0].listens() || list[0].listings() != 2 {
			t.Errorf("%v; listed %d times", f, list[0].listings())
		}
	})
}

func TestAMailboxThatLosesItsSubscriptionAndGetsNoOtherIsListedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Wait, 30*time.Minute)) })
		s.forget(alice)
		pass(time.Second)
		if m.listings() != 2 {
			t.Errorf("%d listings", m.listings())
		}
	})
}

func TestMailboxesThatWereRefusedTogetherAreNotTriedAgainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Wait, 10*time.Minute))
		var addresses []string
		for i := range 8 {
			addresses = append(addresses, numbered(i))
		}
		list := newAccount(t, s, 1).join(addresses...)
		pass(time.Second)
		at := map[time.Time]bool{}
		for _, m := range list {
			_, next := m.Failing()
			at[next] = true
		}
		if len(at) < 7 {
			t.Errorf("8 mailboxes are tried again at %d times", len(at))
		}
	})
}

// Groups lose their streams together, and must not come back together.
func TestStreamsThatWereRefusedTogetherAreNotTriedAgainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		var addresses []string
		for i := range 8 {
			addresses = append(addresses, numbered(i))
		}
		list := newAccount(t, s, 1).join(addresses...)
		pass(time.Minute)
		s.set(func() { s.refuse = on("Stream", denied(fault.Server, fault.Wait, time.Minute)) })
		s.cut(errReset)
		pass(time.Second)
		at := map[time.Time]bool{}
		for _, m := range list {
			f, next := m.Failing()
			if f == nil || time.Until(next) < 58*time.Second {
				t.Errorf("%v, in %v", f, time.Until(next))
			}
			at[next] = true
		}
		if len(at) < 7 {
			t.Errorf("8 streams are tried again at %d times", len(at))
		}
	})
}

func TestAServerThatStaysAwayIsTriedAgainAtGrowingDistancesAndItsMailboxesArePolledEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.refuse = on("Stream", denied(fault.Server, fault.Retry, 0)) })
		s.cut(errReset)
		began, before := time.Now(), len(s.made("Stream"))
		pass(time.Hour)
		if n := len(s.made("Stream")) - before; n < 45 || n > 75 {
			t.Errorf("%d tries in an hour", n)
		}
		if m.listings() < 2+45 || m.listings() > 2+60 || m.lists[1].Sub(began) > listAnyway {
			t.Errorf("listed at %v; it was cut at %v", m.lists, began)
		}
		polls := m.listings()
		s.set(func() { s.refuse = nil })
		pass(80 * time.Second)
		if n := m.listings() - polls; n < 1 || n > 3 || !m.listens() || m.answers != 2 {
			t.Errorf("%d listings, told %d times that its server answers", m.listings(), m.answers)
		}
	})
}

func TestMembersThatHangKeepTheOthersWaitingForSecondsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Subscribe" && c.mailbox < numbered(100) { // the first by name
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		var addresses []string
		for i := range 200 {
			addresses = append(addresses, numbered(i))
		}
		list := newAccount(t, s, 200).join(addresses...)
		listens := func() (n int) {
			for _, m := range list[100:] {
				if m.listens() {
					n++
				}
			}
			return n
		}
		pass(10 * time.Second)
		if n := listens(); n != 100 {
			t.Errorf("%d of 100 are listened to", n)
		}
		s.cut(errReset)
		pass(time.Second)
		if n := listens(); n != 100 {
			t.Errorf("after the stream was cut, %d of 100 are listened to", n)
		}
	})
}

func TestAServerThatAllowsOneMailboxAStreamGetsOneStreamEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.single = true
		core, logs := observer.New(zap.InfoLevel)
		var addresses []string
		for i := range 20 {
			addresses = append(addresses, numbered(i))
		}
		a := newAccount(t, s, 200)
		a.Groups.o.Log = zap.New(core)
		list := a.join(addresses...)
		pass(time.Minute)
		for i, m := range list {
			s.tell(m.address, fmt.Sprint("item-", i))
		}
		pass(time.Second)
		for i, m := range list {
			if !m.listens() || !slices.Equal(m.told(), []string{fmt.Sprint("item-", i)}) {
				t.Errorf("%s: listened to %v, told of %v", m.address, m.listens(), m.told())
			}
		}
		if n := len(s.made("Subscribe")); n > 2*20+8 { // the second time they keep theirs
			t.Errorf("%d Subscribes", n)
		}
		if n := logs.FilterMessageSnippet("one mailbox on a stream").Len(); n != 1 {
			t.Errorf("said %d times", n)
		}
		late := a.join("zoe@contoso.example")[0]
		pass(5 * time.Second)
		if !late.listens() || len(s.alive()) != 21 {
			t.Errorf("who comes later shares a stream: %v", s.alive())
		}
	})
}

// A mailbox that is always subscribed later than the others has each refused stream followed by one that is replaced before the server could
// refuse it. That one is no proof that the server lets mailboxes share a stream.
func TestOneMailboxPerStreamIsNoticedHoweverMuchLaterOneIsSubscribed(t *testing.T) {
	singles(t, []string{alice, bob, carol}, false, nil)
}

// gromox ends a stream with the envelope that refuses subscriptions. The refusal counts, though the end may be seen first: here while the
// group gathers, as a mailbox could not be subscribed.
func TestARefusalThatEndsItsStreamCounts(t *testing.T) {
	singles(t, []string{alice, bob}, true, denied(fault.Mailbox, fault.Retry, 0))
}

// singles has alice, bob and carol at a server that allows one mailbox a stream. These are subscribed; carol is told what by the server, a
// while after the others.
func singles(t *testing.T, subscribed []string, closes bool, carols error) {
	t.Helper()
	for later := time.Duration(0); later < gather; later += settle / 10 {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			s.single, s.closes, s.latency = true, closes, settle/4
			s.wait = func(ctx context.Context, c call) error {
				if c.op == "Subscribe" && c.mailbox == carol {
					pause.For(ctx, later)
					return carols
				}
				return ctx.Err()
			}
			list := newAccount(t, s, 200).join(alice, bob, carol)
			pass(time.Minute)
			shared := slices.DeleteFunc(s.made("Stream"), func(c call) bool { return len(c.ids) < len(subscribed) })
			if len(shared) > maxRefused {
				t.Errorf("%v later: %d streams of all were refused, want %d", later, len(shared), maxRefused)
			}
			for i, m := range list[:len(subscribed)] {
				if !m.listens() || len(s.alive()) != len(subscribed) {
					t.Errorf("%v later: %s is not listened to, or shares a stream: %v", later, subscribed[i], s.alive())
				}
			}
		})
	}
}

func TestSubscriptionsThatAServerLostAreNoReasonForAStreamEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(alice, bob, carol)
		for range 4 {
			pass(time.Hour)
			s.forget(bob)
			s.forget(carol)
		}
		pass(time.Minute)
		if sizes := s.alive(); !slices.Equal(sizes, []int{3}) {
			t.Errorf("%v", sizes)
		}
	})
}

// In a soak a stream of two mailboxes lost the subscription of the one twice within minutes, and ten thousand mailboxes got a stream each.
func TestWhereMailboxesHaveSharedAStreamTheyGoOnToWhateverIsLost(t *testing.T) {
	for name, proof := range map[string]func(s *server){
		"mail of another came": func(s *server) {
			for _, address := range []string{alice, bob, carol} {
				s.tell(address, "item")
			}
		},
		"nothing was said against any": func(s *server) { pass(unopposed); s.say(said{}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			newAccount(t, s, 200).join(alice, bob, carol)
			pass(10 * time.Second)
			proof(s)
			for range 3 * maxRefused { // each is subscribed anew in between, so that its subscription is fresh
				pass(20 * time.Second)
				opened := s.made("Stream")
				for _, address := range []string{alice, bob, carol} {
					if address != opened[len(opened)-1].mailbox {
						s.forget(address)
					}
				}
			}
			pass(20 * time.Second)
			if sizes := s.alive(); !slices.Equal(sizes, []int{3}) {
				t.Errorf("%s: %v", name, sizes)
			}
		})
	}
}

func TestAStreamWithoutItsFirstEnvelopeIsNamedAndItsMailboxesArePolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.silent = true
		list := newAccount(t, s, 200).join(alice, bob)
		pass(9 * time.Second)
		if f, _ := list[0].Failing(); f != nil {
			t.Errorf("its time is not over, and it fails: %v", f)
		}
		pass(firstEnvelope - 4*time.Second)
		for _, m := range list {
			if f, _ := m.Failing(); f == nil || f.Code != "stream held back" || !strings.Contains(f.Text, "proxy_buffering off") {
				t.Errorf("%v", f)
			}
		}
		listed := list[0].listings()
		pass(10 * time.Minute)
		if n := list[0].listings() - listed; n < 8 || n > 10 {
			t.Errorf("%d listings in ten minutes", n)
		}
		s.say(said{})
		pass(time.Second)
		polled := list[0].listings()
		pass(10 * time.Minute)
		if f, _ := list[0].Failing(); f != nil || !list[0].listens() || list[0].listings() != polled {
			t.Errorf("%v; listed %d times", f, list[0].listings()-polled)
		}
	})
}

func TestAMailboxWhoseStreamIsOpenedAgainInAMinuteIsListedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		s.cut(denied(fault.Group, fault.Wait, time.Minute))
		synctest.Wait()
		if m.listings() != 2 {
			t.Errorf("%d listings", m.listings())
		}
		pass(2 * time.Minute)
		if n := m.listings(); n < 3 || n > 4 || !m.listens() {
			t.Errorf("%d listings: one more when the stream is open again", m.listings())
		}
	})
}

func TestAStreamIsTriedAsOthersBeforeTheFaultIsTakenForTheGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Stream", denied(fault.Mailbox, fault.Wait, time.Minute), numbered(0), numbered(1), numbered(2))
		list := newAccount(t, s, 200).join(numbered(0), numbered(1), numbered(2), numbered(3), numbered(4))
		pass(5 * time.Second)
		calls := s.made("Stream")
		if len(calls) != 4 || calls[3].mailbox != numbered(3) || !list[0].listens() {
			t.Errorf("%d tries", len(calls))
		}
		s.set(func() { s.refuse = on("Stream", denied(fault.Mailbox, fault.Wait, time.Minute)) })
		s.cut(errReset)
		pass(30 * time.Second)
		if n := len(s.made("Stream")) - len(calls); n != 1+maxOthers {
			t.Errorf("%d tries", n)
		}
	})
}

// Of those that hang nobody knows it until they are asked. Mailboxes that were listed meanwhile do not.
func TestAStreamThatFailsIsTriedAsAMailboxThatWasListedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		var addresses []string
		for i := range 20 {
			addresses = append(addresses, numbered(i))
		}
		list := newAccount(t, s, 200).join(addresses...)
		pass(time.Minute)
		s.set(func() { s.refuse = on("Stream", heldBack(), addresses[:15]...) })
		list[17].Listed()
		s.cut(errReset)
		pass(2 * time.Second)
		calls := s.made("Stream")
		if last := calls[len(calls)-1]; len(calls) != 3 || last.mailbox != numbered(17) || !list[0].listens() {
			t.Errorf("the stream was opened as %v of %d", last.mailbox, len(calls))
		}
		s.cut(errReset)
		pass(2 * time.Second)
		if calls = s.made("Stream"); len(calls) != 4 { // it is known now
			t.Errorf("%d streams", len(calls))
		}
	})
}

func TestAStreamWithoutAFirstEnvelopeIsTriedAsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.mutes = alice
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(firstEnvelope + 5*time.Second)
		for _, m := range list {
			if !m.listens() {
				t.Errorf("%s is not listened to", m.address)
			}
		}
		if sizes := s.alive(); !slices.Equal(sizes, []int{3}) {
			t.Errorf("streams of %v", sizes)
		}
	})
}

func TestAStreamThatIsRefusedForOneSubscriptionIsOpenedAsTheSameOnceThatIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(time.Minute)
		id := list[2].box.Record().Subscription
		s.set(func() {
			s.refuse = func(c call) error {
				if c.op == "Stream" && slices.Contains(c.ids, id) {
					return lostSubscription(id)
				}
				return nil
			}
		})
		s.cut(errReset)
		pass(10 * time.Second)
		for _, c := range s.made("Stream") {
			if c.mailbox != alice {
				t.Errorf("opened as %s", c.mailbox)
			}
		}
		if len(s.made("Subscribe")) != 4 || !list[0].listens() || !list[2].listens() {
			t.Errorf("%+v", s.calls)
		}
	})
}

func TestAnErrorOfTheAccountIsNotTriedAsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Stream", denied(fault.Account, fault.Fix, 4*time.Minute))
		newAccount(t, s, 200).join(alice, bob, carol)
		pass(30 * time.Second)
		if n := len(s.made("Stream")); n != 1 {
			t.Errorf("%d tries: the account would be locked out", n)
		}
	})
}

func TestAnotherProgramThatReadsOurSubscriptionsIsNotFought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		for range 10 { // the other one opens them each time
			s.cut(&fault.Error{Op: "test", Code: "superseded", Scope: fault.Group, Remedy: fault.Wait, After: time.Minute, Missed: true, Superseded: true})
			pass(80 * time.Second)
		}
		if n := len(s.made("Stream")); n > 11 {
			t.Errorf("%d streams in 13 minutes", n)
		}
		if n := m.listings(); n < 11 {
			t.Errorf("%d listings: what the other one read was lost for us", n)
		}
	})
}

func TestMembersThatMovedDoNotSilenceTheOthers(t *testing.T) {
	for name, verdict := range map[string]Verdict{"and are looked up again": Leaves, "and were found just now": Later, "and have nowhere else to live": Stays} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, gone = 12, 7
				s := newServer(t)
				a := newAccount(t, s, 200)
				a.verdict = func(string, *fault.Error) Verdict { return verdict }
				var addresses []string
				for i := range n {
					addresses = append(addresses, numbered(i))
				}
				list := a.join(addresses...)
				pass(time.Minute)
				s.set(func() { s.refuse = on("Stream", moved(), addresses[:gone]...) })
				s.cut(errReset)
				pass(10 * time.Second)
				for i, m := range list {
					switch left := i < gone && verdict == Leaves; {
					case left && (m.listens() || m.doubts != 1):
						t.Errorf("%s has not left; doubted %d times", m.address, m.doubts)
					case !left && !m.listens() && verdict != Stays:
						t.Errorf("%s is not listened to", m.address)
					case verdict == Later && i < gone && m.listings() < 2:
						t.Errorf("%s was not listed at once", m.address)
					}
				}
				if tries := len(s.made("Stream")); tries > 2+gone {
					t.Errorf("%d tries", tries)
				}
			})
		})
	}
}

// All members were found just now where the server does not know them: they are tried in turn, and not without a pause.
func TestAServerThatKnowsNoMemberIsNotAskedWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.verdict = func(string, *fault.Error) Verdict { return Later }
		a.join(alice, bob, carol)
		pass(time.Minute)
		s.set(func() { s.refuse = on("Stream", moved()) })
		s.cut(errReset)
		before := len(s.made("Stream"))
		pass(time.Minute)
		if n := len(s.made("Stream")) - before; n < 12 || n > 40 {
			t.Errorf("%d tries within a minute", n)
		}
	})
}

func TestAReportThatAMailboxMovedHasItLeaveAndTheOthersAreOpenedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.verdict = func(string, *fault.Error) Verdict { return Leaves }
		list := a.join(alice, bob)
		pass(time.Minute)
		f := lostSubscription(list[0].box.Record().Subscription)
		f.Moved, f.Remedy, f.After = true, fault.Wait, 10*time.Minute
		s.say(said{err: f})
		pass(firstWait + time.Second)
		if list[0].listens() || !list[1].listens() || len(s.made("Unsubscribe")) != 1 {
			t.Errorf("given back: %+v", s.made("Unsubscribe"))
		}
		if got := s.alive(); !slices.Equal(got, []int{1}) {
			t.Errorf("streams with %v subscriptions are open", got)
		}
		s.tell(alice, "at the old place")
		synctest.Wait()
		if len(list[0].told()) > 0 {
			t.Error("an item of the old place was told of")
		}
	})
}

func TestAReportHasTheStreamOpenedAgainSoonHoweverLongItsSubscriptionHasToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob)
		pass(time.Minute)
		f := lostSubscription(list[0].box.Record().Subscription)
		f.Remedy, f.After = fault.Wait, 10*time.Minute
		s.say(said{err: f})
		pass(firstWait + time.Second)
		if !list[0].listens() || !list[1].listens() {
			t.Error("the server works, and its stream is not opened again")
		}
	})
}

func TestAStreamIsOpenedSoonWithThoseWhoStayWhereOthersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.verdict = func(address string, _ *fault.Error) Verdict {
			if address == alice {
				return Leaves
			}
			return Stays
		}
		list := a.join(alice, bob)
		pass(time.Minute)
		id := list[0].box.Record().Subscription
		s.set(func() {
			s.refuse = func(c call) error {
				if c.op != "Stream" || !slices.Contains(c.ids, id) {
					return nil
				}
				f := denied(fault.Mailbox, fault.Wait, 10*time.Minute)
				f.Moved = true
				return f
			}
		})
		s.cut(errReset)
		pass(firstWait + 2*time.Second)
		if list[0].listens() || !list[1].listens() {
			t.Errorf("%+v", s.calls)
		}
	})
}

func TestAMailboxThatIsUnknownWhereItIsSubscribedLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		verdict  Verdict
		listings int
		calls    int
	}{"at once": {Leaves, 1, 1}, "later": {Later, 2, 1}, "never": {Stays, 1, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				s.refuse = on("Subscribe", moved())
				a := newAccount(t, s, 200)
				a.verdict = func(string, *fault.Error) Verdict { return c.verdict }
				m := a.join(alice)[0]
				pass(time.Minute)
				if m.in(nil) != (c.verdict == Leaves) || m.doubts != 1 || m.listings() != c.listings || len(s.made("Subscribe")) != c.calls {
					t.Errorf("left: %v; doubted %d times, listed %d times", m.in(nil), m.doubts, m.listings())
				}
			})
		})
	}
}

// Whoever is asked whether a mailbox moved may have found it again before the answer has been dealt with.
func TestAMailboxThatIsFoundAgainAtOnceDoesNotLeaveItsNewGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(time.Minute)
		a.verdict = func(string, *fault.Error) Verdict {
			m.Leave()
			there := here(alice)
			there.URL = "https://other.example"
			m.Join(there)
			return Leaves
		}
		f := lostSubscription(m.box.Record().Subscription)
		f.Moved = true
		s.say(said{err: f})
		pass(10 * time.Second)
		if !m.listens() {
			t.Error("it is listened to nowhere")
		}
	})
}

func TestAReportAboutAMailboxThatLeftConcernsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.verdict = func(string, *fault.Error) Verdict { return Leaves }
		m := a.join(alice, bob)[0]
		pass(time.Minute)
		f := lostSubscription(m.box.Record().Subscription)
		f.Moved = true
		g := m.group
		m.Leave()
		g.lose(t.Context(), map[string]*Member{"an older one": m.Member}, lostSubscription("an older one"), false)
		s.say(said{err: f})
		pass(time.Second)
		if m.doubts > 0 || m.box.Record().Subscription == "" {
			t.Errorf("doubted %d times; its record has %q", m.doubts, m.box.Record().Subscription)
		}
	})
}

func TestASubscriptionThatIsAnsweredAfterItsMailboxLeftIsGivenBack(t *testing.T) {
	for name, again := range map[string]bool{"for good": false, "and has joined again": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				answer := make(chan struct{})
				s.wait = func(_ context.Context, c call) error {
					if c.op == "Subscribe" && c.mailbox == alice && len(s.made("Subscribe")) == 2 {
						<-answer
					}
					return nil
				}
				a := newAccount(t, s, 200)
				a.join(carol)
				pass(time.Second)
				m := a.join(alice)[0]
				pass(time.Second)
				m.Leave()
				if again {
					m.Join(here(alice))
				}
				pass(time.Second)
				close(answer)
				pass(3 * time.Second)
				back := s.made("Unsubscribe")
				if len(back) != 1 || back[0].mailbox != alice || m.box.Record().Subscription == back[0].ids[0] || m.listens() != again {
					t.Errorf("given back: %+v; it is listened to by %q", back, m.box.Record().Subscription)
				}
			})
		})
	}
}

func TestARefusalThatComesAfterItsMailboxLeftDoesNotConcernItsNewLocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		answer := make(chan struct{})
		there := here(alice)
		there.URL = "https://other.example"
		s.wait = func(_ context.Context, c call) error {
			if c.op != "Subscribe" || c.url == there.URL {
				return nil
			}
			<-answer
			return denied(fault.Mailbox, fault.Fix, time.Hour)
		}
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Second)
		m.Leave()
		m.Join(there)
		pass(3 * time.Second)
		close(answer)
		pass(time.Second)
		if f, _ := m.Failing(); f != nil || !m.listens() {
			t.Errorf("%v", f)
		}
	})
}

func TestARefusalThatComesAfterItsMailboxLeftIsForgotten(t *testing.T) {
	for name, again := range map[string]bool{"for good": false, "and has joined again": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				answer := make(chan struct{})
				s.wait = func(ctx context.Context, c call) error {
					switch {
					case c.op != "Subscribe":
						return nil
					case len(s.made("Subscribe")) > 1:
						pause.For(ctx, 10*time.Second)
						return ctx.Err()
					}
					<-answer
					return denied(fault.Mailbox, fault.Fix, time.Hour)
				}
				m := newAccount(t, s, 200).join(alice)[0]
				pass(time.Second)
				m.Leave()
				if again {
					m.Join(here(alice))
				}
				pass(time.Second)
				close(answer)
				pass(time.Second)
				if f, _ := m.Failing(); f != nil || m.listings() != 0 {
					t.Errorf("%v; listed %d times", f, m.listings())
				}
				pass(15 * time.Second)
				if m.listens() != again {
					t.Errorf("it is listened to: %v", m.listens())
				}
			})
		})
	}
}

func TestARefusalIsLoggedForItsMailboxUnlessItIsTheAccounts(t *testing.T) {
	for scope, want := range map[fault.Scope]int{fault.Mailbox: 1, fault.Account: 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			s.refuse = on("Subscribe", denied(scope, fault.Fix, time.Hour))
			a := newAccount(t, s, 200)
			core, logs := observer.New(zap.WarnLevel)
			a.Groups.o.Log = zap.New(core)
			a.join(alice)
			pass(time.Second)
			if n := logs.FilterMessage("a mailbox cannot be subscribed").Len(); n != want {
				t.Errorf("scope %v: said %d times, want %d", scope, n, want)
			}
		})
	}
}

func TestWhatAStreamBringsOfAMailboxThatLeftIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob)
		pass(time.Minute)
		s.set(func() { s.refuse = on("Unsubscribe", denied(fault.Mailbox, fault.Retry, 0)) })
		list[0].Leave()
		s.tell(alice, "an item of the old location")
		s.tell(bob, "new")
		pass(time.Second)
		if len(list[0].told()) > 0 || len(list[1].told()) != 1 {
			t.Errorf("%v, %v", list[0].told(), list[1].told())
		}
	})
}

func TestARefusalIsForgottenWhereTheMailboxLivesElsewhereAndKeptWhereItDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Fix, time.Hour))
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Second)
		m.Leave()
		m.Join(here(alice))
		pass(time.Minute)
		if n := len(s.made("Subscribe")); n != 1 {
			t.Errorf("%d calls at the same place", n)
		}
		m.Leave()
		there := here(alice)
		there.URL = "https://other.example"
		m.Join(there)
		pass(time.Minute)
		if n := len(s.made("Subscribe")); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestASubscriptionThatCannotBeWrittenDownIsNotMadeAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.mailbox(alice)
		a.store.Fail(io.ErrUnexpectedEOF)
		m.Join(here(alice))
		pass(10 * time.Minute)
		if made, back := len(s.made("Subscribe")), len(s.made("Unsubscribe")); made > 2 || made != back {
			t.Errorf("%d were made in ten minutes, %d given back", made, back)
		}
		if f, _ := m.Failing(); f == nil || f.Code != "state_away" {
			t.Errorf("%v", f)
		}
		a.store.Fail(nil)
		pass(time.Minute)
		if !m.listens() {
			t.Error("it is not listened to when the state is back")
		}
	})
}

func TestWhatWaitsForItsAccountIsTriedAtOnceWhenTheCredentialChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 2)
		list := a.join(alice, bob)
		pass(time.Minute)
		s.set(func() {
			s.refuse = func(c call) error { return denied(fault.Account, fault.Fix, time.Hour) }
		})
		s.cut(errReset)
		list = append(list, a.join(carol)...)
		pass(20 * time.Minute)
		for _, m := range list {
			if f, _ := m.Failing(); f == nil {
				t.Errorf("%s does not say why it is not listened to", m.address)
			}
		}
		s.set(func() { s.refuse = nil })
		a.Retry()
		pass(3 * time.Second)
		for _, m := range list {
			if !m.listens() {
				t.Errorf("%s is not listened to", m.address)
			}
		}
	})
}

func TestASubscriptionThatFailedForItsServerIsTriedWhenTheServerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(bob)
		pass(time.Minute)
		s.set(func() { s.refuse = func(call) error { return denied(fault.Server, fault.Fix, time.Hour) } })
		m := a.join(alice)[0]
		pass(time.Second)
		s.set(func() { s.refuse = nil })
		s.cut(io.EOF)
		pass(3 * time.Second)
		if !m.listens() {
			t.Error("it waits for an hour while its server answers")
		}
	})
}

func TestAMailboxThatIsListedWhereItWasUnknownIsSubscribedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", moved())
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		s.set(func() { s.refuse = nil })
		m.Listed()
		pass(30 * time.Second)
		if !m.listens() {
			t.Error("it waits for an hour")
		}
	})
}

func TestAListingDoesNotHaveAMailboxSubscribedThatWasRefusedForAnotherReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Fix, time.Hour))
		m := newAccount(t, s, 200).join(alice)[0]
		for range 10 {
			pass(5 * time.Minute)
			m.Listed()
		}
		if n := len(s.made("Subscribe")); n != 1 {
			t.Errorf("%d calls within an hour", n)
		}
	})
}

func TestAStreamThatBeatsAndTellsNothingIsReplacedAtTheSecondMessage(t *testing.T) {
	type late struct{ after, age time.Duration }
	for name, c := range map[string]struct {
		found   []late
		streams int
	}{
		"two within an hour":            {[]late{{0, 5 * time.Minute}, {50 * time.Minute, 5 * time.Minute}}, 2},
		"three":                         {[]late{{0, 5 * time.Minute}, {time.Minute, 5 * time.Minute}, {time.Minute, 5 * time.Minute}}, 2},
		"four":                          {[]late{{0, 5 * time.Minute}, {time.Minute, 5 * time.Minute}, {time.Minute, 5 * time.Minute}, {time.Minute, 5 * time.Minute}}, 3},
		"one":                           {[]late{{0, 5 * time.Minute}}, 1},
		"an hour apart":                 {[]late{{0, 5 * time.Minute}, {lateWindow, 5 * time.Minute}}, 2},
		"two within more than that":     {[]late{{0, 5 * time.Minute}, {lateWindow + 1, 5 * time.Minute}}, 1},
		"from before it was open":       {[]late{{0, 3 * time.Hour}, {0, 4 * time.Hour}}, 1},
		"just old enough":               {[]late{{0, hintDelay}, {0, hintDelay}}, 2},
		"too young to have been missed": {[]late{{0, hintDelay - 1}, {0, hintDelay - 1}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				list := newAccount(t, s, 200).join(alice, bob)
				pass(2 * time.Hour)
				for _, l := range c.found {
					pass(l.after)
					list[0].Unhinted(l.age)
				}
				pass(3 * time.Second)
				if got := len(s.made("Stream")); got != c.streams {
					t.Errorf("%d streams, want %d", got, c.streams)
				}
				for _, m := range list {
					if m.listings() != c.streams {
						t.Errorf("%s was listed %d times", m.address, m.listings())
					}
				}
			})
		})
	}
}

func TestAMessageOfTheMomentAtWhichAStreamBeganCountsAgainstItAndNoneFromBefore(t *testing.T) {
	for before, streams := range map[time.Duration]int{0: 2, 1: 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			m := newAccount(t, s, 200).join(alice)[0]
			pass(time.Hour)
			since, _ := m.Listening()
			for range maxLate {
				m.Unhinted(time.Since(since) + before)
			}
			pass(3 * time.Second)
			if got := len(s.made("Stream")); got != streams {
				t.Errorf("%v before: %d streams, want %d", before, got, streams)
			}
		})
	}
}

func TestALostSubscriptionThatCannotBeRecordedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		core, logs := observer.New(zap.WarnLevel)
		a.Groups.o.Log = zap.New(core)
		list := a.join(alice, bob)
		pass(time.Minute)
		lose := func(ctx context.Context, m *mailbox, want int, when string) {
			t.Helper()
			id := m.box.Record().Subscription
			m.group.lose(ctx, map[string]*Member{id: m.Member}, lostSubscription(id), false)
			if n := logs.FilterMessage("a lost subscription could not be recorded").Len(); n != want {
				t.Errorf("%s: %d warnings, want %d", when, n, want)
			}
		}
		ended, end := context.WithCancel(t.Context())
		end()
		lose(t.Context(), list[0], 0, "recorded")
		a.store.Fail(io.ErrUnexpectedEOF)
		lose(ended, list[1], 0, "the process ends")
		lose(t.Context(), list[1], 1, "the state is away")
		a.store.Fail(nil)
		if _, _, err := a.book.Remove(t.Context(), bob); err != nil {
			t.Fatal(err)
		}
		pass(2 * subscriptions.Asleep)
		if err := a.book.Bury(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		lose(t.Context(), list[1], 1, "the record has gone with its last device")
	})
}

// A loop that spins has the fake clock stand still, and the test run into its time limit.
func TestAGroupWhoseStreamSpeaksOfNobodyThatIsLeftRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		newAccount(t, s, 200).join(alice)
		pass(time.Minute)
		s.set(func() { s.refuse = on("Subscribe", denied(fault.Mailbox, fault.Wait, 5*time.Minute)) })
		s.forget(alice) // the stream says so and stays open
		pass(time.Hour)
		if n := len(s.made("Subscribe")); n > 15 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

func TestReportsOfAStreamAreKeptUpToABound(t *testing.T) {
	r := &reading{signals: signals{reported: make(chan struct{}, 1)}}
	for i := range 3 * maxReports {
		r.report(lostSubscription(fmt.Sprint(i)))
	}
	if n := len(r.takeReports()); n != maxReports {
		t.Errorf("%d reports are kept", n)
	}
}

func TestAMailboxWithoutADeviceIsNotSubscribedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.mailbox(alice)
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Subscribe" {
				_, _, err := a.book.Remove(ctx, alice)
				return err
			}
			return nil
		}
		m.Join(here(alice))
		pass(time.Hour)
		if made, back := len(s.made("Subscribe")), len(s.made("Unsubscribe")); made != 1 || back != 1 {
			t.Errorf("%d were made, %d given back", made, back)
		}
	})
}

func TestAMailboxThatGetsADeviceBeforeItLeavesIsListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.mailbox(alice)
		removed := false
		s.wait = func(ctx context.Context, c call) error {
			if c.op != "Subscribe" || removed {
				return nil
			}
			removed = true
			_, _, err := a.book.Remove(ctx, alice)
			return err
		}
		m.Join(here(alice))
		pass(time.Minute)
		a.mailbox(alice)
		pass(time.Minute)
		if !m.listens() {
			t.Error("it is not")
		}
	})
}

func TestTheEndOfTheProcessEndsStreamsAndKeepsSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 1)
		list := a.join(alice, bob)
		pass(time.Minute)
		a.Close()
		for _, m := range list {
			m.Leave() // as a mailbox does that loses its last device just then
			m.Join(here(m.address))
			if m.box.Record().Subscription == "" {
				t.Error("a subscription is forgotten")
			}
		}
		if late := a.join(carol)[0]; late.group != nil {
			t.Error("a group has begun after the end")
		}
		pass(time.Minute)
		if len(s.alive()) > 0 || len(s.made("Unsubscribe")) > 0 || len(s.made("Stream")) > 2 {
			t.Errorf("%+v", s.calls)
		}
	})
}

func TestARecordThatChangedKeepsItsSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		m := a.join(alice)[0]
		pass(time.Minute)
		before := m.box.Record()
		if before.Subscription == "" || time.Since(before.Subscribed) > time.Minute {
			t.Fatalf("%+v", before)
		}
		s.say(said{err: lostSubscription("one of another time")})
		pass(time.Minute)
		if err := m.box.Update(t.Context(), func(*subscriptions.Draft) {}); err != nil || m.box.Record().Subscription != before.Subscription {
			t.Errorf("%v, %q", err, m.box.Record().Subscription)
		}
	})
}
