// Package h2 is the client's side of one HTTP/2 connection (RFC 9113), made for a great many small requests to one server: what APNs
// is asked. It is no general client: a request goes out whole or not at all, and its answer is bounded.
//
// One goroutine writes and one reads. A request is a value that they call back; none waits in a goroutine, and none has a timer or a
// context of its own. Each ends in exactly one of three ways (Ending): it is answered, it was surely not taken, or nobody knows.
//
//   - h2.go: the connection, what it is given, and its end.
//   - write.go: what goes out. Frames that wait are written together, in one record of TLS where they fit.
//   - read.go: what comes in, frame by frame.
//   - watch.go: the one timer, for requests without an answer and for a server that is dead without a word.
//
// The frames are those of golang.org/x/net/http2, the header compression is its hpack.
package h2

import (
	"crypto/tls"
	"errors"
	"math"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// MaxPayload bounds the payload of a request: what every server takes in one frame (SETTINGS_MAX_FRAME_SIZE).
	MaxPayload = 16 << 10
	// MaxBody bounds what is read of an answer. What comes after is not waited for.
	MaxBody = 4 << 10
	// lastID is the highest number that a stream may have.
	lastID = math.MaxInt32
	// closeTimeout is how long the last word to a server may take.
	closeTimeout = 250 * time.Millisecond
)

// Request is a request on its way. Its methods are called by the goroutines of the connection and must not wait for anything.
type Request interface {
	// Begin is asked directly before the request is written. With an error it is not, and ends as not taken.
	Begin() error
	// Fields appends the header fields, the pseudo header fields first. Those that are sensitive are never indexed: what each request
	// has for itself.
	Fields(into []hpack.HeaderField) []hpack.HeaderField
	// Payload is not changed until the end.
	Payload() []byte
	// End is called once, with what became of it.
	End(Ending)
}

// Ending is what became of a request: answered (Status), unknown (Err, Unknown), or surely not taken (Err).
type Ending struct {
	Status     int    // of the answer; 0: none came
	RetryAfter string // the header field of that name, as the server wrote it
	Body       []byte // at most MaxBody; what is cut off or broken off is missing
	Err        error  // why no answer came
	Unknown    bool   // the request has begun to be written, and nothing says that the server did not take it
}

// Why a request was not answered. Any other error is that of Begin, of the network, or http2.StreamError and http2.ConnectionError.
var (
	ErrRefused  = errors.New("the server refused the stream before it looked at it") // REFUSED_STREAM
	ErrNoStream = errors.New("the server takes fewer streams by now")                // of what is not written
	ErrGoneAway = errors.New("the server ends the connection")                       // GOAWAY, of a stream that it has not looked at
	ErrStalled  = errors.New("no answer in time, though the connection is alive")
	ErrLost     = errors.New("the server does not answer a ping")
	ErrPaused   = errors.New("this process was paused between the permission of a request and its writing")
	ErrClosed   = errors.New("the connection is closed")
	ErrTooLarge = errors.New("the request is larger than a frame")
)

// Watcher is told of the connection. Its methods must not wait for anything.
type Watcher interface {
	// Changed tells that MaxStreams may be another.
	Changed()
	// GoneAway tells that the connection takes no request any more; debug is what the server said of it, if anything. What it has begun to
	// answer goes on.
	GoneAway(debug []byte)
	// Stalled tells that a request had no answer in time, or could not be written, before that request ends. It does not tell of one that
	// is late while others are answered.
	Stalled()
	// Closed tells that the connection is over, before the requests that it ends.
	Closed(err error)
}

// Times of a connection.
type Times struct {
	Answer      time.Duration // how long a request may wait to be written, and then for its answer
	Late        time.Duration // how long it may wait for that in all, where the server has answered others meanwhile
	PingAfter   time.Duration // how long the server may be silent before it is asked whether it is there; not more than Answer
	PingTimeout time.Duration // how long it may take to answer that
}

// Conn is a connection. Who makes it calls Run.
type Conn struct {
	nc    net.Conn
	times Times
	watch Watcher

	mu         sync.Mutex
	work       sync.Cond // the writer has something to do
	waiting    queue     // requests that are not written yet
	control    frames    // what is to be written before them
	streams    map[uint32]*stream
	free       []*stream // for reuse
	next       uint32    // number of the next stream
	leaving    bool      // no further stream begins
	maxStreams uint32    // as the server said
	maxPayload int64     // likewise: the window of each stream
	window     int64     // what the server takes yet, over all streams
	tableSize  uint32    // of the header compression: the least that the server has ever wanted, for what it dropped then is gone
	heard      time.Time // the last frame
	answered   time.Time // the last answer
	pinged     time.Time // since when a ping is not answered; zero: none is
	timer      *time.Timer
	due        time.Time // when it is to fire
	err        error     // why it is over; nil: it is not
	force      *time.Timer
}

// stream is a request that has begun to be written.
type stream struct {
	request    Request
	until      time.Time // for its answer
	late       bool      // it has got more time
	status     int
	retryAfter string
	body       []byte
}

// New is a connection whose TLS has settled on HTTP/2.
func New(nc net.Conn, times Times, watch Watcher) *Conn {
	c := &Conn{nc: nc, times: times, watch: watch, streams: map[uint32]*stream{}, next: 1, maxStreams: math.MaxUint32,
		maxPayload: defaultWindow, window: defaultWindow, tableSize: defaultTable, heard: time.Now()}
	c.work.L = &c.mu
	c.preface()
	return c
}

