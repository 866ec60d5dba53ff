// Package apns is the simulator's Apple Push Notification service. It works on HTTP/2 frames, because APNs changes SETTINGS while a
// connection is open, which the server of the standard library cannot do: APNs allows one stream until it has seen a valid token, and
// again after each refused request.
package apns

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mailbell/mailbell/simulator/faults"
)

// Options of New.
type Options struct {
	Topic         string // the app's bundle id; every other is refused
	KeyID, TeamID string // that provider tokens must name
	AlertLog      int    // the newest alerts that are kept; 0: DefaultAlertLog, below 0: none

	Faults  *faults.Registry                 // with the kinds of Faults
	Logf    func(format string, args ...any) // may be nil
	OnAlert func(Alert)                      // sees every alert as it is recorded, one call at a time, before its answer is sent; may be nil
}

// Server is the APNs server.
type Server struct {
	faults *faults.Registry
	tokens *tokenChecker
	keyPEM []byte
	topic  string
	log    *alertLog
	logf   func(string, ...any)
	stop   context.Context // ends every connection

	mu           sync.Mutex
	conns        map[*pushConn]struct{}
	connections  int // ever
	refused      int // streams
	unregistered map[string]time.Time
	running      sync.WaitGroup
}

// New returns a server with a signing key of its own. It closes its connections when ctx ends. The error is of the random source.
func New(ctx context.Context, o Options) (*Server, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	tokens := &tokenChecker{key: key, keyID: o.KeyID, team: o.TeamID, issued: map[string]time.Time{}}
	s := &Server{
		faults: o.Faults, tokens: tokens, keyPEM: keyPEM, topic: o.Topic, log: newAlertLog(o.AlertLog, o.OnAlert), logf: o.Logf, stop: ctx,
		conns: map[*pushConn]struct{}{}, unregistered: map[string]time.Time{},
	}
	s.actOut(o.Faults)
	return s, nil
}

// newKey returns a signing key, and its PEM as Apple's .p8 files have it.
func newKey() (*ecdsa.PublicKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return &key.PublicKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// KeyPEM is the key that signs provider tokens, PKCS #8, as Apple's .p8 files.
func (s *Server) KeyPEM() []byte { return s.keyPEM }

// Unregister has the server answer 410 Unregistered for a device token, with the time since when; the zero time ends that.
func (s *Server) Unregister(token string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since.IsZero() {
		delete(s.unregistered, strings.ToLower(token))
		return
	}
	s.unregistered[strings.ToLower(token)] = since
}

// Counts is what has happened, and what is open.
type Counts struct {
	Open, Ever        int // connections
	RefusedStreams    int // over the limit of a connection
	Accepted, Refused int // alerts
}

// Counts counts.
func (s *Server) Counts() Counts {
	var c Counts
	s.mu.Lock()
	c.Open, c.Ever, c.RefusedStreams = len(s.conns), s.connections, s.refused
	s.mu.Unlock()
	c.Accepted, c.Refused = s.log.counts()
	return c
}

// acceptPause follows an error of Accept: a process that has too many files open may have fewer soon.
const acceptPause = 50 * time.Millisecond

// Serve accepts on l with a certificate until the listener is closed, and waits until the connections have ended.
func (s *Server) Serve(l net.Listener, certificate tls.Certificate) {
	defer s.running.Wait()
	l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}})
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.stop.Err() != nil {
				return
			}
			s.logf("apns: accept: %v", err)
			select {
			case <-time.After(acceptPause):
			case <-s.stop.Done():
			}
			continue
		}
		s.running.Go(func() { s.handle(c) })
	}
}

func (s *Server) handle(raw net.Conn) {
	defer raw.Close()
	tc, ok := raw.(*tls.Conn)
	if !ok {
		return
	}
	c := &pushConn{s: s, raw: tc.NetConn(), tls: tc, reader: bufio.NewReaderSize(tc, 16<<10), out: bufio.NewWriterSize(tc, 16<<10),
		streams: map[uint32]*pushStream{}, limit: streamsAtFirst, asked: streamsAtFirst, window: defaultSendWindow, initial: defaultSendWindow,
		closing: make(chan struct{})}
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer = http2.NewFramer(c.out, c.reader)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = maxHeaders
	c.framer.SetMaxReadFrameSize(16 << 10)
	c.framer.SetReuseFrames()

	s.mu.Lock()
	if len(s.conns) >= maxConnections || s.stop.Err() != nil {
		s.mu.Unlock()
		return
	}
	s.conns[c] = struct{}{}
	s.connections++
	s.mu.Unlock()
	stopped := context.AfterFunc(s.stop, func() { c.cut() })
	defer stopped()
	err := c.run()
	c.end()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if err != nil && s.stop.Err() == nil {
		s.logf("apns: connection ended: %v", err)
	}
}
