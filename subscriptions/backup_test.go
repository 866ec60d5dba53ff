package subscriptions_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mailbell/mailbell/subscriptions"
)

// A copy is the state of one moment, though it is written to meanwhile, and takes its place where there is none.
func TestACopyOfAStateFileTakesItsPlace(t *testing.T) {
	dir := t.TempDir()
	file, copied := filepath.Join(dir, "mailbell.db"), filepath.Join(dir, "copy")
	s, err := subscriptions.OpenEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	book, err := subscriptions.Open(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range 300 {
			e := subscriptions.Enrolment{ID: fmt.Sprint("phone-", i), Mailbox: "ann@contoso.example", Token: fmt.Sprintf("%064d", i), Topic: "com.contoso.mail", Environment: "production"}
			if _, err := book.Enrol(context.Background(), e, noon, noon); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 5 {
		if err := s.Backup(fmt.Sprint(copied, i)); err != nil {
			t.Fatal(err)
		}
	}
	writing.Wait()
	if err := s.Backup(copied); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(copied); err == nil {
		t.Error("a copy was written over")
	}
	if err := subscriptions.Restore(copied, file); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("over a state: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := subscriptions.Restore(fmt.Sprint(copied, i), filepath.Join(dir, fmt.Sprint("restored", i))); err != nil {
			t.Error(err)
		}
	}
	if err := subscriptions.Restore(copied, file); err != nil {
		t.Fatal(err)
	}
	if s, err = subscriptions.OpenEmbedded(file); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	again, err := subscriptions.Open(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := again.Devices("", "", 1000); len(list) != 300 || again.Secret() != book.Secret() {
		t.Errorf("%d devices", len(list))
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWhatIsNoStateOrDamagedIsNotRestored(t *testing.T) {
	dir := t.TempDir()
	good, bad, to := filepath.Join(dir, "good"), filepath.Join(dir, "bad"), filepath.Join(dir, "mailbell.db")
	s, err := subscriptions.OpenEmbedded(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"nothing": nil, "a text": []byte("no state"), "cut off": whole[:len(whole)/2], "zeros": make([]byte, len(whole))} {
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := subscriptions.Restore(bad, to); err == nil || strings.Contains(err.Error(), "delete") { // it may be anything
			t.Errorf("%s was restored, or is to be deleted: %v", name, err)
		}
		if left, _ := filepath.Glob(to + "*"); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
	if err := subscriptions.Restore(filepath.Join(dir, "none"), to); err == nil {
		t.Error("what is not there was restored")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// A copy on its way out holds every device token, and would fill the disk with each process that was killed meanwhile.
func TestNoCopyIsLeftBesideTheStateFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mailbell.db")
	names := func() string {
		var all []string
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			all = append(all, e.Name())
		}
		return strings.Join(all, " ")
	}
	s, err := subscriptions.OpenEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	err = s.Copy(writer(func(b []byte) (int, error) {
		size += len(b)
		for e := range strings.FieldsSeq(names()) { // as a process that is killed now leaves it
			if strings.HasPrefix(e, ".") {
				return len(b), os.CopyFS(filepath.Join(dir, e+"1"), os.DirFS(filepath.Join(dir, e)))
			}
		}
		t.Error("the copy goes out of no file")
		return len(b), nil
	}))
	if err != nil || size == 0 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, ".other.db.backup-1")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if s, err = subscriptions.OpenEmbedded(file); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := names(); got != filepath.Base(other)+" mailbell.db" {
		t.Errorf("there are %s", got)
	}
}
