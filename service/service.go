// Package service builds the rooms from a configuration, starts them and stops them in a stated order.
//
//	service.go                         the process: what is opened, and who works on the state
//	state.go                           the state, and how an instance comes to hold it
//	rooms.go                           the rooms on a state: built, changed and closed
//	links.go, graph.go                 the accounts of the exchange entries, with their credentials and clients
//	api.go, callbacks.go, admin.go     what the API, the callbacks and the admin page work on
//	conditions.go, wrong.go            what is wrong now, and since when; outages.go: of which mailbox
//	webhooks.go, canary.go             what the MDM portal is told, and the mail that mailbell sends to itself
//	reload.go, proxy.go, certificate.go, files.go  what is taken up without a restart, and which files others can read
//	supervise.go                       what systemd is told
//	check.go, *_check.go, walked.go    what mailbell check tries, with the calls of the service
//
// Start: the service checks keys, binds the port and opens the state, so that it reports what cannot work before anything has begun. One
// instance at a time holds a state in Redis; the others are standbys, and their readiness says so. The instance that holds the state
// loads it, listens to the mailboxes and answers the API.
//
// Stop: the API takes no more calls; listening ends, and alerts that are being sent are finished and written (listener.Close says how
// long this may take); the connections to APNs close; the state closes last. The same happens after another instance has taken the state
// over; then this one is a standby.
package service

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/systemd"
	"github.com/mailbell/mailbell/proxy"
)

// Service is mailbell, built and not yet started.
type Service struct {
	log       *zap.Logger
	audit     *audit.Log
	version   string
	state     state
	socket    net.Listener
	callbacks callbackServer
	proxy     *proxy.Current // of every outbound connection
	redis     redisLogin
	calendar  *expiry.Calendar
	handler   atomic.Pointer[http.Handler]
	first     chan struct{} // closed with the first handler: calls wait in the socket until then
	systemd   *systemd.Notifier
	started   func()                 // is called once calls are answered
	working   atomic.Pointer[rooms]  // on the state; nil: none do
	aside     atomic.Pointer[string] // why none work

	configuration atomic.Pointer[config.Config] // the newest
	startedWith   *config.Config                // that of the start, which the process keeps to
	certificate   certificate
	connect       func(context.Context, target, *proxy.Via) error // tries a changed proxy
	offered       *offeredProxy                                   // nil: none; only watch uses it
	notTakenUp    atomic.Pointer[error]                           // why a changed configuration, or a changed proxy, is refused; nil: none is
	oneRefusal    bool                                            // a check: no account is refused twice
	look          chan struct{}                                   // a signal: the files may have changed
	changed       chan struct{}                                   // a signal: the configuration has changed
}

// Misconfigured is what is wrong with a configuration that config has accepted: another start with it would change nothing.
type Misconfigured struct{ error }

func (e Misconfigured) Unwrap() error { return e.error }

// Open checks everything that can be wrong outside the configuration: the state, the port, a key. It starts nothing.
func Open(ctx context.Context, c *config.Config, log *zap.Logger, version string) (_ *Service, err error) {
	s := &Service{
		log: log, audit: audit.New(log.Named("audit")), version: version, first: make(chan struct{}), systemd: &systemd.Notifier{}, started: func() {},
		proxy: &proxy.Current{}, connect: connect, calendar: expiry.New(log.Named("expiry")), look: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	s.configuration.Store(c)
	s.startedWith = c
	s.audit.Use(c.Audit.File)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, w := range c.Warnings {
		log.Warn("configuration probably wrong", zap.Error(w))
	}
	if err := s.use(c); err != nil { //nolint:contextcheck // it makes no request
		return s, Misconfigured{err}
	}
	s.takeProxy() // there is no other to compare it with
	s.state, err = openState(ctx, c.State, &s.redis, log.Named("state"))
	if err != nil {
		return s, notOpened(err)
	}
	for _, d := range append(fileDoubts(c), stateDoubts(c.State)...) {
		log.Warn("file is not protected from others", zap.String("key", d.key), zap.String("path", d.path), zap.String("because", d.Text), zap.String("advice", d.Advice))
	}
	s.socket, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return s, notListening("listen", err)
	}
	return s, s.callbacks.open(ctx, c)
}

// Address is the address of the API.
func (s *Service) Address() net.Addr { return s.socket.Addr() }

// current is the newest configuration.
func (s *Service) current() *config.Config { return s.configuration.Load() }

// answer makes h answer calls from now on.
func (s *Service) answer(h http.Handler) {
	if s.handler.Swap(&h) == nil {
		close(s.first)
	}
}

