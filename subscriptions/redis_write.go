package subscriptions

// Writing to Redis.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// fenced is what the scripts answer whom another holder has followed.
const fenced = "FENCED"

// writeScript writes a record and its devices, and returns how many devices it had (-1: there was no record, or another type) and has. KEYS:
// recordKeys. ARGV: our number; the record, or "" where it is dropped, or "-" where it stays; "whole" where the devices that follow
// are all that it has; then for each device its id and value, or "" where it is dropped.
const writeScript = textScript + `
local fence = text(KEYS[3])
if fence and (tonumber(fence) or 0) > tonumber(ARGV[1]) then return redis.error_reply('` + fenced + `') end
local had = redis.pcall('HLEN', KEYS[2])
if type(had) ~= 'number' or redis.call('EXISTS', KEYS[1]) == 0 then had = -1 end
if ARGV[3] == 'whole' then redis.call('DEL', KEYS[2]) end
for i = 4, #ARGV, 2 do
  if ARGV[i+1] == '' then redis.call('HDEL', KEYS[2], ARGV[i]) else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i+1]) end
end
if ARGV[2] == '' then redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) return {had, 0} end
if ARGV[2] ~= '-' then redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('SET', KEYS[3], ARGV[1])
return {had, redis.call('HLEN', KEYS[2])}`

// writeHash is the name that a server gives writeScript: a commit brings the text once, and not with each record.
var writeHash = redis.NewScript(writeScript).Hash()

// commit writes a batch in one round trip. A change of several records is a transaction of its own: a device that changes its
// mailbox must not be in two, or in none.
func (s *Redis) commit(batch []Change) []error {
	ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
	defer cancel()
	s.told.mu.Lock()
	defer s.told.mu.Unlock()

	errs := make([]error, len(batch))
	writes := make([][]*recordWrite, len(batch))
	p := s.client.Pipeline()
	p.ScriptLoad(ctx, writeScript) // each time: a server that was restarted does not have it
	asked := false
	for i, c := range batch {
		if writes[i], errs[i] = s.writes(c); errs[i] == nil && !asked && slices.ContainsFunc(writes[i], s.isNew) {
			errs[i] = s.leading(ctx)
			asked = errs[i] == nil
		}
		switch {
		case errs[i] != nil:
		case len(writes[i]) == 1:
			s.queue(ctx, p, writes[i][0])
		case len(writes[i]) > 1:
			_, _ = p.Exec(ctx) // what was queued before comes before; the script always
			_, errs[i] = s.client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
				for _, w := range writes[i] {
					s.queue(ctx, tx, w)
				}
				return nil
			})
		}
	}
	number := s.mark(ctx, p)
	_, _ = p.Exec(ctx) // each call has its own error
	missing := ""
	var dropped []any
	for i := range batch {
		for _, w := range writes[i] {
			lacks, err := s.took(w)
			missing = cmp.Or(missing, lacks)
			errs[i] = errors.Join(errs[i], err)
			if err == nil && w.call != nil && w.value == "" {
				dropped = append(dropped, w.record)
			}
		}
		errs[i] = s.followed(errs[i])
	}
	if number != nil && s.followed(number.Err()) == nil {
		missing = cmp.Or(missing, s.older(number.Val(), s.told.generation.Load()))
		s.told.generation.Store(s.told.number)
	}
	if len(dropped) > 0 { // only now: where a drop was refused, the record is there
		s.client.SRem(ctx, s.key("records"), dropped...)
	}
	if missing != "" { // by now the server has this write, and the next look at it would not see what it has not
		s.lost(ctx, missing)
	}
	if errors.Join(errs...) == nil {
		return nil
	}
	s.probe.forget()
	return errs
}

// took notes what a write has come to, and says what the server lacked before it.
func (s *Redis) took(w *recordWrite) (lacks string, err error) {
	if w.call == nil { // not queued
		return "", nil
	}
	had, has, err := w.answer()
	known, ok := s.told.devices[w.record]
	if s.told.whole && ok && (isWrongType(err) || err == nil && had != known) {
		lacks = s.lacks(w.record)
	}
	if err != nil || w.value == "" { // with an error, what the server has of it is not known
		delete(s.told.devices, w.record)
	} else {
		s.told.devices[w.record] = has
	}
	return lacks, err
}

// isNew says whether the server may not know a record yet.
func (s *Redis) isNew(w *recordWrite) bool {
	_, known := s.told.devices[w.record]
	return !known && w.value != ""
}

// leading says whether nobody has followed us. A new record has no number yet that could tell.
func (s *Redis) leading(ctx context.Context) error {
	n, err := s.client.Get(ctx, s.key("holders")).Uint64()
	switch {
	case err != nil && !errors.Is(err, redis.Nil): // a server that lost everything is filled again by keep
		return err
	case n > s.fence:
		return s.followed(errors.New(fenced))
	}
	return nil
}

// recordWrite is one call of writeScript.
type recordWrite struct {
	record string
	value  string // "" where the record is dropped, "-" where it stays
	whole  string // "whole", or ""
	args   []any  // device ids and values
	call   *redis.Cmd
}

// answer is what writeScript returns.
func (w *recordWrite) answer() (had, has int, err error) {
	n, err := w.call.Int64Slice()
	if err == nil && len(n) != 2 {
		err = fmt.Errorf("redis answered %d numbers to a write", len(n))
	}
	if err != nil {
		return 0, 0, err
	}
	return int(n[0]), int(n[1]), nil
}

// writes sorts a change by record.
func (s *Redis) writes(c Change) (list []*recordWrite, err error) {
	at := func(id string) *recordWrite {
		if i := slices.IndexFunc(list, func(w *recordWrite) bool { return w.record == id }); i >= 0 {
			return list[i]
		}
		w := &recordWrite{record: id, value: "-"}
		list = append(list, w)
		return w
	}
	encode := func(k kind, id string, v any) string {
		data, e := seal(k, id, v)
		err = errors.Join(err, e)
		return string(data)
	}
	for _, r := range c.Put {
		w := at(r.ID)
		w.value = encode(kindRecord, r.ID, r)
		if c.Whole {
			w.whole = "whole"
		}
	}
	for _, d := range c.DropDevices {
		w := at(d.Record)
		w.args = append(w.args, d.ID, "")
	}
	for _, d := range c.PutDevices {
		w := at(d.Record)
		w.args = append(w.args, d.ID, encode(kindDevice, d.ID, d))
	}
	for _, id := range c.Drop {
		at(id).value = ""
	}
	return list, err
}

// queue puts a write into a pipeline: the id of a new record comes into the set of all first.
func (s *Redis) queue(ctx context.Context, p redis.Pipeliner, w *recordWrite) {
	if s.isNew(w) {
		p.SAdd(ctx, s.key("records"), w.record)
	}
	w.call = p.EvalSha(ctx, writeHash, s.recordKeys(w.record), append([]any{s.fence, w.value, w.whole}, w.args...)...)
}

// followed sees to it that who was followed by another holder learns of it, whatever call it is that tells.
func (s *Redis) followed(err error) error {
	if err != nil && strings.Contains(err.Error(), fenced) {
		s.lease.follow()
		return ErrFollowed
	}
	return err
}
