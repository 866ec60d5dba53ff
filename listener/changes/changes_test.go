package changes

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
)

func TestAMailboxIsSubscribedAndThenListedAndToldOfMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.wait = time.Second
		m := newAccount(t, s).join(alice)[0]
		pass(500 * time.Millisecond)
		if m.listens() || m.listings() > 0 || m.Awaits() != "subscription: being made" || m.failing() != "" {
			t.Fatalf("listens %v, %d listings, %s, %s", m.listens(), m.listings(), m.Awaits(), m.failing())
		}
		pass(2 * time.Second)
		if !m.listens() || m.listings() != 1 {
			t.Fatalf("listens %v, %d listings once it is subscribed", m.listens(), m.listings())
		}
		x := s.of(t, alice)
		if life := time.Until(x.expires); life < 6*24*time.Hour || life > 7*24*time.Hour {
			t.Errorf("it lives for %v", life)
		}
		if w := s.post(x.mail("AAMk1"), x.mail("AAMk2")); w.Code != 202 {
			t.Errorf("answered %d", w.Code)
		}
		synctest.Wait()
		if told := m.told(); !slices.Equal(told, []string{"AAMk1", "AAMk2"}) {
			t.Errorf("told of %v", told)
		}
		pass(10 * time.Minute)
		if m.listings() != 1 {
			t.Errorf("%d listings: nothing was lost", m.listings())
		}
	})
}

func TestTheNonceIsWrittenDownBeforeThePostAndTheIDAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		asked := ""
		s.posted = func() {
			r := m.box.Record().Graph
			if r == nil || r.Asked == "" || r.ID != "" {
				t.Errorf("before the POST the record has %+v", r)
				return
			}
			asked = r.Asked
		}
		m.Join(here(alice))
		pass(time.Second)
		r, x := m.box.Record(), s.of(t, alice)
		if r.Graph.ID != x.id || r.Graph.Nonce != asked || r.Graph.Asked != "" || !r.Graph.Expires.Equal(x.expires) {
			t.Errorf("after it, it has %+v, and the server %+v", r.Graph, x)
		}
		if state := a.book.Secret().ClientState(r.ID, r.Graph.Nonce); x.state != state || len(state) < 22 || len(state) > 128 {
			t.Errorf("the client state is %q, want %q", x.state, state)
		}
	})
}

func TestAWarmRestartKeepsSubscriptionsAndMakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice, bob)
		pass(time.Second)
		pass(time.Hour)
		a.restart()
		posts := s.count("POST")
		m := a.join(alice, bob)[0]
		pass(time.Second)
		if !m.listens() || m.listings() != 1 {
			t.Errorf("listens %v, %d listings", m.listens(), m.listings())
		}
		s.post(s.of(t, alice).mail("AAMk1"))
		synctest.Wait()
		if len(m.told()) != 1 {
			t.Error("a kept subscription tells nothing")
		}
		pass(2 * time.Hour)
		if n := s.count("POST") - posts; n != 0 || s.count("DELETE") != 0 || len(s.alive()) != 2 {
			t.Errorf("%d subscriptions made, %d removed, %d there", n, s.count("DELETE"), len(s.alive()))
		}
	})
}

func TestAKillBetweenThePostAndItsAnswerLeavesOneSubscription(t *testing.T) {
	for name, unique := range map[string]bool{"Graph takes a second one": false, "Graph takes none": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.unique = unique
				a := newAccount(t, s)
				m := a.member(alice)
				s.posted = func() { a.store.Fail(fmt.Errorf("killed")) } // nothing is written from the answer on
				s.refuse = func(op, _ string) error {
					if op == "DELETE" {
						return fmt.Errorf("killed")
					}
					return nil
				}
				m.Join(here(alice))
				pass(100 * time.Millisecond)
				if len(s.alive()) == 0 {
					t.Fatal("no subscription was made")
				}
				first := s.of(t, alice)
				s.set(func() { s.posted, s.refuse = nil, nil })
				a.store.Fail(nil)
				a.restart()
				m = a.join(alice)[0]
				pass(time.Second)
				pass(sweepAfter + unknownFor + time.Minute)
				alive := s.alive()
				if len(alive) != 1 || alive[0].id != m.box.Record().Graph.ID || !m.listens() {
					t.Fatalf("there are %v, and the record has %+v", alive, m.box.Record().Graph)
				}
				if alive[0].state != first.state {
					t.Error("the nonce that was written down was not used again")
				}
				s.post(first.mail("AAMk1"), alive[0].mail("AAMk2"))
				synctest.Wait()
				if told := m.told(); !slices.Equal(told, []string{"AAMk2"}) && first.id != alive[0].id {
					t.Errorf("told of %v", told)
				}
			})
		})
	}
}

