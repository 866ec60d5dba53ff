package listener

// How mailboxes are listened to, read and told about: with streams, listings and errors, and what is wrong with whom.

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestAfterACleanEndNothingIsListedAndAfterAnyOtherEverything(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		lists int
	}{"clean": {io.EOF, 0}, "cut": {errReset, 2}} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.enrol("b", bob)
				s.pass(time.Minute)
				lists := s.hq.listings()
				s.hq.end(test.err)
				s.pass(10 * time.Second)
				if got := s.hq.listings() - lists; got != test.lists {
					t.Errorf("%d listings, want %d", got, test.lists)
				}
				s.wantState(subscriptions.Listening, alice, bob)
				m := s.hq.come(bob)
				synctest.Wait()
				s.accepted(1, "b", m)
			})
		})
	}
}

func TestMailLostWithACutStreamAlerts(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		var m *message
		s.hq.quietly(func() { m = s.hq.come(alice) }) // written by the server, never received
		s.hq.end(errReset)
		s.pass(time.Second)
		s.accepted(1, "a", m)
	})
}

func TestOneLostSubscriptionNeverSilencesItsGroup(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		lists := s.hq.listings()
		var missed *message
		s.hq.quietly(func() { missed = s.hq.come(alice) })
		s.hq.forget(alice)
		s.pass(5 * time.Second)
		s.wantState(subscriptions.Listening, alice, bob)
		s.accepted(1, "a", missed)
		if got := s.hq.listings() - lists; got != 1 {
			t.Errorf("%d listings; want that of the lost one", got)
		}
		for device, mailbox := range map[string]string{"a": alice, "b": bob} {
			m := s.hq.come(mailbox)
			synctest.Wait()
			s.accepted(1, device, m)
		}
	})
}

func TestSubscriptionsAreReopenedAfterARestartAndListed(t *testing.T) { // rule 11
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		tries := s.hq.subscribed()
		s.stop()
		if len(s.hq.givenBack()) > 0 {
			t.Error("subscriptions were given back at a stop")
		}
		m := s.hq.come(alice)
		s.start()
		s.pass(time.Second)
		s.accepted(1, "a", m)
		if s.hq.subscribed() != tries {
			t.Errorf("%d new subscriptions; the old ones are good", s.hq.subscribed()-tries)
		}
		s.wantState(subscriptions.Listening, alice, bob)
		s.stop()
		s.hq.forget(bob)
		s.start()
		s.pass(time.Second)
		s.wantState(subscriptions.Listening, alice, bob)
		if s.hq.subscribed() != tries+1 {
			t.Errorf("%d new subscriptions; one was lost", s.hq.subscribed()-tries)
		}
	})
}

func TestTheLastDeviceRemovedGivesTheSubscriptionBack(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a1", alice)
		s.enrol("a2", alice)
		s.enrol("b", bob)
		s.pass(time.Second)
		id := s.record(alice).Subscription
		s.remove("a1")
		s.pass(time.Second)
		if len(s.hq.givenBack()) > 0 {
			t.Fatal("given back while a device is left")
		}
		s.remove("a2")
		s.pass(time.Second)
		s.hq.end(io.EOF) // until then its stream has it, and there it would be a bad id
		s.pass(time.Second)
		if len(s.hq.givenBack()) != 1 || s.hq.givenBack()[0] != id {
			t.Errorf("given back: %v, want %s", s.hq.givenBack(), id)
		}
		m := s.hq.come(bob)
		synctest.Wait()
		s.accepted(1, "b", m)
	})
}

func TestWithoutCapacityAMailboxWaitsAndSaysSo(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.MailboxesPerAccount = 1 }
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Second)
		s.wantState(subscriptions.Listening, alice)
		if h := s.wantState(subscriptions.WaitingForCapacity, bob); !strings.Contains(h.Reason, "no_capacity") {
			t.Errorf("%+v", h)
		}
		s.remove("a")
		s.pass(5 * time.Second)
		s.wantState(subscriptions.Listening, bob)
		m := s.hq.come(bob)
		synctest.Wait()
		s.accepted(1, "b", m)
	})
}

