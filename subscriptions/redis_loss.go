package subscriptions

// A Redis can have less than it was told: it was flushed, another database was swapped in, a key was deleted, it came back from a
// snapshot or from a replica that was behind. Whoever holds the state has all of it in memory, sees that within a second where
// everything is gone or older, and within a round of looking where a key is, and writes it again.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/mailbell/mailbell/mail"
)

// told is what the server was told, for comparing it with what it has.
type told struct {
	mu      sync.Mutex // held over a round trip: what is compared must not be changed meanwhile
	secret  mail.Secret
	devices map[string]int // the records that the server has, and how many devices each, or unsure
	whole   bool           // false while everything is written again
	unseen  []string       // records that this round of looking has still to come to
	number  int64          // of the last write; no number is given twice

	losses     atomic.Int64 // how often everything was to be written again
	loaded     atomic.Bool
	generation atomic.Int64 // the number of the last write that was confirmed; 0 while everything is written again
	newest     atomic.Int64 // the number of the last write, confirmed or not; 0 while everything is written again
	lossy      chan string  // holds one signal: why everything is to be written again
}

// unsure stands for how many devices the server has of a record whose write failed.
const unsure = -1

// lookPage is how many records are looked at with each renewal of the lock: 15,000 in a minute, at a cost that is not noticed.
const lookPage = 250

var errNotWhole = errors.New("mailbell ended while a state that Redis had lost was written again, or a key is gone: " +
	"enrolments may be missing; have the MDM portal enrol all its devices once more")

// markScript gives the state the number of a write that was made just before, and returns the number that it had. A number that the server
// was not told stays, for whoever looks next, because this answer may be lost. KEYS: holders, generation. ARGV: our number; that of the
// write; the least and the greatest that the state may have.
const markScript = followedScript + `
if followed(KEYS[1]) then return redis.error_reply('` + fenced + `') end
local before = text(KEYS[2])
local n = tonumber(before or '')
if n and n >= tonumber(ARGV[3]) and n <= tonumber(ARGV[4]) then redis.call('SET', KEYS[2], ARGV[2]) end
return before or ''`

// mark numbers what a pipeline writes. While everything is written again there is no number, which would say that all is there; then it
// returns nil.
func (s *Redis) mark(ctx context.Context, p redis.Pipeliner) *redis.Cmd {
	if !s.told.whole {
		return nil
	}
	s.told.number++
	newest := s.told.newest.Swap(s.told.number)
	return p.EvalSha(ctx, markHash, []string{s.key("holders"), s.key("generation")}, s.fence, s.told.number, s.told.generation.Load(), newest)
}

// before is what the server had been told before it was asked.
type before struct {
	loaded             bool
	losses, generation int64
}

func (t *told) before() before { return before{t.loaded.Load(), t.losses.Load(), t.generation.Load()} }

// compare looks whether the server has what it was told. generation is what it answered. A loss that was noted since it was asked is not
// noted again.
func (s *Redis) compare(ctx context.Context, generation string, asked before) {
	why := s.older(generation, asked.generation)
	if why == "" {
		why = s.look(ctx)
	}
	if why != "" {
		s.told.mu.Lock()
		defer s.told.mu.Unlock()
		if s.told.losses.Load() == asked.losses {
			s.lost(ctx, why)
		}
	}
}

// older says what the server has lost if this is its generation; "": nothing, it was told that one.
func (s *Redis) older(generation any, remembered int64) string {
	text, _ := generation.(string)
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return "what was written is gone: it was flushed, has begun anew, or is another database"
	case n > s.told.newest.Load():
		return "what is there is not what was written: it is another database"
	case n < remembered:
		return fmt.Sprintf("it went back to an older state: its last write is number %d, and number %d had been confirmed", n, remembered)
	}
	return ""
}

// lost has everything written again. told.mu is held. The loss may not be found a second time, so it is noted even where Redis cannot be
// told.
func (s *Redis) lost(ctx context.Context, why string) {
	_ = s.notWhole(ctx) // Restore tells Redis again
	select {
	case s.told.lossy <- why:
	default: // it waits to be written again anyway
	}
}

