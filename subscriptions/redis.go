package subscriptions

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/mailbell/mailbell/mail"
)

const (
	// redisTimeout bounds one call: a Redis that is there answers within milliseconds, and one that hangs must not hold mail.
	redisTimeout = 5 * time.Second
	// redisPage is how many records a Load asks for at once.
	redisPage = 500
	// redisPool bounds the connections: the writer's, the lock's, a health check's, and one to spare.
	redisPool = 4
)

// Redis is the store in a Redis server. The keys of a record have one hash tag, so that its write is one script on one slot of a cluster:
//
//	PREFIX:{ID}:record    the record
//	PREFIX:{ID}:devices   a hash: its devices
//	PREFIX:{ID}:fence     the number of the holder (lock.go) who wrote it last; one with a lower number writes no more
//	PREFIX:records        a set: the ids of the records; an id may be there whose record is gone
//	PREFIX:secret         of the installation
//	PREFIX:lock           who holds the state now; it runs out with the lease
//	PREFIX:until          until when the lease that was granted last could be believed, in milliseconds of the server's clock; 0: given back
//	PREFIX:holders        how many have held it: the number of the newest
//
// Changes that wait together go in one round trip. Whoever opens a Redis has to Hold it before anything is loaded or written.
type Redis struct {
	client    *redis.Client
	prefix    string
	committer *committer[Change]
	known     map[string]bool // ids in PREFIX:records; Load's, and then the committer's own

	lease   *lease
	holding context.CancelFunc // ends the goroutine that keeps the lease
	held    sync.WaitGroup
	fence   uint64

	secret    mail.Secret
	server    string        // the run id of the server; keep's own
	restarted chan struct{} // holds one signal: the server was started anew, and may know less than it was told
	forget    atomic.Bool   // the same, for the committer: known is not to be trusted
}

// RedisOptions say where the state is kept.
type RedisOptions struct {
	Address            string // host:port
	Username, Password string // of an ACL user; both may be empty
	TLS                *tls.Config
	Prefix             string
}

// ErrRedis is wrapped by the error of a Redis that must not be used as it is set: what is written there could be lost.
var ErrRedis = errors.New("redis")

