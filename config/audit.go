package config

// Where it is written who did what.

import (
	"os"
	"path/filepath"
)

// Audit says where the audit log is.
type Audit struct {
	File string // empty: in the log
}

// audit reads the section. Whether the file can be written is seen while mailbell runs: mail does not depend on it.
func (o *object) audit() Audit {
	defer o.end()
	v := o.get("file")
	path, ok := v.file()
	if !ok {
		return Audit{}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		v.fail("the folder %s does not exist", shown(filepath.Dir(path)))
	} else if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		v.fail("%s is not a regular file", shown(path))
	}
	return Audit{File: path}
}
