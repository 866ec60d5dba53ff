// Package buffers has buffers that are used again.
package buffers

import (
	"bytes"
	"sync"
)

// Pool has buffers that wait for their next use. The zero Pool keeps none.
type Pool struct {
	Most int // bytes of a buffer that is kept: a larger one was the exception

	free sync.Pool // of *bytes.Buffer
}

// Take returns a buffer that is empty. Whoever has it gives it back, and keeps nothing of its bytes.
func (p *Pool) Take() *bytes.Buffer {
	b, _ := p.free.Get().(*bytes.Buffer)
	if b == nil {
		return &bytes.Buffer{}
	}
	b.Reset()
	return b
}

// GiveBack keeps a buffer for the next use, and says whether it did.
func (p *Pool) GiveBack(b *bytes.Buffer) bool {
	if b.Cap() > p.Most {
		return false
	}
	p.free.Put(b)
	return true
}
