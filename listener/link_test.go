package listener

// What the answers of a mailbox's server say: about its messages, and about where it lives.

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// reads is a Source that has read these items, or has failed to.
type reads struct {
	Source
	items []inbox.Item
	err   error
}

func (r reads) Read(context.Context, mail.Location, []string) ([]inbox.Item, Answer, error) {
	return r.items, Answer{}, r.err
}

// attentive is a member that counts what its server has done for it.
type attentive struct {
	membership
	answers int
}

func (a *attentive) Answered() { a.answers++ }

func TestAnErrorOfAnItemIsTheErrorOfTheCallWhereItConcernsMoreThanItsMessage(t *testing.T) {
	good := inbox.Item{ID: "good", Message: &mail.Message{}}
	for name, c := range map[string]struct {
		item inbox.Item
		code string // of the call; empty: it works
	}{
		"none":                    {good, ""},
		"an error of the message": {inbox.Item{ID: "bad", Err: denied("corrupt", fault.Message, fault.Retry)}, ""},
		"an error of the mailbox": {inbox.Item{ID: "bad", Err: denied("moving", fault.Mailbox, fault.Wait)}, "moving"},
		"an error of the server":  {inbox.Item{ID: "bad", Err: denied("busy", fault.Server, fault.Wait)}, "busy"},
	} {
		member := &attentive{}
		k := &link{m: &mailbox{}, at: &mail.Location{}, outage: &outage{}, member: member, way: blockable(&Account{Source: reads{items: []inbox.Item{good, c.item, good}}}).byEWS}
		got, err := k.Read(t.Context(), []string{"good", "bad", "good"})
		switch {
		case c.code == "" && (err != nil || len(got.Items) != 3 || got.Items[1] != c.item):
			t.Errorf("%s: %v, %v", name, got, err)
		case c.code != "" && (err == nil || fault.Of(err).Code != c.code):
			t.Errorf("%s: the call ends with %v", name, err)
		case c.code != "" && !slices.Equal(got.Items, []inbox.Item{good, good}):
			t.Errorf("%s: of the others it says %v", name, got.Items)
		}
		if worked := c.code == ""; worked != (member.answers == 1) {
			t.Errorf("%s: the member is told of %d answers", name, member.answers)
		}
	}
}

// amongOthers has mail come to alice: one message over which the server fails, and one that it reads. known counts the
// look-ups, of which asked were made before.
func (s *scene) amongOthers() (sick, well *message, known *finder, asked int) {
	known = &finder{url: hqURL}
	s.entry = func(e *Entry) { e.URL, e.Accounts[0].Finder = "", known }
	s.start()
	s.enrol("a", alice)
	s.hq.come(alice)
	s.pass(time.Minute)
	asked = known.asked
	s.hq.quietly(func() { sick = s.hq.come(alice) })
	s.hq.set(func() {
		s.hq.poisoned = map[string]bool{sick.id: true}
		s.hq.tell(s.hq.box(alice), sick)
	})
	return sick, s.hq.come(alice), known, asked
}