// notWhole begins anew with what the server was told, and says there that it does not have all. told.mu is held.
func (s *Redis) notWhole(ctx context.Context) error {
	err := s.installation(ctx, 0)
	clear(s.told.devices)
	s.told.unseen, s.told.whole = nil, false
	s.told.losses.Add(1)
	s.told.generation.Store(0)
	s.told.newest.Store(0)
	return err
}

// look looks at the next records, and says what is missing. It lets a write go first.
func (s *Redis) look(ctx context.Context) string {
	if !s.told.mu.TryLock() {
		return ""
	}
	defer s.told.mu.Unlock()
	if !s.told.whole {
		return ""
	}
	page := s.told.nextPage()
	if len(page) == 0 {
		return ""
	}
	listed := make([]*redis.BoolCmd, len(page))
	keys, devices := make([]*redis.IntCmd, len(page)), make([]*redis.IntCmd, len(page))
	p := s.client.Pipeline()
	for i, id := range page {
		all := s.recordKeys(id)
		listed[i] = p.SIsMember(ctx, s.key("records"), id) // all at once they can be asked for since version 6.2
		keys[i], devices[i] = p.Exists(ctx, all[0], all[2]), p.HLen(ctx, all[1])
	}
	if _, err := p.Exec(ctx); err != nil && !isWrongType(err) {
		return ""
	}
	for i, id := range page {
		switch {
		case !listed[i].Val():
			return "key " + s.key("records") + " does not have what was written"
		case devices[i].Err() != nil || keys[i].Val() != 2 || devices[i].Val() != int64(s.told.devices[id]):
			return s.lacks(id)
		}
	}
	return ""
}

// nextPage takes the next records that are to be looked at. mu is held.
func (t *told) nextPage() []string {
	if len(t.unseen) == 0 {
		t.unseen = slices.Collect(maps.Keys(t.devices))
	}
	page := t.unseen[:min(len(t.unseen), lookPage)]
	t.unseen = t.unseen[len(page):]
	return slices.DeleteFunc(page, func(id string) bool { // dropped meanwhile, or not known what there should be
		n, known := t.devices[id]
		return !known || n == unsure
	})
}

func (s *Redis) lacks(record string) string {
	return "keys " + s.recordKey(record, "*") + " do not have what was written"
}

func isWrongType(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") }

// Lossy has a signal, and why, when the server has less than it was told: Restore writes it again.
func (s *Redis) Lossy() <-chan string { return s.told.lossy }

// Restore writes everything again by rewrite (Book.Rewrite), and then deletes what the server has beside that: what an older state
// brought back. Until it is done, the state counts as not whole.
func (s *Redis) Restore(ctx context.Context, rewrite func(context.Context) error) error {
	s.told.mu.Lock()
	err := s.notWhole(ctx)
	losses := s.told.losses.Load()
	s.told.mu.Unlock()
	if err != nil {
		return err
	}
	if err := rewrite(ctx); err != nil {
		return err
	}
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if s.told.losses.Load() != losses || s.told.whole {
		return nil // it was lost again meanwhile, and there is another signal
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	s.told.whole = true
	p := s.client.Pipeline()
	mark := s.mark(ctx, p)
	_, _ = p.Exec(ctx)
	if err := s.followed(mark.Err()); err != nil {
		s.told.whole = false
		return err
	}
	if mark.Val() != "0" {
		s.lost(ctx, "it went back to another state while everything was written again")
		return nil
	}
	s.told.generation.Store(s.told.number)
	return nil
}

// sweep drops the records that are not known.
func (s *Redis) sweep(ctx context.Context) error {
	ids, err := s.client.SMembers(ctx, s.key("records")).Result()
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { _, known := s.told.devices[id]; return known })
	for page := range slices.Chunk(ids, redisPage) {
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, id := range page {
				s.queue(ctx, p, &recordWrite{record: id, dropped: true})
			}
			return nil
		})
		if err != nil {
			return s.followed(err)
		}
	}
	return nil
}
