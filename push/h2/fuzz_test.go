package h2

import (
	"bytes"
	"io"
	"sync"
	"testing"

	"github.com/mailbell/mailbell/internal/pipetest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Whatever a server writes: the connection ends when the server does, and each request has ended once, in one way.
func FuzzWhatAServerWrites(f *testing.F) {
	written := func(write func(*http2.Framer, func(pairs ...string) []byte)) []byte {
		var all, block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		write(http2.NewFramer(&all, nil), func(pairs ...string) []byte {
			block.Reset()
			for i := 0; i < len(pairs); i += 2 {
				if err := encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
					f.Fatal(err)
				}
			}
			return block.Bytes()
		})
		return all.Bytes()
	}
	f.Add(written(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":status", "200", "apns-id", "x"), EndHeaders: true, EndStream: true})
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(":status", "410", "retry-after", "3"), EndHeaders: true})
		_ = w.WriteDataPadded(3, true, []byte(`{"reason":"Unregistered"}`), make([]byte, 10))
	}))
	f.Add(written(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings()
		_ = w.WritePing(false, [8]byte{1})
		_ = w.WriteWindowUpdate(0, 1000)
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":status", "103")})
		_ = w.WriteContinuation(1, true, block("x", "y"))
		_ = w.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		_ = w.WriteGoAway(3, http2.ErrCodeNo, []byte(`{"reason":"Shutdown"}`))
		_ = w.WriteData(3, false, make([]byte, MaxBody+1))
	}))
	f.Add(written(func(w *http2.Framer, _ func(...string) []byte) {
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		_ = w.WriteRawFrame(http2.FrameHeaders, 0xff, 1, []byte{200, 0, 0, 0, 0, 0})
	}))
	f.Fuzz(func(t *testing.T, all []byte) {
		client, nc := pipetest.Pipe()
		var seen observer
		c := New(client, times, &seen)
		list := []*asked{ask("{}"), ask("{}"), ask("{}")}
		for _, a := range list {
			c.Send(a)
		}
		var run sync.WaitGroup
		run.Go(c.Run)
		run.Go(func() { _, _ = io.Copy(io.Discard, nc) })
		if _, err := nc.Write(all); err != nil {
			t.Fatal(err)
		}
		nc.Close()
		run.Wait()
		for _, a := range list {
			if a.ended(t) == "" {
				t.Error("a request has no end")
			}
			if len(a.endings[0].Body) > MaxBody {
				t.Errorf("%d bytes were kept", len(a.endings[0].Body))
			}
		}
	})
}
