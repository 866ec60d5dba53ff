package listener

// How mailboxes are heard: placing, subscriptions, streams, and what is wrong with whom.

import (
	"context"
	"errors"
	"fmt"
	"io"
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

func address(i int) string { return fmt.Sprintf("user%03d@contoso.example", i) }

func (w *world) state(mailbox string) subscriptions.Hearing {
	return w.l.Hearing(w.book.Mailbox(mailbox))
}

func (w *world) wantState(want subscriptions.State, mailboxes ...string) subscriptions.Hearing {
	w.t.Helper()
	var h subscriptions.Hearing
	for _, m := range mailboxes {
		if h = w.state(m); h.State != want {
			w.t.Errorf("%s is %s (%s); want %s", m, h.State, h.Reason, want)
		}
	}
	return h
}

func TestAMailboxJoinsAStreamWithoutAListingOfTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 50 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Second)
		lists := w.ex.lists
		w.enrol("d50", address(50))
		w.pass(time.Second)
		if got := w.ex.lists - lists; got != 1 {
			t.Errorf("%d listings; want that of the new one", got)
		}
		for i := range 51 {
			w.wantState(subscriptions.Listening, address(i))
			m := w.ex.come(address(i))
			synctest.Wait()
			w.rang(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestMailThatComesWhileAStreamIsHandedOverRingsAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Second)
		w.enrol("b", bob)
		var all []*message
		for range 50 {
			all = append(all, w.ex.come(alice))
			w.pass(10 * time.Millisecond)
		}
		w.pass(time.Second)
		w.rang(1, "a", all...)
	})
}

func TestAfterACleanEndNothingIsListedAndAfterAnyOtherEverything(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		lists int
	}{"clean": {io.EOF, 0}, "cut": {errReset, 2}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("a", alice)
				w.enrol("b", bob)
				w.pass(time.Minute)
				lists := w.ex.lists
				w.ex.end(test.err)
				w.pass(10 * time.Second)
				if got := w.ex.lists - lists; got != test.lists {
					t.Errorf("%d listings, want %d", got, test.lists)
				}
				w.wantState(subscriptions.Listening, alice, bob)
				m := w.ex.come(bob)
				synctest.Wait()
				w.rang(1, "b", m)
			})
		})
	}
}

func TestMailLostWithACutStreamRings(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Minute)
		var m *message
		w.ex.quietly(func() { m = w.ex.come(alice) }) // written by the server, never received
		w.ex.end(errReset)
		w.pass(time.Second)
		w.rang(1, "a", m)
	})
}

func TestOneLostSubscriptionNeverSilencesItsGroup(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Minute)
		lists := w.ex.lists
		var missed *message
		w.ex.quietly(func() { missed = w.ex.come(alice) })
		w.ex.forget(alice)
		w.pass(5 * time.Second)
		w.wantState(subscriptions.Listening, alice, bob)
		w.rang(1, "a", missed)
		if got := w.ex.lists - lists; got != 1 {
			t.Errorf("%d listings; want that of the lost one", got)
		}
		for device, mailbox := range map[string]string{"a": alice, "b": bob} {
			m := w.ex.come(mailbox)
			synctest.Wait()
			w.rang(1, device, m)
		}
	})
}

func TestSubscriptionsAreReopenedAfterARestartAndListed(t *testing.T) { // rule 11
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Minute)
		tries := w.ex.tries
		w.stop()
		if len(w.ex.unsubs) > 0 {
			t.Error("subscriptions were given back at a stop")
		}
		m := w.ex.come(alice)
		w.start()
		w.pass(time.Second)
		w.rang(1, "a", m)
		if w.ex.tries != tries {
			t.Errorf("%d new subscriptions; the old ones are good", w.ex.tries-tries)
		}
		w.wantState(subscriptions.Listening, alice, bob)
		w.stop()
		w.ex.forget(bob)
		w.start()
		w.pass(time.Second)
		w.wantState(subscriptions.Listening, alice, bob)
		if w.ex.tries != tries+1 {
			t.Errorf("%d new subscriptions; one was lost", w.ex.tries-tries)
		}
	})
}

func TestTheLastDeviceRemovedGivesTheSubscriptionBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a1", alice)
		w.enrol("a2", alice)
		w.enrol("b", bob)
		w.pass(time.Second)
		id := w.record(alice).Subscription
		w.remove("a1")
		w.pass(time.Second)
		if len(w.ex.unsubs) > 0 {
			t.Fatal("given back while a device is left")
		}
		w.remove("a2")
		w.pass(time.Second)
		if len(w.ex.unsubs) != 1 || w.ex.unsubs[0] != id {
			t.Errorf("given back: %v, want %s", w.ex.unsubs, id)
		}
		m := w.ex.come(bob)
		synctest.Wait()
		w.rang(1, "b", m)
	})
}

