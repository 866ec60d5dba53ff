package apns

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mailbell/mailbell/simulator/faults"
)

// One connection: frames, flow control, the stream limit, and the answers that are lost with it.

// Settings of a connection.
const (
	streamsAtFirst    = 1     // MAX_CONCURRENT_STREAMS before a valid token, and after a rejected push
	streamsTrusted    = 1000  // after an accepted one
	receiveWindow     = 65535 // the protocol's default, as APNs has it
	windowRefill      = receiveWindow / 2
	maxHeaders        = 16 << 10
	maxConnections    = 1000
	handshakeTime     = 10 * time.Second
	goAwayGrace       = 5 * time.Second // for the streams that are open at a GOAWAY
	lingerTime        = time.Second     // for a client to read why it is refused
	lingerBytes       = 1 << 20
	maxStalled        = 1000 // requests of a connection that wait; the stream limit bounds them too
	defaultSendWindow = 65535
)

// pushConn is one connection. Only its read loop uses the fields above mu.
type pushConn struct {
	s       *Server
	raw     net.Conn
	tls     *tls.Conn
	reader  *bufio.Reader
	framer  *http2.Framer // writes go to out, under mu
	closing chan struct{}

	mu       sync.Mutex
	out      *bufio.Writer
	tokens   tokenUse
	last     uint32 // the newest stream
	unread   uint32 // bytes of bodies since the last WINDOW_UPDATE of the connection
	encoder  *hpack.Encoder
	block    bytes.Buffer
	streams  map[uint32]*pushStream
	trusted  bool   // the last alert was accepted
	limit    uint32 // of streams, in force
	asked    uint32 // of streams, as last sent
	acks     []uint32
	window   int64 // to send, of the connection
	initial  int64 // to send, of a new stream
	blocked  []*pushStream
	unsent   []*pushStream // answered, not yet flushed
	sent     []sentAnswer  // flushed within sentDoubt, in order
	severed  atomic.Int64  // when it was cut, without a word or behind GOAWAY, in nanoseconds since 1970; 0: it was not
	stalled  []*pushStream
	greeted  bool // SETTINGS are sent
	goneAway bool
	buried   context.Context // the connection is dead, and is cut when this context ends
	exhume   context.CancelFunc
	grace    *time.Timer // after a GOAWAY
	ended    bool
}

// pushStream is one request.
type pushStream struct {
	id      uint32
	request pushRequest
	tooBig  bool
	taken   bool // read to its end
	window  int64
	rest    []byte // of the answer, while the window is shut
	n       int    // number of the alert in the log
	closed  bool

	retryAfter time.Duration // 0: none
}

// run is the read loop.
func (c *pushConn) run() error {
	c.tls.SetDeadline(time.Now().Add(handshakeTime))
	if err := c.tls.HandshakeContext(c.s.stop); err != nil {
		return err
	}
	// A client that offers no protocol (aioapns) knows that it is HTTP/2, and its preface says so. One that offers others was refused by now.
	if p := c.tls.ConnectionState().NegotiatedProtocol; p != "h2" && p != "" {
		return errors.New("the client does not speak HTTP/2")
	}
	c.mu.Lock()
	c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: streamsAtFirst},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders})
	c.acks = append(c.acks, streamsAtFirst)
	err := c.out.Flush()
	c.greeted = true
	c.mu.Unlock()
	if err != nil {
		return err
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.reader, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("no HTTP/2 preface")
	}
	c.tls.SetDeadline(time.Time{})
	for {
		f, err := c.framer.ReadFrame()
		if c.dead() {
			return errDead
		}
		if err != nil {
			if se, ok := errors.AsType[http2.StreamError](err); ok {
				c.reset(se.StreamID, se.Code)
				if err := c.flushIfIdle(); err != nil {
					return err
				}
				continue
			}
			if ce, ok := errors.AsType[http2.ConnectionError](err); ok {
				c.refuse(http2.ErrCode(ce))
			} else if errors.Is(err, http2.ErrFrameTooLarge) {
				c.refuse(http2.ErrCodeFrameSize)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := c.frame(f); err != nil {
			return err
		}
		if err := c.flushIfIdle(); err != nil {
			return err
		}
	}
}

// flushIfIdle flushes when no further frame is at hand: answers that come together leave in one write.
func (c *pushConn) flushIfIdle() error {
	if c.reader.Buffered() > 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// flush sends what is written; c.mu is held.
func (c *pushConn) flush() error {
	if c.ended {
		return net.ErrClosed
	}
	if c.buried != nil {
		return nil // what was not sent by now never is
	}
	err := c.out.Flush()
	if err == nil {
		now := time.Now()
		for len(c.sent) > 0 && now.Sub(c.sent[0].at) > sentDoubt {
			c.sent = c.sent[1:]
		}
		for _, st := range c.unsent {
			c.sent = append(c.sent, sentAnswer{st.n, now})
		}
		c.unsent = c.unsent[:0]
		if c.grace != nil && len(c.streams) == 0 {
			c.closeWrite() // every request is answered; the client closes its side
		}
	}
	return err
}

func (c *pushConn) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		return c.data(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if st := c.streams[f.StreamID]; st != nil {
			st.closed = true
			delete(c.streams, f.StreamID)
		}
	case *http2.PushPromiseFrame:
		c.refuse(http2.ErrCodeProtocol)
		return errors.New("PUSH_PROMISE from a client")
	}
	return nil
}

func (c *pushConn) settings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		if len(c.acks) > 0 { // a lower limit holds from here on: what the client opened before was right
			c.limit = min(c.limit, c.acks[0])
			c.limit = max(c.limit, min(c.asked, c.acks[0]))
			c.acks = c.acks[1:]
		}
		return nil
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			delta := int64(s.Val) - c.initial
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				st.window += delta
			}
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.framer.WriteSettingsAck(); err != nil {
		return err
	}
	return c.unblock()
}

func (c *pushConn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > 1<<31-1 {
			return errors.New("flow control window of the connection overflows")
		}
	} else if st := c.streams[f.StreamID]; st != nil {
		st.window += int64(f.Increment)
	}
	return c.unblock()
}

// headers begins a request.
func (c *pushConn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	c.mu.Lock()
	if id%2 == 0 || id <= c.last {
		open := c.streams[id] != nil
		c.mu.Unlock()
		if open && f.StreamEnded() { // trailers
			return c.endOfRequest(id)
		}
		c.refuse(http2.ErrCodeProtocol)
		return errors.New("stream ids out of order")
	}
	if c.goneAway {
		c.mu.Unlock()
		return nil // behind the last stream of our GOAWAY: the client sends it again elsewhere
	}
	if uint32(len(c.streams)) >= c.limit {
		c.s.mu.Lock()
		c.s.refused++ // before the client can see it
		c.s.mu.Unlock()
		c.leave(http2.ErrCodeRefusedStream, "Maximum active streams violated for this endpoint")
		c.mu.Unlock()
		return nil
	}
	c.last = id
	st := &pushStream{id: id, window: c.initial}
	st.request.read(f)
	c.streams[id] = st
	c.mu.Unlock()
	if f.StreamEnded() {
		return c.endOfRequest(id)
	}
	return nil
}

// data reads a part of a body and returns its window.
func (c *pushConn) data(f *http2.DataFrame) error {
	c.mu.Lock()
	c.unread += f.Length
	if c.unread > receiveWindow {
		c.mu.Unlock()
		c.refuse(http2.ErrCodeFlowControl)
		return errors.New("the client ignores flow control")
	}
	if c.unread >= windowRefill {
		c.framer.WriteWindowUpdate(0, c.unread)
		c.unread = 0
	}
	st := c.streams[f.StreamID]
	c.mu.Unlock()
	if st == nil {
		return nil // refused, or reset
	}
	switch {
	case st.tooBig:
	case len(st.request.payload)+len(f.Data()) > maxVoIPPayload:
		st.tooBig = true
		st.request.payload = st.request.payload[:0]
		return c.endOfRequest(st.id) // the rest is not waited for
	default:
		st.request.payload = append(st.request.payload, f.Data()...)
	}
	if f.StreamEnded() && !st.tooBig {
		return c.endOfRequest(st.id)
	}
	return nil
}

// endOfRequest continues with a request that is complete.
func (c *pushConn) endOfRequest(id uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[id]
	if st == nil || st.taken {
		return nil
	}
	st.taken = true
	return c.proceed(st)
}

// proceed accepts or refuses a request and answers it, unless a fault stalls it, or loses or delays the answer; c.mu is held.
func (c *pushConn) proceed(st *pushStream) error {
	if st.closed || c.ended || c.buried != nil { // a stalled request may be resumed while its connection ends: as if it had never come
		return nil
	}
	token := st.request.token
	if _, ok := c.s.faults.On(apnsStall, "", token); ok {
		if len(c.stalled) < maxStalled {
			c.stalled = append(c.stalled, st)
		}
		return nil
	}
	a := c.s.decide(&c.tokens, st)
	st.n = c.s.log.add(a)
	if _, ok := c.s.faults.Hit(apnsCut, "", token); ok {
		c.s.log.markCut(st.n) // before the client can see it
		c.cut()
		return net.ErrClosed
	}
	if f, ok := c.s.faults.On(apnsDelay, "", token); ok {
		c.s.running.Go(func() { c.later(st, a, f.Duration()) })
		return nil
	}
	return c.answer(st, a)
}

// later answers after a delay; if the connection ends first, the answer is lost.
func (c *pushConn) later(st *pushStream, a Alert, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closing:
		c.s.log.markCut(st.n)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		c.s.log.markCut(st.n)
		return
	}
	if c.answer(st, a) == nil {
		c.flush() // an error shows in the read loop too
	}
}

