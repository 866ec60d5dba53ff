package subscriptions

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// lockTimeout is how long a second process waits for the file: long enough for the first one's last commit, and short enough to say within 5 s that it is taken.
	lockTimeout = 2 * time.Second
	schema      = "1"
)

var (
	bucketMeta    = []byte("meta")
	bucketRecords = []byte("records")
	bucketDevices = []byte("devices")
	keySecret     = []byte("secret")
	keySchema     = []byte("schema")
)

// Embedded is the store in one file (bbolt), for one process. Changes that wait together are committed together, for one fsync.
type Embedded struct {
	db        *bbolt.DB
	committer *committer[[]entryPut]
}

// entryPut is one value as it goes into the file; a nil value deletes.
type entryPut struct {
	bucket, key, value []byte
}

// OpenEmbedded opens the file, or makes it. Its directory has to exist.
func OpenEmbedded(file string) (*Embedded, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("state file %s: %w: a state file belongs to one mailbell only", file, ErrInUse)
	case err != nil && isDir(filepath.Dir(file)):
		return nil, fmt.Errorf("state file %s: %w", file, err)
	case err != nil:
		return nil, fmt.Errorf("state file %s: its folder does not exist", file)
	}
	if err := db.Update(prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", file, err), db.Close())
	}
	s := &Embedded{db: db}
	s.committer = newCommitter(s.commit)
	return s, nil
}

func isDir(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.IsDir()
}

func prepare(tx *bbolt.Tx) error {
	for _, b := range [][]byte{bucketMeta, bucketRecords, bucketDevices} {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	if v := meta.Get(keySchema); v == nil {
		if err := meta.Put(keySchema, []byte(schema)); err != nil {
			return err
		}
	} else if string(v) != schema {
		return fmt.Errorf("it has the layout %q of another version of mailbell; this one knows %q", v, schema)
	}
	if meta.Get(keySecret) != nil {
		return nil
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	return meta.Put(keySecret, secret)
}

// Load reads everything.
func (s *Embedded) Load(context.Context) (all Contents, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if copy(all.Secret[:], tx.Bucket(bucketMeta).Get(keySecret)) != len(all.Secret) {
			return errors.New("the secret of the installation is damaged")
		}
		if err := each(tx, bucketRecords, &all.Records); err != nil {
			return err
		}
		return each(tx, bucketDevices, &all.Devices)
	})
	return all, err
}

func each[T any](tx *bbolt.Tx, bucket []byte, list *[]*T) error {
	return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		t := new(T)
		if err := json.Unmarshal(v, t); err != nil {
			return fmt.Errorf("%s %q cannot be read: %w", bucket, k, err)
		}
		*list = append(*list, t)
		return nil
	})
}

// Write waits for the next commit. What is queued is committed, also when ctx ends.
func (s *Embedded) Write(ctx context.Context, c Change) error {
	puts, err := encode(c) // here, and not in the one writer
	if err != nil {
		return err
	}
	return s.committer.write(ctx, puts)
}

func (s *Embedded) commit(batch [][]entryPut) []error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
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
	errs := make([]error, len(batch)) // one bad change must not fail its neighbours
	for i, puts := range batch {
		errs[i] = s.db.Update(func(tx *bbolt.Tx) error { return apply(tx, puts) })
	}
	return errs
}

func apply(tx *bbolt.Tx, puts []entryPut) error {
	for _, p := range puts {
		b := tx.Bucket(p.bucket)
		var err error
		if p.value == nil {
			err = b.Delete(p.key)
		} else {
			err = b.Put(p.key, p.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func encode(c Change) (puts []entryPut, err error) {
	for _, id := range c.Drop {
		puts = append(puts, entryPut{bucketRecords, []byte(id), nil})
	}
	for _, d := range c.DropDevices {
		puts = append(puts, entryPut{bucketDevices, []byte(d.ID), nil})
	}
	add := func(bucket []byte, id string, v any) {
		data, e := json.Marshal(v)
		err = errors.Join(err, e)
		puts = append(puts, entryPut{bucket, []byte(id), data})
	}
	for _, r := range c.Put {
		add(bucketRecords, r.ID, r)
	}
	for _, d := range c.PutDevices {
		add(bucketDevices, d.ID, d)
	}
	return puts, err
}

// Held says whether the file takes what it is told. It is always this process's own: it is locked.
func (s *Embedded) Held() error { return s.committer.prompt() }

// Ping says whether the file is open.
func (s *Embedded) Ping(context.Context) error { return s.committer.open() }

// Close commits what is queued and closes the file.
func (s *Embedded) Close() error {
	s.committer.close()
	return s.db.Close()
}
