package listener

// A listener account: what is wrong with it, and who may try whether that is over.

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// The account as a whole is tried again after these: a wrong password must not be tried by 1,250 mailboxes, or the directory
// locks the account out.
const (
	firstBlock = 30 * time.Second
	maxBlock   = 4 * time.Minute
	// probe is how long one caller has to find out whether the account works again before the next may try.
	probe = 30 * time.Second
)

// account is a listener account at work. Calls with it are made between allowed and note.
type account struct {
	*Account
	entry     *entry
	log       *zap.Logger
	listening kind

	mu      sync.Mutex
	blocked *fault.Error // what is wrong with the account itself
	until   time.Time
	again   time.Duration
}

func newAccount(l *Listener, e *entry, a *Account, metrics *streaming.Metrics) *account {
	n := &account{Account: a, entry: e, log: l.log.With(zap.String("exchange", e.Name), zap.String("account", a.Name))}
	n.listening = streams{streaming.New(streaming.Options{
		Server: guarded{n}, Size: e.SubscriptionsPerConnection, Log: n.log, Metrics: metrics,
	})}
	return n
}

// allowed says whether a call may be made; when the time of a block is over, one caller is let through to try.
func (a *account) allowed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.blocked == nil {
		return nil
	}
	now := time.Now()
	if wait := a.until.Sub(now); wait > 0 {
		e := *a.blocked
		e.After = wait
		return &e
	}
	a.until = now.Add(probe)
	return nil
}

// note takes in how a call ended.
func (a *account) note(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) { // of ours: the server has said nothing
		return err
	}
	if err == nil {
		a.unblock()
		return nil
	}
	switch f := fault.Of(err); {
	case f.Scope < fault.Account:
		a.unblock() // the server let it in
	case f.Scope == fault.Account:
		again := a.block(f)
		a.log.Error("a listener account cannot work", zap.Duration("next_try", again), zap.Error(f))
	}
	return err
}

func (a *account) block(f *fault.Error) (again time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = min(max(2*a.again, firstBlock), maxBlock)
	if f.After > maxBlock { // a policy: it takes a person
		a.again = f.After
	}
	a.blocked, a.until = f, time.Now().Add(a.again)
	return a.again
}

func (a *account) unblock() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blocked, a.again = nil, 0
}

// state says why the account cannot work, and when that is tried again; nil: it can.
func (a *account) state() (f *fault.Error, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocked, a.until
}

// guarded is the account as a streaming.Server.
type guarded struct{ *account }

// Subscribe makes a subscription, where the account may.
func (g guarded) Subscribe(ctx context.Context, at mail.Location, a streaming.Affinity) (id, cookie string, err error) {
	if err := g.allowed(); err != nil {
		return "", "", err
	}
	id, cookie, err = g.Streams.Subscribe(ctx, at, a)
	return id, cookie, g.note(err)
}

// Unsubscribe gives a subscription back, where the account may.
func (g guarded) Unsubscribe(ctx context.Context, at mail.Location, id string) error {
	if err := g.allowed(); err != nil {
		return err
	}
	return g.note(g.Streams.Unsubscribe(ctx, at, id))
}

// Stream opens a stream, where the account may.
func (g guarded) Stream(ctx context.Context, at mail.Location, a streaming.Affinity, ids []string) (streaming.Stream, error) {
	if err := g.allowed(); err != nil {
		return nil, err
	}
	s, err := g.Streams.Stream(ctx, at, a, ids)
	if g.note(err) != nil {
		return nil, err
	}
	return noted{s, g.account}, nil
}

// noted is a stream whose errors are noted where they concern the account. Its other errors do not say that the account is let in.
type noted struct {
	streaming.Stream
	account *account
}

// Next is the next envelope.
func (n noted) Next() (streaming.Envelope, error) {
	e, err := n.Stream.Next()
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Scope == fault.Account {
		return e, n.account.note(err)
	}
	return e, err
}
