package listener

import (
	"testing"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

func TestAMessageThatCameIsTakenOnceAndTheOthersAreRead(t *testing.T) {
	member := &attentive{}
	k := &link{m: &mailbox{l: &Listener{}}, at: &mail.Location{}, outage: &outage{}, member: member, way: blockable(&Account{Source: reads{items: []inbox.Item{{ID: "b", Message: &mail.Message{Subject: "read"}}}}}).byEWS}
	k.keepTold(&mail.Message{ItemID: "a", Subject: "told"})
	k.keepTold(&mail.Message{ItemID: "c", Subject: "told"})
	got, err := k.Read(t.Context(), []string{"a", "b", "c"})
	if err != nil || len(got.Items) != 3 || got.Items[0].Message.Subject != "told" || got.Items[1].Message.Subject != "read" || got.Items[2].ID != "c" || got.Clock.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	if k.m.l.told.Load() != 0 || len(k.told) != 0 {
		t.Errorf("%d messages are kept", k.m.l.told.Load())
	}
	k.keepTold(&mail.Message{ItemID: "a"})
	if got, err := k.Read(t.Context(), []string{"a"}); err != nil || got.Clock.IsZero() || len(got.Items) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// What cannot be read harms nothing that is there already.
func TestAMessageThatCameDoesNotWaitForOthersThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		scope    fault.Scope
		returned int
	}{"the mailbox is throttled": {fault.Mailbox, 1}, "they are asked for one by one": {fault.Message, 0}} {
		source := reads{err: &fault.Error{Op: "test", Code: "no", Scope: c.scope, Remedy: fault.Wait}}
		k := &link{m: &mailbox{l: &Listener{}}, at: &mail.Location{}, outage: &outage{}, member: &attentive{}, way: blockable(&Account{Source: source}).byEWS}
		k.keepTold(&mail.Message{ItemID: "a"})
		got, err := k.Read(t.Context(), []string{"a", "b", "c"})
		if err == nil || got.Clock.IsZero() || len(got.Items) != c.returned {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if again, err := k.Read(t.Context(), []string{"a"}); c.returned == 0 && (err != nil || len(again.Items) != 1) {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
}

func TestMessagesThatCameAreBoundedAndForgotten(t *testing.T) {
	l := &Listener{}
	k, other := &link{m: &mailbox{l: l}, member: &attentive{}}, &link{m: &mailbox{l: l}, member: &attentive{}}
	for i := range maxTold + 10 {
		k.keepTold(&mail.Message{ItemID: address(i)})
		k.keepTold(&mail.Message{ItemID: address(i)})
	}
	other.keepTold(&mail.Message{ItemID: "x"})
	if len(k.told) != maxTold || len(other.told) != 0 {
		t.Errorf("%d and %d are kept", len(k.told), len(other.told))
	}
	k.dropTold(false)
	if len(k.told) != 0 || l.told.Load() != 0 {
		t.Errorf("%d are kept after a listing", l.told.Load())
	}
	other.dropTold(true)
	other.keepTold(&mail.Message{ItemID: "x"})
	if l.told.Load() != 0 {
		t.Error("one is kept for a mailbox that has moved away")
	}
}
