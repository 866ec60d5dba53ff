package main

// The command state: copies of the state file.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/subscriptions"
)

func state(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("state", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file` of the service")
	rest, err := parseAll(flags, args, log)
	if err != nil {
		return err
	}
	if len(rest) > 0 && rest[0] == "move" {
		return usageError{errors.New("mailbell state: move is not available in this version of mailbell; export and import move the devices")}
	}
	if len(rest) != 2 || rest[0] != "backup" && rest[0] != "restore" {
		return usageError{errors.New("mailbell state: want backup FILE or restore FILE")}
	}
	c, err := config.Load(*file)
	switch {
	case err != nil:
		return configError{err}
	case c.State.Redis != nil:
		return configError{fmt.Errorf("%s: the state is not in a file but in Redis: back it up there", *file)}
	case rest[0] == "restore":
		if err := subscriptions.Restore(rest[1], c.State.Path); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is in place; start mailbell\n", c.State.Path)
		return nil
	}
	if err := backup(ctx, c, rest[1]); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is a copy of the state. It has all device tokens in it: keep it as you keep a password\n", rest[1])
	return nil
}

// backup copies the state to a new file: from the service that runs, or where none does from its file.
func backup(ctx context.Context, c *config.Config, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already, and nothing is overwritten: name a new file", to)
	}
	s, err := subscriptions.ReadEmbedded(c.State.Path)
	if err == nil {
		return errors.Join(s.Backup(to), s.Close())
	}
	if !errors.Is(err, subscriptions.ErrInUse) {
		return err
	}
	ask, err := newClient(c, config.RoleAdmin)
	if err != nil {
		return configError{fmt.Errorf("mailbell runs, and only one of its clients may have the copy: %w", err)}
	}
	body, err := ask.stream(ctx, http.MethodGet, "/v1/state:backup", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = whole(to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the copy is not whole: %w", err), os.Remove(to))
	}
	return nil
}

// whole says whether a copy can be read.
func whole(file string) error {
	s, err := subscriptions.ReadEmbedded(file)
	if err != nil {
		return err
	}
	return s.Close()
}
