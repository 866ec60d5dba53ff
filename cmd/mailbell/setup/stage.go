package setup

// The files of a configuration, in a folder of their own until they are complete. So nobody finds half a configuration.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	folderMode = 0o700
	fileMode   = 0o600
)

// stage is where the files are written before they come to dir.
type stage struct {
	dir     string   // absolute
	folder  string   // within dir; empty: not made
	madeDir bool     // dir was not there
	files   []string // those in folder, by their names in it
	left    []string // stages that were not discarded, because their process was killed
}

// prefix begins the name of the folder of a stage.
const prefix = ".mailbell-init-"

// open looks at the folder of a configuration. It refuses one that has one already.
func open(dir string) (*stage, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var there []string
	for _, name := range []string{configFile, secretsDir, defaultState} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			there = append(there, name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if there != nil {
		return nil, fmt.Errorf("%s has %s, and mailbell init overwrites nothing: name another folder (--dir)", dir, strings.Join(there, " and "))
	}
	s := &stage{dir: dir}
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), prefix) {
			s.left = append(s.left, filepath.Join(dir, d.Name()))
		}
	}
	return s, nil
}

// file is mailbell.yaml of the stage.
func (s *stage) file() string { return filepath.Join(s.folder, configFile) }

// write replaces the files of the stage.
func (s *stage) write(files []file) error {
	secrets := filepath.Join(s.folder, secretsDir)
	if err := os.RemoveAll(secrets); err != nil {
		return err
	}
	if err := os.Mkdir(secrets, folderMode); err != nil {
		return err
	}
	s.files = nil
	for _, f := range files {
		if err := writeFile(filepath.Join(s.folder, f.name), f.data); err != nil {
			return err
		}
		s.files = append(s.files, f.name)
	}
	return nil
}

// make makes the folder, and dir if it is missing.
func (s *stage) make() error {
	err := os.Mkdir(s.dir, folderMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.madeDir = err == nil
	s.folder, err = os.MkdirTemp(s.dir, prefix)
	return err
}

func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// publish moves the files to their place, the configuration last. A file that came there meanwhile is left as it is.
func (s *stage) publish() error {
	if err := s.sync(); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	secrets, to := filepath.Join(s.folder, secretsDir), filepath.Join(s.dir, secretsDir)
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s was made meanwhile: nothing was written", to)
	}
	if err := os.Rename(secrets, to); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	// A link, because a rename would replace a file that came there meanwhile.
	if err := os.Link(s.file(), filepath.Join(s.dir, configFile)); err != nil {
		return errors.Join(fmt.Errorf("nothing was written: %w", err), os.Rename(to, secrets))
	}
	s.madeDir = false
	return nil
}

// sync has the disk hold what was written, so that no file is found empty after a loss of power.
func (s *stage) sync() error {
	for _, name := range s.files {
		f, err := os.OpenFile(filepath.Join(s.folder, name), os.O_RDWR, fileMode)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// discard removes what is not published. What cannot be removed is left: it is in a folder of its own.
func (s *stage) discard() {
	if s.folder != "" {
		_ = os.RemoveAll(s.folder)
	}
	if s.madeDir {
		_ = os.Remove(s.dir)
	}
}
