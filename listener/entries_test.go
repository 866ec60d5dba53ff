package listener

// Several exchange entries in one mail domain, and mailboxes that move between them.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestTheEntriesOfADomainAreAskedInTheirOrderAndRemembered(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		cloud.homes[bob] = true
		cloud.homes[alice] = true // the first that has it counts
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Second)
		s.listening("hq", alice)
		s.listening("cloud", bob)
		a, b := hq.come(alice), cloud.come(bob)
		synctest.Wait()
		s.accepted(1, "a", a)
		s.accepted(1, "b", b)
		if hq.looked() != 2 || cloud.looked() != 1 {
			t.Errorf("%d and %d looks", hq.looked(), cloud.looked())
		}
		s.stop()
		s.start()
		s.pass(time.Second)
		s.listening("hq", alice)
		s.listening("cloud", bob)
		if hq.looked() != 2 || cloud.looked() != 1 {
			t.Errorf("%d and %d looks after a restart: the locations are remembered", hq.looked(), cloud.looked())
		}
		s.stop()
		s.pass(locationAge)
		s.start()
		s.pass(time.Second)
		s.listening("cloud", bob)
		if cloud.looked() != 2 {
			t.Error("a location is taken as true for more than a day")
		}
	})
}

func TestOneEntryWithAURLIsTakenAsItIsConfigured(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		s.listening("hq", alice)
		if s.hq.looked() > 0 {
			t.Error("it was asked for")
		}
		id := s.record(alice).Subscription
		s.hq.set(func() { s.hq.readFail = row("ErrorNonExistentMailbox", "") })
		m := s.hq.come(alice)
		s.pass(10 * time.Minute)
		s.wantState(subscriptions.Failing, alice)
		s.hq.set(func() { s.hq.readFail = nil })
		s.pass(75 * time.Minute)
		s.listening("hq", alice)
		if s.hq.looked() > 0 || s.record(alice).Subscription != id {
			t.Error("it was looked for, and there is nowhere else")
		}
		s.accepted(1, "a", m)
	})
}

func TestASubscriptionBelongsToTheAccountAndTheLocationThatMadeIt(t *testing.T) {
	for name, change := range map[string]func(e *Entry){
		"another account": func(e *Entry) { e.Accounts[0].Name = "listener-02" },
		"another URL":     func(e *Entry) { e.URL = "https://new.contoso.example/EWS/Exchange.asmx" },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				id := s.record(alice).Subscription
				s.stop()
				s.entry = change
				s.start()
				s.pass(time.Minute)
				s.listening("hq", alice)
				if s.record(alice).Subscription == id {
					t.Error("it is kept")
				}
				m := s.hq.come(alice)
				synctest.Wait()
				s.accepted(1, "a", m)
			})
		})
	}
}

func TestAnEnrolmentThatPinsItsEntryIsLookedForThereOnly(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice, bob)
		cloud.homes[alice] = true
		s.start()
		enrol := func(id, mailbox, exchange string) {
			t.Helper()
			if _, _, err := s.l.Enrol(s.t.Context(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: id, Topic: "com.contoso.mail", Environment: "production", Exchange: exchange}, nil); err != nil {
				t.Fatal(err)
			}
			s.pass(time.Second)
		}
		enrol("a", alice, "cloud")
		s.listening("cloud", alice)
		enrol("b", bob, "cloud")
		if h := s.wantState(subscriptions.Failing, bob); !strings.Contains(h.Reason, "ErrorNonExistentMailbox") {
			t.Errorf("%+v", h)
		}
		enrol("b", bob, "") // the pin is taken off
		s.listening("hq", bob)
		enrol("a", alice, "hq") // and changed
		s.listening("hq", alice)
		m := hq.come(alice)
		synctest.Wait()
		s.accepted(1, "a", m)
	})
}