func TestAMailboxThatLeavesAndComesBackKeepsItsSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.join(alice, bob)[0]
		pass(time.Second)
		x := s.of(t, alice)
		m.Leave()
		s.post(x.mail("AAMk1")) // it may live elsewhere, under other ids
		pass(time.Minute)
		if m.listens() || len(m.told()) != 0 {
			t.Error("it is still told of")
		}
		m.Join(here(alice))
		pass(time.Second)
		if !m.listens() || m.listings() != 2 || s.count("POST", alice) != 1 || s.count("DELETE") != 0 {
			t.Errorf("listens %v, %d listings, %d made, %d removed", m.listens(), m.listings(), s.count("POST", alice), s.count("DELETE"))
		}
		s.post(x.mail("AAMk2"))
		pass(2 * parkedFor)
		if len(m.told()) != 1 || len(s.alive()) != 2 {
			t.Errorf("told of %v, %d subscriptions", m.told(), len(s.alive()))
		}
	})
}

// A mailbox leaves and comes back while its first subscription is being made: the call of before ends last, and takes nothing from the next.
func TestAMailboxThatComesBackWhileItIsSubscribedIsToldOfItsMail(t *testing.T) {
	for name, first := range map[string]error{"it was made": nil, "it was refused": fmt.Errorf("refused")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				var made atomic.Bool
				s.refuse = func(op, _ string) error {
					if op == "POST" && made.CompareAndSwap(false, true) {
						<-time.After(20 * time.Second)
						return first
					}
					return nil
				}
				m := newAccount(t, s).join(alice)[0]
				pass(time.Second)
				m.Leave()
				m.Join(here(alice))
				pass(time.Minute)
				if !m.listens() || len(s.alive()) != 1 {
					t.Fatalf("listens %v, there are %v", m.listens(), s.alive())
				}
				s.post(s.of(t, alice).mail("AAMk1"))
				synctest.Wait()
				if len(m.told()) != 1 {
					t.Error("a subscription that was made tells nothing")
				}
			})
		})
	}
}

func TestASubscriptionEndsWhereItsMailboxDoesNotComeBack(t *testing.T) {
	for name, forsake := range map[string]bool{"as is soon known": true, "for long": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				m := newAccount(t, s).join(alice, bob)[0]
				pass(time.Second)
				m.Leave()
				if forsake {
					m.Forsake()
					pass(time.Second)
				} else {
					pass(parkedFor + time.Second)
				}
				if alive := s.alive(); len(alive) != 1 || alive[0].mailbox != bob {
					t.Errorf("there are %v", alive)
				}
				if r := m.box.Record().Graph; r != nil {
					t.Errorf("the record still has %+v: the next start would take it up", r)
				}
				m.Join(here(alice))
				pass(time.Second)
				if !m.listens() || len(s.alive()) != 2 {
					t.Error("it does not come back")
				}
			})
		})
	}
}

// It was tried three times within a tenth of a second, and Graph went on telling of the mail of somebody who was not enrolled any more.
func TestASubscriptionThatCannotBeRemovedNowIsRemovedLater(t *testing.T) {
	for name, refused := range map[string]*fault.Error{
		"too many requests": {Op: "DELETE", Code: graph.CodeThrottled, Scope: fault.Mailbox, Remedy: fault.Wait, After: 30 * time.Second},
		"others were":       {Op: "DELETE", Code: graph.CodeHeld, Scope: fault.Mailbox, Remedy: fault.Retry, After: 500 * time.Millisecond},
		"a fault":           {Op: "DELETE", Code: "InternalServerError", Scope: fault.Mailbox, Remedy: fault.Wait},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				m := newAccount(t, s).join(alice, bob)[0]
				pass(time.Second)
				s.set(func() {
					s.refuse = func(op, _ string) error {
						if op == "DELETE" {
							return refused
						}
						return nil
					}
				})
				m.Leave()
				m.Forsake()
				pass(10 * time.Second)
				s.set(func() { s.refuse = nil })
				pass(time.Minute)
				if alive := s.alive(); len(alive) != 1 || alive[0].mailbox != bob {
					t.Errorf("there are %v", alive)
				}
			})
		})
	}
}

