package subscriptions_test

// Changes of the book: one at a time, durable before they show, and whole.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// during is a store that calls something while a change is being written, once.
type during struct {
	storetest.Memory
	call func()
}

func (s *during) Write(ctx context.Context, c subscriptions.Change) error {
	if call := s.call; call != nil {
		s.call = nil
		call()
	}
	return s.Memory.Write(ctx, c)
}

func openBook(t *testing.T, s subscriptions.Store) *subscriptions.Book {
	t.Helper()
	b, err := subscriptions.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// While a change is written, no other change of the mailbox begins: it would be made to a record that is the one before, and
// whichever of the two was shown last would undo the other.
func TestOneChangeOfAMailboxAtATime(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, b *subscriptions.Book) error{
		"a record": func(t *testing.T, b *subscriptions.Book) error {
			return b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed++ })
		},
		"an enrolment": func(t *testing.T, b *subscriptions.Book) error {
			_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d2", Mailbox: alice, Token: "bb"}, noon, noon)
			return err
		},
		"a device that leaves": func(t *testing.T, b *subscriptions.Book) error {
			_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d0", Mailbox: bob, Token: "aa"}, noon, noon)
			return err
		},
		"a removal": func(t *testing.T, b *subscriptions.Book) error {
			_, _, err := b.Remove(t.Context(), "d0")
			return err
		},
		"two mailboxes that are one": func(t *testing.T, b *subscriptions.Book) error {
			return join(t.Context(), b, bob, alice)
		},
		"one that joins another": func(t *testing.T, b *subscriptions.Book) error {
			return join(t.Context(), b, alice, bob)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &during{}
			b := openBook(t, s)
			enrol(t, b, "d0", alice, "aa")
			enrol(t, b, "d1", alice, "cc")
			enrol(t, b, "d9", bob, "zz")
			m := b.Mailbox(alice)
			var begun atomic.Bool
			over := make(chan error)
			s.call = func() {
				go func() {
					over <- m.Update(t.Context(), func(d *subscriptions.Draft) {
						begun.Store(true)
						d.Listed++
					})
				}()
				for range 10_000 { // nothing holds the other change up but the lock
					runtime.Gosched()
				}
				if begun.Load() {
					t.Error("a change began while another was being written")
				}
			}
			before := m.Record().Listed
			if err := change(t, b); err != nil {
				t.Error(err)
			}
			want := before + 1
			if name == "a record" {
				want++
			}
			err := <-over
			if name == "one that joins another" {
				if !errors.Is(err, subscriptions.ErrNoMailbox) {
					t.Errorf("a change of what has become part of another mailbox: %v", err)
				}
				return
			}
			if got := m.Record().Listed; err != nil || got != want {
				t.Errorf("%v: listed is %d, want %d: a change was undone", err, got, want)
			}
		})
	}
}

// What concerns one device, or one new address, happens in turn: two enrolments at once could each take it for new. All else does not wait.
func TestWhatConcernsOneDeviceOrAddressHappensInTurn(t *testing.T) {
	const carol = "carol@contoso.example"
	enrolment := func(id, mailbox string) func(*testing.T, *subscriptions.Book) error {
		return func(t *testing.T, b *subscriptions.Book) error {
			_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: "token of " + id}, noon, noon)
			return err
		}
	}
	removal := func(id string) func(*testing.T, *subscriptions.Book) error {
		return func(t *testing.T, b *subscriptions.Book) error {
			_, _, err := b.Remove(t.Context(), id)
			return err
		}
	}
	for name, c := range map[string]struct {
		other func(t *testing.T, b *subscriptions.Book) error
		waits bool
	}{
		"the device in another mailbox":          {enrolment("d1", alice), true},
		"the device's removal":                   {removal("d1"), true},
		"another device in the new mailbox":      {enrolment("d2", carol), true},
		"another device in another new mailbox":  {enrolment("d2", "dora@contoso.example"), false},
		"another device's removal":               {removal("d0"), false},
		"two other mailboxes that are found one": {func(t *testing.T, b *subscriptions.Book) error { return join(t.Context(), b, bob, alice) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &during{}
			b := openBook(t, s)
			enrol(t, b, "d0", alice, "zz")
			enrol(t, b, "d9", bob, "yy")
			over := make(chan error, 1)
			s.call = func() {
				go func() { over <- c.other(t, b) }()
				if !c.waits {
					over <- <-over
					return
				}
				for range 10_000 {
					runtime.Gosched()
				}
				if len(over) > 0 {
					t.Error("it ended while the enrolment was being written")
				}
			}
			if err := enrolment("d1", carol)(t, b); err != nil {
				t.Error(err)
			}
			if err := <-over; err != nil {
				t.Error(err)
			}
			if carols := 0; c.waits {
				for _, m := range b.Mailboxes() {
					if m.Record().Addresses[0] == carol {
						carols++
					}
				}
				if carols > 1 {
					t.Errorf("the new address has %d mailboxes", carols)
				}
			}
		})
	}
}

