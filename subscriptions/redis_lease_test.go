package subscriptions_test

// Who holds the state in a Redis, and who waits for it.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/subscriptions"
)

// connect opens a store that the caller closes.
func (s *server) connect(t *testing.T) *subscriptions.Redis {
	t.Helper()
	r, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
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
	t.Cleanup(func() { second.Close() })
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
	case <-time.After(atOnce):
		t.Error("a lock that was given back is waited for")
	}
	if told.Load() != 1 {
		t.Errorf("told %d times behind whom it stands", told.Load())
	}
}

func TestAStandbyIsToldThatRedisDoesNotAnswer(t *testing.T) {
	s := startRedis(t)
	r := s.connect(t)
	t.Cleanup(func() { r.Close() })
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

func TestALockIsRenewedAndTellsOfNoLossThatWasNone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	r := s.open(t)
	t.Cleanup(func() { r.Close() })
	before := r.Kept()
	c := s.client(t)
	left := c.PTTL(t.Context(), "mailbell:lock").Val()
	until(t, 10*time.Second, "the lock is renewed", func() bool { return r.Kept().After(before) })
	until(t, 10*time.Second, "it lives longer", func() bool {
		was := left
		left = c.PTTL(t.Context(), "mailbell:lock").Val()
		return left > was
	})
	if left > lease {
		t.Errorf("it lives %v more", left)
	}
	select {
	case <-r.Lossy():
		t.Error("the server has lost nothing")
	case <-r.Lost():
		t.Error("nobody followed")
	default:
	}
}

func TestAnInstanceThatWasFollowedLearnsOfItWithoutAWrite(t *testing.T) {
	t.Parallel()
	_, first, _, second := followed(t)
	defer second.Close()
	select {
	case <-first.Lost():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not know that it was followed")
	}
	if err := first.Held(); !errors.Is(err, subscriptions.ErrFollowed) {
		t.Errorf("what it holds is another's: %v", err)
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
	r := s.connect(t)
	t.Cleanup(func() { r.Close() })
	if err := r.Hold(ctx, func(behind string, err error) { t.Errorf("behind %q: %v", behind, err) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
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
	b := openBook(t, r)
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
	if n := len(openBook(t, again).Mailboxes()); n != 2 {
		t.Errorf("%d mailboxes", n)
	}
}

// standby has another instance wait for the state; the error of its Hold comes once it has ended. The caller closes it.
func (s *server) standby(t *testing.T) (*subscriptions.Redis, <-chan error, *behinds) {
	t.Helper()
	r, told, held := s.connect(t), &behinds{}, make(chan error, 1)
	go func() { held <- r.Hold(t.Context(), told.note) }()
	return r, held, told
}

// follow has another instance take the state over, as if the lease had run out while its holder was stopped, and keys had been lost.
func (s *server) follow(t *testing.T, lost ...string) *subscriptions.Redis {
	t.Helper()
	r, held, _ := s.standby(t)
	c := s.client(t)
	holder := c.Get(t.Context(), "mailbell:lock").Val()
	for {
		if c.Get(t.Context(), "mailbell:lock").Val() == holder {
			c.Set(t.Context(), "mailbell:until", "0", 0)
			c.Del(t.Context(), append(lost, "mailbell:lock")...)
		}
		select {
		case err := <-held:
			if err != nil {
				t.Fatal(err)
			}
			return r
		case <-time.After(10 * time.Millisecond): // the holder may have renewed it
		}
	}
}

// Who is followed learns of it by its next write, also before the other has read the record; and that writes nothing, of no mailbox.
func TestAFollowedInstanceWritesNothingOfAChangeOfTwoMailboxes(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]string{"to one that is known": bob, "to a new one": "carol@contoso.example"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			first := s.open(t)
			t.Cleanup(func() { first.Close() })
			b := openBook(t, first)
			enrol(t, b, "d1", alice, "aa")
			enrol(t, b, "d2", bob, "bb")
			second := s.follow(t)
			t.Cleanup(func() { second.Close() })
			_, err := b.Enrol(t.Context(), subscriptions.Enrolment{ID: "d1", Mailbox: to, Token: "aa"}, time.Now(), time.Now())
			if !errors.Is(err, subscriptions.ErrFollowed) {
				t.Errorf("the move has the answer %v", err)
			}
			all := contents(t, second)
			if len(all.Devices) != 2 || all.Devices[0].Mailbox != alice || len(all.Records) != 2 || len(all.Damaged) != 0 {
				t.Errorf("its follower finds the devices %v, %d records and the damages %v", all.Devices, len(all.Records), all.Damaged)
			}
		})
	}
}

