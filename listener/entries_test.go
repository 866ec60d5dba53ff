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

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// second is an Exchange of its own: another server, another account, mailboxes of its own.
func (w *world) second(name string) *exchange {
	e := &exchange{t: w.t, url: "https://" + name + ".example/EWS/Exchange.asmx", boxes: map[string]*inbox{}, homes: map[string]bool{}}
	w.also = append(w.also, Entry{
		Name: name, Domains: []string{"contoso.example"}, URL: e.url, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200,
		SafetyPoll: w.poll, Accounts: []Account{{Name: name + "-01", Source: e}},
	})
	return e
}

// hybrid is a world with two entries in one domain: hq with some mailboxes, and cloud without any yet.
func (w *world) hybrid(atHQ ...string) (hq, cloud *exchange) {
	w.ex.t, w.ex.url, w.ex.homes = w.t, "https://mail.contoso.example/EWS/Exchange.asmx", map[string]bool{}
	for _, m := range atHQ {
		w.ex.homes[m] = true
	}
	return w.ex, w.second("cloud")
}

// move takes a mailbox to another Exchange with all that is in it, under other item ids. Its old subscription is silent from then on.
func (e *exchange) move(address string, to *exchange) {
	e.mu.Lock()
	b := e.box(address)
	delete(e.subs, b.sub)
	delete(e.homes, address)
	delete(e.boxes, address)
	e.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	to.homes[address] = true
	there := to.box(address)
	for _, m := range b.items {
		to.n++
		m.id = to.itemID()
		there.items = append(there.items, m)
	}
}

// speaks has the streams that are open with a subscription say something about it.
func (e *exchange) speaks(subscription string, err *ews.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err.Subscriptions = []string{subscription}
	for _, s := range e.streams {
		select {
		case <-s.closed:
		default:
			if slices.Contains(s.ids, subscription) {
				s.words <- err
			}
		}
	}
}

// looked is how often it was asked whether a mailbox lives here.
func (e *exchange) looked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.looks
}

// at says that a mailbox is heard by an entry.
func (w *world) at(entry string, mailboxes ...string) {
	w.t.Helper()
	for _, m := range mailboxes {
		if h := w.wantState(subscriptions.Listening, m); h.Location.Entry != entry || h.Account == "" {
			w.t.Errorf("%s is at %q by %q; want %s", m, h.Location.Entry, h.Account, entry)
		}
	}
}

func TestTheEntriesOfADomainAreAskedInTheirOrderAndRemembered(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		cloud.homes[bob] = true
		cloud.homes[alice] = true // the first that has it counts
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Second)
		w.at("hq", alice)
		w.at("cloud", bob)
		a, b := hq.come(alice), cloud.come(bob)
		synctest.Wait()
		w.rang(1, "a", a)
		w.rang(1, "b", b)
		if hq.looked() != 2 || cloud.looked() != 1 {
			t.Errorf("%d and %d looks", hq.looked(), cloud.looked())
		}
		w.stop()
		w.start()
		w.pass(time.Second)
		w.at("hq", alice)
		w.at("cloud", bob)
		if hq.looked() != 2 || cloud.looked() != 1 {
			t.Errorf("%d and %d looks after a restart: the places are remembered", hq.looked(), cloud.looked())
		}
		w.stop()
		w.pass(placeAge)
		w.start()
		w.pass(time.Second)
		w.at("cloud", bob)
		if cloud.looked() != 2 {
			t.Error("a place is taken as true for more than a day")
		}
	})
}

func TestOneEntryWithAURLIsTakenAsItIsConfigured(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Second)
		w.at("hq", alice)
		if w.ex.looked() > 0 {
			t.Error("it was asked for")
		}
		id := w.record(alice).Subscription
		w.ex.set(func() { w.ex.readFail = row("ErrorNonExistentMailbox", "") })
		m := w.ex.come(alice)
		w.pass(10 * time.Minute)
		w.wantState(subscriptions.Failing, alice)
		w.ex.set(func() { w.ex.readFail = nil })
		w.pass(75 * time.Minute)
		w.at("hq", alice)
		if w.ex.looked() > 0 || w.record(alice).Subscription != id {
			t.Error("it was looked for, and there is nowhere else")
		}
		w.rang(1, "a", m)
	})
}

