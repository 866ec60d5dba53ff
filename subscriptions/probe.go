package subscriptions

import (
	"context"
	"sync"
	"time"
)

const (
	// probeTimeout bounds one probe: a store that is there takes milliseconds.
	probeTimeout = 2 * time.Second
	// probeFresh is how long the answer of a probe is given again: health is asked for by many, and must not load the store.
	probeFresh = time.Second
)

// probe tells by a write whether a store takes any: a store can answer, and its disk or its memory be full. One try is under way at a
// time, for all who ask.
type probe struct {
	try func(context.Context) error

	mu     sync.Mutex
	asked  time.Time // when the last try ended
	err    error     // what it said
	trying chan struct{}
}

// ask returns what a try says: one that ended less than probeFresh ago, or the next to end. It returns when ctx ends.
func (p *probe) ask(ctx context.Context) error {
	p.mu.Lock()
	if p.trying == nil && !p.asked.IsZero() && time.Since(p.asked) < probeFresh {
		defer p.mu.Unlock()
		return p.err
	}
	if p.trying == nil {
		p.trying = make(chan struct{})
		go p.run(context.WithoutCancel(ctx)) // for the others too, when this one has gone
	}
	done := p.trying
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// forget has a new try made for whoever asks next: a write has failed since the last.
func (p *probe) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Time{}
}

func (p *probe) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.try(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.err = time.Now(), err
	close(p.trying)
	p.trying = nil
}
