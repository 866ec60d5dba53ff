package autodiscover

// Searches that ask the same endpoint at the same time share a request: while one request is open, the others wait for the next.

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// maxUsers is how many users go into one request: 5,000 mailboxes take 100 requests. Servers have an undocumented limit,
// and answer InvalidRequest above it; then a request has fewer, for learntFor.
const maxUsers = 50

// queue has the callers that ask one endpoint. It exists, with its worker, as long as a caller waits.
type queue struct {
	url     string
	waiting []*waiter
	callers int // that wait, or are in the open request
	cancel  context.CancelFunc
	ended   chan struct{} // the worker's end
}

// waiter is a caller that waits for the settings of a user.
type waiter struct {
	user  string
	reply chan reply // has room for one
}

// askSOAP asks at u for the settings of a user, together with others who ask there; u must be allowed.
func (s *search) askSOAP(ctx context.Context, u, user string) (answer, *fault.Error) {
	w := &waiter{user: user, reply: make(chan reply, 1)}
	q := s.enter(ctx, u, w)
	defer s.leave(q, w)
	select {
	case r := <-w.reply:
		return r.answer, r.err
	case <-ctx.Done():
		return answer{}, cancelled(ctx.Err())
	}
}

// enter puts w into the queue of u. The first caller starts the worker.
func (c *Client) enter(ctx context.Context, u string, w *waiter) *queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.queues[u]
	if !ok {
		q = &queue{url: u, ended: make(chan struct{})}
		c.queues[u] = q
		// The worker belongs to no single caller: the last one that waits ends it.
		ctx, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
		go c.work(ctx, q)
	}
	q.waiting = append(q.waiting, w)
	q.callers++
	return q
}

// leave removes w from the queue. The last caller ends the worker, and its open request.
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

// work asks for the waiting callers, one request after the other.
func (c *Client) work(ctx context.Context, q *queue) {
	defer close(q.ended)
	for {
		batch := c.next(q, true)
		if len(batch) == 0 {
			return
		}
		if err := c.askBatch(ctx, q.url, batch); err != nil && !divisible(err) {
			// The server cannot be reached, or refuses the credentials: the others would get the same answer, after another wait, or
			// with one more failed sign-in of the account.
			failAll(c.next(q, false), err)
		}
	}
}

// next takes the callers of the next request, or all, from the queue. None: the queue has ended.
func (c *Client) next(q *queue, bounded bool) []*waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(q.waiting)
	if !time.Now().Before(c.fewUntil) {
		c.perBatch = maxUsers
	}
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

// askBatch asks for a batch, and sends each caller its reply. If the request fails because of one user, or of their number, it asks for the
// halves. The error is one of the whole request.
func (c *Client) askBatch(ctx context.Context, u string, batch []*waiter) *fault.Error {
	users := make([]string, len(batch))
	for i, w := range batch {
		users[i] = w.user
	}
	replies, err := c.getUserSettings(ctx, u, users)
	if err == nil {
		for i, w := range batch {
			w.reply <- replies[i]
		}
		return nil
	}
	if len(batch) == 1 || !divisible(err) {
		failAll(batch, err)
		return err
	}
	middle := len(batch) / 2
	first := c.askBatch(ctx, u, batch[:middle])
	if first != nil && !divisible(first) {
		failAll(batch[middle:], first)
		return first
	}
	second := c.askBatch(ctx, u, batch[middle:])
	if first == nil && second == nil && (err.Code == codeInvalidRequest || err.Code == CodeUnread) { // because of their number
		c.mu.Lock()
		c.perBatch, c.fewUntil = min(c.perBatch, max(middle, 1)), time.Now().Add(learntFor)
		c.mu.Unlock()
	}
	if second != nil {
		return second
	}
	return first
}

// divisible reports whether the request may succeed for a part of its users.
func divisible(e *fault.Error) bool {
	switch e.Code {
	case CodeUnread, CodeFault, codeOrder:
		return true
	case codeServerBusy:
		return false
	}
	return strings.HasPrefix(e.Code, errorCode(""))
}

func failAll(batch []*waiter, err *fault.Error) {
	for _, w := range batch {
		w.reply <- reply{err: err}
	}
}