func TestGroupsAreSplitAtTheirBound(t *testing.T) {
	for _, bound := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(bound), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.entry = func(e *Entry) { e.SubscriptionsPerConnection = bound }
				w.start()
				for i := range 7 {
					w.enrol(fmt.Sprint("d", i), address(i))
				}
				w.pass(time.Second)
				open := 0
				for _, s := range w.ex.streams {
					select {
					case <-s.closed:
					default:
						open++
						if len(s.ids) > bound {
							t.Errorf("a stream has %d subscriptions", len(s.ids))
						}
					}
				}
				if want := (7 + bound - 1) / bound; open != want {
					t.Errorf("%d streams, want %d", open, want)
				}
				for i := range 7 {
					m := w.ex.come(address(i))
					synctest.Wait()
					w.rang(1, fmt.Sprint("d", i), m)
				}
			})
		})
	}
}

func TestWithoutCapacityAMailboxWaitsAndSaysSo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.entry = func(e *Entry) { e.MailboxesPerAccount = 1 }
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Second)
		w.wantState(subscriptions.Listening, alice)
		if h := w.wantState(subscriptions.WaitingForCapacity, bob); !strings.Contains(h.Reason, "no_capacity") {
			t.Errorf("%+v", h)
		}
		w.remove("a")
		w.pass(5 * time.Second)
		w.wantState(subscriptions.Listening, bob)
		m := w.ex.come(bob)
		synctest.Wait()
		w.rang(1, "b", m)
	})
}

func denied(code string, s fault.Scope, r fault.Remedy) error {
	return &ews.Error{Fault: &fault.Error{Op: "Subscribe", Code: code, Scope: s, Remedy: r}, Row: ews.Row{Code: code, Scope: s, Remedy: r}}
}

func TestAMailboxThatMayNotBeSubscribedHarmsOnlyItselfAndIsPolled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ex.subFail = map[string]error{alice: denied("ErrorImpersonateUserDenied", fault.Mailbox, fault.Fix)}
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Second)
		w.wantState(subscriptions.Listening, bob)
		h := w.wantState(subscriptions.Polling, alice)
		if !strings.Contains(h.Reason, "ErrorImpersonateUserDenied") || time.Until(h.Next) < 30*time.Minute || time.Until(h.Next) > 2*time.Hour {
			t.Errorf("reason %q, next try in %v", h.Reason, time.Until(h.Next))
		}
		m := w.ex.come(alice)
		w.pass(w.poll)
		w.rang(1, "a", m)
		w.ex.set(func() { w.ex.subFail = nil })
		w.pass(2 * time.Hour)
		w.wantState(subscriptions.Listening, alice)
	})
}

func TestAWrongPasswordIsTriedByOneAtATimeAndHealsWithinFiveMinutes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 100 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Second)
		calls := 0
		w.ex.set(func() {
			w.ex.fails = denied("HTTP 401", fault.Account, fault.Fix)
			w.ex.onList = func(int) { w.ex.set(func() { calls++ }) }
		})
		w.ex.end(errReset)
		w.pass(time.Hour)
		h := w.wantState(subscriptions.Failing, address(0))
		if !strings.Contains(h.Reason, "401") || h.Next.IsZero() || time.Until(h.Next) > 6*time.Minute {
			t.Errorf("reason %q, next try in %v", h.Reason, time.Until(h.Next))
		}
		if calls > 130 { // those under way at the beginning, and then one at a time
			t.Errorf("%d sign-ins failed within an hour: the account would be locked out", calls)
		}
		var all []*message
		for i := range 100 {
			all = append(all, w.ex.come(address(i)))
		}
		w.ex.set(func() { w.ex.fails = nil })
		w.pass(7 * time.Minute)
		for i, m := range all {
			w.wantState(subscriptions.Listening, address(i))
			w.rang(1, fmt.Sprint("d", i), m)
		}
	})
}

func TestABusyServerIsLeftInPeaceForAsLongAsItAsks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Second)
		busy := denied("ErrorServerBusy", fault.Mailbox, fault.Wait)
		fault.Of(busy).After = 10 * time.Minute
		reads := 0
		w.ex.set(func() { w.ex.readFail = busy; w.ex.onList = func(int) { w.ex.set(func() { reads++ }) } })
		m := w.ex.come(alice)
		w.pass(9 * time.Minute)
		w.ex.set(func() { w.ex.readFail = nil })
		if reads > 0 {
			t.Errorf("%d calls within the back-off", reads)
		}
		w.rang(0, "a", m)
		w.pass(4 * time.Minute)
		w.rang(1, "a", m)
	})
}

