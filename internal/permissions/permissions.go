// Package permissions looks whether files are kept from others on the same machine: who may read a secret, and who may put another file in the
// place of one. It looks, and changes nothing.
package permissions

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const (
	// exposed is what the permissions of a file with a secret, or with the state, must not have: everybody may read it, or others than its
	// owner may change it. That a group may read it is how a service is often given its secrets.
	exposed = 0o026
	// writable is what those of another file must not have, and of the state's folder beside the group's: who may write there chooses what is
	// read.
	writable = 0o002
	// groupWritable is the part of the group.
	groupWritable = 0o020
)

// Doubt is something that is wrong with a file or folder, and what to do about it.
type Doubt struct{ Text, Advice string }

// File says what is doubtful about a file and its way. A file that is not there is not doubtful. secret: it holds one.
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

// Folder says what is doubtful about the folder of the state.
func Folder(path string) []Doubt {
	if i, err := os.Stat(path); err == nil {
		return open(i, writable|groupWritable, "chmod 700 "+path)
	}
	return nil
}

// open says what of the forbidden permissions a file or folder has. On Windows they are an access control list, which this does not show.
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
	return []Doubt{{fmt.Sprintf("%s is reached through a link, to %s: who can change the link chooses what is read", what, to), "name the file itself"}}
}