func TestWhileAnEntryCannotSayNoOtherIsAsked(t *testing.T) {
	busy := row("ErrorServerBusy", "")
	busy.After = 10 * time.Minute
	for name, err := range map[string]error{
		"throttled": busy, "away": row("HTTP 503", ""), "wrong password": row("HTTP 401", ""), "moving": row("ErrorMailboxMoveInProgress", ""),
		"not typed": errReset,
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				hq, cloud := s.hybrid(alice)
				cloud.homes[alice] = true
				hq.fails = err
				s.start()
				s.enrol("a", alice)
				s.pass(8 * time.Minute)
				h := s.wantState(subscriptions.Failing, alice)
				if cloud.looked() > 0 || h.Next.IsZero() || !strings.Contains(h.Reason, "hq") && name != "not typed" {
					t.Errorf("%d looks in the cloud; %+v", cloud.looked(), h)
				}
				hq.set(func() { hq.fails = nil })
				s.pass(10 * time.Minute)
				s.listening("hq", alice)
			})
		})
	}
}

func TestAMailboxThatNoEntryHasFailsWithWhatEachHasSaid(t *testing.T) {
	inScene(t, func(s *scene) {
		_, cloud := s.hybrid()
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		h := s.wantState(subscriptions.Failing, alice)
		for _, want := range []string{"mailbox_unknown", "hq", "cloud", "ErrorNonExistentMailbox"} {
			if !strings.Contains(h.Reason, want) {
				t.Errorf("%q does not say %s", h.Reason, want)
			}
		}
		if next := time.Until(h.Next); next < 50*time.Minute || next > 70*time.Minute || h.Account != "" {
			t.Errorf("the next try is in %v, with the account %q", next, h.Account)
		}
		cloud.set(func() { cloud.homes[alice] = true })
		s.pass(time.Hour + 2*time.Minute)
		s.listening("cloud", alice)
	})
}

// However a move is noticed, the mailbox is found at its new location, and stands in its log where it stood: nothing is lost, nothing is sent twice.
func TestAMailboxThatMovesBetweenEntriesWhileMailArrivesLosesNothing(t *testing.T) {
	for name, notice := range map[string]struct {
		how    func(from *exchange, subscription string)
		within time.Duration
	}{
		"the stream says that it is being moved": {func(from *exchange, id string) { from.reports(id, row("ErrorInvalidSubscription", "MailboxMove")) }, 5 * time.Second},
		"the stream says that it was moved":      {func(from *exchange, id string) { from.reports(id, row("ErrorProxyRequestNotAllowed", "")) }, 5 * time.Second},
		"its subscription is lost":               {func(from *exchange, id string) { from.reports(id, row("ErrorSubscriptionNotFound", "")) }, 15 * time.Second},
		"the stream is cut":                      {func(from *exchange, _ string) { from.end(errReset) }, 15 * time.Second},
		"a hint of before is read afterwards": {func(from *exchange, _ string) {
			for _, s := range from.streams {
				s.events <- streaming.Envelope{Events: []streaming.Event{{Subscription: s.ids[0], Item: "an old one"}}, At: time.Now()}
			}
		}, 5 * time.Second},
		"silence": {func(*exchange, string) {}, 31 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				hq, cloud := s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				s.enrol("behind", alice)
				s.pass(time.Hour)
				s.listening("hq", alice)
				id, old := s.record(alice).ID, s.record(alice).Subscription
				release := s.apns.hold("behind")
				all := []*message{hq.come(alice)} // before
				s.pass(time.Minute)
				hq.quietly(func() { all = append(all, hq.come(alice)) }) // its hint is lost
				all = append(all, hq.come(alice))                        // its hint is in flight
				hq.move(alice, cloud)
				all = append(all, cloud.come(alice)) // there, before anyone listens
				notice.how(hq, old)
				s.pass(100 * time.Millisecond)
				all = append(all, cloud.come(alice))
				s.pass(notice.within)
				s.listening("cloud", alice)
				all = append(all, cloud.come(alice)) // and after
				s.pass(time.Minute)
				s.accepted(1, "a", all...)
				release()
				s.in.TopicReady("com.contoso.mail", "production")
				s.pass(time.Minute)
				s.accepted(1, "behind", all...)
				s.inStep(alice)
				decisions, err := s.book.Mailbox(alice).Decisions(t.Context())
				if err != nil {
					t.Error(err)
				}
				for _, d := range decisions {
					if d.Reason == "gone" {
						t.Error("an item id of the old location was read at the new one")
					}
				}
				r := s.record(alice)
				if r.ID != id || r.Subscription == old || r.Subscription == "" {
					t.Errorf("where it stands in its log, or its subscription: %s, %q", r.ID, r.Subscription)
				}
				if len(cloud.givenBack()) > 0 {
					t.Errorf("%v was given back at the new location", cloud.givenBack())
				}
				// And back.
				cloud.move(alice, hq)
				back := hq.come(alice)
				cloud.end(errReset)
				s.pass(time.Minute)
				s.listening("hq", alice)
				last := hq.come(alice)
				s.pass(time.Second)
				s.accepted(1, "a", back, last)
				s.accepted(1, "a", all...)
				s.accepted(1, "behind", append(all, back, last)...)
				for _, l := range s.l.Load() {
					want := 0
					if l.Exchange == "hq" {
						want = 1
					}
					if l.Accounts[0].Mailboxes != want {
						t.Errorf("%+v", l)
					}
				}
			})
		})
	}
}

