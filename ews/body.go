package ews

// The body of a request, whose memory is used again: every message takes a request of 2 KiB.

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// keptBody is how large a body may be that is kept for the next request: one for an item has 2 KiB. One for a stream is ten times as large,
// and rare.
const keptBody = 4 << 10

// requestBody is an envelope on its way. net/http may go on reading it after it has returned the answer, or send it again on another
// connection, so its memory is used again only where net/http says that it has read it, once and for the last time.
type requestBody struct {
	bytes.Buffer
	reader   bytes.Reader
	closer   io.ReadCloser // reader, in the form that net/http knows to be in memory: it sends header and body together
	again    func() (io.ReadCloser, error)
	trace    httptrace.ClientTrace
	read     atomic.Bool // by the first request
	repeated atomic.Bool // there is another request, with a reader of its own
}

func newRequestBody() *requestBody {
	b := &requestBody{}
	b.closer = io.NopCloser(&b.reader)
	b.again = func() (io.ReadCloser, error) {
		b.repeated.Store(true)
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}
	b.trace.WroteRequest = func(i httptrace.WroteRequestInfo) {
		if i.Err == nil { // else it may be sent again, and read then
			b.read.Store(true)
		}
	}
	return b
}

// request is a POST with this body.
func (b *requestBody) request(ctx context.Context, url string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &b.trace), http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	b.reader.Reset(b.Bytes())
	req.Body, req.GetBody, req.ContentLength = b.closer, b.again, int64(b.Len())
	return req, nil
}

// isFree says that nobody reads it any more, now that RoundTrip has returned.
func (b *requestBody) isFree() bool { return b.read.Load() && !b.repeated.Load() }

// empty lets its memory go.
func (b *requestBody) empty() {
	b.Buffer = bytes.Buffer{}
	b.reader.Reset(nil)
}

// requestBodies are those that can be used again.
type requestBodies struct{ pool sync.Pool }

func (p *requestBodies) take() *requestBody {
	b, _ := p.pool.Get().(*requestBody)
	if b == nil {
		return newRequestBody()
	}
	b.Reset()
	b.read.Store(false)
	return b
}

// giveBack is called once RoundTrip has returned.
func (p *requestBodies) giveBack(b *requestBody) {
	switch {
	case !b.isFree():
	case b.Cap() <= keptBody:
		p.pool.Put(b)
	default: // an answer knows its request: that of a stream would be kept for half an hour
		b.empty()
	}
}
