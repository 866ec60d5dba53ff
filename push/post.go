package push

// This file is a request on its way through a pool: in its queue, on a connection, and to its end.

import (
	"context"
	"errors"
	"sync"

	"github.com/mailbell/mailbell/push/h2"
	"golang.org/x/net/http2/hpack"
)

// post is a request on its way. Whoever waits for it may give it up.
type post struct {
	request *request
	bearer  string
	ctx     context.Context // of whoever waits; nothing begins after it has ended
	allowed func() error    // asked directly before it begins
	by      *connection     // that it goes out on; set before that
	done    chan struct{}   // closed with its end

	mu      sync.Mutex
	begun   bool
	givenUp bool
	refused error     // why it does not begin
	ending  h2.Ending // once it is done
}

var errGivenUp = errors.New("nobody waits for it any more")

// Begin is asked directly before it would be written, its stream free. Once it has begun, nobody but APNs knows whether it was accepted.
func (p *post) Begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.givenUp {
		p.refused = errGivenUp
		return p.refused
	}
	p.refused = p.ctx.Err()
	if p.refused == nil {
		p.refused = p.allowed()
	}
	p.begun = p.refused == nil
	return p.refused
}

// Fields are the header fields of the request.
func (p *post) Fields(into []hpack.HeaderField) []hpack.HeaderField {
	return p.request.fields(into, p.by.pool.authority, p.by.authorization(p.bearer))
}

// Payload is that of the notification.
func (p *post) Payload() []byte { return p.request.payload }

// End keeps what became of it, and lets the next one go out.
func (p *post) End(e h2.Ending) {
	p.ending = e
	p.by.ended(e)
	close(p.done)
	p.by.pool.dispatch()
}

// giveUp says that nobody waits for it any more, and returns whether it has begun.
func (p *post) giveUp() (begun bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.givenUp = true
	return p.begun
}
