package setup

// A real terminal: its two ends are /dev/ptmx and /dev/pts/N.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pseudo opens a terminal: what a person types goes into person, and what they see comes from there.
func pseudo(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

// echoes waits until a terminal shows what is typed, or does not.
func echoes(t *testing.T, terminal *os.File, want bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	for {
		state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if state.Lflag&unix.ECHO != 0 == want {
			return
		}
		select {
		case <-look.C:
		case <-end.C:
			t.Fatalf("the terminal does not change to echo %v", want)
		}
	}
}

func typed(t *testing.T, person *os.File, text string) {
	t.Helper()
	if _, err := person.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestASecretIsNotShownWhileItIsTyped(t *testing.T) {
	person, terminal := pseudo(t)
	var after bytes.Buffer
	r := Terminal(terminal, &after)
	typed(t, person, "name\n")
	if got, err := r.Line(t.Context()); err != nil || got != "name" {
		t.Fatalf("read %q, %v", got, err)
	}
	type answer struct {
		line string
		err  error
	}
	came := make(chan answer, 1)
	go func() {
		line, err := r.Secret(t.Context())
		came <- answer{line, err}
	}()
	echoes(t, terminal, false)
	typed(t, person, "hunter2\n")
	if a := <-came; a.err != nil || a.line != "hunter2" || after.String() != "\n" {
		t.Errorf("read %q, %v; after it %q", a.line, a.err, after.String())
	}
	echoes(t, terminal, true)
	seen := make([]byte, 1000)
	n, err := person.Read(seen)
	if err != nil || !strings.Contains(string(seen[:n]), "name") || strings.Contains(string(seen[:n]), "hunter2") {
		t.Errorf("seen: %q, %v", seen[:n], err)
	}
}

func TestAnInterruptWhileASecretIsTypedGivesTheEchoBack(t *testing.T) {
	person, terminal := pseudo(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := Terminal(terminal, &bytes.Buffer{})
	came := make(chan error, 1)
	go func() {
		_, err := r.Secret(ctx)
		came <- err
	}()
	echoes(t, terminal, false)
	cancel()
	if err := <-came; !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	echoes(t, terminal, true)
	typed(t, person, "\n") // so that the read that goes on ends
}
