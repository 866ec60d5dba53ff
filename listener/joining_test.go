package listener

// Two mailboxes turn out to be one: what each device has had, and what it is owed, goes over with it.

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/sicktest"
	"github.com/mailbell/mailbell/subscriptions"
)

// renaming is the mailbox alice, which is renamed: its server has told a second name since rename was called, and the old one stays as an alias.
type renaming struct {
	*scene
	finder *finder
}

const (
	renamed = "alice.smith@contoso.example"
	alias   = "a.smith@contoso.example"
)

func inRenaming(t *testing.T, test func(s renaming)) {
	t.Helper()
	inScene(t, func(s *scene) { test(s.renaming()) })
}

func (s *scene) renaming() renaming {
	f := &finder{url: hqURL, primary: map[string]string{}}
	s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
	s.start()
	return renaming{s, f}
}

// come delivers a message: to the subscriptions under either name.
func (s renaming) come(change ...func(m *message)) *message {
	m := s.hq.come(alice, change...)
	s.hq.come(renamed, func(n *message) { *n = *m })
	return m
}

// rename renames the mailbox, and has a phone enrolled under the new name: a second one, or the first once more.
func (s renaming) rename(token string) {
	s.t.Helper()
	s.finder.set(func() { s.finder.primary[alice] = renamed })
	if _, _, err := s.l.Enrol(s.t.Context(), enrolment("b", renamed, token), nil); err != nil {
		s.t.Fatal(err)
	}
}

// join has alice looked up.
func (s renaming) join() {
	s.t.Helper()
	m := s.mailbox(alice)
	if k := m.linked(); k != nil {
		m.relocate(k)
	} else {
		m.seek()
	}
	s.pass(time.Minute)
	if s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
		s.t.Fatal("they are not joined")
	}
}

func (s renaming) alerts(device string, want int) {
	s.t.Helper()
	s.apns.mu.Lock()
	defer s.apns.mu.Unlock()
	if n := len(s.apns.got[device]); n != want {
		s.t.Errorf("%s had %d alerts, want %d", device, n, want)
	}
}

func TestWhatADeviceIsOwedFromBeforeTheOtherRecordBeganComesAfterTheJoin(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.come()
		s.pass(time.Minute)
		release := s.apns.hold("a")
		s.come()
		s.pass(30 * time.Minute)
		s.rename("another")
		s.pass(time.Minute)
		s.join()
		release()
		s.in.TopicReady(topic, "production")
		s.pass(time.Minute)
		s.come()
		s.pass(time.Hour)
		s.alerts("a", 3)
		s.alerts("b", 1)
		s.inStep(renamed)
	})
}

// Nobody read the mailbox under its old name for a while: nothing of what came meanwhile stands in its record.
func TestWhatCameWhileAMailboxCouldNotBeReadUnderItsOldNameComesAfterTheJoin(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.come()
		s.pass(time.Minute)
		s.hq.set(func() { s.hq.homes = map[string]bool{renamed: true} })
		s.hq.reports(s.record(alice).Subscription, row("ErrorInvalidSubscription", "MailboxMove"))
		s.pass(time.Minute)
		s.come()
		s.pass(30 * time.Minute)
		s.rename("another")
		s.pass(time.Minute)
		s.join()
		s.come()
		s.pass(time.Hour)
		s.alerts("a", 3)
		s.alerts("b", 1)
		s.inStep(renamed)
	})
}

// The hint of the other record was lost.
func TestWhatOnlyTheRecordThatGoesKnowsAlertsOnce(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.rename("another")
		s.pass(time.Minute)
		m := s.hq.come(alice)
		s.hq.quietly(func() { s.hq.come(renamed, func(n *message) { *n = *m }) })
		s.pass(time.Minute)
		s.alerts("a", 1)
		s.join()
		s.pass(time.Hour)
		s.alerts("a", 1)
		s.alerts("b", 1)
		s.inStep(renamed)
	})
}

// The other record deals with the message at that moment.
func TestWhatTheOtherRecordSendsDuringTheJoinAlertsOnce(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.rename("another")
		s.pass(time.Minute)
		m := s.hq.come(alice)
		s.hq.quietly(func() { s.hq.come(renamed, func(n *message) { *n = *m }) })
		s.pass(time.Minute)
		answer := make(chan struct{})
		s.apns.slow = map[string]chan struct{}{"b": answer}
		s.mailbox(renamed).work.List()
		s.pass(time.Second)
		s.mailbox(alice).relocate(s.mailbox(alice).linked())
		s.pass(time.Second)
		if s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
			t.Fatal("they are not joined")
		}
		close(answer)
		s.pass(time.Hour)
		s.alerts("a", 1)
		s.alerts("b", 1)
		s.inStep(renamed)
	})
}