// The subscription of a mailbox that was away for long is to be removed, and that waits since all writes do.
func TestAMailboxThatComesBackBeforeItsSubscriptionIsRemovedIsToldOfItsMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.join(alice)[0]
		pass(time.Second)
		m.Leave()
		pass(parkedFor - time.Second)
		s.set(func() {
			s.refuse = func(string, string) error {
				return &fault.Error{Op: "POST", Code: "refused", Scope: fault.Account, Remedy: fault.Fix}
			}
		})
		a.join(bob)
		pass(10 * time.Second)
		m.Join(here(alice))
		s.set(func() { s.refuse = nil })
		pass(2 * firstHold)
		s.post(s.of(t, alice).mail("AAMk1"))
		synctest.Wait()
		if r := m.box.Record().Graph; !m.listens() || len(m.told()) != 1 || r == nil || r.ID != s.of(t, alice).id {
			t.Errorf("listens %v, told of %v, the record has %+v", m.listens(), m.told(), r)
		}
	})
}

func TestASubscriptionEndsAtOnceWithTheLastDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.join(alice)[0]
		pass(time.Second)
		if _, ok, err := a.book.Remove(context.Background(), "phone-of-"+alice); !ok || err != nil {
			t.Fatal(ok, err)
		}
		m.Leave()
		pass(time.Second)
		if len(s.alive()) != 0 {
			t.Error("it outlives the device")
		}
	})
}

func TestAMailboxThatGetsADeviceBeforeItLeavesIsListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		s.posted = func() {
			s.set(func() { s.posted = nil })
			if _, _, err := a.book.Remove(context.Background(), "phone-of-"+alice); err != nil {
				t.Error(err)
			}
		}
		m.Join(here(alice))
		pass(time.Minute)
		posts := s.count("POST")
		a.member(alice)
		pass(time.Minute)
		if !m.listens() || posts != 1 {
			t.Errorf("listens: %v; %d were made without a device", m.listens(), posts)
		}
	})
}

func TestAnotherPublicURLHasAllSubscriptionsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice)
		pass(time.Second)
		old := s.of(t, alice)
		a.Close()
		a.public = "https://bell2.contoso.example"
		a.store.Reopen()
		a.start()
		s.set(func() { s.unique = true })
		m := a.join(alice)[0]
		pass(10 * time.Second)
		if alive := s.alive(); len(alive) != 1 || alive[0].id == old.id || !strings.HasPrefix(alive[0].url, a.public+Path) || !m.listens() {
			t.Errorf("there are %v, listens %v", alive, m.listens())
		}
	})
}

func TestWithoutAPublicURLMailboxesArePolledAndThatIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice)
		pass(time.Second)
		a.Close()
		a.public = ""
		a.store.Reopen()
		a.start()
		m := a.join(alice)[0]
		pass(20 * time.Second)
		if n := len(s.alive()); n != 0 || m.box.Record().Graph != nil {
			t.Errorf("%d subscriptions are left, and the record has %+v", n, m.box.Record().Graph)
		}
		before := m.listings()
		pass(10 * time.Minute)
		if n := m.listings() - before; n < 7 || n > 10 {
			t.Errorf("%d polls in ten minutes", n)
		}
		f, _ := m.Failing()
		if f == nil || f.Code != CodeNowhere || f.Scope != fault.Mailbox || !strings.Contains(f.Text, "every 1m0s") {
			t.Errorf("it says %v", f)
		}
		m.Unhinted(30 * time.Second) // mail came in
		before = m.listings()
		pass(5 * time.Minute)
		if n := m.listings() - before; n < 11 || n > 15 {
			t.Errorf("%d polls of a busy mailbox in five minutes", n)
		}
		pass(busyFor)
		before = m.listings()
		pass(10 * time.Minute)
		if n := m.listings() - before; n < 7 || n > 10 {
			t.Errorf("%d polls in ten minutes once it is quiet again", n)
		}
	})
}

