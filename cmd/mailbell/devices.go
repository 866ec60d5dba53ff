package main

// The commands import and export: all devices at once, a line of JSON each.

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/quantity"
)

const (
	// maxAnswered bounds a line of an answer: an enrolment that is refused has some kilobytes of reasons at most.
	maxAnswered = 64 << 10
	// barWidth is that of the progress bar, and barEvery how often it moves.
	barWidth = 30
	barEvery = 100 * time.Millisecond
)

func importDevices(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file` of the running service")
	name, err := parseOne(flags, args, log, "a file of devices, or - for standard input")
	if err != nil {
		return err
	}
	ask, err := asking(*file, config.RoleEnrol, config.RoleAdmin)
	if err != nil {
		return err
	}
	from, lines, err := openLines(name)
	if err != nil {
		return err
	}
	defer from.Close()
	body, err := ask.stream(ctx, http.MethodPost, "/v1/devices:import", from)
	if err != nil {
		return err
	}
	defer body.Close()
	return follow(body, lines, out, log)
}

// openLines opens a file, and counts its lines for the progress; 0: nobody knows.
func openLines(name string) (f *os.File, lines int, err error) {
	if name == "-" {
		return os.Stdin, 0, nil
	}
	f, err = os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() { // a pipe is read once
		return f, 0, err
	}
	for in := bufio.NewScanner(f); in.Scan(); {
		lines++
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, lines, err
}

// follow reads the answers: what was refused goes to the log, and the sum to out.
func follow(body io.Reader, lines int, out, log io.Writer) error {
	in := bufio.NewScanner(body)
	in.Buffer(nil, maxAnswered)
	bar := newBar(log, lines)
	for in.Scan() {
		var answer struct {
			api.ImportLine
			api.ImportEnd
		}
		if err := json.Unmarshal(in.Bytes(), &answer); err != nil {
			return fmt.Errorf("the answer is not mailbell's: %w", err)
		}
		end := answer.ImportEnd
		switch {
		case answer.Line == 0: // the sum
			bar.clear()
			fmt.Fprintf(out, "%s: %d new, %d changed or the same, %d refused\n", quantity.Of(end.Lines, "device", "devices"), end.Created, end.Changed, end.Refused)
			if end.Stopped != "" {
				return fmt.Errorf("the import stopped after line %d: %s; what was enrolled stays, and the file can be imported again", bar.line, end.Stopped)
			}
			if end.Refused > 0 {
				return errors.New("some devices were refused; correct their lines, and import the file again")
			}
			return nil
		case answer.Status >= http.StatusBadRequest:
			bar.clear()
			fmt.Fprintf(log, "%s: %s\n", strings.TrimSpace(fmt.Sprintf("line %d %s", answer.ImportLine.Line, answer.ID)), refusal(answer.ImportLine))
		}
		bar.at(answer.ImportLine.Line)
	}
	bar.clear()
	return cmp.Or(in.Err(), fmt.Errorf("the answer was cut off after line %d; what was enrolled stays, and the file can be imported again", bar.line))
}

// refusal says why a line was refused.
func refusal(l api.ImportLine) string {
	if len(l.Errors) == 0 {
		return l.Detail
	}
	reasons := make([]string, len(l.Errors))
	for i, e := range l.Errors {
		reasons[i] = e.Field + ": " + e.Detail
	}
	return strings.Join(reasons, "; ")
}

// bar is a progress bar on a terminal, and nothing elsewhere.
type bar struct {
	to    io.Writer // nil: it is no terminal
	lines int
	line  int
	moved time.Time
}

func newBar(log io.Writer, lines int) *bar {
	b := &bar{lines: lines}
	if f, ok := log.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.to = f
		}
	}
	return b
}

// at moves it to a line.
func (b *bar) at(line int) {
	b.line = line
	if b.to == nil || time.Since(b.moved) < barEvery {
		return
	}
	b.moved = time.Now()
	if b.lines == 0 {
		fmt.Fprint(b.to, "\r", quantity.Of(line, "device", "devices"))
		return
	}
	full := min(line, b.lines) * barWidth / b.lines
	fmt.Fprintf(b.to, "\r[%-*s] %d of %d", barWidth, "##############################"[:full], line, b.lines)
}

// clear takes it off the terminal.
func (b *bar) clear() {
	if b.to != nil && !b.moved.IsZero() {
		fmt.Fprint(b.to, "\r\x1b[K")
	}
}

func exportDevices(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("export", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file` of the running service")
	tokens := flags.Bool("tokens", false, "with the device tokens in full, which only an admin may have: then import takes it")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	path, roles := "/v1/devices:export", []string{config.RoleRead, config.RoleTest, config.RoleAdmin, config.RoleEnrol}
	if *tokens {
		path, roles = path+"?tokens=true", []string{config.RoleAdmin}
	}
	ask, err := asking(*file, roles...)
	if err != nil {
		return err
	}
	body, err := ask.stream(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(out, body)
	return err
}
