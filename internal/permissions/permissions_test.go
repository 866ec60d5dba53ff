package permissions

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func make0(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAFileThatOthersCanReadOrChangeIsDoubtful(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("its permissions are others")
	}
	dir := t.TempDir()
	for mode, c := range map[os.FileMode]struct{ secret, other string }{
		0o600: {}, 0o400: {}, 0o640: {},
		0o644: {secret: "everybody on this machine can read it"},
		0o604: {secret: "everybody on this machine can read it"},
		0o660: {secret: "its group can write to it"},
		0o666: {"everybody on this machine can write to it", "everybody on this machine can write to it"},
		0o602: {"everybody on this machine can write to it", "everybody on this machine can write to it"},
	} {
		file := make0(t, filepath.Join(dir, "f"), mode)
		for secret, want := range map[bool]string{true: c.secret, false: c.other} {
			got := File(file, secret)
			if (want == "") != (len(got) == 0) || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0].Text, want) || got[0].Advice != "chmod 600 "+file) {
				t.Errorf("%04o, secret %v: %q, want %q", mode, secret, got, want)
			}
		}
	}
	if got := File(filepath.Join(dir, "missing"), true); got != nil {
		t.Errorf("a file that is not there: %q", got)
	}
}

func TestAFileThatIsReachedThroughALinkIsDoubtful(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	make0(t, filepath.Join(folder, "f"), 0o600)
	for name, to := range map[string]string{"a link": filepath.Join(folder, "f"), "a linked folder": folder} {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Skip(err)
		}
		if to == folder {
			path = filepath.Join(path, "f")
		}
		if got := File(path, true); len(got) != 1 || !strings.Contains(got[0].Text, "link to "+to) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestAFolderThatOthersCanWriteToIsDoubtful(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("its permissions are others")
	}
	dir := t.TempDir()
	for mode, doubtful := range map[os.FileMode]bool{0o700: false, 0o755: false, 0o750: false, 0o775: true, 0o777: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if got := Folder(dir); (len(got) == 1) != doubtful {
			t.Errorf("%04o: %q", mode, got)
		}
	}
}
