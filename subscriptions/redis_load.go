package subscriptions

// Reading what a Redis holds, once, at the start.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// claimScript takes a record over, and returns it with its devices and their ids. A key of another type is moved away first.
// KEYS: recordKeys; where the record and where the devices are moved, if they are of another type; holders. ARGV: our number.
const claimScript = followedScript + `
local function other(key, kind)
  local is = redis.call('TYPE', key).ok
  return is ~= kind and is ~= 'none'
end
local moved = {}
if followed(KEYS[6]) then return redis.error_reply('` + fenced + `') end
if other(KEYS[1], 'string') then redis.call('RENAME', KEYS[1], KEYS[4]) moved[#moved+1] = KEYS[4] end
if other(KEYS[2], 'hash') then redis.call('RENAME', KEYS[2], KEYS[5]) moved[#moved+1] = KEYS[5] end
local record, devices = redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[2])
if record or #devices > 0 then redis.call('SET', KEYS[3], ARGV[1]) end -- also over a higher number of before holders was lost
return {moved, record or '', devices}`

// asideScript moves a value away: KEYS: recordKeys; where it is kept. ARGV: our number; the id of a device, or "" for the record.
const asideScript = `
if tonumber(redis.call('GET', KEYS[3]) or 0) > tonumber(ARGV[1]) then return redis.error_reply('` + fenced + `') end
if ARGV[2] == '' then return redis.call('RENAME', KEYS[1], KEYS[4]) end
local value = redis.call('HGET', KEYS[2], ARGV[2])
if value then redis.call('SET', KEYS[4], value) end
return redis.call('HDEL', KEYS[2], ARGV[2])`

// Load takes every record over and returns it.
func (s *Redis) Load(ctx context.Context) (all Contents, err error) {
	version, err := s.version(ctx, &all)
	if err != nil {
		return all, fmt.Errorf("redis at %s: %w", s.address, err)
	}
	ids, err := s.client.SMembers(ctx, s.key("records")).Result()
	switch {
	case isWrongType(err):
		return all, fmt.Errorf("redis at %s: %w: key %s is no set; %s", s.address, ErrDamaged, s.key("records"), s.anew())
	case err != nil:
		return all, err
	}
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	clear(s.told.devices)
	for page := range slices.Chunk(ids, redisPage) {
		if err := s.claim(ctx, version, page, &all); err != nil {
			return all, err
		}
	}
	if version < schema {
		if err := s.migrate(ctx, all); err != nil {
			return all, fmt.Errorf("migrating the state in redis from version %d to %d: %w", version, schema, err)
		}
		all.MigratedFrom = version
	}
	s.told.secret, s.told.whole = all.Secret, true
	return all, s.begin(ctx, !all.New && version == schema, &all)
}

// version says which one the state has, and reads the secret. A state that is empty gets one.
func (s *Redis) version(ctx context.Context, all *Contents) (int, error) {
	got, err := s.client.MGet(ctx, s.key("schema"), s.key("secret")).Result()
	if err != nil {
		return 0, err
	}
	version := schema
	written, known := got[1].(string)
	if text, ok := got[0].(string); ok {
		if version, err = schemaOf([]byte(text)); err != nil {
			return 0, err
		}
	} else if len(written) == len(all.Secret) {
		version = 1
	}
	if !known {
		if n, err := s.client.SCard(ctx, s.key("records")).Result(); err != nil && !isWrongType(err) || n > 0 {
			missing := fmt.Errorf("%w: there are %d records, and no secret of the installation; %s", ErrDamaged, n, s.anew())
			return 0, errors.Join(err, missing)
		}
		rand.Read(all.Secret[:])
		all.New = true
		return schema, nil
	}
	if all.Secret, err = readSecret(version, []byte(written)); err != nil {
		return 0, fmt.Errorf("%w; %s", err, s.anew())
	}
	return version, nil
}

// anew is what helps where the secret is lost.
func (s *Redis) anew() string {
	return fmt.Sprintf("nothing was changed; restore a copy, or delete the keys %s:* to begin anew: "+
		"then every device has to be enrolled again", s.prefix)
}

// begin writes what is no record's, and begins to number the writes. isNumbered: the state had numbers before, and without one it is not
// whole.
func (s *Redis) begin(ctx context.Context, isNumbered bool, all *Contents) error {
	text, err := s.client.Get(ctx, s.key("generation")).Result()
	if err != nil && !errors.Is(err, redis.Nil) && !isWrongType(err) {
		return err
	}
	generation, _ := strconv.ParseInt(text, 10, 64)
	if generation < 1 {
		generation = 1
		if isNumbered {
			all.Damaged = append(all.Damaged, Damaged{What: "state in redis at " + s.address, Err: errNotWhole})
		}
	}
	if err := s.installation(ctx, generation); err != nil {
		return err
	}
	s.told.number = generation
	s.told.newest.Store(generation)
	s.told.generation.Store(generation)
	s.told.loaded.Store(true)
	return nil
}