func denied(code string, s fault.Scope, r fault.Remedy) error {
	return &fault.Error{Op: "Subscribe", Code: code, Scope: s, Remedy: r}
}

func TestAMailboxThatMayNotBeSubscribedHarmsOnlyItselfAndIsPolled(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.subFail = map[string]error{alice: denied("ErrorImpersonateUserDenied", fault.Mailbox, fault.Fix)}
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Second)
		s.wantState(subscriptions.Listening, bob)
		h := s.wantState(subscriptions.Polling, alice)
		if !strings.Contains(h.Reason, "ErrorImpersonateUserDenied") || time.Until(h.Next) < 30*time.Minute || time.Until(h.Next) > 2*time.Hour {
			t.Errorf("reason %q, next try in %v", h.Reason, time.Until(h.Next))
		}
		m := s.hq.come(alice)
		s.pass(s.poll)
		s.accepted(1, "a", m)
		s.hq.set(func() { s.hq.subFail = nil })
		s.pass(2 * time.Hour)
		s.wantState(subscriptions.Listening, alice)
	})
}

func TestABusyServerIsLeftInPeaceForAsLongAsItAsks(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Second)
		busy := denied("ErrorServerBusy", fault.Mailbox, fault.Wait)
		fault.Of(busy).After = 10 * time.Minute
		reads := 0
		s.hq.set(func() { s.hq.readFail = busy; s.hq.onList = func(string, int) { s.hq.set(func() { reads++ }) } })
		m := s.hq.come(alice)
		s.pass(9 * time.Minute)
		s.hq.set(func() { s.hq.readFail = nil })
		if reads > 0 {
			t.Errorf("%d calls within the back-off", reads)
		}
		s.accepted(0, "a", m)
		s.pass(4 * time.Minute)
		s.accepted(1, "a", m)
	})
}

func TestTwoAddressesOfOneMailboxShareItsSubscriptionAndEachDeviceIsAlertedOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &finder{url: "https://mail.contoso.example/EWS/Exchange.asmx", primary: map[string]string{"a.smith@contoso.example": alice}}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		s.enrol("a", alice)
		s.enrol("s", "a.smith@contoso.example")
		s.pass(time.Second)
		if s.book.Mailbox(alice) != s.book.Mailbox("a.smith@contoso.example") || s.hq.subscribed() != 1 {
			t.Errorf("they are not one mailbox, or have %d subscriptions", s.hq.subscribed())
		}
		m := s.hq.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		s.accepted(1, "s", m)
		s.wantState(subscriptions.Listening, alice)
	})
}

func TestAMailboxThatMovedIsFoundAgainAndKeepsWhereItStands(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &finder{url: "https://old.contoso.example/EWS/Exchange.asmx"}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		s.enrol("a", alice)
		before := s.hq.come(alice)
		s.pass(time.Minute)
		id := s.record(alice).ID
		f.set(func() { f.url = "https://new.contoso.example/EWS/Exchange.asmx" })
		moved := row("ErrorProxyRequestNotAllowed", "")
		moved.Subscriptions = []string{s.record(alice).Subscription}
		var missed *message
		s.hq.quietly(func() { missed = s.hq.come(alice) })
		s.hq.opened()[len(s.hq.opened())-1].reports <- moved
		s.pass(30 * time.Second)
		h := s.wantState(subscriptions.Listening, alice)
		if h.Location.URL != f.url || s.record(alice).ID != id {
			t.Errorf("%+v", h.Location)
		}
		s.accepted(1, "a", before, missed)
	})
}

func TestAMailboxThatNoEntryCoversAnyMoreSaysSo(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.stop()
		s.entry = func(e *Entry) { e.Domains = []string{"fabrikam.example"} }
		s.start()
		if h := s.wantState(subscriptions.Failing, alice); !strings.Contains(h.Reason, "not_covered") {
			t.Errorf("%+v", h)
		}
		if _, _, err := s.l.Enrol(s.t.Context(), subscriptions.Enrolment{ID: "b", Mailbox: bob}, nil); err == nil {
			t.Error("an address that no entry covers was enrolled")
		}
		for pinned, mailbox := range map[string]string{"hq": bob, "branch": "carol@fabrikam.example"} {
			_, _, err := s.l.Enrol(s.t.Context(), subscriptions.Enrolment{ID: "b", Mailbox: mailbox, Exchange: pinned}, nil)
			if e, ok := errors.AsType[*subscriptions.FieldError](err); !ok || e.Field != "exchange" {
				t.Errorf("pinned to %s: %v", pinned, err)
			}
		}
	})
}

