package subscriptions

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/mailbell/mailbell/internal/boltfile"
)

// lockTimeout is how long a second process waits for the file: long enough for the first one's last commit, and short enough to say
// within 5 s that it is taken.
const lockTimeout = 2 * time.Second

var (
	bucketMeta    = []byte("meta")
	bucketRecords = []byte("records")
	bucketDevices = []byte("devices")
	bucketDamaged = []byte("damaged") // values that could not be read, as they were
	bucketDecided = []byte("decided") // the last decisions about the mailbox of each record, each with its length, the oldest first
	keySecret     = []byte("secret")
	keySchema     = []byte("schema")
	keyProbe      = []byte("probe")
)

// Embedded is the store in one file (bbolt), for one process. Changes that wait together are committed together, for one fsync.
type Embedded struct {
	file      string
	db        *bbolt.DB
	opened    os.FileInfo // of the file that was opened
	version   int
	readOnly  bool
	isNew     bool // made just now
	migrated  int  // the version that it was migrated from just now; 0: it was not
	older     bool // perhaps, by one transaction, than what was written last
	committer *committer[[]entryPut]
	gathering *gathering
	sealer    sealer
	probe     *probe

	size    atomic.Int64 // of the file when it was last looked at
	refused atomic.Int64 // the size of the largest commit of which nothing was taken, until a probe of that size is; 0: there is none
}

// entryPut is one value as it goes into the file; a nil value deletes.
type entryPut struct {
	bucket, key, value []byte
	whole              bool    // of a record: every device that the file has of it goes first
	decided            Decided // about its mailbox: the value is made of that and of what is there (embedded_decisions.go)
}

// OpenEmbedded opens the file, or makes it. Its directory has to exist. A file of an older version is migrated.
func OpenEmbedded(file string) (*Embedded, error) {
	if i, err := os.Stat(filepath.Dir(file)); err != nil || !i.IsDir() {
		return nil, fmt.Errorf("state file %s: its folder does not exist", file)
	}
	err := examine(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, boltfile.ErrOlder) {
		return nil, fmt.Errorf("state file %s: %w", file, err)
	}
	isNew := errors.Is(err, fs.ErrNotExist)
	s, err := openEmbedded(file, false, errors.Is(err, boltfile.ErrOlder))
	if err != nil {
		if isNew && errors.Is(examine(file), ErrDamaged) { // the disk is full; what was written would be taken for a state that is lost
			err = errors.Join(err, os.Remove(file))
		}
		return nil, err
	}
	removeCopies(file)
	if err := s.db.Update(s.prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", file, err), s.Close())
	}
	return s, nil
}

// ReadEmbedded opens a file that exists, to look at it: nothing is changed, and no write is taken.
func ReadEmbedded(file string) (*Embedded, error) {
	err := examine(file)
	if err != nil && !errors.Is(err, boltfile.ErrOlder) {
		return nil, fmt.Errorf("state file %s: %w", file, err)
	}
	s, err := openEmbedded(file, true, err != nil)
	if err != nil {
		return nil, err
	}
	if err := s.db.View(s.readVersion); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", file, err), s.Close())
	}
	return s, nil
}

func openEmbedded(file string, readOnly, older bool) (*Embedded, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{
		Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("state file %s: %w", file, errTaken)
	case err != nil:
		return nil, fmt.Errorf("state file %s: %w", file, err)
	}
	s := &Embedded{file: file, db: db, readOnly: readOnly, older: older, sealer: newSealer()}
	s.probe = &probe{try: s.try}
	s.committer = newCommitter(s.commit)
	s.gathering = &gathering{write: s.writeDecided}
	if s.opened, err = os.Stat(file); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

var errTaken = fmt.Errorf("%w: a state file belongs to one mailbell only", ErrInUse)

// anew is what helps with a file that is damaged.
const anew = "nothing was changed; restore a copy, or delete it to begin anew: then every device has to be enrolled again"

// examine looks at every page of a file before bbolt does, which would end the process where one is damaged. The file is locked
// meanwhile, so that no other process writes.
func examine(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fs.ErrNotExist // the path is in front of it already
	case err != nil:
		return err
	case info.Mode().IsRegular() && info.Size() == 0:
		return fmt.Errorf("%w: it is empty, and what it held is lost; %s", ErrDamaged, anew)
	}
	lock, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true}) // looks at its first two pages alone
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errTaken
	case errors.Is(err, fs.ErrPermission) || !info.Mode().IsRegular() && err != nil:
		return err
	case err != nil:
		return fmt.Errorf("%w, or no state file of mailbell: %w; %s", ErrDamaged, err, anew)
	}
	defer lock.Close()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return err
	}
	err = boltfile.Check(f, info.Size())
	if err != nil && !errors.Is(err, boltfile.ErrOlder) {
		return fmt.Errorf("%w: %w; %s", ErrDamaged, err, anew)
	}
	return err
}

