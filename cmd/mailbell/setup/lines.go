package setup

// Reading a person's answers.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Reader reads answers.
type Reader interface {
	// Line reads a line, without its end. After the last line its error is io.EOF.
	Line(ctx context.Context) (string, error)
	// Secret reads a line that is not shown while it is typed.
	Secret(ctx context.Context) (string, error)
}

// maxLine bounds an answer; the longest are client secrets and lists of domains.
const maxLine = 64 << 10

// Lines reads answers from a file or pipe, where secrets are lines like others.
func Lines(r io.Reader) Reader { return &lines{in: bufio.NewReaderSize(r, maxLine)} }

type lines struct{ in *bufio.Reader }

func (l *lines) Line(ctx context.Context) (string, error) { return within(ctx, l.read) }

func (l *lines) Secret(ctx context.Context) (string, error) { return l.Line(ctx) }

// read reads a line. The last one need not have an end.
func (l *lines) read() (string, error) {
	line, err := l.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a line is longer than %d bytes", maxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// within reads until ctx ends. A read from a terminal or pipe cannot be ended: it goes on until the process ends, which is about to.
func within(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		line string
		err  error
	}
	came := make(chan answer, 1)
	go func() {
		line, err := read()
		came <- answer{line, err}
	}()
	select {
	case a := <-came:
		return a.line, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Terminal reads answers from a file that may be a terminal.
func Terminal(f *os.File, echo io.Writer) Reader {
	l := &lines{in: bufio.NewReaderSize(f, maxLine)}
	if fd := int(f.Fd()); term.IsTerminal(fd) {
		return &terminal{lines: l, fd: fd, echo: echo}
	}
	return l
}

type terminal struct {
	*lines
	fd   int
	echo io.Writer // gets the end of line that is not shown
}

func (t *terminal) Secret(ctx context.Context) (string, error) {
	before, err := term.GetState(t.fd)
	if err != nil {
		return "", err
	}
	secret, err := within(ctx, func() (string, error) {
		line, err := term.ReadPassword(t.fd)
		return string(line), err
	})
	fmt.Fprintln(t.echo)
	if ctx.Err() != nil { // the read goes on, and the person's next program needs the echo
		return "", errors.Join(ctx.Err(), term.Restore(t.fd, before))
	}
	return secret, err
}
