package h2

// This file is what goes out.

import (
	"errors"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// record is how much is written at once, about: one record of TLS.
	record = 16 << 10
	// maxControl bounds the frames that a server may ask for without taking them.
	maxControl = 16 << 10
)

// frames is frames that wait to be written.
type frames struct {
	bytes []byte
	frame *http2.Framer // onto bytes
}

func (f *frames) Write(p []byte) (int, error) {
	f.bytes = append(f.bytes, p...)
	return len(p), nil
}

// framer writes frames. Its errors are not looked at: of what is written here, into memory, none can come.
func (f *frames) framer() *http2.Framer {
	if f.frame == nil {
		f.frame = http2.NewFramer(f, nil)
	}
	return f.frame
}

// preface is the first that is said. The server pushes nothing.
func (c *Conn) preface() {
	c.control.bytes = append(c.control.bytes, http2.ClientPreface...)
	_ = c.control.framer().WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders})
}

// writer is what the goroutine that writes keeps for itself.
type writer struct {
	out     frames
	begun   time.Time // before the first request in out was asked whether it may begin; zero: there is none
	block   frames    // of header fields, compressed
	encoder *hpack.Encoder
	fields  []hpack.HeaderField
}

// write writes until the connection is over, and closes it.
func (c *Conn) write() {
	defer c.nc.Close()
	w := &writer{}
	w.encoder = hpack.NewEncoder(&w.block)
	for {
		goesOn := c.gather(w)
		if !w.begun.IsZero() && time.Since(w.begun) >= slept {
			c.end(ErrPaused)
			continue
		}
		_, err := c.nc.Write(w.out.bytes)
		if !goesOn {
			return
		}
		if err != nil {
			c.end(err)
		}
	}
}

// gather waits for something to write and gathers what there is, up to a record. It reports whether more may come.
func (c *Conn) gather(w *writer) (goesOn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && len(c.control.bytes) == 0 && !c.canBegin() {
		c.work.Wait()
	}
	w.out.bytes, w.begun = append(w.out.bytes[:0], c.control.bytes...), time.Time{}
	c.control.bytes = c.control.bytes[:0]
	if c.err != nil {
		_ = w.out.framer().WriteGoAway(0, codeOf(c.err), nil)
		return false
	}
	w.encoder.SetMaxDynamicTableSizeLimit(c.tableSize)
	for len(w.out.bytes) < record && c.canBegin() {
		if w.begun.IsZero() {
			w.begun = time.Now()
		}
		c.begin(w)
	}
	return true
}

// codeOf is what the server is told of the end.
func codeOf(err error) http2.ErrCode {
	if e, ok := errors.AsType[http2.ConnectionError](err); ok {
		return http2.ErrCode(e)
	}
	return http2.ErrCodeNo
}

// canBegin says whether the next request can be written now. It is called with mu held.
func (c *Conn) canBegin() bool {
	return !c.waiting.isEmpty() && c.room() > 0 && int64(len(c.waiting.head().Payload())) <= min(c.window, c.maxPayload)
}

// begin writes the next request, as a whole. It is called with mu held.
func (c *Conn) begin(w *writer) {
	r := c.waiting.take()
	c.mu.Unlock()
	err := r.Begin()
	c.mu.Lock()
	switch {
	case err != nil:
	case c.err != nil:
		err = c.err
	case c.leaving:
		err = ErrGoneAway
	default:
		err = c.writeRequest(w, r)
	}
	if err != nil {
		c.mu.Unlock()
		r.End(Ending{Err: err})
		c.mu.Lock()
	}
	if c.next > lastID && !c.leaving {
		c.leave(lastID, nil) // unlocks it
		c.mu.Lock()
	}
}

// writeRequest opens a stream. It is called with mu held.
func (c *Conn) writeRequest(w *writer, r Request) error {
	payload := r.Payload()
	w.fields = r.Fields(w.fields[:0])
	size := uint32(0)
	for _, f := range w.fields {
		size += f.Size()
	}
	if size > MaxPayload || len(payload) > MaxPayload { // before it is compressed: what was compressed has to be sent
		return ErrTooLarge
	}
	w.block.bytes = w.block.bytes[:0]
	for _, f := range w.fields {
		w.encoder.WriteField(f) // into memory
	}
	id := c.next
	c.next += 2
	c.window -= int64(len(payload))
	c.streams[id] = c.open(r)
	_ = w.out.framer().WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block.bytes, EndHeaders: true})
	_ = w.out.framer().WriteData(id, true, payload)
	return nil
}

// open makes a stream, or takes one that is not used any more.
func (c *Conn) open(r Request) *stream {
	var s *stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &stream{}
	}
	s.request, s.until = r, time.Now().Add(c.times.Answer)
	return s
}
