// Package boltfile looks at the pages of a bbolt file before bbolt does. bbolt believes what it reads: a page that is damaged ends
// the process with a panic, and a file that was cut off with SIGBUS, in a goroutine of its own where nobody can catch it.
//
// Check reads the file with ordinary reads, and follows every page that can be reached. The layout is that of version 2 of the file
// format (go.etcd.io/bbolt/internal/common), which has been the same since 2014:
//
//	page    id u64, flags u16, count u16, overflow u32, elements, keys and values
//	branch  element: position u32, size of the key u32, page u64
//	leaf    element: flags u32, position u32, size of the key u32, size of the value u32
//	bucket  a value: root page u64, sequence u64; where root is 0 a page follows at once
//
// Numbers are in the byte order of the machine, positions count from the element.
package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

const (
	magic   = 0xED0CDAED
	version = 2

	headerSize  = 16
	elementSize = 16 // of a branch and of a leaf
	bucketSize  = 16
	metaSize    = 64
	checksumAt  = 56

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of an element

	// noFreelist stands in a meta page whose file keeps no list of free pages.
	noFreelist = ^uint64(0)

	// maxDepth bounds branches and buckets within each other: a file of 2^64 pages is not as deep.
	maxDepth = 64
	// A page is as large as one of the machine that made the file.
	minPageSize = 1 << 10
	maxPageSize = 64 << 10
	// manyIDs in the count of a list of free pages says that its first entry is the count.
	manyIDs = 0xFFFF
)

// file is one that is being looked at.
type file struct {
	r        io.ReaderAt
	pageSize int64
	end      uint64 // the first page that was never used
	seen     map[uint64]bool
}

type meta struct {
	pageSize            uint32
	root, freelist, end uint64
	transaction         uint64
}

// ErrOlder says that one of the two meta pages cannot be read. bbolt takes the other, which may be the one before: then the last
// transaction is missing. A crash in the middle of a transaction, which nobody was told of, looks the same.
var ErrOlder = errors.New("one of its two first pages is damaged: what was written last may be missing")

// Check says what is wrong with a file of this size. Where that is nothing, or ErrOlder, bbolt can read it.
func Check(r io.ReaderAt, size int64) error {
	m, older, err := newest(r)
	if err != nil {
		return err
	}
	f := &file{r: r, pageSize: int64(m.pageSize), end: m.end, seen: map[uint64]bool{}}
	if have := uint64(size / f.pageSize); have < m.end {
		return fmt.Errorf("it is cut off: %d of %d pages are there", have, m.end)
	}
	if err := f.tree(m.root, nil, nil, 0); err != nil {
		return err
	}
	if m.freelist != noFreelist {
		if err := f.freelist(m.freelist); err != nil {
			return err
		}
	}
	if older {
		return ErrOlder
	}
	return nil
}

// newest is the meta page that bbolt takes: the valid one of the last transaction. alone says that the other is not valid.
func newest(r io.ReaderAt) (m meta, alone bool, err error) {
	first, err := readMeta(r, 0)
	if err == nil {
		second, e := readMeta(r, int64(first.pageSize))
		switch {
		case e != nil || second.transaction < first.transaction:
			return first, e != nil, nil
		case second.pageSize != first.pageSize:
			return first, false, errors.New("its two first pages differ in the size of a page")
		}
		return second, false, nil
	}
	for at := int64(minPageSize); at <= maxPageSize; at <<= 1 {
		if second, e := readMeta(r, at); e == nil && int64(second.pageSize) == at {
			return second, true, nil
		}
	}
	return first, false, fmt.Errorf("neither of its two first pages is one of a state file: %w", err)
}

func readMeta(r io.ReaderAt, at int64) (m meta, err error) {
	b := make([]byte, headerSize+metaSize)
	if _, err := r.ReadAt(b, at); err != nil {
		return m, err
	}
	b = b[headerSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:checksumAt])
	order := binary.NativeEndian
	m = meta{
		pageSize: order.Uint32(b[8:]), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), end: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}
	switch {
	case order.Uint32(b) != magic:
		return m, errors.New("no magic number")
	case order.Uint32(b[4:]) != version:
		return m, fmt.Errorf("version %d", order.Uint32(b[4:]))
	case order.Uint64(b[checksumAt:]) != sum.Sum64():
		return m, errors.New("wrong checksum")
	case m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0:
		return m, fmt.Errorf("a page size of %d", m.pageSize)
	}
	return m, nil
}

// page is one with all that overflows it.
type page struct {
	id    uint64
	flags uint16
	count int
	data  []byte
}

func (p page) errorf(format string, a ...any) error {
	return fmt.Errorf("page %d: %w", p.id, fmt.Errorf(format, a...))
}

