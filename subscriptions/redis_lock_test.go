package subscriptions_test

// Who holds the state in a Redis, and who waits for it.

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/subscriptions"
)

func (s *server) connect(t *testing.T) *subscriptions.Redis {
	t.Helper()
	r, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func (s *server) client(t *testing.T) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.address, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAStandbyIsToldOnceAndTakesOverWhenTheFirstEnds(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	first, second := s.open(t), s.connect(t)
	if err := second.Held(); err == nil {
		t.Error("it holds what the first holds")
	}
	var told atomic.Int32
	held := make(chan error, 1)
	go func() {
		held <- second.Hold(t.Context(), func(behind string, err error) {
			told.Add(1)
			if behind == "" || err != nil {
				t.Errorf("behind %q: %v", behind, err)
			}
		})
	}()
	select {
	case err := <-held:
		t.Fatalf("it holds what the first holds: %v", err)
	case <-time.After(2500 * time.Millisecond): // it has looked twice
	}
	first.Close()
	select {
	case err := <-held:
		if err != nil || second.Held() != nil {
			t.Error(err, second.Held())
		}
	case <-time.After(5 * time.Second):
		t.Error("a lock that was given back is waited for")
	}
	if told.Load() != 1 {
		t.Errorf("told %d times behind whom it stands", told.Load())
	}
}

func TestAStandbyIsToldThatRedisDoesNotAnswer(t *testing.T) {
	s := startRedis(t)
	r := s.connect(t)
	s.kill()
	ctx, cancel := context.WithCancel(t.Context())
	err := r.Hold(ctx, func(behind string, err error) {
		if behind != "" || err == nil {
			t.Errorf("behind %q: %v", behind, err)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestALockIsRenewedAndTellsOfNoRestartThatWasNone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	r := s.open(t)
	t.Cleanup(func() { r.Close() })
	before := r.Kept()
	until(t, 10*time.Second, "the lock is renewed", func() bool { return r.Kept().After(before) })
	c := s.client(t)
	if left := c.PTTL(t.Context(), "mailbell:lock").Val(); left < 9*time.Second || left > 10*time.Second {
		t.Errorf("it lives %v more", left)
	}
	select {
	case <-r.Restarted():
		t.Error("the server was not started anew")
	case <-r.Lost():
		t.Error("nobody followed")
	default:
	}
}

func TestAnInstanceThatWasFollowedLearnsOfItWithoutAWrite(t *testing.T) {
	t.Parallel()
	_, first, _, second := followed(t)
	defer second.Close()
	kept := first.Kept()
	select {
	case <-first.Lost():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not know that it was followed")
	}
	if first.Kept() != kept {
		t.Error("a lock of another was taken for renewed")
	}
}

func TestAnOutageDoesNotRenewTheLock(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	r := s.open(t)
	t.Cleanup(func() { r.Close() })
	kept := r.Kept()
	s.kill()
	<-time.After(3500 * time.Millisecond)
	if r.Kept() != kept {
		t.Error("the lock was renewed at a server that is away")
	}
	s.start()
	until(t, 10*time.Second, "the lock is renewed", func() bool { return r.Kept().After(kept) })
}

func TestALockThatCannotBeReadIsWaitedFor(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	c.Set(t.Context(), "mailbell:lock", "not one of ours", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.connect(t).Hold(ctx, func(behind string, err error) { t.Errorf("behind %q: %v", behind, err) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestADamagedStateInRedisIsNamedAndNotStartedFrom(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	r := s.open(t)
	defer r.Close()
	for _, damage := range []struct {
		do   func() error
		says string
	}{
		{func() error { return c.Set(t.Context(), "mailbell:secret", "short", 0).Err() }, "secret"},
		{func() error { return c.SAdd(t.Context(), "mailbell:records", "r1").Err() }, ""}, // dropped, and its id not taken out
		{func() error {
			c.SAdd(t.Context(), "mailbell:records", "r1")
			return c.Set(t.Context(), "mailbell:{r1}:record", "{", 0).Err()
		}, `record "r1"`},
		{func() error {
			c.SAdd(t.Context(), "mailbell:records", "r1")
			c.Set(t.Context(), "mailbell:{r1}:record", `{"id":"r1"}`, 0)
			return c.HSet(t.Context(), "mailbell:{r1}:devices", "d1", "[]").Err()
		}, `a device of record "r1"`},
	} {
		c.Del(t.Context(), "mailbell:secret")
		if err := damage.do(); err != nil {
			t.Fatal(err)
		}
		all, err := r.Load(t.Context())
		if (err == nil) != (damage.says == "") || err != nil && !strings.Contains(err.Error(), damage.says) {
			t.Errorf("error %v; want one that says %q", err, damage.says)
		}
		if err == nil && (len(all.Records) != 0 || c.SCard(t.Context(), "mailbell:records").Val() != 0) {
			t.Errorf("%d records of one that was dropped", len(all.Records))
		}
	}
}

func TestAReplicaIsRefused(t *testing.T) {
	s := startRedis(t, "--replicaof", "127.0.0.1 1")
	_, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if !errors.Is(err, subscriptions.ErrRedis) || !strings.Contains(err.Error(), "replica") {
		t.Errorf("error %v", err)
	}
}

func TestARedisThatKeepsWhatItIsGivenIsNotWarnedOf(t *testing.T) {
	s := startRedis(t)
	r, warnings, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	r.Close()
	if err := r.Ping(t.Context()); err == nil {
		t.Error("a closed store answers")
	}
}

// A device that changes its mailbox is in one of the two, whatever happens: what concerns several records is written as one.
func TestADeviceThatMovesIsWrittenAsOneChange(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	b, err := subscriptions.Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", alice, "bb")
	enrol(t, b, "d1", bob, "aa")
	left, moved := b.Mailbox(alice).Record().ID, b.Mailbox(bob).Record().ID
	c := s.client(t)
	if got := c.HKeys(t.Context(), "mailbell:{"+left+"}:devices").Val(); len(got) != 1 || got[0] != "d2" {
		t.Errorf("the mailbox that it left has %v", got)
	}
	if got := c.HKeys(t.Context(), "mailbell:{"+moved+"}:devices").Val(); len(got) != 1 || got[0] != "d1" {
		t.Errorf("the one that it went to has %v", got)
	}
	if _, _, err := b.Remove(t.Context(), "d2"); err != nil {
		t.Fatal(err)
	}
	if err := b.Bury(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := c.Exists(t.Context(), "mailbell:{"+left+"}:record", "mailbell:{"+left+"}:devices", "mailbell:{"+left+"}:fence").Val(); n != 0 {
		t.Errorf("%d keys of a record are left that was asleep for an hour", n)
	}
	enrol(t, b, "d2", alice, "bb")
	r.Close()
	again := s.open(t)
	defer again.Close()
	if b, err = subscriptions.Open(t.Context(), again); err != nil || len(b.Mailboxes()) != 2 {
		t.Errorf("%v: %d mailboxes", err, len(b.Mailboxes()))
	}
}