// A 410 and the portal's new enrolment meet: whether the phone is still the same is asked in one with the removal.
func TestNoEnrolmentComesBetweenTheLookAtADeviceAndItsRemoval(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "old")
	over := make(chan error, 1)
	_, removed, err := b.RemoveIf(t.Context(), "d1", func(d subscriptions.Device) bool {
		go func() {
			_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "new"}, noon, noon)
			over <- err
		}()
		for range 10_000 {
			runtime.Gosched()
		}
		return d.Token == "old"
	})
	if !removed || err != nil {
		t.Errorf("%v, %v", removed, err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if d, ok := b.Device("d1"); !ok || d.Token != "new" {
		t.Errorf("the new enrolment was removed: %+v", d)
	}
}

// Devices that move, oust each other, are removed and whose mailboxes are joined and buried, all at once: each is in one mailbox at most,
// each phone is one device of a mailbox, and the store has what the book shows.
func TestDevicesThatComeAndGoAtOnceAreInOneMailboxAtMost(t *testing.T) {
	store := &storetest.Memory{}
	b := openBook(t, store)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 300 {
				id, address := fmt.Sprintf("d%d", random.IntN(5)), fmt.Sprintf("m%d@contoso.example", random.IntN(4))
				var err error
				switch random.IntN(8) {
				case 0:
					_, _, err = b.Remove(t.Context(), id)
				case 1:
					err = b.Bury(t.Context(), time.Now().Add(time.Hour))
				case 2:
					if m := b.Mailbox(address); m != nil {
						_, _, err = b.Name(t.Context(), m, "headquarters", fmt.Sprintf("m%d@contoso.example", random.IntN(2)), finished)
					}
				default:
					e := subscriptions.Enrolment{ID: id, Mailbox: address, Token: fmt.Sprintf("token %d", random.IntN(3))}
					_, err = b.Enrol(t.Context(), e, noon, noon)
				}
				if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	in := map[string]*subscriptions.Mailbox{}
	for _, m := range b.Mailboxes() {
		phones := map[subscriptions.Line]string{}
		for _, d := range m.Devices() {
			if other := phones[d.Phone().Line()]; other != "" {
				t.Errorf("%s and %s are one phone", other, d.ID)
			}
			phones[d.Phone().Line()] = d.ID
			if in[d.ID] != nil {
				t.Errorf("%s is in two mailboxes", d.ID)
			}
			in[d.ID] = m
			if got, ok := b.Device(d.ID); !ok || got.Record != m.Record().ID || b.Mailbox(got.Mailbox) != m {
				t.Errorf("%s: %+v, in %q", d.ID, got, m.Record().ID)
			}
		}
	}
	list, _ := b.Devices("", "", 100)
	again := openBook(t, store)
	stored, _ := again.Devices("", "", 100)
	if len(list) != len(in) || !slices.Equal(list, stored) {
		t.Errorf("%d devices, of which %d are in a mailbox; the store has %d", len(list), len(in), len(stored))
	}
}

func TestAnEnrolmentWhoseAnswerWasLostKeepsItsRecord(t *testing.T) {
	s := &storetest.Memory{}
	b := openBook(t, written{s})
	e := subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "aa"}
	for range 2 { // written, and not known to be
		if _, err := b.Enrol(t.Context(), e, noon, noon); err == nil {
			t.Fatal("it has an answer")
		}
	}
	if n := len(openBook(t, s).Mailboxes()); n != 1 {
		t.Errorf("after a restart %d mailboxes alert the one device", n)
	}
}

// written is a store that writes, and cannot say so.
type written struct{ *storetest.Memory }

func (s written) Write(ctx context.Context, c subscriptions.Change) error {
	return errors.Join(errors.New("the connection broke"), s.Memory.Write(ctx, c))
}

func TestAMailboxIsWritableAgainOnceAWriteGoesThrough(t *testing.T) {
	s := &counting{}
	b := openBook(t, s)
	enrol(t, b, "d1", alice, "aa")
	m := b.Mailbox(alice)
	writes := s.writes
	if err := m.Writable(t.Context()); err != nil || s.writes != writes {
		t.Errorf("%v after %d writes: where nothing has failed, none is tried", err, s.writes-writes)
	}
	full := errors.New("disk full")
	s.Fail(full)
	if err := m.Update(t.Context(), func(*subscriptions.Draft) {}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if err := m.Writable(t.Context()); !errors.Is(err, full) {
		t.Errorf("the disk is still full: %v", err)
	}
	s.Fail(nil)
	for range 2 {
		if err := m.Writable(t.Context()); err != nil {
			t.Errorf("the disk has room again: %v", err)
		}
	}
	if s.writes != writes+3 {
		t.Errorf("%d writes: once one has gone through none is tried", s.writes-writes)
	}
	s.held = errors.New("followed")
	if err := m.Writable(t.Context()); !errors.Is(err, s.held) {
		t.Errorf("the state is another's: %v", err)
	}
}

// A state file takes decisions at once, and writes them later: that says nothing of a disk that is full.
func TestDecisionsThatAreTakenMakeNoMailboxWritable(t *testing.T) {
	s := &gathering{}
	b := openBook(t, s)
	enrol(t, b, "d1", alice, "aa")
	m := b.Mailbox(alice)
	full := errors.New("disk full")
	s.Fail(full)
	if err := m.Update(t.Context(), func(*subscriptions.Draft) {}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	m.Decide(subscriptions.Decision{Device: "d1"})
	if err := m.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Writable(t.Context()); !errors.Is(err, full) {
		t.Errorf("the disk is still full: %v", err)
	}
}

// gathering is a store that takes decisions whatever becomes of them.
type gathering struct{ storetest.Memory }

func (s *gathering) Write(ctx context.Context, c subscriptions.Change) error {
	if len(c.Put) == 0 && len(c.Decided.Decisions) > 0 {
		return nil
	}
	return s.Memory.Write(ctx, c)
}

// counting is a store that counts its writes.
type counting struct {
	storetest.Memory
	writes int
	held   error
}

func (s *counting) Held() error { return s.held }

func (s *counting) Write(ctx context.Context, c subscriptions.Change) error {
	s.writes++
	return s.Memory.Write(ctx, c)
}

func TestAChangeWhoseCallerHasGoneIsNotMade(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "aa")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := b.Mailbox(alice).Update(ctx, func(*subscriptions.Draft) { t.Error("it was begun") })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestADevicePutWithAChangeIsTheOneThatIsShown(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", alice, "bb")
	before := b.Mailbox(alice).Devices()
	err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) {
		changed := *d.Devices[1]
		changed.Environment = "sandbox"
		d.Put(changed)
	})
	if err != nil || before[1].Environment != "production" {
		t.Fatalf("%v: a list that was handed out has changed: %+v", err, before[1])
	}
	for _, b := range []*subscriptions.Book{b, reopen()} {
		d, _ := b.Device("d2")
		of, ok := b.Mailbox(alice).Device("d2")
		other, _ := b.Mailbox(alice).Device("d1")
		if d.Environment != "sandbox" || !ok || of.Environment != "sandbox" || other.Environment != "production" {
			t.Errorf("%+v, of the mailbox %+v", d, of)
		}
		if d, ok := b.Mailbox(alice).Device("d3"); ok || d != nil {
			t.Errorf("a device that is not enrolled: %+v", d)
		}
	}
}

func TestAllIsWrittenOnceMoreForAStoreThatForgot(t *testing.T) {
	s := &replaced{Store: &storetest.Memory{}}
	b := openBook(t, s)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", bob, "bb")
	enrol(t, b, "d3", bob, "cc")
	behind(t, b.Mailbox(alice), "d1")
	forgot := &storetest.Memory{}
	openBook(t, forgot)
	s.Store = forgot
	if err := b.Rewrite(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := openBook(t, forgot)
	if len(again.Mailboxes()) != 2 || len(again.Mailbox(bob).Devices()) != 2 || again.Mailbox(alice).Record().BehindOf("d1") == nil {
		t.Errorf("%d mailboxes are there", len(again.Mailboxes()))
	}
	s.Store = &storetest.Memory{}
	openBook(t, s)
	full := errors.New("memory full")
	s.Store.(*storetest.Memory).Fail(full)
	if err := b.Rewrite(t.Context()); !errors.Is(err, full) {
		t.Errorf("what could not be written is not known: %v", err)
	}
}

// replaced is a store whose server was started anew without what it had.
type replaced struct{ subscriptions.Store }

// Which environment knows a token, APNs says: an alert for the wrong one is sent in the other.
func TestOneTokenOnTwoTopicsIsTwoDevicesAndInTwoEnvironmentsOne(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	for _, e := range []struct {
		id, topic, environment string
		ousts                  []string
	}{
		{"d1", "com.contoso.mail", "production", nil},
		{"d2", "com.contoso.beta", "production", nil},
		{"d3", "com.contoso.mail", "sandbox", []string{"d1"}},
	} {
		done, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: e.id, Mailbox: alice, Token: "aa", Topic: e.topic, Environment: e.environment}, noon, noon)
		if err != nil || !slices.Equal(done.Ousted, e.ousts) {
			t.Errorf("%s: %v, ousted %q", e.id, err, done.Ousted)
		}
	}
	if n := len(b.Mailbox(alice).Devices()); n != 2 {
		t.Errorf("%d devices", n)
	}
}

