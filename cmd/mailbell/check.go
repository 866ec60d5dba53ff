package main

// The command check: it tries everything that the service will need.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/service"
)

const (
	maxPlan       = 1_000_000       // mailboxes: more than any organisation has is a slip of the keyboard
	statusTimeout = 5 * time.Second // for the status of a running service, which answers from memory and pings its state
	codeStandby   = "standby"       // of the problem with which an instance answers that does not hold the state
)

// errChecks says that a check failed; the results are on standard output.
var errChecks = errors.New("a check failed, see above")

func checkAll(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file`")
	mailbox := flags.String("mailbox", "", "also try what is needed to listen to the mailbox with this `address`")
	device := flags.String("device", "", "also try all steps of an alert, to a test alert on the device with this `id`")
	beyond := flags.String("beyond", "", "also see that the apps of Microsoft Graph cannot read the mailboxes with these `addresses`, with commas between them")
	plan := flags.Int("plan", 0, "print what `N` mailboxes need, and how to set up Exchange for them")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["plan"] && (given["mailbox"] || given["device"] || given["beyond"]) {
		return usageError{errors.New("mailbell check: -plan only prints: leave out -mailbox, -device and -beyond")}
	}
	of, err := subjectOf(given, *mailbox, *device, *beyond)
	if err != nil {
		return usageError{fmt.Errorf("mailbell check: %w", err)}
	}
	if given["plan"] && (*plan < 1 || *plan > maxPlan) {
		return usageError{fmt.Errorf("mailbell check: -plan %d: want 1 to %d mailboxes", *plan, maxPlan)}
	}
	c, err := config.Load(*file)
	if err != nil {
		return configError{err}
	}
	if given["plan"] {
		_, err := io.WriteString(out, service.Plan(c, *plan))
		return err
	}
	fine := true
	tell := func(r check.Result) {
		fine = fine && r.State != check.Failed
		show(out, r)
	}
	if err := service.Check(ctx, c, running(ctx, c), zap.NewNop(), buildVersion(), of, tell); err != nil {
		return err
	}
	if !fine {
		return errChecks
	}
	return nil
}

// subjectOf reads what the flags say that the check is about; given are those that are set.
func subjectOf(given map[string]bool, mailbox, device, beyond string) (of service.Subject, err error) {
	if given["device"] && device == "" {
		return of, errors.New("-device is empty")
	}
	of.Device = device
	if given["mailbox"] {
		of.Mailbox, err = mail.ParseAddress(mailbox)
		if err != nil {
			return of, fmt.Errorf("-mailbox: %w", err)
		}
	}
	if given["beyond"] {
		for address := range strings.SplitSeq(beyond, ",") {
			parsed, err := mail.ParseAddress(address)
			if err != nil {
				return of, fmt.Errorf("-beyond: %w", err)
			}
			of.Beyond = append(of.Beyond, parsed)
		}
	}
	return of, nil
}

// running asks the service that runs with c; nil: none answers.
func running(ctx context.Context, c *config.Config) *check.Running {
	ask, err := newClient(c, config.RoleTest, config.RoleAdmin, config.RoleRead)
	if err != nil {
		return nil
	}
	var status api.Status
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	here := &check.Running{At: c.Listen, Test: func(ctx context.Context, device string) (check.Report, error) { return test(ctx, c, device) }}
	err = ask.call(ctx, http.MethodGet, "/v1/status", nil, &status)
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Code == codeStandby {
		here.Standby = p.Detail
		return here
	}
	if err != nil {
		return nil
	}
	here.Conditions = status.Conditions
	return here
}

// test has the service send a test alert to a device.
func test(ctx context.Context, c *config.Config, device string) (report check.Report, err error) {
	ask, err := newClient(c, config.RoleTest, config.RoleAdmin)
	if err != nil {
		return report, &fault.Error{Op: "test notification", Code: "no client", Scope: fault.Server, Remedy: fault.Fix, Text: err.Error()}
	}
	err = ask.call(ctx, http.MethodPost, "/v1/test-notifications", map[string]string{"device": device}, &report)
	if p, ok := errors.AsType[*api.Problem](err); ok {
		f := &fault.Error{Op: "test notification", Code: fmt.Sprint("HTTP ", p.Status), Scope: fault.Mailbox, Remedy: fault.Fix, Text: p.Error()}
		switch {
		case p.Code == codeStandby:
			f.Code = codeStandby
		case p.Status == http.StatusNotFound:
			f.Code = "not_enrolled"
		case p.Status == http.StatusTooManyRequests:
			f.Code, f.Remedy = "too_soon", fault.Retry
		}
		err = f
	}
	return report, err
}

// show prints one result: a line, and below it the details.
func show(out io.Writer, r check.Result) {
	fmt.Fprintf(out, "%-8s %6s  %s\n", r.State, took(r.Took), r.Name)
	lines := []struct{ name, text string }{{"tried", r.Tried}, {"came back", r.Error}, {"do", r.Advice}}
	switch r.State {
	case check.OK:
		lines = []struct{ name, text string }{{"found", r.Found}}
	case check.Skipped:
		lines = []struct{ name, text string }{{"why", r.Advice}}
	}
	for _, l := range lines {
		if l.text != "" {
			fmt.Fprintf(out, "%17s%-10s %s\n", "", l.name+":", strings.ReplaceAll(l.text, "\n", "\n"+strings.Repeat(" ", 28)))
		}
	}
}

// took formats a time in at most six characters; empty: there was no wait.
func took(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
