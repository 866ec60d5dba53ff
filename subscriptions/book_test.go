package subscriptions_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// book opens a book on a file; reopen is the same after a restart.
func book(t *testing.T) (b *subscriptions.Book, reopen func() *subscriptions.Book) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	var store subscriptions.Store
	reopen = func() *subscriptions.Book {
		if store != nil {
			store.Close()
		}
		store = open(t, file)
		return openBook(t, store)
	}
	t.Cleanup(func() { store.Close() })
	return reopen(), reopen
}

func enrol(t *testing.T, b *subscriptions.Book, id, mailbox, token string) subscriptions.Enrolled {
	t.Helper()
	done, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: token, Topic: "com.contoso.mail", Environment: "production"}, noon, noon.Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return done
}

const (
	alice = "alice@contoso.example"
	bob   = "bob@contoso.example"
)

func TestAnEnrolmentSurvivesARestart(t *testing.T) {
	b, reopen := book(t)
	if done := enrol(t, b, "d1", alice, "aa"); !done.Created {
		t.Error("a new device is not new")
	}
	b = reopen()
	d, ok := b.Device("d1")
	if !ok || d.Token != "aa" || d.Mailbox != alice || !d.Since.Equal(noon.Add(-time.Minute)) {
		t.Errorf("device %+v", d)
	}
	if m := b.Mailbox(alice); m == nil || m.Record().Since != noon.Add(-time.Minute-mail.Tolerance).Unix() || len(m.Devices()) != 1 {
		t.Error("its mailbox is not there, or does not stand at its enrolment")
	}
}

func TestALabelIsWhatTheLastEnrolmentSaysAlsoAfterARestart(t *testing.T) {
	b, reopen := book(t)
	e := subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "aa", Topic: "com.contoso.mail", Environment: "production"}
	for _, label := range []string{"Alice's iPhone", "Alice's old iPhone", ""} {
		e.Label = label
		if _, err := b.Enrol(t.Context(), e, noon, noon); err != nil {
			t.Fatal(err)
		}
		b = reopen()
		if d, _ := b.Device("d1"); d.Label != label {
			t.Errorf("the label is %q, want %q", d.Label, label)
		}
	}
}

func TestAChangedTokenKeepsItsPlaceAndAChangedMailboxStartsAnew(t *testing.T) {
	b, _ := book(t)
	enrol(t, b, "d1", alice, "aa")
	m := b.Mailbox(alice)
	behind(t, m, "d1")
	later := noon.Add(time.Hour)
	done, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "bb", Topic: "com.contoso.mail", Environment: "production"}, later, later)
	if err != nil || done.Created {
		t.Fatal(done, err)
	}
	if d, _ := b.Device("d1"); d.Token != "bb" || !d.Since.Equal(noon.Add(-time.Minute)) || !d.Enrolled.Equal(later) || m.Record().BehindOf("d1") == nil {
		t.Errorf("device %+v lost its place", d)
	}
	done = enrol(t, b, "d1", bob, "bb")
	if done.Left != m || b.Mailbox(alice) != nil || b.Mailbox(bob).Record().ID == m.Record().ID {
		t.Errorf("the old mailbox is still there: %+v", done)
	}
}

func behind(t *testing.T, m *subscriptions.Mailbox, device string) {
	t.Helper()
	err := m.Update(t.Context(), func(d *subscriptions.Draft) {
		d.Enter([]subscriptions.Outcome{{Key: mail.Key{1}, Received: noon}}, d.Devices, func(string) (outcome.Reason, time.Time) { return "throttled", time.Time{} })
	})
	if err != nil || m.Record().BehindOf(device) == nil {
		t.Fatalf("%v: %+v", err, m.Record())
	}
}

