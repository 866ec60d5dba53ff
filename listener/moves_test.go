package listener

// Moves, pins and look-ups that overtake each other.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

// pinned enrols a device whose mailbox is looked for at one entry only; empty: at all.
func (w *world) pinned(id, mailbox, exchange string) {
	w.t.Helper()
	if _, _, err := w.l.Enrol(w.t.Context(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: id, Topic: "com.contoso.mail", Environment: "production", Exchange: exchange}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func TestAPinThatChangesWhileItsMailboxIsLookedForHolds(t *testing.T) {
	for name, there := range map[string]bool{"and it is not where it is looked for": false, "and it is found there": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				hq, cloud := w.hybrid(alice)
				cloud.homes[alice] = there
				cloud.onLook = func(string) { <-time.After(5 * time.Second) }
				w.start()
				w.pinned("a", alice, "cloud")
				w.pass(time.Second)
				w.pinned("a", alice, "hq")
				w.pass(time.Minute)
				w.at("hq", alice)
				m := hq.come(alice)
				synctest.Wait()
				w.rang(1, "a", m)
			})
		})
	}
}

func TestAPinEndsWithItsDevice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.hybrid(alice)
		w.start()
		w.pinned("a", alice, "cloud")
		w.pinned("b", alice, "")
		w.pass(time.Minute)
		w.wantState(subscriptions.Failing, alice)
		w.remove("a")
		w.pass(time.Minute)
		w.at("hq", alice)
	})
}

func TestANewCredentialOfAnEntryThatIsOnlyAskedPlacesTheMailboxesOfTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid()
		cloud.homes[alice] = true
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.at("cloud", alice)
		hq.set(func() { hq.fails = row("ErrorAccessDenied", "") })
		cloud.speaks(w.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		w.pass(10 * time.Minute)
		w.wantState(subscriptions.Failing, alice)
		hq.set(func() { hq.fails = nil })
		w.l.AccountChanged("hq", "listener-01")
		w.pass(10 * time.Second)
		w.at("cloud", alice)
	})
}

func TestARefusalThatComesAfterItsMailboxMovedDoesNotConcernItsNewPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice, bob)
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() {
			hq.subFail = map[string]error{alice: row("ErrorInvalidSubscriptionRequest", "")}
			hq.onSub = func(mailbox string) {
				if mailbox == alice {
					<-answer
				}
			}
		})
		hq.speaks(w.record(alice).Subscription, row("ErrorSubscriptionNotFound", ""))
		w.pass(time.Second) // it is being subscribed anew
		hq.move(alice, cloud)
		w.l.mailbox(w.book.Mailbox(alice)).markListing()
		w.pass(5 * time.Second)
		close(answer)
		w.pass(5 * time.Second)
		w.at("cloud", alice)
	})
}

// Autodiscover goes on naming the old place for a while, and the server there has the mailbox no more, or not yet.
func TestAMailboxThatItsPlaceDoesNotHaveForAWhileIsHeardSoonAfterwards(t *testing.T) {
	for _, away := range []time.Duration{time.Minute, 2 * time.Minute, 10 * time.Minute} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.ex.homes = map[string]bool{alice: true}
				f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
				w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
				w.start()
				w.enrol("a", alice)
				w.pass(time.Hour)
				w.ex.set(func() { w.ex.homes[alice] = false })
				w.ex.speaks(w.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
				w.pass(away)
				w.ex.set(func() { w.ex.homes[alice] = true })
				m := w.ex.come(alice)
				w.pass(6 * time.Minute)
				w.at("hq", alice)
				w.rang(1, "a", m)
			})
		})
	}
}

func TestTwoServersThatContradictEachOtherAreNotAskedForEver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ex.homes = map[string]bool{}
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		w.enrol("a", alice)
		w.pass(2 * time.Hour)
		asked := func() (n int) {
			f.set(func() { n = f.asked })
			return n
		}
		before := asked()
		w.pass(time.Hour)
		if n := asked() - before; n < 1 || n > 30 {
			t.Errorf("%d look-ups in an hour", n)
		}
	})
}

func TestAPlaceOfLongAgoIsKeptWhileNobodyCanConfirmIt(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid()
		cloud.homes[alice] = true
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		w.at("cloud", alice)
		w.stop()
		w.pass(2 * placeAge)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		w.start()
		w.pass(time.Minute)
		w.at("cloud", alice)
		m := cloud.come(alice)
		synctest.Wait()
		w.rang(1, "a", m)
	})
}

func TestAServerThatRestartsDoesNotHaveItsMailboxesLookedUp(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, _ := w.hybrid()
		const n = 100
		for i := range n {
			hq.homes[address(i)] = true
		}
		w.start()
		for i := range n {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(2 * time.Hour)
		looks := hq.looked()
		hq.set(func() { hq.fails = row("connect", "") })
		hq.end(errReset)
		var m *message
		hq.quietly(func() { m = hq.come(address(7)) })
		w.pass(10 * time.Minute)
		hq.set(func() { hq.fails = nil })
		w.pass(90 * time.Second)
		w.rang(1, "d7", m)
		if hq.looked()-looks > 0 {
			t.Errorf("%d look-ups", hq.looked()-looks)
		}
	})
}