// Were the number of the new holder not above that of the one before, both would write.
func TestAFollowedInstanceWritesNothingAlsoWhereRedisHasLostWhoHeldIt(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	first := s.open(t)
	t.Cleanup(func() { first.Close() })
	b := openBook(t, first)
	enrol(t, b, "d1", alice, "aa")
	second := s.follow(t, "mailbell:holders")
	t.Cleanup(func() { second.Close() })
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); !errors.Is(err, subscriptions.ErrFollowed) {
		t.Errorf("the write has the answer %v", err)
	}
	if all := contents(t, second); len(all.Records) != 1 || all.Records[0].Listed == 7 {
		t.Errorf("its follower finds %v", all.Records)
	}
}

func TestAStateThatHasLostWhoHeldItIsTakenOverAtOnce(t *testing.T) {
	t.Parallel()
	for name, number := range map[string]string{"many have held it": "57", "the clock of the server was ahead": "4102444800000"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			c := s.client(t)
			c.Set(t.Context(), "mailbell:holders", number, 0)
			c.Set(t.Context(), "mailbell:until", "0", 0)
			first := s.open(t)
			enrol(t, openBook(t, first), "d1", alice, "aa")
			first.Close()
			c.Del(t.Context(), "mailbell:holders")
			again := s.open(t)
			t.Cleanup(func() { again.Close() })
			b := openBook(t, again)
			if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); err != nil {
				t.Errorf("the state is nobody else's: %v", err)
			}
		})
	}
}

// It was stopped in the middle of its start, and another has begun the state meanwhile.
func TestAFollowedInstanceWritesNoSecretOverThatOfItsFollower(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	first := s.open(t)
	t.Cleanup(func() { first.Close() })
	asks, goOn := first.StopAt("get")
	loaded := make(chan error, 1)
	go func() {
		_, err := first.Load(context.Background())
		loaded <- err
	}()
	<-asks
	second := s.follow(t)
	t.Cleanup(func() { second.Close() })
	secret := openBook(t, second).Secret()
	close(goOn)
	if err := <-loaded; !errors.Is(err, subscriptions.ErrFollowed) {
		t.Errorf("its start has the answer %v", err)
	}
	if contents(t, second).Secret != secret {
		t.Error("the secret is that of the one that was followed")
	}
}

// The keys of a record that its new holder has dropped have no number of that holder any more.
func TestAFollowedInstanceBringsNoRecordBack(t *testing.T) {
	t.Parallel()
	s, _, b, second := followed(t)
	defer second.Close()
	b2 := openBook(t, second)
	if _, _, err := b2.Remove(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	if err := b2.Bury(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); !errors.Is(err, subscriptions.ErrFollowed) {
		t.Errorf("the write has the answer %v", err)
	}
	if keys := s.client(t).Keys(t.Context(), "mailbell:{*").Val(); len(keys) != 0 {
		t.Errorf("the new holder knows of no mailbox, and there is %v", keys)
	}
}

// behinds are those behind whom a standby was told to wait.
type behinds struct {
	mu   sync.Mutex
	list []string
}

func (b *behinds) note(behind string, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, behind)
}

func (b *behinds) last() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) == 0 {
		return ""
	}
	return b.list[len(b.list)-1]
}

func TestALeaseThatRedisLostIsWaitedForAndItsHolderHasItBack(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*redis.Client) error{
		"the lock alone": func(c *redis.Client) error { return c.Del(context.Background(), "mailbell:lock").Err() },
		"lock and its end": func(c *redis.Client) error {
			return c.Del(context.Background(), "mailbell:lock", "mailbell:until").Err()
		},
		"everything": func(c *redis.Client) error { return c.FlushAll(context.Background()).Err() },
		"an older lock end": func(c *redis.Client) error {
			c.Set(context.Background(), "mailbell:until", "1700000000000", 0)
			return c.Del(context.Background(), "mailbell:lock").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			first := s.open(t)
			t.Cleanup(func() { first.Close() })
			c := s.client(t)
			second, held, told := s.standby(t)
			t.Cleanup(func() { second.Close() })
			until(t, 5*time.Second, "it stands by", func() bool { return strings.HasPrefix(told.last(), "process ") })
			for range 3 {
				if err := lose(c); err != nil {
					t.Fatal(err)
				}
				until(t, 5*time.Second, "the holder has its lease back", func() bool { return c.Exists(t.Context(), "mailbell:lock").Val() == 1 })
				<-time.After(1200 * time.Millisecond) // the standby has looked
			}
			stillHolds(t, first, held)
		})
	}
}

