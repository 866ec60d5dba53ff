package main_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// middlebox stands between mailbell and Exchange, as firewalls do: it can forget its connections, so that the client learns that
// they are cut and the server does not.
type middlebox struct {
	address, to string

	mu    sync.Mutex
	pairs map[*pair]struct{}
}

type pair struct {
	client, server net.Conn
	forgotten      bool
}

func newMiddlebox(t *testing.T, to string) *middlebox {
	t.Helper()
	l := tcptest.Listen(t)
	m := &middlebox{address: l.Addr().String(), to: to, pairs: map[*pair]struct{}{}}
	tcptest.Serve(t, l, m.serve)
	t.Cleanup(func() { // before Serve waits for those who serve
		m.mu.Lock()
		defer m.mu.Unlock()
		for p := range m.pairs {
			p.server.Close()
		}
	})
	return m
}

func (m *middlebox) serve(client net.Conn) {
	server, err := net.Dial("tcp", m.to)
	if err != nil {
		return
	}
	defer server.Close()
	p := &pair{client: client, server: server}
	m.mu.Lock()
	m.pairs[p] = struct{}{}
	m.mu.Unlock()
	var questions sync.WaitGroup
	questions.Go(func() {
		io.Copy(server, client)
		m.mu.Lock()
		defer m.mu.Unlock()
		if !p.forgotten {
			server.Close()
		}
	})
	io.Copy(client, server) // ends where the client is cut
	io.Copy(io.Discard, server)
	client.Close()
	questions.Wait()
}

// forget cuts all connections towards the client; the server goes on writing into the void.
func (m *middlebox) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.pairs {
		p.forgotten = true
		p.client.Close()
	}
}

// A server that does not know that a stream was cut goes on taking events out of its queues for it, until it is opened anew.
func TestNothingIsLostWhenOnlyOneSideLearnsOfACut(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 4})
	m := newMiddlebox(t, strings.TrimSuffix(strings.TrimPrefix(inst.sim.EWSURL, "https://"), "/EWS/Exchange.asmx"))
	inst.edit("  autodiscover_url: "+inst.sim.AutodiscoverURL+"\n", "  ews_url: https://"+m.address+"/EWS/Exchange.asmx\n")
	inst.startWithDevices()
	for range 4 {
		m.forget()
		for range 20 {
			inst.deliver()
			pass(t, 40*time.Millisecond)
		}
	}
	inst.balance(0)
}
