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

// An instance that was followed opens Redis anew, which may be away at that moment.
func TestARedisThatIsAwayWhileStandingByAgainIsWaitedFor(t *testing.T) {
	address := tcptest.Quiet(t)
	_, port, _ := net.SplitHostPort(address)
	server := exec.CommandContext(t.Context(), "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Skip(err)
	}
	c := goredis.NewClient(&goredis.Options{Addr: address})
	defer c.Close()
	for c.Ping(t.Context()).Err() != nil {
		<-time.After(10 * time.Millisecond)
	}
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
	_ = server.Process.Kill()
	_ = server.Wait()
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
