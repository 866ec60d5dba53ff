package streaming

// The bounds, and what is spread so that it does not come at once.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/refusal"
)

func TestACallThatEndsWhenItBeginsToTakeLongIsCountedOnce(t *testing.T) {
	g := newGroup(New(Options{}))
	for name, inTurn := range map[string][]func(*attempt){
		"it ends":                 {g.called},
		"it takes long, and ends": {g.takesLong, g.called},
		"it ends just then":       {g.called, g.takesLong},
	} {
		a := &attempt{leads: true}
		g.calls, g.leading, g.hung = 1, 1, 0
		for _, f := range inTurn {
			f(a)
		}
		if g.calls != 0 || g.leading != 0 {
			t.Errorf("%s: %d calls, %d that may lead are counted, and none is under way", name, g.calls, g.leading)
		}
	}
}

func TestMailboxesThatArePolledAreNotListedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.silent = true
		var addresses []string
		for i := range 20 {
			addresses = append(addresses, numbered(i))
		}
		list := newAccount(t, s, 200).join(addresses...)
		pass(10 * time.Minute)
		for n := range 5 { // the first listing is that after the opening: it waits for its envelope
			at := map[time.Time]bool{}
			for _, m := range list {
				at[m.lists[1+n]] = true
			}
			if len(at) < 10 {
				t.Errorf("%d mailboxes are listed at %d times (%d)", len(list), len(at), n)
			}
		}
	})
}

func TestAnItemIDThatCannotBeOneHasTheMailboxListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(bob)[0]
		pass(time.Minute)
		for _, item := range []string{"", strings.Repeat("i", maxItem+1)} {
			lists := m.listings()
			s.tell(bob, item)
			pass(time.Second)
			if len(m.told()) != 0 || m.listings() != lists+1 {
				t.Errorf("%d bytes: told of %d items, listed %d times more", len(item), len(m.told()), m.listings()-lists)
			}
		}
		s.tell(bob, strings.Repeat("i", maxItem))
		pass(time.Second)
		if len(m.told()) != 1 {
			t.Errorf("the longest: told of %d items", len(m.told()))
		}
	})
}

func TestOneRefusedStreamIsNoReasonForAStreamEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(_ context.Context, c call) error {
			if c.op == "Stream" {
				streams := len(s.made("Stream"))
				s.set(func() { s.single = streams < maxRefused })
			}
			return nil
		}
		a := newAccount(t, s, 200)
		a.join(alice, bob, carol)
		pass(time.Minute)
		if sizes := s.alive(); fmt.Sprint(sizes) != "[3]" {
			t.Errorf("streams with %v subscriptions are open", sizes)
		}
	})
}

func TestAMailboxThatIsListedWhereItWasUnknownIsSubscribedWithinMinutesHoweverOftenItWasRefused(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 2 * refusal.FirstReturn, 5: 32 * refusal.FirstReturn, 6: refusal.MaxReturn, 100: refusal.MaxReturn} {
		synctest.Test(t, func(t *testing.T) {
			for name, f := range map[string]*fault.Error{"unknown": {Elsewhere: true}, "not let in": {Unproven: true}} {
				gs := New(Options{})
				m := gs.Member(nil, nil)
				m.group = newGroup(gs)
				for range failures {
					m.refusal.Again(f, time.Now())
				}
				m.refusal.TryAt(time.Now().Add(time.Hour))
				m.Listed()
				if wait := time.Until(m.refusal.Next()); wait != want {
					t.Errorf("%s %d times: tried again in %v, want %v", name, failures, wait, want)
				}
				m.refusal.TryAt(time.Now().Add(time.Second))
				m.Listed()
				if wait := time.Until(m.refusal.Next()); wait != time.Second {
					t.Errorf("%s: a try in a second is put off to %v", name, wait)
				}
				m.group = nil
				m.refusal.TryAt(time.Now().Add(time.Hour))
				m.Listed()
				if wait := time.Until(m.refusal.Next()); wait != time.Hour {
					t.Errorf("%s: who left is to be subscribed in %v", name, wait)
				}
			}
		})
	}
}
