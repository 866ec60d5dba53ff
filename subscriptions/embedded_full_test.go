package subscriptions_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mailbell/mailbell/subscriptions"
)

// A start on a full disk leaves no file behind that the next one would take for a state that has lost what it held. The limit of the size
// of a file stands for the end of the disk.
func TestAStateFileThatCannotBeMadeLeavesNothing(t *testing.T) {
	for _, room := range []uint64{0, 4096} {
		file := filepath.Join(t.TempDir(), "mailbell.db")
		var before syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
		full := syscall.Rlimit{Cur: room, Max: before.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			t.Fatal(err)
		}
		_, err := subscriptions.OpenEmbedded(file)
		if reset := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); reset != nil {
			t.Fatal(reset)
		}
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("room for %d bytes: a file is left: %v", room, err)
		}
		s, err := subscriptions.OpenEmbedded(file)
		if err != nil {
			t.Fatalf("with room again: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
