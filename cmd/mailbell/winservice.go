package main

// The command service: mailbell as a service of Windows. The verbs are in winservice_windows.go; elsewhere there is systemd.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/config"
)

// eventLog is where the service logs unless it is told a file.
const eventLog = "eventlog"

// serviceOptions are what a service is installed with.
type serviceOptions struct {
	config string // the absolute path of the configuration
	log    string // eventLog, or the absolute path of a file
}

// serviceVerbs are those that people use. The service manager starts the program with the verb run.
var serviceVerbs = []string{"install", "uninstall", "start", "stop"}

const serviceRun = "run"

// winService installs, uninstalls, starts or stops the service, or is it.
func winService(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file`")
	to := flags.String("log", eventLog, "where the service logs: eventlog, or a `file`")
	verb, err := parseOne(flags, args, log, "one of "+strings.Join(serviceVerbs, ", "))
	if err != nil {
		return err
	}
	if verb != serviceRun && !slices.Contains(serviceVerbs, verb) {
		return usageError{fmt.Errorf("mailbell service: %q is not one of %s", verb, strings.Join(serviceVerbs, ", "))}
	}
	if !onWindows {
		return usageError{errors.New("mailbell service is for Windows. Here systemd runs mailbell: docs/install.md")}
	}
	var o serviceOptions
	o.config, err = filepath.Abs(*file)
	if err != nil {
		return err
	}
	o.log = *to
	if o.log != eventLog {
		o.log, err = filepath.Abs(*to)
		if err != nil {
			return err
		}
	}
	if verb == "install" {
		if _, err := config.Load(o.config); err != nil {
			return configError{err}
		}
	}
	return serviceDo(ctx, verb, o, out)
}

// serviceArguments are those with which the service manager starts the program.
func serviceArguments(o serviceOptions) []string {
	return []string{"service", serviceRun, "--config", o.config, "--log", o.log}
}
