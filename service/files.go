package service

// Which files others on the same machine can read or replace.

import (
	"path/filepath"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/permissions"
)

// fileDoubt is a doubt about a file or folder that a key of the configuration names.
type fileDoubt struct {
	key, path string
	permissions.Doubt
}

// fileDoubts are the doubts about the configuration and the files that it names.
func fileDoubts(c *config.Config) (list []fileDoubt) {
	list = doubtful(list, "configuration", c.File, permissions.File(c.File, false))
	for _, f := range c.Files {
		list = doubtful(list, f.Key, f.Path, permissions.File(f.Path, f.Secret))
	}
	if c.Audit.File != "" {
		list = doubtful(list, "audit.file", c.Audit.File, permissions.File(c.Audit.File, true))
	}
	return list
}

// stateDoubts are the doubts about the state file, which has the device tokens and the locations of mailboxes.
func stateDoubts(c config.State) (list []fileDoubt) {
	if c.Redis != nil {
		return nil
	}
	list = doubtful(list, "state.path", c.Path, permissions.File(c.Path, true))
	folder := filepath.Dir(c.Path)
	return doubtful(list, "state.path", folder, permissions.Folder(folder))
}

func doubtful(list []fileDoubt, key, path string, doubts []permissions.Doubt) []fileDoubt {
	for _, d := range doubts {
		list = append(list, fileDoubt{key, path, d})
	}
	return list
}
