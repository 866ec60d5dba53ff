package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/subscriptions"
)

// state is the stored state, which one instance at a time may work on.
type state interface {
	// hold waits until this instance may work.
	hold(ctx context.Context, standby func(holder string, err error)) (held, error)
	// close closes the store that was held last.
	close() error
}

// held is a state that this instance may work on.
type held struct {
	store subscriptions.Store
	lost  <-chan struct{} // closed when another instance has followed; nil where none can
	lossy <-chan string   // a signal: why the store has less than it was told; nil where none can lose anything
	// restore writes everything again by rewrite, for a store that has lost something.
	restore func(ctx context.Context, rewrite func(context.Context) error) error
}

func openState(ctx context.Context, c config.State, login *redisLogin, log *zap.Logger) (state, error) {
	if c.Redis == nil {
		s, err := subscriptions.OpenEmbedded(c.Path)
		if err != nil {
			return nil, err
		}
		return file{s}, nil
	}
	o := redisOptions(c.Redis, login)
	quietRedis(log)
	store, warnings, err := subscriptions.OpenRedis(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn(w)
	}
	return &redis{options: o, store: store}, nil
}

// notOpened says what to do about a state that cannot be opened. What is wrong with the state itself says so in its own words.
func notOpened(err error) error {
	for _, says := range []error{subscriptions.ErrDamaged, subscriptions.ErrNewer, subscriptions.ErrRedis} {
		if errors.Is(err, says) {
			return err
		}
	}
	return fmt.Errorf("%w. %s", err, check.Advise(err, check.Circumstances{Step: check.StepState}).Do)
}

// redisLogin is how mailbell signs in to the Redis of its state: as the newest configuration says that names this Redis. What names another one
// takes a restart.
type redisLogin struct{ atomic.Pointer[config.Redis] }

// use takes up a configuration.
func (l *redisLogin) use(c config.State) {
	if is := l.Load(); c.Redis != nil && (is == nil || sameRedis(*is, *c.Redis)) {
		l.Store(c.Redis)
	}
}

func redisOptions(c *config.Redis, login *redisLogin) subscriptions.RedisOptions {
	o := subscriptions.RedisOptions{Address: c.Address, Prefix: c.Prefix, Login: func() (string, string) {
		r := login.Load()
		return r.Username, string(r.Password)
	}}
	if c.TLS {
		o.TLS = &tls.Config{RootCAs: c.CA, MinVersion: tls.VersionTLS12}
	}
	return o
}

// quietRedis has the Redis library log through ours. The library has one logger for the process. mailbell gets the same errors from
// its calls.
func quietRedis(log *zap.Logger) { goredis.SetLogger(quiet{log}) }

// quiet logs the library's messages with level debug.
type quiet struct{ log *zap.Logger }

func (q quiet) Printf(_ context.Context, format string, v ...any) {
	q.log.Debug("redis client", zap.String("message", fmt.Sprintf(format, v...)))
}

// file is the embedded store: the process that opened it holds it.
type file struct{ *subscriptions.Embedded }

func (f file) hold(context.Context, func(string, error)) (held, error) {
	return held{store: f.Embedded}, nil
}

func (f file) close() error { return f.Close() }

// backupOf copies the state of a store; nil: it is in no file.
func backupOf(store subscriptions.Store) func(to io.Writer) error {
	if s, ok := store.(*subscriptions.Embedded); ok {
		return s.Copy
	}
	return nil
}

// redis is a state that instances hold one after the other. Each time there is a new store: after another instance has taken over, the old
// store writes no more.
type redis struct {
	options subscriptions.RedisOptions
	store   *subscriptions.Redis
	held    bool
}

func (r *redis) hold(ctx context.Context, standby func(string, error)) (held, error) {
	if r.held { // and lost
		if err := r.close(); err != nil {
			return held{}, err
		}
		r.options.Followed = true
		for r.store == nil { // it may be unreachable, or a replica for a moment: it was right at the start
			store, _, err := subscriptions.OpenRedis(ctx, r.options)
			if err == nil {
				r.store = store
				break
			}
			standby("", err)
			if !pause.For(ctx, reopen) {
				return held{}, ctx.Err()
			}
		}
	}
	r.held = true
	if err := r.store.Hold(ctx, standby); err != nil {
		return held{}, err
	}
	return held{r.store, r.store.Lost(), r.store.Lossy(), r.store.Restore}, nil
}

func (r *redis) close() error {
	if r.store == nil {
		return nil
	}
	err := r.store.Close()
	r.store = nil
	return err
}

// reopen is the time between two tries of a state that cannot be reached.
const reopen = 2 * time.Second
