package subscriptions

// The decisions in a state file. A second of them is written at once: a page of the file has those about many mailboxes, and would
// be written for each of them again. Nothing rests on them, so a crash may take the last second of them.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// gatherDecisions is how long decisions wait for others.
	gatherDecisions = time.Second
	// maxGathering bounds how long the file may take for some of them: a disk that hangs must not hold the end of the process. Where it takes
	// longer, it is not asked for the others.
	maxGathering = 10 * time.Second
)

// decided is what is to be written about the mailboxes, by record.
type decided struct {
	write func(puts []entryPut) error

	mu      sync.Mutex
	waiting map[string]Decided
	writing map[string]Decided // is being written: those who read find it here, or in the file; nil: nothing is
	timer   *time.Timer        // runs while something waits, and nothing is being written
	closed  bool
	busy    sync.WaitGroup // a timer that has come
}

// add has decisions written within seconds.
func (d *decided) add(c Decided) error {
	if len(c.Decisions) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	d.join(map[string]Decided{c.Record: c})
	return nil
}

// join puts decisions behind those that wait. It is called with mu held.
func (d *decided) join(later map[string]Decided) {
	if d.waiting == nil {
		d.waiting = map[string]Decided{}
	}
	for id, c := range later {
		all := append(d.waiting[id].Decisions, c.Decisions...)
		d.waiting[id] = Decided{id, all[max(0, len(all)-MaxDecisions):]} // where the file takes none, the oldest go
	}
	d.schedule()
}

// schedule has what waits written, one second of it after the other. It is called with mu held.
func (d *decided) schedule() {
	if len(d.waiting) == 0 || d.timer != nil || d.writing != nil || d.closed {
		return
	}
	d.busy.Add(1)
	d.timer = time.AfterFunc(gatherDecisions, func() {
		defer d.busy.Done()
		d.flush()
	})
}

// flush writes what waits. What cannot be written waits for the next time.
func (d *decided) flush() {
	d.mu.Lock()
	d.writing, d.waiting, d.timer = d.waiting, nil, nil
	puts := make([]entryPut, 0, len(d.writing))
	for _, id := range slices.Sorted(maps.Keys(d.writing)) { // page after page
		puts = append(puts, entryPut{bucket: bucketDecided, decided: d.writing[id]})
	}
	d.mu.Unlock()
	failed := map[string]Decided{}
	hangs := false
	for some := range slices.Chunk(puts, maxCommit) { // what else is to be written goes between
		if !hangs {
			err := d.write(some)
			if err == nil {
				continue
			}
			hangs = errors.Is(err, context.DeadlineExceeded) // the rest would not be taken either
		}
		for _, p := range some {
			failed[p.decided.Record] = p.decided
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	later := d.waiting
	d.writing, d.waiting = nil, failed
	d.join(later)
}

// of are the decisions about a mailbox that may not be in the file yet.
func (d *decided) of(record string) (list [2]Decided) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return [2]Decided{d.writing[record], d.waiting[record]}
}

// close writes what waits.
func (d *decided) close() {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil && d.timer.Stop() {
		d.busy.Done()
	}
	d.mu.Unlock()
	d.busy.Wait()
	d.flush()
}

// writeDecided writes decisions for nobody who waits.
func (s *Embedded) writeDecided(puts []entryPut) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxGathering)
	defer cancel()
	return s.committer.write(ctx, puts)
}

// Decisions reads the file.
func (s *Embedded) Decisions(_ context.Context, record string) (list [][]byte, err error) {
	if err := errors.Join(s.committer.open(), s.intact()); err != nil {
		return nil, err
	}
	later := s.decided.of(record) // before the file is read: what is written meanwhile is here, or there
	err = s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketDecided); b != nil { // an older mailbell wrote none
			list = splitDecisions(bytes.Clone(b.Get([]byte(record))))
		}
		if tx.Bucket(bucketRecords).Get([]byte(record)) != nil {
			list = later[1].On(later[0].On(list))
		}
		return nil
	})
	return list, err
}

// decide writes decisions behind those that are there.
func decide(tx *bbolt.Tx, d Decided) error {
	if tx.Bucket(bucketRecords).Get([]byte(d.Record)) == nil {
		return nil
	}
	b := tx.Bucket(bucketDecided)
	return b.Put([]byte(d.Record), joinDecisions(d.On(splitDecisions(b.Get([]byte(d.Record))))))
}

// joinDecisions makes one value of decisions, each with its length.
func joinDecisions(list [][]byte) (value []byte) {
	size := 0
	for _, d := range list {
		size += binary.MaxVarintLen16 + len(d)
	}
	value = make([]byte, 0, size)
	for _, d := range list {
		value = append(binary.AppendUvarint(value, uint64(len(d))), d...)
	}
	return value
}

// splitDecisions is the inverse of joinDecisions. Of a value that was damaged it returns what can be read.
func splitDecisions(value []byte) (list [][]byte) {
	for len(value) > 0 {
		n, size := binary.Uvarint(value)
		if size <= 0 || n > uint64(len(value)-size) {
			return list
		}
		list = append(list, value[size:size+int(n)])
		value = value[size+int(n):]
	}
	return list
}
