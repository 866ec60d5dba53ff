package subscriptions_test

// A Redis that answers and takes no write, or does not answer at all.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/subscriptions"
)

func TestAServerThatAnswersAndTakesNoWriteIsNotThere(t *testing.T) {
	config := func(name, value string) func(c *redis.Client) error {
		return func(c *redis.Client) error { return c.ConfigSet(t.Context(), name, value).Err() }
	}
	for name, refuse := range map[string]struct {
		do   func(c *redis.Client) error
		says string
	}{
		"OOM":          {config("maxmemory", "1"), "OOM"},
		"READONLY":     {func(c *redis.Client) error { return c.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err() }, "READONLY"},
		"NOREPLICAS":   {config("min-replicas-to-write", "1"), "NOREPLICAS"},
		"NOPERM":       {func(c *redis.Client) error { return c.Do(t.Context(), "ACL", "SETUSER", "default", "-@write").Err() }, "can't run"},
		"CLIENT PAUSE": {func(c *redis.Client) error { return c.Do(t.Context(), "CLIENT", "PAUSE", "20000", "WRITE").Err() }, "timeout"},
		"MISCONF": {func(c *redis.Client) error {
			dir := filepath.Join(t.TempDir(), "gone")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			err := errors.Join(c.ConfigSet(t.Context(), "dir", dir).Err(), c.ConfigSet(t.Context(), "save", "1000000 1").Err(), os.RemoveAll(dir))
			_ = c.BgSave(t.Context()).Err()
			until(t, 10*time.Second, "the snapshot failed", func() bool {
				return strings.Contains(c.Info(t.Context(), "persistence").Val(), "rdb_last_bgsave_status:err")
			})
			return err
		}, "MISCONF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t, "--enable-protected-configs", "yes")
			store := s.open(t)
			t.Cleanup(func() { store.Close() })
			if err := store.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := refuse.do(s.client(t)); err != nil {
				t.Fatal(err)
			}
			<-time.After(1100 * time.Millisecond) // the answer of a moment ago is given again
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := store.Ping(ctx)
			if err == nil || !strings.Contains(err.Error(), s.address) || !strings.Contains(err.Error(), refuse.says) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Ping: %v; want an error that says %q", err, refuse.says)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestEveryWaitForAFrozenRedisEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	if _, err := store.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			id := fmt.Sprintf("r%03d", i)
			r := &subscriptions.Record{ID: id, Addresses: []string{id + "@contoso.example"}}
			if err := store.Write(ctx, subscriptions.Change{Put: []*subscriptions.Record{r}}); err == nil {
				t.Error("a write was confirmed by a server that is frozen")
			}
		})
	}
	all.Go(func() {
		if err := store.Ping(ctx); err == nil {
			t.Error("a server that is frozen answers")
		}
	})
	until(t, 5*time.Second, "nothing begins", func() bool { return store.Held() != nil })
	all.Wait()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the last answer came after %v", took)
	}
	if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "what begins is its own again", func() bool { return store.Held() == nil })
	store.Close()
}

// A caller that has gone leaves its write in the queue; what it writes next must not be undone by it.
func TestTheWritesOfARecordKeepTheirOrderAcrossKinds(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	defer store.Close()
	if _, err := store.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := func(id string, listed int64) *subscriptions.Record {
		return &subscriptions.Record{ID: id, Addresses: []string{id + "@contoso.example"}, Listed: listed}
	}
	if err := store.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{record("a", 1), record("b", 1)}}); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i, c := range []subscriptions.Change{
		{Put: []*subscriptions.Record{record("x", 1)}}, // under way
		{Put: []*subscriptions.Record{record("a", 2)}},
		{Put: []*subscriptions.Record{record("a", 3), record("b", 3)}},
	} {
		all.Go(func() { _ = store.Write(t.Context(), c) })
		<-time.After(time.Duration(100+i) * time.Millisecond)
	}
	if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for _, r := range contents(t, store).Records {
		if r.ID == "a" && r.Listed != 3 {
			t.Errorf("the record says %d, and 3 was written last", r.Listed)
		}
	}
}

func TestAWriteIsOneRoundTripAlsoOfAMailboxThatIsNew(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	defer store.Close()
	b := openBook(t, store)
	enrol(t, b, "d0", bob, "99") // the first write brings the scripts
	trips := store.Trips()
	enrol(t, b, "d1", alice, "aa")
	enrol(t, b, "d2", alice, "bb")
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); err != nil {
		t.Fatal(err)
	}
	if n := trips.Load(); n != 3 {
		t.Errorf("three writes took %d round trips", n)
	}
}

