package subscriptions

// Copies of a state file, and their way back.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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

// Folder is where the state file is.
func (s *Embedded) Folder() string { return filepath.Dir(s.file) }

// Restore puts a copy of a state file where none is. The copy is looked at before: what is damaged or no state is refused.
func Restore(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state file %s: it is there already; stop mailbell, move it away, and try again", to)
	}
	s, err := ReadEmbedded(from)
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
		err = os.Link(made, to) // and not over one that was made meanwhile
	}
	return errors.Join(err, os.Remove(made))
}
