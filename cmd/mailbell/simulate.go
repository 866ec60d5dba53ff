package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/simulator"
)

// simulate runs the simulator alone until it is stopped.
func simulate(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	dir := flags.String("dir", "", "write the CA certificate, the secrets and mailbell.yaml into this `folder`; default: a temporary one")
	mailboxes := flags.Int("mailboxes", 5, "how many `mailboxes` there are")
	personality := flags.String("personality", "", "behave as another `kind` of Exchange than Exchange Server SE: "+kinds())
	hybrid := flags.Bool("hybrid", false, "three Exchanges in one mail domain: on premises, Exchange Online with Entra ID, and another server")
	graph := flags.Bool("graph", false, "have mailbell listen to the mailboxes at Exchange Online by Microsoft Graph; implies -hybrid")
	signIn := flags.String("sign-in", simulator.AuthBasic, "the authentication `method` on premises: "+simulator.AuthBasic+" or "+simulator.AuthNTLM)
	protection := flags.Bool("extended-protection", true, "have NTLM need channel binding")
	listenBy := flags.String("listen-by", simulator.ByStreaming, "the `listen_by` of the mailbell.yaml that is written: "+simulator.ByStreaming+" or "+simulator.ByPush)
	schema := flags.Bool("schema-form", false, "write stream answers as the schema has them (t:Notification), and not as real servers do (m:Notification)")
	namespace := flags.Bool("default-namespace", false, "write the envelopes of streams in the other form that Exchange has for them: <Envelope xmlns=…> with soap11:Body")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	if *mailboxes < 0 {
		return usageError{fmt.Errorf("mailbell simulate: -mailboxes %d: want 0 or more", *mailboxes)}
	}
	if !slices.Contains(simulator.Personalities(), *personality) {
		return usageError{fmt.Errorf("mailbell simulate: -personality %s: want %s, or nothing", *personality, kinds())}
	}
	if *signIn != simulator.AuthBasic && *signIn != simulator.AuthNTLM {
		return usageError{fmt.Errorf("mailbell simulate: -sign-in %s: want %s or %s", *signIn, simulator.AuthBasic, simulator.AuthNTLM)}
	}
	if *listenBy != simulator.ByStreaming && *listenBy != simulator.ByPush {
		return usageError{fmt.Errorf("mailbell simulate: -listen-by %s: want %s or %s", *listenBy, simulator.ByStreaming, simulator.ByPush)}
	}
	if *dir == "" {
		temporary, err := os.MkdirTemp("", "mailbell-simulator-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		*dir = temporary
	}
	s, err := simulator.Start(ctx, simulator.Options{
		Dir: *dir, Mailboxes: *mailboxes, Personality: *personality, SchemaForm: *schema, DefaultNamespace: *namespace, Hybrid: *hybrid || *graph, Graph: *graph, Auth: []string{*signIn}, ExtendedProtection: *protection, ListenBy: *listenBy,
		GraphRoles: []string{"Mail.Read", "Mail.Send"}, // Mail.Send is for a canary
		Logf:       func(format string, a ...any) { fmt.Fprintf(log, format+"\n", a...) },
	})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(s.Announce()); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}

// kinds are the personalities that have a name.
func kinds() string {
	return strings.Join(slices.DeleteFunc(simulator.Personalities(), func(p string) bool { return p == "" }), ", ")
}