// How long a takeover takes. A machine that has other things to do makes it longer: that it is not too short is exact, and that it is not too
// long means that no lease was waited for, or not a second one.
const (
	lease    = 10 * time.Second
	rounding = 100 * time.Millisecond
	atOnce   = lease / 2
	oneLease = 2 * lease
)

// waiting is for what a standby waits.
type waiting int

const (
	not waiting = iota
	untilItsEnd
	forALease
)

// The holder believes in its lease, and Redis has lost it: whoever follows at once would send what the holder sends.
func TestALeaseThatIsGoneIsWaitedForAsLongAsItCouldBeBelieved(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lose func(*redis.Client) // while nobody renews it
		sees bool                // the standby has seen the lease before
		wait waiting
	}{
		"its end is known": {func(c *redis.Client) { c.Del(context.Background(), "mailbell:lock") }, false, untilItsEnd},
		"nothing is known": {func(c *redis.Client) { c.Del(context.Background(), "mailbell:lock", "mailbell:until") }, false, forALease},
		"only the state is there": {func(c *redis.Client) {
			c.FlushAll(context.Background())
			c.Set(context.Background(), "mailbell:secret", "of the installation", 0)
		}, false, forALease},
		"the standby knows": {func(c *redis.Client) { c.FlushAll(context.Background()) }, true, untilItsEnd},
		"its end is said to be next year": {func(c *redis.Client) {
			c.Set(context.Background(), "mailbell:until", time.Now().AddDate(1, 0, 0).UnixMilli(), 0)
			c.Del(context.Background(), "mailbell:lock")
		}, false, forALease},
		"it was given back": {func(c *redis.Client) {
			c.Set(context.Background(), "mailbell:until", "0", 0)
			c.Del(context.Background(), "mailbell:lock")
		}, true, not},
		"it ran out": {func(c *redis.Client) {
			c.Set(context.Background(), "mailbell:until", time.Now().Add(-time.Second).UnixMilli(), 0)
			c.Del(context.Background(), "mailbell:lock")
		}, false, not},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			first := s.open(t)
			c := s.client(t)
			first.Crash()
			var second *subscriptions.Redis
			var held <-chan error
			if test.sees {
				var told *behinds
				second, held, told = s.standby(t)
				until(t, 5*time.Second, "it stands by", func() bool { return told.last() != "" })
			}
			end, err := c.Get(t.Context(), "mailbell:until").Int64()
			if err != nil {
				t.Fatal(err)
			}
			test.lose(c)
			lost := time.Now()
			if !test.sees {
				second, held, _ = s.standby(t)
			}
			t.Cleanup(func() { second.Close() })
			if err := <-held; err != nil {
				t.Fatal(err)
			}
			took, early, most := time.Since(lost), false, oneLease
			switch test.wait {
			case not:
				most = atOnce
			case untilItsEnd:
				early = time.Now().Before(time.UnixMilli(end).Add(-rounding))
			case forALease:
				early = took < lease-rounding
			}
			if early || took > most {
				t.Errorf("it took over after %v, before the end of the lease: %t", took, early)
			}
		})
	}
}

// The holder has all of the state in memory, and Redis may have come back with less, or with nothing.
func TestARedisThatWasAwayForLongerThanALeaseIsItsHoldersFirst(t *testing.T) {
	t.Parallel()
	for name, persistence := range map[string]string{"it comes back empty": "no", "it comes back as it was": "yes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t, "--appendonly", persistence)
			first := s.open(t)
			second, held, told := s.standby(t)
			t.Cleanup(func() { second.Close() })
			until(t, 5*time.Second, "it stands by", func() bool { return strings.HasPrefix(told.last(), "process ") })
			s.kill()
			first.Crash() // what it could have done within a lease
			<-time.After(11 * time.Second)
			back := time.Now()
			s.start()
			if err := <-held; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(back); took < lease-rounding || took > oneLease {
				t.Errorf("it took over after %v; want a lease, in which the holder comes first", took)
			}
		})
	}
}

// It is started while Redis is away, or reads its file: it has never seen the holder that has all of the state in memory.
func TestAStandbyThatWasStartedWhileRedisWasAwayLetsTheHolderComeFirst(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--appendonly", "no")
	second := s.connect(t)
	t.Cleanup(func() { second.Close() })
	s.kill()
	held, away := make(chan error, 1), make(chan struct{})
	noted := sync.OnceFunc(func() { close(away) })
	go func() { held <- second.Hold(t.Context(), func(string, error) { noted() }) }()
	<-away
	back := time.Now()
	s.start()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(back); took < lease-rounding || took > oneLease {
		t.Errorf("it took the state after %v; want a lease, in which the holder comes first", took)
	}
}

