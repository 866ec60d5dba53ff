package main_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// measured is what bench prints as JSON.
type measured struct {
	Version, State           string
	CPUs, Mailboxes, Devices int
	Messages, Alerts         int
	Lost, Duplicates, Resent int

	Enrolments   float64 `json:"enrolments_per_s"`
	Listening    float64 `json:"listening_s"`
	Restart      float64 `json:"restart_s"`
	Rate         float64 `json:"rate_per_s"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	BurstRate    float64 `json:"burst_messages_per_s"`
	CPU          float64 `json:"cpu_us_per_message"`
	BurstCPU     float64 `json:"burst_cpu_us_per_message"`
	MemorySteady float64 `json:"memory_steady_mib"`
	MemoryAfter  float64 `json:"memory_after_mib"`
	IdleCPU      float64 `json:"idle_cpu_ms_per_s"`
}

func TestBenchMeasures(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"embedded", "redis"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("redis-server"); state == "redis" && err != nil {
				t.Skip("there is no redis-server")
			}
			p := launch(t, "bench", "--mailboxes", "9", "--rate", "20", "--duration", "1s", "--state", state, "--json")
			if code := p.wait(time.Minute); code != 0 {
				t.Fatalf("exit code %d, want 0:\n%s%s", code, p.stdout(), p.stderr())
			}
			var m measured
			strict(t, p.stdout(), &m, "version", "cpus", "state", "mailboxes", "devices", "messages", "alerts", "lost", "duplicates", "resent",
				"enrolments_per_s", "listening_s", "restart_s", "rate_per_s", "p50_ms", "p99_ms", "burst_messages_per_s", "cpu_us_per_message",
				"burst_cpu_us_per_message", "memory_steady_mib", "memory_after_mib", "idle_cpu_ms_per_s")
			// Every third mailbox has two devices; 20 messages dealt round robin, and three bursts.
			if m.State != state || m.Mailboxes != 9 || m.Devices != 12 || m.Messages != 20+3*9 || m.Alerts != 20+6+3*12 || m.Lost+m.Duplicates+m.Resent > 0 {
				t.Errorf("%+v", m)
			}
			for name, v := range map[string]float64{"enrolments": m.Enrolments, "listening": m.Listening, "restart": m.Restart, "rate": m.Rate, "p50": m.P50,
				"p99": m.P99, "burst": m.BurstRate, "CPU": m.CPU + m.BurstCPU, "memory": m.MemorySteady, "memory after": m.MemoryAfter} {
				if v <= 0 {
					t.Errorf("%s: %v", name, v)
				}
			}
			if m.P99 < m.P50 || m.Rate > 40 {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestBenchWithoutARedisServerSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), program, "bench", "--state", "redis")
	cmd.Env = []string{"PATH=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "install it") {
		t.Errorf("%v: %s", err, out)
	}
}

// A bench that is stopped leaves no process and no folder behind.
func TestBenchThatIsStoppedLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program, "bench", "--mailboxes", "3", "--duration", "1h", "--rate", "1")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	folder := func() int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	eventually(t, soon, "it has begun", func() bool { return folder() > 0 })
	pass(t, time.Second)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("what was not measured has exit code 0")
	}
	if n := folder(); n > 0 {
		t.Errorf("%d folders are left", n)
	}
	if err := syscall.Kill(-cmd.Process.Pid, 0); err == nil {
		t.Error("a process is left")
	}
}