func TestASubscriptionBelongsToTheAccountAndThePlaceThatMadeIt(t *testing.T) {
	for name, change := range map[string]func(e *Entry){
		"another account": func(e *Entry) { e.Accounts[0].Name = "listener-02" },
		"another URL":     func(e *Entry) { e.URL = "https://new.contoso.example/EWS/Exchange.asmx" },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("a", alice)
				w.pass(time.Minute)
				id := w.record(alice).Subscription
				w.stop()
				w.entry = change
				w.start()
				w.pass(time.Minute)
				w.at("hq", alice)
				if w.record(alice).Subscription == id {
					t.Error("it is kept")
				}
				m := w.ex.come(alice)
				synctest.Wait()
				w.rang(1, "a", m)
			})
		})
	}
}

func TestAnEnrolmentThatPinsItsEntryIsLookedForThereOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice, bob)
		cloud.homes[alice] = true
		w.start()
		enrol := func(id, mailbox, exchange string) {
			t.Helper()
			if _, _, err := w.l.Enrol(t.Context(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: id, Topic: "com.contoso.mail", Environment: "production", Exchange: exchange}); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Second)
		}
		enrol("a", alice, "cloud")
		w.at("cloud", alice)
		enrol("b", bob, "cloud")
		if h := w.wantState(subscriptions.Failing, bob); !strings.Contains(h.Reason, "ErrorNonExistentMailbox") {
			t.Errorf("%+v", h)
		}
		enrol("b", bob, "") // the pin is taken off
		w.at("hq", bob)
		enrol("a", alice, "hq") // and changed
		w.at("hq", alice)
		m := hq.come(alice)
		synctest.Wait()
		w.rang(1, "a", m)
	})
}

func TestWhileAnEntryCannotSayNoOtherIsAsked(t *testing.T) {
	busy := row("ErrorServerBusy", "")
	busy.Fault.After = 10 * time.Minute
	for name, err := range map[string]error{
		"throttled": busy, "away": row("HTTP 503", ""), "wrong password": row("HTTP 401", ""), "moving": row("ErrorMailboxMoveInProgress", ""),
		"not typed": errReset,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				hq, cloud := w.hybrid(alice)
				cloud.homes[alice] = true
				hq.fails = err
				w.start()
				w.enrol("a", alice)
				w.pass(8 * time.Minute)
				h := w.wantState(subscriptions.Failing, alice)
				if cloud.looked() > 0 || h.Next.IsZero() || !strings.Contains(h.Reason, "hq") && name != "not typed" {
					t.Errorf("%d looks in the cloud; %+v", cloud.looked(), h)
				}
				hq.set(func() { hq.fails = nil })
				w.pass(10 * time.Minute)
				w.at("hq", alice)
			})
		})
	}
}

func TestAMailboxThatNoEntryHasIsParkedWithWhatEachHasSaid(t *testing.T) {
	inWorld(t, func(w *world) {
		_, cloud := w.hybrid()
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		h := w.wantState(subscriptions.Failing, alice)
		for _, want := range []string{"mailbox_unknown", "hq", "cloud", "ErrorNonExistentMailbox"} {
			if !strings.Contains(h.Reason, want) {
				t.Errorf("%q does not say %s", h.Reason, want)
			}
		}
		if next := time.Until(h.Next); next < 50*time.Minute || next > 70*time.Minute || h.Account != "" {
			t.Errorf("the next try is in %v, with the account %q", next, h.Account)
		}
		cloud.set(func() { cloud.homes[alice] = true })
		w.pass(time.Hour + 2*time.Minute)
		w.at("cloud", alice)
	})
}

