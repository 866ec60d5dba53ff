package h2

// This file is what comes in.

import (
	"bufio"
	"errors"
	"math"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	defaultWindow = 65_535 // bytes of data, until a side says otherwise
	defaultTable  = 4096   // of the header compression
	maxFrame      = 16 << 10
	// maxHeaders bounds the header fields of an answer, with the frames that they come in. Those of APNs have less than 200 bytes.
	maxHeaders = 16 << 10
	frameHead  = 9 // bytes
)

// reader is what the goroutine that reads keeps for itself.
type reader struct {
	decoder *hpack.Decoder
	window  int64 // what the server may still send, over all streams
	head    head  // the header fields that are being read
}

// head is the header fields of an answer, as they are read.
type head struct {
	stream     uint32
	ends       bool // nothing comes after them
	size       int  // of the block so far, compressed, with its frames
	status     int
	retryAfter string
}

// read reads until the connection is over, and says why it is.
func (c *Conn) read() error {
	in := http2.NewFramer(nil, bufio.NewReaderSize(c.nc, maxFrame))
	in.SetMaxReadFrameSize(maxFrame)
	in.SetReuseFrames()
	r := &reader{window: defaultWindow}
	r.decoder = hpack.NewDecoder(defaultTable, r.field)
	r.decoder.SetMaxStringLength(maxHeaders)
	for first := true; ; first = false {
		f, err := in.ReadFrame()
		if e, ok := errors.AsType[http2.StreamError](err); ok { // the frame may have had header fields, without which later ones cannot be read
			return http2.ConnectionError(e.Code)
		}
		if err != nil {
			return err
		}
		if _, isSettings := f.(*http2.SettingsFrame); first && !isSettings {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if err := c.take(r, f); err != nil {
			return err
		}
	}
}

// take takes in a frame. An error ends the connection.
func (c *Conn) take(r *reader, f http2.Frame) error {
	c.mu.Lock()
	c.heard, c.pinged = time.Now(), time.Time{}
	c.mu.Unlock()
	switch f := f.(type) {
	case *http2.HeadersFrame:
		r.head = head{stream: f.StreamID, ends: f.StreamEnded()}
		return c.fields(r, f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		return c.fields(r, f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.data(r, f)
	case *http2.RSTStreamFrame:
		return c.wasReset(f)
	case *http2.GoAwayFrame:
		c.mu.Lock()
		c.leave(f.LastStreamID, f.DebugData()) // unlocks it
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.reply(func(out *http2.Framer) error { return out.WritePing(true, f.Data) })
		}
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.PushPromiseFrame: // it was told not to
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// reply writes a frame that the server has asked for. A server that asks for more and more and takes nothing is left.
func (c *Conn) reply(write func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.control.bytes) > maxControl {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	c.work.Signal()
	return write(c.control.framer())
}

// field takes in a header field. With the status 200 there is nothing more to know: the other fields are not even made, which saves their
// memory.
func (r *reader) field(f hpack.HeaderField) {
	switch f.Name {
	case ":status":
		status, err := strconv.ParseUint(f.Value, 10, 16)
		if err == nil && len(f.Value) == 3 {
			r.head.status = int(status)
		}
		r.decoder.SetEmitEnabled(r.head.status != 200)
	case "retry-after":
		r.head.retryAfter = f.Value
	}
}

// fields takes in a part of the header fields of an answer. They are read also where the stream is over: the compression goes on.
func (c *Conn) fields(r *reader, part []byte, last bool) error {
	r.head.size += frameHead + len(part)
	if r.head.size > maxHeaders {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := r.decoder.Write(part); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if r.decoder.Close() != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	r.decoder.SetEmitEnabled(true)
	return c.answer(r.head)
}

// answer takes in the header fields of an answer, or what comes after its body.
func (c *Conn) answer(h head) error {
	return c.onStream(h.stream, func(s *stream) progress {
		isFirst := s.status == 0
		switch {
		case isFirst && h.status < 100 || isFirst && h.status < 200 && h.ends || !isFirst && !h.ends:
			return broken
		case isFirst && h.status >= 200:
			s.status, s.retryAfter = h.status, h.retryAfter
			c.answered = c.heard
		}
		if h.ends {
			return over
		}
		return open
	})
}

// data takes in a part of the body of an answer.
func (c *Conn) data(r *reader, f *http2.DataFrame) error {
	r.window -= int64(f.Length)
	if r.window < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if given := defaultWindow - r.window; given > defaultWindow/2 {
		r.window = defaultWindow
		err := c.reply(func(out *http2.Framer) error { return out.WriteWindowUpdate(0, uint32(given)) })
		if err != nil {
			return err
		}
	}
	return c.onStream(f.StreamID, func(s *stream) progress {
		if s.status == 0 {
			return broken
		}
		part := f.Data()
		s.body = append(s.body, part[:min(len(part), MaxBody-len(s.body))]...)
		switch {
		case f.StreamEnded():
			return over
		case len(s.body) == MaxBody:
			return enough
		}
		return open
	})
}

// progress is how far a stream is.
type progress uint8

const (
	open   progress = iota // more is to come
	over                   // the server has ended it
	enough                 // nothing more is wanted of it
	broken                 // the server breaks the rules of HTTP
)

// onStream does something about a stream, if it is open.
func (c *Conn) onStream(id uint32, do func(*stream) progress) error {
	c.mu.Lock()
	s, err := c.stream(id)
	if s == nil {
		c.mu.Unlock()
		return err
	}
	var why error
	p := do(s)
	switch p {
	case open:
		c.mu.Unlock()
		return nil
	case enough:
		c.reset(id, http2.ErrCodeCancel)
	case broken:
		why = http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
		c.reset(id, http2.ErrCodeProtocol)
	}
	request, e := c.finish(id, s, why)
	c.mu.Unlock()
	request.End(e)
	return nil
}

// wasReset ends a stream that the server gives up.
func (c *Conn) wasReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	s, err := c.stream(f.StreamID)
	if s == nil {
		c.mu.Unlock()
		return err
	}
	request, e := c.finish(f.StreamID, s, http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode})
	c.mu.Unlock()
	if f.ErrCode == http2.ErrCodeRefusedStream && e.Status == 0 {
		e = Ending{Err: ErrRefused}
	}
	request.End(e)
	return nil
}

// settings takes in what the server wants, and says so.
func (c *Conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID {
		case http2.SettingMaxConcurrentStreams:
			c.maxStreams = s.Val
		case http2.SettingInitialWindowSize:
			if s.Val > math.MaxInt32 {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			c.maxPayload = int64(s.Val)
		case http2.SettingHeaderTableSize:
			c.tableSize = min(c.tableSize, s.Val)
		}
		return nil
	})
	if err != nil {
		c.mu.Unlock()
		return err
	}
	untaken := c.waiting.takeBeyond(c.room()) // they were sent by an older limit, and another connection may have room for them
	c.mu.Unlock()
	for _, r := range untaken {
		r.End(Ending{Err: ErrNoStream})
	}
	c.watch.Changed()
	return c.reply(func(out *http2.Framer) error { return out.WriteSettingsAck() })
}

// windowUpdate lets more be sent. The window of a single stream is of no account: its request has gone out as a whole.
func (c *Conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID != 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.window += int64(f.Increment)
	if c.window > math.MaxInt32 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.work.Signal()
	return nil
}