// The first mailboxes of a group by name, one of which a stream is opened as, have moved: the others notice nothing.
func TestThoseWhoMovedDoNotSilenceTheOthersOfTheirGroup(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		const n, moved = 12, 7
		for i := range n {
			hq.homes[address(i)] = true
		}
		s.start()
		for i := range n {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Hour)
		for i := range moved {
			hq.move(address(i), cloud)
		}
		looks := hq.looked()
		hq.end(errReset)
		s.pass(20 * time.Second)
		for i := range n {
			if i < moved {
				s.listening("cloud", address(i))
				continue
			}
			s.listening("hq", address(i))
			m := hq.come(address(i))
			synctest.Wait()
			s.accepted(1, fmt.Sprint("d", i), m)
		}
		if hq.looked() != looks+moved {
			t.Errorf("%d mailboxes were looked for at hq; %d moved", hq.looked()-looks, moved)
		}
	})
}

func TestASubscriptionThatIsAnsweredAfterItsMailboxMovedIsNotTakenForItsNewOne(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice, bob)
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() {
			hq.onSub = func(mailbox string) {
				if mailbox == alice {
					<-answer
				}
			}
		})
		hq.reports(s.record(alice).Subscription, row("ErrorSubscriptionNotFound", ""))
		s.pass(time.Second) // it is being subscribed anew
		hq.move(alice, cloud)
		s.mailbox(alice).work.List() // as a hint or the safety poll does
		s.pass(5 * time.Second)
		s.wantState(subscriptions.Listening, alice)
		close(answer)
		s.pass(time.Minute)
		s.listening("cloud", alice)
		s.listening("hq", bob)
		if id := s.record(alice).Subscription; !strings.HasPrefix(id, cloud.url) {
			t.Errorf("it is listened to by %s", id)
		}
		m, n := cloud.come(alice), hq.come(bob)
		synctest.Wait()
		s.accepted(1, "a", m)
		s.accepted(1, "b", n)
	})
}

// groupCalls is how many members of a group are subscribed at once.
const groupCalls = 8

func TestCredentialsDoNotFollowAMailboxThatMovesWhileItsGroupSubscribes(t *testing.T) {
	const zoe = "zoe@contoso.example"
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(zoe)
		for i := range groupCalls + 1 {
			hq.homes[address(i)] = true
		}
		s.start()
		for i := range groupCalls + 1 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.enrol("z", zoe)
		s.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() { hq.onSub = func(string) { <-answer } })
		for i := range groupCalls { // all but the anchor: as many as are subscribed at once, and zoe behind them
			hq.reports(s.record(address(i+1)).Subscription, row("ErrorSubscriptionNotFound", ""))
		}
		hq.reports(s.record(zoe).Subscription, row("ErrorSubscriptionNotFound", ""))
		s.pass(time.Second)
		hq.move(zoe, cloud)
		s.mailbox(zoe).work.List()
		s.pass(5 * time.Second)
		s.listening("cloud", zoe)
		close(answer) // hq goes on with zoe: it fails the test when it is asked for another location
		s.pass(time.Minute)
		s.listening("cloud", zoe)
		s.listening("hq", address(0), address(groupCalls))
	})
}