// However a move is noticed, the mailbox is found at its new place, with its place in the log: nothing is lost, nothing rings twice.
func TestAMailboxThatMovesBetweenEntriesWhileMailArrivesLosesNothing(t *testing.T) {
	for name, notice := range map[string]struct {
		how    func(from *exchange, subscription string)
		within time.Duration
	}{
		"the stream says that it is being moved": {func(from *exchange, id string) { from.speaks(id, row("ErrorInvalidSubscription", "MailboxMove")) }, 5 * time.Second},
		"the stream says that it was moved":      {func(from *exchange, id string) { from.speaks(id, row("ErrorProxyRequestNotAllowed", "")) }, 5 * time.Second},
		"its subscription is lost":               {func(from *exchange, id string) { from.speaks(id, row("ErrorSubscriptionNotFound", "")) }, 15 * time.Second},
		"the stream is cut":                      {func(from *exchange, _ string) { from.end(errReset) }, 15 * time.Second},
		"a hint of before is read afterwards": {func(from *exchange, _ string) {
			for _, s := range from.streams {
				s.events <- ews.Notifications{Events: []ews.Event{{Subscription: s.ids[0], ItemID: "an old one"}}, At: time.Now()}
			}
		}, 5 * time.Second},
		"silence": {func(*exchange, string) {}, 31 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				hq, cloud := w.hybrid(alice)
				w.start()
				w.enrol("a", alice)
				w.enrol("behind", alice)
				w.pass(time.Hour)
				w.at("hq", alice)
				id, old := w.record(alice).ID, w.record(alice).Subscription
				release := w.apns.hold("behind", "topic_away", 0)
				all := []*message{hq.come(alice)} // before
				w.pass(time.Minute)
				hq.quietly(func() { all = append(all, hq.come(alice)) }) // its hint is lost
				all = append(all, hq.come(alice))                        // its hint is in flight
				hq.move(alice, cloud)
				all = append(all, cloud.come(alice)) // there, before anyone listens
				notice.how(hq, old)
				w.pass(100 * time.Millisecond)
				all = append(all, cloud.come(alice))
				w.pass(notice.within)
				w.at("cloud", alice)
				all = append(all, cloud.come(alice)) // and after
				w.pass(time.Minute)
				w.rang(1, "a", all...)
				release()
				w.l.TopicReady("com.contoso.mail", "production")
				w.pass(time.Minute)
				w.rang(1, "behind", all...)
				w.level(alice)
				for _, d := range w.state(alice).Decisions {
					if d.Reason == "gone" {
						t.Error("an item id of the old place was looked for at the new one")
					}
				}
				r := w.record(alice)
				if r.ID != id || r.Subscription == old || r.Subscription == "" {
					t.Errorf("its place in the log, or its subscription: %s, %q", r.ID, r.Subscription)
				}
				if len(cloud.unsubs) > 0 {
					t.Errorf("%v was given back at the new place", cloud.unsubs)
				}
				// And back.
				cloud.move(alice, hq)
				back := hq.come(alice)
				cloud.end(errReset)
				w.pass(time.Minute)
				w.at("hq", alice)
				last := hq.come(alice)
				w.pass(time.Second)
				w.rang(1, "a", back, last)
				w.rang(1, "a", all...)
				w.rang(1, "behind", append(all, back, last)...)
				for _, l := range w.l.Load() {
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
		w.pass(time.Hour)
		for i := range moved {
			hq.move(address(i), cloud)
		}
		looks := hq.looked()
		hq.end(errReset)
		w.pass(20 * time.Second)
		for i := range n {
			if i < moved {
				w.at("cloud", address(i))
				continue
			}
			w.at("hq", address(i))
			m := hq.come(address(i))
			synctest.Wait()
			w.rang(1, fmt.Sprint("d", i), m)
		}
		if hq.looked() != looks+moved {
			t.Errorf("%d mailboxes were looked for at hq; %d moved", hq.looked()-looks, moved)
		}
	})
}

func TestASubscriptionThatIsAnsweredAfterItsMailboxMovedIsNotTakenForItsNewOne(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice, bob)
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() {
			hq.onSub = func(mailbox string) {
				if mailbox == alice {
					<-answer
				}
			}
		})
		hq.speaks(w.record(alice).Subscription, row("ErrorSubscriptionNotFound", ""))
		w.pass(time.Second) // it is being subscribed anew
		hq.move(alice, cloud)
		w.l.mailbox(w.book.Mailbox(alice)).markListing() // as a hint or the safety poll does
		w.pass(5 * time.Second)
		w.wantState(subscriptions.Listening, alice)
		close(answer)
		w.pass(time.Minute)
		w.at("cloud", alice)
		w.at("hq", bob)
		if id := w.record(alice).Subscription; !strings.HasPrefix(id, cloud.url) {
			t.Errorf("it is heard by %s", id)
		}
		m, n := cloud.come(alice), hq.come(bob)
		synctest.Wait()
		w.rang(1, "a", m)
		w.rang(1, "b", n)
	})
}

