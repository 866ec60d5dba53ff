package polling

import (
	"testing"
	"time"
)

func TestFewMailboxesArePolledEveryMinute(t *testing.T) {
	p, now := New(25), time.Unix(1_800_000_000, 0)
	for range 20 {
		if wait := p.next(now).Sub(now); wait < Interval || wait > Interval*5/4+time.Second {
			t.Errorf("polled after %v, want about %v", wait, Interval)
		}
	}
}

func TestManyMailboxesArePolledAtThePaceOfTheirExchange(t *testing.T) {
	const mailboxes, perSecond = 15_000, 25
	p, now := New(perSecond), time.Unix(1_800_000_000, 0)
	next := make([]time.Time, mailboxes)
	for i := range next {
		next[i] = p.next(now)
	}
	polls := map[int64]int{} // by minute
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(time.Second) {
		for i := range next {
			if !now.Before(next[i]) {
				polls[now.Unix()/60]++
				next[i] = p.next(now)
			}
		}
	}
	total := 0
	for minute, n := range polls {
		total += n
		if n > 60*perSecond*11/10+mailboxes/100 {
			t.Errorf("minute %d: %d polls, want at most %d", minute, n, 60*perSecond)
		}
	}
	if least := 3600 * perSecond * 9 / 10; total < least {
		t.Errorf("%d polls in an hour, want at least %d", total, least)
	}
	for i := range next {
		if wait := next[i].Sub(now); wait > mailboxes/perSecond*time.Second+2*Interval {
			t.Errorf("mailbox %d waits for %v", i, wait)
		}
	}
}

func TestMailboxesThatAreToldOfAgainHoldUpNobodyWhoIsPolled(t *testing.T) {
	const perSecond = 25
	for _, mailboxes := range []int{1000, 1450, 4000} {
		for _, every := range []time.Duration{10 * time.Second, 30 * time.Second, 35 * time.Second} {
			p, now := New(perSecond), time.Unix(1_800_000_000, 0)
			turns := make([]Turn, mailboxes)
			for end := now.Add(time.Hour); now.Before(end); now = now.Add(every) {
				for i := range turns { // their streams end, and are open again at once
					turns[i].At(p, now)
					turns[i].Told()
				}
			}
			var away Turn
			if wait := away.At(p, now).Sub(now); wait > time.Duration(mailboxes/perSecond)*time.Second+2*Interval {
				t.Errorf("%d mailboxes, every %v: one whose stream stays away is polled after %v", mailboxes, every, wait)
			}
		}
	}
}

func TestAMailboxThatWasToldOfHasANewTurnOnceItsOldOneIsOver(t *testing.T) {
	p, now := New(25), time.Unix(1_800_000_000, 0)
	var turn Turn
	first := turn.At(p, now)
	turn.Told()
	if again := turn.At(p, now.Add(time.Second)); !again.Equal(first) {
		t.Errorf("its turn is at %v, and was at %v", again, first)
	}
	for _, off := range []time.Duration{time.Second, -time.Second, -Interval/2 + time.Second} { // from its turn
		turn.Told()
		now = turn.at.Add(off)
		if turn.Due(p, now) {
			t.Error("it is listed at once, by a turn of the time when something told of its mail")
		}
		if next := turn.At(p, now); next.Sub(now) < Interval {
			t.Errorf("it is listed %v after its stream has ended, want at least %v", next.Sub(now), Interval)
		}
	}
}