func TestSubscriptionsAreMadeEvenlyWithinGraphsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mailboxes = 4_000 // 15,000 take 45 s with the race detector, and are made at the same rate
		s := newServer()
		s.wait = time.Second
		a := newAccount(t, s)
		list := make([]*mailbox, mailboxes)
		for i := range list {
			list[i] = a.member(address(i))
		}
		for i, m := range list {
			m.Join(here(address(i)))
		}
		pass(mailboxes/writesASecond*time.Second + 10*time.Second)
		if n := s.count("POST"); n != mailboxes || len(s.alive()) != mailboxes {
			t.Fatalf("%d calls, %d subscriptions", n, len(s.alive()))
		}
		for i := range s.times {
			if end := i + 1000; end < len(s.times) && s.times[end].Sub(s.times[i]) < 20*time.Second {
				t.Fatalf("1,000 calls within %v", s.times[end].Sub(s.times[i]))
			}
		}
		for _, m := range list {
			if !m.listens() {
				t.Fatal(m.address, "is not listened to")
			}
		}
	})
}

func TestSubscriptionsAreRenewedForTwoWeeksAndNeverMadeAgain(t *testing.T) {
	for name, longest := range map[string]time.Duration{"as long as is asked for": 0, "a day": 23 * time.Hour, "45 minutes": 45 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.longest = longest
				a := newAccount(t, s)
				const mailboxes = 40
				for i := range mailboxes {
					a.join(address(i))
				}
				pass(sweepAfter + time.Minute)
				goroutines := runtime.NumGoroutine()
				for range 14 * 24 {
					pass(time.Hour)
					if n := len(s.alive()); n != mailboxes {
						t.Fatalf("%d subscriptions", n)
					}
				}
				if posts := s.count("POST"); posts != mailboxes || s.count("PATCH") < 2*mailboxes || s.count("DELETE") != 0 {
					t.Errorf("%d made, %d renewed, %d removed", posts, s.count("PATCH"), s.count("DELETE"))
				}
				life := longest
				if life == 0 {
					life = graph.Longest
				}
				if most := int(14*24*time.Hour/(life/2))*mailboxes + mailboxes; s.count("PATCH") > most {
					t.Errorf("%d renewals, at most %d are needed", s.count("PATCH"), most)
				}
				for _, m := range a.boxes {
					if !m.listens() || m.listings() != 1 {
						t.Errorf("listens %v, %d listings", m.listens(), m.listings())
					}
				}
				if n := runtime.NumGoroutine(); n > goroutines+5 { // one for a write may be ending; each renewal that left one would be 40 a time
					t.Errorf("%d goroutines, and %d at first", n, goroutines)
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				if a.writes.workers > 0 || a.writes.len() > 0 || len(a.current) != mailboxes {
					t.Errorf("%d workers, %d writes and %d subscriptions are kept", a.writes.workers, a.writes.len(), len(a.current))
				}
			})
		})
	}
}

// renewalRefused is a server that refuses a renewal, and a mailbox whose subscription was to be renewed just now.
func renewalRefused(t *testing.T, f *fault.Error) (*server, *mailbox) {
	t.Helper()
	s := newServer()
	s.refuse = func(op, _ string) error {
		if op == "PATCH" {
			return f
		}
		return nil
	}
	m := newAccount(t, s).join(alice)[0]
	pass(time.Second)
	pass(graph.Longest * 3 / 4)
	return s, m
}

func TestARenewalThatIsRefusedHasTheSubscriptionMadeAnew(t *testing.T) {
	for name, f := range map[string]*fault.Error{
		"404": {Op: "PATCH", Code: "ResourceNotFound", Scope: fault.Mailbox, Remedy: fault.Retry, Evidence: fault.Evidence{Status: 404}},
		"400": {Op: "PATCH", Code: "ErrorInvalidParameter", Scope: fault.Mailbox, Remedy: fault.Wait, Evidence: fault.Evidence{Status: 400}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, m := renewalRefused(t, f)
				if posts := s.count("POST"); posts != 2 || !m.listens() || m.listings() != 2 {
					t.Errorf("%d made, listens %v, %d listings", posts, m.listens(), m.listings())
				}
			})
		})
	}
}