func TestTheSameTokenUnderAnotherIDTakesOver(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "old", alice, "aa")
	behind(t, b.Mailbox(alice), "old")
	if done := enrol(t, b, "new", alice, "aa"); !slices.Equal(done.Ousted, []string{"old"}) || !done.Created {
		t.Errorf("%+v", done)
	}
	for when, b := range map[string]func() *subscriptions.Book{"at once": func() *subscriptions.Book { return b }, "after a restart": reopen} {
		b := b()
		list, _ := b.Devices("", "", 10)
		if _, ok := b.Device("old"); ok || len(list) != 1 || len(b.Mailbox(alice).Devices()) != 1 {
			t.Errorf("%s the old id is still there: the phone would ring twice", when)
		}
		if r := b.Mailbox(alice).Record(); r.BehindOf("new") == nil || r.BehindOf("old") != nil {
			t.Errorf("%s the place was lost with the id: %+v", when, r.Behind)
		}
	}
}

// Two addresses of one mailbox, each with the phone: it would get each message twice.
func TestAPhoneIsOnceInAMailboxThatTwoBecame(t *testing.T) {
	const other = "a.smith@contoso.example"
	for name, c := range map[string]struct {
		later time.Duration // than d1, in the mailbox that is left
		left  string
	}{"enrolled before": {-time.Hour, "d1"}, "enrolled since": {time.Hour, "d2"}} {
		t.Run(name, func(t *testing.T) {
			b, reopen := book(t)
			place := enrol(t, b, "d1", alice, "aa").Device.Since
			behind(t, b.Mailbox(alice), "d1")
			at := noon.Add(c.later)
			e := subscriptions.Enrolment{ID: "d2", Mailbox: other, Token: "aa", Topic: "com.contoso.mail", Environment: "sandbox"}
			if _, err := b.Enrol(t.Context(), e, at, at); err != nil {
				t.Fatal(err)
			}
			enrol(t, b, "d3", other, "bb")
			if err := join(t.Context(), b, other, alice); err != nil {
				t.Fatal(err)
			}
			for _, b := range []*subscriptions.Book{b, reopen()} {
				list, _ := b.Devices("", "", 10)
				m := b.Mailbox(alice)
				if len(list) != 2 || list[0].ID != c.left || len(m.Devices()) != 2 || m.Record().BehindOf(c.left) == nil {
					t.Errorf("there are %+v, behind are %+v", list, m.Record().Behind)
				}
				if !list[0].Since.Equal(place) {
					t.Errorf("it gets what came since %v, not %v", list[0].Since, place)
				}
			}
		})
	}
}

func TestAPhoneThatTheStateHasTwiceInAMailboxIsLeftUnderItsLastID(t *testing.T) {
	s := &storetest.Memory{}
	enrol(t, openBook(t, s), "d1", alice, "aa")
	all, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	later := *all.Devices[0]
	later.ID, later.Environment, later.Enrolled = "d2", "sandbox", noon.Add(time.Hour)
	if err := s.Write(t.Context(), subscriptions.Change{PutDevices: []*subscriptions.Device{&later}}); err != nil {
		t.Fatal(err)
	}
	for i, damages := range []int{1, 0} { // it is told once
		b := openBook(t, s)
		if list := b.Mailbox(alice).Devices(); len(list) != 1 || list[0].ID != "d2" || len(b.Damaged()) != damages {
			t.Errorf("start %d: %d devices, damages %v", i, len(list), b.Damaged())
		}
	}
}

func TestATokenTakesOverAllTheIDsThatItHad(t *testing.T) {
	b, _ := book(t)
	const other = "a.smith@contoso.example"
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", other, "aa")
	if err := join(t.Context(), b, other, alice); err != nil { // the two are one mailbox
		t.Fatal(err)
	}
	enrol(t, b, "d3", alice, "aa")
	for _, id := range []string{"d1", "d2"} {
		if d, ok := b.Device(id); ok {
			t.Errorf("%+v is still there, and no mailbox has it", d)
		}
	}
	if devices := b.Mailbox(other).Devices(); len(devices) != 1 || devices[0].ID != "d3" {
		t.Errorf("%d devices are alerted", len(devices))
	}
}