func TestALocationThatHasOnlyJustBeenConfirmedIsNotDoubted(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid(alice)
		hq.subFail = map[string]error{alice: row("ErrorMailboxStoreUnavailable", "")} // the Inbox answers, and its subscription does not come
		hq.readFail = row("ErrorMailboxStoreUnavailable", "")
		hq.come(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(20 * time.Second)
		if hq.looked() != 1 {
			t.Errorf("%d looks within seconds", hq.looked())
		}
		s.pass(30 * time.Minute)
		if hq.looked() < 2 || hq.looked() > 40 {
			t.Errorf("%d looks within half an hour", hq.looked())
		}
		m := hq.come(alice)
		hq.set(func() { hq.subFail, hq.readFail = nil, nil })
		s.pass(10 * time.Minute)
		s.listening("hq", alice)
		s.accepted(1, "a", m)
	})
}

func TestAMailboxThatMovesJustAfterItWasFoundIsFoundAgainWithinAMinute(t *testing.T) {
	for name, notice := range map[string]func(from *exchange, subscription string){
		"the stream says that it is being moved": func(from *exchange, id string) { from.reports(id, row("ErrorInvalidSubscription", "MailboxMove")) },
		"its subscription is lost":               func(from *exchange, id string) { from.reports(id, row("ErrorSubscriptionNotFound", "")) },
		"the stream is cut":                      func(from *exchange, _ string) { from.end(errReset) },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				hq, cloud := s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				s.pass(5 * time.Second)
				s.listening("hq", alice)
				subscription := s.record(alice).Subscription
				all := []*message{hq.come(alice)}
				s.pass(time.Second)
				hq.move(alice, cloud)
				notice(hq, subscription)
				all = append(all, cloud.come(alice))
				s.pass(time.Minute)
				s.listening("cloud", alice)
				all = append(all, cloud.come(alice))
				s.pass(time.Second)
				s.accepted(1, "a", all...)
			})
		})
	}
}

func TestAMailboxThatComesBackBeforeItWasMissedIsListenedToAgainWithinAMinute(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(5 * time.Second)
		subscription := s.record(alice).Subscription
		hq.move(alice, cloud)
		hq.reports(subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(5 * time.Second)
		cloud.move(alice, hq)
		all := []*message{hq.come(alice)}
		s.pass(time.Minute)
		s.listening("hq", alice)
		all = append(all, hq.come(alice))
		s.pass(time.Second)
		s.accepted(1, "a", all...)
	})
}

func TestAMailboxThatMovesWithinAListingOfADeviceBehindLosesNothing(t *testing.T) {
	for name, found := range map[string]bool{"and is still to be found": false, "and was found before the answer": true} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				hq, cloud := s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				s.enrol("behind", alice)
				s.pass(time.Hour)
				release := s.apns.hold("behind")
				var all []*message
				for range 250 { // more than a page
					all = append(all, hq.come(alice))
					synctest.Wait()
				}
				s.pass(time.Minute)
				moved := false
				hq.set(func() {
					hq.onList = func(_ string, offset int) {
						if offset == 0 || moved {
							return
						}
						moved = true
						hq.move(alice, cloud)
						if found {
							s.mailbox(alice).work.List()
							<-time.After(5 * time.Second)
						}
					}
				})
				release()
				s.in.TopicReady("com.contoso.mail", "production")
				s.pass(time.Minute)
				s.listening("cloud", alice)
				s.accepted(1, "a", all...)
				s.accepted(1, "behind", all...)
				s.inStep(alice)
			})
		})
	}
}