func TestARenewalThatCannotBeMadeIsTriedAgainAndMailGoesOnBeingToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		s.set(func() {
			s.refuse = func(string, string) error {
				return &fault.Error{Op: "PATCH", Code: "connect", Scope: fault.Server, Remedy: fault.Wait}
			}
		})
		pass(graph.Longest * 7 / 10)
		if s.count("PATCH") < 2 || !m.listens() {
			t.Fatalf("%d tries, listens %v", s.count("PATCH"), m.listens())
		}
		if n := s.count("PATCH"); n > 24*60/4*5 {
			t.Errorf("%d tries", n)
		}
		s.set(func() { s.refuse = nil })
		pass(10 * time.Minute)
		if x := s.of(t, alice); time.Until(x.expires) < 6*24*time.Hour || s.count("POST") != 1 {
			t.Errorf("it expires in %v, and %d were made", time.Until(x.expires), s.count("POST"))
		}
	})
}

// Graph was seen to ask at the URL before it renews a subscription, and to answer 400 where it gets no answer: the subscription lives.
func TestARenewalThatIsRefusedForWhatPassesKeepsTheSubscription(t *testing.T) {
	for name, f := range map[string]*fault.Error{
		"handshake": {Op: "PATCH", Code: graph.CodeHandshake, Scope: fault.Mailbox, Remedy: fault.Fix, After: 4 * time.Minute, Evidence: fault.Evidence{Status: 400}},
		"a server":  {Op: "PATCH", Code: graph.CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: 5 * time.Second, Evidence: fault.Evidence{Status: 400}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, m := renewalRefused(t, f)
				if s.count("PATCH") < 2 || s.count("POST") != 1 || !m.listens() || m.listings() != 1 {
					t.Errorf("%d tries, %d made, listens %v, %d listings", s.count("PATCH"), s.count("POST"), m.listens(), m.listings())
				}
				s.set(func() { s.refuse = nil })
				pass(maxHold + time.Minute)
				if x := s.of(t, alice); time.Until(x.expires) < 6*24*time.Hour || s.count("POST") != 1 {
					t.Errorf("it expires in %v, and %d were made", time.Until(x.expires), s.count("POST"))
				}
			})
		})
	}
}

func TestASubscriptionThatExpiredIsMadeAnewAndTheMailboxListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		s.set(func() {
			s.refuse = func(string, string) error {
				return &fault.Error{Op: "PATCH", Code: "connect", Scope: fault.Server, Remedy: fault.Wait}
			}
		})
		pass(graph.Longest + time.Minute)
		if m.listens() {
			t.Error("it counts as listened to")
		}
		if m.failing() != "connect" {
			t.Errorf("it says %q", m.failing())
		}
		polled := m.listings()
		pass(5 * time.Minute)
		if n := m.listings() - polled; n < 3 {
			t.Errorf("%d polls in five minutes", n)
		}
		s.set(func() { s.refuse = nil })
		pass(maxPause + time.Minute)
		if !m.listens() || len(s.alive()) != 1 || m.failing() != "" {
			t.Errorf("listens %v, %d subscriptions, %s", m.listens(), len(s.alive()), m.failing())
		}
	})
}

func TestEachLifecycleNotificationHasItsReaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		pass(2 * time.Hour)
		x := s.of(t, alice)

		s.post(x.life(graph.ReauthorizationRequired), x.life(graph.ReauthorizationRequired), x.life(graph.ReauthorizationRequired))
		pass(authoriseWithin + time.Second)
		if n := s.count("PATCH"); n != 1 || s.count("POST") != 1 || m.listings() != 1 {
			t.Errorf("reauthorizationRequired, three times: %d renewals, %d made, %d listings", n, s.count("POST"), m.listings())
		}
		s.post(x.life(graph.ReauthorizationRequired)) // the token that it got ends soon, too
		pass(2*authoriseWithin + time.Second)
		if n := s.count("PATCH"); n != 2 {
			t.Errorf("at once again: %d renewals", n)
		}
		for range 60 {
			s.post(x.life(graph.ReauthorizationRequired))
			pass(time.Second)
		}
		if n := s.count("PATCH"); n > 2+60/int(authoriseWithin/time.Second)+1 {
			t.Errorf("each second for a minute: %d renewals", n)
		}

		s.post(x.life(graph.Missed))
		synctest.Wait()
		if m.listings() != 2 || !m.listens() {
			t.Errorf("missed: %d listings, listens %v", m.listings(), m.listens())
		}

		s.set(func() { delete(s.subs, x.id) })
		s.post(x.life(graph.SubscriptionRemoved))
		pass(time.Second)
		if s.count("POST") != 2 || !m.listens() || m.listings() < 3 || s.of(t, alice).id == x.id {
			t.Errorf("subscriptionRemoved: %d made, listens %v, %d listings", s.count("POST"), m.listens(), m.listings())
		}
	})
}