func TestADeviceThatTakesATokenOverKeepsItsOwnPlace(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	since := enrol(t, b, "d1", alice, "aa").Device.Since // of the phone that stays
	later := noon.Add(time.Hour)
	if _, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d2", Mailbox: alice, Token: "bb", Topic: "com.contoso.mail", Environment: "production"}, later, later); err != nil {
		t.Fatal(err)
	}
	behind(t, b.Mailbox(alice), "d1")
	done := enrol(t, b, "d2", alice, "aa")
	if r := b.Mailbox(alice).Record(); r.BehindOf("d1") != nil || r.BehindOf("d2") == nil {
		t.Errorf("%+v: what the old id is behind by is of no device", r.Behind)
	}
	if !slices.Equal(done.Ousted, []string{"d1"}) || !done.Device.Since.Equal(since) || !done.Device.Created.Equal(later) || done.Created || done.Left != nil {
		t.Errorf("%+v: it has been there since %v, and its phone gets mail since %v", done, later, since)
	}
}

func TestADeviceThatTakesATokenIsOwedWhatItsPhoneLacks(t *testing.T) {
	type done map[string]struct{}
	had := func(ids ...string) done {
		d := done{}
		for _, id := range ids {
			d[id] = struct{}{}
		}
		return d
	}
	for name, c := range map[string]struct {
		got  []done // who got each message
		owed []byte // the messages, the newest first
	}{
		"the other one is behind":                    {[]done{had("d1", "d2"), had("d2"), had("d1", "d2")}, []byte{2}},
		"itself is behind: it keeps its own place":   {[]done{had("d1", "d2"), had("d1"), had("d1", "d2")}, []byte{2}},
		"both are behind, each with another message": {[]done{had("d1"), had("d1", "d2"), had("d2"), had("d1", "d2")}, []byte{3, 1}},
		"both are behind, with the same":             {[]done{had("d1", "d2"), had(), had("d1", "d2")}, []byte{2}},
		"nobody is":                                  {[]done{had("d1", "d2")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b, reopen := book(t)
			enrol(t, b, "d1", alice, "aa")
			enrol(t, b, "d2", alice, "bb")
			next := map[string]time.Time{"d1": noon.Add(time.Minute), "d2": noon.Add(time.Hour)}
			for i, got := range c.got {
				err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) {
					o := subscriptions.Outcome{Key: mail.Key{7: byte(i + 1)}, Received: noon, Done: got}
					d.Enter([]subscriptions.Outcome{o}, d.Devices, func(id string) (outcome.Reason, time.Time) { return "throttled", next[id] })
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			var wait time.Time
			if b.Mailbox(alice).Record().BehindOf("d1") != nil { // it is the phone that stays that has to wait
				wait = next["d1"]
			}
			enrol(t, b, "d2", alice, "aa")
			for _, b := range []*subscriptions.Book{b, reopen()} {
				r := b.Mailbox(alice).Record()
				var owed []byte
				if behind := r.BehindOf("d2"); behind != nil {
					for _, e := range r.Owed(behind, r.End) {
						owed = append(owed, byte(e.Key))
					}
					if !behind.Next.Equal(wait) {
						t.Errorf("it waits until %v, want %v", behind.Next, wait)
					}
				}
				if !slices.Equal(owed, c.owed) || len(r.Behind) > 1 {
					t.Errorf("it is owed %v of %+v, want %v", owed, r.Behind, c.owed)
				}
			}
		})
	}
}

func TestAMailboxWaitsForTheServersClockWhereThatIsNotKnown(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	if _, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "aa"}, noon, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if r := b.Mailbox(alice).Record(); r.Started() {
		t.Errorf("it reads back to %v", time.Unix(r.Since, 0).UTC())
	}
}

