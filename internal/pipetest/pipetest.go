// Package pipetest has connections over memory, for tests that own the clock: in a synctest bubble nothing may wait for a socket.
package pipetest

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the ends of a connection. Unlike those of net.Pipe, writes never wait, so that no order of reads and writes can lock it
// up.
func Pipe() (net.Conn, net.Conn) {
	a, b := newStream(), newStream()
	return &end{in: a, out: b}, &end{in: b, out: a}
}

// stream is one direction.
type stream struct {
	mu     sync.Mutex
	more   *sync.Cond
	buffer bytes.Buffer
	closed bool
	until  time.Time // reads wait no longer; zero: for ever
}

func newStream() *stream {
	s := &stream{}
	s.more = sync.NewCond(&s.mu)
	return s
}

type end struct{ in, out *stream }

func (e *end) Read(p []byte) (int, error) {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	for e.in.buffer.Len() == 0 {
		switch {
		case e.in.closed:
			return 0, io.EOF
		case !e.in.until.IsZero() && !time.Now().Before(e.in.until):
			return 0, os.ErrDeadlineExceeded
		}
		e.in.more.Wait()
	}
	return e.in.buffer.Read(p)
}

func (e *end) Write(p []byte) (int, error) {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	if e.out.closed {
		return 0, net.ErrClosed
	}
	e.out.more.Signal()
	return e.out.buffer.Write(p)
}

func (e *end) Close() error {
	for _, s := range []*stream{e.in, e.out} {
		s.mu.Lock()
		s.closed = true
		s.more.Broadcast()
		s.mu.Unlock()
	}
	return nil
}

// SetReadDeadline implements net.Conn. A server needs it to end a read that waits.
func (e *end) SetReadDeadline(at time.Time) error {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.until = at
	if !at.IsZero() {
		time.AfterFunc(time.Until(at), func() {
			e.in.mu.Lock()
			defer e.in.mu.Unlock()
			e.in.more.Broadcast()
		})
	}
	return nil
}

func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) SetDeadline(at time.Time) error   { return e.SetReadDeadline(at) }
func (e *end) LocalAddr() net.Addr              { return address{} }
func (e *end) RemoteAddr() net.Addr             { return address{} }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "memory" }

// Listener is a listener whose connections are pipes.
type Listener struct {
	address   net.Addr
	connected chan net.Conn
	closed    chan struct{}
	close     func()
}

// NewListener returns a listener that calls itself by an address: host and port, as a URL has them.
func NewListener(host net.IP, port int) *Listener {
	l := &Listener{address: &net.TCPAddr{IP: host, Port: port}, connected: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// Dial connects to the listener, whatever the address. It is a DialContext of http.Transport.
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := Pipe()
	select {
	case l.connected <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connected:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.close()
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.address }