// installScript writes what is no record's. Where the key records is of another type, it is none of ours, and in the way.
// KEYS: holders, secret, schema, generation, records. ARGV: our number, and the values.
const installScript = followedScript + `
if followed(KEYS[1]) then return redis.error_reply('` + fenced + `') end
if redis.call('TYPE', KEYS[5]).ok ~= 'set' then redis.call('DEL', KEYS[5]) end
return redis.call('MSET', KEYS[2], ARGV[2], KEYS[3], ARGV[3], KEYS[4], ARGV[4])`

// installation writes what is no record's.
func (s *Redis) installation(ctx context.Context, generation int64) error {
	secret, err := seal(kindSecret, "", s.told.secret[:])
	if err != nil {
		return err
	}
	keys := []string{s.key("holders"), s.key("secret"), s.key("schema"), s.key("generation"), s.key("records")}
	return s.followed(s.client.Eval(ctx, installScript, keys, s.fence, secret, schema, generation).Err())
}

func (s *Redis) claim(ctx context.Context, version int, ids []string, all *Contents) error {
	stamp := time.Now().UTC().Format("20060102T150405.000000000")
	calls := make([]*redis.Cmd, len(ids))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			keys := append(s.recordKeys(id), s.recordKey(id, "damaged:record:"+stamp), s.recordKey(id, "damaged:devices:"+stamp), s.key("holders"))
			calls[i] = p.Eval(ctx, claimScript, keys, s.fence)
		}
		return nil
	})
	if err != nil {
		return s.followed(err)
	}
	for i, call := range calls {
		c, err := readClaim(call)
		if err != nil {
			return err
		}
		if err := s.readClaimed(ctx, version, ids[i], stamp, c, all); err != nil {
			return err
		}
	}
	return nil
}

// claimed is what claimScript answers.
type claimed struct {
	moved   []string
	record  string
	devices map[string]string
}

func readClaim(call *redis.Cmd) (c claimed, err error) {
	parts, err := call.Slice()
	if err != nil || len(parts) != 3 {
		return c, errors.Join(err, fmt.Errorf("redis answered %d parts of a record", len(parts)))
	}
	texts := func(v any) (list []string) {
		values, _ := v.([]any)
		for _, v := range values {
			text, _ := v.(string)
			list = append(list, text)
		}
		return list
	}
	c.moved, c.devices = texts(parts[0]), map[string]string{}
	c.record, _ = parts[1].(string)
	for pair := range slices.Chunk(texts(parts[2]), 2) {
		c.devices[pair[0]] = pair[len(pair)-1]
	}
	return c, nil
}

// readClaimed reads what belongs to a record. What cannot be read is moved away.
func (s *Redis) readClaimed(ctx context.Context, version int, id, stamp string, c claimed, all *Contents) error {
	record := fmt.Sprintf("record %q", id)
	for _, key := range c.moved {
		all.Damaged = append(all.Damaged, Damaged{record, "key " + key, errors.New("a key of it was of another type")})
	}
	if c.record == "" && len(c.devices) == 0 {
		if len(c.moved) == 0 {
			all.Damaged = append(all.Damaged, Damaged{What: record, Err: errors.New("its keys are gone, and its devices with them")})
		}
		return s.client.SRem(ctx, s.key("records"), id).Err()
	}
	aside := func(what, name, device string, err error) error {
		key := s.recordKey(id, "damaged:"+name+":"+stamp)
		all.Damaged = append(all.Damaged, Damaged{what, "key " + key, err})
		return s.followed(s.client.Eval(ctx, asideScript, append(s.recordKeys(id), key), s.fence, device).Err())
	}
	if c.record != "" {
		r, err := readRecord(version, id, []byte(c.record))
		if err == nil {
			all.Records = append(all.Records, r)
		} else if err := aside(record, "record", "", err); err != nil {
			return err
		}
	}
	n := 0
	for _, device := range slices.Sorted(maps.Keys(c.devices)) {
		d, err := readDevice(version, device, []byte(c.devices[device]))
		if err == nil && d.Record != id {
			err = fmt.Errorf("it is a device of the record %q", d.Record)
		}
		if err == nil {
			all.Devices = append(all.Devices, d)
			n++
		} else if err := aside(fmt.Sprintf("device %q", device), "device:"+device, device, err); err != nil {
			return err
		}
	}
	s.told.devices[id] = n
	return nil
}

// migrate writes every record as this version does.
func (s *Redis) migrate(ctx context.Context, all Contents) error {
	devices := map[string][]*Device{}
	for _, d := range all.Devices {
		devices[d.Record] = append(devices[d.Record], d)
	}
	for page := range slices.Chunk(all.Records, redisPage) {
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			loadScripts(ctx, p) // a server that was started anew does not have them
			for _, r := range page {
				writes, err := s.writes(Change{Put: []*Record{r}, PutDevices: devices[r.ID], Whole: true})
				if err != nil {
					return err
				}
				s.queue(ctx, p, &writes[0])
			}
			return nil
		})
		if err != nil {
			return s.followed(err)
		}
	}
	return nil
}