// finder is an Autodiscover that knows aliases and moves.
type finder struct {
	mu      sync.Mutex
	primary map[string]string
	url     string
	asked   int
}

// set changes what it knows.
func (f *finder) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *finder) Find(_ context.Context, address string) (mail.Location, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	p := mail.Location{Entry: "hq", URL: f.url, Primary: address, Found: time.Now()}
	if f.primary[address] != "" {
		p.Primary = f.primary[address]
	}
	return p, nil
}

func TestTwoAddressesOfOneMailboxShareItsSubscriptionAndEachDeviceRingsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{"a.smith@contoso.example": alice}}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		w.enrol("a", alice)
		w.enrol("s", "a.smith@contoso.example")
		w.pass(time.Second)
		if w.book.Mailbox(alice) != w.book.Mailbox("a.smith@contoso.example") || w.ex.tries != 1 {
			t.Errorf("they are not one mailbox, or have %d subscriptions", w.ex.tries)
		}
		m := w.ex.come(alice)
		w.pass(time.Second)
		w.rang(1, "a", m)
		w.rang(1, "s", m)
		w.wantState(subscriptions.Listening, alice)
	})
}

func TestAMailboxThatMovedIsFoundAgainAndKeepsItsPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &finder{url: "https://old.contoso.example/EWS/Exchange.asmx"}
		w.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		w.start()
		w.enrol("a", alice)
		before := w.ex.come(alice)
		w.pass(time.Minute)
		id := w.record(alice).ID
		f.set(func() { f.url = "https://new.contoso.example/EWS/Exchange.asmx" })
		moved := &ews.Error{Fault: &fault.Error{Op: "GetStreamingEvents", Code: "ErrorProxyRequestNotAllowed", Scope: fault.Mailbox, Remedy: fault.Retry},
			Row: ews.Row{Code: "ErrorProxyRequestNotAllowed", Relocate: true, Resubscribe: true, CatchUp: true}, Subscriptions: []string{w.record(alice).Subscription}}
		var missed *message
		w.ex.quietly(func() { missed = w.ex.come(alice) })
		w.ex.streams[len(w.ex.streams)-1].words <- moved
		w.pass(30 * time.Second)
		h := w.wantState(subscriptions.Listening, alice)
		if h.Location.URL != f.url || w.record(alice).ID != id {
			t.Errorf("%+v", h.Location)
		}
		w.rang(1, "a", before, missed)
	})
}

func TestAMailboxThatNoEntryCoversAnyMoreSaysSo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.stop()
		w.entry = func(e *Entry) { e.Domains = []string{"fabrikam.example"} }
		w.start()
		if h := w.wantState(subscriptions.Failing, alice); !strings.Contains(h.Reason, "not_covered") {
			t.Errorf("%+v", h)
		}
		if _, _, err := w.l.Enrol(t.Context(), subscriptions.Enrolment{ID: "b", Mailbox: bob}); err == nil {
			t.Error("an address that no entry covers was enrolled")
		}
		for pinned, mailbox := range map[string]string{"hq": bob, "branch": "carol@fabrikam.example"} {
			_, _, err := w.l.Enrol(t.Context(), subscriptions.Enrolment{ID: "b", Mailbox: mailbox, Exchange: pinned})
			if e, ok := errors.AsType[*subscriptions.FieldError](err); !ok || e.Field != "exchange" {
				t.Errorf("pinned to %s: %v", pinned, err)
			}
		}
	})
}

func TestAStreamThatBeatsAndTellsNothingIsReplacedAtTheSecondMessage(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.enrol("b", bob)
		w.pass(time.Hour)
		streams := len(w.ex.streams)
		var all []*message
		w.ex.set(func() { w.ex.deafen = true })
		unheard := w.ex.come(bob)
		for range 2 {
			all = append(all, w.ex.come(alice))
			w.pass(5 * time.Minute)
			w.l.boxes[w.book.Mailbox(alice)].markListing() // as the safety poll does
			synctest.Wait()
		}
		w.pass(time.Second)
		w.rang(1, "a", all...)
		if len(w.ex.streams) == streams {
			t.Error("the stream was not replaced")
		}
		w.rang(1, "b", unheard) // its members were listed at once
	})
}