func TestAPhoneThatIsEnrolledUnderBothNamesGetsWhatItWasOwedUnderTheFirst(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.come()
		s.pass(time.Minute)
		s.apns.hold("a")
		s.come()
		s.pass(20 * time.Minute)
		s.rename("token-of-a")
		s.pass(time.Minute)
		s.join()
		s.pass(time.Hour)
		s.alerts("a", 1)
		s.alerts("b", 1)
		s.inStep(renamed)
	})
}

// It cannot be listed for a while: what its devices had and are owed is not known.
func TestAMailboxThatCannotBeListedIsJoinedOnceItCan(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.come()
		s.pass(time.Minute)
		release := s.apns.hold("a")
		s.come()
		s.pass(10 * time.Minute)
		s.rename("another")
		s.pass(time.Minute)
		s.hq.set(func() { s.hq.sick = map[string]error{renamed: row("ErrorMailboxStoreUnavailable", "")} })
		s.mailbox(alice).relocate(s.mailbox(alice).linked())
		s.pass(10 * time.Minute)
		if s.book.Mailbox(alice) == s.book.Mailbox(renamed) {
			t.Error("they are joined")
		}
		s.wantState(subscriptions.Failing, alice)
		release()
		s.hq.set(func() { s.hq.sick = nil })
		s.pass(10 * time.Minute)
		if s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
			t.Error("they are not joined")
		}
		s.alerts("a", 2)
		s.alerts("b", 0)
		s.inStep(renamed)
	})
}

// It stands in the log under the key of its item.
func TestWhatCouldNotBeReadUnderTheOldNameAlertsOnce(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.come()
		m := s.come(func(m *message) { s.hq.poisoned = map[string]bool{m.id: true} })
		s.pass(time.Hour)
		s.alerts("a", 2)
		s.hq.set(func() { delete(s.hq.poisoned, m.id) })
		release := s.apns.hold("a")
		s.come()
		s.pass(20 * time.Minute)
		s.rename("another")
		s.pass(time.Minute)
		s.join()
		release()
		s.in.TopicReady(topic, "production")
		s.pass(time.Hour)
		s.alerts("a", 3)
		s.alerts("b", 0)
	})
}

func TestAnotherAddressOfAMailboxIsJoinedWithoutAListing(t *testing.T) {
	inRenaming(t, func(s renaming) {
		s.enrol("b", renamed)
		s.pass(time.Hour)
		s.come()
		s.pass(20 * time.Minute)
		before := s.hq.listings()
		s.finder.set(func() { s.finder.primary[alice] = renamed })
		s.enrol("a", alice)
		s.pass(time.Minute)
		if n := s.hq.listings() - before; n != 1 || s.book.Mailbox(alice) != s.book.Mailbox(renamed) {
			t.Errorf("%d listings, want the one for the device that has come", n)
		}
	})
}

// play is what happens to the mailbox under its names, drawn by lot. The phones are a and c under the old one, b under the new one, and d under an
// alias of either.
type play struct {
	renaming
	dice    *sicktest.Dice
	log     []string
	records map[string]bool
	came    []*message
	first   map[string]int // the first message that came after a device was enrolled
	held    map[string]bool
	slow    chan struct{} // a push is under way until it is closed; nil: none
}

func (p *play) say(format string, a ...any) {
	p.log = append(p.log, time.Now().Format(time.TimeOnly)+" "+fmt.Sprintf(format, a...))
}

func (p *play) draw(n int) int { return int(p.dice.Float64() * float64(n)) }

func (p *play) phone() string { return []string{"a", "b", "c", "d"}[p.draw(4)] }

func (p *play) enrol(id, address string) {
	p.t.Helper()
	if _, known := p.first[id]; known {
		return
	}
	p.first[id] = len(p.came)
	p.scene.enrol(id, address)
	p.say("%s is enrolled", id)
}

// arrive has a message come, of which either subscription may tell or not.
func (p *play) arrive() {
	var m *message
	lost := p.draw(4)
	p.say("message %d comes, lost are %02b", len(p.came), lost)
	tell := func(lost bool, come func()) {
		if lost {
			p.hq.quietly(come)
		} else {
			come()
		}
	}
	tell(lost&1 != 0, func() { m = p.hq.come(alice) })
	tell(lost&2 != 0, func() { p.hq.come(renamed, func(n *message) { *n = *m }) })
	p.came = append(p.came, m)
}

// answer has APNs hold some phones, and answer one, if any, only later.
func (p *play) answer(slow string) {
	p.say("held are %v, slow is %q", p.held, slow)
	if p.slow != nil {
		close(p.slow)
		p.slow = nil
	}
	p.apns.mu.Lock()
	p.apns.held, p.apns.slow = maps.Clone(p.held), nil
	if slow != "" {
		p.slow = make(chan struct{})
		p.apns.slow = map[string]chan struct{}{slow: p.slow}
	}
	p.apns.mu.Unlock()
	p.in.TopicReady(topic, "production")
}

