package main_test

// What systemd makes of an end of the service, by the unit that docs/mailbell.service is.

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// unit are the settings of a unit file, by section and key. A setting that is given twice is a list to systemd: it is joined.
type unit map[string]string

// readUnit reads the unit file of the documentation (systemd.syntax(7), as far as it is used there).
func readUnit(t *testing.T) unit {
	t.Helper()
	text, err := os.ReadFile("../../docs/mailbell.service")
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || strings.HasSuffix(value, `\`) {
				t.Fatalf("the unit has %q, which this test cannot read", line)
			}
			key = section + "." + key
			u[key] = strings.TrimSpace(u[key] + " " + value)
		}
	}
	return u
}

// restarts says whether systemd starts a service anew that ended so (systemd.service(5), Restart= and RestartPreventExitStatus=).
func (u unit) restarts(t *testing.T, end syscall.WaitStatus) bool {
	t.Helper()
	for status := range strings.FieldsSeq(u["Service.RestartPreventExitStatus"]) {
		code, err := strconv.Atoi(status)
		if err != nil {
			t.Fatalf("RestartPreventExitStatus=%s: this test reads numbers only", status)
		}
		if end.Exited() && end.ExitStatus() == code {
			return false
		}
	}
	if restart := u["Service.Restart"]; restart != "on-failure" {
		t.Fatalf("Restart=%s: this test knows on-failure only", restart)
	}
	clean := []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE}
	return end.Exited() && end.ExitStatus() != 0 || end.Signaled() && !slices.Contains(clean, end.Signal())
}

// seconds is a time of the unit; systemd's default where it is not given.
func (u unit) seconds(t *testing.T, key string, otherwise time.Duration) time.Duration {
	t.Helper()
	if u[key] == "" {
		return otherwise
	}
	n, err := strconv.Atoi(u[key])
	if err != nil {
		t.Fatalf("%s=%s: this test reads whole seconds only", key, u[key])
	}
	return time.Duration(n) * time.Second
}

// Under the rules of the unit a service that is killed or crashes comes back by itself, however often; one that was stopped or whose
// configuration is wrong does not.
func TestTheUnitRestartsWhatCrashedAndNotWhatIsMisconfigured(t *testing.T) {
	t.Parallel()
	u := readUnit(t)
	inst := install(t, simulator.Options{Mailboxes: 1})
	words := strings.Fields(u["Service.ExecStart"])
	if len(words) == 0 || !strings.HasSuffix(words[0], "/mailbell") || !strings.HasSuffix(words[len(words)-1], "/mailbell.yaml") {
		t.Fatalf("ExecStart=%s: want mailbell, and its configuration at the end", u["Service.ExecStart"])
	}
	args := append(slices.Clone(words[1:len(words)-1]), inst.config)

	crash := func(signal syscall.Signal) func(*process) {
		return func(p *process) {
			inst.awaitReady(p)
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name     string
		before   func()
		meet     func(p *process)
		code     int // -1: a signal
		restarts bool
	}{
		{"it is killed", nil, crash(syscall.SIGKILL), -1, true},
		// Go's runtime ends a process at SIGABRT as one that panics: with the stacks of all goroutines, and 2.
		{"it crashes", nil, crash(syscall.SIGABRT), 2, true},
		{"it crashes again", nil, crash(syscall.SIGABRT), 2, true},
		{"it is stopped", nil, crash(syscall.SIGTERM), 0, false},
		{"its configuration is wrong", func() { inst.edit("listen_by:", "listen_buy:") }, func(*process) {}, misconfigured, false},
	} {
		if c.before != nil {
			c.before()
		}
		p := launch(t, args...)
		c.meet(p)
		if code := p.wait(stopTime); code != c.code {
			t.Errorf("%s: exit code %d, want %d:\n%s", c.name, code, c.code, p.stderr())
		}
		if got := u.restarts(t, p.status); got != c.restarts {
			t.Errorf("%s: the unit restarts it: %v, want %v", c.name, got, c.restarts)
		}
	}

	// systemd gives a service up that was started StartLimitBurst times within StartLimitIntervalSec.
	burst := 5
	if b := u["Unit.StartLimitBurst"]; b != "" {
		t.Fatalf("StartLimitBurst=%s: this test knows the default only", b)
	}
	pause, interval := u.seconds(t, "Service.RestartSec", 100*time.Millisecond), u.seconds(t, "Unit.StartLimitIntervalSec", 10*time.Second)
	if time.Duration(burst)*pause <= interval {
		t.Errorf("with %v between its starts, %d of them come within %v, and systemd gives the service up", pause, burst, interval)
	}
	if u["Service.Type"] != "notify" || u.seconds(t, "Service.WatchdogSec", 0) < time.Minute {
		t.Errorf("Type=%s, WatchdogSec=%s: systemd neither knows when it is ready nor whether it lives", u["Service.Type"], u["Service.WatchdogSec"])
	}
	if patience := u.seconds(t, "Service.TimeoutStopSec", 90*time.Second); patience < stopTime {
		t.Errorf("systemd kills it %v after it was asked to stop, want %v", patience, stopTime)
	}
}

// systemd takes an end by SIGPIPE for a clean one (systemd.service(5), Restart=). So whoever reads the log, and goes away, must not end the service.
func TestALogThatNobodyReadsAnyMoreDoesNotEndTheService(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	reader, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := launchTo(t, stderr, "run", "--config", inst.config)
	inst.runs = append(inst.runs, p)
	stderr.Close()
	inst.awaitReady(p)
	reader.Close()
	inst.enrolAll() // which is logged
	inst.awaitListening()
	inst.deliver()
	inst.balance(0)
	inst.stop()
}

// hanging is the log of a process whose reader hangs. His pipe is full: a line that is written into it waits for him.
func hanging(t *testing.T) *os.File {
	t.Helper()
	reader, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	if err := stderr.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := stderr.Write(make([]byte, 16<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe is not full: %v", err)
	}
	return stderr
}

func TestAReaderOfTheLogThatHangsHoldsNoAlert(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	stderr := hanging(t)
	p := launchTo(t, stderr, "run", "--config", inst.config)
	inst.runs = append(inst.runs, p)
	stderr.Close()
	inst.awaitReady(p)
	inst.enrolAll() // which is logged
	inst.awaitListening()
	inst.deliver()
	inst.balance(0)
	inst.stop()
}

// What supervises a service starts it again once it has ended.
func TestAReaderOfTheLogThatHangsHoldsNoEnd(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 1})
	inst.startWithDevices()
	stderr := hanging(t)
	defer stderr.Close()
	p := launchTo(t, stderr, "run", "--config", inst.config) // its port is taken
	if code := p.wait(stopTime); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	inst.stop()
}

// exposure is what `systemd-analyze security` may give the unit at most, in tenths: it has 1.1 with systemd 252, and other versions look at more.
const exposure = "15"

func TestSystemdUnderstandsTheUnitAndFindsItHardened(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	text, err := os.ReadFile("../../docs/mailbell.service")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mailbell.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/mailbell", program)), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.CommandContext(t.Context(), analyze, "verify", file).CombinedOutput()
	if err != nil || strings.Contains(string(said), "mailbell.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, said)
	}
	said, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--threshold="+exposure, file).CombinedOutput()
	if strings.Contains(string(said), "unrecognized option") {
		t.Skip("systemd-analyze is too old to look at a file")
	}
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, said)
	}
}
