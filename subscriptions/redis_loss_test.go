package subscriptions_test

// A Redis that has less than it was told, without a restart that mailbell could see.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/subscriptions"
)

// snapshot is all that a Redis holds, to bring it back later.
func snapshot(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	dump := map[string]string{}
	for _, key := range c.Keys(t.Context(), "*").Val() {
		if key != "mailbell:lock" {
			dump[key] = c.Dump(t.Context(), key).Val()
		}
	}
	return dump
}

func contents(t *testing.T, s subscriptions.Store) subscriptions.Contents {
	t.Helper()
	all, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all.Records, func(a, b *subscriptions.Record) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(all.Devices, func(a, b *subscriptions.Device) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func TestWhatRedisHasLostIsWrittenAgainAndSaid(t *testing.T) {
	key := func(c *redis.Client, pattern string) string { return c.Keys(context.Background(), pattern).Val()[0] }
	for name, lose := range map[string]struct {
		do   func(c *redis.Client, before map[string]string) error
		says string
	}{
		"FLUSHALL":         {func(c *redis.Client, _ map[string]string) error { return c.FlushAll(t.Context()).Err() }, "gone"},
		"FLUSHDB":          {func(c *redis.Client, _ map[string]string) error { return c.FlushDB(t.Context()).Err() }, "gone"},
		"another database": {func(c *redis.Client, _ map[string]string) error { return c.Do(t.Context(), "SWAPDB", 0, 1).Err() }, "gone"},
		"a record":         {func(c *redis.Client, _ map[string]string) error { return c.Del(t.Context(), key(c, "*}:record")).Err() }, "}:*"},
		"devices": {func(c *redis.Client, _ map[string]string) error {
			return c.Del(t.Context(), key(c, "*}:devices")).Err()
		}, "}:*"},
		"a fence": {func(c *redis.Client, _ map[string]string) error { return c.Del(t.Context(), key(c, "*}:fence")).Err() }, "}:*"},
		"the ids": {func(c *redis.Client, _ map[string]string) error { return c.Del(t.Context(), "mailbell:records").Err() }, "mailbell:records"},
		"one id":  {func(c *redis.Client, _ map[string]string) error { return c.SPop(t.Context(), "mailbell:records").Err() }, "mailbell:records"},
		"ids of a kind": {func(c *redis.Client, _ map[string]string) error {
			return c.Set(t.Context(), "mailbell:records", "x", 0).Err()
		}, "mailbell:records"},
		"the generation": {func(c *redis.Client, _ map[string]string) error {
			return c.Del(t.Context(), "mailbell:generation").Err()
		}, "gone"},
		"the secret":  {func(c *redis.Client, _ map[string]string) error { return c.Del(t.Context(), "mailbell:secret").Err() }, "gone"},
		"the version": {func(c *redis.Client, _ map[string]string) error { return c.Del(t.Context(), "mailbell:schema").Err() }, "gone"},
		"one device": {func(c *redis.Client, _ map[string]string) error {
			return c.HDel(t.Context(), key(c, "*}:devices"), "d1", "d2").Err()
		}, "}:*"},
		"devices of a kind": {func(c *redis.Client, _ map[string]string) error {
			return c.Set(t.Context(), key(c, "*}:devices"), "x", 0).Err()
		}, "}:*"},
		"all of a kind": {func(c *redis.Client, _ map[string]string) error {
			for _, k := range c.Keys(t.Context(), "*").Val() {
				c.Del(t.Context(), k)
				c.RPush(t.Context(), k, "x")
			}
			return nil
		}, "gone"},
		"what came since": {func(c *redis.Client, before map[string]string) error {
			_, err := c.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
				p.FlushAll(t.Context())
				for k, v := range before {
					p.Restore(t.Context(), k, 0, v)
				}
				return nil
			})
			return err
		}, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			c := s.client(t)
			store := s.open(t)
			b := openBook(t, store)
			enrol(t, b, "gone", "gone@contoso.example", "00")
			enrol(t, b, "d3", bob, "cc")
			before := snapshot(t, c)
			enrol(t, b, "d1", alice, "aa")
			enrol(t, b, "d2", bob, "bb")
			for _, id := range []string{"gone", "d3"} { // what is older knows them still
				if _, _, err := b.Remove(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Mailbox(bob).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 77 }); err != nil {
				t.Fatal(err)
			}
			want := whatItHas(b)
			if err := lose.do(c, before); err != nil {
				t.Fatal(err)
			}
			if why := loss(t, store, 10*time.Second); !strings.Contains(why, lose.says) {
				t.Errorf("the reason is %q; want one that says %q", why, lose.says)
			}
			if err := store.Restore(t.Context(), b.Rewrite); err != nil {
				t.Fatal(err)
			}
			<-time.After(2500 * time.Millisecond) // two renewals
			select {
			case why := <-store.Lossy():
				t.Errorf("it is told again: %s", why)
			case <-store.Lost():
				t.Error("nobody followed")
			default:
			}
			store.Close()
			s.has(t, want)
		})
	}
}