func TestAMailboxOnItsWayIsLookedForEveryFewMinutesAndAfterAnHourHourly(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		nowhere := &exchange{boxes: map[string]*folder{}, homes: map[string]bool{}}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		hq.move(alice, nowhere)
		hq.end(errReset)
		for range 11 {
			s.pass(5 * time.Minute)
			if h := s.wantState(subscriptions.Failing, alice); time.Until(h.Next) > 5*time.Minute {
				t.Errorf("the next try is in %v", time.Until(h.Next))
			}
		}
		s.pass(15 * time.Minute)
		if h := s.wantState(subscriptions.Failing, alice); time.Until(h.Next) < 40*time.Minute || h.Account != "" {
			t.Errorf("after an hour the next try is in %v, and it has the account %q", time.Until(h.Next), h.Account)
		}
		nowhere.move(alice, cloud)
		m := cloud.come(alice)
		s.pass(75 * time.Minute)
		s.listening("cloud", alice)
		s.accepted(1, "a", m) // in a summary, by now
	})
}

func TestAMailboxThatMovesToAFullEntryWaitsThereForRoom(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		cloud.homes[bob] = true
		s.also[0].MailboxesPerAccount = 1
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Hour)
		hq.move(alice, cloud)
		hq.end(errReset)
		m := cloud.come(alice)
		s.pass(10 * time.Minute)
		if h := s.wantState(subscriptions.WaitingForCapacity, alice); !strings.Contains(h.Reason, "cloud") {
			t.Errorf("%+v", h)
		}
		load := s.l.Load()
		if load[0].Accounts[0].Mailboxes != 0 || load[1].Accounts[0].Mailboxes != 1 || load[1].Waiting != 1 {
			t.Errorf("%+v", load)
		}
		s.remove("b")
		s.pass(5 * time.Second)
		s.listening("cloud", alice)
		s.accepted(1, "a", m)
		if load := s.l.Load(); load[1].Accounts[0].Mailboxes != 1 || load[1].Waiting != 0 {
			t.Errorf("%+v", load)
		}
	})
}

func TestAMailboxThatMovesWhileTheFirstEntryCannotSayWaitsAndDoesNotJump(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		cloud.homes[alice] = true
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.listening("cloud", alice)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		looks := cloud.looked()
		cloud.move(alice, hq)
		cloud.end(errReset)
		m := hq.come(alice)
		s.pass(20 * time.Minute)
		s.wantState(subscriptions.Failing, alice)
		if cloud.looked() > looks {
			t.Error("the second entry was asked while the first could not say")
		}
		hq.set(func() { hq.fails = nil })
		s.pass(5*time.Minute + time.Second)
		s.listening("hq", alice)
		s.accepted(1, "a", m)
	})
}

func TestASicknessOfAServerMovesNobody(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		hq.end(errReset)
		var all []*message
		for range 10 {
			all = append(all, hq.come(alice))
			s.pass(5 * time.Minute)
		}
		if cloud.looked() > 0 {
			t.Errorf("%d looks in the cloud", cloud.looked())
		}
		hq.set(func() { hq.fails = nil })
		s.pass(6 * time.Minute)
		s.listening("hq", alice)
		s.accepted(1, "a", all...)
	})
}

func TestRoomIsGivenInTheOrderOfWaiting(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.MailboxesPerAccount = 2 }
		s.start()
		for i := range 6 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		s.wantState(subscriptions.WaitingForCapacity, address(2), address(3), address(4), address(5))
		s.remove("d2") // the first in the queue goes
		s.remove("d0") // and one that was listened to
		s.pass(5 * time.Second)
		s.wantState(subscriptions.Listening, address(1), address(3))
		s.wantState(subscriptions.WaitingForCapacity, address(4), address(5))
		s.remove("d1")
		s.remove("d3")
		s.pass(5 * time.Second)
		s.wantState(subscriptions.Listening, address(4), address(5))
		if l := s.l.Load()[0]; l.Waiting != 0 || l.Accounts[0].Mailboxes != 2 {
			t.Errorf("%+v", l)
		}
	})
}

