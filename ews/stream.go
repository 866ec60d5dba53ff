package ews

// GetStreamingEvents: notifications as they come.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
)

const (
	// MaxSubscriptions is how many subscriptions one stream may have ("How to: Maintain affinity between a group of subscriptions and the
	// Mailbox server").
	MaxSubscriptions = 200
	// opening is how long a stream may take to answer at all: its first envelope is due at once. If the mailbox that it is opened as hangs, it
	// keeps the others of its group waiting no longer than this.
	opening    = 10 * time.Second
	maxMinutes = 30          // the schema's StreamingSubscriptionConnectionTimeoutType: 1 to 30
	overtime   = time.Minute // how late a server may end a stream
)

// The causes with which a stream's context is ended.
var (
	errSilent  = errors.New("silent")
	errOverdue = errors.New("overdue")
	errClosed  = errors.New("closed")
)

// Stream is an open GetStreamingEvents. Call Next and Close from one goroutine. To end the stream from another, cancel the context that
// it was opened with.
type Stream struct {
	Answer // of its opening

	ctx     context.Context // the caller's
	own     context.Context // ends with ctx, or for one of the causes above
	cancel  context.CancelCauseFunc
	release func() // the timer of own
	body    watched
	parser  parser
	only    string  // its one subscription; empty: it has several
	begun   bool    // the first envelope has come
	pending []error // what else the envelope brought that was handed out last
	end     error   // what every further Next returns
}

// GetStreamingEvents opens a stream of the events of subscriptions of this account, at most MaxSubscriptions. The server ends it after
// timeout: whole minutes from 1 to 30, a fraction rounded up. Its error is an *Error, or that of ctx; ctx bounds the stream as well.
// Errors of the ids come with the first Next.
func (c *Client) GetStreamingEvents(ctx context.Context, t Target, ids []string, timeout time.Duration) (*Stream, error) {
	const op = "GetStreamingEvents"
	if len(ids) == 0 || len(ids) > MaxSubscriptions {
		return nil, fmt.Errorf("%s: %d subscriptions, want 1 to %d", op, len(ids), MaxSubscriptions)
	}
	minutes := min(max(int((timeout+time.Minute-1)/time.Minute), 1), maxMinutes)
	version := c.o.Dialect.Version()
	s, err := c.stream(ctx, t, ids, minutes, version)
	if version != version2010 && refuses(err) {
		s, err = c.stream(ctx, t, ids, minutes, version2010)
		c.o.Dialect.older(err)
	}
	return s, err
}

// stream is one request for a stream.
func (c *Client) stream(ctx context.Context, t Target, ids []string, minutes int, version string) (*Stream, error) {
	const op = "GetStreamingEvents"
	if err := c.o.Pace.Turn(ctx, pace.Reading, op); err != nil {
		return nil, err
	}
	timed, release := context.WithTimeoutCause(ctx, time.Duration(minutes)*time.Minute+overtime, errOverdue)
	own, cancel := context.WithCancelCause(timed)
	s := &Stream{ctx: ctx, own: own, cancel: cancel, release: release}
	if len(ids) == 1 {
		s.only = ids[0]
	}
	s.body.limit = c.o.Silence
	s.body.timer = time.AfterFunc(min(c.o.Timeout, opening), func() { cancel(errSilent) })
	resp, a, err := c.send(ctx, own, t, operation{name: op, body: getStreamingEvents(ids, minutes)}, version) //nolint:bodyclose // Stream.Close closes it
	if err != nil {
		if errors.Is(context.Cause(own), errSilent) {
			err = newError(op, CodeHeldBack, "", 0, nil)
		}
		s.stop()
		if e, ok := errors.AsType[*Error](err); ok {
			e.RequestID = a.RequestID
		}
		return nil, err
	}
	s.body.timer.Stop()
	a.Ended = time.Now()
	s.Answer, s.body.ReadCloser = a, resp.Body
	s.parser.framer.reset(&s.body)
	return s, nil
}