// has says that the next start finds what a book had, and nothing damaged.
func (s *server) has(t *testing.T, want subscriptions.Contents) {
	t.Helper()
	store := s.open(t)
	defer store.Close()
	if diff := cmp.Diff(want, contents(t, store), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the state differs (-want +got):\n%s", diff)
	}
}

// whatItHas is what a book has.
func whatItHas(b *subscriptions.Book) (all subscriptions.Contents) {
	all.Secret = b.Secret()
	for _, m := range b.All() {
		all.Records = append(all.Records, m.Record())
		all.Devices = append(all.Devices, m.Devices()...)
	}
	slices.SortFunc(all.Records, func(a, b *subscriptions.Record) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(all.Devices, func(a, b *subscriptions.Device) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// A write comes between a loss and the next look at what was lost: it must not hide it.
func TestAWriteHidesNoLoss(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(c *redis.Client, before map[string]string) error
		says string
	}{
		"all": {func(c *redis.Client, _ map[string]string) error { return c.FlushAll(t.Context()).Err() }, ""}, // a renewal may be sooner, and sees it otherwise
		"the devices of the mailbox": {func(c *redis.Client, _ map[string]string) error {
			return c.Del(t.Context(), c.Keys(t.Context(), "*}:devices").Val()[0]).Err()
		}, "}:*"},
		"the record of the mailbox": {func(c *redis.Client, _ map[string]string) error {
			return c.Del(t.Context(), c.Keys(t.Context(), "*}:record").Val()[0]).Err()
		}, "}:*"},
		"the number of the last write": {func(c *redis.Client, _ map[string]string) error {
			return c.Del(t.Context(), "mailbell:generation").Err()
		}, "gone"},
		"the last writes": {func(c *redis.Client, before map[string]string) error { return goBack(t, c, before) }, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			store := s.open(t)
			b := openBook(t, store)
			enrol(t, b, "d1", alice, "aa")
			enrol(t, b, "d2", alice, "bb")
			client := s.client(t)
			before := snapshot(t, client)
			listed(t, b, alice, 76)
			if err := c.lose(client, before); err != nil {
				t.Fatal(err)
			}
			listed(t, b, alice, 77)
			select {
			case why := <-store.Lossy():
				if !strings.Contains(why, c.says) {
					t.Errorf("the reason is %q; want one that says %q", why, c.says)
				}
			default:
				t.Fatal("the write has hidden it")
			}
			if err := store.Restore(t.Context(), b.Rewrite); err != nil {
				t.Fatal(err)
			}
			store.Close()
			again := s.open(t)
			defer again.Close()
			if n := len(contents(t, again).Devices); n != 2 {
				t.Errorf("%d devices are there again; want 2", n)
			}
		})
	}
}

// The server has the write that has found the loss, and no look at it would find it once more.
func TestALossThatRedisCouldNotBeToldOfIsNotForgotten(t *testing.T) {
	for name, lose := range map[string]func(c *redis.Client, alices string, before map[string]string) error{
		"the devices of the mailbox": func(c *redis.Client, alices string, _ map[string]string) error {
			return c.Del(t.Context(), "mailbell:{"+alices+"}:devices").Err()
		},
		"the last writes": func(c *redis.Client, _ string, before map[string]string) error { return goBack(t, c, before) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			store := s.open(t)
			b := openBook(t, store)
			enrol(t, b, "d1", alice, "aa")
			enrol(t, b, "d2", bob, "bb")
			client := s.client(t)
			before := snapshot(t, client)
			listed(t, b, bob, 76)
			store.CutOff()
			if err := lose(client, b.Mailbox(alice).Record().ID, before); err != nil {
				t.Fatal(err)
			}
			listed(t, b, alice, 77)
			loss(t, store, 10*time.Second)
			if err := store.Restore(t.Context(), b.Rewrite); err != nil {
				t.Fatal(err)
			}
			want := whatItHas(b)
			store.Close()
			s.has(t, want)
		})
	}
}

