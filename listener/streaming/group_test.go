package streaming

// Whom a stream speaks for, and what has a call that is under way repeated.

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestAStreamSpeaksForAMemberByItsSubscriptionOfNowOnly(t *testing.T) {
	g, other := newGroup(New(Options{})), newGroup(New(Options{}))
	for name, c := range map[string]struct {
		m    Member
		want bool
	}{
		"its own":                      {Member{group: g, subscription: "id"}, true},
		"it has another by now":        {Member{group: g, subscription: "another"}, false},
		"it is in another group":       {Member{group: other, subscription: "id"}, false},
		"it left":                      {Member{}, false},
		"it is in another, by another": {Member{group: other, subscription: "another"}, false},
	} {
		if got := g.has(&c.m, "id"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// told is a Sink that counts.
type told struct {
	Sink
	lists int
}

func (s *told) List() { s.lists++ }

func TestWhereAStreamWasNotHandedOverWholeThoseAreListedWhoseNewOneHasBegun(t *testing.T) {
	g := newGroup(New(Options{}))
	old, begun, silent := &reading{}, &reading{}, &reading{}
	old.begun.Store(true)
	begun.begun.Store(true)
	for name, c := range map[string]struct {
		m     Member
		lists int
		gap   bool // it is listed when its stream begins
	}{
		"the new one has begun":         {Member{group: g, subscription: "id", stream: begun}, 1, false},
		"it has not":                    {Member{group: g, subscription: "id", stream: silent}, 0, true},
		"there is none":                 {Member{group: g, subscription: "id"}, 0, true},
		"there is none but the old one": {Member{group: g, subscription: "id", stream: old}, 0, true},
		"it left":                       {Member{}, 0, false},
		"it is served elsewhere":        {Member{subscription: "id", stream: begun}, 0, false},
	} {
		s := &told{}
		c.m.sink = s
		old.by = map[string]*Member{"id": &c.m}
		g.brokenBefore(old)
		if s.lists != c.lists || c.m.gap != c.gap {
			t.Errorf("%s: listed %d times, and to be listed: %v", name, s.lists, c.m.gap)
		}
	}
}

// A call that is under way when a credential changes may be refused for the one before.
func TestASubscribeThatIsRefusedWhileTheCredentialChangesIsRepeatedAtOnceAndNotWhereAStreamOpens(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *server, a *account)
		calls     int
	}{
		"the credential changes":         {func(_ *server, a *account) { a.Retry() }, 2},
		"it changes, and a stream opens": {func(s *server, a *account) { a.Retry(); s.cut(io.EOF) }, 2},
		"a stream opens":                 {func(s *server, _ *account) { s.cut(io.EOF) }, 1},
		"nothing":                        {func(*server, *account) {}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				a := newAccount(t, s, 200)
				a.join(bob)
				pass(time.Minute)
				calls, answer := 0, make(chan struct{})
				s.set(func() {
					s.wait = func(_ context.Context, c call) error {
						if c.op != "Subscribe" {
							return nil
						}
						calls++
						if calls > 1 {
							return nil
						}
						<-answer
						return denied(fault.Account, fault.Fix, time.Hour)
					}
				})
				m := a.join(alice)[0]
				pass(time.Second)
				c.meanwhile(s, a)
				pass(time.Second)
				close(answer)
				pass(3 * time.Second)
				if calls != c.calls || m.listens() != (c.calls == 2) {
					t.Errorf("%d calls, want %d; it is listened to: %v", calls, c.calls, m.listens())
				}
			})
		})
	}
}

func TestTheFirstEnvelopeBeginsForEachMemberThatTheStreamServes(t *testing.T) {
	g := newGroup(New(Options{}))
	r, newer := &reading{group: g, by: map[string]*Member{}}, &reading{}
	for i := range 20 {
		m := &Member{group: g, stream: r, gap: true, sink: &told{}}
		if i%2 > 0 {
			m.stream = newer
		}
		r.by[numbered(i)] = m
	}
	r.as = r.by[numbered(0)]
	r.begin()
	for name, m := range r.by {
		served := m.stream == r
		if lists := m.sink.(*told).lists; m.since.IsZero() == served || (lists == 1) != served {
			t.Errorf("%s, served %v: listened to since %v, listed %d times", name, served, m.since, lists)
		}
	}
}

func TestMailWaitsForAStreamThatIsOpenedAgainWithinFiveSecondsAndForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, lists := range map[time.Duration]int{listAnyway: 0, listAnyway + 1: 1} {
			g := newGroup(New(Options{}))
			s := &told{}
			m := &Member{group: g, subscription: "id", sink: s}
			g.members[m] = struct{}{}
			m.broken(time.Now())
			l := g.keeper.lines[0]
			l.reopen = time.Now().Add(wait)
			l.meanwhile()
			if s.lists != lists {
				t.Errorf("opened again in %v: listed %d times, want %d", wait, s.lists, lists)
			}
		}
	})
}

func TestAStreamThatHasLastedTenSecondsEndsTheRowOfFailures(t *testing.T) {
	for lived, c := range map[time.Duration]struct{ ended, failed int }{lasting: {0, 1}, lasting - 1: {6, 6}} {
		k := newGroup(New(Options{})).keeper.lines[0]
		k.group.failures = 5
		k.ended(lived)
		if k.group.failures != c.ended {
			t.Errorf("%d failures after an end as it should be, %v after the opening", k.group.failures, lived)
		}
		k.group.failures = 5
		k.failed(lived, denied(fault.Group, fault.Retry, 0))
		if k.group.failures != c.failed {
			t.Errorf("%d failures after another one, %v after the opening", k.group.failures, lived)
		}
	}
}

func TestAReportOfSubscriptionsOfWhichOneIsOfAnotherTimeConcernsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob)
		pass(time.Minute)
		s.say(said{err: lostSubscription("one of another time", list[1].box.Record().Subscription)})
		pass(10 * time.Second)
		if len(s.made("Subscribe")) != 3 || !list[1].listens() {
			t.Errorf("bob is not subscribed anew: %+v", s.made("Subscribe"))
		}
	})
}

func TestWhoLosesAFormerSubscriptionKeepsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := newAccount(t, s, 200).join(alice)[0]
		pass(time.Minute)
		m.group.lose(t.Context(), map[string]*Member{"a former one": m.Member}, lostSubscription("a former one"), false)
		if !m.listens() {
			t.Error("it is not listened to any more")
		}
		pass(time.Minute)
		if n := len(s.made("Subscribe")); n != 1 {
			t.Errorf("it was subscribed %d times", n)
		}
	})
}