func TestThe15000ThatNeedANewTokenAtOnceAreRenewedWithinTheLimitAndBeforeNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mailboxes = 2000
		s := newServer()
		a := newAccount(t, s)
		for i := range mailboxes {
			a.join(address(i))
		}
		pass(2 * time.Minute)
		before := len(s.times)
		var list []told
		for _, x := range s.alive() {
			list = append(list, x.life(graph.ReauthorizationRequired))
		}
		s.post(list...)
		late := a.join(alice)[0]
		pass(mailboxes/writesASecond*time.Second + authoriseWithin)
		if n := s.count("PATCH"); n != mailboxes {
			t.Errorf("%d renewals", n)
		}
		if !late.listens() {
			t.Error("a new mailbox waits for ever")
		}
		times := s.times[before:]
		for i := range times {
			if end := i + 1000; end < len(times) && times[end].Sub(times[i]) < 20*time.Second {
				t.Fatalf("1,000 calls within %v", times[end].Sub(times[i]))
			}
		}
	})
}

func TestASubscriptionThatTellsNothingIsReplacedAfterTwoMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.unique = true
		m := newAccount(t, s).join(alice)[0]
		pass(time.Second)
		pass(time.Hour)
		first := s.of(t, alice)
		m.Unhinted(hintDelay - time.Second) // too early to say
		m.Unhinted(2 * time.Hour)           // from before it was made
		m.Unhinted(10 * time.Minute)
		pass(time.Minute)
		if s.count("POST") != 1 || !m.listens() {
			t.Fatalf("one message: %d made, listens %v", s.count("POST"), m.listens())
		}
		pass(2 * lateWindow)
		m.Unhinted(10 * time.Minute)
		pass(time.Second)
		if s.count("POST") != 1 {
			t.Fatal("two within more than an hour replace it")
		}
		m.Unhinted(10 * time.Minute)
		pass(5 * time.Second)
		if x := s.of(t, alice); x.id == first.id || len(s.alive()) != 1 || !m.listens() {
			t.Fatalf("two within an hour: %v, listens %v", s.alive(), m.listens())
		}
		// The new one tells nothing either.
		pass(time.Hour)
		m.Unhinted(10 * time.Minute)
		m.Unhinted(10 * time.Minute)
		pass(time.Minute)
		if m.listens() || m.failing() != CodeUntold {
			t.Fatalf("listens %v, %s: nothing is told of", m.listens(), m.failing())
		}
		if f, _ := m.Failing(); strings.Contains(f.Error(), s.receiver.path) || !strings.Contains(f.Text, publicURL+Path) {
			t.Errorf("it says %v", f)
		}
		polled := m.listings()
		pass(10 * time.Minute)
		if m.listings()-polled < 7 {
			t.Error("it is not polled")
		}
		posts := s.count("POST")
		pass(3 * time.Hour)
		if s.count("POST") != posts {
			t.Error("it is replaced again and again")
		}
		s.post(s.of(t, alice).mail("AAMk1"))
		pass(time.Second)
		if !m.listens() || m.failing() != "" || len(m.told()) != 1 {
			t.Errorf("listens %v, %s, told of %v once a notification has come", m.listens(), m.failing(), m.told())
		}
	})
}

