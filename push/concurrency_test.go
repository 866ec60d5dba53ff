package push

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// atOnce runs each function several times, all at the same time. The race detector finds what no lock guards.
func atOnce(functions ...func()) {
	var all sync.WaitGroup
	begin := make(chan struct{})
	for _, f := range functions {
		for range 3 {
			all.Go(func() {
				<-begin
				f()
			})
		}
	}
	close(begin)
	all.Wait()
}

// What many calls share may be used by them at the same time.
func TestWhatCallsShareIsGuarded(t *testing.T) {
	for name, use := range map[string]func(*testing.T, *bench){
		"a phone that waits": func(_ *testing.T, b *bench) {
			atOnce(func() { b.throttle.until(phone(1)) }, func() { b.throttle.slowDown(phone(1), 0) }, func() { b.throttle.forget(phone(1)) })
		},
		"a phone in quarantine": func(_ *testing.T, b *bench) {
			atOnce(func() { b.quarantine.holds(new(alert(1, 1))) }, func() { b.quarantine.begin(new(alert(1, 1))) }, func() { b.quarantine.forget(phone(1)) })
		},
		"the guard": func(_ *testing.T, b *bench) {
			g := &b.gateways[0].guard
			atOnce(func() { g.note(tokenOf(1), true) }, func() { g.tell() })
		},
		"a credential": func(_ *testing.T, b *bench) {
			c := b.gateways[0].access.Load().credential
			<-time.After(2 * tokenLife)
			old := c.bearer()
			<-time.After(2 * tokenLife)
			atOnce(func() { c.bearer() }, func() { c.renew(old) }, c.keep)
		},
		"a gateway": func(_ *testing.T, b *bench) {
			g := b.gateways[0]
			a := g.access.Load()
			enter := func() {
				if g.enter() == "" {
					g.leave()
				}
			}
			atOnce(enter, func() { g.failed(response{status: 503}) }, func() { g.shutIfAway() }, func() { g.state() }, func() { g.worked(true) }, g.reached, func() { g.cutOff(a.credential, errSilent) },
				func() { g.credentialRefused(response{access: a, status: 403}) }, func() { g.offer(nil) }, func() { g.take(a) })
		},
		"a credential with its connections": func(_ *testing.T, b *bench) {
			a := b.gateways[0].access.Load()
			atOnce(a.connected, func() { a.notConnected(errClosed) }, func() { a.disconnected("cut", "", true) }, func() { a.nextFailure() })
		},
		"a connection": func(t *testing.T, b *bench) {
			p := b.gateways[0].access.Load().pool
			c, err := p.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			send := func() {
				if c.reserve(probeOf(topic)) {
					c.conn.Send(&post{request: probeOf(topic), ctx: t.Context(), allowed: always, done: make(chan struct{}), by: c})
				}
			}
			go c.conn.Run()
			atOnce(send, c.Changed, c.Stalled, func() { c.GoneAway([]byte(`{"reason":"Shutdown"}`)) }, func() { c.said() }, func() { c.end() }, func() { c.retire("over") })
			c.conn.Close()
		},
		"a request that is given up": func(t *testing.T, b *bench) {
			p := &post{request: probeOf(topic), ctx: t.Context(), allowed: always}
			atOnce(func() { _ = p.Begin() }, func() { p.giveUp() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { use(t, overMemory(t, refuseProbe)) })
		})
	}
}

// A call that has begun is waited for, also by a Close that waits for no answers.
func TestNoCallOutlastsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := overMemory(t, nil)
		b.begin()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		closed := false
		go func() {
			b.Close(ended)
			closed = true
		}()
		synctest.Wait()
		if closed || b.life.Err() == nil {
			t.Error("it does not wait, or tells nobody to end")
		}
		b.calls.Done()
		synctest.Wait()
		if !closed {
			t.Error("it waits though the last call has ended")
		}
	})
}

// Whether a call has begun before the end is decided under one lock: else Close would not wait for one that begins meanwhile. Nothing
// but that lock orders the two here, so the race detector tells when it is missing.
func TestACallBeginsBeforeTheEndOrNotAtAll(t *testing.T) {
	for range 20 {
		s := &Sender{closing: make(chan struct{})}
		s.life, s.stop = context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if s.begin() {
				yield(2000)
				s.calls.Done()
			}
		})
		all.Go(func() {
			yield(200)
			s.Close(t.Context())
		})
		all.Wait()
		if s.begin() {
			t.Error("a call begins after the end")
		}
	}
}

// yield lets others run, and orders nothing.
func yield(times int) {
	for range times {
		runtime.Gosched()
	}
}

// A key that is offered twice within a dial: net/http completes the protocols of a transport at its first use.
func TestPoolsOfOneTransportDialAtTheSameTime(t *testing.T) {
	only := &http.Protocols{}
	only.SetHTTP2(true)
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	p := &pool{transport: &http.Transport{Protocols: only, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, DialContext: refuse}}
	var all sync.WaitGroup
	for range 4 {
		other := p.with(nil)
		all.Go(func() {
			if c, err := connect(t.Context(), other.transport, "https", "apns.example:443"); err == nil {
				c.Close()
				t.Error("it is connected")
			}
		})
	}
	all.Wait()
}