// read reads a page that nothing else may lead to.
func (f *file) read(id uint64) (page, error) {
	p := page{id: id}
	if id < 2 || id >= f.end {
		return p, p.errorf("not one of the %d that the file has", f.end)
	}
	head := make([]byte, headerSize)
	if _, err := f.r.ReadAt(head, int64(id)*f.pageSize); err != nil {
		return p, p.errorf("%w", err)
	}
	order := binary.NativeEndian
	overflow := uint64(order.Uint32(head[12:]))
	p.flags, p.count = order.Uint16(head[8:]), int(order.Uint16(head[10:]))
	if said := order.Uint64(head); said != id {
		return p, p.errorf("it says that it is page %d", said)
	}
	if overflow >= f.end-id {
		return p, p.errorf("it goes past the end of the file")
	}
	for i := id; i <= id+overflow; i++ {
		if f.seen[i] {
			return p, p.errorf("it is in use twice")
		}
		f.seen[i] = true
	}
	p.data = make([]byte, int64(overflow+1)*f.pageSize)
	if _, err := f.r.ReadAt(p.data, int64(id)*f.pageSize); err != nil {
		return p, p.errorf("%w", err)
	}
	return p, nil
}

// tree looks at a page and at all below it. Its keys are not before low and before high; nil: no bound.
func (f *file) tree(id uint64, low, high []byte, depth int) error {
	p, err := f.read(id)
	if err != nil {
		return err
	}
	return f.page(p, low, high, depth)
}

func (f *file) page(p page, low, high []byte, depth int) error {
	if depth > maxDepth {
		return p.errorf("it lies too deep")
	}
	if headerSize+p.count*elementSize > len(p.data) {
		return p.errorf("%d elements do not fit in", p.count)
	}
	switch p.flags {
	case branchFlag:
		return f.branch(p, low, high, depth)
	case leafFlag:
		return f.leaf(p, low, high, depth)
	}
	return p.errorf("it is of no kind that belongs there (%#x)", p.flags)
}

func (f *file) branch(p page, low, high []byte, depth int) error {
	if p.count == 0 {
		return p.errorf("a branch without a page")
	}
	type child struct {
		id  uint64
		key []byte
	}
	children := make([]child, p.count)
	for i := range children {
		at := headerSize + i*elementSize
		e := p.data[at:]
		order := binary.NativeEndian
		key, err := p.part(at+int(order.Uint32(e)), order.Uint32(e[4:]))
		if err != nil {
			return err
		}
		if err := p.ordered(i, key, low, high); err != nil {
			return err
		}
		children[i], low = child{order.Uint64(e[8:]), key}, key
	}
	for i, c := range children {
		next := high
		if i+1 < len(children) {
			next = children[i+1].key
		}
		if err := f.tree(c.id, c.key, next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) leaf(p page, low, high []byte, depth int) error {
	order := binary.NativeEndian
	for i := range p.count {
		at := headerSize + i*elementSize
		e := p.data[at:]
		from := at + int(order.Uint32(e[4:]))
		key, err := p.part(from, order.Uint32(e[8:]))
		if err != nil {
			return err
		}
		if err := p.ordered(i, key, low, high); err != nil {
			return err
		}
		low = key
		value, err := p.part(from+len(key), order.Uint32(e[12:]))
		if err != nil {
			return err
		}
		if order.Uint32(e)&bucketFlag != 0 {
			if err := f.bucket(p, value, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// part is a key or a value.
func (p page) part(from int, size uint32) ([]byte, error) {
	to := from + int(size)
	if from < headerSize || to < from || to > len(p.data) || size > 0 && from < headerSize+p.count*elementSize {
		return nil, p.errorf("a key or a value lies outside")
	}
	return p.data[from:to:to], nil
}

// ordered says whether a key stands where it belongs: bbolt looks keys up by halving.
func (p page) ordered(i int, key, low, high []byte) error {
	switch c := bytes.Compare(key, low); {
	case len(key) == 0:
		return p.errorf("a key is empty")
	case c < 0 || i > 0 && c == 0:
		return p.errorf("its keys are not in order")
	case high != nil && bytes.Compare(key, high) >= 0:
		return p.errorf("it has a key of the page after it")
	}
	return nil
}

// bucket looks at the value that is one.
func (f *file) bucket(p page, value []byte, depth int) error {
	if len(value) < bucketSize {
		return p.errorf("a bucket is cut off")
	}
	order := binary.NativeEndian
	if root := order.Uint64(value); root != 0 {
		return f.tree(root, nil, nil, depth)
	}
	inline := page{id: p.id, data: value[bucketSize:]}
	if len(inline.data) < headerSize {
		return p.errorf("a bucket is cut off")
	}
	inline.flags, inline.count = order.Uint16(inline.data[8:]), int(order.Uint16(inline.data[10:]))
	if order.Uint64(inline.data) != 0 || inline.flags != leafFlag || order.Uint32(inline.data[12:]) != 0 {
		return p.errorf("a bucket within it is no leaf")
	}
	return f.page(inline, nil, nil, depth)
}

// freelist looks at the list of free pages: one that is in use too would be written over.
func (f *file) freelist(id uint64) error {
	p, err := f.read(id)
	if err != nil {
		return err
	}
	order := binary.NativeEndian
	ids, count := p.data[headerSize:], uint64(p.count)
	if count == manyIDs {
		count, ids = order.Uint64(ids), ids[8:]
	}
	if p.flags != freelistFlag || count > uint64(len(ids)/8) {
		return p.errorf("it is no list of free pages")
	}
	for i := range count {
		free := order.Uint64(ids[i*8:])
		if free < 2 || free >= f.end || f.seen[free] {
			return p.errorf("page %d is called free", free)
		}
		f.seen[free] = true
	}
	return nil
}
