package inbox

// What a listing looks at, to the second, and what it makes of that.

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestAMailboxStartsTwiceTheToleranceBeforeItsFirstEnrolmentAndADeviceOnce(t *testing.T) { // rule 5
	inScene(t, func(s *scene) {
		s.start()
		s.source.ahead = 3 * time.Minute
		first := time.Now()
		release := make(chan struct{})
		s.source.set(func() { s.source.onList = func(int) { <-release } })
		s.enrol("a", alice) // nobody knows the server's clock yet
		s.pass(2 * time.Minute)
		s.enrol("b", alice)
		s.source.set(func() { s.source.onList = nil })
		close(release)
		s.pass(time.Minute)
		begin := first.Add(3*time.Minute - mail.Tolerance)
		for id, want := range map[string]time.Time{"a": begin, "b": begin.Add(2 * time.Minute)} {
			if d, _ := s.book.Device(id); !d.Since.Equal(want) {
				t.Errorf("%s gets alerts since %v, want %v", id, d.Since, want)
			}
		}
		if since := time.Unix(s.record(alice).Since, 0); !since.Equal(begin.Add(-mail.Tolerance)) {
			t.Errorf("the log begins at %v, want %v", since, begin.Add(-mail.Tolerance))
		}
	})
}

func TestTheLogBeginsAnewWhereTheServersClockStandsBeforeItAndNotAtIt(t *testing.T) { // rule 4
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		since := time.Unix(s.record(alice).Since, 0)
		var at, before, long *message
		s.source.quietly(func() {
			at = s.source.come(alice, receivedAt(since))
			before = s.source.come(alice, receivedAt(since.Add(-2*mail.Tolerance)))
			long = s.source.come(alice, receivedAt(since.Add(-2*mail.Tolerance-2*time.Second)))
		})
		list := func(clock time.Time) {
			s.source.set(func() { s.source.ahead = time.Until(clock) })
			s.mailbox(alice).List()
			s.pass(time.Millisecond)
			if h := s.mailbox(alice).Status(); !h.Listed || time.Since(h.LastListing) > time.Millisecond {
				t.Errorf("%+v", h)
			}
		}
		expect := func(m *message, want ...string) {
			t.Helper()
			if got := s.reasons(alice, s.key("a", m)); !slices.Equal(got, want) {
				t.Errorf("%v of a message of %v, want %v", got, m.received, want)
			}
		}
		list(since)
		expect(at, "before_enrolment")
		expect(before)
		list(since.Add(-time.Second))
		expect(at, "before_enrolment")
		expect(before, "clock")
		expect(long)
		begin := since.Add(-time.Second - 2*mail.Tolerance)
		if got := time.Unix(s.record(alice).Since, 0); !got.Equal(begin) {
			t.Errorf("the log begins at %v, want %v", got, begin)
		}
		if d, _ := s.book.Device("a"); !d.Since.Equal(begin.Add(mail.Tolerance)) {
			t.Errorf("the device gets alerts since %v, want %v", d.Since, begin.Add(mail.Tolerance))
		}
		next := s.source.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", next)
	})
}

// It counts against the stream, which is opened anew for it.
func TestOnlyMailThatAHintShouldHaveNamedCountsAsRecovered(t *testing.T) {
	quietly := func(s *scene, received time.Time) {
		s.source.quietly(func() { s.source.come(alice, receivedAt(received)) })
	}
	for name, c := range map[string]struct {
		come func(s *scene)
		want int
	}{
		"no hint named it":                    {func(s *scene) { quietly(s, time.Now()) }, 1},
		"a hint did":                          {func(s *scene) { s.source.come(alice) }, 0},
		"a hint did, and the listing decides": {func(s *scene) { s.source.come(alice, readTells(time.Unix(1, 0))) }, 0},
		"it is from before the enrolment":     {func(s *scene) { quietly(s, ago(67*time.Minute)) }, 0},
		"it is from before another one's": {func(s *scene) {
			s.pass(time.Hour)
			s.enrol("b", alice)
			quietly(s, ago(30*time.Minute))
		}, 1},
		"it has its outcome, and is shown again": {func(s *scene) {
			s.source.come(alice)
			s.pass(time.Second)
			s.mailbox(alice).List()
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				c.come(s)
				s.pass(2 * s.poll)
				if s.source.unhinted != c.want {
					t.Errorf("%d messages are recovered, want %d", s.source.unhinted, c.want)
				}
			})
		})
	}
}

