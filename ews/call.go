package ews

// One exchange with the server: request, status, envelopes, SOAP faults and response messages.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/internal/requestid"
	"github.com/mailbell/mailbell/internal/webpage"
	"github.com/mailbell/mailbell/proxy"
)

const (
	overrideCookie = "X-BackEndOverrideCookie"
	maxCookie      = 4096 // bytes of it, which is kept with the group: what clients have to take at least (RFC 6265 section 6.1)
	// X-AnchorMailbox and X-CalculatedBETarget, in the form in which net/http has them: else it would make that for each request.
	anchorMailbox     = "X-Anchormailbox"
	calculatedBackend = "X-Calculatedbetarget"
	// maxDrain is how much is read behind an answer so that its connection can be used again; there should be nothing.
	maxDrain = 4 << 10
	// trailing is how long an answer may take to end once its first document has come: what follows it comes along.
	trailing = time.Second
)

// parser reads one body: the framer and the scanner with their buffers, which are used again.
type parser struct {
	framer
	scanner
	body io.Closer
	late *time.Timer // closes body; nil: it did not run yet
}

// endsSoon has the body closed unless it ends soon.
func (p *parser) endsSoon(body io.Closer) {
	switch {
	case p.body != nil: // not the first document
	case p.late == nil:
		p.body = body
		p.late = time.AfterFunc(trailing, func() { p.body.Close() })
	default:
		p.body = body
		p.late.Reset(trailing)
	}
}

// operation is one call: its name, what it sends, and how its answer is read.
type operation struct {
	name        string
	purpose     pace.Purpose
	body        func(b *bytes.Buffer, version string)
	read        bool          // it changes nothing, so net/http may send it again where a kept connection turns out to be dead
	unparseable string        // the code of an answer that cannot be understood
	first       bool          // other calls wait for this one
	within      time.Duration // how long it may take, where other calls may take longer; 0: as long as they
	// message reads one response message, which was just entered; it returns what is wrong with it, or nil.
	message func(*scanner) *problem
}

// call runs one operation and returns the Answer of the server. Its error is an *Error, or that of ctx. Its time begins when its turn has
// come.
func (c *Client) call(ctx context.Context, t Target, op operation) (a Answer, err error) {
	place, ok := c.o.Pace.Enter(ctx, op.purpose, t.Mailbox, op.first)
	if !ok {
		return a, newError(op.name, CodeHangs, "", 0, nil)
	}
	defer func() { place.Leave(endingOf(err)) }()
	if err := c.o.Pace.Turn(ctx, op.purpose, op.name); err != nil {
		return a, err
	}
	version := c.o.Dialect.Version()
	a, err = c.ask(ctx, place, t, op, version)
	if version != version2010 && refuses(err) {
		if err := c.o.Pace.Turn(ctx, op.purpose, op.name); err != nil {
			return a, err
		}
		a, err = c.ask(ctx, place, t, op, version2010)
		c.o.Dialect.older(err)
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case place.GivenUp():
		err = newError(op.name, CodeHangs, "", 0, nil)
	case fault.Of(err).Code == proxy.CodeTimeout:
		place.Hung()
		if op.within > 0 && time.Since(place.Began()) >= op.within {
			err = hangs(op)
		}
	}
	return a, err
}

// hangs is the error of a call that was not answered within its own, short time.
func hangs(op operation) *Error {
	e := newError(op.name, CodeHangs, "", 0, nil)
	e.Fault.Text = "the server has not answered within " + op.within.String()
	return e
}

// endingOf says what an error says of the server's pace.
func endingOf(err error) pace.Ending {
	if err == nil {
		return pace.Well
	}
	switch fault.Of(err).Code {
	case "ErrorServerBusy", "ErrorInsufficientResources", "HTTP 503", "HTTP 429":
		return pace.Busy
	}
	return pace.Failed
}

// ask is one request of a call.
func (c *Client) ask(ctx context.Context, place pace.Call, t Target, op operation, version string) (a Answer, err error) {
	if version == version2010 {
		select {
		case c.few <- struct{}{}:
			defer func() { <-c.few }()
		case <-ctx.Done():
			return a, fmt.Errorf("%s: %w", op.name, ctx.Err())
		}
	}
	timed, cancel := context.WithTimeout(ctx, min(c.o.Timeout, cmp.Or(op.within, c.o.Timeout)))
	defer cancel()
	place.Begin(cancel)
	resp, a, err := c.send(ctx, timed, t, op, version) //nolint:bodyclose // receive closes it
	if err == nil {
		err = c.receive(ctx, timed, resp, op)
	}
	a.Ended = time.Now()
	if e, ok := errors.AsType[*Error](err); ok {
		e.RequestID = a.RequestID
	}
	return a, err
}

// send makes the request under timed, which ends with ctx or before it, and returns the answer with status 200, its body unread. Any
// other status is an error.
func (c *Client) send(ctx, timed context.Context, t Target, op operation, version string) (*http.Response, Answer, error) {
	a := Answer{RequestID: requestid.New()}
	b := c.bodies.take()
	envelope(&b.Buffer, version, t, op.body)
	req, err := b.request(timed, t.URL)
	if err != nil {
		return nil, a, newError(op.name, CodeURL, "", 0, nil)
	}
	h := req.Header
	maps.Copy(h, c.header)
	h.Set("Client-Request-Id", a.RequestID)
	anchor := t.Anchor
	if anchor == "" {
		anchor = t.Mailbox
	}
	if anchor != "" {
		h.Set(anchorMailbox, anchor)
	}
	// Exchange 2010 knows neither.
	if t.Affinity && version != version2010 {
		h.Set("X-PreferServerAffinity", "true")
	}
	if t.Cookie != "" && version != version2010 {
		h.Set("Cookie", overrideCookie+"="+t.Cookie)
	}
	if op.read {
		h["X-Idempotency-Key"] = []string{} // net/http takes this header as the sign for that, and does not send it
	}
	a.Began = time.Now()
	resp, err := c.o.HTTP.RoundTrip(req)
	c.bodies.giveBack(b)
	if err != nil {
		return nil, a, connError(ctx, op.name, err)
	}
	a.ServerTime, _ = http.ParseTime(resp.Header.Get("Date"))
	a.Backend = resp.Header.Get(calculatedBackend)
	for _, cookie := range resp.Cookies() {
		if cookie.Name == overrideCookie && len(cookie.Value) <= maxCookie {
			a.Cookie = cookie.Value
		}
	}
	if resp.StatusCode == http.StatusOK {
		// The page of a login or of a load balancer. Its document type must not be taken for an item that cannot be read, because
		// that leads to an alert.
		if webpage.Is(resp.Header) {
			resp.Body.Close()
			return nil, a, pageError(op.name, resp)
		}
		return resp, a, nil
	}
	return nil, a, c.refused(ctx, resp, op.name)
}

// refused reads an answer with another status than 200: the SOAP fault of the body if it has one, else the status.
func (c *Client) refused(ctx context.Context, resp *http.Response, op string) error {
	status := httpError(op, resp)
	if status.Fault.Code == CodeRedirect {
		resp.Body.Close()
		return status
	}
	var said *Error
	// If the body cannot be read, the status counts.
	_ = c.documents(resp.Body, func(s *scanner) error {
		if p, _ := responses(s, plainMessage); p != nil && said == nil {
			said = p.error(op)
			if asked := backoff.RetryAfter(resp.Header, maxBackOff); p.backOff == 0 && asked > 0 {
				said.Fault.After = asked
			}
		}
		return s.err
	})
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	if said != nil {
		return said
	}
	return status
}

// receive reads the answer of an operation. Some servers send a document with an error before the one with the success: the success counts.
func (c *Client) receive(ctx, timed context.Context, resp *http.Response, op operation) error {
	var first *problem
	done := false
	err := c.documents(resp.Body, func(s *scanner) error {
		p, found := responses(s, op.message)
		switch {
		case s.err != nil:
			return s.err
		case !found:
			return malformed("it holds no response message")
		case p == nil:
			done = true
			return io.EOF
		case first == nil:
			first = p
		}
		return nil
	})
	switch {
	case done:
		return nil
	case first != nil:
		return first.error(op.name)
	case timed.Err() != nil: // whatever came of it: a server may end its answer properly when it sees us go
		return connError(ctx, op.name, timed.Err())
	case err == nil:
		return contentError(op.name, op.unparseable, foreign("it is empty"))
	case isContent(err):
		return contentError(op.name, op.unparseable, err)
	}
	return connError(ctx, op.name, err)
}