func TestOnlyTheMailboxesOfTheConfiguredServersAreListenedTo(t *testing.T) {
	const carol, dave = "carol@contoso.example", "dave@contoso.example"
	for name, configured := range map[string][]string{"short": {"ex01", "EX03"}, "full": {"EX01.contoso.example", "ex03.contoso.example"}} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.entry = func(e *Entry) { e.MailboxServers = configured }
				s.hq.servers = map[string]string{alice: "EX01.contoso.example", bob: "ex02.contoso.example", carol: "EX03"}
				s.start()
				for _, m := range []string{alice, bob, carol, dave} {
					s.enrol(m, m)
				}
				s.pass(time.Minute)
				if h := s.wantState(subscriptions.Listening, alice, carol); h.Location.Server != "EX03" || h.Reason != "" {
					t.Errorf("%+v", h)
				}
				h := s.wantState(subscriptions.OutOfScope, bob)
				if !strings.Contains(h.Reason, "ex02.contoso.example") || time.Until(h.Next) > 75*time.Minute || h.Next.IsZero() {
					t.Errorf("%+v", h)
				}
				if h := s.wantState(subscriptions.Listening, dave); h.Location.Server != "" || !strings.Contains(h.Reason, "server_unknown") {
					t.Errorf("an unknown server: %+v", h)
				}
				if n := s.l.Load()[0].Accounts[0].Mailboxes; n != 3 {
					t.Errorf("the account is charged with %d", n)
				}
				// A failover takes alice out, and bob in.
				s.hq.set(func() { s.hq.servers[alice], s.hq.servers[bob] = "ex02.contoso.example", "ex01.contoso.example" })
				m := s.hq.come(alice) // the answer about it names the other server
				s.pass(time.Second)
				s.accepted(1, alice, m)
				if h := s.wantState(subscriptions.OutOfScope, alice); !strings.Contains(h.Reason, "ex02") {
					t.Errorf("%+v", h)
				}
				s.pass(75 * time.Minute)
				s.wantState(subscriptions.Listening, bob)
			})
		})
	}
}

func TestAMailboxOfAnotherServerIsLeftToTheEntryThatHasIt(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		cloud.homes[alice] = true // the same Exchange, with the other half of its servers
		s.entry = func(e *Entry) { e.MailboxServers = []string{"ex01"} }
		s.also[0].MailboxServers = []string{"ex02"}
		hq.servers, cloud.servers = map[string]string{alice: "ex02.contoso.example"}, map[string]string{alice: "ex02.contoso.example"}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.listening("cloud", alice)
		other := func(e *exchange) { e.set(func() { e.servers[alice] = "EX01.contoso.example" }) }
		other(hq)
		other(cloud)
		m := cloud.come(alice)
		s.pass(5 * time.Second)
		s.accepted(1, "a", m)
		s.listening("hq", alice)
	})
}

func TestLocateSaysWhatALookUpWouldSayAndChangesNothing(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		cloud.homes[bob] = true
		s.also[0].MailboxesPerAccount = 1
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		hq.move(alice, cloud)
		before, load := s.record(alice), fmt.Sprint(s.l.Load())
		for range 2 {
			l, err := s.l.Locate(s.t.Context(), alice, "")
			if err != nil || l.Entry != "cloud" || l.Account != "cloud-01" || l.Location.URL != cloud.url || l.Location.Primary != alice {
				t.Errorf("%+v, %v", l, err)
			}
		}
		if s.record(alice) != before || fmt.Sprint(s.l.Load()) != load || s.status(alice).Location.Entry != "hq" {
			t.Error("it has changed something")
		}
		if l, err := s.l.Locate(s.t.Context(), bob, ""); err != nil || l.Entry != "cloud" {
			t.Errorf("one that is not enrolled: %+v, %v", l, err)
		}
		for name, c := range map[string]struct{ address, pinned, code string }{
			"at the pinned entry only": {bob, "hq", "ErrorNonExistentMailbox"},
			"at none":                  {"carol@contoso.example", "", codeUnknown},
			"not covered":              {"carol@fabrikam.example", "", codeNotCovered},
		} {
			if _, err := s.l.Locate(s.t.Context(), c.address, c.pinned); err == nil || fault.Of(err).Code != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		s.enrol("b", bob)
		s.pass(time.Minute)
		if l, err := s.l.Locate(s.t.Context(), alice, ""); fault.Of(err).Code != codeNoCapacity || l.Entry != "cloud" {
			t.Errorf("where there is no room: %+v, %v", l, err)
		}
	})
}