// A server that fails over one message, and says so of the whole mailbox or not itself, is asked for another: where it reads that, the message
// is what is sick (rule 9).
func TestAMessageOverWhichTheServerFailsHarmsOnlyItself(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		all    bool
	}{
		"its own answer":                    {0, false},
		"400":                               {http.StatusBadRequest, false},
		"502":                               {http.StatusBadGateway, false},
		"504":                               {http.StatusGatewayTimeout, false},
		"500 to all, without a word of EWS": {http.StatusInternalServerError, true},
		"502 to all":                        {http.StatusBadGateway, true},
		"504 to all":                        {http.StatusGatewayTimeout, true},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hq.poison, s.hq.poisonsAll = c.status, c.all
				sick, well, known, asked := s.amongOthers()
				s.pass(5 * time.Second)
				s.accepted(1, "a", well)
				s.wantState(subscriptions.Listening, alice)
				s.pass(9 * time.Minute)
				if n := s.apns.accepted("a", s.book.Secret().ItemKey(s.record(alice).ID, sick.id).String()); n != 1 {
					t.Errorf("%d generic alerts within ten minutes", n)
				}
				s.accepted(0, "a", sick)
				s.inStep(alice)

				// The same where both are read together.
				s.hq.quietly(func() { sick, well = s.hq.come(alice), s.hq.come(alice) })
				s.hq.set(func() { s.hq.poisoned[sick.id] = true })
				s.mailbox(alice).work.List()
				s.pass(5 * time.Second)
				s.accepted(1, "a", well)
				s.pass(9 * time.Minute)
				s.wantState(subscriptions.Listening, alice)
				if known.asked != asked {
					t.Error("Autodiscover is asked where the mailbox lives")
				}

				// Where it reads none the mailbox is sick, and its mail waits.
				s.hq.set(func() { s.hq.readFail = row("ErrorInternalServerError", "") })
				waits := []*message{s.hq.come(alice), s.hq.come(alice)}
				s.pass(20 * time.Minute)
				s.wantState(subscriptions.Failing, alice)
				s.hq.set(func() { s.hq.readFail = nil })
				s.pass(time.Minute)
				s.accepted(1, "a", waits...)
			})
		})
	}
}

// What says that the mailbox is throttled, its server away, or the account without a right may be over one message too. Another one that is read says
// so: at once where waiting ends nothing, else after some tries.
func TestAMessageThatIsRefusedForEverHarmsOnlyItself(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		all    bool          // of the whole call
		holds  time.Duration // nothing is asked for so long after it
		within time.Duration // the others are read
	}{
		"503":             {http.StatusServiceUnavailable, false, time.Second, 10 * time.Second},
		"503 to all":      {http.StatusServiceUnavailable, true, 0, time.Minute},
		"429":             {http.StatusTooManyRequests, false, 4 * time.Second, 10 * time.Second},
		"429 to all":      {http.StatusTooManyRequests, true, 0, 6 * time.Minute},
		"403":             {http.StatusForbidden, false, 0, 5 * time.Second},
		"403 to all":      {http.StatusForbidden, true, 0, 5 * time.Second},
		"nobody knows it": {http.StatusTeapot, false, 0, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hq.poison, s.hq.poisonsAll, s.hq.poisonHolds = c.status, c.all, c.holds
				sick, well, known, asked := s.amongOthers()
				s.pass(c.within)
				s.accepted(1, "a", well)
				s.pass(4 * time.Minute)
				if state := s.mailbox(alice).standing(); state.State == subscriptions.Failing {
					t.Errorf("the mailbox is failing: %s", state.Reason)
				}
				well = s.hq.come(alice)
				s.pass(c.holds + time.Second)
				s.accepted(1, "a", well)
				s.pass(6 * time.Minute)
				if n := s.apns.accepted("a", s.book.Secret().ItemKey(s.record(alice).ID, sick.id).String()); n != 1 {
					t.Errorf("%d generic alerts", n)
				}
				s.accepted(0, "a", sick)
				s.inStep(alice)
				s.wantState(subscriptions.Listening, alice)
				if f := s.l.Load()[0].Accounts[0].Blocked; f != nil || known.asked != asked {
					t.Errorf("the account is blocked by %v, Autodiscover asked %d times", f, known.asked-asked)
				}

				// Where it reads none the mailbox is sick, and its mail waits.
				s.hq.set(func() { s.hq.readFail = row("HTTP 503", "") })
				waits := []*message{s.hq.come(alice), s.hq.come(alice)}
				s.pass(20 * time.Minute)
				s.wantState(subscriptions.Failing, alice)
				s.hq.set(func() { s.hq.readFail = nil })
				s.pass(5 * time.Minute)
				s.accepted(1, "a", waits...)
				s.wantState(subscriptions.Listening, alice)
			})
		})
	}
}