func TestCredentialsDoNotFollowAMailboxThatMovesWhileItsGroupSubscribes(t *testing.T) {
	const zoe = "zoe@contoso.example"
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(zoe)
		for i := range subscribing + 1 {
			hq.homes[address(i)] = true
		}
		w.start()
		for i := range subscribing + 1 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.enrol("z", zoe)
		w.pass(time.Hour)
		answer := make(chan struct{})
		hq.set(func() { hq.onSub = func(string) { <-answer } })
		for i := range subscribing { // all but the anchor: as many as are subscribed at once, and zoe behind them
			hq.speaks(w.record(address(i+1)).Subscription, row("ErrorSubscriptionNotFound", ""))
		}
		hq.speaks(w.record(zoe).Subscription, row("ErrorSubscriptionNotFound", ""))
		w.pass(time.Second)
		hq.move(zoe, cloud)
		w.l.mailbox(w.book.Mailbox(zoe)).markListing()
		w.pass(5 * time.Second)
		w.at("cloud", zoe)
		close(answer) // hq goes on with zoe: it fails the test when it is asked for another place
		w.pass(time.Minute)
		w.at("cloud", zoe)
		w.at("hq", address(0), address(subscribing))
	})
}

func TestAPlaceThatHasOnlyJustBeenConfirmedIsNotDoubted(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, _ := w.hybrid(alice)
		hq.subFail = map[string]error{alice: row("ErrorMailboxStoreUnavailable", "")} // the Inbox answers, and its subscription does not come
		hq.readFail = row("ErrorMailboxStoreUnavailable", "")
		hq.come(alice)
		w.start()
		w.enrol("a", alice)
		w.pass(20 * time.Second)
		if hq.looked() != 1 {
			t.Errorf("%d looks within seconds", hq.looked())
		}
		w.pass(30 * time.Minute)
		if hq.looked() < 2 || hq.looked() > 40 {
			t.Errorf("%d looks within half an hour", hq.looked())
		}
		m := hq.come(alice)
		hq.set(func() { hq.subFail, hq.readFail = nil, nil })
		w.pass(10 * time.Minute)
		w.at("hq", alice)
		w.rang(1, "a", m)
	})
}

func TestAMailboxThatMovesJustAfterItWasFoundIsFoundAgainWithinAMinute(t *testing.T) {
	for name, notice := range map[string]func(from *exchange, subscription string){
		"the stream says that it is being moved": func(from *exchange, id string) { from.speaks(id, row("ErrorInvalidSubscription", "MailboxMove")) },
		"its subscription is lost":               func(from *exchange, id string) { from.speaks(id, row("ErrorSubscriptionNotFound", "")) },
		"the stream is cut":                      func(from *exchange, _ string) { from.end(errReset) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				hq, cloud := w.hybrid(alice)
				w.start()
				w.enrol("a", alice)
				w.pass(5 * time.Second)
				w.at("hq", alice)
				subscription := w.record(alice).Subscription
				all := []*message{hq.come(alice)}
				w.pass(time.Second)
				hq.move(alice, cloud)
				notice(hq, subscription)
				all = append(all, cloud.come(alice))
				w.pass(time.Minute)
				w.at("cloud", alice)
				all = append(all, cloud.come(alice))
				w.pass(time.Second)
				w.rang(1, "a", all...)
			})
		})
	}
}

func TestAMailboxThatComesBackBeforeItWasMissedIsHeardAgainWithinAMinute(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		w.start()
		w.enrol("a", alice)
		w.pass(5 * time.Second)
		subscription := w.record(alice).Subscription
		hq.move(alice, cloud)
		hq.speaks(subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		w.pass(5 * time.Second)
		cloud.move(alice, hq)
		all := []*message{hq.come(alice)}
		w.pass(time.Minute)
		w.at("hq", alice)
		all = append(all, hq.come(alice))
		w.pass(time.Second)
		w.rang(1, "a", all...)
	})
}

func TestAMailboxThatMovesWithinAListingOfADeviceBehindLosesNothing(t *testing.T) {
	for name, found := range map[string]bool{"and is still to be found": false, "and was found before the answer": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				hq, cloud := w.hybrid(alice)
				w.start()
				w.enrol("a", alice)
				w.enrol("behind", alice)
				w.pass(time.Hour)
				release := w.apns.hold("behind", "topic_away", 0)
				var all []*message
				for range firstPage + nextPage {
					all = append(all, hq.come(alice))
					synctest.Wait()
				}
				w.pass(time.Minute)
				moved := false
				hq.set(func() {
					hq.onList = func(offset int) {
						if offset == 0 || moved {
							return
						}
						moved = true
						hq.move(alice, cloud)
						if found {
							w.l.mailbox(w.book.Mailbox(alice)).markListing()
							<-time.After(5 * time.Second)
						}
					}
				})
				release()
				w.l.TopicReady("com.contoso.mail", "production")
				w.pass(time.Minute)
				w.at("cloud", alice)
				w.rang(1, "a", all...)
				w.rang(1, "behind", all...)
				w.level(alice)
			})
		})
	}
}

