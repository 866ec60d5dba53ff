package listener

// What the answers of a mailbox's server say: about its messages, and about where it lives.

import (
	"context"
	"testing"
	"time"

	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// reads is a Source that has read these items.
type reads struct {
	Source
	items []inbox.Item
}

func (r reads) Read(context.Context, mail.Location, []string) ([]inbox.Item, Answer, error) {
	return r.items, Answer{}, nil
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
		k := &link{m: &mailbox{}, at: &mail.Location{}, member: member, way: blockable(&Account{Source: reads{items: []inbox.Item{good, c.item, good}}}).byEWS}
		got, err := k.Read(t.Context(), []string{"good", "bad", "good"})
		switch {
		case c.code == "" && (err != nil || len(got.Items) != 3 || got.Items[1] != c.item):
			t.Errorf("%s: %v, %v", name, got, err)
		case c.code != "" && (err == nil || fault.Of(err).Code != c.code):
			t.Errorf("%s: the call ends with %v", name, err)
		}
		if worked := c.code == ""; worked != (member.answers == 1) {
			t.Errorf("%s: the member is told of %d answers", name, member.answers)
		}
	}
}

// Where two servers contradict each other, each look-up would have the next one made at once.
func TestALocationIsDoubtedOnceItIsOldEnoughAndNotBefore(t *testing.T) {
	mailboxs, servers := &fault.Error{Moved: true, Scope: fault.Mailbox}, &fault.Error{Moved: true, Scope: fault.Server}
	for name, c := range map[string]struct {
		f        *fault.Error
		failures int
		age      time.Duration
		before   streaming.Verdict // at that age
		after    streaming.Verdict // a moment later
	}{
		"the mailbox moved":            {mailboxs, 0, confirmed, streaming.Later, streaming.Leaves},
		"its server fails for an hour": {servers, manyFailures + 1, doubtful, streaming.Stays, streaming.Leaves},
		"its server failed seldom":     {servers, manyFailures, doubtful, streaming.Stays, streaming.Stays},
		"nobody says that it moved":    {&fault.Error{Scope: fault.Mailbox}, 0, confirmed, streaming.Stays, streaming.Stays},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.hybrid(alice)
				s.start()
				s.enrol("a", alice)
				k := s.mailbox(alice).linked()
				s.pass(c.age - k.age())
				if got := k.doubt(c.f, c.failures); got != c.before {
					t.Errorf("verdict %v after %v, want %v", got, k.age(), c.before)
				}
				s.pass(1)
				if got := k.doubt(c.f, c.failures); got != c.after {
					t.Errorf("verdict %v a moment later, want %v", got, c.after)
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