func TestARightThatIsMissingHasAllMailboxesPolledAndOneTriesFromTimeToTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		s := newServer()
		s.refuse = func(op, _ string) error {
			if op == "POST" {
				return &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true,
					Text: "the app may not subscribe"}
			}
			return nil
		}
		a := newAccount(t, s)
		a.Keeper.o.Log = zap.New(core)
		for i := range 500 {
			a.join(address(i))
		}
		pass(10 * time.Second)
		for _, m := range a.boxes {
			f, next := m.Failing()
			if f == nil || f.Code != graph.CodeDenied || f.Scope != fault.Mailbox || !f.Untold || next.IsZero() {
				t.Fatalf("%s says %v", m.address, f)
			}
		}
		if n := s.count("POST"); n > 2*maxWriting {
			t.Errorf("%d mailboxes tried it", n)
		}
		posts := s.count("POST")
		pass(2 * time.Hour)
		if n := s.count("POST") - posts; n < 4 || n > 20 {
			t.Errorf("%d tries in two hours", n)
		}
		if n := logs.FilterMessageSnippet("cannot be made; the mailboxes are polled").Len(); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		s.set(func() { s.refuse = nil })
		pass(maxHold + time.Minute)
		for _, m := range a.boxes {
			if !m.listens() {
				t.Fatalf("%s is not listened to once the right is there: %s", m.address, m.failing())
			}
		}
	})
}

// Where few mailboxes are, each had been refused when all were held, and nobody was left to try before an hour was over.
func TestHoweverFewMailboxesAreRefusedOneTriesFromTimeToTime(t *testing.T) {
	for _, mailboxes := range []int{1, 2, witnesses, 40} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			s.refuse = func(op, _ string) error {
				if op == "POST" {
					return &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}
				}
				return nil
			}
			a := newAccount(t, s)
			for i := range mailboxes {
				a.join(address(i))
			}
			pass(10 * time.Second)
			posts := s.count("POST")
			for began := time.Now(); time.Since(began) < 2*time.Hour; pass(time.Minute) {
				f, next := a.boxes[0].Failing()
				if late := time.Since(next); f == nil || late > 10*time.Second {
					t.Fatalf("of %d mailboxes the first says %v, next try %v ago", mailboxes, f, late)
				}
			}
			if n := s.count("POST") - posts; n < 8 || n > 20+mailboxes {
				t.Errorf("%d mailboxes: %d tries in two hours", mailboxes, n)
			}
			s.set(func() { s.refuse = nil })
			pass(maxHold + time.Minute)
			for _, m := range a.boxes {
				if !m.listens() {
					t.Fatalf("%s of %d is not listened to once the right is there: %s", m.address, mailboxes, m.failing())
				}
			}
		})
	}
}

func TestOneMailboxThatIsRefusedHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(op, mailbox string) error {
			if op == "POST" && mailbox == alice {
				return &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true}
			}
			return nil
		}
		a := newAccount(t, s)
		m := a.join(alice, bob, address(1), address(2))
		pass(time.Second)
		for _, other := range m[1:] {
			if !other.listens() {
				t.Error(other.address, "is not listened to")
			}
		}
		if m[0].failing() != graph.CodeDenied {
			t.Errorf("it says %q", m[0].failing())
		}
	})
}

// Mailboxes that are out of the app's scope stay so, and what they meet is theirs: nobody else waits for it, and nothing is said of all.
func TestMailboxesThatStayRefusedHoldNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		s := newServer()
		s.refuse = func(op, mailbox string) error {
			if op == "POST" && strings.HasPrefix(mailbox, "out") {
				return &fault.Error{Op: "POST subscriptions", Code: graph.CodeDenied, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Untold: true, Unsupported: true}
			}
			return nil
		}
		a := newAccount(t, s)
		a.Keeper.o.Log = zap.New(core)
		for i := range 2 * witnesses {
			a.join(fmt.Sprintf("out%d@contoso.example", i), address(i))
		}
		pass(time.Minute)
		posts := s.count("POST")
		for hour := range 100 {
			pass(time.Hour + time.Duration(hour)*time.Second)
			m := a.join(address(1000 + hour))[0]
			pass(time.Second)
			if !m.listens() {
				t.Fatalf("after %d hours a mailbox that comes is not listened to: %s", hour+1, m.failing())
			}
		}
		if n := s.count("POST") - posts; n > 2*witnesses*103+100 {
			t.Errorf("%d tries in a hundred hours", n)
		}
		if n := logs.FilterMessageSnippet("cannot be made; the mailboxes are polled").Len(); n > 0 {
			t.Errorf("it was said of all %d times", n)
		}
	})
}