func TestAMailboxOnItsWayIsLookedForEveryFewMinutesAndAfterAnHourHourly(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		nowhere := &exchange{boxes: map[string]*inbox{}, homes: map[string]bool{}}
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		hq.move(alice, nowhere)
		hq.end(errReset)
		for range 11 {
			w.pass(5 * time.Minute)
			if h := w.wantState(subscriptions.Failing, alice); time.Until(h.Next) > 5*time.Minute {
				t.Errorf("the next try is in %v", time.Until(h.Next))
			}
		}
		w.pass(15 * time.Minute)
		if h := w.wantState(subscriptions.Failing, alice); time.Until(h.Next) < 40*time.Minute || h.Account != "" {
			t.Errorf("after an hour the next try is in %v, and it has the account %q", time.Until(h.Next), h.Account)
		}
		nowhere.move(alice, cloud)
		m := cloud.come(alice)
		w.pass(75 * time.Minute)
		w.at("cloud", alice)
		w.rang(1, "a", m) // in a summary, by now
	})
}

func TestAMailboxThatMovesToAFullEntryWaitsThereForRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		cloud.homes[bob] = true
		w.also[0].MailboxesPerAccount = 1
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Hour)
		hq.move(alice, cloud)
		hq.end(errReset)
		m := cloud.come(alice)
		w.pass(10 * time.Minute)
		if h := w.wantState(subscriptions.WaitingForCapacity, alice); !strings.Contains(h.Reason, "cloud") {
			t.Errorf("%+v", h)
		}
		load := w.l.Load()
		if load[0].Accounts[0].Mailboxes != 0 || load[1].Accounts[0].Mailboxes != 1 || load[1].Waiting != 1 {
			t.Errorf("%+v", load)
		}
		w.remove("b")
		w.pass(5 * time.Second)
		w.at("cloud", alice)
		w.rang(1, "a", m)
		if load := w.l.Load(); load[1].Accounts[0].Mailboxes != 1 || load[1].Waiting != 0 {
			t.Errorf("%+v", load)
		}
	})
}

func TestAMailboxThatMovesWhileTheFirstEntryCannotSayWaitsAndDoesNotJump(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid()
		cloud.homes[alice] = true
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.at("cloud", alice)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		looks := cloud.looked()
		cloud.move(alice, hq)
		cloud.end(errReset)
		m := hq.come(alice)
		w.pass(20 * time.Minute)
		w.wantState(subscriptions.Failing, alice)
		if cloud.looked() > looks {
			t.Error("the second entry was asked while the first could not say")
		}
		hq.set(func() { hq.fails = nil })
		w.pass(5*time.Minute + time.Second)
		w.at("hq", alice)
		w.rang(1, "a", m)
	})
}

func TestASicknessOfAServerMovesNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		hq.set(func() { hq.fails = row("HTTP 503", "") })
		hq.end(errReset)
		var all []*message
		for range 10 {
			all = append(all, hq.come(alice))
			w.pass(5 * time.Minute)
		}
		if cloud.looked() > 0 {
			t.Errorf("%d looks in the cloud", cloud.looked())
		}
		hq.set(func() { hq.fails = nil })
		w.pass(6 * time.Minute)
		w.at("hq", alice)
		w.rang(1, "a", all...)
	})
}

func TestRoomIsGivenInTheOrderOfWaiting(t *testing.T) {
	inWorld(t, func(w *world) {
		w.entry = func(e *Entry) { e.MailboxesPerAccount = 2 }
		w.start()
		for i := range 6 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Minute)
		w.wantState(subscriptions.WaitingForCapacity, address(2), address(3), address(4), address(5))
		w.remove("d2") // the first in the queue goes
		w.remove("d0") // and one that was heard
		w.pass(5 * time.Second)
		w.wantState(subscriptions.Listening, address(1), address(3))
		w.wantState(subscriptions.WaitingForCapacity, address(4), address(5))
		w.remove("d1")
		w.remove("d3")
		w.pass(5 * time.Second)
		w.wantState(subscriptions.Listening, address(4), address(5))
		if l := w.l.Load()[0]; l.Waiting != 0 || l.Accounts[0].Mailboxes != 2 {
			t.Errorf("%+v", l)
		}
	})
}

