package push

// An APNs for these tests, on frames: TLS and HTTP/2 as they are, over sockets or, where a test owns the clock, over memory.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/pipetest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// arrived is a request as the stand-in saw it.
type arrived struct {
	connection int // counted from 1
	stream     uint32
	number     int // of all requests, from 1
	header     map[string]string
	payload    string
	at         time.Time
	client     *x509.Certificate // nil: it showed none
}

func (a arrived) token() string { return strings.TrimPrefix(a.header[":path"], "/3/device/") }

// act is what the stand-in does about a request.
type act struct {
	status     int // 0: 200
	body       string
	retryAfter string
	delay      time.Duration
	silent     bool          // no answer
	cut        bool          // the connection is closed instead
	abort      bool          // with cut: by a reset, which also throws away what the client has not read
	breakOff   bool          // after the status, the stream is reset
	endless    bool          // the body never ends
	goAway     bool          // after the answer, with this stream as the last
	farewell   string        // instead of an answer: a GOAWAY that says so and has looked at nothing, and the end of the connection
	lastStream uint32        // instead of an answer: a GOAWAY for a restart, with this stream as the last; with cut: and then the end
	limit      uint32        // instead of 1000 or 1
	noMore     bool          // the limit is 0
	more       time.Duration // with noMore: after that it is 1000
	reset      http2.ErrCode // the stream is reset instead
}

func refusing(status int, reason string) act {
	return act{status: status, body: fmt.Sprintf(`{"reason":%q}`, reason)}
}

type standIn struct {
	t    testing.TB
	tls  *tls.Config
	pool *x509.CertPool

	mu          sync.Mutex
	decide      func(arrived) act
	requests    []arrived
	connections int
	open        map[net.Conn]bool
	refused     int // streams over the limit
	dials       []time.Time
	hangs       bool   // dials take for ever
	down        bool   // dials fail
	downHost    string // dials to it fail
	slams       bool   // connections are accepted and closed
	farewell    string // connections are accepted, told a GOAWAY with this debug data, and closed
	silent      bool   // bytes go nowhere: neither answers nor pings
	clogged     bool   // connections take no bytes: a client waits with its first write
	serving     sync.WaitGroup
}

// certificate is made once: keys are slow under the race detector. Valid also at the time at which a synctest bubble starts.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "apns"}, DNSNames: []string{"apns.example", "sandbox.apns.example"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		panic(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

// clientCertificate is one as Apple issues it for an app: for push in both environments, for a year.
func clientCertificate(t testing.TB, serial int64, until time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "Apple Push Services: " + topic},
		NotBefore: until.AddDate(-1, 0, 0), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// p8 is an APNs key as Apple issues it.
var p8 = sync.OnceValue(func() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
})

func newStandIn(t testing.TB, decide func(arrived) act) *standIn {
	cert, pool := certificate()
	if decide == nil {
		decide = func(arrived) act { return act{} }
	}
	s := &standIn{t: t, pool: pool, decide: decide, open: make(map[net.Conn]bool), tls: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}}
	t.Cleanup(func() {
		s.cutAll()
		s.serving.Wait()
	})
	return s
}

// listen serves on a socket and returns its URL.
func (s *standIn) listen() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	s.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accept(c)
		}
	})
	return "https://" + l.Addr().String()
}

// dial is a DialContext over memory.
func (s *standIn) dial(ctx context.Context, _, address string) (net.Conn, error) {
	s.mu.Lock()
	s.dials = append(s.dials, time.Now())
	hangs := s.hangs
	down := s.down || s.downHost != "" && strings.HasPrefix(address, s.downHost+":")
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if down {
		return nil, errors.New("connection refused")
	}
	client, server := pipetest.Pipe()
	s.accept(server)
	return &outlet{Conn: client, apns: s, closed: make(chan struct{})}, nil
}

// outlet is a client's end of a connection, whose writes wait for ever while it is clogged.
type outlet struct {
	net.Conn
	apns   *standIn
	once   sync.Once
	closed chan struct{}
}

func (o *outlet) Write(p []byte) (int, error) {
	if o.apns.isClogged() {
		<-o.closed
		return 0, net.ErrClosed
	}
	return o.Conn.Write(p)
}

func (o *outlet) Close() error {
	o.once.Do(func() { close(o.closed) })
	return o.Conn.Close()
}

func (s *standIn) accept(c net.Conn) {
	s.mu.Lock()
	s.connections++
	n := s.connections
	s.open[c] = true
	s.mu.Unlock()
	s.serving.Go(func() {
		defer func() {
			c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
		}()
		tc := tls.Server(c, s.tls)
		s.mu.Lock()
		slams := s.slams
		s.mu.Unlock()
		if tc.Handshake() != nil || slams {
			return
		}
		(&peer{standIn: s, n: n, conn: c, tls: tc, limit: 1, streams: make(map[uint32]*arrived), write: make(chan struct{}, 1)}).serve()
	})
}

func (s *standIn) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.Close()
	}
}

func (s *standIn) set(change func(*standIn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *standIn) isDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent
}

func (s *standIn) isClogged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clogged
}

// seen returns the requests so far, without the probes, and how many connections and refused streams there were.
func (s *standIn) seen() (alerts, probes []arrived, connections, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.token() == probeToken {
			probes = append(probes, r)
		} else {
			alerts = append(alerts, r)
		}
	}
	return alerts, probes, s.connections, s.refused
}