func TestTheRecordGoesWithTheLastDevice(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", alice, "bb")
	m := b.Mailbox(alice)
	for i, id := range []string{"d1", "d2"} {
		if _, ok, err := b.Remove(t.Context(), id); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if gone := b.Mailbox(alice) == nil; gone != (i == 1) {
			t.Errorf("after removing %s: gone is %v", id, gone)
		}
	}
	if _, ok, _ := b.Remove(t.Context(), "d1"); ok {
		t.Error("removed twice")
	}
	if len(b.Mailboxes()) != 0 {
		t.Error("a mailbox without a device is listed")
	}
	first := m.Record().ID
	enter := func(d *subscriptions.Draft) {
		d.Enter([]subscriptions.Outcome{{Key: mail.Key{1}, Received: noon, ForAll: true}}, d.Devices, nil)
	}
	if err := m.Update(t.Context(), enter); err != nil {
		t.Errorf("what was being sent cannot be entered: %v", err)
	}
	b = reopen()
	enrol(t, b, "d1", alice, "aa")
	woken := b.Mailbox(alice)
	if woken.Record().ID != first || !woken.Record().Has(mail.Key{1}) || !woken.Record().Dies.IsZero() {
		t.Error("a mailbox that came back within a quarter of an hour has lost its log")
	}
	if _, _, err := b.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		gone  bool
	}{{subscriptions.Asleep - time.Minute, false}, {subscriptions.Asleep + time.Minute, true}} {
		if err := b.Bury(t.Context(), time.Now().Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if err := woken.Update(t.Context(), func(*subscriptions.Draft) {}); errors.Is(err, subscriptions.ErrNoMailbox) != c.gone {
			t.Errorf("%v after its last device, a write to the record: %v", c.after, err)
		}
	}
	b = reopen()
	enrol(t, b, "d1", alice, "aa")
	if b.Mailbox(alice).Record().ID == first {
		t.Error("a mailbox that came back later has its old record")
	}
}

func TestARecordThatHasADeviceAgainIsNotBuried(t *testing.T) {
	b, _ := book(t)
	enrol(t, b, "d1", alice, "aa")
	if _, _, err := b.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	enrol(t, b, "d2", alice, "bb")
	if err := b.Bury(t.Context(), time.Now().Add(24*time.Hour)); err != nil || b.Mailbox(alice) == nil {
		t.Errorf("it is gone: %v", err)
	}
}