func TestALossWhoseAnswerIsLostIsSeenAllTheSame(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	defer store.Close()
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", bob, "bb")
	before := snapshot(t, c)
	listed(t, b, bob, 76)
	store.CutAnswer()
	if err := goBack(t, c, before); err != nil {
		t.Fatal(err)
	}
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 77 }); err == nil {
		t.Error("a write without an answer is confirmed")
	}
	if why := loss(t, store, 10*time.Second); !strings.Contains(why, "older") {
		t.Errorf("the reason is %q", why)
	}
}

func TestAStateThatIsLostAgainJustBeforeItIsWholeIsWrittenOnceMore(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	before := snapshot(t, c)
	listed(t, b, alice, 77)
	c.FlushAll(t.Context())
	loss(t, store, 10*time.Second)
	asks, goOn := store.StopAt("smembers")
	restored := make(chan error, 1)
	go func() { restored <- store.Restore(t.Context(), b.Rewrite) }()
	<-asks
	if err := goBack(t, c, before); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-restored; err != nil {
		t.Fatal(err)
	}
	loss(t, store, 10*time.Second)
	if err := store.Restore(t.Context(), b.Rewrite); err != nil {
		t.Fatal(err)
	}
	store.Close()
	again := s.open(t)
	defer again.Close()
	if all := contents(t, again); len(all.Records) != 1 || all.Records[0].Listed != 77 || len(all.Damaged) != 0 {
		t.Errorf("the records are %v, the damages %v", all.Records, all.Damaged)
	}
}

// goBack has a server go back to a snapshot that has all keys.
func goBack(t *testing.T, c *redis.Client, to map[string]string) error {
	t.Helper()
	_, err := c.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		for k, v := range to {
			p.RestoreReplace(t.Context(), k, 0, v)
		}
		return nil
	})
	return err
}

// listed changes the record of a mailbox.
func listed(t *testing.T, b *subscriptions.Book, address string, n int64) {
	t.Helper()
	if err := b.Mailbox(address).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = n }); err != nil {
		t.Fatal(err)
	}
}

// Nobody could say before that the state is not whole: an end in the middle is to be said by the next start.
func TestWhatIsWrittenAgainIsNotWholeBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	defer store.Close()
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	answered := store.Ask()
	store.CutOff()
	answered("0")
	loss(t, store, time.Second)
	err := store.Restore(t.Context(), func(ctx context.Context) error {
		if n := c.Get(ctx, "mailbell:generation").Val(); n != "0" {
			t.Errorf("the generation is %s: the state is not whole", n)
		}
		return b.Rewrite(ctx)
	})
	if n := c.Get(t.Context(), "mailbell:generation").Val(); err != nil || n == "0" {
		t.Errorf("the generation is %s: the state is whole; %v", n, err)
	}
}

