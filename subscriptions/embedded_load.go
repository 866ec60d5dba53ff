package subscriptions

// Reading what a state file holds, once, at the start; and what becomes of a value that cannot be read.

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/mailbell/mailbell/internal/boltfile"
)

// migrate writes every value as this version does. What cannot be read stays as it is, for Load to set aside.
func migrate(tx *bbolt.Tx, version int) error {
	secret, err := readSecret(version, tx.Bucket(bucketMeta).Get(keySecret))
	if err != nil {
		return err
	}
	return errors.Join(
		reseal(tx, bucketRecords, kindRecord, version, readRecord),
		reseal(tx, bucketDevices, kindDevice, version, readDevice),
		putMeta(tx, secret[:]),
	)
}

// reader reads the value that stands under an id.
type reader[T any] func(version int, id string, value []byte) (*T, error)

func reseal[T any](tx *bbolt.Tx, bucket []byte, k kind, version int, read reader[T]) error {
	b := tx.Bucket(bucket)
	sealed := map[string][]byte{} // a bucket must not change while it is walked
	err := b.ForEach(func(key, value []byte) (err error) {
		v, err := read(version, string(key), value)
		if err != nil {
			return nil //nolint:nilerr // Load sets it aside
		}
		sealed[string(key)], err = seal(k, string(key), v)
		return err
	})
	for key, value := range sealed {
		err = errors.Join(err, b.Put([]byte(key), value))
	}
	return err
}

// unread is a value that could not be read.
type unread struct {
	bucket, key, value []byte // a nil value is a bucket
	kind               kind
	err                error
}

// Load reads everything. What cannot be read is set aside.
func (s *Embedded) Load(context.Context) (all Contents, err error) {
	all.New, all.MigratedFrom = s.isNew, s.migrated
	var damaged []unread
	err = s.db.View(func(tx *bbolt.Tx) (err error) {
		if all.Secret, err = readSecret(s.version, tx.Bucket(bucketMeta).Get(keySecret)); err != nil {
			return fmt.Errorf("%w; %s", err, anew)
		}
		all.Records = readAll(tx, bucketRecords, kindRecord, s.version, readRecord, &damaged)
		all.Devices = readAll(tx, bucketDevices, kindDevice, s.version, readDevice, &damaged)
		return nil
	})
	if len(damaged) > 0 {
		all.Damaged = s.setAside(damaged)
	}
	if s.older {
		all.Damaged = append(all.Damaged, Damaged{What: "state file " + s.file, Err: boltfile.ErrOlder})
	}
	return all, err
}

func readAll[T any](tx *bbolt.Tx, bucket []byte, k kind, version int, read reader[T], damaged *[]unread) (list []*T) {
	_ = tx.Bucket(bucket).ForEach(func(key, value []byte) error {
		t, err := read(version, string(key), value)
		if err == nil {
			list = append(list, t)
		} else {
			*damaged = append(*damaged, unread{bucket, bytes.Clone(key), bytes.Clone(value), k, err})
		}
		return nil
	})
	return list
}

// maxName bounds what of a damaged key gets into the name under which its value is kept.
const maxName = 200

// setAside moves values into the bucket of the damaged ones, each under a name of its own.
func (s *Embedded) setAside(values []unread) []Damaged {
	list := make([]Damaged, len(values))
	err := bolterrors.ErrDatabaseReadOnly
	if !s.readOnly {
		err = s.db.Update(func(tx *bbolt.Tx) error {
			to := tx.Bucket(bucketDamaged)
			for i, v := range values {
				n, err := to.NextSequence()
				if err != nil {
					return err
				}
				name := fmt.Appendf(nil, "%d %s %s", n, v.bucket, v.key[:min(len(v.key), maxName)])
				from := tx.Bucket(v.bucket)
				if v.value == nil {
					name = v.key
					err = from.MoveBucket(v.key, to)
				} else {
					err = errors.Join(to.Put(name, v.value), from.Delete(v.key))
				}
				if err != nil {
					return err
				}
				list[i].Kept = fmt.Sprintf("key %q in bucket %q of %s", name, bucketDamaged, s.file)
			}
			return nil
		})
	}
	for i, v := range values {
		list[i].What, list[i].Err = fmt.Sprintf("%s %q", v.kind, v.key), v.err
		if err != nil { // it stays where it is
			list[i].Kept = fmt.Sprintf("key %q in bucket %q of %s", v.key, v.bucket, s.file)
		}
	}
	return list
}
