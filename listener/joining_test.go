package listener

// Two mailboxes turn out to be one: what each device has had, and what it is owed, goes over with it.

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// renaming is the mailbox alice, which is renamed: its server has told a second name since rename was called, and the old one stays as an alias.
type renaming struct {
	*scene
	finder *finder
}

const renamed = "alice.smith@contoso.example"

func inRenaming(t *testing.T, test func(s renaming)) {
	t.Helper()
	inScene(t, func(s *scene) {
		f := &finder{url: hqURL, primary: map[string]string{}}
		s.entry = func(e *Entry) { e.URL = ""; e.Accounts[0].Finder = f }
		s.start()
		test(renaming{s, f})
	})
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