func TestAStateThatIsLostAgainWhileItIsWrittenIsWrittenOnceMore(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	defer store.Close()
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c.FlushAll(t.Context())
	loss(t, store, 10*time.Second)
	err := store.Restore(t.Context(), func(ctx context.Context) error {
		if err := b.Rewrite(ctx); err != nil {
			return err
		}
		c.FlushAll(ctx)
		loss(t, store, 10*time.Second)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Get(t.Context(), "mailbell:generation").Val(); n != "0" {
		t.Errorf("the generation is %s: the state is not whole", n)
	}
	if err := store.Restore(t.Context(), b.Rewrite); err != nil {
		t.Fatal(err)
	}
	if n := c.Exists(t.Context(), "mailbell:{"+b.Mailbox(alice).Record().ID+"}:record").Val(); n != 1 {
		t.Error("what was lost again is not there")
	}
}

// Redis is just back, and a write behind the last one of all fails: what it was about is not what an older state brought back.
func TestAWriteThatFailsWhileAStateIsWrittenAgainTakesNothingAway(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c.FlushAll(t.Context())
	loss(t, store, 10*time.Second)
	listed := func(ctx context.Context, n int64) error {
		return b.Mailbox(alice).Update(ctx, func(d *subscriptions.Draft) { d.Listed = n })
	}
	err := store.Restore(t.Context(), func(ctx context.Context) error {
		if err := b.Rewrite(ctx); err != nil {
			return err
		}
		c.ConfigSet(ctx, "maxmemory", "1")
		if err := listed(ctx, 7); err == nil {
			t.Error("it is written without memory")
		}
		return c.ConfigSet(ctx, "maxmemory", "0").Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := listed(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	store.Close()
	again := s.open(t)
	defer again.Close()
	if all := contents(t, again); len(all.Devices) != 1 || len(all.Records) != 1 || all.Records[0].Listed != 8 || len(all.Damaged) != 0 {
		t.Errorf("there are the devices %v, the records %v, and damages %v", all.Devices, all.Records, all.Damaged)
	}
}

// What was lost is written again from the beginning: an end before the first record leaves a state that looks like an empty one.
func TestAnEndBeforeTheFirstRecordIsWrittenAgainIsSaid(t *testing.T) {
	s := startRedis(t)
	store := s.open(t)
	enrol(t, openBook(t, store), "d1", alice, "aa")
	s.client(t).FlushAll(t.Context())
	loss(t, store, 10*time.Second)
	store.Crash()
	again := s.open(t)
	defer again.Close()
	all := contents(t, again)
	if len(all.Damaged) != 1 || !strings.Contains(all.Damaged[0].Err.Error(), "enrol") {
		t.Errorf("the devices are lost, and the damages are %v", all.Damaged)
	}
	if all := contents(t, again); len(all.Damaged) != 0 {
		t.Errorf("it is told again: %v", all.Damaged)
	}
}

// Redis went back to an older state, and mailbell ended while it was written again: the mailbox that a device has left has it still.
func TestADeviceInTwoMailboxesIsInThatOfItsLastEnrolment(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	key := "mailbell:{" + b.Mailbox(alice).Record().ID + "}:devices"
	before := c.Dump(t.Context(), key).Val()
	moved := subscriptions.Enrolment{ID: "d1", Mailbox: bob, Token: "aa", Topic: "com.contoso.mail", Environment: "production"}
	if _, err := b.Enrol(t.Context(), moved, noon.Add(time.Minute), noon); err != nil {
		t.Fatal(err)
	}
	store.Close()
	if err := c.Restore(t.Context(), key, 0, before).Err(); err != nil {
		t.Fatal(err)
	}
	for _, damages := range []int{1, 0} {
		store = s.open(t)
		b = openBook(t, store)
		if d, _ := b.Device("d1"); d.Mailbox != bob || b.Mailbox(alice) != nil || len(b.Mailbox(bob).Devices()) != 1 || len(b.Damaged()) != damages {
			t.Errorf("it is in %s; %d mailboxes; damages: %v", d.Mailbox, len(b.Mailboxes()), b.Damaged())
		}
		store.Close()
	}
}

func TestAStartFromAStateThatIsNotWholeIsSaid(t *testing.T) {
	for _, generation := range []string{"0", ""} {
		s := startRedis(t)
		c := s.client(t)
		store := s.open(t)
		b := openBook(t, store)
		enrol(t, b, "d1", alice, "aa")
		store.Close()
		if c.Del(t.Context(), "mailbell:generation"); generation != "" {
			c.Set(t.Context(), "mailbell:generation", generation, 0)
		}
		again := s.open(t)
		all := contents(t, again)
		if len(all.Damaged) != 1 || !strings.Contains(all.Damaged[0].Err.Error(), "enrol") || len(all.Devices) != 1 {
			t.Errorf("generation %q: %v", generation, all.Damaged)
		}
		again.Close()
	}
}

func TestAValueInRedisThatCannotBeReadIsSetAsideAndTheOthersGoOn(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	for name, damage := range map[string]struct {
		do               func(ids []string) error // of two records, with a device each
		records, devices int
		says             []string // "N" is the id of the Nth record
	}{
		"cut": {func(ids []string) error {
			return c.Set(t.Context(), "mailbell:{"+ids[0]+"}:record", "2 1234", 0).Err()
		}, 1, 2, []string{`record "0"`}},
		"of another type": {func(ids []string) error {
			c.Del(t.Context(), "mailbell:{"+ids[0]+"}:record")
			return c.RPush(t.Context(), "mailbell:{"+ids[0]+"}:record", "x").Err()
		}, 1, 2, []string{`record "0"`}},
		"all of another type": {func(ids []string) error {
			for _, k := range []string{"record", "devices", "fence"} {
				c.Del(t.Context(), "mailbell:{"+ids[0]+"}:"+k)
				c.SAdd(t.Context(), "mailbell:{"+ids[0]+"}:"+k, "x")
			}
			return nil
		}, 1, 1, []string{`record "0"`, `record "0"`}},
		"a fence that is no number": {func(ids []string) error {
			return c.Set(t.Context(), "mailbell:{"+ids[0]+"}:fence", "x", 0).Err()
		}, 2, 2, nil},
		"two records swapped": {func(ids []string) error {
			return errors.Join(c.Rename(t.Context(), "mailbell:{"+ids[0]+"}:record", "mailbell:x").Err(),
				c.Rename(t.Context(), "mailbell:{"+ids[1]+"}:record", "mailbell:{"+ids[0]+"}:record").Err(),
				c.Rename(t.Context(), "mailbell:x", "mailbell:{"+ids[1]+"}:record").Err())
		}, 0, 2, []string{`record "0"`, `record "1"`}},
		"devices swapped": {func(ids []string) error {
			return errors.Join(c.Rename(t.Context(), "mailbell:{"+ids[0]+"}:devices", "mailbell:x").Err(),
				c.Rename(t.Context(), "mailbell:{"+ids[1]+"}:devices", "mailbell:{"+ids[0]+"}:devices").Err(),
				c.Rename(t.Context(), "mailbell:x", "mailbell:{"+ids[1]+"}:devices").Err())
		}, 2, 0, []string{`device "d0"`, `device "d1"`}},
		"a device": {func(ids []string) error {
			return c.HSet(t.Context(), "mailbell:{"+ids[0]+"}:devices", "d0", strings.Repeat("[", 1<<20)).Err()
		}, 2, 1, []string{`device "d0"`}},
		"one that is gone": {func(ids []string) error {
			return c.Del(t.Context(), "mailbell:{"+ids[0]+"}:record", "mailbell:{"+ids[0]+"}:devices", "mailbell:{"+ids[0]+"}:fence").Err()
		}, 1, 1, []string{`record "0"`}},
	} {
		c.FlushAll(t.Context())
		store := s.open(t)
		b := openBook(t, store)
		enrol(t, b, "d0", alice, "aa")
		enrol(t, b, "d1", bob, "bb")
		ids := []string{b.Mailbox(alice).Record().ID, b.Mailbox(bob).Record().ID}
		store.Close()
		if err := damage.do(ids); err != nil {
			t.Fatal(err)
		}
		again := s.open(t)
		all := contents(t, again)
		var said []string
		for _, d := range all.Damaged {
			said = append(said, strings.NewReplacer(ids[0], "0", ids[1], "1").Replace(d.What))
			if kept, ok := strings.CutPrefix(d.Kept, "key "); ok && c.Exists(t.Context(), kept).Val() != 1 {
				t.Errorf("%s: %s is not there", name, d.Kept)
			}
		}
		slices.Sort(said)
		if diff := cmp.Diff(damage.says, said); diff != "" || len(all.Records) != damage.records || len(all.Devices) != damage.devices {
			t.Errorf("%s: %d records and %d devices, want %d and %d; told (-want +got):\n%s", name, len(all.Records), len(all.Devices), damage.records, damage.devices, diff)
		}
		if all := contents(t, again); len(all.Damaged) != 0 {
			t.Errorf("%s: it is told again: %v", name, all.Damaged)
		}
		again.Close()
	}
}

func TestAStateInRedisWithoutItsSecretOrOfAnotherVersionIsRefused(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	for name, damage := range map[string]struct {
		do   func() error
		want error
		says string
	}{
		"a short secret":   {func() error { return c.Set(t.Context(), "mailbell:secret", "short", 0).Err() }, subscriptions.ErrDamaged, "secret"},
		"no secret":        {func() error { return c.Del(t.Context(), "mailbell:secret").Err() }, subscriptions.ErrDamaged, "secret"},
		"a changed secret": {func() error { return c.SetRange(t.Context(), "mailbell:secret", 20, "!").Err() }, subscriptions.ErrDamaged, "secret"},
		"ids of a kind":    {func() error { return c.Set(t.Context(), "mailbell:records", "x", 0).Err() }, subscriptions.ErrDamaged, "mailbell:records"},
		"a newer version":  {func() error { return c.Set(t.Context(), "mailbell:schema", "3", 0).Err() }, subscriptions.ErrNewer, "version 3"},
		"no version":       {func() error { return c.Set(t.Context(), "mailbell:schema", "new", 0).Err() }, subscriptions.ErrDamaged, "new"},
	} {
		c.FlushAll(t.Context())
		store := s.open(t)
		b := openBook(t, store)
		enrol(t, b, "d1", alice, "aa")
		store.Close()
		if err := damage.do(); err != nil {
			t.Fatal(err)
		}
		again := s.open(t)
		if _, err := again.Load(t.Context()); !errors.Is(err, damage.want) || !strings.Contains(err.Error(), damage.says) {
			t.Errorf("%s: error %v", name, err)
		}
		again.Close()
	}
}

func TestAStateInRedisOfVersion1IsMigrated(t *testing.T) {
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", bob, "bb")
	want := contents(t, store)
	store.Close()
	for _, key := range c.Keys(t.Context(), "*}:record").Val() {
		c.Set(t.Context(), key, c.Get(t.Context(), key).Val()[11:], 0)
	}
	for _, key := range c.Keys(t.Context(), "*}:devices").Val() {
		for id, v := range c.HGetAll(t.Context(), key).Val() {
			c.HSet(t.Context(), key, id, v[11:])
		}
	}
	c.Del(t.Context(), "mailbell:schema", "mailbell:generation")
	c.Set(t.Context(), "mailbell:secret", want.Secret[:], 0)
	c.ScriptFlush(t.Context()) // as a server that was started anew
	for _, was := range []int{1, 0} {
		again := s.open(t)
		want.MigratedFrom = was
		if diff := cmp.Diff(want, contents(t, again)); diff != "" {
			t.Errorf("the state differs (-want +got):\n%s", diff)
		}
		again.Close()
	}
	if v := c.Get(t.Context(), "mailbell:schema").Val(); v != "2" {
		t.Errorf("its version is %s", v)
	}
}

// A renewal of the lease was asked for before that, and answered after it.
func TestALossIsSeenOnce(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	r := s.open(t)
	t.Cleanup(func() { r.Close() })
	b := openBook(t, r)
	enrol(t, b, "d1", alice, "aa")
	answered := r.Ask()
	s.client(t).FlushAll(t.Context())
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); err != nil {
		t.Fatal(err)
	}
	<-r.Lossy()
	answered("0")
	select {
	case why := <-r.Lossy():
		t.Errorf("it is lost once more: %s", why)
	default:
	}
}

// Redis does not say of what type the key is: it may be the set that it is to be.
func TestTheIDsOfTheRecordsAreNotDeletedOnAQuestionThatFailed(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	c := s.client(t)
	store := s.open(t)
	t.Cleanup(func() { store.Close() })
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c.Do(t.Context(), "ACL", "SETUSER", "default", "-type")
	c.Del(t.Context(), "mailbell:generation")
	store.Ask()("")
	if n := c.SCard(t.Context(), "mailbell:records").Val(); n != 1 {
		t.Errorf("%d records are there; want 1", n)
	}
	c.Do(t.Context(), "ACL", "SETUSER", "default", "+type")
	until(t, 10*time.Second, "the state is not whole", func() bool { return c.Get(t.Context(), "mailbell:generation").Val() == "0" })
}
