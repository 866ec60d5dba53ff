package push

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/push/h2"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// accepting is a server that accepts each push and remembers nothing: what is counted is what the sender does.
func accepting(t testing.TB, nc net.Conn) {
	frame := http2.NewFramer(nc, nc)
	frame.SetReuseFrames()
	if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil || frame.WriteSettings() != nil {
		t.Error("no preface")
		return
	}
	var fields bytes.Buffer
	_ = hpack.NewEncoder(&fields).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	for {
		f, err := frame.ReadFrame()
		if err != nil {
			return
		}
		if h := f.Header(); h.Type == http2.FrameData && h.Flags.Has(http2.FlagDataEndStream) {
			_ = frame.WriteHeaders(http2.HeadersFrameParam{StreamID: h.StreamID, BlockFragment: fields.Bytes(), EndHeaders: true, EndStream: true})
			_ = frame.WriteWindowUpdate(0, max(h.Length, 1))
		}
	}
}

// What it takes today is 12 allocations, one of them the server's.
func TestAPushTakesLittleMemory(t *testing.T) {
	const most = 13
	here, there := net.Pipe()
	s := newStandIn(t, func(arrived) act { return act{} })
	b := newBench(t, s, s.listen())
	p := b.gateways[0].access.Load().pool
	c := &connection{pool: p, retired: make(chan struct{}), most: gate}
	c.conn = h2.New(here, h2.Times{Answer: time.Minute, Late: time.Minute, PingAfter: time.Minute, PingTimeout: time.Minute}, c)
	var both sync.WaitGroup
	both.Go(c.conn.Run)
	both.Go(func() { accepting(t, there) })
	defer func() {
		c.conn.Close()
		there.Close()
		both.Wait()
	}()
	p.mu.Lock()
	p.connections = append(p.connections, c)
	p.mu.Unlock()
	n := alert(1, 1)
	allocations := testing.AllocsPerRun(500, func() {
		if a := b.Sender.Push(t.Context(), &n); a.Status != 200 {
			t.Fatalf("%+v", a)
		}
	})
	if allocations > most {
		t.Errorf("%v allocations", allocations)
	}
}
