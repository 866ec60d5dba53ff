// Command mailbell rings an iPhone when mail arrives in an Exchange mailbox.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Exit codes. A wrong configuration has its own, so that a service manager does not start the service again with it. It cannot be 2, because a
// Go program that panics exits with 2, and has to be started again.
const (
	done          = 0  // or stopped by SIGTERM or SIGINT
	failed        = 1  // it ran, and something failed
	misused       = 2  // the command line is wrong
	misconfigured = 78 // the configuration is wrong: EX_CONFIG of sysexits.h
)

// command is one of mailbell's commands.
type command struct {
	name, arguments, what string
	run                   func(ctx context.Context, args []string, out, log io.Writer) error
}

// usageError says that the command line is wrong: nothing was started.
type usageError struct{ error }

// configError says that the configuration is wrong: nothing was started.
type configError struct{ error }

func commands() []command {
	return []command{
		{"run", "--config mailbell.yaml", "the service", run},
		{"init", "ADDRESS [--dir DIR] [--yes]", "makes a configuration that works, in a dialogue", initialise},
		{"demo", "[--mailboxes 5] [--messages 10] [--exit]", "the real service against the simulator, nothing to install", demo},
		{"simulate", "[--dir DIR] [--mailboxes 5] [--hybrid] [--personality KIND]", "the simulator alone, for your own tests", simulate},
		{"check", "--config mailbell.yaml [--mailbox ADDRESS] [--device ID]", "tries everything that the service will need, with a mailbox or device also the steps to an alert", checkAll},
		{"check", "--config mailbell.yaml --plan N", "what N mailboxes need, and how to set up Exchange", checkAll},
		{"bench", "[--mailboxes N] [--rate N] [--duration D] [--state KIND] [--json]", "what this machine can do: the real service against the simulator", bench},
		{"why", "--config mailbell.yaml ADDRESS|DEVICE", "why did this phone not ring? asks the running service", why},
		{"import", "--config mailbell.yaml FILE", "enrols the devices of a file, a line of JSON each; can be run again", importDevices},
		{"export", "--config mailbell.yaml [--tokens]", "prints all devices, with their tokens as import takes them", exportDevices},
		{"state", "backup|restore --config mailbell.yaml FILE", "copies the state file, also while mailbell runs; puts a copy where no state file is", state},
		{"service", "install|uninstall|start|stop [--config FILE] [--log FILE]", "on Windows: mailbell as a service; logs to the event log, or to a file", winService},
		{"healthy", "--config mailbell.yaml", "exits with 0 where the service runs, for a container's health check", healthy},
		{"version", "", "the version", version},
		{"explain", "", "", later},
	}
}

func main() {
	stdlog.SetOutput(io.Discard) // see libraryLog; only the service has a log
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := call(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// call runs a command line. Results go to standard output, the log to standard error.
func call(ctx context.Context, args []string, out, log io.Writer) int {
	if len(args) == 0 {
		usage(log)
		return misused
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		usage(out)
		return done
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == strings.TrimPrefix(args[0], "--") && args[0] != "--run" })
	if i < 0 {
		fmt.Fprintf(log, "mailbell: there is no command %q\n", args[0])
		usage(log)
		return misused
	}
	err := all[i].run(ctx, args[1:], out, log)
	if all[i].name == "run" { // what supervises it waits for its end, and whoever reads the log may hang
		last := &logQueue{w: log}
		defer last.Close()
		log = last
	}
	if _, wrong := errors.AsType[usageError](err); wrong {
		fmt.Fprintln(log, err)
		return misused
	}
	if _, wrong := errors.AsType[configError](err); wrong {
		fmt.Fprintln(log, err)
		return misconfigured
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return done
	case err != nil:
		fmt.Fprintf(log, "mailbell: %v\n", err)
		return failed
	}
	return done
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "mailbell rings an iPhone when mail arrives in an Exchange mailbox.")
	fmt.Fprintln(w)
	for _, c := range commands() {
		if c.what != "" {
			c.describe(w)
		}
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "Exit codes: 0 done, or stopped; 1 it ran and something failed; 2 the command line is wrong; 78 the configuration is wrong.")
}

// describe prints how a command is called, and what it does.
func (c command) describe(w io.Writer) {
	fmt.Fprintf(w, "    mailbell %s\n        %s\n", strings.TrimSpace(c.name+" "+c.arguments), c.what)
}

// later refuses the commands of later versions.
func later(context.Context, []string, io.Writer, io.Writer) error {
	return usageError{fmt.Errorf("mailbell: this command is not available in this version of mailbell")}
}

// parse parses the flags of a command; it allows no other arguments.
func parse(flags *flag.FlagSet, args []string, log io.Writer) error {
	rest, err := parseAll(flags, args, log)
	if err == nil && len(rest) > 0 {
		err = usageError{fmt.Errorf("mailbell %s: %q is not an option", flags.Name(), rest[0])}
	}
	return err
}

// parseOne parses the flags of a command and its one argument, which may be before, between or after them.
func parseOne(flags *flag.FlagSet, args []string, log io.Writer, what string) (string, error) {
	rest, err := parseAll(flags, args, log)
	if err == nil && len(rest) != 1 {
		err = usageError{fmt.Errorf("mailbell %s: want %s", flags.Name(), what)}
	}
	if err != nil {
		return "", err
	}
	return rest[0], nil
}

// parseAll parses the flags of a command, and returns the other arguments.
func parseAll(flags *flag.FlagSet, args []string, log io.Writer) (rest []string, err error) {
	flags.SetOutput(log)
	flags.Usage = func() {
		for _, c := range commands() {
			if c.name == flags.Name() {
				c.describe(log)
			}
		}
		flags.PrintDefaults()
	}
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, usageError{fmt.Errorf("mailbell %s: the command line is wrong", flags.Name())} // flag has printed what is wrong
		}
		if flags.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
}