// Graph answers 504 where the server of one mailbox does not answer.
func TestOneMailboxWhoseServerIsAwayHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(op, mailbox string) error {
			if op == "POST" && mailbox == alice {
				return &fault.Error{Op: "POST subscriptions", Code: "HTTP 504", Scope: fault.Server, Remedy: fault.Wait, After: 5 * time.Second}
			}
			return nil
		}
		a := newAccount(t, s)
		a.join(alice)
		for i := range 400 {
			a.join(address(i))
		}
		pass(15 * time.Second)
		for _, m := range a.boxes[1:] {
			if !m.listens() {
				t.Fatalf("%s is not listened to: %s", m.address, m.failing())
			}
		}
		pass(10 * time.Minute)
		m := a.join(bob)[0]
		pass(time.Second)
		if !m.listens() {
			t.Errorf("a mailbox that comes is not listened to: %s", m.failing())
		}
	})
}

func TestCallbacksThatDoNotComeHaveMailboxesPolledUntilTheyDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.unreached = true
		a := newAccount(t, s)
		m := a.join(alice, bob, address(1))[0]
		pass(20 * time.Second)
		if m.failing() != graph.CodeHandshake || m.listens() {
			t.Fatalf("%s, listens %v", m.failing(), m.listens())
		}
		polled := m.listings()
		pass(10 * time.Minute)
		if m.listings()-polled < 7 {
			t.Errorf("%d polls in ten minutes", m.listings()-polled)
		}
		s.set(func() { s.unreached = false })
		a.Retry()
		pass(time.Second)
		if !m.listens() {
			t.Error("it is not subscribed at once, though a person has changed something")
		}
	})
}

func TestWhatGraphHasAndNobodyKnowsIsRemovedAndWhatItLostIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		a.join(alice, bob)
		pass(time.Second)
		lost := s.of(t, bob)
		s.set(func() {
			delete(s.subs, lost.id)
			far := time.Now().Add(24 * time.Hour)
			s.subs["left"] = &sub{id: "left", url: publicURL + Path + "a-secret-of-before", expires: far}
			s.subs["others"] = &sub{id: "others", url: "https://crm.contoso.example/hook", expires: far}
		})
		a.restart()
		b := a.join(alice, bob)[1]
		pass(time.Second)
		pass(sweepAfter + unknownFor + time.Minute)
		var ids []string
		for _, x := range s.alive() {
			ids = append(ids, x.id)
		}
		if slices.Contains(ids, "left") || !slices.Contains(ids, "others") || len(ids) != 3 {
			t.Errorf("there are %v", ids)
		}
		if s.of(t, bob).id != b.box.Record().Graph.ID || !b.listens() || b.listings() < 2 {
			t.Error("a subscription that Graph has lost is not made anew")
		}
		if s.count("POST", alice) != 1 {
			t.Error("a subscription that is there was made anew")
		}
	})
}

func TestAMailboxThatIsNotThereIsDoubtedAndLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuse = func(string, string) error {
			return &fault.Error{Op: "POST", Code: "MailboxNotEnabledForRESTAPI", Scope: fault.Mailbox, Remedy: fault.Fix, Moved: true, Elsewhere: true}
		}
		a := newAccount(t, s)
		a.verdict = func(*fault.Error) bool { return true }
		m := a.join(alice)[0]
		pass(time.Minute)
		if m.doubts != 1 || s.count("POST") != 1 || m.failing() != "" {
			t.Errorf("%d doubts, %d tries, %s", m.doubts, s.count("POST"), m.failing())
		}
	})
}

func TestWhatCannotBeWrittenDownIsNotLeftAtGraph(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		s.posted = func() { a.store.Fail(context.DeadlineExceeded) }
		m.Join(here(alice))
		pass(100 * time.Millisecond)
		s.set(func() { s.posted = nil })
		a.store.Fail(nil)
		pass(time.Minute)
		if alive := s.alive(); len(alive) != 1 || alive[0].id != m.box.Record().Graph.ID || !m.listens() {
			t.Errorf("there are %v, the record has %+v", alive, m.box.Record().Graph)
		}
	})
}

func TestWhileNothingCanBeWrittenDownTheClientStatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, newServer())
		a.join(alice, bob)
		a.store.Fail(context.DeadlineExceeded)
		pass(6 * time.Hour)
		r := a.o.Receiver
		r.mu.Lock()
		n := len(r.members)
		r.mu.Unlock()
		if n > 2 {
			t.Errorf("%d client states are known of two mailboxes", n)
		}
	})
}