func TestAServerThatHasForgottenTheScriptsIsGivenThemAgain(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	t.Cleanup(func() { store.Close() })
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c, trips := s.client(t), store.Trips()
	for _, step := range []struct {
		what  string
		write func()
		trips int64
	}{
		{"a write", func() { enrol(t, b, "d2", alice, "bb") }, 3},
		{"a change of two records", func() { enrol(t, b, "d1", bob, "aa") }, 5}, // a transaction, and its number, each twice
		{"a write after somebody looked whether there is a server", func() {
			if err := store.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			trips.Store(0)
			enrol(t, b, "d3", alice, "cc")
		}, 1},
	} {
		c.ScriptFlush(t.Context())
		trips.Store(0)
		step.write()
		if n := trips.Load(); n != step.trips {
			t.Errorf("%s took %d round trips, want %d", step.what, n, step.trips)
		}
		select {
		case why := <-store.Lossy():
			t.Errorf("%s: the state counts as lost: %s", step.what, why)
		default:
		}
	}
	if n := len(contents(t, store).Devices); n != 3 {
		t.Errorf("there are %d devices, want 3", n)
	}
}

// Nothing rests on the decisions: a key of theirs that is not as mailbell wrote it keeps no outcome from being written.
func TestADamagedKeyOfDecisionsStopsNoWrite(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	t.Cleanup(func() { store.Close() })
	r := &subscriptions.Record{ID: "r1", Addresses: []string{"ann@contoso.example"}}
	c := s.client(t)
	const key = "mailbell:{r1}:decisions"
	if err := c.Set(t.Context(), key, "what", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if list, err := store.Decisions(t.Context(), "r1"); err != nil || len(list) > 0 {
		t.Errorf("%q, %v", list, err)
	}
	for i := range 2 {
		decided := subscriptions.Decided{Record: "r1", Decisions: []subscriptions.DecisionPut{{Is: fmt.Append(nil, i)}}}
		if err := store.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{r}, Decided: decided}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := store.Decisions(t.Context(), "r1"); err != nil || len(list) != 2 {
		t.Errorf("%q, %v", list, err)
	}
	if err := store.Write(t.Context(), subscriptions.Change{Drop: []string{"r1"}}); err != nil {
		t.Fatal(err)
	}
	if left := c.Keys(t.Context(), "mailbell:{r1}:*").Val(); len(left) > 0 {
		t.Errorf("%q is left of a record that was dropped", left)
	}
}

// A Redis that lost a record gets it written again, and not as a ghost of its decisions.
func TestDecisionsMakeNoRecordWhereTheServerLostIt(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	t.Cleanup(func() { store.Close() })
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c := s.client(t)
	c.FlushAll(t.Context())
	m := b.Mailbox(alice)
	m.Decide(subscriptions.Decision{Device: "d1"})
	if err := m.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := c.Keys(t.Context(), "mailbell:{"+m.Record().ID+"}:*").Val(); len(left) > 0 {
		t.Errorf("decisions alone made %q", left)
	}
	loss(t, store, 30*time.Second)
	if err := store.Restore(t.Context(), b.Rewrite); err != nil {
		t.Fatal(err)
	}
	m.Decide(subscriptions.Decision{Device: "d1"})
	if err := m.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := m.Decisions(t.Context()); err != nil || len(list) == 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if !c.SIsMember(t.Context(), "mailbell:records", m.Record().ID).Val() {
		t.Error("the record is not listed")
	}
}

// Where a write of decisions fails, it is known all the same what the server has of the mailbox, and seen where it loses that.
func TestALossIsSeenAlsoAfterDecisionsThatCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	t.Cleanup(func() { store.Close() })
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	c, m := s.client(t), b.Mailbox(alice)
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	m.Decide(subscriptions.Decision{Device: "d1"})
	if err := m.Deliver(t.Context()); err == nil {
		t.Fatal("a server without memory took decisions")
	}
	if err := errors.Join(c.ConfigSet(t.Context(), "maxmemory", "0").Err(), m.Deliver(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := c.Del(t.Context(), "mailbell:{"+m.Record().ID+"}:devices").Err(); err != nil {
		t.Fatal(err)
	}
	loss(t, store, 30*time.Second) // the device of the mailbox is gone
}

// The lease and the writer have connections of their own, however many phones report at once.
func TestThousandsOfReceiptsTakeOneConnection(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	defer store.Close()
	wait := make(chan struct{})
	readers := store.Readers(wait)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := store.Decisions(t.Context(), "r"); err != nil {
				t.Error(err)
			}
		})
	}
	for range 20 {
		wait <- struct{}{}
		if n := readers.Load(); n > 1 {
			t.Errorf("%d read at the same time", n)
		}
	}
	all.Wait()
}
