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

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// redisServer is a real redis-server with an append-only file.
type redisServer struct {
	t    *testing.T
	port string
	dir  string
	cmd  *exec.Cmd
}

// inRedis puts the state of an installation into a Redis of its own.
func (inst *installation) inRedis() *redisServer {
	inst.t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		inst.t.Skip("redis-server is not installed: `make test` installs it")
	}
	address := tcptest.Quiet(inst.t)
	_, port, _ := net.SplitHostPort(address)
	r := &redisServer{t: inst.t, port: port, dir: inst.t.TempDir()}
	inst.t.Cleanup(r.kill)
	r.start()
	inst.edit("path: mailbell.db", fmt.Sprintf("redis: {addresses: [%q]}", address))
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
	inst := install(t, simulator.Options{Mailboxes: 10})
	redis := inst.inRedis()
	inst.startWithDevices()
	const gap = 60 * time.Millisecond
	inst.underLoad(gap, func() {
		pass(t, 300*time.Millisecond)
		inst.kill()
		inst.start()
		for range 2 {
			pass(t, 500*time.Millisecond)
			redis.kill()
			pass(t, time.Second)
			redis.start()
		}
		pass(t, 2*time.Second)
		redis.kill()
		inst.kill()
		redis.start()
		inst.start()
		pass(t, 300*time.Millisecond)
	})
	// A message of every mailbox may be in flight at each kill. When Redis and mailbell are killed together, what was sent in the second
	// or two before, while a write waited for Redis (rule 13), is known to nobody; a mailbox in three has two devices.
	inst.balance(2*len(inst.boxes) + int(2*time.Second/gap)*4/3)
}

// A standby holds its port and not the state: a check beside it says so, and whom to ask for a device.
func TestACheckBesideAStandbySaysWhoHoldsTheState(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.inRedis()
	inst.start()
	inst.enrol(inst.boxes[0], "phone")
	second := tcptest.Quiet(t)
	inst.edit("listen: "+strings.TrimPrefix(inst.url, "http://"), "listen: "+second)
	launch(t, "run", "--config", inst.config)
	holder := fmt.Sprint("process ", inst.service().cmd.Process.Pid)
	eventually(t, soon, "the second is a standby", func() bool {
		_, text := inst.readiness("http://" + second)
		return strings.Contains(text, holder)
	})
	code, results, said := inst.check("--device", "phone")
	at := map[string]result{}
	for _, r := range results {
		at[r.name] = r
	}
	if r := at["state"]; r.state != "ok" || !strings.Contains(r.found, second) || !strings.Contains(r.found, holder) {
		t.Errorf("it does not say who holds the state: %+v", r)
	}
	if r := at["device phone"]; code != 1 || !strings.Contains(r.cameBack, holder) || !strings.Contains(r.do, "the instance that holds the state") {
		t.Errorf("exit code %d; it does not say whom to ask for the device: %+v", code, r)
	}
	if r, tried := at["listen"]; tried {
		t.Errorf("it tried the port that the standby has: %+v\n%s", r, said)
	}
}

// A second instance says that it stands by, and takes over within 15 s; mail that came in between is alerted once.
func TestASecondInstanceTakesOver(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.inRedis()
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts(soon)

	first := strings.TrimPrefix(inst.url, "http://")
	second := tcptest.Quiet(t)
	inst.edit("listen: "+first, "listen: "+second)
	p := launch(t, "run", "--config", inst.config)
	eventually(t, soon, "the second says behind whom it stands", func() bool {
		status, text := inst.readiness("http://" + second)
		return status == http.StatusServiceUnavailable && strings.Contains(text, fmt.Sprint("process ", inst.service().cmd.Process.Pid))
	})
	inst.kill()
	for range 20 {
		inst.deliver()
	}
	inst.runs, inst.url = append(inst.runs, p), "http://"+second
	eventually(t, 15*time.Second, "the second has taken over", func() bool {
		status, _ := inst.readiness(inst.url)
		return status == http.StatusOK
	})
	inst.balance(len(inst.boxes))
}

// Whoever stops a service that waits for its state gets what a stop is answered with.
func TestAServiceThatIsStoppedWhileItWaitsForRedisHasNotFailed(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	inst.edit("path: mailbell.db", fmt.Sprintf("redis: {addresses: [%q]}", silent.Addr()))
	p := launch(t, "run", "--config", inst.config)
	asked, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0:\n%s", code, p.stderr())
	}
}
