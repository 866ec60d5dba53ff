package service

// What once went wrong, and must not again.

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/tcptest"
)

// followed is a state in Redis that another instance has taken over, and what ends and starts the server, which keeps nothing.
func followed(t *testing.T) (st state, kill, start func()) {
	t.Helper()
	address := tcptest.Quiet(t)
	_, port, _ := net.SplitHostPort(address)
	c := goredis.NewClient(&goredis.Options{Addr: address})
	t.Cleanup(func() { c.Close() })
	var server *exec.Cmd
	kill = func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	start = func() {
		server = exec.CommandContext(t.Context(), "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
		if err := server.Start(); err != nil {
			t.Skip(err)
		}
		for c.Ping(t.Context()).Err() != nil {
			<-time.After(10 * time.Millisecond)
		}
	}
	start()
	t.Cleanup(func() { kill() })
	kept := config.State{Redis: &config.Redis{Address: address, Prefix: "mailbell"}}
	var login redisLogin
	login.use(kept)
	st, err := openState(t.Context(), kept, &login, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	h, err := st.hold(t.Context(), func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	c.Set(t.Context(), "mailbell:lock", "another's", 0)
	<-h.lost
	return st, kill, start
}

// An instance that was followed opens Redis anew, which may be away at that moment.
func TestARedisThatIsAwayWhileStandingByAgainIsWaitedFor(t *testing.T) {
	st, kill, _ := followed(t)
	kill()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := st.hold(ctx, func(string, error) {}); ctx.Err() == nil {
		t.Errorf("it does not wait for Redis, the process ends: %v", err)
	}
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("closing the state: panic: %v", r)
		}
	}()
	_ = st.close()
}

// Redis comes back empty: the follower has all of the state in memory, and this instance would begin another one.
func TestAnInstanceThatWasFollowedLetsItsFollowerComeFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a lease by the real clock")
	}
	t.Parallel()
	st, kill, start := followed(t)
	kill()
	start()
	back := time.Now()
	if _, err := st.hold(t.Context(), func(string, error) {}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(back); took < 9*time.Second {
		t.Errorf("it took the state after %v; want a lease", took)
	}
	if err := st.close(); err != nil {
		t.Error(err)
	}
}
