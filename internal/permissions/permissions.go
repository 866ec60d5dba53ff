// Package permissions checks who else on the machine can read a secret, or replace a file. It changes nothing.
package permissions

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const (
	// exposed are permissions that a file with a secret, or with the state, must not have: everybody can read it, or others than its owner can
	// change it. A group may read it, which is a usual way to give a service its secrets.
	exposed = 0o026
	// writable are permissions that any other file must not have, nor, with groupWritable, the folder of the state: who can write there
	// chooses what mailbell reads.
	writable = 0o002
	// groupWritable is the part of the group.
	groupWritable = 0o020
)

// Doubt is what is wrong with a file or folder, and what to do about it.
type Doubt struct{ Text, Advice string }

// File returns the doubts about a file and its folders; none if the file does not exist. secret: it has a secret in it.
func File(path string, secret bool) (doubts []Doubt) {
	forbidden := os.FileMode(writable)
	if secret {
		forbidden = exposed
	}
	doubts = link(path, "it")
	doubts = append(doubts, link(filepath.Dir(path), "its folder")...)
	if i, err := os.Stat(path); err == nil {
		doubts = append(doubts, open(i, forbidden, "chmod 600 "+path)...)
	}
	return doubts
}

// Folder returns the doubts about the folder of the state.
func Folder(path string) []Doubt {
	if i, err := os.Stat(path); err == nil {
		return open(i, writable|groupWritable, "chmod 700 "+path)
	}
	return nil
}

// open reports which of the forbidden permissions a file or folder has. It cannot check the access control lists of Windows.
func open(i os.FileInfo, forbidden os.FileMode, advice string) []Doubt {
	has := i.Mode().Perm() & forbidden
	who := ""
	switch {
	case has == 0 || runtime.GOOS == "windows":
		return nil
	case has&writable != 0:
		who = "everybody on this machine can write to it"
	case has&groupWritable != 0:
		who = "its group can write to it"
	default:
		who = "everybody on this machine can read it"
	}
	return []Doubt{{fmt.Sprintf("%s (mode %04o)", who, i.Mode().Perm()), advice}}
}

// link says that a path is a link.
func link(path, what string) []Doubt {
	i, err := os.Lstat(path)
	if err != nil || i.Mode()&os.ModeSymlink == 0 {
		return nil
	}
	to, err := os.Readlink(path)
	if err != nil {
		to = "elsewhere"
	}
	text := fmt.Sprintf("%s is reached through a link to %s: who can change the link chooses what mailbell reads", what, to)
	return []Doubt{{text, "name the file itself"}}
}