// A server that is away is not asked for more than before: of a mailbox that cannot be listed nothing is read.
func TestAServerThatIsAwayIsAskedOnceATry(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.hq.come(alice)
		s.pass(time.Minute)
		s.hq.set(func() { s.hq.sick = map[string]error{alice: row("HTTP 503", "")} })
		m := s.hq.come(alice)
		s.pass(5 * time.Minute)
		s.hq.set(func() { s.hq.asked = 0 })
		s.pass(time.Hour)
		s.hq.set(func() {
			if s.hq.asked > 20 {
				t.Errorf("it was asked %d times in an hour", s.hq.asked)
			}
		})
		s.hq.set(func() { s.hq.sick = nil })
		s.pass(5 * time.Minute)
		s.accepted(1, "a", m)
	})
}

// One that refuses most calls for a while, whomever they are for, lets through a few of others now and then: that does not make suspects of messages.
func TestAServerThatThrottlesGetsNoMessageGivenUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		const mailboxes = 100
		for i := range mailboxes {
			s.enrol(address(i), address(i))
			for range 3 {
				s.hq.come(address(i))
			}
		}
		s.pass(time.Minute)
		draw := rand.New(rand.NewPCG(1, 2))
		s.hq.set(func() {
			s.hq.throttle = func() error {
				if draw.Float64() < 0.6 {
					return row("HTTP 503", "")
				}
				return nil
			}
		})
		var came []*message
		for i := range mailboxes {
			came = append(came, s.hq.come(address(i)))
		}
		s.pass(time.Hour)
		said := 0
		for i, m := range came {
			said += s.apns.accepted(address(i), s.key(address(i), m))
			if n := s.apns.accepted(address(i), s.book.Secret().ItemKey(s.record(address(i)).ID, m.id).String()); n > 0 {
				t.Errorf("%s leads to %d generic alerts", m.id, n)
			}
		}
		if said < mailboxes*9/10 {
			t.Errorf("%d of %d messages led to an alert within an hour", said, mailboxes)
		}
		s.hq.set(func() { s.hq.throttle = nil })
		s.pass(10 * time.Minute)
		for i, m := range came {
			s.accepted(1, address(i), m)
		}
	})
}

// Asking it again at once would prolong that.
func TestAServerThatThrottlesReadsIsAskedForNoneBeyondTheFirstItRefuses(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		for range 10 {
			s.hq.come(alice)
		}
		s.pass(time.Minute)
		s.hq.set(func() { s.hq.readFail = row("ErrorServerBusy", "") })
		m := s.hq.come(alice)
		s.pass(10 * time.Minute)
		s.hq.set(func() { s.hq.asked, s.hq.lists = 0, 0 })
		s.pass(time.Hour)
		s.hq.set(func() {
			if reads := s.hq.asked - s.hq.lists; reads > 20 || s.hq.lists > reads {
				t.Errorf("it was asked for %d reads and %d lists in an hour", reads, s.hq.lists)
			}
			s.hq.readFail = nil
		})
		s.pass(5 * time.Minute)
		s.accepted(1, "a", m)
	})
}

// The stream had to tell of them. That it did not is held against it once, and not with each listing that shows them still unread: else the next
// stream were replaced for the same, which has the mailbox listed again.
func TestWhatNoNotificationToldOfIsHeldAgainstItsStreamOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		opened := len(s.hq.streams)
		s.hq.set(func() { s.hq.readFail = row("HTTP 503", "") })
		s.hq.quietly(func() {
			for range 3 {
				s.hq.come(alice)
			}
		})
		s.pass(time.Minute)
		s.mailbox(alice).work.List()
		s.pass(10 * time.Minute)
		s.hq.set(func() { s.hq.readFail = nil })
		s.pass(10 * time.Minute)
		if n := len(s.hq.streams) - opened; n != 1 {
			t.Errorf("%d streams were opened", n)
		}
		s.inStep(alice)
	})
}

