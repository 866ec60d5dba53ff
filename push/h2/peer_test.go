package h2

// A server for these tests, on frames, over memory: each test says what it does, frame by frame.

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/pipetest"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var times = Times{Answer: 5 * time.Second, Late: 15 * time.Second, PingAfter: 5 * time.Second, PingTimeout: 4 * time.Second}

// asked is a request of a test, and what became of it.
type asked struct {
	fields  []hpack.HeaderField
	payload []byte
	refuse  error         // of Begin
	pause   time.Duration // of the process, when it has begun

	mu      sync.Mutex
	begun   int
	endings []Ending
}

func ask(payload string) *asked {
	return &asked{payload: []byte(payload), fields: []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "apns.example"},
		{Name: ":path", Value: "/3/device/00", Sensitive: true}, {Name: "apns-topic", Value: "com.contoso.mail"}}}
}

func (a *asked) Begin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun++
	if a.pause > 0 {
		<-time.After(a.pause)
	}
	return a.refuse
}

func (a *asked) Fields(into []hpack.HeaderField) []hpack.HeaderField {
	return append(into, a.fields...)
}

func (a *asked) Payload() []byte { return a.payload }

func (a *asked) End(e Ending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endings = append(a.endings, e)
}

// ended is how a request ended; "": it has not.
func (a *asked) ended(t testing.TB) string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.endings) == 0 {
		return ""
	}
	e := a.endings[0]
	switch {
	case len(a.endings) > 1:
		t.Errorf("it ended %d times: %+v", len(a.endings), a.endings)
	case e.Status != 0 && (e.Err != nil || e.Unknown) || e.Status == 0 && e.Err == nil:
		t.Errorf("it ended in two ways, or none: %+v", e)
	case e.Status != 0:
		return fmt.Sprintf("%d %s", e.Status, e.Body)
	case e.Unknown:
		return "unknown: " + e.Err.Error()
	}
	return "not taken: " + e.Err.Error()
}

// observer is what a connection has told.
type observer struct {
	mu   sync.Mutex
	told []string
}

func (o *observer) add(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, s)
}

func (o *observer) Changed()              { o.add("changed") }
func (o *observer) GoneAway(debug []byte) { o.add("gone away " + string(debug)) }
func (o *observer) Stalled()              { o.add("stalled") }
func (o *observer) Closed(err error)      { o.add("closed: " + err.Error()) }

// said says what was told last.
func (o *observer) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.told) == 0 {
		return ""
	}
	return o.told[len(o.told)-1]
}

// server is the other side.
type server struct {
	t      testing.TB
	nc     net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
	seen   observer
	conn   *Conn
}

// tap is a connection whose writes wait while it is shut.
type tap struct {
	net.Conn
	mu     sync.Mutex
	opened *sync.Cond
	shut   bool
	closed bool
}

func newTap(nc net.Conn) *tap {
	t := &tap{Conn: nc}
	t.opened = sync.NewCond(&t.mu)
	return t
}

func (t *tap) set(shut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shut = shut
	t.opened.Broadcast()
}

func (t *tap) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

func (t *tap) Write(p []byte) (int, error) {
	t.mu.Lock()
	for t.shut && !t.closed {
		t.opened.Wait()
	}
	t.mu.Unlock()
	return t.Conn.Write(p)
}

func (t *tap) Close() error {
	t.mu.Lock()
	t.closed = true
	t.opened.Broadcast()
	t.mu.Unlock()
	return t.Conn.Close()
}

// against runs a connection against a server in a bubble of its own time. The server has read the preface and said what it takes.
func against(t *testing.T, do func(s *server), settings ...http2.Setting) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		if err := s.framer.WriteSettings(settings...); err != nil {
			t.Fatal(err)
		}
		s.expect("SETTINGS [ENABLE_PUSH = 0], [MAX_HEADER_LIST_SIZE = 16384]")
		s.expect("SETTINGS ack")
		do(s)
	})
}

func newServer(t *testing.T) *server {
	client, nc := pipetest.Pipe()
	s := &server{t: t, nc: nc, framer: http2.NewFramer(nc, nc)}
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	s.enc = hpack.NewEncoder(&s.block)
	s.conn = New(newTap(client), times, &s.seen)
	var run sync.WaitGroup
	run.Go(s.conn.Run)
	t.Cleanup(func() {
		s.conn.Close()
		nc.Close()
		run.Wait()
	})
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(nc, preface); err != nil || string(preface) != http2.ClientPreface {
		t.Fatalf("%q, %v", preface, err)
	}
	return s
}

func (s *server) tap() *tap { return s.conn.nc.(*tap) }

// send has requests sent.
func (s *server) send(list ...*asked) {
	for _, a := range list {
		s.conn.Send(a)
	}
	synctest.Wait()
}

// expect reads the next frame and says what is wrong with it.
func (s *server) expect(want string) {
	s.t.Helper()
	f, err := s.framer.ReadFrame()
	if err != nil {
		s.t.Fatalf("%v, want %s", err, want)
	}
	if got := describe(f); got != want {
		s.t.Errorf("got the frame %s, want %s", got, want)
	}
}

// takes reads whole requests.
func (s *server) takes(streams ...uint32) {
	s.t.Helper()
	for _, id := range streams {
		s.expect(fmt.Sprintf("HEADERS %d /3/device/00", id))
		f, err := s.framer.ReadFrame()
		if d, ok := f.(*http2.DataFrame); err != nil || !ok || d.StreamID != id || !d.StreamEnded() {
			s.t.Fatalf("%v, %v", f, err)
		}
	}
}

func describe(f http2.Frame) string {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		text, comma := "SETTINGS", " "
		_ = f.ForeachSetting(func(s http2.Setting) error {
			text, comma = text+comma+s.String(), ", "
			return nil
		})
		return text
	case *http2.MetaHeadersFrame:
		return fmt.Sprintf("HEADERS %d %s", f.StreamID, f.PseudoValue("path"))
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d %q", f.StreamID, f.Data())
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, f.ErrCode)
	case *http2.PingFrame:
		return fmt.Sprintf("PING %x ack %t", f.Data, f.IsAck())
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %s", f.ErrCode)
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
	}
	return fmt.Sprint(f)
}

// headers writes header fields: a name and a value each.
func (s *server) headers(id uint32, ends bool, pairs ...string) {
	s.check(s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.compress(pairs...), EndHeaders: true, EndStream: ends}))
}

func (s *server) compress(pairs ...string) []byte {
	s.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		s.check(s.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	return s.block.Bytes()
}

// check takes in an error of a write, after which the client has done what it does about the frame.
func (s *server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

// ends checks how a request has ended.
func (s *server) ends(a *asked, want string) {
	s.t.Helper()
	synctest.Wait()
	if got := a.ended(s.t); got != want {
		s.t.Errorf("it ended %q, want %q", got, want)
	}
}

// isClosed checks that the connection is over, and why.
func (s *server) isClosed(want string) {
	s.t.Helper()
	synctest.Wait()
	if got := s.seen.said(); got != "closed: "+want {
		s.t.Errorf("it is %q, want closed: %s", got, want)
	}
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }
