package subscriptions

// This file is the lease as Redis has it: who holds the state, and who waits for it.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
)

// leasePoll is the pause between two looks of a standby.
const leasePoll = time.Second

// holder is the value of the lock.
type holder struct {
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
	Nonce string    `json:"nonce"`
}

// textScript reads a key. One of another type is none of ours, and in the way.
const textScript = `
local function text(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then redis.call('DEL', key) return false end
  return value
end
`

// followedScript looks whether holders has a higher number than ours, ARGV[1].
const followedScript = textScript + `
local function followed(holders) return (tonumber(text(holders) or 0) or 0) > tonumber(ARGV[1]) end
`

// takeScript takes the lease where no other instance has it, or may still believe that it has it.
//
// With the lock, another has it. From now on the lock lasts no longer than a lease lives: one that was restored from a copy may have lost
// its end, and one whose server's clock was set back would end late.
//
// Without the lock, another may believe in it up to the time in until, and for as long as the caller has seen, but no longer than a lease
// lives after the caller found the lock gone. Without until it may do so for the life of a lease. A lease that was given back (until is 0)
// is nobody's at once. Without until, holders and the secret the state is new, or was just lost: its holder would write them with its next
// renewal.
//
// Our number is the next one, and at least the time in milliseconds: so it is above those of before even where holders is lost.
//
// KEYS: lock, holders, until, secret. ARGV: our value; in milliseconds the life of a lease, how long the caller believes in the lease that
// it saw last, how long ago it found the lock gone, and how long it watches a state that seems new. It returns our number, or 0; how long
// to wait; and who holds the state.
const takeScript = textScript + `
local lock, life = text(KEYS[1]), tonumber(ARGV[2])
if lock and lock ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 or left > life then redis.call('PEXPIRE', KEYS[1], life) left = life end
  return {0, left, lock}
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if not lock then
  local known, wait = text(KEYS[3]), 0
  if known ~= '0' then
    if known then wait = (tonumber(known) or now + life) - now
    elseif redis.call('EXISTS', KEYS[2], KEYS[4]) > 0 then wait = life
    else wait = tonumber(ARGV[5]) end
    wait = math.min(math.max(wait, tonumber(ARGV[3])), life - tonumber(ARGV[4]))
  end
  if wait > 0 then return {0, wait, ''} end
end
local n = tonumber(text(KEYS[2])) or 0
if not lock or n == 0 then n = math.max(n + 1, now) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', life)
redis.call('SET', KEYS[2], string.format('%d', n))
redis.call('SET', KEYS[3], string.format('%d', now + life))
return {n, 0, ''}`

// keepScript renews the lease, also where it has run out and nobody has taken the state over since, or where the server has lost
// everything. It returns 1, or 0 where another instance has taken the state over; and the number of the last write (redis_loss.go), or ""
// where that, the secret or the version is gone.
// KEYS: lock, holders, until, generation, secret, schema. ARGV: our value, the life of a lease in milliseconds, our number.
const keepScript = textScript + `
local lock, n = text(KEYS[1]), tonumber(text(KEYS[2]) or 0) or 0
if lock and lock ~= ARGV[1] or n > tonumber(ARGV[3]) then return {0, ''} end
local t = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[3], string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2]))
return {1, redis.call('EXISTS', KEYS[5], KEYS[6]) == 2 and text(KEYS[4]) or ''}`

