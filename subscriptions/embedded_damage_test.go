package subscriptions_test

// State files that are not what mailbell wrote: what can be read goes on, what cannot is said, and nothing panics.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/mailbell/mailbell/subscriptions"
)

// stateFile makes a state file with mailboxes that have two devices each, and returns what is in it.
func stateFile(t *testing.T, mailboxes int) (file string, all subscriptions.Contents) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "mailbell.db")
	s := open(t, file)
	b, err := subscriptions.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range mailboxes {
		mailbox := fmt.Sprintf("m%02d@contoso.example", i)
		enrol(t, b, fmt.Sprintf("d%02d-a", i), mailbox, fmt.Sprintf("aa%02d", i))
		enrol(t, b, fmt.Sprintf("d%02d-b", i), mailbox, fmt.Sprintf("bb%02d", i))
	}
	if all, err = s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !all.New {
		t.Error("it is not said that the state is new")
	}
	all.New = false
	return file, all
}

// alter changes a state file behind mailbell's back.
func alter(t *testing.T, file string, change func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnEmptyFileSaysHowToBeginAnew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := subscriptions.OpenEmbedded(file)
	if !errors.Is(err, subscriptions.ErrDamaged) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("error %v; want one that says how to begin anew", err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() != 0 {
		t.Errorf("it was changed: %v, %v", info, err)
	}
}

func TestAFileThatWasCutOffIsRefusedInWords(t *testing.T) {
	file, _ := stateFile(t, 20)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 100, 4095, 4096, 8192, 12288, 12289, 20000} {
		cut := filepath.Join(t.TempDir(), "mailbell.db")
		if err := os.WriteFile(cut, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := subscriptions.OpenEmbedded(cut); !errors.Is(err, subscriptions.ErrDamaged) || !strings.Contains(err.Error(), cut) {
			t.Errorf("%d bytes: error %v", size, err)
		}
		if after, _ := os.ReadFile(cut); !bytes.Equal(after, whole[:size]) {
			t.Errorf("%d bytes: the file was changed", size)
		}
	}
}

// Whatever single bit or page of a file is wrong: it is refused in words, or what is read from it is what was written, and what is
// missing is told.
func TestADamagedFileIsRefusedOrReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	file, want := stateFile(t, 20)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	records, devices := map[string]*subscriptions.Record{}, map[string]*subscriptions.Device{}
	for _, r := range want.Records {
		records[r.ID] = r
	}
	for _, d := range want.Devices {
		devices[d.ID] = d
	}
	dice := rand.New(rand.NewPCG(3, 4))
	refused, aside := 0, 0
	for i := range 150 {
		damaged := bytes.Clone(whole)
		switch i % 3 {
		case 0:
			damaged[dice.IntN(len(damaged))] ^= byte(1 << dice.IntN(8))
		case 1:
			clear(damaged[dice.IntN(len(damaged)/512)*512:][:512])
		case 2:
			from := dice.IntN(len(damaged)/4096) * 4096
			for j := range 4096 {
				damaged[from+j] = byte(dice.Uint32())
			}
		}
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := subscriptions.OpenEmbedded(file)
		if err != nil {
			refused++
			continue
		}
		all, err := s.Load(t.Context())
		if err == nil {
			for _, r := range all.Records {
				if diff := cmp.Diff(records[r.ID], r); diff != "" {
					t.Errorf("try %d: a record is another:\n%s", i, diff)
				}
			}
			for _, d := range all.Devices {
				if diff := cmp.Diff(devices[d.ID], d); diff != "" {
					t.Errorf("try %d: a device is another:\n%s", i, diff)
				}
			}
			if missing := len(records) + len(devices) - len(all.Records) - len(all.Devices); missing > len(all.Damaged) {
				t.Errorf("try %d: %d values are missing, and %d are told", i, missing, len(all.Damaged))
			}
			aside += len(all.Damaged)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 150 refused, %d values set aside", refused, aside)
}

func TestAValueThatCannotBeReadIsSetAsideAndTheOthersGoOn(t *testing.T) {
	bucket := func(tx *bbolt.Tx, name string) *bbolt.Bucket { return tx.Bucket([]byte(name)) }
	put := func(name, key, value string) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return bucket(tx, name).Put([]byte(key), []byte(value)) }
	}
	for name, c := range map[string]struct {
		damage func(tx *bbolt.Tx) error
		kept   int // how many of the 3 records and 6 devices
		says   []string
	}{
		"cut":             {put("records", "r1", "2 0"), 9, []string{`record "r1"`}},
		"JSON alone":      {put("records", "r1", `{"id":"r1","addresses":["a@b.example"]}`), 9, []string{`record "r1"`}},
		"deep":            {put("devices", "deep", strings.Repeat("[", 1<<20)), 9, []string{`device "deep"`}},
		"of another kind": {func(tx *bbolt.Tx) error { _, err := bucket(tx, "records").CreateBucket([]byte("r1")); return err }, 9, []string{`record "r1"`}},
		"empty":           {put("devices", "d1", ""), 9, []string{`device "d1"`}},
		"two swapped": {func(tx *bbolt.Tx) error {
			b := bucket(tx, "devices")
			x, y := bytes.Clone(b.Get([]byte("d00-a"))), bytes.Clone(b.Get([]byte("d01-a")))
			return errors.Join(b.Put([]byte("d00-a"), y), b.Put([]byte("d01-a"), x))
		}, 7, []string{`device "d00-a"`, `device "d01-a"`}},
		"one letter of a token": {func(tx *bbolt.Tx) error {
			b := bucket(tx, "devices")
			return b.Put([]byte("d00-a"), bytes.Replace(b.Get([]byte("d00-a")), []byte("aa00"), []byte("ab00"), 1))
		}, 8, []string{`device "d00-a"`}},
	} {
		t.Run(name, func(t *testing.T) {
			file, _ := stateFile(t, 3)
			alter(t, file, c.damage)
			looked, err := subscriptions.ReadEmbedded(file)
			if err != nil {
				t.Fatal(err)
			}
			look, err := looked.Load(t.Context())
			if err != nil || len(look.Damaged) != len(c.says) {
				t.Errorf("%v: who only looks sees %v", err, look.Damaged)
			}
			looked.Close()
			s := open(t, file)
			all, err := s.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := len(all.Records) + len(all.Devices); n != c.kept {
				t.Errorf("%d values were read, want %d", n, c.kept)
			}
			var said []string
			for _, d := range all.Damaged {
				said = append(said, d.What)
				if d.Err == nil || !strings.Contains(d.Kept, `bucket "damaged"`) {
					t.Errorf("%+v", d)
				}
			}
			if diff := cmp.Diff(c.says, said); diff != "" {
				t.Errorf("what is told (-want +got):\n%s", diff)
			}
			if all, err = s.Load(t.Context()); err != nil || len(all.Damaged) != 0 {
				t.Errorf("%v: it is told again: %v", err, all.Damaged)
			}
			s.Close()
			db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			_ = db.View(func(tx *bbolt.Tx) error {
				if n := bucket(tx, "damaged").Stats().KeyN; n < len(c.says) {
					t.Errorf("%d values are kept, of %d that were set aside", n, len(c.says))
				}
				return nil
			})
		})
	}
}