func TestOnlyTheMailboxesOfTheConfiguredServersAreHeard(t *testing.T) {
	const carol, dave = "carol@contoso.example", "dave@contoso.example"
	for name, configured := range map[string][]string{"short": {"ex01", "EX03"}, "full": {"EX01.contoso.example", "ex03.contoso.example"}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.entry = func(e *Entry) { e.MailboxServers = configured }
				w.ex.servers = map[string]string{alice: "EX01.contoso.example", bob: "ex02.contoso.example", carol: "EX03"}
				w.start()
				for _, m := range []string{alice, bob, carol, dave} {
					w.enrol(m, m)
				}
				w.pass(time.Minute)
				if h := w.wantState(subscriptions.Listening, alice, carol); h.Location.Server != "EX03" || h.Reason != "" {
					t.Errorf("%+v", h)
				}
				h := w.wantState(subscriptions.OutOfScope, bob)
				if !strings.Contains(h.Reason, "ex02.contoso.example") || time.Until(h.Next) > 75*time.Minute || h.Next.IsZero() {
					t.Errorf("%+v", h)
				}
				if h := w.wantState(subscriptions.Listening, dave); h.Location.Server != "" || !strings.Contains(h.Reason, "server_unknown") {
					t.Errorf("an unknown server: %+v", h)
				}
				if n := w.l.Load()[0].Accounts[0].Mailboxes; n != 3 {
					t.Errorf("the account is charged with %d", n)
				}
				// A failover takes alice out, and bob in.
				w.ex.set(func() { w.ex.servers[alice], w.ex.servers[bob] = "ex02.contoso.example", "ex01.contoso.example" })
				m := w.ex.come(alice) // the answer about it names the other server
				w.pass(time.Second)
				w.rang(1, alice, m)
				if h := w.wantState(subscriptions.OutOfScope, alice); !strings.Contains(h.Reason, "ex02") {
					t.Errorf("%+v", h)
				}
				w.pass(75 * time.Minute)
				w.wantState(subscriptions.Listening, bob)
			})
		})
	}
}

func TestAMailboxOfAnotherServerIsLeftToTheEntryThatHasIt(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		cloud.homes[alice] = true // the same Exchange, with the other half of its servers
		w.entry = func(e *Entry) { e.MailboxServers = []string{"ex01"} }
		w.also[0].MailboxServers = []string{"ex02"}
		hq.servers, cloud.servers = map[string]string{alice: "ex02.contoso.example"}, map[string]string{alice: "ex02.contoso.example"}
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		w.at("cloud", alice)
		other := func(e *exchange) { e.set(func() { e.servers[alice] = "EX01.contoso.example" }) }
		other(hq)
		other(cloud)
		m := cloud.come(alice)
		w.pass(5 * time.Second)
		w.rang(1, "a", m)
		w.at("hq", alice)
	})
}

func TestLocateSaysWhatPlacingWouldSayAndChangesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		cloud.homes[bob] = true
		w.also[0].MailboxesPerAccount = 1
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		hq.move(alice, cloud)
		before, load := w.record(alice), fmt.Sprint(w.l.Load())
		for range 2 {
			l, err := w.l.Locate(t.Context(), alice, "")
			if err != nil || l.Entry != "cloud" || l.Account != "cloud-01" || l.Location.URL != cloud.url || l.Location.Primary != alice {
				t.Errorf("%+v, %v", l, err)
			}
		}
		if w.record(alice) != before || fmt.Sprint(w.l.Load()) != load || w.state(alice).Location.Entry != "hq" {
			t.Error("it has changed something")
		}
		if l, err := w.l.Locate(t.Context(), bob, ""); err != nil || l.Entry != "cloud" {
			t.Errorf("one that is not enrolled: %+v, %v", l, err)
		}
		for name, c := range map[string]struct{ address, pinned, code string }{
			"at the pinned entry only": {bob, "hq", "ErrorNonExistentMailbox"},
			"at none":                  {"carol@contoso.example", "", codeUnknown},
			"not covered":              {"carol@fabrikam.example", "", codeNotCovered},
		} {
			if _, err := w.l.Locate(t.Context(), c.address, c.pinned); err == nil || fault.Of(err).Code != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.enrol("b", bob)
		w.pass(time.Minute)
		if l, err := w.l.Locate(t.Context(), alice, ""); fault.Of(err).Code != codeNoCapacity || l.Entry != "cloud" {
			t.Errorf("where there is no room: %+v, %v", l, err)
		}
	})
}

func TestANewCredentialIsTriedAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 20 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Minute)
		refused := row("ErrorAccessDenied", "") // hourly
		w.ex.set(func() { w.ex.fails = refused })
		w.ex.end(errReset)
		w.enrol("new", bob)
		w.pass(90 * time.Minute)
		w.wantState(subscriptions.Failing, address(0))
		if a := w.l.Load()[0].Accounts[0]; !strings.Contains(a.Blocked, "ErrorAccessDenied") || a.Next.IsZero() || a.Streams != 0 || a.Mailboxes != 21 {
			t.Errorf("%+v", a)
		}
		var all []*message
		for i := range 20 {
			all = append(all, w.ex.come(address(i)))
		}
		w.ex.set(func() { w.ex.fails = nil })
		w.l.AccountChanged("hq", "listener-01")
		w.pass(10 * time.Second)
		w.at("hq", bob)
		for i, m := range all {
			w.at("hq", address(i))
			w.rang(1, fmt.Sprint("d", i), m)
		}
		if a := w.l.Load()[0].Accounts[0]; a.Blocked != "" || a.Streams != 1 {
			t.Errorf("%+v", a)
		}
	})
}

func TestANewCredentialOfTheEntryThatIsAskedPlacesItsMailboxesAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, _ := w.hybrid(alice)
		hq.fails = row("ErrorAccessDenied", "")
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		w.wantState(subscriptions.Failing, alice)
		hq.set(func() { hq.fails = nil })
		w.l.AccountChanged("hq", "listener-01")
		w.pass(5 * time.Second)
		w.at("hq", alice)
	})
}

// impersonation notes under which names an Exchange was asked.
type impersonation struct {
	*exchange
	mu    sync.Mutex
	names []string
}

func (i *impersonation) List(ctx context.Context, p mail.Location, offset, limit int) (Page, error) {
	i.mu.Lock()
	i.names = append(i.names, p.Primary)
	i.mu.Unlock()
	return i.exchange.List(ctx, p, offset, limit)
}

func TestARenamedUserIsImpersonatedByTheNewNameAndKeepsTheMailbox(t *testing.T) {
	const renamed = "alice.smith@contoso.example"
	inWorld(t, func(w *world) {
		w.ex.homes = map[string]bool{alice: true}
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{}}
		source := &impersonation{exchange: w.ex}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder, e.Accounts[0].Source = f, source }
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		before := w.ex.come(alice)
		w.pass(time.Minute)
		id := w.record(alice).ID
		f.set(func() { f.primary[alice] = renamed }) // the old name stays as another address
		w.ex.move(alice, w.ex)
		w.ex.set(func() {
			w.ex.homes = map[string]bool{renamed: true}
			w.ex.box(renamed).items = w.ex.box(alice).items
		})
		w.ex.end(errReset)
		m := w.ex.come(renamed)
		w.pass(time.Minute)
		w.enrol("new", strings.ToLower("ALICE.Smith@contoso.example"))
		w.at("hq", alice)
		last := w.ex.come(renamed)
		w.pass(time.Second)
		w.rang(1, "a", before, m, last)
		w.rang(1, "new", last)
		if w.book.Mailbox(alice) != w.book.Mailbox(renamed) || w.record(alice).ID != id || w.state(alice).Location.Primary != renamed {
			t.Errorf("%+v", w.record(alice))
		}
		if last := source.names[len(source.names)-1]; last != renamed {
			t.Errorf("it is impersonated as %s", last)
		}
		w.stop()
		w.start()
		w.pass(time.Second)
		if last := source.names[len(source.names)-1]; last != renamed {
			t.Errorf("after a restart it is impersonated as %s", last)
		}
	})
}

// Where Autodiscover does not know one of its addresses any more, it is asked for the others.
func TestEveryAddressOfAMailboxIsTried(t *testing.T) {
	const other = "a.smith@contoso.example"
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		if _, _, err := w.book.Name(t.Context(), w.book.Mailbox(alice), other); err != nil {
			t.Fatal(err)
		}
		hq.move(alice, cloud)
		cloud.set(func() {
			cloud.homes = map[string]bool{other: true}
			cloud.box(other).items = cloud.box(alice).items
		})
		hq.end(errReset)
		m := cloud.come(other)
		w.pass(time.Minute)
		w.at("cloud", alice)
		if p := w.state(alice).Location.Primary; p != other {
			t.Errorf("it is impersonated as %s", p)
		}
		w.rang(1, "a", m)
	})
}