func TestAStreamThatBeatsAndTellsNothingIsReplacedAtTheSecondMessage(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Hour)
		streams := len(s.hq.opened())
		var all []*message
		s.hq.set(func() { s.hq.quiet = true })
		untold := s.hq.come(bob)
		for range 2 {
			all = append(all, s.hq.come(alice))
			s.pass(5 * time.Minute)
			s.mailbox(alice).work.List() // as the safety poll does
			synctest.Wait()
		}
		s.pass(time.Second)
		s.accepted(1, "a", all...)
		if len(s.hq.opened()) == streams {
			t.Error("the stream was not replaced")
		}
		s.accepted(1, "b", untold) // its members were listed at once
	})
}

func TestMailFromBeforeTheStreamWasOpenIsNoSignOfADeadOne(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.stop()
		var all []*message
		for i := range 5 {
			all = append(all, s.hq.come(alice, received(time.Now().Add(-time.Duration(2+i)*time.Minute))))
		}
		streams := len(s.hq.opened())
		s.start()
		s.pass(10 * time.Minute)
		s.accepted(1, "a", all...)
		if got := len(s.hq.opened()) - streams; got != 1 {
			t.Errorf("%d streams were opened", got)
		}
	})
}

// Each row of the table of errors, met where a mailbox is subscribed, where its stream speaks of it, and where it is read: it
// harms whom it concerns and nobody else, it is not asked again too often, and when it has passed everything is alerted.
func TestEveryErrorOfExchangeHarmsOnlyWhomItConcernsAndPasses(t *testing.T) {
	for _, row := range ews.Rows() {
		if row.Code == "" || row.Scope == fault.Message {
			continue
		}
		err := func(ids ...string) error { return rowError(row, ids...) }
		alone := row.Scope <= fault.Mailbox
		heals := 2*time.Hour + 5*time.Minute // what needs a person is tried hourly
		t.Run(row.Code+" "+row.Text+" at Subscribe", func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hq.subFail = map[string]error{alice: err()}
				s.start()
				s.enrol("b", bob)
				s.enrol("a", alice)
				s.pass(10 * time.Minute)
				if alone {
					m := s.hq.come(bob)
					s.pass(time.Second)
					s.accepted(1, "b", m)
				}
				if tries := s.hq.subscribed(); tries > 30 {
					t.Errorf("%d calls of Subscribe within ten minutes", tries)
				}
				h := s.status(alice)
				if h.State == subscriptions.Listening || h.Reason == "" || h.Next.IsZero() {
					t.Errorf("state %s, reason %q, next try %v: nobody knows", h.State, h.Reason, h.Next)
				}
				s.hq.set(func() { s.hq.subFail = nil })
				m := s.hq.come(alice)
				s.pass(heals)
				s.wantState(subscriptions.Listening, alice, bob)
				s.accepted(1, "a", m)
			})
		})
		t.Run(row.Code+" "+row.Text+" in the stream", func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("b", bob)
				s.enrol("a", alice)
				s.pass(time.Minute)
				id := s.record(alice).Subscription
				s.hq.opened()[len(s.hq.opened())-1].reports <- err(id)
				s.pass(time.Minute)
				m := s.hq.come(bob)
				s.pass(5 * time.Second)
				if alone || row.Scope == fault.Group {
					s.accepted(1, "b", m)
				}
				m = s.hq.come(alice)
				s.pass(heals)
				s.wantState(subscriptions.Listening, alice, bob)
				s.accepted(1, "a", m)
			})
		})
		t.Run(row.Code+" "+row.Text+" at a read", func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("b", bob)
				s.enrol("a", alice)
				s.pass(time.Minute)
				s.hq.set(func() { s.hq.readFail = err() })
				m := s.hq.come(alice)
				s.pass(10 * time.Minute)
				s.accepted(0, "a", m)
				if h := s.status(alice); h.State != subscriptions.Failing || h.Next.IsZero() {
					t.Errorf("state %s, next try %v", h.State, h.Next)
				}
				s.hq.set(func() { s.hq.readFail = nil })
				s.pass(heals)
				s.accepted(1, "a", m)
				s.wantState(subscriptions.Listening, alice, bob)
			})
		})
	}
}

