package push

// This file is what APNs says when it ends a connection. It stands in the debug data of the GOAWAY frame, as {"reason":"…"}, and net/http
// keeps it to itself. So each connection is read along: below HTTP/2 and above TLS, frame by frame, and only what that frame says is kept.
// https://www.rfc-editor.org/rfc/rfc9113#name-goaway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/proxy"
)

const (
	frameHeader = 9   // bytes before the payload of a frame: its length in 3, its type in 1
	typeGoAway  = 0x7 // of a frame
	goAwayFixed = 8   // bytes of its payload before the debug data
	// maxGoAway bounds what is kept of it; that of APNs has less than 100 bytes.
	maxGoAway = 512
	// closeTimeout is how long the last word of TLS may take. net/http has the same for connections that it knows to be of TLS.
	closeTimeout = 250 * time.Millisecond
)

// farewells finds the GOAWAY frames in what a peer sends.
type farewells struct {
	header  []byte // of the frame that comes, as far as it is there
	left    int    // bytes of its payload that have not come
	isOne   bool   // it is a GOAWAY
	payload []byte // of the GOAWAY, as far as it is there and kept
}

// read takes in what came next, and calls said with the debug data of each GOAWAY that has ended and has some.
func (f *farewells) read(p []byte, said func(debug []byte)) {
	for len(p) > 0 {
		if f.left == 0 {
			n := min(frameHeader-len(f.header), len(p))
			f.header, p = append(f.header, p[:n]...), p[n:]
			if len(f.header) < frameHeader {
				return
			}
			f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
			f.isOne, f.payload = f.header[3] == typeGoAway, nil
			f.header = f.header[:0]
		}
		n := min(f.left, len(p))
		if f.isOne {
			f.payload = append(f.payload, p[:min(n, maxGoAway-len(f.payload))]...)
		}
		f.left, p = f.left-n, p[n:]
		if f.left == 0 && f.isOne && len(f.payload) > goAwayFixed {
			said(f.payload[goAwayFixed:])
		}
	}
}

// overheard is a connection whose GOAWAY is read along.
type overheard struct {
	*tls.Conn
	farewells farewells // of the one goroutine that reads
	reason    atomic.Pointer[outcome.Reason]
}

func (o *overheard) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	o.farewells.read(p[:n], o.note)
	return n, err
}

// note keeps the reason of a GOAWAY, where it has one.
func (o *overheard) note(debug []byte) {
	var said struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(debug, &said) != nil || said.Reason == "" {
		return
	}
	reason := known(said.Reason)
	o.reason.Store(&reason)
}

// Close closes it, without much patience for a peer that takes no last word.
func (o *overheard) Close() error {
	force := time.AfterFunc(closeTimeout, func() { o.NetConn().Close() })
	defer force.Stop()
	return o.Conn.Close()
}

// said is the reason of the last GOAWAY that gave one; empty: none did.
func (o *overheard) said() outcome.Reason {
	if o == nil {
		return ""
	}
	if r := o.reason.Load(); r != nil {
		return *r
	}
	return ""
}

// opener opens one connection to APNs whose GOAWAY is read along. net/http dials it, goes through the proxy and speaks TLS; for
// HTTP/2 it then asks what is registered for https, which is the opener: that puts itself in between.
type opener struct {
	host      string          // with its port
	transport *http.Transport // that says how
	heard     *overheard
	connected *http.ClientConn
}

// open opens the connection as the transport would.
func (o *opener) open(ctx context.Context, t *http.Transport, scheme, host string) error {
	o.host, o.transport = host, t
	t = t.Clone()
	t.TLSClientConfig.NextProtos = []string{"h2"}
	// With this key there, net/http registers nothing of its own. It is asked for connections of a pool only, and there is none.
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{"h2": func(string, *tls.Conn) http.RoundTripper { return o }}
	t.RegisterProtocol("https", o)
	_, err := proxy.ClientConn(ctx, t, scheme, host)
	return err
}

// NewClientConn is what net/http asks whoever is registered for https (newClientConner in its clientconn.go).
func (o *opener) NewClientConn(c net.Conn, _ func()) (http.RoundTripper, error) {
	secure, ok := c.(*tls.Conn)
	if !ok {
		return nil, errors.New("a connection to APNs without TLS")
	}
	o.heard = &overheard{Conn: secure}
	within := o.transport.Clone()
	within.Proxy = nil
	within.DialTLSContext = func(context.Context, string, string) (net.Conn, error) { return o.heard, nil }
	within.Protocols = new(http.Protocols)
	within.Protocols.SetUnencryptedHTTP2(true)                             // it is no *tls.Conn any more, so net/http takes it for plain
	cc, err := within.NewClientConn(context.Background(), "https", o.host) // it dials nothing that could be ended
	o.connected = cc
	return cc, err
}

// RoundTrip is there for the interface: requests go by connections.
func (o *opener) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("requests go by connections")
}

// goneAway is a request that was not answered, because APNs ended the connection and said why.
type goneAway struct {
	reason outcome.Reason
	err    error // of net/http; nil: there was no request
}

func (e *goneAway) Error() string { return "APNs ended the connection: " + string(e.reason) }
func (e *goneAway) Unwrap() error { return e.err }

// fault types it as an answer with this reason.
func (e *goneAway) fault() *fault.Error {
	code := string(e.reason)
	if e.reason == outcome.Other {
		code = "GOAWAY"
	}
	scope, remedy := ruleFor(0, e.reason).reaction.fault()
	return &fault.Error{Op: "APNs", Code: code, Text: e.reason.Sentence(), Scope: scope, Remedy: remedy, Evidence: fault.Evidence{Peer: fault.APNs}}
}
