package listener

// Moves, pins and look-ups that overtake each other.

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

func TestAPinThatChangesWhileItsMailboxIsLookedForHolds(t *testing.T) {
	for name, there := range map[string]bool{"and it is not where it is looked for": false, "and it is found there": true} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				hq, cloud := s.hybrid(alice)
				cloud.homes[alice] = there
				cloud.onLook = func(string) { <-time.After(5 * time.Second) }
				s.start()
				s.pinned("a", alice, "cloud")
				s.pass(time.Second)
				s.pinned("a", alice, "hq")
				s.pass(time.Minute)
				s.listening("hq", alice)
				m := hq.come(alice)
				synctest.Wait()
				s.accepted(1, "a", m)
			})
		})
	}
}

func TestAPinEndsWithItsDevice(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hybrid(alice)
		s.start()
		s.pinned("a", alice, "cloud")
		s.pinned("b", alice, "")
		s.pass(time.Minute)
		s.wantState(subscriptions.Failing, alice)
		s.remove("a")
		s.pass(time.Minute)
		s.listening("hq", alice)
	})
}

func TestARefusalThatComesAfterItsMailboxMovedDoesNotConcernItsNewLocation(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice, bob)
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() {
			hq.subFail = map[string]error{alice: row("ErrorInvalidSubscriptionRequest", "")}
			hq.onSub = func(mailbox string) {
				if mailbox == alice {
					<-answer
				}
			}
		})
		hq.reports(s.record(alice).Subscription, row("ErrorSubscriptionNotFound", ""))
		s.pass(time.Second) // it is being subscribed anew
		hq.move(alice, cloud)
		s.mailbox(alice).work.List()
		s.pass(5 * time.Second)
		close(answer)
		s.pass(5 * time.Second)
		s.listening("cloud", alice)
	})
}

// Autodiscover goes on naming the old place for a while, and the server there has the mailbox no more, or not yet.
func TestAMailboxThatItsLocationDoesNotHaveForAWhileIsListenedToSoonAfterwards(t *testing.T) {
	for _, away := range []time.Duration{time.Minute, 2 * time.Minute, 10 * time.Minute} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hq.homes = map[string]bool{alice: true}
				f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
				s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				s.hq.set(func() { s.hq.homes[alice] = false })
				s.hq.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
				s.pass(away)
				s.hq.set(func() { s.hq.homes[alice] = true })
				m := s.hq.come(alice)
				s.pass(6 * time.Minute)
				s.listening("hq", alice)
				s.accepted(1, "a", m)
			})
		})
	}
}

func TestAMailboxThatIsBeingMovedIsSubscribedSoonAfterThat(t *testing.T) {
	for _, took := range []time.Duration{3 * time.Second, time.Minute} {
		t.Run(took.String(), func(t *testing.T) {
			inScene(t, func(s *scene) {
				f := &finder{url: hqURL}
				s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", f }
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				s.hq.set(func() { s.hq.subFail = map[string]error{alice: row("ErrorMailboxMoveInProgress", "")} })
				s.hq.forget(alice)
				s.pass(took)
				s.hq.set(func() { s.hq.subFail = nil })
				s.pass(max(10*time.Second, took))
				s.listening("hq", alice)
			})
		})
	}
}

func TestTwoServersThatContradictEachOtherAreNotAskedForEver(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.homes = map[string]bool{}
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		s.enrol("a", alice)
		s.pass(2 * time.Hour)
		asked := func() (n int) {
			f.set(func() { n = f.asked })
			return n
		}
		before := asked()
		s.pass(time.Hour)
		if n := asked() - before; n < 1 || n > 30 {
			t.Errorf("%d look-ups in an hour", n)
		}
	})
}

func TestALocationOfLongAgoIsKeptWhileNobodyCanConfirmIt(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		cloud.homes[alice] = true
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.listening("cloud", alice)
		s.stop()
		s.pass(2 * locationAge)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		s.start()
		s.pass(time.Minute)
		s.listening("cloud", alice)
		m := cloud.come(alice)
		synctest.Wait()
		s.accepted(1, "a", m)
	})
}

func TestAServerThatRestartsDoesNotHaveItsMailboxesLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, _ := s.hybrid()
		const n = 100
		for i := range n {
			hq.homes[address(i)] = true
		}
		s.start()
		for i := range n {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(2 * time.Hour)
		looks := hq.looked()
		hq.set(func() { hq.fails = row("connect", "") })
		hq.end(errReset)
		var m *message
		hq.quietly(func() { m = hq.come(address(7)) })
		s.pass(10 * time.Minute)
		hq.set(func() { hq.fails = nil })
		s.pass(90 * time.Second)
		s.accepted(1, "d7", m)
		if hq.looked()-looks > 0 {
			t.Errorf("%d look-ups", hq.looked()-looks)
		}
	})
}

func TestACatchUpThatFailsWaitsAsItsServerSaysWhicheverServerAnswers(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.servers = map[string]string{alice: "ex01"}
		s.start()
		s.enrol("a", alice)
		s.enrol("behind", alice)
		s.pass(time.Hour)
		release := s.apns.hold("behind")
		s.hq.come(alice)
		s.pass(time.Minute)
		busy := row("ErrorServerBusy", "")
		busy.After = 10 * time.Minute
		s.hq.set(func() { s.hq.servers[alice], s.hq.readFail = "ex02", busy })
		release()
		s.in.TopicReady("com.contoso.mail", "production")
		s.pass(time.Second)
		if got := s.l.Standing(s.book.Mailbox(alice), "behind"); time.Until(got.Next) < 9*time.Minute {
			t.Errorf("%s: the next try is in %v", got.Reason, time.Until(got.Next))
		}
	})
}

