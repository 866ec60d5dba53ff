package service

// What systemd is told, on a real socket.

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/systemd"
)

// patience bounds what takes milliseconds, on a machine that does much else.
const patience = time.Minute

// manager is a systemd with its socket.
type manager struct {
	t    *testing.T
	name string
	told chan string // what it was told and nobody has awaited: more than a test leads to
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // the name of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{t: t, name: filepath.Join(dir, "notify"), told: make(chan string, 1<<16)}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { // at once, as systemd does: a socket holds few datagrams
		text := make([]byte, 4096)
		for {
			n, err := socket.Read(text)
			if err != nil {
				return
			}
			m.told <- string(text[:n])
		}
	})
	t.Cleanup(func() {
		socket.Close()
		reading.Wait()
	})
	return m
}

// await waits until it is told something that matches, and returns what it was told before.
func (m *manager) await(want string) (before []string) {
	m.t.Helper()
	matches := regexp.MustCompile("^" + want + "$").MatchString
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		select {
		case told := <-m.told:
			if matches(told) {
				return before
			}
			before = append(before, told)
		case <-end.C:
			m.t.Fatalf("%s was not told, but %q", want, before)
		}
	}
}

// notifier is one with a watchdog.
func (m *manager) notifier(watchdog string) *systemd.Notifier {
	return systemd.New(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": m.name, "WATCHDOG_USEC": watchdog}[name]
	}, os.Getpid())
}

// supervised runs a service that systemd has started, until end is called. It reaches no server.
func supervised(t *testing.T, m *manager, watchdog string, hold state) (*Service, func()) {
	t.Helper()
	d := newDesktop(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, d.load(), zap.NewNop(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if hold != nil {
		if err := s.state.close(); err != nil {
			t.Fatal(err)
		}
		s.state = hold
	}
	s.Notify(m.notifier(watchdog), func() {})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestSystemdIsToldOfTheWholeLifeOfTheService(t *testing.T) {
	m := newManager(t)
	s, end := supervised(t, m, "20000", nil) // 20 ms
	if before := m.await("READY=1"); len(before) > 0 {
		t.Errorf("told %q before it was ready", before)
	}
	if c, err := net.Dial("tcp", s.Address().String()); err != nil {
		t.Errorf("it is ready and does not answer: %v", err)
	} else {
		c.Close()
	}
	m.await("STATUS=no mailbox")
	m.await("WATCHDOG=1")
	m.await("WATCHDOG=1")
	s.Reload()
	m.await(`RELOADING=1\nMONOTONIC_USEC=[0-9]+`)
	if between := m.await("READY=1"); slices.ContainsFunc(between, func(told string) bool { return strings.HasPrefix(told, "RELOADING") }) {
		t.Errorf("told %q within a reload", between)
	}
	end()
	m.await("STOPPING=1")
	m.await("STATUS=stopping")
}

// waiting is a state that another instance holds.
type waitingState struct{}

func (waitingState) hold(ctx context.Context, standby func(string, error)) (held, error) {
	standby("", errors.New("no route to host"))
	standby("mailbell-2", nil)
	<-ctx.Done()
	return held{}, ctx.Err()
}

func (waitingState) close() error { return nil }

// An outage of the state must not have systemd start the service again and again, nor does a standby.
func TestAStandbyIsReadyAndLives(t *testing.T) {
	m := newManager(t)
	_, end := supervised(t, m, "20000", waitingState{})
	m.await("READY=1")
	m.await("STATUS=standby: mailbell-2 holds the state")
	m.await("WATCHDOG=1")
	end()
}

// brokenState is one that cannot be read.
type brokenState struct{ waitingState }

func (brokenState) hold(context.Context, func(string, error)) (held, error) {
	return held{}, errors.New("the state cannot be read")
}

func TestAServiceThatCannotStartIsNeverReady(t *testing.T) {
	m := newManager(t)
	d := newDesktop(t)
	s, err := Open(t.Context(), d.load(), zap.NewNop(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.state.close(); err != nil {
		t.Fatal(err)
	}
	s.state = brokenState{}
	s.Notify(m.notifier(""), func() { t.Error("it has started") })
	if err := s.Run(t.Context()); err == nil {
		t.Error("it ran")
	}
	if before := m.await("STATUS=stopping"); slices.Contains(before, "READY=1") {
		t.Errorf("told %q", before)
	}
}

func TestWithoutAWatchdogNobodyIsToldThatItLives(t *testing.T) {
	m := newManager(t)
	_, end := supervised(t, m, "", nil)
	m.await("READY=1")
	end()
	if before := m.await("STATUS=stopping"); slices.Contains(before, "WATCHDOG=1") {
		t.Errorf("told %q", before)
	}
}