func TestAPageOfNoDevicesIsEmpty(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "aa")
	for _, mailbox := range []string{"", alice} {
		if list, next := b.Devices(mailbox, "", 0); len(list) != 0 || next != "" {
			t.Errorf("%v, %q", list, next)
		}
		if list, next := b.Devices(mailbox, "d1", 1); len(list) != 0 || next != "" {
			t.Errorf("behind the last: %v, %q", list, next)
		}
	}
	if list, _ := b.Devices(bob, "", 1); len(list) != 0 {
		t.Errorf("of a mailbox that nobody has enrolled: %v", list)
	}
}

func TestANewIDOfATokenHasThePlaceOfTheOldOne(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	old := enrol(t, b, "old", alice, "aa").Device
	later := noon.Add(time.Hour)
	done, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "new", Mailbox: alice, Token: "aa", Topic: "com.contoso.mail", Environment: "production"}, later, later)
	if err != nil || !slices.Equal(done.Ousted, []string{"old"}) || !done.Device.Since.Equal(old.Since) || !done.Device.Created.Equal(old.Created) || !done.Device.Enrolled.Equal(later) {
		t.Errorf("%v: %+v, want the place of %+v", err, done.Device, old)
	}
}

func TestADeviceThatWasRemovedIsOwedNothing(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", alice, "bb")
	behind(t, b.Mailbox(alice), "d1")
	if _, _, err := b.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	if r := b.Mailbox(alice).Record(); r.BehindOf("d1") != nil || r.BehindOf("d2") == nil {
		t.Errorf("%+v", r.Behind)
	}
}

