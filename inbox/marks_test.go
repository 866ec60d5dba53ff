package inbox

// The marks of a mailbox, and whose turn it is.

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// marked is a mailbox that can be read, and counts how often it was queued.
func marked(queued *atomic.Int32) *marks {
	m := &marks{queue: func(bool) { queued.Add(1) }, polls: &polls{}}
	m.attach(&attachment{Link: &link{exchange: "here"}})
	return m
}

func hintsOf(n int) (list hints) {
	for i := range n {
		list.put(hint{fmt.Sprint(i), time.Now()})
	}
	return list
}

func TestAMailboxIsQueuedOnceUntilItsTurnIsOver(t *testing.T) { // rule 7
	synctest.Test(t, func(t *testing.T) {
		var queued atomic.Int32
		m := marked(&queued)
		if queued.Load() != 0 {
			t.Error("it is queued without a mark")
		}
		m.hint("1", mail.EWS, time.Now(), 0)
		m.hint("2", mail.EWS, time.Now(), 0)
		m.listing()
		if queued.Load() != 1 {
			t.Errorf("queued %d times for three marks", queued.Load())
		}
		taken, ok := m.take()
		if !ok || len(taken.hints) != 2 || !taken.list {
			t.Errorf("%v %+v", ok, taken)
		}
		m.hint("3", mail.EWS, time.Now(), 0)
		if queued.Load() != 1 {
			t.Error("a second worker may have it")
		}
		m.done(taken, nil)
		if queued.Load() != 2 {
			t.Error("what was marked meanwhile waits for ever")
		}
		taken, _ = m.take()
		m.done(taken, nil)
		if queued.Load() != 2 {
			t.Error("it is queued again without a mark")
		}
	})
}

func TestWhatCannotBeReadIsNotQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queued atomic.Int32
		m := &marks{queue: func(bool) { queued.Add(1) }, polls: &polls{}}
		m.listing()
		if queued.Load() != 0 {
			t.Error("it is queued before it is attached")
		}
		m.attach(&attachment{Link: &link{}})
		if queued.Load() != 1 {
			t.Error("it is not queued once it is attached")
		}
		m.detach()
		if _, ok := m.take(); ok {
			t.Error("a turn begins although it was detached")
		}
		m.attach(&attachment{Link: &link{}})
		if queued.Load() != 2 {
			t.Error("its mark is lost")
		}
		m.close()
		if _, ok := m.take(); ok {
			t.Error("a turn begins although it was closed")
		}
		m.listing()
		if queued.Load() != 2 {
			t.Error("it is queued although it was closed")
		}
	})
}

func TestAFailedTurnGivesItsMarksBackAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queued atomic.Int32
		m := marked(&queued)
		m.hint("1", mail.EWS, time.Now(), 0)
		f := &fault.Error{Scope: fault.Mailbox, Remedy: fault.Wait}
		for n := range 3 {
			taken, ok := m.take()
			if !ok || len(taken.hints) != 1 {
				t.Fatalf("turn %d: %v %+v", n, ok, taken)
			}
			before := time.Now()
			first, next := m.done(taken, f)
			if first != (n == 0) || next.Before(before.Add(5*time.Second<<n)) {
				t.Errorf("turn %d: first %v, next in %v", n, first, next.Sub(before))
			}
			if failing, at, _ := m.fault(); failing != f || !at.Equal(next) {
				t.Error("it does not say why")
			}
			m.hint("1", mail.EWS, time.Now(), 0) // no mark ends a back-off
			if queued.Load() != int32(n+1) {
				t.Error("it does not back off")
			}
			<-time.After(time.Until(next) + time.Millisecond)
			synctest.Wait()
			if queued.Load() != int32(n+2) {
				t.Error("it is not tried again")
			}
		}
		taken, _ := m.take()
		m.done(taken, nil)
		if failing, _, _ := m.fault(); failing != nil {
			t.Error("it fails although it was read")
		}
		m.hint("2", mail.EWS, time.Now(), 0)
		taken, _ = m.take()
		if first, _ := m.done(taken, f); !first {
			t.Error("the first failure in a row is not the first")
		}
		m.close()
	})
}

func TestAMailboxThatIsWokenInItsTurnDoesNotBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queued atomic.Int32
		m := marked(&queued)
		m.listing()
		taken, _ := m.take()
		m.wake() // what it fails of has ended meanwhile
		m.done(taken, &fault.Error{Scope: fault.Mailbox, Remedy: fault.Fix})
		if queued.Load() != 2 {
			t.Error("it waits for an hour")
		}
		taken, _ = m.take()
		m.done(taken, &fault.Error{Scope: fault.Mailbox, Remedy: fault.Fix})
		if queued.Load() != 2 {
			t.Error("it does not back off")
		}
		m.wake()
		if queued.Load() != 3 {
			t.Error("it cannot be woken")
		}
		m.close()
	})
}