// OpenRedis connects, and looks whether the server keeps what it is given. warnings are for the log.
func OpenRedis(ctx context.Context, o RedisOptions) (s *Redis, warnings []string, err error) {
	s = &Redis{prefix: o.Prefix, known: map[string]bool{}, lease: newLease(), restarted: make(chan struct{}, 1)}
	s.client = redis.NewClient(&redis.Options{
		Addr: o.Address, Username: o.Username, Password: o.Password, TLSConfig: o.TLS, ClientName: "mailbell",
		DialTimeout: redisTimeout, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: redisPool, PipelinePoolSize: -1, // what failed is tried again by who knows what it is
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	if warnings, err = s.examine(ctx, o.Address); err != nil {
		return nil, nil, errors.Join(err, s.client.Close())
	}
	s.committer = newCommitter(s.commit)
	return s, warnings, nil
}

// examine refuses a server that may drop enrolments when its memory is full, and warns of one that forgets with its process.
func (s *Redis) examine(ctx context.Context, address string) (warnings []string, err error) {
	info, err := s.client.InfoMap(ctx, "memory", "persistence", "replication").Result()
	if err != nil {
		return nil, fmt.Errorf("state.redis: %s: %w", address, err)
	}
	if policy := info["Memory"]["maxmemory_policy"]; strings.HasPrefix(policy, "allkeys-") {
		return nil, fmt.Errorf("%w: %s: its maxmemory-policy is %s: enrolments could be dropped when its memory is full; set it to noeviction", ErrRedis, address, policy)
	}
	if role := info["Replication"]["role"]; role != "" && role != "master" {
		return nil, fmt.Errorf("%w: %s: it is a replica: name the master", ErrRedis, address)
	}
	if info["Persistence"]["aof_enabled"] != "1" {
		warnings = append(warnings, "redis at "+address+" keeps no append-only file: what was written since its last snapshot is lost when it ends; set appendonly yes")
	}
	return warnings, nil
}

func (s *Redis) key(name string) string { return s.prefix + ":" + name }

// recordKeys are those of one record, in the order of the scripts.
func (s *Redis) recordKeys(id string) []string {
	tag := s.prefix + ":{" + id + "}:"
	return []string{tag + "record", tag + "devices", tag + "fence"}
}

// fenced is what the scripts answer whom another holder has followed.
const fenced = "FENCED"

// writeScript writes a record and its devices. KEYS: recordKeys. ARGV: our number; the record, or "" where it is dropped, or "-"
// where it stays; then for each device its id and value, or "" where it is dropped.
const writeScript = `
local fence = redis.call('GET', KEYS[3])
if fence and tonumber(fence) > tonumber(ARGV[1]) then return redis.error_reply('` + fenced + `') end
for i = 3, #ARGV, 2 do
  if ARGV[i+1] == '' then redis.call('HDEL', KEYS[2], ARGV[i]) else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i+1]) end
end
if ARGV[2] == '' then redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) return 0 end
if ARGV[2] ~= '-' then redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('SET', KEYS[3], ARGV[1])
return 0`

// claimScript takes a record over, and returns it with its devices.
const claimScript = `
local record = redis.call('GET', KEYS[1])
if not record then return {} end
local fence = redis.call('GET', KEYS[3])
if fence and tonumber(fence) > tonumber(ARGV[1]) then return redis.error_reply('` + fenced + `') end
redis.call('SET', KEYS[3], ARGV[1])
local all = redis.call('HVALS', KEYS[2])
table.insert(all, 1, record)
return all`

// Load takes every record over and returns it.
func (s *Redis) Load(ctx context.Context) (all Contents, err error) {
	fresh := make([]byte, len(all.Secret))
	rand.Read(fresh)
	if err := s.client.SetNX(ctx, s.key("secret"), fresh, 0).Err(); err != nil {
		return all, err
	}
	secret, err := s.client.Get(ctx, s.key("secret")).Bytes()
	if err != nil {
		return all, err
	}
	if copy(all.Secret[:], secret) != len(all.Secret) {
		return all, errors.New("the secret of the installation is damaged")
	}
	s.secret = all.Secret
	ids, err := s.client.SMembers(ctx, s.key("records")).Result()
	if err != nil {
		return all, err
	}
	for page := range slices.Chunk(ids, redisPage) {
		if err := s.claim(ctx, page, &all); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (s *Redis) claim(ctx context.Context, ids []string, all *Contents) error {
	calls := make([]*redis.Cmd, len(ids))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			calls[i] = p.Eval(ctx, claimScript, s.recordKeys(id), s.fence)
		}
		return nil
	})
	if err != nil {
		return s.told(err)
	}
	for i, call := range calls {
		values, err := call.StringSlice()
		if err != nil {
			return err
		}
		if len(values) == 0 { // dropped
			if err := s.client.SRem(ctx, s.key("records"), ids[i]).Err(); err != nil {
				return err
			}
			continue
		}
		r := new(Record)
		if err := json.Unmarshal([]byte(values[0]), r); err != nil {
			return fmt.Errorf("record %q cannot be read: %w", ids[i], err)
		}
		s.known[r.ID] = true
		all.Records = append(all.Records, r)
		for _, v := range values[1:] {
			d := new(Device)
			if err := json.Unmarshal([]byte(v), d); err != nil {
				return fmt.Errorf("a device of record %q cannot be read: %w", ids[i], err)
			}
			all.Devices = append(all.Devices, d)
		}
	}
	return nil
}

// Write waits for the next round trip.
func (s *Redis) Write(ctx context.Context, c Change) error { return s.committer.write(ctx, c) }

// commit writes a batch in one round trip. A change of several records is a transaction of its own: a device that changes its
// mailbox must not be in two, or in none.
func (s *Redis) commit(batch []Change) []error {
	ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
	defer cancel()
	if s.forget.Swap(false) {
		clear(s.known)
	}
	errs := make([]error, len(batch))
	calls := make([]*redis.Cmd, len(batch))
	var together []int
	p := s.client.Pipeline()
	for i, c := range batch {
		writes, err := s.writes(c)
		if slices.ContainsFunc(writes, func(w *recordWrite) bool { return w.value != "" && !s.known[w.record] }) {
			err = errors.Join(err, s.leading(ctx))
		}
		switch {
		case err != nil:
			errs[i] = err
		case len(writes) == 1:
			calls[i] = s.queue(ctx, p, writes[0])
			together = append(together, i)
		case len(writes) > 1:
			_, err := s.client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
				for _, w := range writes {
					s.queue(ctx, tx, w)
				}
				return nil
			})
			errs[i] = s.told(err)
		}
	}
	if len(together) > 0 {
		_, _ = p.Exec(ctx) // each call has its own error
	}
	failed := false
	for i, c := range batch {
		if calls[i] != nil {
			errs[i] = s.told(calls[i].Err())
		}
		if errs[i] != nil { // whether the id of a new record got into the set of all is not known
			failed = true
			for _, r := range c.Put {
				delete(s.known, r.ID)
			}
		}
	}
	if !failed {
		return nil
	}
	return errs
}

