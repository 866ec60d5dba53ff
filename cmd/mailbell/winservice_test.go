package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestTheServiceOfWindowsIsRefusedElsewhere(t *testing.T) {
	if onWindows {
		t.Skip("this is Windows")
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"install"}, "is for Windows"},
		{[]string{"install", "--config", "x.yaml", "--log", "x.log"}, "is for Windows"},
		{[]string{"uninstall"}, "is for Windows"},
		{[]string{"start"}, "is for Windows"},
		{[]string{"stop"}, "is for Windows"},
		{[]string{"run"}, "is for Windows"},
		{[]string{"restart"}, "restart"},
		{nil, "one of install, uninstall, start, stop"},
		{[]string{"install", "start"}, "one of install, uninstall, start, stop"},
	} {
		var out, log bytes.Buffer
		if code := call(t.Context(), append([]string{"service"}, c.args...), &out, &log); code != misused || !strings.Contains(log.String(), c.says) || out.Len() > 0 {
			t.Errorf("%v: exit code %d: %s%s", c.args, code, out.String(), log.String())
		}
	}
}

func TestTheServiceManagerStartsWhatWasInstalled(t *testing.T) {
	o := serviceOptions{config: `C:\ProgramData\mailbell\mailbell.yaml`, log: eventLog}
	if got := strings.Join(serviceArguments(o), " "); got != `service run --config C:\ProgramData\mailbell\mailbell.yaml --log eventlog` {
		t.Error(got)
	}
}

func TestALogInAFileIsBoundedAndKeepsTheNewestLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mailbell.log")
	if err := os.WriteFile(name, []byte("from before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 100
	l, err := openLogFile(name, most)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for i := range 40 {
		if _, err := fmt.Fprintf(l, "line %02d\n", i); err != nil {
			t.Fatal(err)
		}
		if i == 0 && !strings.HasPrefix(read(name), "from before\n") {
			t.Error("what was there is gone")
		}
	}
	all := read(name+".1") + read(name)
	if len(read(name)) > most || len(read(name+".1")) > most || !strings.HasSuffix(all, "line 38\nline 39\n") || len(all) <= most {
		t.Errorf("kept %q", all)
	}
	var writing sync.WaitGroup
	for range 8 {
		writing.Go(func() {
			for range 50 {
				_, _ = l.Write([]byte("0123456\n"))
			}
		})
	}
	writing.Wait()
	if text := read(name); len(text)%8 != 0 || strings.Trim(strings.ReplaceAll(text, "0123456\n", ""), "\n") != "" {
		t.Errorf("lines are mixed: %q", text)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