// A message whose date would decide against it may be gone before a listing can decide.
func TestAMessageInDoubtThatIsGoneIsEnteredAtTheBeginningOfTheLog(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var m *message
		s.source.quietly(func() { m = s.source.come(alice, readTells(time.Unix(1<<31-2, 0))) })
		s.source.set(func() { s.source.onList = func(int) { s.source.take(alice, m) } })
		s.source.hint(alice, m)
		s.pass(time.Second)
		r := s.record(alice)
		if len(r.Outcomes) != 1 || int64(r.Outcomes[0].Received) != r.Since {
			t.Errorf("%+v; the log begins at %d", r.Outcomes, r.Since)
		}
		if got := s.reasons(alice, s.key("a", m)); !slices.Equal(got, []string{string(outcome.Late)}) {
			t.Errorf("%v", got)
		}
	})
}

func TestOfMessagesInDoubtThoseAlertThatAreShownAndTheOthersAreLate(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var shown, gone []*message
		s.source.quietly(func() {
			for i := range 10 {
				doubtful := readTells(time.Unix(int64(1+i), 0))
				shown, gone = append(shown, s.source.come(alice, doubtful)), append(gone, s.source.come(alice, doubtful))
			}
		})
		s.source.set(func() { s.source.onList = func(int) { s.source.take(alice, gone...) } })
		m := s.mailbox(alice)
		m.Detach() // so that one turn has all hints
		for i := range shown {
			s.source.hint(alice, shown[i])
			s.source.hint(alice, gone[i])
		}
		m.Attach(m.link.Load().Link)
		s.pass(time.Second)
		s.accepted(1, "a", shown...)
		for _, m := range gone {
			if got := s.reasons(alice, s.key("a", m)); !slices.Equal(got, []string{string(outcome.Late)}) {
				t.Errorf("%s, which is gone: %v", m.id, got)
			}
		}
	})
}

func TestADeviceThatEnrolsInAMailboxInUseWhileNobodyKnowsTheClockGetsAlerts(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		e := subscriptions.Enrolment{ID: "b", Mailbox: alice, Token: "token-of-b", Topic: topic, Environment: "production"}
		done, err := s.book.Enrol(context.Background(), e, time.Now(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		s.listen(done.Mailbox)
		want := time.Now().Add(-mail.Tolerance)
		s.pass(time.Second)
		if d, _ := s.book.Device("b"); !d.Since.Equal(want) {
			t.Errorf("it gets alerts since %v, want %v", d.Since, want)
		}
		m := s.source.come(alice)
		s.pass(time.Second)
		s.accepted(1, "a", m)
		s.accepted(1, "b", m)
	})
}

// Within the minute until its second try, a listing reads what could not be read at first.
func TestAMessageThatAListingCouldReadInTheEndIsNotTriedAgain(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var m *message
		s.source.quietly(func() { m = s.source.come(alice, corrupt) })
		listed := s.record(alice).Listed
		s.mailbox(alice).List()
		s.pass(10 * time.Second)
		if s.record(alice).Listed != listed || len(s.mailbox(alice).unreadable.items) != 1 {
			t.Error("a listing is complete without a message that has no outcome")
		}
		s.source.mend(m)
		s.mailbox(alice).List()
		s.pass(10 * time.Second)
		s.accepted(1, "a", m)
		if n := len(s.mailbox(alice).unreadable.items); n != 0 || s.record(alice).Listed != m.received.Unix() {
			t.Errorf("%d tries are kept of a message that was read", n)
		}
	})
}

func TestAMessageThatAHintWasQuickerToReadAndThatIsGoneSinceHasOneDecision(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var all []*message
		s.source.quietly(func() {
			for i := range 2 * batch {
				all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second))))
			}
		})
		last := all[len(all)-1]
		s.apns.set(func() { s.apns.delay = 100 * time.Millisecond })
		s.mailbox(alice).List()
		s.pass(50 * time.Millisecond)
		s.source.hint(alice, last) // read between the two batches
		s.pass(100 * time.Millisecond)
		s.source.take(alice, last)
		s.pass(time.Minute)
		s.accepted(1, "a", all...)
		if got := s.reasons(alice, s.key("a", last)); !slices.Equal(got, []string{string(outcome.Accepted)}) {
			t.Errorf("%v", got)
		}
	})
}

func TestMailThatComesWhileAListingIsDealtWithIsReadAndListedOnlyWhereItIsInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(m *message)
		listings int
	}{"believed": {func(*message) {}, 1}, "in doubt": {readTells(time.Unix(1, 0)), 2}} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				s.source.quietly(func() {
					for i := range 2 * batch {
						s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second)))
					}
				})
				s.apns.set(func() { s.apns.delay = 100 * time.Millisecond })
				s.source.set(func() { s.source.lists = 0 })
				s.mailbox(alice).List()
				s.pass(50 * time.Millisecond)
				live := s.source.come(alice, c.change)
				s.pass(time.Minute)
				s.accepted(1, "a", live)
				if s.source.lists != c.listings {
					t.Errorf("listed %d times, want %d", s.source.lists, c.listings)
				}
			})
		})
	}
}

