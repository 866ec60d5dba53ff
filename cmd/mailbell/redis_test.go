package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// redisServer is a real redis-server with an append-only file.
type redisServer struct {
	t    *testing.T
	port string
	dir  string
	cmd  *exec.Cmd
}

// inRedis puts the state of a world into a Redis of its own.
func (w *world) inRedis() *redisServer {
	w.t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		w.t.Skip("redis-server is not installed: `make test` installs it")
	}
	address := quietAddress(w.t)
	_, port, _ := net.SplitHostPort(address)
	r := &redisServer{t: w.t, port: port, dir: w.t.TempDir()}
	w.t.Cleanup(r.kill)
	r.start()
	w.edit("path: mailbell.db", fmt.Sprintf("redis: {addresses: [%q]}", address))
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", r.port, "--dir", r.dir, "--save", "", "--appendonly", "yes")
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, soon, "redis-server listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
		if err != nil {
			return false
		}
		defer c.Close()
		fmt.Fprint(c, "PING\r\n")
		answer := make([]byte, 5)
		_, err = io.ReadFull(c, answer)
		return err == nil && string(answer) == "+PONG"
	})
}

func (r *redisServer) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// The kills with Redis: of mailbell, of Redis, and of both at once, while mail arrives. A lock outlives its holder by ten seconds.
func TestNothingIsLostWithTheStateInRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	redis := w.inRedis()
	w.begin()
	w.underLoad(60*time.Millisecond, func() {
		pass(t, 300*time.Millisecond)
		w.kill()
		w.start()
		for range 2 {
			pass(t, 500*time.Millisecond)
			redis.kill()
			pass(t, time.Second)
			redis.start()
		}
		pass(t, 2*time.Second)
		redis.kill()
		w.kill()
		redis.start()
		w.start()
		pass(t, 300*time.Millisecond)
	})
	w.balance(2 * len(w.boxes)) // a message of every mailbox may be in flight at each kill
}

// A second instance says that it stands by, and takes over within 15 s; mail that came in between rings once.
func TestASecondInstanceTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	w.inRedis()
	w.begin()
	w.deliver()
	w.rung(soon)

	first := strings.TrimPrefix(w.url, "http://")
	second := quietAddress(t)
	w.edit("listen: "+first, "listen: "+second)
	p := launch(t, "run", "--config", w.config)
	eventually(t, soon, "the second says behind whom it stands", func() bool {
		resp, err := w.client.Get("http://" + second + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), fmt.Sprint("process ", w.service().cmd.Process.Pid))
	})
	w.kill()
	for range 20 {
		w.deliver()
	}
	w.runs, w.url = append(w.runs, p), "http://"+second
	eventually(t, 15*time.Second, "the second has taken over", func() bool {
		resp, err := w.client.Get(w.url + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	w.balance(len(w.boxes))
}