func TestADamagedSecretIsNoReasonToAlertEverythingAgain(t *testing.T) {
	for name, damage := range map[string]func(meta *bbolt.Bucket) error{
		"short":   func(meta *bbolt.Bucket) error { return meta.Put([]byte("secret"), []byte("short")) },
		"missing": func(meta *bbolt.Bucket) error { return meta.Delete([]byte("secret")) },
		"changed": func(meta *bbolt.Bucket) error {
			secret := bytes.Clone(meta.Get([]byte("secret")))
			secret[20] ^= 1
			return meta.Put([]byte("secret"), secret)
		},
	} {
		file, _ := stateFile(t, 1)
		alter(t, file, func(tx *bbolt.Tx) error { return damage(tx.Bucket([]byte("meta"))) })
		s := open(t, file)
		if _, err := s.Load(t.Context()); !errors.Is(err, subscriptions.ErrDamaged) || !strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", name, err)
		}
		s.Close()
	}
}

func TestAFileThatLacksAPartIsRefused(t *testing.T) {
	for _, part := range []string{"meta", "records", "devices"} {
		file, _ := stateFile(t, 1)
		alter(t, file, func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(part)) })
		if _, err := subscriptions.OpenEmbedded(file); !errors.Is(err, subscriptions.ErrDamaged) {
			t.Errorf("%s: error %v", part, err)
		}
	}
}