// impersonation notes under which names an Exchange was asked.
type impersonation struct {
	*exchange
	mu    sync.Mutex
	names []string
}

func (i *impersonation) List(ctx context.Context, p mail.Location, part inbox.Part) (inbox.Page, Answer, error) {
	i.mu.Lock()
	i.names = append(i.names, p.Primary)
	i.mu.Unlock()
	return i.exchange.List(ctx, p, part)
}

func TestARenamedUserIsImpersonatedByTheNewNameAndKeepsTheMailbox(t *testing.T) {
	const renamed = "alice.smith@contoso.example"
	inScene(t, func(s *scene) {
		s.hq.homes = map[string]bool{alice: true}
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		source := &impersonation{exchange: s.hq}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder, e.Accounts[0].Source = f, source }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		before := s.hq.come(alice)
		s.pass(time.Minute)
		id := s.record(alice).ID
		f.set(func() { f.primary[alice] = renamed }) // the old name stays as another address
		s.hq.move(alice, s.hq)
		s.hq.set(func() {
			s.hq.homes = map[string]bool{renamed: true}
			s.hq.box(renamed).items = s.hq.box(alice).items
		})
		s.hq.end(errReset)
		m := s.hq.come(renamed)
		s.pass(time.Minute)
		s.enrol("new", strings.ToLower("ALICE.Smith@contoso.example"))
		s.listening("hq", alice)
		last := s.hq.come(renamed)
		s.pass(time.Second)
		s.accepted(1, "a", before, m, last)
		s.accepted(1, "new", last)
		if s.book.Mailbox(alice) != s.book.Mailbox(renamed) || s.record(alice).ID != id || s.status(alice).Location.Primary != renamed {
			t.Errorf("%+v", s.record(alice))
		}
		if last := source.names[len(source.names)-1]; last != renamed {
			t.Errorf("it is impersonated as %s", last)
		}
		s.stop()
		s.start()
		s.pass(time.Second)
		if last := source.names[len(source.names)-1]; last != renamed {
			t.Errorf("after a restart it is impersonated as %s", last)
		}
	})
}

// Where a mailbox is not known under one of the addresses that its devices were enrolled with any more, it is asked for by the others.
func TestEveryEnrolledAddressOfAMailboxIsTried(t *testing.T) {
	const other = "a.smith@contoso.example"
	inScene(t, func(s *scene) {
		f := &finder{url: hqURL, primary: map[string]string{other: alice}, homes: map[string]bool{alice: true, other: true}}
		hq, cloud := s.hybrid(alice)
		s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
		s.start()
		s.enrol("a", alice)
		s.enrol("b", other)
		s.pass(time.Minute)
		if s.book.Mailbox(alice) != s.book.Mailbox(other) {
			t.Fatal("not joined")
		}
		f.set(func() { f.homes = map[string]bool{} })
		hq.move(alice, cloud)
		cloud.set(func() {
			cloud.homes = map[string]bool{other: true}
			cloud.box(other).items = cloud.box(alice).items
		})
		hq.end(errReset)
		m := cloud.come(other)
		s.pass(time.Minute)
		s.listening("cloud", alice)
		if p := s.status(alice).Location.Primary; p != other {
			t.Errorf("it is impersonated as %s", p)
		}
		s.accepted(1, "a", m)
		s.accepted(1, "b", m)
	})
}

// domains is an Autodiscover that notes whom it was asked for.
type domains struct{ asked []string }

