package systemd

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// environment is one of a process.
func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// manager is the socket of a systemd.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// told is the next datagram; empty: there is none.
func told(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 4096)
	n, err := c.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(text[:n])
}

// short is a folder for a socket, whose name may have 107 bytes.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSystemdIsToldInItsOwnWords(t *testing.T) {
	for kind, name := range map[string]string{"a file": filepath.Join(short(t), "notify"), "an abstract name": "@" + filepath.Base(short(t))} {
		t.Run(kind, func(t *testing.T) {
			c := manager(t, name)
			n := New(environment(map[string]string{"NOTIFY_SOCKET": name}), 1)
			if !n.Asked() {
				t.Error("nobody asks")
			}
			for _, step := range []struct {
				say  func() error
				want string
			}{
				{n.Ready, `^READY=1$`},
				{n.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`},
				{n.Alive, `^WATCHDOG=1$`},
				{func() error { return n.Status("two lines\nREADY=1") }, `^STATUS=two lines READY=1$`},
				{n.Stopping, `^STOPPING=1$`},
			} {
				if err := step.say(); err != nil {
					t.Fatal(err)
				}
				if got := told(t, c); !regexp.MustCompile(step.want).MatchString(got) {
					t.Errorf("told %q, want %s", got, step.want)
				}
			}
		})
	}
}

func TestAStatusIsToldOnce(t *testing.T) {
	name := filepath.Join(short(t), "notify")
	c := manager(t, name)
	n := New(environment(map[string]string{"NOTIFY_SOCKET": name}), 1)
	for _, line := range []string{"one", "one", "two"} {
		if err := n.Status(line); err != nil {
			t.Fatal(err)
		}
	}
	if got := told(t, c) + " " + told(t, c); got != "STATUS=one STATUS=two" {
		t.Errorf("told %q", got)
	}
}

func TestTheWatchdogIsOfThisProcess(t *testing.T) {
	for what, c := range map[string]struct {
		vars map[string]string
		want time.Duration
	}{
		"a watchdog":                   {map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, time.Minute},
		"one that names no process":    {map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "60000000"}, time.Minute},
		"another process's":            {map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, 0},
		"no number":                    {map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, 0},
		"none":                         {map[string]string{"NOTIFY_SOCKET": "@x"}, 0},
		"infinity":                     {map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9223372036854775807"}, 0},
		"one without a socket to tell": {map[string]string{"WATCHDOG_USEC": "60000000"}, 0},
	} {
		if got := New(environment(c.vars), 7).Watchdog(); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

func TestWithoutSystemdNothingIsSaid(t *testing.T) {
	n := New(environment(nil), 1)
	if n.Asked() {
		t.Error("somebody asks")
	}
	for _, say := range []func() error{n.Ready, n.Reloading, n.Alive, n.Stopping, func() error { return n.Status("x") }} {
		if err := say(); err != nil {
			t.Error(err)
		}
	}
}

func TestASystemdThatIsAwayIsAnErrorAndIsToldAgain(t *testing.T) {
	name := filepath.Join(short(t), "notify")
	n := New(environment(map[string]string{"NOTIFY_SOCKET": name}), 1)
	if err := n.Status("one"); err == nil {
		t.Error("no error")
	}
	c := manager(t, name)
	if err := n.Status("one"); err != nil {
		t.Fatal(err)
	}
	if got := told(t, c); got != "STATUS=one" {
		t.Errorf("told %q", got)
	}
}
