// Package tcptest has servers on loopback for the tests of several rooms: they stand between a client and a server, or replace a server.
package tcptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
)

// Listen listens at a free port until the end of the test.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// Serve serves each connection to l in a goroutine of its own, and closes the connection when that returns. At the end of the test it
// closes the listener and all connections, and waits for the goroutines.
func Serve(t testing.TB, l net.Listener, serve func(net.Conn)) {
	t.Helper()
	var (
		serving sync.WaitGroup
		mu      sync.Mutex
		open    = map[net.Conn]bool{}
		ended   bool
	)
	one := func(c net.Conn) {
		mu.Lock()
		open[c] = true
		late := ended
		mu.Unlock()
		if !late {
			serve(c)
		}
		mu.Lock()
		delete(open, c)
		mu.Unlock()
		_ = c.Close()
	}
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { one(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		ended = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
}

// Quiet is an address where nothing listens, for a server that the test starts later, or starts again. Until the end of the test no outgoing
// connection takes it, for it is below the ports that Linux gives to those, and no other test: it is reserved by a listener on the same port
// of another address of loopback.
func Quiet(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		reserved, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.2:%d", port))
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) { // not everywhere is all of 127.0.0.0/8 loopback
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
		}
		if reserved != nil {
			t.Cleanup(func() { _ = reserved.Close() })
		}
		if err == nil {
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}