// What passes at once is not held against the message: it waits no longer for that.
func TestAServerThatFailsOverAMessageOnceIsAskedAgainAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.hq.come(alice)
		s.pass(time.Minute)
		m := &message{}
		s.hq.onList = func(string, int) { s.hq.set(func() { s.hq.poisoned = nil }) }
		s.hq.quietly(func() { m = s.hq.come(alice) })
		s.hq.set(func() {
			s.hq.poisoned = map[string]bool{m.id: true}
			s.hq.tell(s.hq.box(alice), m)
		})
		s.pass(time.Second)
		s.accepted(1, "a", m)
	})
}

// failsFor has the server have failed for the mailbox for so long.
func (k *link) failsFor(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = time.Now().Add(-d)
}

// Where two servers contradict each other, each look-up would have the next one made at once.
func TestALocationIsDoubtedOnceItIsOldEnoughAndNotBefore(t *testing.T) {
	for name, c := range map[string]struct {
		f      *fault.Error
		before streaming.Verdict // at that age
		after  streaming.Verdict // a moment later
	}{
		"the mailbox moved":          {&fault.Error{Moved: true, Scope: fault.Mailbox}, streaming.Later, streaming.Leaves},
		"nobody says that it moved":  {&fault.Error{Scope: fault.Mailbox}, streaming.Stays, streaming.Stays},
		"its server fails for a day": {&fault.Error{Moved: true, Scope: fault.Server}, streaming.Stays, streaming.Stays},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				k := s.mailbox(alice).linked()
				if c.f.Scope == fault.Server {
					k.failsFor(24 * time.Hour)
				}
				s.pass(confirmed - k.age())
				if got := k.doubt(c.f); got != c.before {
					t.Errorf("verdict %v after %v, want %v", got, k.age(), c.before)
				}
				s.pass(1)
				if got := k.doubt(c.f); got != c.after {
					t.Errorf("verdict %v a moment later, want %v", got, c.after)
				}
			})
		})
	}
}

func TestAMailboxWhoseServerFailsIsLookedUpOnceThatIsLongEnoughAndItsLocationOldEnough(t *testing.T) {
	outage := &fault.Error{Moved: true, Scope: fault.Server, Remedy: fault.Wait}
	absence := &fault.Error{Moved: true, Scope: fault.Server, Remedy: fault.Fix}
	for name, c := range map[string]struct {
		f            *fault.Error
		age, failing time.Duration
		lookup       bool
	}{
		"an outage":                      {outage, stale + 1, silent, true},
		"an outage of a new location":    {outage, stale - 1, silent, false},
		"a short outage":                 {outage, 2 * stale, silent - 2, false},
		"a certificate that has expired": {&fault.Error{Scope: fault.Server, Remedy: fault.Fix}, stale + 1, silent, true},
		"there is no EWS":                {absence, again + 1, absent, true},
		"there is none for a moment":     {absence, 2 * stale, absent - 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				k := s.mailbox(alice).linked()
				looks := s.hq.looked()
				s.pass(c.age - 1 - k.age())
				k.failsFor(c.failing - 1)
				k.doubt(c.f)
				s.pass(1)
				if s.hq.looked() != looks {
					t.Error("it is looked up a moment before")
				}
				k.doubt(c.f)
				s.pass(1)
				if looked := s.hq.looked() != looks; looked != c.lookup {
					t.Errorf("looked up: %v", looked)
				}
			})
		})
	}
}

func TestAMailboxThatWasJustFoundIsNotLookedUpBecauseAnAnswerNamesAnotherServer(t *testing.T) {
	inScene(t, func(s *scene) {
		s.entry = func(e *Entry) { e.MailboxServers = []string{"ex01"} }
		s.hq.servers = map[string]string{alice: "ex01"}
		s.start()
		s.enrol("a", alice)
		k := s.mailbox(alice).linked()
		looks := s.hq.looked()
		s.pass(confirmed - k.age())
		k.answered(Answer{Server: "ex02"})
		s.pass(1)
		if s.hq.looked() != looks {
			t.Errorf("it is looked up %v after it was found", confirmed)
		}
		k.answered(Answer{Server: "ex02"})
		s.pass(1)
		if s.hq.looked() == looks {
			t.Error("it is not looked up")
		}
	})
}
