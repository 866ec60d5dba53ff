package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"
)

// The bounds of a connection. Requests and answers are small, and clients are near.
const (
	headerTimeout = 5 * time.Second  // slow headers hold a connection, and nothing else
	readTimeout   = 15 * time.Second // of a whole request of at most 64 KiB
	writeTimeout  = 60 * time.Second // of reading and answering: changeTimeout, and a page of 1,000 over a slow line
	idleTimeout   = 2 * time.Minute  // longer than the minute after which load balancers close theirs
	maxHeader     = 16 << 10         // bytes: a token, and what proxies add

	// maxConnections bounds those that are open at once, each with some 30 KiB and a file: far fewer than the 65,536 files that the process may have
	// open (docs/mailbell.service), so that whoever opens ever more takes none from Exchange and APNs. Others wait in the socket.
	maxConnections = 10_000

	// stopTimeout is how long open requests may take after the stop: longer than changeTimeout, so that no write is cut off, and only a part
	// of the 30 seconds of the whole process.
	stopTimeout = 8 * time.Second
)

// Serve answers on a listener until ctx ends; then it takes no new connection, lets open requests finish, and
// returns nil. t may be nil for plain HTTP. It closes the listener.
func Serve(ctx context.Context, l net.Listener, h http.Handler, t *tls.Config, log *zap.Logger) error {
	errorLog, err := zap.NewStdLogAt(log, zap.InfoLevel) // mostly failed TLS handshakes of clients
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler: h, TLSConfig: t, ErrorLog: errorLog,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
	}
	l = netutil.LimitListener(l, maxConnections)
	served := make(chan error, 1)
	go func() {
		if t != nil {
			served <- s.ServeTLS(l, "", "")
		} else {
			served <- s.Serve(l)
		}
	}()
	select {
	case err := <-served:
		err = fmt.Errorf("listening on %s ended: %w", l.Addr(), err)
		log.Error("nothing is answered any more", zap.Error(err))
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := s.Shutdown(stop); err != nil {
		log.Warn("requests were cut off at the stop", zap.Error(err))
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Warn("closing the api failed", zap.Error(err))
		}
	}
	<-served //nolint:errcheck // http.ErrServerClosed, or an error after the stop
	return nil
}