// enrolAgain enrols a device once more, where none has a push in flight: what is answered for a token that it had counts for nobody.
func (p *play) enrolAgain(id, token string) {
	p.t.Helper()
	d, ok := p.book.Device(id)
	if !ok || p.slow != nil {
		return
	}
	if _, _, err := p.l.Enrol(p.t.Context(), enrolment(id, d.Mailbox, token), nil); err != nil {
		p.t.Fatal(err)
	}
	p.say("%s has %s", id, token)
}

func (p *play) removeAndEnrol(id string) {
	p.t.Helper()
	d, ok := p.book.Device(id)
	if !ok || p.slow != nil {
		return
	}
	p.say("%s is removed", id)
	p.remove(id)
	if p.draw(2) == 0 {
		p.arrive()
		p.pass(time.Second)
	}
	if _, _, err := p.l.Enrol(p.t.Context(), enrolment(id, d.Mailbox, d.Token), nil); err != nil {
		p.t.Fatal(err)
	}
	p.first[id] = len(p.came)
	p.say("%s is enrolled again", id)
}

func (p *play) step() {
	switch p.draw(12) {
	case 0, 1, 2:
		p.arrive()
	case 3:
		d := p.phone()
		p.held[d] = !p.held[d]
		p.answer("")
	case 4:
		p.answer(p.phone())
	case 5:
		p.finder.set(func() { p.finder.primary[alice], p.finder.primary[alias] = renamed, renamed })
		p.enrol("b", renamed)
	case 6:
		p.enrol("c", alice)
	case 7:
		p.say("it is looked up")
		if k := p.mailbox(alice).linked(); k != nil {
			k.m.relocate(k)
		}
	case 9:
		p.finder.set(func() { p.finder.primary[alias] = cmp.Or(p.finder.primary[alice], alice) })
		p.enrol("d", alias)
	case 10:
		p.enrolAgain(p.phone(), fmt.Sprint("token ", len(p.log)))
	case 11:
		p.removeAndEnrol(p.phone())
	case 8:
		p.say("restart")
		p.answer("")
		p.stop()
		p.start()
	}
	p.pass([]time.Duration{0, time.Millisecond, time.Second, 4 * time.Second, 3 * time.Minute}[p.draw(5)])
	for _, m := range p.book.Mailboxes() {
		p.records[m.Record().ID] = true
	}
}

// alerted is how often a device had a message, under its key in any record.
func (p *play) alerted(device string, m *message) (n int) {
	msg := m.tell()
	for record := range p.records {
		n += p.apns.accepted(device, p.book.Secret().Key(record, &msg).String())
	}
	return n
}

// It is played more often by: go test ./listener -run WhateverHappens -seeds 10000.
func TestWhateverHappensToAMailboxUnderTwoNamesEachMessageAlertsOnce(t *testing.T) {
	sicktest.Play(t, 100, func(t *testing.T, _ uint64, dice *sicktest.Dice) {
		playScene(t, func(s *scene) {
			p := &play{renaming: s.renaming(), dice: dice, records: map[string]bool{}, first: map[string]int{}, held: map[string]bool{}}
			p.enrol("a", alice)
			p.pass(20 * time.Minute)
			for range 25 {
				p.step()
			}
			clear(p.held)
			p.answer("")
			p.pass(time.Hour)
			for d, first := range p.first {
				for i, m := range p.came {
					if n := p.alerted(d, m); n > 1 || n == 0 && i >= first {
						t.Errorf("%s had message %d %d times:\n%s", d, i, n, strings.Join(p.log, "\n"))
					}
				}
			}
		})
	})
}

// In one log it stands under the key of its item, in the other under its own.
func TestWhatCouldNotBeReadUnderOneOfTwoNamesAlertsOnce(t *testing.T) {
	for _, name := range []string{alice, renamed} {
		t.Run(name, func(t *testing.T) {
			inRenaming(t, func(s renaming) {
				s.enrol("a", alice)
				s.pass(time.Hour)
				s.come()
				s.pass(10 * time.Minute)
				s.rename("another")
				s.pass(time.Minute)
				var m *message
				s.hq.quietly(func() { m = s.come(func(m *message) { s.hq.poisoned = map[string]bool{m.id: true} }) })
				s.hq.set(func() { s.hq.tell(s.hq.box(name), m) })
				s.pass(15 * time.Minute)
				s.hq.set(func() { s.hq.poisoned = nil })
				for _, address := range []string{alice, renamed} {
					s.mailbox(address).work.List()
				}
				s.pass(time.Minute)
				s.alerts("a", 2)
				s.alerts("b", 1)
				s.join()
				s.pass(time.Hour)
				s.alerts("a", 2)
				s.alerts("b", 1)
				s.inStep(renamed)
			})
		})
	}
}