func TestAMailboxThatMovedAndCannotBeSubscribedIsPolled(t *testing.T) {
	inScene(t, func(s *scene) {
		f := &finder{url: "https://old.contoso.example/EWS/Exchange.asmx"}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		moving := row("ErrorMailboxMoveInProgress", "")
		s.hq.subFail = map[string]error{alice: moving}
		s.hq.fails = moving // while it moves it can neither be subscribed nor listed
		s.enrol("a", alice)
		s.pass(9 * time.Minute) // the second failure: it is looked up again
		f.set(func() { f.url = "https://new.contoso.example/EWS/Exchange.asmx" })
		s.hq.set(func() { // it has arrived, and the new server lets it be read, and not subscribed
			s.hq.fails = nil
			s.hq.subFail[alice] = row("ErrorExceededSubscriptionCount", "")
		})
		m := s.hq.come(alice)
		s.pass(12 * time.Hour)
		if h := s.status(alice); h.State != subscriptions.Polling {
			t.Errorf("%s: %s; last listing %v", h.State, h.Reason, h.LastListing)
		}
		if s.apns.accepted("a", s.key("a", m)) == 0 {
			t.Error("no alert of its mail was accepted within 12 hours")
		}
	})
}

// Rule 11: a start with kept subscriptions, the old process's stream not yet dead at the server, which writes into it until the new one brings
// its first envelope. What it writes there is never told again.
func TestMailWrittenIntoTheStreamOfAProcessThatWasKilledAlertsWithinSeconds(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.hq.set(func() { s.hq.unaware, s.hq.attachAfter = true, 2*time.Second })
		s.stop()
		all := []*message{s.hq.come(alice)} // while nobody runs
		s.start()
		s.pass(time.Second)
		all = append(all, s.hq.come(alice)) // after the opening, before the first envelope
		s.wantState(subscriptions.Resolving, alice)
		s.pass(3 * time.Second)
		s.accepted(1, "a", all...)
		s.listening("hq", alice)
	})
}

func TestListeningMeansThatTheFirstEnvelopeHasComeAndAListingThatBeganAfterThatIsDone(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.attachAfter = 20 * time.Second
		slow := func(string, int) { <-time.After(10 * time.Second) }
		s.start()
		s.enrol("a", alice)
		for _, step := range []struct {
			after time.Duration
			state subscriptions.State
			why   string
		}{
			{9 * time.Second, subscriptions.Resolving, "stream"},
			{10 * time.Second, subscriptions.Polling, "GetStreamingEvents: stream held back"}, // and listed all the same
			{5 * time.Second, subscriptions.Resolving, "listing"},
			{10 * time.Second, subscriptions.Listening, ""},
		} {
			s.hq.set(func() { s.hq.onList = slow })
			s.pass(step.after)
			if st := s.wantState(step.state, alice); !strings.HasPrefix(st.Reason, step.why) {
				t.Errorf("after %v: %q", step.after, st.Reason)
			}
		}
		if st := s.status(alice); st.LastHeartbeat.IsZero() || st.LastListing.IsZero() || st.Subscribed.IsZero() {
			t.Errorf("%+v", st)
		}
	})
}

func TestAMailboxWaitsForItsStreamNoLongerThanItsMailCanWait(t *testing.T) {
	inScene(t, func(s *scene) {
		s.hq.attachAfter = time.Hour
		s.start()
		s.enrol("a", alice)
		m := s.hq.come(alice)
		s.pass(6 * time.Second)
		s.accepted(1, "a", m)
	})
}
