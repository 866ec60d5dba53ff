package subscriptions

// Copies of a state file, and their way back.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/bbolt"
)

// Backup writes the state as it is at one moment to a new file. Writes go on meanwhile.
func (s *Embedded) Backup(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("the copy of the state: %w", err), os.Remove(file))
	}
	return nil
}

// Copy writes the state as it is at one moment. The copy is made beside the state file before any of it goes out, so that a slow reader keeps no
// transaction open: the file would grow meanwhile.
func (s *Embedded) Copy(to io.Writer) error {
	dir, err := os.MkdirTemp(filepath.Dir(s.file), copies(s.file)+"*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "state")
	if err := s.Backup(name); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// copies is how the names of the folders begin that hold the copies of a state file while they go out.
func copies(file string) string { return "." + filepath.Base(file) + ".backup-" }

// removeCopies removes the copies of a process that was killed while they went out: they hold all that the state does, and may fill the
// disk. The caller has locked the state file. What cannot be removed is no reason not to start.
func removeCopies(file string) {
	folder := filepath.Dir(file)
	list, _ := os.ReadDir(folder)
	for _, e := range list {
		if e.IsDir() && strings.HasPrefix(e.Name(), copies(file)) {
			_ = os.RemoveAll(filepath.Join(folder, e.Name()))
		}
	}
}

// Restore puts a copy of a state file where none is. The copy is looked at before: what is damaged or no state is refused.
func Restore(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state file %s: it is there already; stop mailbell, move it away, and try again", to)
	}
	s, err := ReadEmbedded(from)
	if errors.Is(err, ErrDamaged) { // what helps with a damaged state, to delete it, does not help with a file that may be anything
		return fmt.Errorf("%s: it is damaged, or no copy of a state of mailbell: name another one; nothing was changed", from)
	}
	if err != nil {
		return err
	}
	defer s.Close() // its lock keeps a mailbell that runs with it from changing it
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	made := to + ".restored"
	out, err := os.OpenFile(made, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = os.Link(made, to) // which replaces no file that was made meanwhile
	}
	return errors.Join(err, os.Remove(made))
}
