package subscriptions_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// join has the servers of one exchange entry say that two addresses are one mailbox.
func join(ctx context.Context, b *subscriptions.Book, from, into string) error {
	if _, _, err := b.Name(ctx, b.Mailbox(into), "hq", into, finished); err != nil {
		return err
	}
	_, joined, err := b.Name(ctx, b.Mailbox(from), "hq", into, finished)
	if err == nil && !joined {
		return errors.New("they are not joined")
	}
	return err
}

// finished is a mailbox for which nothing is sent.
func finished(context.Context, *subscriptions.Mailbox) ([]subscriptions.Twin, error) { return nil, nil }

const told = "alice.smith@contoso.example"

func TestMailboxesAreJoinedByTheWordOfOneEntryOnly(t *testing.T) {
	for name, c := range map[string]struct {
		entry  string
		joined bool
	}{"its own": {"hq", true}, "another": {"partner", false}} {
		b := openBook(t, &storetest.Memory{})
		enrol(t, b, "d1", alice, "aa")
		enrol(t, b, "d2", bob, "bb")
		if _, joined, err := b.Name(t.Context(), b.Mailbox(alice), "hq", alice, finished); joined || err != nil {
			t.Fatal(joined, err)
		}
		same, joined, err := b.Name(t.Context(), b.Mailbox(bob), c.entry, alice, finished)
		if err != nil || joined != c.joined || (same == b.Mailbox(alice)) != c.joined || (b.Mailbox(bob) == b.Mailbox(alice)) != c.joined {
			t.Errorf("%s: joined %v, %v", name, joined, err)
		}
	}
}

func TestAnAddressThatAServerHasToldIsNobodysUntilItIsEnrolled(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "d1", bob, "aa")
	if _, _, err := b.Name(t.Context(), b.Mailbox(bob), "partner", alice, finished); err != nil {
		t.Fatal(err)
	}
	at := mail.Location{Entry: "partner", Primary: alice, Found: noon}
	if err := b.Mailbox(bob).Update(t.Context(), func(d *subscriptions.Draft) { d.At = &at }); err != nil {
		t.Fatal(err)
	}
	for when, b := range map[string]func() *subscriptions.Book{"at once": func() *subscriptions.Book { return b }, "after a restart": reopen} {
		b := b()
		if b.Mailbox(alice) != nil || b.Known(alice) != b.Mailbox(bob) {
			t.Errorf("%s the address is taken, or not known", when)
		}
	}
	b = reopen()
	enrol(t, b, "d2", alice, "bb")
	if b.Mailbox(alice) == b.Mailbox(bob) || b.Known(alice) != b.Mailbox(alice) {
		t.Error("who has the address is enrolled into the mailbox of whose server claimed it")
	}
	if _, joined, err := b.Name(t.Context(), b.Mailbox(alice), "hq", alice, finished); joined || err != nil {
		t.Error(joined, err)
	}
}

func TestAnIdentityIsKeptOverARestartAndWhileTheMailboxSleeps(t *testing.T) {
	b, reopen := book(t)
	enrol(t, b, "d1", alice, "aa")
	at := mail.Location{Entry: "hq", Primary: told, Found: noon}
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.At = &at }); err != nil {
		t.Fatal(err)
	}
	first := b.Mailbox(alice).Record().ID
	if _, _, err := b.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	b = reopen()
	enrol(t, b, "d2", told, "aa")
	same, joined, err := b.Name(t.Context(), b.Mailbox(told), "hq", told, finished)
	if err != nil || !joined || same.Record().ID != first || !same.Record().Dies.IsZero() || b.Mailbox(told) != same {
		t.Errorf("joined %v, %v", joined, err)
	}
}

func TestAnIdentityThatIsForgottenOrReplacedIsFree(t *testing.T) {
	for name, free := range map[string]func(b *subscriptions.Book) error{
		"forgotten": func(b *subscriptions.Book) error {
			b.Forget(b.Mailbox(alice))
			return nil
		},
		"replaced": func(b *subscriptions.Book) error {
			_, _, err := b.Name(context.Background(), b.Mailbox(alice), "cloud", told, finished)
			return err
		},
		"buried": func(b *subscriptions.Book) error {
			if _, _, err := b.Remove(context.Background(), "d1"); err != nil {
				return err
			}
			return b.Bury(context.Background(), time.Now().Add(time.Hour))
		},
	} {
		b := openBook(t, &storetest.Memory{})
		enrol(t, b, "d1", alice, "aa")
		enrol(t, b, "d2", bob, "bb")
		if _, _, err := b.Name(t.Context(), b.Mailbox(alice), "hq", told, finished); err != nil {
			t.Fatal(err)
		}
		if err := free(b); err != nil {
			t.Fatal(err)
		}
		if same, joined, err := b.Name(t.Context(), b.Mailbox(bob), "hq", told, finished); same != b.Mailbox(bob) || joined || err != nil {
			t.Errorf("%s: %v, %v", name, joined, err)
		}
	}
}

func TestAJoiningThatIsNotWrittenDoesNotShow(t *testing.T) {
	s := &storetest.Memory{}
	b := openBook(t, s)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", bob, "bb")
	full := errors.New("disk full")
	s.Fail(full)
	if err := join(t.Context(), b, alice, bob); !errors.Is(err, full) || b.Mailbox(alice) == b.Mailbox(bob) {
		t.Errorf("%v, and the two are one", err)
	}
}

func TestAMailboxThatIsGoneIsJoinedToNone(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", bob, "bb")
	gone := b.Mailbox(alice)
	if _, _, err := b.Name(t.Context(), b.Mailbox(bob), "hq", bob, finished); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"asleep", "buried"} {
		if _, _, err := b.Name(t.Context(), gone, "hq", bob, finished); !errors.Is(err, subscriptions.ErrNoMailbox) {
			t.Errorf("%s: %v", when, err)
		}
		if n := len(b.Mailbox(bob).Devices()); n != 1 {
			t.Errorf("%d devices", n)
		}
		if err := b.Bury(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// While a mailbox is listed that is to be joined, the other one gets another name, and a third has that one.
func TestAMailboxIsJoinedToTheOneThatItsServerCallsSoInTheEnd(t *testing.T) {
	b := openBook(t, &storetest.Memory{})
	const carol = "carol@contoso.example"
	for i, address := range []string{alice, bob, carol} {
		enrol(t, b, fmt.Sprint("d", i), address, fmt.Sprint(i))
	}
	m, first, last := b.Mailbox(alice), b.Mailbox(bob), b.Mailbox(carol)
	name := func(m *subscriptions.Mailbox, primary string) {
		if _, _, err := b.Name(t.Context(), m, "hq", primary, finished); err != nil {
			t.Error(err)
		}
	}
	name(first, told)
	var listed []*subscriptions.Mailbox
	same, joined, err := b.Name(t.Context(), m, "hq", told, func(_ context.Context, other *subscriptions.Mailbox) ([]subscriptions.Twin, error) {
		if listed = append(listed, other); other == first {
			name(first, bob)
			name(last, told)
		}
		return nil, nil
	})
	if err != nil || !joined || same != last || !slices.Equal(listed, []*subscriptions.Mailbox{first, last}) || len(first.Devices()) != 1 {
		t.Errorf("joined %v, %v; %d times listed", joined, err, len(listed))
	}
}