// domains is an Autodiscover that notes whom it was asked for.
type domains struct{ asked []string }

func (d *domains) Find(_ context.Context, address string) (mail.Location, error) {
	d.asked = append(d.asked, address)
	return mail.Location{}, &fault.Error{Op: "Autodiscover", Code: "InvalidUser", Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}
}

func TestAutodiscoverIsAskedForTheDomainsOfItsEntryOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		d := &domains{}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = d }
		w.start()
		w.enrol("a", alice)
		if _, _, err := w.book.Name(t.Context(), w.book.Mailbox(alice), "alice@fabrikam.example"); err != nil {
			t.Fatal(err)
		}
		w.pass(3 * time.Hour)
		if len(d.asked) < 3 || slices.ContainsFunc(d.asked, func(a string) bool { return a != alice }) {
			t.Errorf("%v", d.asked)
		}
	})
}

func TestSeveralWordsOfAStreamAtOnceAreAllHeard(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 5 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Minute)
		var all []*message
		w.ex.quietly(func() {
			for i := range 5 {
				all = append(all, w.ex.come(address(i)))
			}
		})
		for i := range 5 { // the subscriptions go on: a new stream has nothing to say of them
			w.ex.speaks(w.record(address(i)).Subscription, row("ErrorMissedNotificationEvents", ""))
		}
		w.pass(10 * time.Second)
		for i, m := range all {
			w.rang(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestAnEnrolmentTakesTheClockOfTheEntryThatHasItsMailbox(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid(alice)
		cloud.homes[bob], cloud.homes["carol@contoso.example"] = true, true
		cloud.skew = 3 * time.Hour
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Minute)
		since := func(id string) time.Duration {
			d, _ := w.book.Device(id)
			return d.Since.Sub(d.Created)
		}
		w.enrol("a2", alice)
		w.enrol("b2", bob)
		w.enrol("c", "carol@contoso.example")
		w.pass(time.Minute)
		for id, want := range map[string]time.Duration{"a": 0, "a2": 0, "b": cloud.skew, "b2": cloud.skew, "c": cloud.skew} {
			if got := since(id) - want; got < -2*time.Minute || got > 0 {
				t.Errorf("%s rings from %v after its enrolment; want %v less a minute", id, since(id), want)
			}
		}
		m, n := hq.come(alice), cloud.come(bob)
		synctest.Wait()
		w.rang(1, "a2", m)
		w.rang(1, "b2", n)
	})
}

// Mailboxes move to and fro all the time while mail comes for them; streams are cut, devices come and go.
func TestMailboxesThatMoveToAndFroLoseNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		hq, cloud := w.hybrid()
		const n = 30
		for i := range n {
			hq.homes[address(i)] = true
		}
		w.start()
		for i := range n {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(2 * time.Minute)
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
			w.enrol(fmt.Sprint("more", round), address(round))
			w.pass(2 * time.Minute)
		}
		w.pass(5 * time.Minute)
		for i := range n {
			w.at("hq", address(i))
			w.rang(1, fmt.Sprint("d", i), got[i]...)
		}
		load := w.l.Load()
		if load[0].Accounts[0].Mailboxes != n || load[1].Accounts[0].Mailboxes != 0 || load[1].Accounts[0].Streams != 0 {
			t.Errorf("%+v", load)
		}
	})
}

func TestAnEntryWhoseAccountsAnotherInstanceOwnsSaysThatThereIsNoRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		w.hybrid(alice)
		w.entry = func(e *Entry) { e.Accounts = nil }
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		w.wantState(subscriptions.WaitingForCapacity, alice)
	})
}

func TestNamesOfServersAreComparedShortOrWhole(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"EX01", "ex01", true}, {"EX01", "ex01.contoso.com", true}, {"ex01.contoso.com", "EX01.Contoso.COM.", true},
		{"ex01.contoso.com", "ex01.fabrikam.com", false}, {"ex01", "ex011", false}, {"ex01", "ex011.contoso.com", false},
	} {
		if sameServer(c.a, c.b) != c.want || sameServer(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}