func TestMarksThatAreGivenBackJoinThoseThatCame(t *testing.T) {
	for name, c := range map[string]struct {
		back, came int
		hints      int
		list       bool
	}{
		"both":            {2, 3, 3, false}, // two of them are the same
		"up to the bound": {maxHints, maxHints, maxHints, false},
		"over the bound":  {maxHints + 1, 0, 0, true},
	} {
		var queued atomic.Int32
		m := marked(&queued)
		m.hints, m.listed = hintsOf(c.came), true
		m.giveBack(turn{link: m.link, hints: hintsOf(c.back)})
		if len(m.hints) != c.hints || m.list != c.list || m.listed == c.list {
			t.Errorf("%s: %d hints, list %v, listed %v", name, len(m.hints), m.list, m.listed)
		}
	}
}

func TestHintsOfAnotherExchangeAreDropped(t *testing.T) {
	var queued atomic.Int32
	m := marked(&queued)
	m.hint("1", mail.EWS, time.Now(), 0)
	taken, _ := m.take()
	there := &attachment{Link: &link{exchange: "there"}}
	m.attach(there)
	m.hint("2", mail.EWS, time.Now(), 0)
	if hints, _ := m.takeHints(taken.link); hints != nil {
		t.Errorf("a turn by the former link takes %v", hints)
	}
	m.giveBack(taken)
	if hints, _ := m.takeHints(there); len(hints) != 1 || hints.at("2").IsZero() || !m.list {
		t.Errorf("%v are kept, list %v", hints, m.list)
	}
}

func TestTheSafetyPollComesWithinItsTimeAndIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const poll = 80 * time.Minute
		waits := map[time.Duration]bool{}
		var queued atomic.Int32
		m := marked(&queued)
		for i := range 20 {
			before, was := time.Now(), queued.Load()
			m.completed(poll)
			for queued.Load() == was {
				<-time.After(time.Second)
				synctest.Wait()
			}
			wait := time.Since(before)
			waits[wait] = true
			if wait < poll/4-time.Second || i > 0 && wait < poll-poll/8-time.Second || wait > poll+time.Second {
				t.Errorf("the poll came after %v", wait)
			}
			taken, _ := m.take()
			m.done(taken, nil)
		}
		if len(waits) < 10 {
			t.Errorf("%d different waits of 20: all mailboxes are listed at once", len(waits))
		}
		m.close()
	})
}

func TestTheFirstSafetyPollsOfAllMailboxesAreSpreadOverThreeQuartersOfTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const poll, mailboxes = 40 * time.Minute, 400
		var queued atomic.Int32
		var list []*marks
		var all polls
		for range mailboxes {
			m := marked(&queued)
			m.polls = &all
			m.completed(poll)
			list = append(list, m)
		}
		<-time.After(poll / 4)
		for minute := range 30 { // 13 or so in each
			was := queued.Load()
			<-time.After(time.Minute)
			if n := queued.Load() - was; n > 40 {
				t.Errorf("%d polls in minute %d", n, minute)
			}
		}
		if n := queued.Load(); n != mailboxes {
			t.Errorf("%d polls", n)
		}
		for _, m := range list {
			m.close()
		}
	})
}

func TestAMailboxThatIsClosedIsNotPolledAndNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queued atomic.Int32
		var all polls
		stays, goes := marked(&queued), marked(&queued)
		for _, m := range []*marks{stays, goes} {
			m.polls = &all
			m.completed(time.Hour)
		}
		goes.close()
		all.mu.Lock()
		if list := slices.Collect(all.agenda.All()); len(list) != 1 || list[0] != stays {
			t.Errorf("%d mailboxes are to be polled", len(list))
		}
		all.mu.Unlock()
		goes.completed(time.Hour) // a turn that was under way
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if queued.Load() != 1 {
			t.Errorf("%d polls, want one of the mailbox that stays", queued.Load())
		}
		goes.open()
		goes.attach(&attachment{Link: &link{exchange: "here"}})
		goes.completed(time.Hour)
		<-time.After(time.Hour)
		synctest.Wait()
		if queued.Load() != 2 {
			t.Error("a mailbox that was opened again is not polled")
		}
	})
}

// A mailbox that moves between EWS and Graph stays in its entry, and a stream that is closing names a message by an id that Graph does not know.
func TestAnIDOfTheOtherSourceIsNotRead(t *testing.T) {
	at := func(kind mail.Source) *attachment { return &attachment{Link: &link{source: &source{kind: kind}}} }
	m := &marks{queue: func(bool) {}}
	m.attach(at(mail.EWS))
	m.hint("before", mail.EWS, time.Now(), 0)
	m.attach(at(mail.Graph))
	if len(m.hints) != 0 || !m.list {
		t.Errorf("after the move %v are to be read, and it is to be listed: %t", m.hints, m.list)
	}
	m.list = false
	m.hint("late", mail.EWS, time.Now(), 0)
	if len(m.hints) != 0 || !m.list {
		t.Errorf("%v are to be read by Graph, and it is to be listed: %t", m.hints, m.list)
	}
	m.hint("known", mail.Graph, time.Now(), 0)
	if len(m.hints) != 1 {
		t.Errorf("%v are to be read", m.hints)
	}
}
