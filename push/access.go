package push

// This file is a credential with the connections that were opened with it, and how a new one takes over while notifications go
// through: the old one serves until the new one has worked.

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
	"go.uber.org/zap"
)

// askTimeout bounds a question whose answer somebody waits for: a dial and an answer, each with its own time. An answer that is late while
// others are answered is not waited for.
const askTimeout = dialTimeout + answerTimeout

// proving is the pause before a new credential that was refused is tried again. APNs may not know a key in its first minutes; after
// that it takes a person.
var proving = backoff.Policy{First: time.Minute, Max: time.Hour}

// errSilent is a connection to APNs that ended before anything was answered on it.
var errSilent = &fault.Error{Op: "APNs", Code: proxy.CodeNetwork, Scope: fault.Server, Remedy: fault.Wait, Text: "the connection ended before anything was answered on it",
	Evidence: fault.Evidence{Peer: fault.APNs}}

// access is a credential and its connections. APNs does not take two keys on one connection, so each has its own.
type access struct {
	gateway    *gateway
	credential *credential
	pool       *pool
	life       context.Context // of its connections
	stop       context.CancelFunc

	mu       sync.Mutex
	open     int             // connections
	last     error           // why the last dial failed, or what ended the last connection; nil: one was made since
	failure  context.Context // ends when it is known that there is no connection, with the error as its cause; then another takes its place
	tellFail context.CancelCauseFunc
}

func newAccess(g *gateway, c *credential, p *pool) *access {
	a := &access{gateway: g, credential: c, pool: p}
	a.life, a.stop = context.WithCancel(g.life)
	a.failure, a.tellFail = context.WithCancelCause(context.Background())
	p.watch = a
	return a
}

// start keeps a connection, while one is wanted, until its life ends.
func (a *access) start() {
	a.gateway.run(func(life context.Context) { a.pool.line(a.life, life) })
}

// leave ends it: what is in flight goes on, and what waits for its turn ends with errLeft and goes elsewhere.
func (a *access) leave() {
	close(a.pool.left)
	a.stop()
}

// serves reports whether notifications go out by it: it is not a new one that has to prove itself, nor one that was replaced.
func (a *access) serves() bool { return a.gateway.access.Load() == a }

// connected, notConnected, disconnected and http2Error tell of the connections (watcher).

func (a *access) connected() {
	a.gateway.metrics.dials.WithLabelValues("connected").Inc()
	a.gateway.metrics.connections.Inc()
	a.mu.Lock()
	a.open++
	a.last = nil
	a.mu.Unlock()
	if a.serves() {
		a.gateway.reached()
	}
}

func (a *access) notConnected(err error) {
	a.gateway.metrics.dials.WithLabelValues("failed").Inc()
	a.gateway.log.Warn("APNs cannot be reached", a.credential.name(), zap.Error(err))
	a.mu.Lock()
	a.last = err
	if a.open == 0 {
		a.failLocked(err)
	}
	a.mu.Unlock()
	if a.serves() {
		a.gateway.cutOff(a.credential, err)
	}
}

func (a *access) disconnected(why string, said outcome.Reason, answered bool) {
	a.gateway.metrics.connections.Dec()
	fields := []zap.Field{a.credential.name(), zap.String("because", why), zap.Bool("answered", answered)}
	if said != "" {
		fields = append(fields, zap.String("reason", string(said)))
	}
	a.gateway.log.Info("connection to APNs ended", fields...)
	end := errSilent
	if said != "" {
		end = (&goneAway{reason: said}).fault()
	}
	isRefused := ruleFor(0, said).reaction == hold
	a.mu.Lock()
	a.open--
	if isRefused && a.open == 0 {
		a.failLocked(end)
	}
	a.mu.Unlock()
	switch {
	case isRefused:
		a.gateway.credentialRefused(response{access: a, reason: said})
	case !answered && !isOurs(why) && a.serves():
		a.gateway.cutOff(a.credential, end)
	}
}

func (a *access) http2Error(kind string) { a.gateway.metrics.http2Errors.WithLabelValues(kind).Inc() }

// failLocked ends the questions of those who wait for a connection, for there will be none soon.
func (a *access) failLocked(err error) {
	a.last = err
	a.tellFail(err)
	a.failure, a.tellFail = context.WithCancelCause(context.Background())
}

// nextFailure is a context that ends when there is no connection, with the error as its cause, and why the last one failed.
func (a *access) nextFailure() (context.Context, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure, a.last
}

// ask sends a notification once, for somebody who waits for the answer. It waits for askTimeout at most, and only until it is known that
// there is no connection. It changes nothing but the counters.
func (a *access) ask(ctx context.Context, n *request) response {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	failure, last := a.nextFailure()
	defer context.AfterFunc(failure, cancel)() //nolint:contextcheck // a failed dial ends the question as well as the caller's ctx does
	r := a.attempt(ctx, time.Time{}, n, always)
	why := context.Cause(failure) //nolint:contextcheck // it holds the error of the dial, or what APNs said when it ended the connection
	switch {
	case !r.isUnanswered():
	case !r.written:
		r.err = cmp.Or(why, last, r.err)
	case errors.Is(r.err, context.Canceled): // the connection was given up before it told what became of the request
		r.err = cmp.Or(why, r.err)
	}
	return r
}

func probeOf(topic string) *request {
	return &request{token: probeToken, topic: topic, payload: []byte(`{"aps":{}}`)}
}

// prove tries a new credential until it has worked, and then has notifications go out by it.
func (a *access) prove() {
	taken := false
	defer func() {
		if !taken { // else it serves, and the access that replaces it leaves it
			a.leave()
		}
	}()
	for failures := 1; ; failures++ {
		r := a.ask(a.life, probeOf(a.gateway.apps[0].topic))
		err := r.refusal()
		if a.life.Err() != nil {
			return
		}
		if err == nil {
			taken = a.gateway.take(a)
			return
		}
		a.gateway.offerFailed(a, err)
		wait := proving.Wait(failures, 0)
		a.gateway.log.Error("a new credential does not work; the one before serves on", a.credential.name(), zap.Error(err),
			zap.Duration("retry_in", wait))
		if r.status != 0 && r.rule().reaction == renew {
			a.credential.renew(r.bearer)
		}
		if !pause.For(a.life, wait) {
			return
		}
	}
}
