package subscriptions

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// lockLife is how long a lock outlives its holder: with lockPoll, a second instance takes over within 15 s.
	lockLife  = 10 * time.Second
	lockRenew = 3 * time.Second
	lockPoll  = 2 * time.Second
)

// ErrFollowed says that another instance has taken the state over: this one must not ring any more.
var ErrFollowed = errors.New("another instance has taken the state over")

// holder is the value of the lock.
type holder struct {
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
	Nonce string    `json:"nonce"`
}

// keepScript keeps the lock, also where it has expired meanwhile and nobody has followed, or where the server has lost
// everything. KEYS: lock, holders. ARGV: our value, its life in milliseconds, our number.
const keepScript = `
local lock, n = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if lock and lock ~= ARGV[1] or n and tonumber(n) > tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
return 1`

// takeScript takes a free lock, and returns our number. KEYS: lock, holders. ARGV: our value, its life in milliseconds.
const takeScript = `
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
return redis.call('INCR', KEYS[2])`

const giveScript = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`

// Hold waits until this instance holds the state, and keeps it until Close. standby is called once for each one that is waited for,
// and with the error where Redis does not answer.
func (s *Redis) Hold(ctx context.Context, standby func(behind string, err error)) error {
	host, _ := os.Hostname()
	value, err := json.Marshal(holder{Host: host, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second), Nonce: rand.Text()})
	if err != nil {
		return err
	}
	keys := []string{s.key("lock"), s.key("holders")}
	said := ""
	for {
		asked := time.Now()
		n, err := s.client.Eval(ctx, takeScript, keys, value, lockLife.Milliseconds()).Uint64()
		if err == nil && n > 0 {
			s.fence = n
			s.keep(keys, value, asked) //nolint:contextcheck // kept until Close, not for as long as the call
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if behind := s.who(ctx); behind != said || err != nil {
			said = behind
			standby(behind, err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// who says who holds the state; empty where nobody does, or nobody can tell.
func (s *Redis) who(ctx context.Context) string {
	var h holder
	v, err := s.client.Get(ctx, s.key("lock")).Bytes()
	if err != nil || json.Unmarshal(v, &h) != nil {
		return ""
	}
	return fmt.Sprintf("process %d on %s, since %s", h.PID, h.Host, h.Since.Format(time.RFC3339))
}

// errStale says that the lock may have expired: another instance may hold the state by now.
var errStale = errors.New("the lock of the state could not be renewed in time")

// lockMargin is how long before the lock's end this instance rings no more, for what it has begun takes a while.
const lockMargin = 2 * time.Second

// Held says whether the lock has not expired, by our own clock: an instance that was frozen, or that alone does not reach Redis,
// cannot be told that another has followed.
func (s *Redis) Held() error {
	if kept := s.kept.Load(); kept == nil || time.Since(*kept) > lockLife-lockMargin {
		return errStale
	}
	return nil
}

// keep renews the lock. While Redis does not answer nothing is rung (Held), and when it is back the lock is taken again, unless
// another instance was quicker.
func (s *Redis) keep(keys []string, value []byte, since time.Time) {
	s.kept.Store(&since)
	s.look(context.Background())
	var ctx context.Context
	ctx, s.holding = context.WithCancel(context.Background())
	s.held.Go(func() {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redisTimeout)
			defer cancel()
			s.client.Eval(ctx, giveScript, keys[:1], value)
		}()
		for {
			select {
			case <-time.After(lockRenew):
			case <-ctx.Done():
				return
			}
			asked := time.Now()
			kept, err := s.client.Eval(ctx, keepScript, keys, value, lockLife.Milliseconds(), s.fence).Int()
			if err == nil && kept == 0 {
				s.lose.Do(func() { close(s.lost) })
				return
			}
			if err == nil {
				s.kept.Store(&asked)
				s.look(ctx)
			}
		}
	})
}

// look sees whether the server was started anew since it was looked at last. One without an append-only file comes back with what
// its last snapshot had; who holds the state has all of it in memory.
func (s *Redis) look(ctx context.Context) {
	info, err := s.client.InfoMap(ctx, "server").Result()
	if err != nil {
		return
	}
	was := s.server
	if s.server = info["Server"]["run_id"]; was == "" || was == s.server {
		return
	}
	if err := s.client.SetNX(ctx, s.key("secret"), s.secret[:], 0).Err(); err != nil {
		s.server = was // the next look finds it again
		return
	}
	s.forget.Store(true)
	select {
	case s.restarted <- struct{}{}:
	default:
	}
}

// Restarted has a signal when the server was started anew: what the book has is to be written again (Book.Rewrite).
func (s *Redis) Restarted() <-chan struct{} { return s.restarted }

// release gives the lock back, so that who stands by need not wait for its end.
func (s *Redis) release() {
	if s.holding != nil {
		s.holding()
		s.held.Wait()
	}
}

// Lost is closed when another instance has taken the state over.
func (s *Redis) Lost() <-chan struct{} { return s.lost }