func TestAllWhoSleptLongEnoughAreBuriedAndTheOthersStay(t *testing.T) {
	b, reopen := book(t)
	address := func(i int) string { return fmt.Sprintf("user%02d@contoso.example", i) }
	id := func(i int) string { return fmt.Sprintf("d%02d", i) }
	const n = 20
	boxes := make([]*subscriptions.Mailbox, n)
	for i := range n {
		enrol(t, b, id(i), address(i), fmt.Sprintf("%064d", i))
		boxes[i] = b.Mailbox(address(i))
	}
	for i := 0; i < n; i += 2 {
		if _, _, err := b.Remove(t.Context(), id(i)); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(subscriptions.Asleep + time.Minute)
	if err := b.Bury(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if err := b.BuryOne(t.Context(), boxes[1], later); err != nil { // it was woken meanwhile
		t.Fatal(err)
	}
	for i, m := range boxes {
		if err := m.Update(t.Context(), func(*subscriptions.Draft) {}); errors.Is(err, subscriptions.ErrNoMailbox) != (i%2 == 0) {
			t.Errorf("%s: a write to its record: %v", address(i), err)
		}
	}
	enrol(t, b, id(0), address(0), "00") // it leads to no record that is gone
	if err := b.BuryOne(t.Context(), boxes[0], later); err != nil {
		t.Fatal(err)
	}
	if b.Mailbox(address(0)).Record().ID == boxes[0].Record().ID {
		t.Error("a mailbox that was buried came back with its old record")
	}
	if b = reopen(); len(b.All()) != n/2+1 || b.Mailbox(address(0)) == nil {
		t.Errorf("after a restart there are %d records, want %d", len(b.All()), n/2+1)
	}
}

func TestTwoAddressesOfOneMailboxAreJoined(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "d1", alice, "aa")
	behind(t, b.Mailbox(alice), "d1")
	enrol(t, b, "d2", "a.smith@contoso.example", "bb")
	if err := join(t.Context(), b, "a.smith@contoso.example", alice); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*subscriptions.Book{b, reopen()} {
		m := b.Mailbox("a.smith@contoso.example")
		if m == nil || m != b.Mailbox(alice) || len(b.Mailboxes()) != 1 || len(m.Devices()) != 2 || m.Record().BehindOf("d2") == nil {
			t.Errorf("the two are not one: %+v", m)
		}
	}
}

func TestDevicesArePagedById(t *testing.T) {
	b, _ := book(t)
	for i := range 25 {
		enrol(t, b, fmt.Sprintf("d%02d", i), []string{alice, bob}[i%2], fmt.Sprintf("%02d", i))
	}
	var got []string
	for after := ""; ; {
		list, next := b.Devices("", after, 10)
		for _, d := range list {
			got = append(got, d.ID)
		}
		if after = next; next == "" {
			break
		}
	}
	if len(got) != 25 || got[0] != "d00" || got[24] != "d24" {
		t.Errorf("%v", got)
	}
	if list, next := b.Devices(bob, "d03", 100); len(list) != 10 || list[0].ID != "d05" || next != "" {
		t.Errorf("of one mailbox, after d03: %d, the first %v, next %q", len(list), list[0].ID, next)
	}
}

func TestAMailboxHasABoundOfDevices(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	for i := range 1000 {
		enrol(t, b, fmt.Sprint("d", i), alice, fmt.Sprint(i))
	}
	_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "more", Mailbox: alice, Token: "x"}, noon, noon)
	if e, ok := errors.AsType[*subscriptions.FieldError](err); !ok || e.Field != "mailbox" {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNotWrittenDoesNotShow(t *testing.T) {
	s := &storetest.Memory{}
	b := openBook(t, s)
	enrol(t, b, "d1", alice, "aa")
	s.Fail(errors.New("disk full"))
	m := b.Mailbox(alice)
	if err := m.Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 5 }); err == nil || m.Record().Listed == 5 {
		t.Errorf("error %v, listed %d", err, m.Record().Listed)
	}
	if _, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d2", Mailbox: bob, Token: "bb"}, noon, noon); err == nil || b.Mailbox(bob) != nil {
		t.Errorf("error %v, and the mailbox shows", err)
	}
	_, _, err := b.Remove(t.Context(), "d1")
	if err == nil {
		t.Error("a removal that was not written was answered")
	}
	if _, ok := b.Device("d1"); !ok {
		t.Error("it does not show any more")
	}
	if strings.Contains(fmt.Sprint(err), "aa") {
		t.Error("a token is in an error")
	}
}

// An MDM portal that enrols all its devices once more, and pages through them meanwhile, changes nothing of their order.
func TestTheOrderOfTheDevicesIsMadeAnewOnlyWhereOneHasComeOrGone(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d2", alice, "bb")
	enrol(t, b, "d1", bob, "aa")
	before := b.IDs()
	enrol(t, b, "d1", bob, "aa")
	if again := b.IDs(); &again[0] != &before[0] {
		t.Error("the devices were sorted again, and are the same")
	}
	enrol(t, b, "d0", bob, "aa") // the phone of d1
	if ids := b.IDs(); !slices.Equal(ids, []string{"d0", "d2"}) {
		t.Errorf("an id was taken over, and the devices are %v", ids)
	}
	if _, _, err := b.Remove(t.Context(), "d2"); err != nil {
		t.Fatal(err)
	}
	if ids := b.IDs(); !slices.Equal(ids, []string{"d0"}) {
		t.Errorf("one was removed, and the devices are %v", ids)
	}
}
