package polling

import (
	"testing"
	"time"
)

func TestFewMailboxesArePolledEveryMinute(t *testing.T) {
	p, now := New(25), time.Unix(1_800_000_000, 0)
	for range 20 {
		if wait := p.Next(now).Sub(now); wait < Interval || wait > Interval*5/4+time.Second {
			t.Errorf("polled after %v, want about %v", wait, Interval)
		}
	}
}

func TestManyMailboxesArePolledAtThePaceOfTheirExchange(t *testing.T) {
	const mailboxes, perSecond = 15_000, 25
	p, now := New(perSecond), time.Unix(1_800_000_000, 0)
	next := make([]time.Time, mailboxes)
	for i := range next {
		next[i] = p.Next(now)
	}
	polls := map[int64]int{} // by minute
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(time.Second) {
		for i := range next {
			if !now.Before(next[i]) {
				polls[now.Unix()/60]++
				next[i] = p.Next(now)
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