// A lock may have lost its end, with a copy that was restored, or have one that is far away: the clock of the server was set back.
// It finds nothing: neither the lease nor a state. Were it to begin a new one, every device would have to be enrolled again.
func TestAnInstanceThatIsStartedJustWhenRedisHasLostEverythingLetsTheHolderComeFirst(t *testing.T) {
	t.Parallel()
	for i := range 3 { // at other moments between two renewals
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			first := s.open(t)
			t.Cleanup(func() { first.Close() })
			enrol(t, openBook(t, first), "d1", alice, "aa")
			c := s.client(t)
			second := s.connect(t)
			t.Cleanup(func() { second.Close() })
			kept := first.Kept()
			until(t, 10*time.Second, "the lease is renewed", func() bool { return first.Kept().After(kept) })
			<-time.After(time.Duration(i) * 100 * time.Millisecond)
			if err := c.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			told, held := &behinds{}, make(chan error, 1)
			go func() { held <- second.Hold(t.Context(), told.note) }()
			until(t, 10*time.Second, "it stands by", func() bool { return strings.HasPrefix(told.last(), "process ") || len(held) > 0 })
			stillHolds(t, first, held)
		})
	}
}

func TestALockWithoutAnEndIsWaitedForAsLongAsALease(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]time.Duration{"it has none": 0, "it is far away": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			s.client(t).Set(t.Context(), "mailbell:lock", `{"host":"gone","pid":7}`, end)
			began := time.Now()
			r, held, told := s.standby(t)
			t.Cleanup(func() { r.Close() })
			select {
			case err := <-held:
				if took := time.Since(began); err != nil || took < lease-rounding || !strings.HasPrefix(told.last(), "process 7 on gone") {
					t.Errorf("after %v, behind %q: %v", took, told.last(), err)
				}
			case <-time.After(oneLease):
				t.Error("it waits without an end")
			}
		})
	}
}

func TestARedisThatIsNewIsNotWaitedFor(t *testing.T) {
	s := startRedis(t)
	s.client(t).FlushAll(t.Context())
	began := time.Now()
	s.open(t).Close()
	if took := time.Since(began); took > atOnce {
		t.Errorf("after %v", took)
	}
}

// The answer that the lease was taken may be lost: who asks again has it already.
func TestALeaseWhoseAnswerWasLostIsTakenAgainByTheSame(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	var cut atomic.Bool
	r, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: answersCut(t, s.address, &cut), Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cut.Store(true)
	c := s.client(t)
	began, number := time.Now(), ""
	lost := func(string, error) { number = c.Get(t.Context(), "mailbell:holders").Val(); cut.Store(false) }
	if err := r.Hold(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > atOnce {
		t.Errorf("it waited for itself for %v", took)
	}
	if n := c.Get(t.Context(), "mailbell:holders").Val(); number == "" || n != number {
		t.Errorf("its number was %q, and is %q", number, n)
	}
}

func TestNothingIsHeldWhileRedisHangsAndItIsAgainAfterwards(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	r := s.open(t)
	t.Cleanup(func() { r.Close() })
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until(t, 5*time.Second, "nothing begins any more", func() bool { return r.Held() != nil })
	if took := time.Since(began); took > lease/3 { // by then it would not be believed either
		t.Errorf("it went on for %v", took)
	}
	<-time.After(3 * time.Second)
	if r.Held() == nil {
		t.Error("it is held, and Redis hangs")
	}
	if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, 5*time.Second, "it is held again", func() bool { return r.Held() == nil })
}

func TestWhoGaveTheLeaseBackHoldsNothing(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	if err := r.Held(); err != nil {
		t.Error(err)
	}
	r.Close()
	if err := r.Held(); err == nil {
		t.Error("it is closed")
	}
	if got := s.client(t).Get(t.Context(), "mailbell:until").Val(); got != "0" {
		t.Errorf("until %q", got)
	}
}

// stillHolds checks that a store holds the state, and that nobody has followed it: held is where another one tells.
func stillHolds(t *testing.T, first *subscriptions.Redis, held <-chan error) {
	t.Helper()
	select {
	case err := <-held:
		t.Errorf("it took over from one that was there: %v", err)
	case <-first.Lost():
		t.Error("the holder was followed")
	default:
	}
	if err := first.Held(); err != nil {
		t.Error(err)
	}
}
