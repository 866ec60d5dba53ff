package push

// This file is a payload on its way out.

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// body is a payload on its way out. net/http reads it when the stream is open and its headers are written, so its first read is
// the moment in which an attempt begins: not after the context has ended, and from here on nobody can know whether APNs has accepted it.
type body struct {
	ctx    context.Context
	opened chan struct{}
	stall  *time.Timer

	mu    sync.Mutex
	rest  []byte
	begun bool
	over  bool
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun {
		if b.over || b.ctx.Err() != nil {
			return 0, fmt.Errorf("not begun: %w", context.Canceled)
		}
		b.begun = true
		b.stall.Reset(answerTimeout)
		signal(b.opened)
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) Close() error { return nil }

// end says that the request is over, and returns whether it had begun.
func (b *body) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.stall.Stop()
	if !b.begun {
		signal(b.opened)
	}
	return b.begun
}