// documents calls read for each envelope of a body until read returns an error; io.EOF ends it without an error. It closes the body.
func (c *Client) documents(body io.ReadCloser, read func(*scanner) error) error {
	defer body.Close()
	p, _ := c.parsers.Get().(*parser)
	if p == nil {
		p = &parser{}
	}
	defer func() {
		if p.body != nil && !p.late.Stop() { // the body is being closed
			return
		}
		p.body = nil
		p.framer.reset(nil)
		p.scanner.reset(nil)
		c.parsers.Put(p)
	}()
	p.framer.reset(body)
	for {
		doc, err := p.framer.next()
		if err == nil {
			p.endsSoon(body)
			p.scanner.reset(doc)
			err = read(&p.scanner)
		}
		if isEnd(err) {
			_, _ = io.CopyN(io.Discard, body, maxDrain)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// responses calls message for each response message of an envelope. It returns the fault of the envelope, or the first problem that
// message found, and whether the envelope had either. s.err says whether all of it could be read.
func responses(s *scanner, message func(*scanner) *problem) (first *problem, found bool) {
	for at := s.depth; s.child(at); { // Envelope
		for at := s.depth; s.child(at); {
			if string(s.name) != "Body" {
				continue
			}
			for at := s.depth; s.child(at); { // XResponse or Fault
				if string(s.name) == "Fault" {
					found = true
					first = soapFault(s)
					continue
				}
				for at := s.depth; s.child(at); { // ResponseMessages
					for at := s.depth; s.child(at); {
						found = true
						if p := message(s); p != nil && first == nil {
							first = p
						}
					}
				}
			}
		}
	}
	return first, found
}

// soapFault reads a SOAP 1.1 fault: the code of EWS in its detail, else its faultcode.
func soapFault(s *scanner) *problem {
	p := &problem{}
	faultcode := ""
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "faultcode":
			faultcode = string(local(bytes.TrimSpace(s.text())))
		case "faultstring":
			p.text = strings.TrimSpace(string(s.text()))
		case "detail":
			for at := s.depth; s.child(at); {
				p.take(s)
			}
		}
	}
	if p.code == "" {
		p.code = faultcode
	}
	return p
}

// take reads the elements that every response message and the detail of a fault may have. It returns false for any other.
func (p *problem) take(s *scanner) bool {
	switch string(s.name) {
	case "ResponseCode":
		if code := bytes.TrimSpace(s.text()); string(code) != noError {
			p.code = string(code)
		}
	case "MessageText", "Message":
		if text := bytes.TrimSpace(s.text()); len(text) > 0 {
			p.text = string(text)
		}
	case "MessageXml":
		for at := s.depth; s.child(at); {
			switch string(s.attr("Name")) {
			case "BackOffMilliseconds":
				ms, err := strconv.ParseUint(string(bytes.TrimSpace(s.text())), 10, 32)
				if err == nil {
					p.backOff = time.Duration(ms) * time.Millisecond
				}
			case "InnerErrorResponseCode":
				p.inner = string(bytes.TrimSpace(s.text()))
			}
		}
	default:
		return false
	}
	return true
}

const noError = "NoError"

// begin reads the ResponseClass of the response message that was just entered.
func begin(s *scanner) problem {
	if string(s.attr("ResponseClass")) == "Error" {
		return problem{code: "ErrorWithoutCode"}
	}
	return problem{}
}

// failed returns p if a problem was found in it.
func (p *problem) failed() *problem {
	if p.code == "" {
		return nil
	}
	return p
}

// plainMessage reads a response message of which only its success matters.
func plainMessage(s *scanner) *problem {
	p := begin(s)
	for at := s.depth; s.child(at); {
		p.take(s)
	}
	return p.failed()
}
