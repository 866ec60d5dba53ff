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
		if err := subscriptions.Restore(bad, to); err == nil {
			t.Errorf("%s was restored", name)
		}
		if left, _ := filepath.Glob(to + "*"); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
	if err := subscriptions.Restore(filepath.Join(dir, "none"), to); err == nil {
		t.Error("what is not there was restored")
	}
}