func TestMailFromBeforeTheStreamWasOpenIsNoSignOfADeadOne(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.enrol("a", alice)
		w.pass(time.Hour)
		w.stop()
		var all []*message
		for i := range 5 {
			all = append(all, w.ex.come(alice, at(ago(time.Duration(2+i)*time.Minute))))
		}
		streams := len(w.ex.streams)
		w.start()
		w.pass(10 * time.Minute)
		w.rang(1, "a", all...)
		if got := len(w.ex.streams) - streams; got != 1 {
			t.Errorf("%d streams were opened", got)
		}
	})
}

func TestNothingIsRungThatCannotBeWrittenDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		for i := range 20 {
			w.enrol(fmt.Sprint("d", i), address(i))
		}
		w.pass(time.Minute)
		w.store.Fail(io.ErrUnexpectedEOF)
		w.store.Close()
		var all []*message
		for i := range 20 {
			all = append(all, w.ex.come(address(i)))
			w.pass(time.Second)
		}
		rang := 0
		for i, m := range all {
			rang += len(w.apns.pushes(fmt.Sprint("d", i), w.key(fmt.Sprint("d", i), m)))
		}
		if rang > 1 {
			t.Errorf("%d rang while the state was away: a kill now would ring them again", rang)
		}
		w.store.Reopen()
		w.store.Fail(nil)
		w.pass(time.Minute)
		for i, m := range all {
			w.rang(1, fmt.Sprint("d", i), m)
		}
	})
}

// Each row of the table of errors, met where a mailbox is subscribed, where its stream speaks of it, and where it is read: it
// harms whom it concerns and nobody else, it is not asked again too often, and when it has passed all rings.
func TestEveryErrorOfExchangeHarmsOnlyWhomItConcernsAndPasses(t *testing.T) {
	for _, row := range ews.Rows() {
		if row.Code == "" || row.Scope == fault.Message {
			continue
		}
		err := func(ids ...string) error {
			return &ews.Error{Row: row, Subscriptions: ids,
				Fault: &fault.Error{Op: "test", Code: row.Code, Scope: row.Scope, Remedy: row.Remedy, After: row.After}}
		}
		alone := row.Scope <= fault.Mailbox
		heals := 2*time.Hour + 5*time.Minute // what needs a person is tried hourly
		t.Run(row.Code+" "+row.Text+" at Subscribe", func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.ex.subFail = map[string]error{alice: err()}
				w.start()
				w.enrol("b", bob)
				w.enrol("a", alice)
				w.pass(10 * time.Minute)
				if alone {
					m := w.ex.come(bob)
					w.pass(time.Second)
					w.rang(1, "b", m)
				}
				if tries := w.ex.tries; tries > 30 {
					t.Errorf("%d calls of Subscribe within ten minutes", tries)
				}
				h := w.state(alice)
				if h.State == subscriptions.Listening || h.Reason == "" || h.Next.IsZero() {
					t.Errorf("state %s, reason %q, next try %v: nobody knows", h.State, h.Reason, h.Next)
				}
				w.ex.set(func() { w.ex.subFail = nil })
				m := w.ex.come(alice)
				w.pass(heals)
				w.wantState(subscriptions.Listening, alice, bob)
				w.rang(1, "a", m)
			})
		})
		t.Run(row.Code+" "+row.Text+" in the stream", func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("b", bob)
				w.enrol("a", alice)
				w.pass(time.Minute)
				id := w.record(alice).Subscription
				w.ex.streams[len(w.ex.streams)-1].words <- err(id)
				w.pass(time.Minute)
				m := w.ex.come(bob)
				w.pass(5 * time.Second)
				if alone || row.Scope == fault.Group {
					w.rang(1, "b", m)
				}
				m = w.ex.come(alice)
				w.pass(heals)
				w.wantState(subscriptions.Listening, alice, bob)
				w.rang(1, "a", m)
			})
		})
		t.Run(row.Code+" "+row.Text+" at a read", func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				w.enrol("b", bob)
				w.enrol("a", alice)
				w.pass(time.Minute)
				w.ex.set(func() { w.ex.readFail = err() })
				m := w.ex.come(alice)
				w.pass(10 * time.Minute)
				w.rang(0, "a", m)
				if h := w.state(alice); h.State != subscriptions.Failing || h.Next.IsZero() {
					t.Errorf("state %s, next try %v", h.State, h.Next)
				}
				w.ex.set(func() { w.ex.readFail = nil })
				w.pass(heals)
				w.rang(1, "a", m)
				w.wantState(subscriptions.Listening, alice, bob)
			})
		})
	}
}
