package subscriptions_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil { // most of their time these tests wait
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestEmbeddedConforms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	storetest.Run(t, func(t *testing.T) subscriptions.Store { return open(t, file) })
}

func TestMemoryConforms(t *testing.T) {
	m := &storetest.Memory{}
	storetest.Run(t, func(*testing.T) subscriptions.Store {
		m.Reopen()
		return m
	})
}

func open(t *testing.T, file string) subscriptions.Store {
	t.Helper()
	s, err := subscriptions.OpenEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASecondProcessOnTheFileIsToldWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mailbell.db")
	s := open(t, file)
	defer s.Close()
	began := time.Now()
	_, err := subscriptions.OpenEmbedded(file)
	if !errors.Is(err, subscriptions.ErrInUse) || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v; want one that says that %s is in use", err, file)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAStateFileThatIsNoneIsRefusedAndKept(t *testing.T) {
	for name, content := range map[string]string{"text": strings.Repeat("not a state file\n", 1000), "another version": ""} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "mailbell.db")
			if content != "" {
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				s := open(t, file)
				s.Close()
				db, err := bbolt.Open(file, 0o600, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("77")) }); err != nil {
					t.Fatal(err)
				}
				db.Close()
			}
			before, _ := os.ReadFile(file)
			want := subscriptions.ErrDamaged
			if content == "" {
				want = subscriptions.ErrNewer
			}
			for _, open := range []func(string) (*subscriptions.Embedded, error){subscriptions.OpenEmbedded, subscriptions.ReadEmbedded} {
				if _, err := open(file); !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
					t.Errorf("error %v; want one that names the file, and is %q", err, want)
				}
			}
			if after, _ := os.ReadFile(file); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestAFolderThatDoesNotExistIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"none", "file"} {
		_, err := subscriptions.OpenEmbedded(filepath.Join(dir, folder, "mailbell.db"))
		if err == nil || !strings.Contains(err.Error(), "folder does not exist") {
			t.Errorf("%s: error %v", folder, err)
		}
	}
	if _, err := subscriptions.OpenEmbedded(dir); err == nil || strings.Contains(err.Error(), "folder does not exist") {
		t.Errorf("what is no file, in a folder that exists: %v", err)
	}
}

func TestTheStateFileIsForItsOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	open(t, file).Close()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: device tokens are in it", info.Mode(), err)
	}
}

func TestARecordWithoutADeviceIsNotThere(t *testing.T) {
	s := &storetest.Memory{}
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), subscriptions.Change{Put: []*subscriptions.Record{{ID: "r1", Addresses: []string{alice}}}}); err != nil {
		t.Fatal(err)
	}
	b := openBook(t, s)
	if len(b.Mailboxes()) != 0 || b.Mailbox(alice) != nil {
		t.Error("a mailbox that nobody is alerted for is listened to")
	}
	enrol(t, b, "d1", alice, "aa")
	if r := b.Mailbox(alice).Record(); r.ID != "r1" || !r.Dies.IsZero() {
		t.Errorf("its device was enrolled again, and its log is another: %+v", r)
	}
}