// peer is one connection of the stand-in.
type peer struct {
	*standIn
	n    int
	conn net.Conn
	tls  *tls.Conn

	write   chan struct{} // whoever answers has it, also while it waits: a mutex would stop the time of the test
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	limit   uint32 // as APNs: 1 until a push is accepted, then 1000, and 1 again after one that is not
	answers sync.WaitGroup

	streams map[uint32]*arrived // guarded by write
}

func (p *peer) serve() {
	defer p.answers.Wait()
	defer p.tls.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.tls, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	p.framer = http2.NewFramer(p.tls, p.tls)
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.encoder = hpack.NewEncoder(&p.block)
	if p.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: p.limit}) != nil {
		return
	}
	p.mu.Lock()
	farewell := p.farewell
	p.mu.Unlock()
	if farewell != "" {
		p.bid(farewell)
		return
	}
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return
		}
		if !p.isDeaf() && !p.frame(f) {
			return
		}
	}
}

// bid says farewell. What it says is read before the connection is seen to end, as it is over a network.
func (p *peer) bid(farewell string) {
	_ = p.framer.WriteGoAway(0, http2.ErrCodeNo, []byte(farewell))
	<-time.After(10 * time.Millisecond)
}

func (p *peer) frame(f http2.Frame) bool {
	p.write <- struct{}{}
	defer func() { <-p.write }()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return p.framer.WriteSettingsAck() == nil
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return p.framer.WritePing(true, f.Data) == nil
		}
	case *http2.RSTStreamFrame:
		delete(p.streams, f.StreamID)
	case *http2.MetaHeadersFrame:
		if len(p.streams) >= int(p.limit) {
			p.set(func(s *standIn) { s.refused++ })
			return p.framer.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream) == nil
		}
		a := &arrived{connection: p.n, stream: f.StreamID, header: make(map[string]string)}
		if shown := p.tls.ConnectionState().PeerCertificates; len(shown) > 0 {
			a.client = shown[0]
		}
		for _, h := range f.Fields {
			a.header[h.Name] = h.Value
		}
		p.streams[f.StreamID] = a
	case *http2.DataFrame:
		if n := len(f.Data()); n > 0 && p.framer.WriteWindowUpdate(0, uint32(n)) != nil {
			return false
		}
		a := p.streams[f.StreamID]
		if a == nil {
			break
		}
		a.payload += string(f.Data())
		if f.StreamEnded() {
			return p.complete(*a)
		}
	}
	return true
}

// complete decides about a whole request and answers it, at once or later.
func (p *peer) complete(a arrived) bool {
	a.at = time.Now()
	p.mu.Lock()
	a.number = len(p.requests) + 1
	p.requests = append(p.requests, a)
	decide := p.decide
	p.mu.Unlock()
	do := decide(a)
	if do.delay == 0 {
		return p.answer(a, do)
	}
	p.answers.Go(func() {
		<-time.After(do.delay) // the time that APNs takes is the test's to set
		p.write <- struct{}{}
		defer func() { <-p.write }()
		if !p.answer(a, do) {
			p.conn.Close()
		}
	})
	return true
}

func (p *peer) answer(a arrived, do act) bool {
	switch {
	case do.farewell != "":
		p.bid(do.farewell)
		return false
	case do.lastStream != 0:
		for id := range p.streams {
			if id > do.lastStream {
				delete(p.streams, id) // never looked at
			}
		}
		err := p.framer.WriteGoAway(do.lastStream, http2.ErrCodeNo, []byte(`{"reason":"Shutdown"}`))
		if do.cut {
			<-time.After(10 * time.Millisecond) // it is read before the end is seen
		}
		return err == nil && !do.cut
	case do.cut:
		if c, ok := p.conn.(*net.TCPConn); ok && do.abort {
			c.SetLinger(0)
		}
		p.conn.Close()
		return false
	case do.reset != 0:
		delete(p.streams, a.stream)
		return p.framer.WriteRSTStream(a.stream, do.reset) == nil
	case do.silent || p.streams[a.stream] == nil:
		return true
	}
	if do.status == 0 {
		do.status = 200
	}
	limit := uint32(1)
	if do.status == 200 {
		limit = 1000
	}
	if do.limit != 0 || do.noMore {
		limit = do.limit
	}
	if limit != p.limit {
		p.limit = limit
		if p.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: limit}) != nil {
			return false
		}
	}
	if do.more > 0 {
		p.answers.Go(func() {
			<-time.After(do.more)
			p.write <- struct{}{}
			defer func() { <-p.write }()
			p.limit = 1000
			_ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: p.limit})
		})
	}
	p.block.Reset()
	p.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(do.status)})
	p.encoder.WriteField(hpack.HeaderField{Name: "apns-id", Value: a.header["apns-id"]})
	if do.retryAfter != "" {
		p.encoder.WriteField(hpack.HeaderField{Name: "retry-after", Value: do.retryAfter})
	}
	delete(p.streams, a.stream)
	if p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: do.body == "" && !do.breakOff}) != nil {
		return false
	}
	if do.breakOff {
		return p.framer.WriteRSTStream(a.stream, http2.ErrCodeInternal) == nil
	}
	if do.body != "" && p.framer.WriteData(a.stream, !do.endless, []byte(do.body)) != nil {
		return false
	}
	if do.goAway {
		for id := range p.streams {
			if id > a.stream {
				delete(p.streams, id) // never looked at
			}
		}
		if p.framer.WriteGoAway(a.stream, http2.ErrCodeNo, []byte(`{"reason":"Shutdown"}`)) != nil {
			return false
		}
	}
	return true
}
