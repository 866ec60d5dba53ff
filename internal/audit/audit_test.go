package audit

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines reads a file: an object of JSON a line, each with a time, which is left out.
func lines(t *testing.T, file string) (list []map[string]any) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var one map[string]any
		if err := json.Unmarshal(s.Bytes(), &one); err != nil {
			t.Errorf("%v: %s", err, s.Text())
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, one["time"].(string)); err != nil || at.Location() != time.UTC {
			t.Errorf("%v: the time is %s", err, one["time"])
		}
		delete(one, "time")
		list = append(list, one)
	}
	return list
}

func TestAnActIsOneLineInItsFileWithWhatAppliesAndNothingElse(t *testing.T) {
	core, log := observer.New(zap.DebugLevel)
	l := New(zap.New(core))
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	if err := os.WriteFile(file, []byte(`{"time":"2026-01-01T00:00:00Z","action":"before"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Use(file)
	defer l.Close()
	l.Record(Event{Action: DeviceEnrolled, Outcome: Done, Client: "mdm", Address: "10.1.2.3", Request: "r1", Device: "phone", Mailbox: "ann@contoso.com"})
	l.Record(Event{Action: SignInRefused, Outcome: Refused, Code: "wrong_token", Address: "10.1.2.3", Forwarded: "::1", Times: 7})
	l.Record(Event{Action: DevicesImported, Outcome: Failed, Client: "x\n{\"y\":1}\u202e", Page: true, Tokens: true, Created: 1, Changed: 2, Rejected: 3, Devices: 4, Mailboxes: 5, Exchange: "e", ListenBy: "graph", Call: "PUT /"})
	want := []map[string]any{
		{"action": "before"},
		{"stream": "audit", "action": "device_enrolled", "outcome": "done", "client": "mdm", "address": "10.1.2.3", "request_id": "r1", "device": "phone", "mailbox": "ann@contoso.com"},
		{"stream": "audit", "action": "sign_in_refused", "outcome": "refused", "code": "wrong_token", "address": "10.1.2.3", "forwarded_for": "::1", "times": 7.0},
		{"stream": "audit", "action": "devices_imported", "outcome": "failed", "client": "x\n{\"y\":1}\u202e", "admin_page": true, "tokens": true, "created": 1.0, "changed": 2.0, "refused": 3.0,
			"devices": 4.0, "mailboxes": 5.0, "exchange": "e", "listen_by": "graph", "call": "PUT /"},
	}
	if diff := cmp.Diff(want, lines(t, file)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if log.Len() > 0 {
		t.Errorf("it is in the log too: %v", log.All())
	}
}

func TestOnlyMailbellMayReadTheFileThatItMakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	l := New(zap.NewNop())
	l.Use(file)
	defer l.Close()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestAFileThatWasRenamedIsLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	l := New(zap.NewNop())
	l.Use(file)
	defer l.Close()
	for _, step := range []struct {
		action Action
		rename bool
	}{{"one", false}, {"two", true}, {"three", false}} {
		if step.rename {
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			l.Use(file)
		}
		l.Record(Event{Action: step.action, Outcome: Done})
	}
	for name, want := range map[string]string{file + ".1": "one", file: "two three"} {
		var got []string
		for _, one := range lines(t, name) {
			got = append(got, one["action"].(string))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has %q, want %s", name, got, want)
		}
	}
}

func TestWhatTheFileDoesNotTakeIsInTheLogWhateverItsLevelIs(t *testing.T) {
	core, log := observer.New(zapcore.ErrorLevel)
	l := New(zap.New(core).Named("audit"))
	folder := t.TempDir()
	record := func() string {
		l.Record(Event{Action: TestSent, Outcome: Done, Device: "phone"})
		all := log.TakeAll()
		if len(all) == 0 {
			return ""
		}
		return all[0].Message + " " + all[0].ContextMap()["device"].(string) + " " + all[0].LoggerName
	}
	const inLog = "test notification phone audit"
	if got := record(); got != inLog || l.Failure() != nil {
		t.Errorf("without a file: %q, %v", got, l.Failure())
	}
	l.Use(filepath.Join(folder, "nowhere", "audit.ndjson"))
	if got := record(); got != inLog || l.Failure() == nil {
		t.Errorf("where the file cannot be made: %q, %v", got, l.Failure())
	}
	if _, err := os.Stat("/dev/full"); err == nil {
		l.Use("/dev/full")
		if got := record(); got != inLog || l.Failure() == nil {
			t.Errorf("on a full disk: %q, %v", got, l.Failure())
		}
		if l.Use("/dev/full"); l.Failure() == nil {
			t.Error("a full disk is said to be well because its file could be opened")
		}
	}
	pipe := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Use(pipe) // which nobody reads
	if got := record(); got != inLog || l.Failure() == nil {
		t.Errorf("a pipe: %q, %v", got, l.Failure())
	}
	l.Use(filepath.Join(folder, "audit.ndjson"))
	if got := record(); got != "" || l.Failure() != nil {
		t.Errorf("where it can be written again: %q, %v", got, l.Failure())
	}
	l.Close()
	if got := record(); got != inLog || l.Failure() != nil {
		t.Errorf("after the end: %q, %v", got, l.Failure())
	}
}

func TestALineAfterATornOneIsWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	l := New(zap.NewNop())
	l.Use(file)
	defer l.Close()
	if _, err := l.file.WriteString(`{"time":"20`); err != nil {
		t.Fatal(err)
	}
	l.torn = true // as a full disk leaves it
	l.Record(Event{Action: TestSent, Outcome: Done})
	l.Record(Event{Action: TestSent, Outcome: Done})
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Split(string(data), "\n"); len(all) != 4 || !json.Valid([]byte(all[1])) || !json.Valid([]byte(all[2])) || all[3] != "" {
		t.Errorf("%q", all)
	}
}

func TestLinesOfManyAtOnceAreWholeAlsoWhileTheFileIsOpenedAnew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	l := New(zap.NewNop())
	l.Use(file)
	var tasks sync.WaitGroup
	for range 8 {
		tasks.Go(func() {
			for range 50 {
				l.Record(Event{Action: DeviceEnrolled, Outcome: Done, Mailbox: strings.Repeat("a", 300) + "@contoso.com"})
			}
		})
	}
	for range 20 {
		l.Use(file)
	}
	tasks.Wait()
	l.Close()
	if n := len(lines(t, file)); n != 400 {
		t.Errorf("%d lines", n)
	}
}
