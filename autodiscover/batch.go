package autodiscover

// Who asks the same endpoint at the same time is asked for in one request: while one is under way, the others gather for the next.

import (
	"context"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/fault"
)

// maxUsers is how many users go into one request: 5,000 mailboxes are 100 of them. A server has a limit, which nobody has written
// down, and answers InvalidRequest beyond it; then fewer are sent.
const maxUsers = 50

// queue is for those who ask at one endpoint. It is there as long as someone waits, and so is its worker.
type queue struct {
	url     string
	waiting []*waiter
	callers int // who wait, and those in the request under way
	cancel  context.CancelFunc
	ended   chan struct{} // the worker's end
}

// waiter is one who waits for the settings of a user.
type waiter struct {
	user string
	told chan reply // of one
}

// askSOAP asks at u for the settings of a user, together with others who ask there; u must be allowed.
func (s *search) askSOAP(ctx context.Context, u, user string) (answer, *fault.Error) {
	w := &waiter{user: user, told: make(chan reply, 1)}
	q := s.enter(ctx, u, w)
	defer s.leave(q, w)
	select {
	case r := <-w.told:
		return r.answer, r.err
	case <-ctx.Done():
		return answer{}, cancelled(ctx.Err())
	}
}

// enter has w wait in the queue of u. Who is the first there starts its worker.
func (c *Client) enter(ctx context.Context, u string, w *waiter) *queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.queues[u]
	if !ok {
		q = &queue{url: u, ended: make(chan struct{})}
		c.queues[u] = q
		// The worker is no single caller's: the last one who waits ends it.
		ctx, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
		go c.work(ctx, q)
	}
	q.waiting = append(q.waiting, w)
	q.callers++
	return q
}

// leave has w wait no longer. The last one ends the worker, and the request that it has under way.
func (c *Client) leave(q *queue, w *waiter) {
	c.mu.Lock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other *waiter) bool { return other == w })
	q.callers--
	last := q.callers == 0
	if last && c.queues[q.url] == q {
		delete(c.queues, q.url)
	}
	c.mu.Unlock()
	if last {
		q.cancel()
		<-q.ended
	}
}

// work asks for those who wait, one request after the other.
func (c *Client) work(ctx context.Context, q *queue) {
	defer close(q.ended)
	for {
		batch := c.next(q, true)
		if len(batch) == 0 {
			return
		}
		if err := c.tell(ctx, q.url, batch); err != nil && !divisible(err) {
			// The server is away, or refuses the credentials: who waits would be told the same, each time after as long a wait, or
			// with one more refusal on the account.
			tellAll(c.next(q, false), err)
		}
	}
}

// next takes out of the queue those who go into the next request, or all. Nobody: the queue is at its end.
func (c *Client) next(q *queue, bounded bool) []*waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(q.waiting)
	if bounded {
		n = min(n, c.perBatch)
	}
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	if bounded && n == 0 && c.queues[q.url] == q {
		delete(c.queues, q.url)
	}
	return batch
}

// tell asks for a batch, and tells each what is said about it. Where the failure of all may be the fault of one, or of their number,
// it asks for the halves. The error is one of the whole request.
func (c *Client) tell(ctx context.Context, u string, batch []*waiter) *fault.Error {
	users := make([]string, len(batch))
	for i, w := range batch {
		users[i] = w.user
	}
	replies, err := c.getUserSettings(ctx, u, users)
	if err == nil {
		for i, w := range batch {
			w.told <- replies[i]
		}
		return nil
	}
	if len(batch) == 1 || !divisible(err) {
		tellAll(batch, err)
		return err
	}
	half := len(batch) / 2
	first := c.tell(ctx, u, batch[:half])
	if first != nil && !divisible(first) {
		tellAll(batch[half:], first)
		return first
	}
	second := c.tell(ctx, u, batch[half:])
	if first == nil && second == nil && (err.Code == codeInvalidRequest || err.Code == CodeUnread) { // it was their number
		c.mu.Lock()
		c.perBatch = min(c.perBatch, max(half, 1))
		c.mu.Unlock()
	}
	if second != nil {
		return second
	}
	return first
}

// divisible reports whether a request that failed so may succeed for a part of its users.
func divisible(e *fault.Error) bool {
	switch e.Code {
	case CodeUnread, CodeFault, codeOrder:
		return true
	case codeServerBusy:
		return false
	}
	return strings.HasPrefix(e.Code, errorCode(""))
}

func tellAll(batch []*waiter, err *fault.Error) {
	for _, w := range batch {
		w.told <- reply{err: err}
	}
}