// leading says whether nobody has followed us. A new record has no number yet that could tell.
func (s *Redis) leading(ctx context.Context) error {
	n, err := s.client.Get(ctx, s.key("holders")).Uint64()
	switch {
	case err != nil && !errors.Is(err, redis.Nil): // a server that lost everything is filled again by keep
		return err
	case n > s.fence:
		return s.told(errors.New(fenced))
	}
	return nil
}

// recordWrite is one call of writeScript.
type recordWrite struct {
	record string
	value  string // "" where the record is dropped, "-" where it stays
	args   []any  // device ids and values
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
	encode := func(v any) string {
		data, e := json.Marshal(v)
		err = errors.Join(err, e)
		return string(data)
	}
	for _, r := range c.Put {
		at(r.ID).value = encode(r)
	}
	for _, d := range c.DropDevices {
		w := at(d.Record)
		w.args = append(w.args, d.ID, "")
	}
	for _, d := range c.PutDevices {
		w := at(d.Record)
		w.args = append(w.args, d.ID, encode(d))
	}
	for _, id := range c.Drop {
		at(id).value = ""
	}
	return list, err
}

// queue puts a write into a pipeline: the id of a new record comes into the set of all first.
func (s *Redis) queue(ctx context.Context, p redis.Pipeliner, w *recordWrite) *redis.Cmd {
	if w.value != "" && !s.known[w.record] {
		s.known[w.record] = true
		p.SAdd(ctx, s.key("records"), w.record)
	}
	call := p.Eval(ctx, writeScript, s.recordKeys(w.record), append([]any{s.fence, w.value}, w.args...)...)
	if w.value == "" { // its id stays in the set until the next Load: taken out here, it would be gone also where the drop is refused
		delete(s.known, w.record)
	}
	return call
}

// told sees to it that who was followed by another holder learns of it, whatever call it is that tells.
func (s *Redis) told(err error) error {
	if err != nil && strings.Contains(err.Error(), fenced) {
		s.lease.follow()
		return ErrFollowed
	}
	return err
}

// Ping asks the server.
func (s *Redis) Ping(ctx context.Context) error {
	if err := s.committer.open(); err != nil {
		return err
	}
	return s.client.Ping(ctx).Err()
}

// Close writes what is queued, gives the lease back and disconnects.
func (s *Redis) Close() error {
	s.committer.close()
	s.release()
	return s.client.Close()
}