// readVersion reads what the file says it is.
func (s *Embedded) readVersion(tx *bbolt.Tx) (err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil || tx.Bucket(bucketRecords) == nil || tx.Bucket(bucketDevices) == nil {
		return fmt.Errorf("%w: a part of it is missing; %s", ErrDamaged, anew)
	}
	s.version, err = schemaOf(meta.Get(keySchema))
	return err
}

// prepare makes a new file one of mailbell's, and one of an older version one of this.
func (s *Embedded) prepare(tx *bbolt.Tx) error {
	if k, _ := tx.Cursor().First(); k == nil {
		return s.begin(tx)
	}
	if err := s.readVersion(tx); err != nil {
		return err
	}
	if s.version < schema {
		if err := migrate(tx, s.version); err != nil {
			return fmt.Errorf("migrating it from version %d to %d: %w", s.version, schema, err)
		}
		s.version, s.migrated = schema, s.version
	}
	for _, b := range [][]byte{bucketDamaged, bucketDecided} {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return nil
}

// begin makes an empty state.
func (s *Embedded) begin(tx *bbolt.Tx) error {
	for _, b := range [][]byte{bucketMeta, bucketRecords, bucketDevices, bucketDamaged, bucketDecided} {
		if _, err := tx.CreateBucket(b); err != nil {
			return err
		}
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	s.version, s.isNew = schema, true
	return putMeta(tx, secret)
}

func putMeta(tx *bbolt.Tx, secret []byte) error {
	sealed, err := seal(kindSecret, "", secret)
	if err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	return errors.Join(meta.Put(keySecret, sealed), meta.Put(keySchema, fmt.Append(nil, schema)))
}

// Write waits for the next commit. What is queued is committed, also when ctx ends.
func (s *Embedded) Write(ctx context.Context, c Change) error {
	puts, err := s.encode(c) // here, and not in the one writer
	if err != nil {
		return err
	}
	if len(puts) == 0 {
		return s.gathering.add(c.Decided)
	}
	if err := s.committer.write(ctx, puts); err != nil {
		return err
	}
	_ = s.gathering.add(c.Decided) // what matters is in the file, whatever becomes of them
	return nil
}

func (s *Embedded) commit(batch [][]entryPut) []error {
	err := s.update(func(tx *bbolt.Tx) error {
		for _, puts := range batch {
			if err := apply(tx, puts); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	errs := make([]error, len(batch))
	taken := false
	for i, puts := range batch {
		errs[i] = s.update(func(tx *bbolt.Tx) error { return apply(tx, puts) }) // one bad change must not fail its neighbours
		taken = taken || errs[i] == nil
	}
	if !taken {
		s.refused.Store(max(s.refused.Load(), size(batch)))
		s.probe.forget()
	}
	return errs
}

func size(batch [][]entryPut) (n int64) {
	for _, puts := range batch {
		for _, p := range puts {
			n += int64(len(p.value))
		}
	}
	return n
}

// update makes a transaction, if the file is intact.
func (s *Embedded) update(change func(tx *bbolt.Tx) error) error {
	if err := s.intact(); err != nil {
		return err
	}
	return s.db.Update(change)
}

// intact says whether the file is the one that was opened, and no shorter than it was. Pages that are not there any more would end the
// process, and what is written into a file that was deleted is gone with the process.
func (s *Embedded) intact() error {
	info, err := os.Stat(s.file)
	switch {
	case err != nil:
		return fmt.Errorf("%w: state file %s was deleted while mailbell runs, or cannot be reached: %w", ErrDamaged, s.file, err)
	case !os.SameFile(info, s.opened):
		return fmt.Errorf("%w: state file %s was replaced while mailbell runs: restart mailbell with the right one", ErrDamaged, s.file)
	case info.Size() < s.size.Load():
		return fmt.Errorf("%w: state file %s was cut off while mailbell runs, from %d to %d bytes", ErrDamaged, s.file, s.size.Load(), info.Size())
	}
	s.size.Store(info.Size())
	return nil
}

func apply(tx *bbolt.Tx, puts []entryPut) error {
	for _, p := range puts {
		if err := p.apply(tx); err != nil {
			return err
		}
	}
	return nil
}

func (p entryPut) apply(tx *bbolt.Tx) error {
	if p.whole {
		if err := dropDevices(tx, string(p.key)); err != nil {
			return err
		}
	}
	b := tx.Bucket(p.bucket)
	switch {
	case len(p.decided.Decisions) > 0:
		return decide(tx, p.decided)
	case p.value == nil:
		return b.Delete(p.key)
	}
	return b.Put(p.key, p.value)
}

// dropDevices deletes the devices of a record. It looks at every device in the file: a whole write is rare, for a store that has lost
// something.
func dropDevices(tx *bbolt.Tx, record string) error {
	b := tx.Bucket(bucketDevices)
	var keys [][]byte
	_ = b.ForEach(func(key, value []byte) error {
		if d, err := readDevice(schema, string(key), value); err == nil && d.Record == record {
			keys = append(keys, bytes.Clone(key))
		}
		return nil
	})
	for _, key := range keys {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

func (s *Embedded) encode(c Change) (puts []entryPut, err error) {
	for _, id := range c.Drop {
		puts = append(puts, entryPut{bucket: bucketRecords, key: []byte(id)}, entryPut{bucket: bucketDecided, key: []byte(id)})
	}
	for _, d := range c.DropDevices {
		puts = append(puts, entryPut{bucket: bucketDevices, key: []byte(d.ID)})
	}
	add := func(bucket []byte, k kind, id string, v any) {
		value, e := s.sealer.seal(k, id, v)
		err = errors.Join(err, e)
		puts = append(puts, entryPut{bucket: bucket, key: []byte(id), value: value, whole: c.Whole && k == kindRecord})
	}
	for _, r := range c.Put {
		add(bucketRecords, kindRecord, r.ID, r)
	}
	for _, d := range c.PutDevices {
		add(bucketDevices, kindDevice, d.ID, d)
	}
	return puts, err
}

// Held says whether the file takes what it is told. It is always this process's own, which has locked it.
func (s *Embedded) Held() error { return s.committer.prompt() }

const (
	// maxProbe bounds what a probe writes of what was not taken.
	maxProbe = 1 << 20
	// copied is more than the pages that a change copies and splits beside its values.
	copied = 64 << 10
)

// Ping says whether the file takes writes, by one of its own.
func (s *Embedded) Ping(ctx context.Context) error {
	if err := s.committer.open(); err != nil {
		return err
	}
	if err := s.probe.ask(ctx); err != nil {
		return fmt.Errorf("state file %s takes no write: %w", s.file, err)
	}
	return nil
}

// try writes what nobody reads: as much as was not taken the last time, since a little finds room on a full disk where more does not.
func (s *Embedded) try(ctx context.Context) error {
	size, refused := int64(1), s.refused.Load()
	if refused > 0 {
		size = min(refused, maxProbe) + copied
	}
	err := s.committer.write(ctx, []entryPut{{bucket: bucketMeta, key: keyProbe, value: make([]byte, size)}})
	if err == nil {
		s.refused.CompareAndSwap(refused, 0)
	}
	return err
}

// Close commits what is queued and closes the file.
func (s *Embedded) Close() error {
	s.gathering.close()
	s.committer.close()
	return s.db.Close()
}