// Next waits for the next envelope and returns its events; a heartbeat has none. Errors:
//   - io.EOF after the server has ended the stream properly: open it again with the same ids;
//   - an *Error whose Fault has Subscriptions concerns these, and the stream may go on; the events that came along were returned before;
//   - any other *Error, or that of the context: the stream is over, and events may be lost.
func (s *Stream) Next() (Notifications, error) {
	if len(s.pending) > 0 {
		err := s.pending[0]
		s.pending = s.pending[1:]
		return Notifications{}, err
	}
	if s.end != nil {
		return Notifications{}, s.end
	}
	doc, err := s.parser.framer.next()
	if err != nil {
		s.end = s.ended(err)
		return Notifications{}, s.end
	}
	s.begun = true
	n := Notifications{At: time.Now()}
	sc := &s.parser.scanner
	sc.reset(doc)
	p, _ := responses(sc, func(sc *scanner) *problem {
		if p := n.read(sc); p != nil {
			s.pending = append(s.pending, s.said(p))
		}
		return nil
	})
	if sc.err != nil {
		s.end = s.ended(sc.err)
		return Notifications{}, s.end
	}
	if p != nil { // a SOAP fault
		s.pending = append(s.pending, s.said(p))
	}
	if n.Closed {
		s.end = io.EOF
	}
	if len(s.pending) > 0 {
		n.Closed = false // it ended for an error, which comes next
		if len(n.Events) == 0 {
			return s.Next()
		}
	}
	return n, nil
}

// said types an error that the server reports within a stream. If it names no subscriptions, it concerns all of them: the group.
func (s *Stream) said(p *problem) error {
	e := p.error("GetStreamingEvents")
	e.RequestID = s.RequestID
	if len(e.Fault.Subscriptions) == 0 {
		if s.only != "" {
			e.Fault.Subscriptions = []string{s.only}
		}
		e.Fault.Scope = max(e.Fault.Scope, fault.Group)
	}
	return e
}

// ended types the error that ended the stream.
func (s *Stream) ended(err error) error {
	const op = "GetStreamingEvents"
	var e *Error
	cause := context.Cause(s.own)
	switch {
	case s.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", op, s.ctx.Err())
	// A server may end the body properly when we close: our own reason comes first.
	case errors.Is(cause, errSilent) && !s.begun:
		e = newError(op, CodeHeldBack, "", 0, nil)
	case errors.Is(cause, errSilent):
		e = newError(op, CodeSilent, "", 0, nil)
	case errors.Is(cause, errOverdue):
		e = newError(op, CodeOverdue, "", 0, nil)
	case errors.Is(cause, errClosed):
		return fmt.Errorf("%s: %w", op, errClosed)
	case isEnd(err), errors.Is(err, errEOF): // also within an envelope: HTTP/1.0 tells a body that was cut by nothing else
		e = newError(op, CodeCut, "", 0, nil)
	case isContent(err):
		e = contentError(op, CodeUnparseableStream, err)
	default:
		e = newError(op, CodeCut, "", 0, err)
	}
	e.RequestID = s.RequestID
	return e
}

// Close ends the stream and its connection. It may be called more than once.
func (s *Stream) Close() error {
	s.stop()
	return s.body.Close()
}

func (s *Stream) stop() {
	s.body.timer.Stop()
	s.cancel(errClosed)
	s.release()
}

// watched is a body whose timer runs while it waits for the server, and not while the caller handles events.
type watched struct {
	io.ReadCloser
	timer *time.Timer // ends the stream
	limit time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.limit)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	return n, err
}

// read reads a GetStreamingEventsResponseMessage.
func (n *Notifications) read(s *scanner) *problem {
	p := begin(s)
	for at := s.depth; s.child(at); {
		if p.take(s) {
			continue
		}
		switch string(s.name) {
		case "ConnectionStatus":
			if string(bytes.TrimSpace(s.text())) == "Closed" {
				n.Closed = true
			}
		case "ErrorSubscriptionIds":
			for at := s.depth; s.child(at); {
				p.ids = append(p.ids, string(bytes.TrimSpace(s.text())))
			}
		case "Notifications":
			for at := s.depth; s.child(at); {
				n.notification(s)
			}
		}
	}
	return p.failed()
}

// notification reads the events of one subscription.
func (n *Notifications) notification(s *scanner) {
	first, id := len(n.Events), ""
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "SubscriptionId":
			id = string(bytes.TrimSpace(s.text()))
		case "NewMailEvent":
			n.Events = append(n.Events, event(s))
		}
	}
	for i := range n.Events[first:] {
		n.Events[first+i].Subscription = id
	}
}

func event(s *scanner) (e Event) {
	for at := s.depth; s.child(at); {
		switch string(s.name) {
		case "ItemId":
			e.ItemID = string(s.attr("Id"))
		case "TimeStamp":
			e.Time = parseTime(s.text())
		}
	}
	return e
}
