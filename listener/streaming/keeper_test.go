package streaming

// Change without harm: who comes and who goes leaves the others on their stream.

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// endOf ends the nth stream.
func (s *server) endOf(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[n].finish(err)
}

func numbers(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, numbered(i))
	}
	return list
}

func TestWhoComesHasASmallStreamUntilTheLargeOneEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		list := a.join(numbers(0, 100)...)
		pass(time.Minute)
		for i := range 20 {
			list = append(list, a.join(numbered(100+i))...)
			pass(time.Minute)
		}
		if got := s.alive(); !slices.Equal(got, []int{100, 20}) {
			t.Fatalf("streams with %v subscriptions are open", got)
		}
		if s.streams[0].over() {
			t.Error("the large stream was ended")
		}
		for _, c := range s.made("Stream") {
			if c.a.Cookie != "cookie-of-"+numbered(0) {
				t.Errorf("a stream without the cookie of the group: %+v", c)
			}
		}
		s.endOf(0, io.EOF)
		pass(time.Second)
		if got := s.alive(); !slices.Equal(got, []int{120}) || a.Open() != 1 {
			t.Errorf("after the end of the large one, streams with %v subscriptions are open, %d by our count", got, a.Open())
		}
		for _, m := range list {
			s.tell(m.address, "new")
			synctest.Wait()
			if m.listings() != 1 || !m.listens() || !slices.Equal(m.told(), []string{"new"}) {
				t.Errorf("%s: listed %d times, told of %v", m.address, m.listings(), m.told())
			}
		}
	})
}

func TestTheSmallStreamIsOpenedAgainWithItsOwnWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(numbers(0, 10)...)
		pass(time.Minute)
		a.join(numbers(10, 13)...)
		pass(time.Minute)
		s.endOf(1, io.EOF)
		pass(time.Second)
		if got := s.alive(); !slices.Equal(got, []int{10, 3}) || s.streams[0].over() {
			t.Errorf("streams with %v subscriptions are open", got)
		}
	})
}

func TestWhoLeavesStaysOnItsStreamAndIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		list := a.join(numbers(0, 20)...)
		pass(time.Minute)
		for _, m := range list[:10] {
			m.Leave()
		}
		pass(time.Minute)
		s.tell(list[0].address, "new")
		synctest.Wait()
		if n := len(s.made("Stream")) + len(s.made("Unsubscribe")); n != 1 || len(list[0].told()) > 0 {
			t.Errorf("%d streams and calls; told of %v", n, list[0].told())
		}
		s.cut(io.EOF)
		pass(time.Second)
		if got := s.alive(); !slices.Equal(got, []int{10}) || len(s.made("Unsubscribe")) != 10 {
			t.Errorf("streams with %v subscriptions are open, %d were given back", got, len(s.made("Unsubscribe")))
		}
	})
}

func TestWhoComesAndGoesAllTheTimeHasTwoSubscriptionsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(bob)
		m := a.join(alice)[0]
		pass(time.Minute)
		for range 30 {
			m.Leave()
			pass(time.Second)
			m.Join(here(alice))
			pass(time.Minute)
			n := 0
			s.set(func() {
				for _, q := range s.queues {
					if q.mailbox == alice {
						n++
					}
				}
			})
			if n > 2 {
				t.Fatalf("%d subscriptions", n)
			}
			if !m.listens() {
				t.Fatal("it is not listened to")
			}
		}
	})
}

func TestABadIDHasOnlyItsOwnStreamFollowedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		large := a.join(numbers(0, 10)...)
		pass(time.Minute)
		small := a.join(numbers(10, 13)...)
		pass(time.Minute)
		s.forget(small[0].address)
		pass(time.Minute)
		if s.streams[0].over() || large[0].listings() != 1 {
			t.Errorf("the large stream was ended, its members listed %d times", large[0].listings())
		}
		if !small[0].listens() || !small[1].listens() {
			t.Error("those of the small one are not listened to")
		}
	})
}

func TestAStreamThatOtherProgramsTakeOverIsNotTakenForOneOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 200)
		a.join(numbers(0, 10)...)
		pass(time.Minute)
		small := a.join(numbers(10, 13)...)
		pass(time.Minute)
		s.endOf(1, &fault.Error{Op: "GetStreamingEvents", Code: "superseded", Scope: fault.Group, Remedy: fault.Wait, Missed: true, Superseded: true})
		pass(10 * time.Second)
		if small[0].listings() != 2 {
			t.Errorf("listed %d times", small[0].listings())
		}
	})
}

func TestGroupsStartOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		var next time.Time
		s.set(func() { // 100 a second
			s.wait = func(_ context.Context, c call) error {
				if c.op == "Subscribe" {
					s.mu.Lock()
					if next.Before(time.Now()) {
						next = time.Now()
					}
					next = next.Add(10 * time.Millisecond)
					wait := time.Until(next)
					s.mu.Unlock()
					<-time.After(wait)
				}
				return nil
			}
		})
		const size, groups = 100, 8
		began := time.Now()
		list := newAccount(t, s, size).join(numbers(0, size*groups)...)
		listening := func() (n int) {
			for _, m := range list {
				if m.listens() {
					n++
				}
			}
			return n
		}
		for second := 3; second <= groups; second++ {
			pass(time.Until(began.Add(time.Duration(second) * time.Second)))
			if n, least := listening(), (second-2)*size; n < least {
				t.Errorf("after %d s %d are listened to, want %d", second, n, least)
			}
		}
		pass(3 * time.Second)
		if n := len(s.made("Stream")); n != groups || listening() != size*groups {
			t.Errorf("%d streams were opened, %d are listened to", n, listening())
		}
	})
}

func TestGroupsWhoseMembersHangKeepTheOthersWaitingForSecondsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Subscribe" && c.url != here("").URL {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		a := newAccount(t, s, 200)
		for i := range 10 {
			m, at := a.mailbox(numbered(i)), here(numbered(i))
			at.URL = fmt.Sprint("https://sick", i, ".example")
			m.Join(at)
		}
		m := a.join(alice)[0]
		pass(10 * stalled)
		if !m.listens() {
			t.Error("it waits for those that hang")
		}
	})
}

// A group that waits for its turn, and has nobody to subscribe any more, kept all others of the exchange entry waiting for as long as the
// server took for a subscription that it was given back.
func TestAGroupThatHasNobodyToSubscribeAnyMoreLetsTheOthersHaveTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.wait = func(ctx context.Context, c call) error {
			if c.op == "Unsubscribe" || strings.Contains(c.url, "sick") {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		a := newAccount(t, s, 200)
		at := func(host, address string) *mail.Location {
			l := here(address)
			l.URL = "https://" + host + ".example"
			return l
		}
		m := a.mailbox(bob)
		m.Join(at("old", bob))
		pass(time.Second)
		m.Leave()
		pass(time.Second)
		if len(s.made("Unsubscribe")) != 1 {
			t.Fatal("nothing is given back")
		}
		for i := range atOnce {
			a.mailbox(numbered(i)).Join(at(fmt.Sprint("sick", i), numbered(i)))
		}
		pass(2 * settle)
		y := a.mailbox(carol)
		y.Join(at("old", carol))
		pass(2 * settle)
		y.Leave()
		pass(2 * settle)
		last := a.join(alice)[0]
		pass(3 * stalled)
		if !last.listens() {
			t.Error("it waits for a group that has nobody to subscribe")
		}
	})
}

func TestGroupsThatFitIntoOneBecomeOneWhenAStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		a := newAccount(t, s, 10)
		list := a.join(numbers(0, 40)...)
		pass(time.Minute)
		var stay []*mailbox
		for i, m := range list {
			if i%4 == 0 {
				stay = append(stay, m)
			} else {
				m.Leave()
			}
		}
		pass(time.Minute)
		for range 4 {
			s.cut(io.EOF)
			pass(time.Minute)
		}
		if got := s.alive(); len(got) != 1 || got[0] != 10 || a.Open() != 1 {
			t.Errorf("streams with %v subscriptions are open", got)
		}
		for _, m := range stay {
			s.tell(m.address, "new")
			synctest.Wait()
			if m.listings() != 1 || !m.listens() || !slices.Equal(m.told(), []string{"new"}) {
				t.Errorf("%s: listed %d times, told of %v", m.address, m.listings(), m.told())
			}
		}
		if n := len(s.made("Subscribe")); n != 40 {
			t.Errorf("%d subscriptions were made", n)
		}
	})
}
