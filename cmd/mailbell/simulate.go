package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/mailbell/mailbell/simulator"
)

// simulate runs the simulator alone until it is stopped.
func simulate(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	dir := flags.String("dir", "", "write the CA certificate, the secrets and mailbell.yaml into this `folder`; default: a temporary one")
	mailboxes := flags.Int("mailboxes", 5, "how many `mailboxes` there are")
	personality := flags.String("personality", "", "whose server Exchange is like: empty, Microsoft's; or "+simulator.Gromox+", a `kind` that is not")
	schema := flags.Bool("schema-form", false, "write stream answers as the schema has them (t:Notification), and not as real servers do (m:Notification)")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	if *mailboxes < 0 {
		return usageError{fmt.Errorf("mailbell simulate: -mailboxes %d: want 0 or more", *mailboxes)}
	}
	if *personality != "" && *personality != simulator.Gromox {
		return usageError{fmt.Errorf("mailbell simulate: -personality %s: want %s, or nothing", *personality, simulator.Gromox)}
	}
	if *dir == "" {
		temporary, err := os.MkdirTemp("", "mailbell-simulator-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		*dir = temporary
	}
	s, err := simulator.Start(ctx, simulator.Options{Dir: *dir, Mailboxes: *mailboxes, Personality: *personality, SchemaForm: *schema, Logf: func(format string, a ...any) { fmt.Fprintf(log, format+"\n", a...) }})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(s.Announce()); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}
