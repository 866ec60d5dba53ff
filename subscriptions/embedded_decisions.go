package subscriptions

// The decisions in a state file. Those of a second are written together: a page of the file has those about many mailboxes, and would
// be written again for each. Nothing depends on them, so a crash may take those of the last second.

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
	// maxGathering bounds how long the write of some of them may take: a disk that hangs must not hold the end of the process. Where one
	// takes longer, the others are not tried.
	maxGathering = 10 * time.Second
)

// gathering is the decisions of a second, by record, that wait to be written together.
type gathering struct {
	write func(puts []entryPut) error

	mu      sync.Mutex
	waiting map[string]Decided
	writing map[string]Decided // is being written: those who read find it here, or in the file; nil: nothing is
	timer   *time.Timer        // runs while something waits, and nothing is being written
	closed  bool
	busy    sync.WaitGroup // the timer, and the flush that it begins
}

// add has decisions written within seconds.
func (g *gathering) add(c Decided) error {
	if len(c.Decisions) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	g.join(map[string]Decided{c.Record: c})
	return nil
}

// join puts decisions behind those that wait. It is called with mu held.
func (g *gathering) join(later map[string]Decided) {
	if g.waiting == nil {
		g.waiting = map[string]Decided{}
	}
	for id, c := range later {
		all := append(g.waiting[id].Decisions, c.Decisions...)
		g.waiting[id] = Decided{id, all[max(0, len(all)-MaxDecisions):]} // where the file takes none, the oldest go
	}
	g.schedule()
}

// schedule has what waits written, one second of it after the other. It is called with mu held.
func (g *gathering) schedule() {
	if len(g.waiting) == 0 || g.timer != nil || g.writing != nil || g.closed {
		return
	}
	g.busy.Add(1)
	g.timer = time.AfterFunc(gatherDecisions, func() {
		defer g.busy.Done()
		g.flush()
	})
}

// flush writes what waits. What cannot be written waits for the next time.
func (g *gathering) flush() {
	g.mu.Lock()
	g.writing, g.waiting, g.timer = g.waiting, nil, nil
	puts := make([]entryPut, 0, len(g.writing))
	for _, id := range slices.Sorted(maps.Keys(g.writing)) { // in the order of the pages
		puts = append(puts, entryPut{bucket: bucketDecided, decided: g.writing[id]})
	}
	g.mu.Unlock()
	failed := map[string]Decided{}
	hangs := false
	for some := range slices.Chunk(puts, maxCommit) { // other writes go in between
		if !hangs {
			err := g.write(some)
			if err == nil {
				continue
			}
			hangs = errors.Is(err, context.DeadlineExceeded) // the rest would not be taken either
		}
		for _, p := range some {
			failed[p.decided.Record] = p.decided
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	later := g.waiting
	g.writing, g.waiting = nil, failed
	g.join(later)
}

// of are the decisions about a mailbox that may not be in the file yet.
func (g *gathering) of(record string) (list [2]Decided) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return [2]Decided{g.writing[record], g.waiting[record]}
}

// close writes what waits.
func (g *gathering) close() {
	g.mu.Lock()
	g.closed = true
	if g.timer != nil && g.timer.Stop() {
		g.busy.Done()
	}
	g.mu.Unlock()
	g.busy.Wait()
	g.flush()
}

// writeDecided writes decisions. Nobody waits for that.
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
	later := s.gathering.of(record) // before the file is read: what is written meanwhile is here, or there
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

// decide writes decisions to those that are there.
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