func TestAListOfDevicesShowsWhatCameAndWent(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	listed := func(want ...string) {
		t.Helper()
		list, next := b.Devices("", "", max(len(want), 1))
		if next != "" {
			t.Errorf("behind the last one there is another page, %q", next)
		}
		var ids []string
		for _, d := range list {
			ids = append(ids, d.ID)
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%v, want %v", ids, want)
		}
	}
	listed()
	enrol(t, b, "d2", alice, "bb")
	listed("d2")
	enrol(t, b, "d1", alice, "aa")
	listed("d1", "d2")
	if _, _, err := b.Remove(t.Context(), "d2"); err != nil {
		t.Fatal(err)
	}
	listed("d1")
	enrol(t, b, "d2", alice, "bb")
	listed("d1", "d2")
}

// last is a store that keeps the last change.
type last struct {
	storetest.Memory
	change subscriptions.Change
}

func (s *last) Write(ctx context.Context, c subscriptions.Change) error {
	s.change = c
	return s.Memory.Write(ctx, c)
}

// A portal that enrols all its devices every night changes where no mailbox stands.
func TestAnEnrolmentWritesTheRecordOnlyWhereItChanges(t *testing.T) {
	s := &last{}
	b := openBook(t, s)
	wrote := func(what string, records int) {
		t.Helper()
		if len(s.change.Put) != records || len(s.change.PutDevices) != 1 {
			t.Errorf("%s: %d records and %d devices were written, want %d and 1", what, len(s.change.Put), len(s.change.PutDevices), records)
		}
	}
	enrol(t, b, "d1", alice, "aa")
	wrote("a new mailbox", 1)
	enrol(t, b, "d1", alice, "aa")
	wrote("the same again", 0)
	enrol(t, b, "d2", alice, "bb")
	wrote("a second device", 0)
	enrol(t, b, "d3", alice, "bb")
	wrote("another id of its phone", 1)
	for _, id := range []string{"d1", "d3"} {
		if _, _, err := b.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	enrol(t, b, "d1", alice, "aa")
	wrote("a mailbox that was asleep", 1)
	if again := openBook(t, s); again.Mailbox(alice) == nil || !again.Mailbox(alice).Record().Dies.IsZero() || len(again.Mailbox(alice).Devices()) != 1 {
		t.Error("after a restart the mailbox is not as it was")
	}
}
