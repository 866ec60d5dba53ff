package graph

// Listings of many mailboxes in one request: where several wait to be made at once, up to 20 go together as a batch. Graph counts each for
// itself, and the work of a request is done once.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
)

const (
	// busyListings is how many listings have to be under way before another one waits for company.
	busyListings = 4
	// companyFor is how long it waits for that.
	companyFor = 20 * time.Millisecond
	// slowBatch is how long a batch may take before its mailboxes are listed by themselves for aloneFor: one that hangs is not to keep the
	// others waiting, and nobody says which it was.
	slowBatch = 3 * time.Second
	aloneFor  = 10 * time.Minute
	// batchWithin is how long a batch may take at all. Then each of its mailboxes is listed by itself.
	batchWithin = 5 * time.Second
	// notBatched is how long nothing is combined after Graph has refused a batch as such.
	notBatched = time.Hour
)

// combiner puts batches of listings together.
type combiner struct {
	mu       sync.Mutex
	underWay int    // listings
	next     *batch // that listings join; nil: there is none
	alone    map[string]time.Time
	never    time.Time // until then nothing is combined
}

// batch is several listings that are made together. The first of them makes the request.
type batch struct {
	parts []*part
	full  chan struct{} // closed when no more fit
	done  chan struct{} // closed when the request has ended
	made  bool          // it was answered; else each listing is made by itself
}

// part is one listing of a batch.
type part struct {
	op  operation
	a   Answer
	err error
}

// enter counts a listing that begins.
func (c *combiner) enter() {
	c.mu.Lock()
	c.underWay++
	c.mu.Unlock()
}

func (c *combiner) leave() {
	c.mu.Lock()
	c.underWay--
	c.mu.Unlock()
}

// join has a listing join a batch, where there is company; first: it is the one that makes it. nil: it is made by itself.
func (c *combiner) join(op operation) (b *batch, p *part, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.underWay <= busyListings || now.Before(c.never) || now.Before(c.alone[op.mailbox]) {
		return nil, nil, false
	}
	if c.next == nil {
		c.next, first = &batch{full: make(chan struct{}), done: make(chan struct{})}, true
	}
	b, p = c.next, &part{op: op}
	b.parts = append(b.parts, p)
	if len(b.parts) == MaxItems {
		close(b.full)
		c.next = nil
	}
	return b, p, first
}

// gather waits for company, ends the time in which others may join, and returns the listings that go.
func (c *combiner) gather(ctx context.Context, b *batch) []*part {
	late := time.NewTimer(companyFor)
	defer late.Stop()
	select {
	case <-b.full:
	case <-late.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == b {
		c.next = nil
	}
	return b.parts
}

// separate has the mailboxes of a batch listed by themselves for a while.
func (c *combiner) separate(parts []*part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.alone)+len(parts) > maxGates {
		clear(c.alone)
	}
	if c.alone == nil {
		c.alone = map[string]time.Time{}
	}
	for _, p := range parts {
		c.alone[p.op.mailbox] = now.Add(aloneFor)
	}
}

// stop has nothing combined for a while.
func (c *combiner) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.never = time.Now().Add(notBatched)
}

// combine makes a listing together with others. false: it is to be made by itself.
func (c *Client) combine(ctx context.Context, op operation) (ok bool, a Answer, err error) {
	b, p, first := c.combiner.join(op)
	switch {
	case b == nil:
		return false, a, nil
	case first:
		b.made = c.make(ctx, b)
		close(b.done)
	default:
		select {
		case <-b.done:
		case <-ctx.Done():
			return true, a, fmt.Errorf("%s: %w", op.name, ctx.Err())
		}
	}
	return b.made, p.a, p.err
}

// make waits for company and makes a batch. false: there was none, or each is to be made by itself.
func (c *Client) make(ctx context.Context, b *batch) bool {
	parts := c.combiner.gather(ctx, b)
	if ctx.Err() != nil || len(parts) == 1 {
		return false
	}
	place, ok := c.o.Pace.Enter(ctx, pace.Listing, "", false)
	if !ok {
		return false
	}
	if ctx.Err() != nil {
		place.Leave(pace.Failed)
		return false
	}
	var got batchAnswer
	within, cancel := context.WithTimeout(ctx, batchWithin)
	defer cancel()
	place.Begin(cancel)
	urls := make([]string, len(parts))
	for i, p := range parts {
		urls[i] = strings.TrimPrefix(p.op.url, c.root)
	}
	a, err := c.ask(within, c.batch(operation{name: opList, about: aboutInbox}, urls, &got))
	a.Ended = time.Now()
	place.Leave(endingOf(err))
	if a.Ended.Sub(a.Began) >= slowBatch || err != nil {
		c.combiner.separate(parts)
	}
	e, typed := errors.AsType[*Error](err)
	if err != nil && !(typed && throttles(e.Fault)) {
		if typed && refusesBatches(e.Fault) {
			c.combiner.stop()
		}
		return false // by itself each shows what is wrong with it
	}
	c.handOut(parts, a, &got, err)
	return true
}

// handOut gives each listing of a batch its part of the answer. whole is what is wrong with all of them.
func (c *Client) handOut(parts []*part, a Answer, got *batchAnswer, whole error) {
	for i, p := range parts {
		p.a = a
		e := partOf(p.op, got.find(i), whole)
		if e != nil {
			e.RequestID = a.RequestID
			p.err = e
		}
		c.gates.note(p.op.gate(), a.Began, e)
	}
}

// refusesBatches says whether an error is one of the batch, whatever is in it.
func refusesBatches(f *fault.Error) bool {
	switch f.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusForbidden:
		return true
	}
	return false
}

// partOf reads the answer to one listing. whole is what is wrong with all of them.
func partOf(op operation, r *batchResponse, whole error) *Error {
	if e, ok := errors.AsType[*Error](whole); ok {
		f := *e.Fault
		return &Error{Fault: &f, asked: e.asked}
	}
	switch {
	case r == nil:
		return unparseable(op, "fewer answers than listings")
	case r.Status != http.StatusOK:
		return r.refused(op)
	case json.Unmarshal(r.Body, op.answer) != nil:
		return unparseable(op, "it is not the JSON of a listing")
	}
	return nil
}
