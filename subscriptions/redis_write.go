package subscriptions

// Writing to Redis.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// fenced is what the scripts answer whom another holder has followed.
const fenced = "FENCED"

// writeScript writes a record, its devices and what was decided, and returns how many devices it had (-1: there was no record, or another
// type) and has. KEYS: recordKeys; holders: whoever was followed writes nothing, also no record that nobody else has written yet; the
// decisions; records, where the record is new or dropped. ARGV: our number; the id of the record; the record, or "" where it is dropped, or "-" where it
// stays; "whole" where the devices that follow are all that it has; how many decisions there are; for each of them the one that it replaces,
// "" where it is new, and itself, which stands there once (Decided.On); then for each device its id and value, or "" where it is dropped.
var writeScript = `
local is = redis.call('MGET', KEYS[1], KEYS[3], KEYS[4] or KEYS[3]) -- one of another type is none
if math.max(tonumber(is[2] or 0) or 0, tonumber(is[3] or 0) or 0) > tonumber(ARGV[1]) then return redis.error_reply('` + fenced + `') end
local decisions, devices = 6, 6 + 2 * tonumber(ARGV[5])
local had = redis.pcall('HLEN', KEYS[2])
local has = type(had) == 'number' and had or 0
if type(had) ~= 'number' or not is[1] then had = -1 end
if had == -1 and ARGV[3] == '-' and #ARGV < devices then return {had, 0} end
if ARGV[4] == 'whole' then redis.call('DEL', KEYS[2]) has = 0 end
for i = devices, #ARGV, 2 do
  if ARGV[i+1] == '' then has = has - redis.call('HDEL', KEYS[2], ARGV[i]) else has = has + redis.call('HSET', KEYS[2], ARGV[i], ARGV[i+1]) end
end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[5])
  redis.pcall('SREM', KEYS[6], ARGV[2])
  return {had, 0}
end
local set = {}
if ARGV[3] ~= '-' then set = {KEYS[1], ARGV[3]} end
if is[2] ~= ARGV[1] then set[#set+1] = KEYS[3] set[#set+1] = ARGV[1] end
if #set > 0 then redis.call('MSET', unpack(set)) end
if KEYS[6] then redis.pcall('SADD', KEYS[6], ARGV[2]) end -- after a write that says where memory is lacking
if devices > decisions then
  local function place(decision)
    local at = redis.pcall('LPOS', KEYS[5], decision)
    return type(at) == 'number' and at -- before version 6.0.6 there is no LPOS: there a decision may stand twice
  end
  local count = redis.pcall('LLEN', KEYS[5])
  if type(count) ~= 'number' then redis.call('DEL', KEYS[5]) count = 0 end
  for i = decisions, devices - 1, 2 do
    local was, is = ARGV[i] ~= '' and place(ARGV[i]), place(ARGV[i+1])
    if ARGV[i] == '' and not is then count = redis.call('RPUSH', KEYS[5], ARGV[i+1]) end
    if was then redis.call('LSET', KEYS[5], was, ARGV[i+1]) end
    if was and is then redis.call('LREM', KEYS[5], 1, ARGV[i+1]) end
  end
  if count > ` + keptDecisions + ` then redis.call('LTRIM', KEYS[5], -` + keptDecisions + `, -1) end
end
return {had, has}`

var keptDecisions = strconv.Itoa(MaxDecisions)

// writeHash and markHash are the names that a server gives the scripts of a commit.
var writeHash, markHash = redis.NewScript(writeScript).Hash(), redis.NewScript(markScript).Hash()

// commit writes a batch in one round trip, and in three where the server does not know the scripts: it was restarted, or another has
// taken its place.
func (s *Redis) commit(batch [][]recordWrite) []error {
	ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
	defer cancel()
	s.told.mu.Lock()
	defer s.told.mu.Unlock()

	errs, number := s.send(ctx, batch)
	if scriptless(batch, number) {
		p := s.client.Pipeline()
		loadScripts(ctx, p)
		_, _ = p.Exec(ctx) // where that failed, the batch fails again
		errs, number = s.send(ctx, batch)
	}
	missing := ""
	for i, writes := range batch {
		for j := range writes {
			w := &writes[j]
			lacks, err := s.took(w)
			missing = cmp.Or(missing, lacks)
			errs[i] = errors.Join(errs[i], err)
			if w.value != nil {
				s.sealer.buffers.GiveBack(w.value)
			}
		}
		errs[i] = s.followed(errs[i])
	}
	if number != nil && s.followed(number.Err()) == nil {
		missing = cmp.Or(missing, s.older(number.Val(), s.told.generation.Load()))
		s.told.generation.Store(s.told.number)
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

// loadScripts gives a server the scripts of a commit: always both, so that it never knows only one.
func loadScripts(ctx context.Context, p redis.Pipeliner) {
	p.ScriptLoad(ctx, writeScript)
	p.ScriptLoad(ctx, markScript)
}

// scriptless says that the server did not know a script.
func scriptless(batch [][]recordWrite, number *redis.Cmd) bool {
	unknown := func(c *redis.Cmd) bool { return redis.HasErrorPrefix(c.Err(), "NOSCRIPT") }
	for _, writes := range batch {
		for _, w := range writes {
			if unknown(w.call) {
				return true
			}
		}
	}
	return number != nil && unknown(number)
}

// send sends a batch, and numbers it. A change of several records is a transaction of its own: a device that changes its mailbox must not
// be in two, or in none.
func (s *Redis) send(ctx context.Context, batch [][]recordWrite) (errs []error, number *redis.Cmd) {
	errs = make([]error, len(batch))
	p := s.client.Pipeline()
	for i, writes := range batch {
		if len(writes) == 1 {
			s.queue(ctx, p, &writes[0])
			continue
		}
		_, _ = p.Exec(ctx) // what was queued before comes before
		_, errs[i] = s.client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
			for j := range writes {
				s.queue(ctx, tx, &writes[j])
			}
			return nil
		})
	}
	number = s.mark(ctx, p)
	_, _ = p.Exec(ctx) // each call has its own error
	return errs, number
}