func TestACatchUpThatFailsWaitsAsItsServerSaysWhicheverServerAnswers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ex.servers = map[string]string{alice: "ex01"}
		w.start()
		w.enrol("a", alice)
		w.enrol("behind", alice)
		w.pass(time.Hour)
		release := w.apns.hold("behind", "topic_away", 0)
		w.ex.come(alice)
		w.pass(time.Minute)
		busy := row("ErrorServerBusy", "")
		busy.Fault.After = 10 * time.Minute
		w.ex.set(func() { w.ex.servers[alice], w.ex.readFail = "ex02", busy })
		release()
		w.l.TopicReady("com.contoso.mail", "production")
		w.pass(time.Second)
		if _, reason, next := w.l.Standing(w.book.Mailbox(alice), "behind"); time.Until(next) < 9*time.Minute {
			t.Errorf("%s: the next try is in %v", reason, time.Until(next))
		}
	})
}

func TestACallThatIsGivenUpDoesNotEndTheBlockOfItsAccount(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		a := w.l.entries[0].accounts[0]
		_ = a.note(row("HTTP 401", ""))
		_ = a.note(fmt.Errorf("Subscribe: %w", context.DeadlineExceeded))
		if a.allowed() == nil {
			t.Error("the server has not answered, and the account is free")
		}
	})
}

// Room comes free just when a mailbox has been told that there is none.
func TestRoomThatIsOfferedWithinATurnIsTakenAtItsEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.entry = func(e *Entry) { e.MailboxesPerAccount = 1 }
		w.start()
		w.enrol("a", alice)
		w.pass(time.Second)
		w.enrol("b", bob)
		m := w.l.mailbox(w.book.Mailbox(bob))
		m.mu.Lock()
		m.running, m.notBefore = true, time.Time{}
		m.mu.Unlock()
		w.remove("a")
		m.mu.Lock()
		m.running = false
		m.rate(m.l.entries[0].full())
		m.ready()
		w.pass(5 * time.Second)
		w.at("hq", bob)
	})
}

// The first mailboxes of a group have moved before their places may be doubted: the stream is opened as another meanwhile.
func TestThoseWhoMovedJustAfterTheyWereFoundDoNotSilenceTheOthersOfTheirGroup(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid()
		const n, moved = 12, 7
		for i := range n {
			hq.homes[address(i)] = true
		}
		w.start()
		for i := range n {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(5 * time.Second)
		for i := range moved {
			hq.move(address(i), cloud)
		}
		hq.end(errReset)
		m := hq.come(address(n - 1))
		w.pass(10 * time.Second)
		w.rang(1, fmt.Sprint("d", n-1), m)
		w.pass(time.Minute)
		for i := range n {
			if i < moved {
				w.at("cloud", address(i))
			} else {
				w.at("hq", address(i))
			}
		}
	})
}

func TestRoomIsNeitherLostNorGivenTwiceHoweverMailboxesComeAndGo(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				rnd := rand.New(rand.NewPCG(seed, 0))
				hq, cloud := w.hybrid()
				const n, room = 12, 5
				w.entry = func(e *Entry) { e.MailboxesPerAccount = room }
				w.also[0].MailboxesPerAccount = room
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
				w.start()
				enrolled := map[int]bool{}
				pins := []string{"", "", "", "hq", "cloud"}
				for range 300 {
					i := rnd.IntN(n)
					switch rnd.IntN(4) {
					case 0, 1:
						w.pinned(fmt.Sprint("d", i), address(i), pins[rnd.IntN(len(pins))])
						enrolled[i] = true
					case 2:
						if enrolled[i] {
							w.remove(fmt.Sprint("d", i))
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
						w.pinned(fmt.Sprint("d", i), address(i), "")
					}
				}
				w.pass(80 * time.Minute) // one that moved between two questions has been looked for again
				want := map[*exchange]int{}
				for i := range n {
					if enrolled[i] {
						want[where[i]]++
						if h := w.state(address(i)); h.State != subscriptions.Listening && h.State != subscriptions.WaitingForCapacity {
							t.Errorf("%s %s %s", address(i), h.State, h.Reason)
						}
					}
				}
				for k, e := range []*exchange{hq, cloud} {
					l := w.l.Load()[k]
					if l.Accounts[0].Mailboxes != min(want[e], room) || l.Waiting != max(want[e]-room, 0) {
						t.Errorf("%d %+v %d mailboxes live there", k, l, want[e])
					}
				}
				for i := range n {
					if enrolled[i] {
						w.remove(fmt.Sprint("d", i))
					}
				}
				w.pass(time.Minute)
				for _, l := range w.l.Load() {
					if l.Accounts[0].Mailboxes != 0 || l.Waiting != 0 || l.Accounts[0].Streams != 0 {
						t.Errorf("%+v", l)
					}
				}
			})
		})
	}
}

func TestAnotherWayOutIsTriedAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		refusal := &fault.Error{Op: "connect", Code: "proxy", Scope: fault.Server, Remedy: fault.Fix, After: time.Hour}
		w.ex.fails = refusal
		w.start()
		w.enrol("a", alice)
		w.pass(10 * time.Minute)
		if h := w.l.Hearing(w.book.Mailbox(alice)); h.State == subscriptions.Listening {
			t.Fatalf("heard through a proxy that refuses")
		}
		w.ex.set(func() { w.ex.fails = nil })
		m := w.ex.come(alice)
		w.l.WayChanged()
		w.pass(time.Second)
		w.rang(1, "a", m)
		if h := w.l.Hearing(w.book.Mailbox(alice)); h.State != subscriptions.Listening {
			t.Errorf("%s, %s", h.State, h.Reason)
		}
	})
}
