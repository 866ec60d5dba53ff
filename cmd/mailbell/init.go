package main

// The command init: a configuration that works, in a dialogue.

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/cmd/mailbell/setup"
)

func initialise(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	dir := flags.String("dir", ".", "write mailbell.yaml and secrets into this `folder`")
	yes := flags.Bool("yes", false, "ask nothing: what no flag answers has its default, or is missing")
	untried := flags.Bool("no-check", false, "write the configuration without trying it")
	given := setup.Flags(flags)
	address, err := parseOne(flags, args, log, "the mail address of one mailbox")
	if err != nil {
		return err
	}
	err = setup.Run(ctx, setup.Options{
		Address: address, Dir: *dir, Given: given(), Yes: *yes, Untried: *untried, Version: buildVersion(),
		Answers: setup.Terminal(os.Stdin, log), Talk: log, Out: out, Show: func(r check.Result) { show(out, r) },
	})
	if wrong, ok := errors.AsType[setup.UsageError](err); ok {
		return usageError{wrong}
	}
	return err
}
