package subscriptions_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// server is a real redis-server.
type server struct {
	t       *testing.T
	address string
	args    []string
	process *exec.Cmd
}

func startRedis(t *testing.T, args ...string) *server {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a redis-server, whose clock is the real one")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed: `make test` installs it")
	}
	s := &server{t: t, address: tcptest.Quiet(t)}
	_, port, _ := net.SplitHostPort(s.address)
	s.args = append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(), "--save", "", "--appendonly", "yes", "--loglevel", "warning"}, args...)
	s.start()
	t.Cleanup(s.kill)
	c := s.client(t)
	c.Set(t.Context(), "mailbell:until", "0", 0) // as after an instance that has stopped: a state that is new is looked at for a while
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.process = exec.CommandContext(context.Background(), "redis-server", s.args...)
	s.process.Stderr = os.Stderr
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: s.address, DialerRetries: 1, MaxRetries: -1})
	defer c.Close()
	until(s.t, 10*time.Second, "redis-server answers", func() bool {
		err := c.Ping(s.t.Context()).Err()
		return err == nil || strings.Contains(err.Error(), "NOAUTH")
	})
}

func (s *server) kill() {
	if s.process != nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
		s.process = nil
	}
}

// until waits for a condition.
func until(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	end, tick := time.NewTimer(most), time.NewTicker(10*time.Millisecond)
	defer end.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("within %v: not so: %s", most, what)
		}
	}
}

// loss waits until a loss is seen, and returns what is missing.
func loss(t *testing.T, store *subscriptions.Redis, most time.Duration) string {
	t.Helper()
	select {
	case why := <-store.Lossy():
		return why
	case <-time.After(most):
		t.Fatal("nobody knows that something is missing")
		return ""
	}
}

func (s *server) open(t *testing.T) *subscriptions.Redis {
	t.Helper()
	r, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the lease of one that was killed ends after ten seconds
	defer cancel()
	if err := r.Hold(ctx, func(behind string, err error) { t.Logf("standby, %q holds the state: %v", behind, err) }); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRedisConforms(t *testing.T) {
	s := startRedis(t)
	storetest.Run(t, func(t *testing.T) subscriptions.Store { return s.open(t) })
}

func TestWhatRedisHoldsSurvivesItsKill(t *testing.T) {
	s := startRedis(t, "--appendfsync", "always") // by itself Redis may still have a second of it in memory
	store := s.open(t)
	b := openBook(t, store)
	enrol(t, b, "d1", alice, "aa")
	s.kill()
	if err := b.Ping(t.Context()); err == nil {
		t.Error("a Redis that is away answers")
	}
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); err == nil || b.Mailbox(alice).Record().Listed == 7 {
		t.Errorf("a write to a Redis that is away: %v", err)
	}
	s.start()
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 8 }); err != nil {
		t.Errorf("Redis is back: %v", err)
	}
	store.Close()
	store = s.open(t)
	defer store.Close()
	if m := openBook(t, store).Mailbox(alice); m == nil || m.Record().Listed != 8 {
		t.Error("what was written is not there")
	}
}

func TestASecondInstanceStandsByAndTakesOverWithinFifteenSeconds(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	first := s.open(t)
	second, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	var said atomic.Value
	held := make(chan error, 1)
	go func() {
		held <- second.Hold(t.Context(), func(behind string, _ error) { said.Store(behind) })
	}()
	until(t, 5*time.Second, "the second says behind whom it stands", func() bool {
		b, _ := said.Load().(string)
		return strings.Contains(b, fmt.Sprint("process ", os.Getpid()))
	})
	b := openBook(t, first)
	enrol(t, b, "d1", alice, "aa")
	first.Crash()
	gone := time.Now()
	select {
	case err := <-held:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it did not take over within 15 s")
	}
	t.Logf("taken over after %v", time.Since(gone))
	if openBook(t, second).Mailbox(alice) == nil {
		t.Error("the second does not know what the first had")
	}
}

// followed is a server with an instance that has a mailbox with a device, and a second one that has taken its state over.
func followed(t *testing.T) (s *server, first *subscriptions.Redis, b *subscriptions.Book, second *subscriptions.Redis) {
	t.Helper()
	s = startRedis(t)
	first = s.open(t)
	t.Cleanup(func() { first.Close() })
	b = openBook(t, first)
	enrol(t, b, "d1", alice, "aa")
	second = s.follow(t)
	openBook(t, second)
	return s, first, b, second
}

func TestAnInstanceThatWasFollowedWritesNoMore(t *testing.T) {
	t.Parallel()
	_, first, b, second := followed(t)
	defer second.Close()
	if err := b.Mailbox(alice).Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 7 }); !errors.Is(err, subscriptions.ErrFollowed) {
		t.Errorf("the first still writes: %v", err)
	}
	select {
	case <-first.Lost():
	default:
		t.Error("it does not know that it was followed")
	}
}

func TestTheLockIsKeptOverAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	store := s.open(t)
	defer store.Close()
	c := redis.NewClient(&redis.Options{Addr: s.address})
	defer c.Close()
	c.FlushAll(t.Context()) // a server that came back empty
	until(t, 10*time.Second, "the lock is there again", func() bool { return c.Exists(t.Context(), "mailbell:lock").Val() == 1 })
	select {
	case <-store.Lost():
		t.Error("it gave up though nobody followed")
	default:
	}
}

func TestARedisThatCouldDropEnrolmentsIsRefused(t *testing.T) {
	s := startRedis(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	_, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if !errors.Is(err, subscriptions.ErrRedis) || !strings.Contains(err.Error(), "allkeys-lru") {
		t.Errorf("error %v", err)
	}
}

// It answers, and takes no script about keys of several slots: a standby would wait for it without an end.
func TestANodeOfAClusterIsRefused(t *testing.T) {
	s := startRedis(t, "--cluster-enabled", "yes")
	_, _, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if !errors.Is(err, subscriptions.ErrRedis) || !strings.Contains(err.Error(), "Cluster") {
		t.Errorf("error %v", err)
	}
}

// Redis 5 and 6 refuse INFO with several sections, and do not know SMISMEMBER before 6.2.
func TestAnOlderRedisIsAskedWhatItKnows(t *testing.T) {
	s := startRedis(t)
	monitor, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	_ = monitor.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprint(monitor, "MONITOR\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(monitor)
	lines.Scan() // it has begun
	r := s.open(t)
	defer r.Close()
	enrol(t, openBook(t, r), "d1", alice, "aa")
	asked := map[string]bool{}
	for !asked["info"] || !asked["sismember"] {
		if !lines.Scan() {
			t.Fatalf("asked were %v: %v", asked, lines.Err())
		}
		_, call, _ := strings.Cut(lines.Text(), "] ")
		words := strings.Fields(strings.ToLower(strings.ReplaceAll(call, `"`, "")))
		if len(words) == 0 {
			continue
		}
		asked[words[0]] = true
		if words[0] == "info" && len(words) > 2 || words[0] == "smismember" {
			t.Fatalf("asked is %s", call)
		}
	}
}

func TestARedisWithoutAnAppendOnlyFileIsWarnedOf(t *testing.T) {
	s := startRedis(t, "--appendonly", "no")
	r, warnings, err := subscriptions.OpenRedis(t.Context(), subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if len(warnings) != 1 || !strings.Contains(warnings[0], "appendonly") {
		t.Errorf("%v", warnings)
	}
}

// A password is changed in Redis and in its file, and Redis is restarted, or cuts what signed in with the old one.
func TestAChangedPasswordIsThatOfTheNextConnection(t *testing.T) {
	s := startRedis(t, "--requirepass", "open-sesame")
	admin := redis.NewClient(&redis.Options{Addr: s.address, Password: "open-sesame"})
	defer admin.Close()
	var password atomic.Value
	password.Store("open-sesame")
	o := subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell", Login: func() (string, string) { return "", password.Load().(string) }}
	r, _, err := subscriptions.OpenRedis(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Hold(t.Context(), func(string, error) {}); err != nil {
		t.Fatal(err)
	}
	b := openBook(t, r)
	enrol(t, b, "d1", alice, "aa")
	admin.ConfigSet(t.Context(), "requirepass", "simsalabim")
	enrol(t, b, "d2", alice, "bb") // who has signed in stays so
	password.Store("simsalabim")
	admin.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
	until(t, 5*time.Second, "it writes again", func() bool { return r.Ping(t.Context()) == nil })
	enrol(t, b, "d3", alice, "cc")
}

func TestAnACLUserNeedsOnlyItsPrefix(t *testing.T) {
	dir := t.TempDir()
	acl := filepath.Join(dir, "users.acl")
	rules := "user default off\nuser bell on >open-sesame ~mailbell:* +@read +@write +@scripting +@connection +@transaction +info +time\n"
	if err := os.WriteFile(acl, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startRedis(t, "--aclfile", acl)
	password := "open-sesame"
	o := subscriptions.RedisOptions{Address: s.address, Prefix: "mailbell", Login: func() (string, string) { return "bell", password }}
	r, _, err := subscriptions.OpenRedis(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Hold(t.Context(), func(string, error) {}); err != nil {
		t.Fatal(err)
	}
	if b, err := subscriptions.Open(t.Context(), r); err != nil {
		t.Error(err)
	} else {
		enrol(t, b, "d1", alice, "aa")
		enrol(t, b, "d1", bob, "aa")
	}
	r.Close()
	password = "wrong"
	if _, _, err = subscriptions.OpenRedis(t.Context(), o); err == nil || strings.Contains(err.Error(), "wrong"+" ") {
		t.Errorf("with a wrong password: %v", err)
	}
}