// linked is a source whose pages are linked: each names the next one, and none begins with what another has shown.
type linked struct {
	*link
	pages []Page
	parts *[]Part
}

func (l linked) List(_ context.Context, p Part) (Page, error) {
	*l.parts = append(*l.parts, p)
	n, _ := strconv.Atoi(p.After)
	page := l.pages[n%len(l.pages)]
	page.Clock = time.Now()
	return page, nil
}

func TestPagesAreFollowedToTheirEndHoweverShortTheyAre(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		of := func(ids ...string) (list []mail.Message) {
			for _, id := range ids {
				list = append(list, mail.Message{ItemID: id, Received: time.Now()})
			}
			return list
		}
		var parts []Part
		l := linked{parts: &parts, pages: []Page{
			{Messages: of("1", "2"), Next: "1"}, {Next: "2"}, {Messages: of("3"), Next: "3"}, {Messages: of("3", "4"), Next: "4"}, {},
		}}
		list, _, whole, err := s.mailbox(alice).tryPages(context.Background(), l.List)
		if err != nil || !whole || len(list) != 4 {
			t.Errorf("%d messages of 4 are listed; it is whole: %v (%v)", len(list), whole, err)
		}
		since := s.mailbox(alice).box.Record().Since
		for n, p := range parts {
			if n > 0 && p.After != strconv.Itoa(n) || p.Since.Unix() != since {
				t.Errorf("page %d was asked for as %+v", n, p)
			}
		}
	})
}

func TestAListingThatDoesNotEndIsGivenUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var parts []Part
		_, _, _, err := s.mailbox(alice).tryPages(context.Background(), linked{parts: &parts, pages: []Page{{Next: "1"}}}.List)
		if fault.Of(err).Code != "pages" || len(parts) != maxPages {
			t.Errorf("%v after %d pages", err, len(parts))
		}
	})
}

// Some servers ignore the offset: to go on would ask them two thousand times for nothing.
func TestAListingWhosePagesAreAllTheSameIsGivenUpSoon(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var parts []Part
		page := Page{Messages: []mail.Message{{ItemID: "1", Received: time.Now()}, {ItemID: "2", Received: time.Now()}}, Next: "1", Overlaps: true}
		_, _, whole, err := s.mailbox(alice).tryPages(context.Background(), linked{parts: &parts, pages: []Page{page}}.List)
		if whole || fault.Of(err).Code != "pages" || len(parts) != 1+maxStale {
			t.Errorf("%v after %d pages; it is whole: %v", err, len(parts), whole)
		}
	})
}

func TestAClosedMailboxIsForgottenOnceNothingOfItIsInFlight(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", bob)
		s.pass(time.Minute)
		s.apns.set(func() { s.apns.delay = time.Second })
		s.source.come(alice)
		s.pass(100 * time.Millisecond)
		s.remove("a")
		s.remove("b")
		open := func() (list []*subscriptions.Mailbox) {
			s.in.mu.Lock()
			defer s.in.mu.Unlock()
			for box := range s.in.open {
				list = append(list, box)
			}
			return list
		}
		if list := open(); len(list) != 1 || list[0].Record().Addresses[0] != alice {
			t.Errorf("%d mailboxes are open; the push to the last device of one is in flight", len(list))
		}
		s.pass(time.Minute)
		if list := open(); len(list) != 0 {
			t.Errorf("%d mailboxes are open", len(list))
		}
		s.enrol("c", bob)
		s.pass(time.Minute)
		s.in.forget(s.mailbox(bob))
		if list := open(); len(list) != 1 {
			t.Errorf("%d mailboxes are open; one has a device", len(list))
		}
	})
}

func TestAListingThatShowsNothingNewWritesNothingAndOneThatDoesWrites(t *testing.T) { // rule 3
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.source.come(alice)
		s.pass(time.Hour)
		listed := func() bool {
			s.mailbox(alice).List()
			s.pass(time.Minute)
			return s.mailbox(alice).Status().Listed
		}
		s.store.Fail(errors.New("no write is taken"))
		if !listed() {
			t.Error("a listing that shows nothing new is written")
		}
		var m *message
		s.source.quietly(func() { m = s.source.come(alice) })
		if listed() {
			t.Error("one that shows a new message is not")
		}
		s.store.Fail(nil)
		s.pass(time.Minute)
		s.accepted(1, "a", m)
	})
}
