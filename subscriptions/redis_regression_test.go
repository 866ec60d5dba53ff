package subscriptions_test

// What once went wrong, and must not again.

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// A removal that a followed instance tries is refused as a whole.
func TestARefusedRemovalOfAFollowedInstanceLeavesTheRecordWhereItIs(t *testing.T) {
	t.Parallel()
	s, _, b, second := followed(t)
	if _, _, err := b.Remove(t.Context(), "d1"); !errors.Is(err, subscriptions.ErrFollowed) {
		t.Fatalf("%v", err)
	}
	second.Close()
	third := s.open(t)
	defer third.Close()
	if b, err := subscriptions.Open(t.Context(), third); err != nil || b.Mailbox(alice) == nil {
		t.Errorf("%v: a removal that was refused has lost the mailbox with all its devices", err)
	}
}

func TestAFollowedInstanceEnrolsNobody(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	first := s.open(t)
	defer first.Close()
	b := openBook(t, first)
	second := s.follow(t)
	defer second.Close()
	if _, err := subscriptions.Open(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "aa"}, time.Now(), time.Now()); err == nil {
		t.Error("it was enrolled where nobody alerts it")
	}
}

// An enrolment whose answer Redis could not give is made again by the portal.
func TestAnEnrolmentWhoseAnswerWasLostIsThereOnce(t *testing.T) {
	s := startRedis(t)
	var cut atomic.Bool
	proxy := answersCut(t, s.address, &cut)
	store, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: proxy, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Hold(t.Context(), func(string, error) {}); err != nil {
		t.Fatal(err)
	}
	b := openBook(t, store)
	cut.Store(true)
	e := subscriptions.Enrolment{ID: "d1", Mailbox: alice, Token: "aa"}
	if _, err := b.Enrol(t.Context(), e, time.Now(), time.Now()); err == nil {
		t.Fatal("it has an answer")
	}
	cut.Store(false)
	until(t, 10*time.Second, "the portal's second try", func() bool {
		_, err := b.Enrol(t.Context(), e, time.Now(), time.Now())
		return err == nil
	})
	store.Close()
	again := s.open(t)
	defer again.Close()
	b = openBook(t, again)
	if n := len(b.Mailboxes()); n != 1 {
		t.Errorf("%d mailboxes alert the one device", n)
	}
	_, _, _ = b.Remove(t.Context(), "d1")
	if n := len(b.Mailboxes()); n != 0 {
		t.Errorf("the device was removed, and %d mailboxes alert it", n)
	}
}

// The process is killed, or the answer lost, between the drop of a record and what came after it: the next start said that its keys are gone.
func TestADropWhoseAnswerIsLostLeavesNothing(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	var cut atomic.Bool
	store, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: answersCut(t, s.address, &cut), Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Hold(t.Context(), func(string, error) {}); err != nil {
		t.Fatal(err)
	}
	contents(t, store)
	r := &subscriptions.Record{ID: "r1", Addresses: []string{"ann@contoso.example"}}
	if err := store.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{r}}); err != nil {
		t.Fatal(err)
	}
	cut.Store(true)
	if err := store.Write(t.Context(), subscriptions.Change{Drop: []string{"r1"}}); err == nil {
		t.Error("its answer was not lost")
	}
	if ids := s.client(t).SMembers(t.Context(), "mailbell:records").Val(); len(ids) > 0 {
		t.Errorf("%q is still among the records", ids)
	}
}

// answersCut passes bytes on to an address; while cut is set, each connection ends with the first answer.
func answersCut(t *testing.T, to string, cut *atomic.Bool) string {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", to)
			if err != nil {
				c.Close()
				return
			}
			go func() { _, _ = io.Copy(up, c); up.Close() }()
			go func() {
				defer c.Close()
				defer up.Close()
				buf := make([]byte, 1<<16)
				for {
					n, err := up.Read(buf)
					if err != nil || cut.Load() {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