// ServeHTTP answers with the present handler.
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
		s.begun()
	case <-ctx.Done():
		s.standAside("stopping")
	}
	var besides sync.WaitGroup
	besides.Go(func() { s.supervise(ctx) })
	besides.Go(func() { s.watch(ctx) })
	besides.Go(func() { s.calendar.Run(ctx) })
	var calledBack error
	besides.Go(func() {
		calledBack = s.callbacks.serve(ctx, s.log.Named("callbacks"))
		if calledBack != nil {
			stop() // it does not go on without callbacks: another start may have them
		}
	})
	served := api.Serve(ctx, s.socket, s, s.certificate.config(), s.log.Named("api"))
	stop()
	besides.Wait()
	return errors.Join(served, calledBack, <-worked, s.close())
}

// work waits until this instance holds the state, works, and waits again after another instance has taken over, until ctx ends.
func (s *Service) work(ctx context.Context) error {
	for {
		h, err := s.state.hold(ctx, s.standby)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.serve(ctx, h)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && h.lost == nil: // nobody else can mend a file
			return err
		case err != nil:
			s.standby("", err)
			pause.For(ctx, reopen)
		default:
			s.log.Error("another instance has taken the state over")
		}
	}
}

// standby answers and logs why this instance does not work.
func (s *Service) standby(holder string, err error) {
	s.callbacks.answer(nil)
	switch {
	case err != nil:
		s.log.Warn("the state cannot be reached", zap.Error(err))
		s.standAside("the state cannot be reached")
	case holder != "":
		s.log.Warn("waiting as standby", zap.String("holder", holder))
		s.standAside("standby: " + holder + " holds the state")
	default:
		s.log.Warn("waiting as standby")
		s.standAside("standby")
	}
}

// standAside answers that this instance does not work, and why.
func (s *Service) standAside(why string) {
	s.working.Store(nil)
	s.aside.Store(&why)
	s.answer(api.Standby(why))
}

// serve works on a state until ctx ends, or another instance has it.
func (s *Service) serve(ctx context.Context, h held) error {
	r, err := s.build(ctx, h.store)
	if err != nil {
		return err
	}
	s.callbacks.answer(r.callbacks())
	s.working.Store(r)
	s.answer(r.api) // before anything is subscribed: Exchange calls back at once
	r.listener.Start()
	r.started.Store(true)
	besides, end := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { r.tell(besides) })
	all.Go(func() { r.webhooks.Run(besides) })
	all.Go(func() { r.runCanary(besides) })
	r.tellStarted()
	if r.book.New() {
		s.log.Info("the state is new: no device is enrolled")
	}
	s.log.Info("mailbell is running", zap.Stringer("listen", s.socket.Addr()), zap.Int("mailboxes", len(r.book.Mailboxes())))
	s.attend(ctx, r, h)
	s.working.CompareAndSwap(r, nil)
	end()
	all.Wait()
	r.close() //nolint:contextcheck // ctx has ended; closing has bounds of its own
	return nil
}

// attend does what the rooms need from time to time, until ctx ends, or another instance has the state.
func (s *Service) attend(ctx context.Context, r *rooms, h held) {
	var again <-chan time.Time // to restore; nil: that is not to be tried again
	bury := time.NewTicker(dropEvery)
	defer bury.Stop()
	for {
		select {
		case <-ctx.Done():
			s.log.Info("mailbell is stopping")
			return
		case <-h.lost:
			s.callbacks.answer(nil)
			s.standAside("another instance has taken the state over")
			return
		case why := <-h.lossy:
			s.log.Warn("redis has less than it was told; everything is written again", zap.String("reason", why))
			again = s.restore(ctx, r, h)
		case <-again:
			again = s.restore(ctx, r, h)
		case <-bury.C:
			if err := r.book.Bury(ctx, time.Now()); err != nil {
				s.log.Warn("dropping records without a device failed", zap.Duration("retry_in", dropEvery), zap.Error(err))
			}
		case <-s.changed:
			r.update(s.current()) //nolint:contextcheck // it makes no request
		case <-r.links.worked:
			r.tookOver()
		}
	}
}

// restore writes everything again. It returns when that is to be tried once more; nil: it was done.
func (s *Service) restore(ctx context.Context, r *rooms, h held) (again <-chan time.Time) {
	began := time.Now()
	if err := h.restore(ctx, r.book.Rewrite); err != nil {
		s.log.Error("the state could not be written again", zap.Error(err), zap.Duration("retry_in", reopen))
		return time.After(reopen)
	}
	s.log.Info("the state was written again", zap.Int("mailboxes", len(r.book.Mailboxes())), zap.Duration("took", time.Since(began)))
	return nil
}

// dropEvery is how often the records of mailboxes that have had no device for long enough are dropped.
const dropEvery = time.Minute

// close closes what was opened.
func (s *Service) close() error {
	if s.socket != nil {
		s.socket.Close() // already closed if the API served it
	}
	s.callbacks.close()
	s.audit.Close()
	if s.state != nil {
		return s.state.close()
	}
	return nil
}

// pingTimeout bounds the check of the state store: a health check must not hang.
const pingTimeout = 2 * time.Second
