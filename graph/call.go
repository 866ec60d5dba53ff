package graph

// One exchange with Graph: request, status, answer.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/requestid"
	"github.com/mailbell/mailbell/internal/webpage"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// maxAnswer bounds an answer: the longest page has 1,000 messages of a few kilobytes.
	maxAnswer = 8 << 20
	// keptBuffer bounds the buffers that are used again: an answer that is larger is rare.
	keptBuffer = 512 << 10
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
	aboutSending        // a message that a mailbox sends
)

// operation is one call: its name, what it sends, and how its answer is read.
type operation struct {
	name     string // as errors tell it: "GET messages"
	about    about
	mailbox  string // whose; empty: of none
	method   string
	url      string   // all of it
	body     any      // sent as JSON; nil: none
	answer   any      // where the JSON of the answer goes; nil: only the status matters
	secrets  []string // that no error may show
	combines bool     // it may be made together with others
	looks    bool     // it is a look-up of where the mailbox is
	requests int      // that a batch makes of the mailbox at once; 0: it is no batch
	repeats  bool     // it changes nothing, so net/http may send it again where a kept connection turns out to be dead
}

// gate is the gate at which an operation waits.
func (op operation) gate() string {
	switch op.about {
	case aboutMaking, aboutExisting, aboutAll:
		return ofSubscriptions
	}
	return op.mailbox
}

// purpose of a call, for the pace.
func (op operation) purpose() pace.Purpose {
	switch {
	case op.about == aboutMessage:
		return pace.Reading
	case op.looks:
		return pace.Looking
	case op.about == aboutInbox:
		return pace.Listing
	}
	return pace.Subscribing
}

// call runs one operation. Its error is an *Error, or that of ctx. Its time begins when its turn has come.
func (c *Client) call(ctx context.Context, op operation) (Answer, error) {
	for waited := time.Duration(0); ; {
		a, err := c.turn(ctx, op)
		e, _ := errors.AsType[*Error](err)
		if e == nil || !e.app {
			return a, err
		}
		wait := backoff.Jitter(e.Fault.After)
		waited += wait
		if waited > patience {
			return a, err
		}
		if !pause.For(ctx, wait) {
			return a, fmt.Errorf("%s: waiting for its turn: %w", op.name, ctx.Err())
		}
	}
}

// turn makes the request of an operation as soon as it may be made.
func (c *Client) turn(ctx context.Context, op operation) (a Answer, err error) {
	requests := max(1, op.requests)
	closed, err := c.gates.enter(ctx, op.gate(), requests)
	switch {
	case err != nil:
		return a, fmt.Errorf("%s: waiting for its turn: %w", op.name, err)
	case closed.held > 0:
		return a, heldError(op, closed)
	}
	defer c.gates.leave(op.gate(), requests, nil)
	if !op.combines {
		return c.alone(ctx, op)
	}
	c.combiner.enter()
	defer c.combiner.leave()
	if err := c.o.Pace.Turn(ctx, op.purpose(), op.name); err != nil {
		return a, err
	}
	if closed := c.gates.pass(op.gate(), false); closed.held > 0 {
		return a, heldError(op, closed)
	}
	if ok, a, err := c.combine(ctx, op); ok {
		return a, err
	}
	return c.alone(ctx, op)
}

// alone makes the request of an operation by itself. One that combines has had its turn, and has passed its gate.
func (c *Client) alone(ctx context.Context, op operation) (a Answer, err error) {
	place, ok := c.o.Pace.Enter(ctx, op.purpose(), cmp.Or(op.mailbox, op.url), false)
	if !ok {
		return a, newError(op, said{code: CodeHangs})
	}
	defer func() { place.Leave(endingOf(err)) }()
	if !op.combines {
		if err := c.o.Pace.Turn(ctx, op.purpose(), op.name); err != nil {
			return a, err
		}
	}
	if closed := c.gates.pass(op.gate(), op.combines); closed.held > 0 { // meanwhile
		return a, heldError(op, closed)
	}
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	place.Begin(cancel)
	a, err = c.ask(own, op)
	a.Ended = time.Now()
	if op.combines && a.Ended.Sub(a.Began) >= slowBatch {
		c.combiner.separate([]*part{{op: op}})
	}
	e, _ := errors.AsType[*Error](err)
	switch {
	case ctx.Err() != nil:
		return a, err
	case place.GivenUp():
		return a, newError(op, said{code: CodeHangs})
	case e != nil && e.Fault.Code == proxy.CodeTimeout:
		place.Hung()
	}
	if e != nil {
		e.RequestID = a.RequestID
	}
	if e != nil || op.requests == 0 { // else it is a batch that was let in: its parts say more
		c.gates.note(op.gate(), a.Began, e)
	}
	return a, err
}

// endingOf says what an error says of the server's pace.
func endingOf(err error) pace.Ending {
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil:
		return pace.Well
	case ok && throttles(e.Fault):
		return pace.Busy
	}
	return pace.Failed
}

// ask makes the request and reads the answer.
func (c *Client) ask(ctx context.Context, op operation) (Answer, error) {
	timed, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	a := Answer{RequestID: requestid.New()}
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
	if webpage.Is(resp.Header) {
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
	// A link of Graph may show the blanks of its filter as they are; in a request they would end the URL.
	req, err := http.NewRequestWithContext(ctx, op.method, strings.ReplaceAll(op.url, " ", "%20"), body)
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
	b := c.buffers.Take()
	defer c.buffers.GiveBack(b)
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