// Run reads and writes until the connection is over; both goroutines have ended when it returns.
func (c *Conn) Run() {
	c.mu.Lock()
	c.due = time.Now().Add(c.times.PingAfter)
	c.timer = time.AfterFunc(c.times.PingAfter, c.look)
	c.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.end(c.read())
	writer.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer.Stop()
	c.force.Stop()
}

// MaxStreams is how many requests the server takes at once. The caller counts: what is sent beyond ends with ErrNoStream.
func (c *Conn) MaxStreams() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maxStreams
}

// room is how many more streams the server takes. It is called with mu held.
func (c *Conn) room() int { return int(min(c.maxStreams, math.MaxInt32)) - len(c.streams) }

// Send has a request written. Whatever becomes of it, End tells.
func (c *Conn) Send(r Request) {
	c.mu.Lock()
	err := c.err
	if err == nil && c.leaving {
		err = ErrGoneAway
	}
	if err == nil && c.waiting.len() >= c.room() {
		err = ErrNoStream // it was sent by a limit that is gone
	}
	if err == nil {
		c.waiting.add(r)
		c.work.Signal()
	}
	c.mu.Unlock()
	if err != nil {
		r.End(Ending{Err: err})
	}
}

// Close ends the connection, and what is under way.
func (c *Conn) Close() { c.end(ErrClosed) }

// end ends the connection for a reason, if it has not ended. The writer says the last word and closes it; where that takes too long it is
// closed under its hands.
func (c *Conn) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	unwritten, streams := c.waiting.takeAll(), c.streams
	c.streams = nil
	c.force = time.AfterFunc(closeTimeout, func() { beneath(c.nc).Close() })
	c.work.Signal()
	c.mu.Unlock()
	c.watch.Closed(err)
	for _, s := range streams {
		s.request.End(s.ending(err))
	}
	for _, r := range unwritten {
		r.End(Ending{Err: err})
	}
}

// beneath is the connection below TLS: closing that waits for nothing.
func beneath(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return nc
}

// ending is that of a stream to which nothing comes any more. The status is the answer: a body that breaks off tells less, and changes
// nothing.
func (s *stream) ending(err error) Ending {
	if s.status != 0 {
		return Ending{Status: s.status, RetryAfter: s.retryAfter, Body: s.body}
	}
	return Ending{Err: err, Unknown: true}
}

// leave ends what the server will surely not take: streams above the last, and what is not written. It is called with mu held, and unlocks
// it.
func (c *Conn) leave(last uint32, debug []byte) {
	c.leaving = true
	untaken := c.waiting.takeAll()
	for id, s := range c.streams {
		if id > last {
			untaken = append(untaken, s.request)
			delete(c.streams, id)
		}
	}
	c.mu.Unlock()
	c.watch.GoneAway(debug)
	for _, r := range untaken {
		r.End(Ending{Err: ErrGoneAway})
	}
}

// finish takes a stream out. It is called with mu held.
func (c *Conn) finish(id uint32, s *stream, err error) (Request, Ending) {
	delete(c.streams, id)
	r, e := s.request, s.ending(err)
	*s = stream{}
	c.free = append(c.free, s)
	c.work.Signal() // the next one can begin, if it waited for a stream
	return r, e
}

// stream with a number; nil: it is over, and what still comes for it is passed by. An error: there never was one, and the server breaks the
// rules. It is called with mu held.
func (c *Conn) stream(id uint32) (*stream, error) {
	if id%2 == 0 || id >= c.next {
		return nil, http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return c.streams[id], nil
}

// reset tells the server that nothing more is wanted of a stream. It is called with mu held.
func (c *Conn) reset(id uint32, code http2.ErrCode) {
	_ = c.control.framer().WriteRSTStream(id, code)
	c.work.Signal()
}

// queue is requests in their order, each with the time since which it waits.
type queue struct {
	list  []waiting
	first int // those before are gone
}

type waiting struct {
	Request
	since time.Time
}

func (q *queue) len() int { return len(q.list) - q.first }

func (q *queue) isEmpty() bool { return q.len() == 0 }

func (q *queue) add(r Request) {
	if q.first > len(q.list)/2 { // else it would grow for as long as it is never empty
		n := copy(q.list, q.list[q.first:])
		clear(q.list[n:])
		q.list, q.first = q.list[:n], 0
	}
	q.list = append(q.list, waiting{r, time.Now()})
}

func (q *queue) head() *waiting { return &q.list[q.first] }

func (q *queue) take() Request {
	r := q.list[q.first].Request
	q.list[q.first] = waiting{}
	q.first++
	if q.isEmpty() {
		q.list, q.first = q.list[:0], 0
	}
	return r
}

func (q *queue) takeAll() []Request { return q.takeBeyond(0) }

// takeBeyond takes all but the first n.
func (q *queue) takeBeyond(n int) (rest []Request) {
	at := min(q.first+max(n, 0), len(q.list))
	for _, w := range q.list[at:] {
		rest = append(rest, w.Request)
	}
	clear(q.list[at:])
	q.list = q.list[:at]
	if q.isEmpty() {
		q.list, q.first = q.list[:0], 0
	}
	return rest
}
