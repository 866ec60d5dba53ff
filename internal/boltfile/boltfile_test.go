package boltfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/mailbell/mailbell/internal/boltfile"
)

// write makes a file with a branch, overflowing values, buckets within each other and, where synced, a list of free pages.
func write(t testing.TB, synced bool) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoFreelistSync: !synced, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("records"))
			if err != nil {
				return err
			}
			for i := range 60 {
				value := bytes.Repeat([]byte{byte(round)}, 100+i*7)
				if i == 30 {
					value = bytes.Repeat(value, 30)
				}
				if err := b.Put(fmt.Appendf(nil, "key-%03d", i), value); err != nil {
					return err
				}
			}
			inner, err := b.CreateBucketIfNotExists([]byte("within"))
			if err != nil {
				return err
			}
			if err := inner.Put([]byte("k"), []byte("v")); err != nil {
				return err
			}
			_, err = tx.CreateBucketIfNotExists([]byte("meta"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readable says that bbolt can read what a check said this of.
func readable(err error) bool { return err == nil || errors.Is(err, boltfile.ErrOlder) }

func check(data []byte) error { return boltfile.Check(bytes.NewReader(data), int64(len(data))) }

// use has bbolt read and write a file. A panic of bbolt ends the test.
func use(t *testing.T, data []byte) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.db")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoSync: true, Timeout: time.Second})
	if err != nil {
		return // in words
	}
	defer db.Close()
	_ = db.Update(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			n := 0
			err := b.ForEach(func(_, v []byte) error { n += len(v); return nil })
			if err != nil {
				return err
			}
			for i := range 20 {
				if err := b.Put(fmt.Appendf(nil, "key-%03d", i*3), make([]byte, 300)); err != nil {
					return err
				}
			}
			return b.Delete([]byte("key-030"))
		})
	})
}

func TestAWholeFileIsWhole(t *testing.T) {
	for _, synced := range []bool{true, false} {
		data := write(t, synced)
		if err := check(data); err != nil {
			t.Errorf("synced %v: %v", synced, err)
		}
	}
}

func TestAFileThatWasCutOffIsToldBeforeItIsMapped(t *testing.T) {
	data := write(t, false)
	for n := 0; n < len(data); n += 2039 {
		err := check(data[:n])
		if readable(err) {
			use(t, data[:n])
		}
		if n < len(data)/3 && err == nil {
			t.Errorf("%d of %d bytes are taken for a whole file", n, len(data))
		}
	}
}

func TestOneMetaPageIsEnough(t *testing.T) {
	data := write(t, false)
	size := int(binary.NativeEndian.Uint32(data[24:]))
	for page := range 2 {
		damaged := bytes.Clone(data)
		clear(damaged[page*size : (page+1)*size])
		if err := check(damaged); !errors.Is(err, boltfile.ErrOlder) {
			t.Errorf("without meta page %d: %v", page, err)
		}
		use(t, damaged)
	}
	clear(data[:2*size])
	if err := check(data); err == nil || !strings.Contains(err.Error(), "first pages") {
		t.Errorf("without both: %v", err)
	}
}

func TestBboltDoesNotPanicOnWhatWasFoundWhole(t *testing.T) {
	for _, synced := range []bool{true, false} {
		data := write(t, synced)
		dice := rand.New(rand.NewPCG(1, 2))
		found := 0
		const tries = 200
		for range tries {
			damaged := bytes.Clone(data)
			from := dice.IntN(len(data)/16) * 16 // elements and headers, more often than what they hold
			damaged[from+dice.IntN(16)] ^= byte(1 << dice.IntN(8))
			if !readable(check(damaged)) {
				found++
				continue
			}
			use(t, damaged)
		}
		t.Logf("%d of %d found", found, tries)
	}
}

// A meta page with a right checksum can lead anywhere.
func TestAMetaPageThatLeadsAstrayIsFound(t *testing.T) {
	data := write(t, true)
	size := int(binary.NativeEndian.Uint32(data[24:]))
	for name, at := range map[string]int{"root": 16, "freelist": 32, "end": 40} {
		for _, value := range []uint64{0, 1, 2, 3, 1 << 20, 1 << 62} {
			damaged := bytes.Clone(data)
			for page := range 2 {
				m := damaged[page*size+16:]
				binary.NativeEndian.PutUint64(m[at:], value)
				sum := fnv.New64a()
				sum.Write(m[:56])
				binary.NativeEndian.PutUint64(m[56:], sum.Sum64())
			}
			if err := check(damaged); readable(err) {
				t.Logf("%s %d is no damage", name, value)
				use(t, damaged)
			}
		}
	}
}

// Pages that lead to each other would be followed for ever.
func TestPagesThatLeadInACircleAreFound(t *testing.T) {
	data := write(t, false)
	size := int(binary.NativeEndian.Uint32(data[24:]))
	found := false
	for at := 2 * size; at < len(data); at += size {
		if binary.NativeEndian.Uint16(data[at+8:]) != 0x01 {
			continue
		}
		damaged := bytes.Clone(data)
		copy(damaged[at+16+8:], damaged[at:at+8]) // its first page is itself
		if err := check(damaged); err != nil && strings.Contains(err.Error(), "in use twice") {
			found = true
		}
	}
	if !found {
		t.Error("no branch that leads to itself was found")
	}
}

func FuzzCheck(f *testing.F) {
	data := write(f, true)
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(len(data)-1), []byte{0xff})
	f.Add(uint32(8192), bytes.Repeat([]byte{0xff}, 32))
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		damaged := bytes.Clone(data)
		at %= uint32(len(damaged))
		copy(damaged[at:], with)
		if readable(check(damaged)) {
			use(t, damaged)
		}
		_ = check(with)
	})
}
