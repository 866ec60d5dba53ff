package main_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// middlebox stands between mailbell and Exchange, as firewalls do: it can forget its connections, so that the client learns that
// they are cut and the server does not.
type middlebox struct {
	t       *testing.T
	to      string
	l       net.Listener
	running sync.WaitGroup

	mu    sync.Mutex
	pairs map[*pair]struct{}
}

type pair struct {
	client, server net.Conn
	forgotten      bool
}

func newMiddlebox(t *testing.T, to string) *middlebox {
	t.Helper()
	m := &middlebox{t: t, to: to, pairs: map[*pair]struct{}{}}
	var err error
	if m.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	m.running.Go(m.serve)
	t.Cleanup(func() {
		m.l.Close()
		m.mu.Lock()
		for p := range m.pairs {
			p.client.Close()
			p.server.Close()
		}
		m.mu.Unlock()
		m.running.Wait()
	})
	return m
}

func (m *middlebox) serve() {
	for {
		client, err := m.l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				m.t.Error(err)
			}
			return
		}
		server, err := net.Dial("tcp", m.to)
		if err != nil {
			client.Close()
			continue
		}
		p := &pair{client: client, server: server}
		m.mu.Lock()
		m.pairs[p] = struct{}{}
		m.mu.Unlock()
		m.running.Go(func() {
			io.Copy(server, client)
			m.mu.Lock()
			if !p.forgotten {
				server.Close()
			}
			m.mu.Unlock()
		})
		m.running.Go(func() {
			io.Copy(client, server) // ends where the client is cut
			io.Copy(io.Discard, server)
			client.Close()
		})
	}
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
	inst.edit("  autodiscover_url: "+inst.sim.AutodiscoverURL+"\n", "  ews_url: https://"+m.l.Addr().String()+"/EWS/Exchange.asmx\n")
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