// took notes what a write has come to, and says what the server lacked before it.
func (s *Redis) took(w *recordWrite) (lacks string, err error) {
	had, has, err := w.answer()
	known, ok := s.told.devices[w.record]
	if s.told.whole && ok && known != unsure && (isWrongType(err) || err == nil && had != known) {
		lacks = s.lacks(w.record)
	}
	switch {
	case err != nil && ok && !w.decisionsOnly(): // it is ours all the same: nothing is to sweep it away
		s.told.devices[w.record] = unsure
	case err != nil:
	case w.dropped:
		delete(s.told.devices, w.record)
	case ok || !w.decisionsOnly():
		s.told.devices[w.record] = has
	}
	return lacks, err
}

// recordWrite is one call of writeScript.
type recordWrite struct {
	record  string
	value   *bytes.Buffer // of the record; nil where it stays as it is
	dropped bool          // the record, with its devices
	whole   bool          // the devices are all that it has
	devices []any         // ids and values; "" where one is dropped
	decided []DecisionPut
	call    *redis.Cmd
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
func (s *Redis) writes(c Change) ([]recordWrite, error) {
	list := make([]recordWrite, 0, len(c.Put)+len(c.Drop))
	of := func(id string) *recordWrite {
		for i := range list {
			if list[i].record == id {
				return &list[i]
			}
		}
		list = append(list, recordWrite{record: id})
		return &list[len(list)-1]
	}
	for _, r := range c.Put {
		value, err := s.sealer.fill(kindRecord, r.ID, r)
		if err != nil {
			return nil, err
		}
		w := of(r.ID)
		w.value, w.whole = value, c.Whole
	}
	for _, d := range c.DropDevices {
		w := of(d.Record)
		w.devices = append(w.devices, d.ID, "")
	}
	for _, d := range c.PutDevices {
		value, err := s.sealer.seal(kindDevice, d.ID, d)
		if err != nil {
			return nil, err
		}
		w := of(d.Record)
		w.devices = append(w.devices, d.ID, value)
	}
	for _, id := range c.Drop {
		of(id).dropped = true
	}
	if len(c.Decided.Decisions) > 0 {
		of(c.Decided.Record).decided = c.Decided.Decisions
	}
	return list, nil
}

// queue puts a write into a pipeline.
func (s *Redis) queue(ctx context.Context, p redis.Pipeliner, w *recordWrite) {
	args := make([]any, 0, 14+2*len(w.decided)+len(w.devices))
	args = append(args, "evalsha", writeHash, 5)
	for _, key := range s.recordKeys(w.record) {
		args = append(args, key)
	}
	args = append(args, s.key("holders"), s.recordKey(w.record, "decisions"))
	if n, known := s.told.devices[w.record]; w.dropped || (!known || n == unsure) && !w.decisionsOnly() {
		args = append(args, s.key("records"))
		args[2] = 6 // keys
	}
	args = append(args, s.fence, w.record)
	switch {
	case w.dropped:
		args = append(args, "")
	case w.value == nil:
		args = append(args, "-")
	default:
		args = append(args, w.value.Bytes())
	}
	if w.whole {
		args = append(args, "whole")
	} else {
		args = append(args, "")
	}
	args = append(args, len(w.decided))
	for _, d := range w.decided {
		args = append(args, d.Was, d.Is)
	}
	w.call = p.Do(ctx, append(args, w.devices...)...)
}

// decisionsOnly says that the write is of decisions alone: it makes no record.
func (w *recordWrite) decisionsOnly() bool { return w.value == nil && len(w.devices) == 0 }

// followed sees to it that who was followed by another holder learns of it, whatever call it is that tells.
func (s *Redis) followed(err error) error {
	if err != nil && strings.Contains(err.Error(), fenced) {
		s.lease.follow()
		return ErrFollowed
	}
	return err
}