func (d *domains) Find(_ context.Context, address string) (mail.Location, error) {
	d.asked = append(d.asked, address)
	return mail.Location{}, &fault.Error{Op: "Autodiscover", Code: "InvalidUser", Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}
}

func TestAutodiscoverIsAskedForTheDomainsOfItsEntryOnly(t *testing.T) {
	inScene(t, func(s *scene) {
		d := &domains{}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = d }
		s.start()
		s.enrol("a", alice)
		told := func(d *subscriptions.Draft) {
			d.At = &mail.Location{Entry: "hq", Primary: "alice@fabrikam.example", Found: time.Now()}
		}
		if err := s.book.Mailbox(alice).Update(s.t.Context(), told); err != nil {
			t.Fatal(err)
		}
		s.pass(3 * time.Hour)
		if len(d.asked) < 3 || slices.ContainsFunc(d.asked, func(a string) bool { return a != alice }) {
			t.Errorf("%v", d.asked)
		}
	})
}

func TestSeveralReportsOfAStreamAtOnceAreAllTaken(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 5 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		var all []*message
		s.hq.quietly(func() {
			for i := range 5 {
				all = append(all, s.hq.come(address(i)))
			}
		})
		for i := range 5 { // the subscriptions go on: a new stream has nothing to say of them
			s.hq.reports(s.record(address(i)).Subscription, row("ErrorMissedNotificationEvents", ""))
		}
		s.pass(10 * time.Second)
		for i, m := range all {
			s.accepted(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestAnEnrolmentTakesTheClockOfTheEntryThatHasItsMailbox(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		cloud.homes[bob], cloud.homes["carol@contoso.example"] = true, true
		cloud.skew = 3 * time.Hour
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		since := func(id string) time.Duration {
			d, _ := s.book.Device(id)
			return d.Since.Sub(d.Created)
		}
		s.enrol("a2", alice)
		s.enrol("b2", bob)
		s.enrol("c", "carol@contoso.example")
		s.pass(time.Minute)
		for id, want := range map[string]time.Duration{"a": 0, "a2": 0, "b": cloud.skew, "b2": cloud.skew, "c": cloud.skew} {
			if got := since(id) - want; got < -mail.Tolerance-time.Minute || got > 0 {
				t.Errorf("%s is alerted from %v after its enrolment; want %v less the tolerance", id, since(id), want)
			}
		}
		m, n := hq.come(alice), cloud.come(bob)
		synctest.Wait()
		s.accepted(1, "a2", m)
		s.accepted(1, "b2", n)
	})
}

// Mailboxes move to and fro all the time while mail comes for them; streams are cut, devices come and go.
func TestMailboxesThatMoveToAndFroLoseNothing(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		const n = 30
		for i := range n {
			hq.homes[address(i)] = true
		}
		s.start()
		for i := range n {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(2 * time.Minute)
		got := make([][]*message, n)
		for round := range 6 {
			from, to := hq, cloud
			if round%2 == 1 {
				from, to = cloud, hq
			}
			for i := range n {
				got[i] = append(got[i], from.come(address(i)))
				if (i+round)%3 != 0 {
					synctest.Wait()
				}
				from.move(address(i), to)
				got[i] = append(got[i], to.come(address(i)))
			}
			from.end(errReset)
			s.enrol(fmt.Sprint("more", round), address(round))
			s.pass(2 * time.Minute)
		}
		s.pass(5 * time.Minute)
		for i := range n {
			s.listening("hq", address(i))
			s.accepted(1, fmt.Sprint("d", i), got[i]...)
		}
		load := s.l.Load()
		if load[0].Accounts[0].Mailboxes != n || load[1].Accounts[0].Mailboxes != 0 || load[1].Accounts[0].Streams != 0 {
			t.Errorf("%+v", load)
		}
	})
}

func TestAnEntryWhoseAccountsAnotherInstanceOwnsSaysThatThereIsNoRoom(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hybrid(alice)
		s.entry = func(e *Entry) { e.Accounts = nil }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.wantState(subscriptions.WaitingForCapacity, alice)
	})
}
