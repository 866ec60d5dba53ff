package graph

// One exchange with Graph: request, status, answer.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/hostname"
)

const (
	// maxAnswer bounds an answer: the longest page has 1,000 messages of a few kilobytes.
	maxAnswer = 8 << 20
	// maxErrorAnswer bounds what is read of an answer that is an error; a real one has less than a kilobyte.
	maxErrorAnswer = 64 << 10
	// maxDrain is how much is read behind an answer so that its connection can be used again; there should be nothing.
	maxDrain = 4 << 10
	// immutable has all ids in the form that stays when a message moves to another folder of its mailbox. Ids of the other form are
	// never mixed with these: so it goes with every call.
	immutable = `IdType="ImmutableId"`
)

// about is what an operation is about: the same code means different things there.
type about uint8

const (
	anything      about = iota
	aboutInbox          // a folder, a listing
	aboutMessage        // one message
	aboutMaking         // a new subscription
	aboutExisting       // a subscription that was made before
	aboutAll            // the list of subscriptions
)

// operation is one call: its name, what it sends, and how its answer is read.
type operation struct {
	name    string // as errors tell it: "GET messages"
	about   about
	mailbox string // whose; empty: of none
	method  string
	url     string   // all of it
	body    any      // sent as JSON; nil: none
	answer  any      // where the JSON of the answer goes; nil: only the status matters
	secrets []string // that no error may show
	repeats bool     // it changes nothing, so net/http may send it again where a kept connection turns out to be dead
}

// call runs one operation. Its error is an *Error, or that of ctx.
func (c *Client) call(ctx context.Context, op operation) (Answer, error) {
	a, err := c.ask(ctx, op)
	a.Ended = time.Now()
	if e, ok := errors.AsType[*Error](err); ok {
		e.RequestID = a.RequestID
	}
	return a, err
}

// ask makes the request and reads the answer.
func (c *Client) ask(ctx context.Context, op operation) (Answer, error) {
	timed, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	a := Answer{RequestID: requestID()}
	req, err := c.request(timed, op, a.RequestID)
	if err != nil {
		return a, newError(op, said{code: CodeURL})
	}
	a.Began = time.Now()
	resp, err := c.o.HTTP.RoundTrip(req)
	if err != nil {
		return a, connError(ctx, op, err)
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		resp.Body.Close()
	}()
	a.ServerTime, _ = http.ParseTime(resp.Header.Get("Date"))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return a, refused(ctx, op, resp)
	}
	if op.answer == nil {
		return a, nil
	}
	// The page of a login or of a proxy is not taken for an answer that cannot be read.
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "text/html" {
		return a, pageError(op, resp)
	}
	return a, c.read(ctx, timed, op, resp.Body)
}

// request makes the request of an operation.
func (c *Client) request(ctx context.Context, op operation, id string) (*http.Request, error) {
	var body io.Reader
	if op.body != nil {
		b, err := json.Marshal(op.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, op.method, op.url, body)
	if err != nil {
		return nil, err
	}
	h := req.Header
	if op.body != nil {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Accept", "application/json")
	h.Set("Prefer", immutable)
	h.Set("User-Agent", c.o.UserAgent)
	h.Set("Client-Request-Id", id)
	h.Set("Return-Client-Request-Id", "true")
	if op.repeats {
		h["X-Idempotency-Key"] = []string{} // net/http takes this header as the sign for that, and does not send it
	}
	return req, nil
}

// read reads the JSON of an answer.
func (c *Client) read(ctx, timed context.Context, op operation, body io.Reader) error {
	b, _ := c.buffers.Get().(*bytes.Buffer)
	if b == nil {
		b = &bytes.Buffer{}
	}
	defer c.buffers.Put(b)
	b.Reset()
	switch n, err := b.ReadFrom(io.LimitReader(body, maxAnswer+1)); {
	case timed.Err() != nil: // whatever came of it: a server may end its answer properly when it sees us go
		return connError(ctx, op, timed.Err())
	case err != nil:
		return connError(ctx, op, err)
	case n > maxAnswer:
		return unparseable(op, fmt.Sprintf("it is larger than %d bytes", maxAnswer))
	}
	if err := json.Unmarshal(b.Bytes(), op.answer); err != nil {
		return unparseable(op, "it is not the JSON that it should be") // the error of the parser may quote what it parses
	}
	return nil
}

// escaped is an address or an id in the path of a URL.
func escaped(s string) string { return url.PathEscape(s) }

// mailboxURL is the URL of something of a mailbox.
func (c *Client) mailboxURL(mailbox, path string) string {
	return c.root + "/users/" + escaped(mailbox) + path
}

// here says whether a URL that an answer names is on this Graph, scheme and host and port: a token goes nowhere else.
func (c *Client) here(link string) bool {
	to, err := url.Parse(link)
	if err != nil || to.User != nil || hostname.Of(to) == "" {
		return false
	}
	own, err := url.Parse(c.root)
	return err == nil && strings.EqualFold(to.Scheme, own.Scheme) && hostname.Address(to) == hostname.Address(own)
}

// requestID returns a new random UUID (RFC 9562, version 4).
func requestID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
