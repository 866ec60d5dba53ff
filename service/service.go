// Package service builds the rooms from a configuration, starts them and stops them in a stated order.
//
// Start: keys are checked, the port is bound and the state is opened, so that whatever cannot work is said before anything has
// begun. A state in Redis is held by one instance at a time: the others stand by, and say so where health is asked for. Whoever
// holds it loads it, hears the mailboxes and answers the API.
//
// Stop: the portal takes no more calls; hearing ends, and what is being rung is finished and written (listener.Close says how
// long); the connections to APNs close; the state closes last. The same happens where another instance has taken the state over,
// and then this one stands by.
package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
)

// Service is mailbell, built and not yet started.
type Service struct {
	log      *zap.Logger
	version  string
	state    state
	socket   net.Listener
	proxy    *proxy.Current // of every outbound connection
	calendar *expiry.Calendar
	handler  atomic.Pointer[http.Handler]
	first    chan struct{} // closed with the first handler: until then, calls wait in the socket

	configuration atomic.Pointer[config.Config] // the newest
	certificate   atomic.Pointer[tls.Certificate]
	look          chan struct{} // the files may have changed
	changed       chan struct{} // the configuration has
}

// Open checks everything that can be wrong outside the configuration: the state, the port, a key. It starts nothing.
func Open(ctx context.Context, c *config.Config, log *zap.Logger, version string) (_ *Service, err error) {
	s := &Service{log: log, version: version, first: make(chan struct{}), proxy: &proxy.Current{}, calendar: expiry.New(log.Named("expiry")),
		look: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	s.configuration.Store(c)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, w := range c.Warnings {
		log.Warn("the configuration is questioned", zap.Error(w))
	}
	if err := s.use(c); err != nil { //nolint:contextcheck // it asks nobody
		return s, err
	}
	if s.state, err = openState(ctx, c.State, log.Named("state")); err != nil {
		return s, err
	}
	for _, d := range append(fileDoubts(c), stateDoubts(c.State)...) {
		log.Warn("a file is not kept from others", zap.String("key", d.key), zap.String("path", d.path), zap.String("because", d.Text), zap.String("advice", d.Advice))
	}
	if s.socket, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen); err != nil {
		return s, fmt.Errorf("listen: %w", err)
	}
	return s, nil
}

// Address is where the portal listens.
func (s *Service) Address() net.Addr { return s.socket.Addr() }

// current is the newest configuration.
func (s *Service) current() *config.Config { return s.configuration.Load() }

// tls is how the portal speaks TLS; nil: it does not.
func (s *Service) tls() *tls.Config {
	if s.certificate.Load() == nil {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return s.certificate.Load(), nil
	}}
}

// answer has calls answered by h from now on.
func (s *Service) answer(h http.Handler) {
	if s.handler.Swap(&h) == nil {
		close(s.first)
	}
}

// ServeHTTP answers as the instance stands.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.handler.Load()).ServeHTTP(w, r)
}

// Run starts everything, and stops it when ctx ends. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() {
		defer stop()
		worked <- s.work(ctx)
	}()
	select {
	case <-s.first:
	case <-ctx.Done():
		s.answer(api.Standby("stopping"))
	}
	var besides sync.WaitGroup
	besides.Go(func() { s.watch(ctx) })
	besides.Go(func() { s.calendar.Run(ctx) })
	served := api.Serve(ctx, s.socket, s, s.tls(), s.log.Named("api"))
	stop()
	besides.Wait()
	return errors.Join(served, <-worked, s.close())
}

// work holds the state and works, stands by where another instance has followed, and so on until ctx ends.
func (s *Service) work(ctx context.Context) error {
	for {
		h, err := s.state.hold(ctx, s.standby)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.ring(ctx, h)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && h.lost == nil: // nobody else can mend a file
			return err
		case err != nil:
			s.standby("", err)
			pause.For(ctx, reopen)
		default:
			s.log.Error("another instance has taken the state over; standing by")
		}
	}
}

// standby says why nothing is rung here.
func (s *Service) standby(behind string, err error) {
	why := "standing by"
	if behind != "" {
		why += " behind " + behind
	}
	if err != nil {
		why = "the state cannot be reached"
	}
	s.log.Warn(why, zap.Error(err))
	s.answer(api.Standby(why))
}

// ring works on a state until ctx ends, or another instance has it.
func (s *Service) ring(ctx context.Context, h held) error {
	r, err := s.build(ctx, h.store)
	if err != nil {
		return err
	}
	r.listener.Start()
	s.answer(r.api)
	telling, told := context.WithCancel(ctx)
	var tell sync.WaitGroup
	tell.Go(func() { r.tell(telling) })
	s.log.Info("mailbell is running", zap.Stringer("listen", s.socket.Addr()), zap.Int("mailboxes", len(r.book.Mailboxes())))
	var again <-chan time.Time
	rewrite := func() {
		s.log.Warn("redis was started anew; all that it was told is written again")
		again = nil
		if err := r.book.Rewrite(ctx); err != nil {
			s.log.Error("the state could not be written again; it is tried until it is", zap.Error(err))
			again = time.After(reopen)
		}
	}
	bury := time.NewTicker(burying)
	defer bury.Stop()
	for working := true; working; {
		select {
		case <-ctx.Done():
			s.log.Info("mailbell is stopping")
			working = false
		case <-h.lost:
			s.answer(api.Standby("another instance has taken the state over"))
			working = false
		case <-h.restarted:
			rewrite()
		case <-again:
			rewrite()
		case <-bury.C:
			if err := r.book.Bury(ctx, time.Now()); err != nil {
				s.log.Warn("records without a device could not be dropped; it is tried again", zap.Duration("retry_in", burying), zap.Error(err))
			}
		case <-s.changed:
			r.update(s.current())
		case <-r.links.worked:
			r.tookOver()
		}
	}
	told()
	tell.Wait()
	r.close() //nolint:contextcheck // ctx has ended; closing has bounds of its own
	return nil
}

// burying is how often the records of mailboxes that have had no device for long enough are dropped.
const burying = time.Minute

// close closes what was opened.
func (s *Service) close() error {
	if s.socket != nil {
		s.socket.Close() // closed already, where the portal served it
	}
	if s.state != nil {
		return s.state.close()
	}
	return nil
}

// patience bounds asking the state store whether it is there: a health check that hangs is no answer.
const patience = 2 * time.Second