// giveScript gives the lease back: nobody believes in it any more. KEYS: lock, holders, until. ARGV: our value.
const giveScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], '0')
return redis.call('DEL', KEYS[1])`

func (s *Redis) leaseKeys() []string {
	return []string{s.key("lock"), s.key("holders"), s.key("until")}
}

// Hold waits until this instance holds the state, and keeps it until Close. standby is called once for each holder that is waited for,
// and with the error where Redis does not answer.
func (s *Redis) Hold(ctx context.Context, standby func(holder string, err error)) error {
	host, _ := os.Hostname()
	value, err := json.Marshal(holder{Host: host, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second), Nonce: rand.Text()})
	if err != nil {
		return err
	}
	seen := &s.seen
	said := ""
	for {
		asked := s.lease.now()
		n, err := s.take(ctx, value, seen)
		if err == nil && n > 0 {
			s.fence = n
			s.lease.grant(asked)
			s.keep(value) //nolint:contextcheck // kept until Close, not for as long as the call
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if seen.holder != said || err != nil {
			said = seen.holder
			standby(seen.holder, err)
		}
		if !pause.For(ctx, seen.nextLook()) {
			return ctx.Err()
		}
	}
}

// sighting is what a standby has seen of the lease of another.
type sighting struct {
	holder string    // who has it, or had it; empty: nobody can tell
	until  time.Time // until when its holder may believe in it
	gone   time.Time // when it was found gone from Redis; zero: it is there
	away   bool      // Redis did not answer: what it comes back with may be older, and another instance may have all of it in memory
}

// lostLease stands for the holder of a lease that is gone before it ran out.
const lostLease = "whoever held the lease that Redis has lost, until it would have run out"

// take tries to take the lease, and returns our number; 0: it is another's, or could still be believed to be.
func (s *Redis) take(ctx context.Context, value []byte, seen *sighting) (n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	now := time.Now()
	believed, gone, fresh := max(0, seen.until.Sub(now)), time.Duration(0), time.Duration(0)
	if seen.until.IsZero() {
		fresh = leaseNew
	}
	if seen.away {
		believed = leaseLife
	}
	if !seen.gone.IsZero() {
		gone = now.Sub(seen.gone)
	}
	keys := append(s.leaseKeys(), s.key("secret"))
	answer, err := s.client.Eval(ctx, takeScript, keys, value, leaseLife.Milliseconds(), believed.Milliseconds(), gone.Milliseconds(), fresh.Milliseconds()).Slice()
	if err != nil {
		seen.holder, seen.away = "", true // also where none was seen yet
		return 0, err
	}
	number, wait, held, err := readTaken(answer)
	if err != nil || number > 0 {
		return number, err
	}
	switch {
	case held != "":
		*seen = sighting{holder: nameOf(held), until: now.Add(wait)}
	case seen.gone.IsZero() && wait <= leaseNew: // too short to say so
		*seen = sighting{until: now.Add(wait), gone: now}
	case seen.gone.IsZero():
		*seen = sighting{holder: lostLease, until: now.Add(wait), gone: now}
	}
	return 0, nil
}

// readTaken reads the answer of takeScript.
func readTaken(answer []any) (number uint64, wait time.Duration, held string, err error) {
	if len(answer) == 3 {
		n, isNumber := answer[0].(int64)
		ms, isWait := answer[1].(int64)
		text, isText := answer[2].(string)
		if isNumber && isWait && isText && n >= 0 {
			return uint64(n), time.Duration(ms) * time.Millisecond, text, nil
		}
	}
	return 0, 0, "", errors.New("redis: its answer about the lease cannot be read")
}

// nameOf says who holds the state; empty where nobody can tell.
func nameOf(value string) string {
	var h holder
	if json.Unmarshal([]byte(value), &h) != nil {
		return ""
	}
	return fmt.Sprintf("process %d on %s, since %s", h.PID, h.Host, h.Since.Format(time.RFC3339))
}

// nextLook is how long a standby waits before it looks again: leasePoll, or until the lease ends.
func (v sighting) nextLook() time.Duration {
	left := time.Until(v.until)
	if left <= 0 {
		return leasePoll
	}
	return min(left+time.Millisecond, leasePoll)
}

// Held says whether the state is this instance's own, and takes what it is told: see lease.go.
func (s *Redis) Held() error {
	if err := s.lease.held(); err != nil {
		return err
	}
	return s.committer.prompt()
}

// keep renews the lease. While Redis does not answer nothing is sent (Held), and when it is back the lease is taken again, unless
// another instance was quicker.
func (s *Redis) keep(value []byte) {
	var ctx context.Context
	ctx, s.holding = context.WithCancel(context.Background())
	s.held.Go(func() {
		defer s.give(context.WithoutCancel(ctx), value)
		began := time.Now()
		for pause.For(ctx, leaseRenew-time.Since(began)) {
			began = time.Now()
			asked := s.told.before()
			generation, granted := s.renew(ctx, value)
			if s.lease.isLost() {
				return
			}
			if granted && asked.loaded {
				s.compareWithin(ctx, leaseRenew-time.Since(began), generation, asked) // the next renewal does not wait for it
			}
		}
	})
}

// renew asks once. It returns the number of the last write that Redis knows.
func (s *Redis) renew(ctx context.Context, value []byte) (generation string, granted bool) {
	asked := s.lease.ask()
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	keys := append(s.leaseKeys(), s.key("generation"), s.key("secret"), s.key("schema"))
	answer, err := s.client.Eval(ctx, keepScript, keys, value, leaseLife.Milliseconds(), s.fence).Slice()
	if err != nil || len(answer) != 2 {
		return "", false
	}
	if kept, _ := answer[0].(int64); kept == 0 {
		s.lease.follow()
		return "", false
	}
	s.lease.grant(asked)
	generation, _ = answer[1].(string)
	return generation, true
}

func (s *Redis) compareWithin(ctx context.Context, most time.Duration, generation string, asked before) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	s.compare(ctx, generation, asked)
}

// give gives the lease back.
func (s *Redis) give(ctx context.Context, value []byte) {
	s.lease.giveBack()
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	s.client.Eval(ctx, giveScript, s.leaseKeys(), value)
}

// release ends the goroutine that keeps the lease, which gives it back: so a standby need not wait for its end.
func (s *Redis) release() {
	if s.holding != nil {
		s.holding()
		s.held.Wait()
	}
}

// Lost is closed when another instance has taken the state over.
func (s *Redis) Lost() <-chan struct{} { return s.lease.lost }
