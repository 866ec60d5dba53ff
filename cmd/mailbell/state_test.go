package main_test

// What becomes of the state: files that are damaged, a Redis that forgets or freezes, a disk that is full.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.etcd.io/bbolt"

	"github.com/mailbell/mailbell/simulator"
)

func (inst *installation) stateFile() string { return filepath.Join(inst.dir, "mailbell.db") }

func TestADamagedStateFileEndsTheStartInWords(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.startWithDevices()
	inst.stop()
	whole, err := os.ReadFile(inst.stateFile())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		damage func() []byte
		says   string
	}{
		"0 bytes":   {func() []byte { return nil }, "delete it to begin anew"},
		"100 bytes": {func() []byte { return whole[:100] }, "damaged"},
		"3 pages":   {func() []byte { return whole[:3*os.Getpagesize()] }, "cut off"},
		"zeros":     {func() []byte { return make([]byte, len(whole)) }, "damaged"},
		"a text":    {func() []byte { return bytes.Repeat([]byte("not a state file\n"), 4000) }, "damaged"},
		"garbage": {func() []byte {
			return append(bytes.Clone(whole[:2*os.Getpagesize()]), bytes.Repeat([]byte{0xa5}, len(whole))...)
		}, "damaged"},
		"zeros after": {func() []byte { return append(bytes.Clone(whole[:2*os.Getpagesize()]), make([]byte, len(whole))...) }, "damaged"},
	} {
		damaged := c.damage()
		if err := os.WriteFile(inst.stateFile(), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		p := launch(t, "run", "--config", inst.config)
		if code := p.wait(soon); code != 1 {
			t.Errorf("%s: exit code %d, want 1", name, code)
		}
		if said := p.stderr(); !strings.Contains(said, inst.stateFile()) || !strings.Contains(said, c.says) || strings.Contains(said, "goroutine ") {
			t.Errorf("%s: it says\n%s", name, said)
		}
		if after, _ := os.ReadFile(inst.stateFile()); !bytes.Equal(after, damaged) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if err := os.WriteFile(inst.stateFile(), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	inst.start()
	inst.awaitListening()
	inst.deliver()
	inst.balance(0)
}

// One device and one record cannot be read: that device has to be enrolled again, that mailbox begins anew, and nothing else is
// touched.
func TestADamagedValueIsSetAsideAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.startWithDevices()
	inst.stop()
	db, err := bbolt.Open(inst.stateFile(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var record string
	err = db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket([]byte("records"))
		k, v := records.Cursor().First()
		record = string(k)
		if err := records.Put(k, v[:len(v)/2]); err != nil {
			return err
		}
		return tx.Bucket([]byte("devices")).Put([]byte("phone-01-a"), []byte("{}"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	p := inst.start()
	for _, part := range []string{fmt.Sprintf(`record \"%s\"`, record), `device \"phone-01-a\"`} {
		if log := p.stderr(); !strings.Contains(log, part) || !strings.Contains(log, "set aside") {
			t.Errorf("the log does not name %s:\n%s", part, log)
		}
	}
	first := inst.boxes[0]
	first.devices = nil
	inst.enrol(first, "phone-01-a")
	inst.awaitListening()
	for range inst.boxes {
		inst.deliver()
	}
	inst.balance(0)
}

// state is what GET /v1/status says of the state.
func (inst *installation) state() (s struct {
	Reachable bool
	Error     string
}) {
	inst.t.Helper()
	var status struct {
		StateStore json.RawMessage `json:"state_store"`
	}
	if code := inst.call(http.MethodGet, "/v1/status", nil, &status); code != http.StatusOK {
		inst.t.Fatalf("GET /v1/status: %d", code)
	}
	if err := json.Unmarshal(status.StateStore, &s); err != nil {
		inst.t.Fatal(err)
	}
	return s
}

func TestAFileThatTakesNoWriteIsNotReady(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("prlimit is not installed")
	}
	inst := install(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	limit := func(bytes string) {
		t.Helper()
		pid := fmt.Sprint(inst.service().cmd.Process.Pid)
		if out, err := exec.Command("prlimit", "--pid", pid, "--fsize="+bytes+":unlimited").CombinedOutput(); err != nil {
			t.Skipf("prlimit: %v: %s", err, out)
		}
	}
	limit("1")
	eventually(t, soon, "it is not ready", func() bool {
		status, _ := inst.readiness(inst.url)
		return status == http.StatusServiceUnavailable
	})
	if s := inst.state(); s.Reachable || !strings.Contains(s.Error, "file too large") || !strings.Contains(s.Error, inst.stateFile()) {
		t.Errorf("the status says %+v", s)
	}
	if code := inst.call(http.MethodPut, "/v1/devices/late", map[string]string{"mailbox": inst.boxes[0].address, "token": deviceToken()}, nil); code != http.StatusServiceUnavailable {
		t.Errorf("an enrolment that cannot be written is answered with %d", code)
	}
	limit("unlimited")
	inst.awaitReady(inst.service())
	inst.deliver()
	inst.balance(0)
}

func (r *redisServer) client() *goredis.Client {
	c := goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:" + r.port})
	r.t.Cleanup(func() { c.Close() })
	return c
}

func TestWhatRedisForgetsIsWrittenAgainAndSaid(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 10})
	redis := inst.inRedis()
	inst.startWithDevices()
	c := redis.client()
	for i, forget := range []func() error{
		func() error { return c.FlushAll(t.Context()).Err() },
		func() error { return c.Do(t.Context(), "SWAPDB", 0, 1).Err() },
		func() error { return c.Del(t.Context(), c.Keys(t.Context(), "*}:devices").Val()[0]).Err() },
	} {
		if err := forget(); err != nil {
			t.Fatal(err)
		}
		inst.deliver()
		eventually(t, soon, "it is said, and written again", func() bool {
			log := inst.service().stderr()
			return strings.Count(log, "redis has less than it was told") == i+1 && strings.Count(log, "the state was written again") == i+1
		})
	}
	inst.balance(0)
	inst.restart()
	var page struct{ Devices []struct{ ID string } }
	inst.call(http.MethodGet, "/v1/devices?limit=1000", nil, &page)
	devices := 0
	for _, b := range inst.boxes {
		devices += len(b.devices)
	}
	if len(page.Devices) != devices {
		t.Errorf("after a restart there are %d of %d devices", len(page.Devices), devices)
	}
	inst.deliver()
	inst.balance(0)
}

func TestAFrozenRedisLeavesNobodyWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 10})
	redis := inst.inRedis()
	inst.startWithDevices()
	if err := redis.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			body := map[string]string{"mailbox": inst.boxes[i%len(inst.boxes)].address, "token": deviceToken()}
			status, answer := inst.raw(http.MethodPut, fmt.Sprintf("/v1/devices/frozen-%d", i), inst.token, body)
			if status != http.StatusServiceUnavailable {
				t.Errorf("an enrolment is answered with %d: %s", status, answer)
			}
		})
	}
	eventually(t, soon, "it is not ready", func() bool {
		status, _ := inst.readiness(inst.url)
		return status == http.StatusServiceUnavailable
	})
	if s := inst.state(); s.Reachable {
		t.Error("the status says that the state is there")
	}
	all.Wait()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the last of 200 answers came after %v", took)
	}
	for range 5 {
		inst.deliver()
	}
	if err := redis.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	inst.awaitReady(inst.service())
	inst.balance(0)
}
