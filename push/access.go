package push

// This file is a credential with the connections that were opened with it, and how a new one takes over while alerts go through:
// the old one serves until the new one has worked.

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/proxy"
	"github.com/sideshow/apns2"
	"go.uber.org/zap"
)

const (
	// askTimeout bounds a question whose answer somebody waits for: a dial and an answer, each with its own time.
	askTimeout = dialTimeout + answerTimeout
	// proveBase, doubled up to proveMax: the pauses before a new credential that was refused is tried again. APNs may not know a
	// key in its first minutes; after that it takes a person.
	proveBase = time.Minute
	proveMax  = time.Hour
)

// access is a credential and its connections. APNs does not take two keys on one connection, so each has its own.
type access struct {
	gateway    *gateway
	credential *credential
	pool       *pool
	life       context.Context // of its connections
	stop       context.CancelFunc

	mu       sync.Mutex
	open     int             // connections
	last     error           // why the last connection was not had; nil: it was
	failure  context.Context // ends when the next one is not had, with the error as its cause
	tellFail context.CancelCauseFunc
}

func newAccess(g *gateway, c *credential, p *pool) *access {
	a := &access{gateway: g, credential: c, pool: p}
	a.life, a.stop = context.WithCancel(g.life)
	a.failure, a.tellFail = context.WithCancelCause(context.Background())
	p.watch = a
	return a
}

// start keeps its connections until its life ends.
func (a *access) start() {
	for range a.gateway.connections {
		a.gateway.run(func(context.Context) { a.pool.line(a.life) }) //nolint:contextcheck // its life is a part of the sender's
	}
}

// leave ends it: what is in flight goes on, what waits for a turn is told to go elsewhere.
func (a *access) leave() {
	close(a.pool.left)
	a.stop()
}

// serves reports whether alerts go out by it: it is not a new one that has to prove itself, nor one that was replaced.
func (a *access) serves() bool { return a.gateway.access.Load() == a }

// connected, notConnected and disconnected tell of the connections (watcher).

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
		a.tellFail(err)
		a.failure, a.tellFail = context.WithCancelCause(context.Background())
	}
	a.mu.Unlock()
	if a.serves() {
		a.gateway.cutOff(a.credential)
	}
}

func (a *access) disconnected(why string, answered bool) {
	a.gateway.metrics.connections.Dec()
	a.gateway.log.Info("connection to APNs ended", a.credential.name(), zap.String("because", why), zap.Bool("answered", answered))
	a.mu.Lock()
	a.open--
	a.mu.Unlock()
	if !answered && a.serves() {
		a.gateway.cutOff(a.credential)
	}
}

// nextFailure is a context that ends when a connection is not had, with the error as its cause, and why the last one was not.
func (a *access) nextFailure() (context.Context, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure, a.last
}

// ask sends a notification once, for somebody who waits for the answer: not for long, and no longer than until a connection is
// known not to be had. It moves nothing but the counters.
func (a *access) ask(ctx context.Context, n *apns2.Notification) outcome {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	failure, last := a.nextFailure()
	defer context.AfterFunc(failure, cancel)() //nolint:contextcheck // a failed dial ends the question as well as the caller's ctx does
	out := a.attempt(ctx, n, always)
	if out.status == 0 && !out.written {
		out.err = cmp.Or(context.Cause(failure), last, out.err) //nolint:contextcheck // it holds the dial's error
	}
	return out
}

// probe asks whether the credential is taken.
func (a *access) probe(ctx context.Context, topic string) outcome {
	return a.ask(ctx, probeOf(topic))
}

func probeOf(topic string) *apns2.Notification {
	return &apns2.Notification{DeviceToken: probeToken, Topic: topic, Priority: apns2.PriorityHigh, Payload: []byte(`{"aps":{}}`)}
}

// prove tries a new credential until it has worked, and then has alerts go out by it.
func (a *access) prove() {
	defer func() {
		if !a.serves() {
			a.leave()
		}
	}()
	for n := 0; ; n++ {
		out := a.probe(a.life, a.gateway.topics[0].topic)
		err := out.refusal()
		if a.life.Err() != nil {
			return
		}
		if err == nil {
			a.gateway.take(a)
			return
		}
		wait := min(proveBase<<min(n, 10), proveMax)
		wait = wait/2 + rand.N(wait/2)
		a.gateway.log.Error("a new credential does not work; the one before serves on", a.credential.name(), zap.Error(err), zap.Duration("tried_again_in", wait))
		if out.status != 0 && meaningOf(out.status, out.reason).does == renew {
			a.credential.renew(out.bearer)
		}
		if !pause.For(a.life, wait) {
			return
		}
	}
}

// refusal is what an outcome says against the credential, or the way to APNs; nil: the answer to a probe that shows that both are
// good, which is BadDeviceToken.
func (o outcome) refusal() error {
	if o.reason == apns2.ReasonBadDeviceToken {
		return nil
	}
	return o.fault()
}

// fault types what came back instead of an acceptance; nil: it was accepted. Its code is the reason of APNs, "HTTP 503", or one of proxy's.
func (o outcome) fault() error {
	const op = "APNs"
	switch {
	case o.status == http.StatusOK:
		return nil
	case errors.Is(o.err, errClosed):
		return &fault.Error{Op: op, Code: "closed", Scope: fault.Server, Remedy: fault.Wait, Text: "mailbell is stopping"}
	case o.status == 0:
		return proxy.Explain(op, o.err)
	}
	m := meaningOf(o.status, o.reason)
	f := &fault.Error{Op: op, Code: label(o.reason), Text: m.text, Scope: fault.Server, Remedy: fault.Wait}
	if o.reason == "" || f.Code == "other" {
		f.Code = "HTTP " + strconv.Itoa(o.status)
	}
	switch m.concerns {
	case aCredential:
		f.Scope, f.Remedy = fault.Account, fault.Fix
	case aDevice:
		f.Scope, f.Remedy = fault.Message, fault.Fix
	case anAlert:
		f.Scope, f.Remedy = fault.Message, fault.GiveUp
	}
	if m.does == slowDown {
		f.Remedy = fault.Wait
	}
	return f
}
