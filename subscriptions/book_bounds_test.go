package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// broken is a store that has nothing and writes nothing.
type broken struct{ Store }

func (broken) Load(context.Context) (Contents, error) { return Contents{}, nil }
func (broken) Write(context.Context, Change) error    { return errors.New("the connection broke") }

func TestWhatMayHaveBeenWrittenIsRememberedForSoManyMailboxesOnly(t *testing.T) {
	b, err := Open(t.Context(), broken{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_500 {
		if _, err := b.Enrol(t.Context(), Enrolment{ID: "d", Mailbox: fmt.Sprint(i), Token: "aa"}, noon, noon); err == nil {
			t.Fatal("enrolled")
		}
	}
	if n := len(b.unsureIDs); n != 10_000 {
		t.Errorf("%d mailboxes are remembered, want 10,000: an Exchange's worth of typing errors must not fill the memory", n)
	}
}

func TestAnEnrolmentThatSucceedsIsUnsureNoLonger(t *testing.T) {
	s := &sometimes{fail: true}
	b, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	e := Enrolment{ID: "d", Mailbox: "alice@contoso.example", Token: "aa"}
	if _, err := b.Enrol(t.Context(), e, noon, noon); err == nil {
		t.Fatal("enrolled")
	}
	first := b.recordID(e.Mailbox)
	s.fail = false
	done, err := b.Enrol(t.Context(), e, noon, noon)
	if err != nil || done.Mailbox.Record().ID != first {
		t.Fatalf("%v: the record is not the one that may have been written", err)
	}
	s.fail = true
	if _, err := b.Enrol(t.Context(), e, noon, noon.Add(time.Hour)); err == nil {
		t.Fatal("enrolled")
	}
	if len(b.unsureIDs) != 0 {
		t.Errorf("%v: the record is known", b.unsureIDs)
	}
}

type sometimes struct {
	broken
	fail bool
}

func (s *sometimes) Write(ctx context.Context, c Change) error {
	if s.fail {
		return s.broken.Write(ctx, c)
	}
	return nil
}