// answer writes the answer to a request, and the stream limit that follows from it; c.mu is held.
func (c *pushConn) answer(st *pushStream, a Alert) error {
	if st.closed {
		return nil
	}
	c.unsent = append(c.unsent, st)
	c.limitTo(a.Accepted())
	c.block.Reset()
	field := func(name, value string) { c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	field(":status", strconv.Itoa(a.Status))
	field("apns-id", a.Headers["apns-id"])
	if st.retryAfter > 0 {
		field("retry-after", faults.RetryAfter(st.retryAfter))
	}
	var body []byte
	if !a.Accepted() {
		field("content-type", "application/json")
		reply := map[string]any{"reason": a.Reason}
		if a.Status == 410 {
			reply["timestamp"] = c.s.unregisteredAt(a)
		}
		body, _ = json.Marshal(reply) // strings and numbers
	}
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: st.id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: len(body) == 0})
	if err != nil {
		return err
	}
	if len(body) == 0 {
		c.done(st)
		return nil
	}
	st.rest = body
	return c.sendBody(st)
}

// limitTo sends the stream limit that follows from a push; c.mu is held.
func (c *pushConn) limitTo(accepted bool) {
	_, kept := c.s.faults.On(apnsLimitKept, "", "")
	c.trusted = accepted || c.trusted && kept
	c.tellLimit()
}

// tellLimit sends the stream limit where it has changed; c.mu is held. A higher one holds at once, a lower one when the
// client has acknowledged it.
func (c *pushConn) tellLimit() {
	want := uint32(streamsAtFirst)
	if c.trusted {
		want = streamsTrusted
		if f, ok := c.s.faults.On(apnsStreams, "", ""); ok {
			want = uint32(max(f.Limit, streamsAtFirst))
		}
	}
	if want == c.asked {
		return
	}
	c.asked = want
	c.limit = max(c.limit, want)
	c.acks = append(c.acks, want)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: want})
}

// sendBody writes as much of an answer as the windows allow; c.mu is held.
func (c *pushConn) sendBody(st *pushStream) error {
	n := min(int64(len(st.rest)), c.window, st.window)
	if n < int64(len(st.rest)) {
		c.blocked = append(c.blocked, st)
		if n <= 0 {
			return nil
		}
	}
	last := n == int64(len(st.rest))
	if err := c.framer.WriteData(st.id, last, st.rest[:n]); err != nil {
		return err
	}
	c.window -= n
	st.window -= n
	st.rest = st.rest[n:]
	if last {
		c.done(st)
	}
	return nil
}

// unblock continues with answers that waited for a window; c.mu is held.
func (c *pushConn) unblock() error {
	waiting := c.blocked
	c.blocked = nil
	for _, st := range waiting {
		if st.closed {
			continue
		}
		if err := c.sendBody(st); err != nil {
			return err
		}
	}
	return nil
}

// done ends a stream that was answered; c.mu is held.
func (c *pushConn) done(st *pushStream) {
	st.closed = true
	delete(c.streams, st.id)
	if st.tooBig { // the client may still be sending
		c.framer.WriteRSTStream(st.id, http2.ErrCodeNo)
	}
}

func (c *pushConn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, id)
	if st := c.streams[id]; st != nil {
		st.closed = true
		delete(c.streams, id)
	}
	c.framer.WriteRSTStream(id, code)
}

// goAway tells the client that the connection takes no further stream; c.mu is held.
func (c *pushConn) goAway(code http2.ErrCode, debug string) {
	c.goneAway = true
	if c.framer.WriteGoAway(c.last, code, []byte(debug)) == nil {
		c.flush() // an error shows in the read loop too
	}
}

// leave has the connection go away: it answers what it has, then closes, at the latest after a while; c.mu is held.
func (c *pushConn) leave(code http2.ErrCode, debug string) {
	c.grace = time.AfterFunc(goAwayGrace, c.cut)
	c.goAway(code, debug)
}

// closeWrite closes the write side; what is written later is dropped; c.mu is held.
func (c *pushConn) closeWrite() {
	c.tls.CloseWrite()
	c.out.Reset(io.Discard)
}

// refuse ends a connection that breaks the protocol: GOAWAY, and the rest is read so that no reset overtakes it.
func (c *pushConn) refuse(code http2.ErrCode) {
	c.mu.Lock()
	c.goAway(code, "")
	c.closeWrite()
	c.mu.Unlock()
	c.tls.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.raw, lingerBytes)
}

// cut ends the connection without a GOAWAY.
func (c *pushConn) cut() {
	c.severed.CompareAndSwap(0, time.Now().UnixNano())
	faults.Cut(c.raw, true)
}

// sentAnswer is an answer that was written to the connection.
type sentAnswer struct {
	n  int // the alert
	at time.Time
}

// sentDoubt is how long an answer may lie unread in the client's socket on a busy machine. A reset of the connection discards it
// there.
const sentDoubt = time.Second

// end marks the requests that were read and not answered.
func (c *pushConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.closing)
	if c.grace != nil {
		c.grace.Stop()
	}
	for _, st := range c.unsent {
		c.s.log.markCut(st.n)
	}
	for _, st := range c.blocked {
		c.s.log.markCut(st.n)
	}
	if at := c.severed.Load(); at != 0 {
		for _, a := range c.sent {
			if time.Unix(0, at).Sub(a.at) <= sentDoubt {
				c.s.log.markCut(a.n)
			}
		}
	}
	c.tls.NetConn().Close()
}
