package service

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestAtTheStartTheLogSaysWhichFilesAreNotKeptFromOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("its permissions are others")
	}
	for name, c := range map[string]struct {
		spoil func(d *desktop) error
		want  []string // key and what is said of it
	}{
		"all is well": {func(*desktop) error { return nil }, nil},
		"a secret for everybody to read": {func(d *desktop) error { return os.Chmod(filepath.Join(d.dir, "password"), 0o644) },
			[]string{"exchange[0].listener_accounts[0].basic.password_file everybody on this machine can read it (mode 0644)"}},
		"a secret by a link": {func(d *desktop) error {
			d.remove("mdm.token")
			d.write("elsewhere", "0123456789abcdef")
			return os.Symlink("elsewhere", filepath.Join(d.dir, "mdm.token"))
		}, []string{"api.clients[0].token_file it is reached through a link to elsewhere: who can change the link chooses what mailbell reads"}},
		"a configuration for everybody to change": {func(d *desktop) error { return os.Chmod(filepath.Join(d.dir, "mailbell.yaml"), 0o606) },
			[]string{"configuration everybody on this machine can write to it (mode 0606)"}},
		"a state for everybody to read": {func(d *desktop) error {
			state, err := subscriptions.OpenEmbedded(filepath.Join(d.dir, "mailbell.db"))
			if err != nil {
				return err
			}
			if err := state.Close(); err != nil {
				return err
			}
			return os.Chmod(filepath.Join(d.dir, "mailbell.db"), 0o644)
		}, []string{"state.path everybody on this machine can read it (mode 0644)"}},
		"a state by a link": {func(d *desktop) error {
			return os.Symlink("elsewhere.db", filepath.Join(d.dir, "mailbell.db"))
		}, []string{"state.path it is reached through a link to elsewhere.db: who can change the link chooses what mailbell reads"}},
		"a folder for everybody": {func(d *desktop) error { return os.Chmod(d.dir, 0o777) },
			[]string{"state.path everybody on this machine can write to it (mode 0777)"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesktop(t)
			if err := c.spoil(d); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), d.load(), d.log, "test")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
			var said []string
			for _, l := range d.logs.FilterMessage("file is not protected from others").All() {
				said = append(said, l.ContextMap()["key"].(string)+" "+l.ContextMap()["because"].(string))
			}
			if !slices.Equal(said, c.want) {
				t.Errorf("the log says:\n%s\nwant:\n%s", strings.Join(said, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestAStateInRedisHasNoFile(t *testing.T) {
	if got := stateDoubts(config.State{Path: "/", Redis: &config.Redis{}}); got != nil {
		t.Errorf("%v", got)
	}
}