// Version 1 had values without a checksum.
func TestAStateOfVersion1IsMigrated(t *testing.T) {
	file, want := stateFile(t, 3)
	alter(t, file, func(tx *bbolt.Tx) error {
		for _, name := range []string{"records", "devices"} {
			b := tx.Bucket([]byte(name))
			bare := map[string][]byte{}
			if err := b.ForEach(func(k, v []byte) error { bare[string(k)] = bytes.Clone(v[11:]); return nil }); err != nil {
				return err
			}
			for k, v := range bare {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		if err := tx.Bucket([]byte("records")).Put([]byte("bad"), []byte("{")); err != nil {
			return err
		}
		meta := tx.Bucket([]byte("meta"))
		return errors.Join(meta.Put([]byte("schema"), []byte("1")), meta.Put([]byte("secret"), want.Secret[:]), tx.DeleteBucket([]byte("damaged")))
	})
	looked, err := subscriptions.ReadEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*subscriptions.Embedded{looked, nil} {
		if s == nil {
			s = open(t, file).(*subscriptions.Embedded)
		}
		all, err := s.Load(t.Context())
		if err != nil || len(all.Damaged) != 1 || all.Damaged[0].What != `record "bad"` {
			t.Fatalf("%v: %v", err, all.Damaged)
		}
		if migrated := s != looked; migrated != (all.MigratedFrom == 1) {
			t.Errorf("it was migrated: %t, from version %d", migrated, all.MigratedFrom)
		}
		all.Damaged, all.MigratedFrom = nil, 0
		if diff := cmp.Diff(want, all); diff != "" {
			t.Errorf("the state differs (-want +got):\n%s", diff)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, file)
	defer again.Close()
	if all, err := again.Load(t.Context()); err != nil || len(all.Damaged) != 0 || len(all.Records) != 3 {
		t.Errorf("after the migration: %v, %v", err, all.Damaged)
	}
}

func TestWhoLooksAtAFileChangesNothing(t *testing.T) {
	file, _ := stateFile(t, 2)
	before, _ := os.ReadFile(file)
	s, err := subscriptions.ReadEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), subscriptions.Change{Drop: []string{"r1"}}); err == nil {
		t.Error("a write was taken")
	}
	s.Close()
	if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	missing := file + "-not"
	if _, err := subscriptions.ReadEmbedded(missing); err == nil {
		t.Error("a file that does not exist was looked at")
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("it was made")
	}
}

func TestAFileThatIsTakenAwayWhileMailbellRunsIsToldAndEndsNothing(t *testing.T) {
	for name, take := range map[string]func(file string) error{
		"deleted": os.Remove,
		"cut off": func(file string) error { return os.Truncate(file, 4096) },
		"emptied": func(file string) error { return os.Truncate(file, 0) },
		"replaced": func(file string) error {
			return errors.Join(os.Rename(file, file+".old"), os.WriteFile(file, []byte("another"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			file, _ := stateFile(t, 3)
			s := open(t, file)
			if err := s.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := take(file); err != nil {
				t.Fatal(err)
			}
			err := s.Write(t.Context(), subscriptions.Change{Drop: []string{"r1"}})
			if !errors.Is(err, subscriptions.ErrDamaged) || !strings.Contains(err.Error(), file) {
				t.Errorf("a write: %v", err)
			}
			if err := s.Ping(context.Background()); !errors.Is(err, subscriptions.ErrDamaged) {
				t.Errorf("Ping: %v", err)
			}
			s.Close()
		})
	}
}

// An enrolment is worth more than where its mailbox stood.
func TestDevicesWhoseRecordIsDamagedStayEnrolled(t *testing.T) {
	file, all := stateFile(t, 3)
	bad := all.Records[1]
	alter(t, file, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("records")).Put([]byte(bad.ID), []byte("2 x")) })
	s := open(t, file)
	b, err := subscriptions.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Mailboxes()) != 3 {
		t.Errorf("%d mailboxes of 3", len(b.Mailboxes()))
	}
	m := b.Mailbox(bad.Addresses[0])
	if m == nil || m.Record().ID != bad.ID || m.Record().Started() || len(m.Devices()) != 2 {
		t.Fatalf("the mailbox whose record was damaged: %+v", m)
	}
	if said := fmt.Sprint(b.Damaged()); !strings.Contains(said, bad.ID) || !strings.Contains(said, bad.Addresses[0]) {
		t.Errorf("told is %s", said)
	}
	if err := m.Update(t.Context(), func(d *subscriptions.Draft) { d.Listed = 5 }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	again := open(t, file)
	defer again.Close()
	if b, err = subscriptions.Open(t.Context(), again); err != nil || len(b.Damaged()) != 0 || b.Mailbox(bad.Addresses[0]).Record().Listed != 5 {
		t.Errorf("%v: it is damaged still: %v", err, b.Damaged())
	}
}