// Room comes free just when a mailbox has been told that there is none.
func TestRoomThatIsOfferedWithinALookUpIsTakenAtItsEnd(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.MailboxesPerAccount = 1 }
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		s.enrol("b", bob)
		m := s.mailbox(bob)
		m.mu.Lock()
		m.busy = true
		m.mu.Unlock()
		s.remove("a")
		m.end(s.t.Context(), answered{err: s.l.entries[0].full()})
		s.pass(5 * time.Second)
		s.listening("hq", bob)
	})
}

// The first mailboxes of a group have moved before their places may be doubted: the stream is opened as another meanwhile.
func TestThoseWhoMovedJustAfterTheyWereFoundDoNotSilenceTheOthersOfTheirGroup(t *testing.T) {
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
		s.pass(5 * time.Second)
		for i := range moved {
			hq.move(address(i), cloud)
		}
		hq.end(errReset)
		m := hq.come(address(n - 1))
		s.pass(10 * time.Second)
		s.accepted(1, fmt.Sprint("d", n-1), m)
		s.pass(time.Minute)
		for i := range n {
			if i < moved {
				s.listening("cloud", address(i))
			} else {
				s.listening("hq", address(i))
			}
		}
	})
}

func TestRoomIsNeitherLostNorGivenTwiceHoweverMailboxesComeAndGo(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inScene(t, func(s *scene) {
				rnd := rand.New(rand.NewPCG(seed, 0))
				hq, cloud := s.hybrid()
				const n, room = 12, 5
				s.entry = func(e *Entry) { e.MailboxesPerAccount = room }
				s.also[0].MailboxesPerAccount = room
				slow := func(string) { <-time.After(2 * time.Second) }
				hq.onLook, cloud.onLook = slow, slow
				where := map[int]*exchange{}
				for i := range n {
					where[i] = hq
					if i%2 == 1 {
						where[i] = cloud
					}
					where[i].homes[address(i)] = true
				}
				s.start()
				enrolled := map[int]bool{}
				pins := []string{"", "", "", "hq", "cloud"}
				for range 300 {
					i := rnd.IntN(n)
					switch rnd.IntN(4) {
					case 0, 1:
						s.pinned(fmt.Sprint("d", i), address(i), pins[rnd.IntN(len(pins))])
						enrolled[i] = true
					case 2:
						if enrolled[i] {
							s.remove(fmt.Sprint("d", i))
							enrolled[i] = false
						}
					case 3:
						to := hq
						if where[i] == hq {
							to = cloud
						}
						from := where[i]
						from.move(address(i), to)
						where[i] = to
						from.end(errReset)
					}
					<-time.After(time.Duration(rnd.IntN(4000)) * time.Millisecond)
					synctest.Wait()
				}
				for i := range n {
					if enrolled[i] {
						s.pinned(fmt.Sprint("d", i), address(i), "")
					}
				}
				s.pass(80 * time.Minute) // one that moved between two questions has been looked for again
				want := map[*exchange]int{}
				for i := range n {
					if enrolled[i] {
						want[where[i]]++
						if h := s.status(address(i)); h.State != subscriptions.Listening && h.State != subscriptions.WaitingForCapacity {
							t.Errorf("%s %s %s", address(i), h.State, h.Reason)
						}
					}
				}
				for k, e := range []*exchange{hq, cloud} {
					l := s.l.Load()[k]
					if l.Accounts[0].Mailboxes != min(want[e], room) || l.Waiting != max(want[e]-room, 0) {
						t.Errorf("%d %+v %d mailboxes live there", k, l, want[e])
					}
				}
				for i := range n {
					if enrolled[i] {
						s.remove(fmt.Sprint("d", i))
					}
				}
				s.pass(time.Minute)
				for _, l := range s.l.Load() {
					if l.Accounts[0].Mailboxes != 0 || l.Waiting != 0 || l.Accounts[0].Streams != 0 {
						t.Errorf("%+v", l)
					}
				}
			})
		})
	}
}

func TestAMailboxThatMovesBetweenTheQuestionsOfItsFirstLookUpIsFoundWithinAMinute(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid()
		cloud.homes[alice] = true
		moved := false
		hq.onLook = func(string) { // hq has said that it has not got it
			if !moved {
				moved = true
				cloud.move(alice, hq)
			}
		}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		s.wantState(subscriptions.Failing, alice)
		s.pass(45 * time.Second)
		s.listening("hq", alice)
	})
}

func TestAMailboxThatWasOnItsWayWhileNobodyRanIsLookedForEveryFewMinutes(t *testing.T) {
	inScene(t, func(s *scene) {
		hq, cloud := s.hybrid(alice)
		nowhere := &exchange{boxes: map[string]*folder{}, homes: map[string]bool{}}
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.stop()
		hq.move(alice, nowhere)
		s.pass(2 * locationAge)
		s.start()
		s.pass(20 * time.Minute)
		s.wantState(subscriptions.Failing, alice)
		nowhere.move(alice, cloud)
		s.pass(5*time.Minute + time.Second)
		s.listening("cloud", alice)
	})
}
