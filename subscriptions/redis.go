package subscriptions

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// redisTimeout bounds one call: a Redis that is there answers within milliseconds, and one that hangs must not hold mail.
	redisTimeout = 5 * time.Second
	// redisPage is how many records a Load asks for at once.
	redisPage = 500
	// redisPool bounds the connections: one each for the writer, the lease, health checks, and whoever reads decisions.
	redisPool = 4
)

// Redis is the store in a single Redis server. A write of a record is one script, about the keys of the record, which have one hash tag,
// and about holders and records:
//
//	PREFIX:{ID}:record      the record
//	PREFIX:{ID}:devices     a hash: its devices
//	PREFIX:{ID}:decisions   a list: the last decisions about its mailbox, the oldest first
//	PREFIX:{ID}:fence       the number of the holder (redis_lease.go) that wrote it last; one with a lower number writes no more
//	PREFIX:{ID}:damaged:…   what of these could not be read, as it was
//	PREFIX:records          a set: the ids of the records
//	PREFIX:schema           the version of all this
//	PREFIX:secret           of the installation
//	PREFIX:generation       the number of the last write (redis_loss.go); 0 while the state is not whole
//	PREFIX:lock             who holds the state now; it runs out with the lease
//	PREFIX:until            until when the lease that was granted last could be believed, in milliseconds of the server's clock;
//	                        0: given back
//	PREFIX:holders          the number of the newest holder; each has a higher one than those before
//	PREFIX:{probe}:…        what a probe writes
//
// Changes that wait together go in one round trip. Whoever opens a Redis has to Hold it before anything is loaded or written.
type Redis struct {
	client    *redis.Client
	address   string
	prefix    string
	committer *committer[[]recordWrite]
	sealer    sealer
	probe     *probe
	told      told
	reading   turn // to read decisions, one at a time: thousands of receipts must not take the connections of the lease and the writer

	lease   *lease
	seen    sighting           // of the lease of another
	holding context.CancelFunc // ends the goroutine that keeps the lease
	held    sync.WaitGroup
	fence   uint64
}

// RedisOptions say where the state is kept.
type RedisOptions struct {
	Address string // host:port
	// Login is asked for each connection: a changed password is that of the next one. The name is of an ACL user; both may be empty. nil: there
	// is no password.
	Login  func() (username, password string)
	TLS    *tls.Config
	Prefix string
	// Followed says that this instance held the state before, and does not any more. Another may hold it by now: that one comes first where
	// Redis has lost the lease.
	Followed bool
}

// ErrRedis is wrapped by the error of a Redis that must not be used as it is set: what is written there could be lost.
var ErrRedis = errors.New("redis")

// OpenRedis connects, and looks whether the server keeps what it is given. warnings are for the log.
func OpenRedis(ctx context.Context, o RedisOptions) (s *Redis, warnings []string, err error) {
	s = &Redis{address: o.Address, prefix: o.Prefix, lease: newLease(), sealer: newSealer(), seen: sighting{away: o.Followed}}
	s.told.devices, s.told.lossy = map[string]int{}, make(chan string, 1)
	s.client = redis.NewClient(&redis.Options{
		Addr: o.Address, CredentialsProvider: o.Login, TLSConfig: o.TLS, ClientName: "mailbell",
		DialTimeout: redisTimeout, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: redisPool, PipelinePoolSize: -1, // what failed is tried again by its caller
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	if warnings, err = s.examine(ctx); err != nil {
		return nil, nil, errors.Join(err, s.client.Close())
	}
	s.probe = &probe{try: s.try}
	s.committer = newCommitter(s.commit)
	return s, warnings, nil
}

// examine refuses a server that may drop enrolments when its memory is full, or that has only a part of the state or a copy of it. It warns
// of one that forgets when its process ends.
func (s *Redis) examine(ctx context.Context) (warnings []string, err error) {
	info, err := s.client.InfoMap(ctx).Result() // before version 7 it takes one section at most
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("state.redis: %s: it does not answer in time: %w", s.address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state.redis: %s: %w", s.address, err)
	}
	if info["Cluster"]["cluster_enabled"] == "1" {
		return nil, fmt.Errorf("%w: %s: it is a node of a Redis Cluster, which spreads the state over several servers: name a Redis that is in none", ErrRedis, s.address)
	}
	if policy := info["Memory"]["maxmemory_policy"]; strings.HasPrefix(policy, "allkeys-") {
		return nil, fmt.Errorf("%w: %s: its maxmemory-policy is %s: enrolments could be dropped when its memory is full; set it to noeviction", ErrRedis, s.address, policy)
	}
	if role := info["Replication"]["role"]; role != "" && role != "master" {
		return nil, fmt.Errorf("%w: %s: it is a replica: name the master", ErrRedis, s.address)
	}
	if info["Persistence"]["aof_enabled"] != "1" {
		warnings = append(warnings, "redis at "+s.address+" keeps no append-only file: what was written since its last snapshot is lost when it ends; set appendonly yes")
	}
	return warnings, nil
}

func (s *Redis) key(name string) string { return s.prefix + ":" + name }

// recordKeys are those of one record, in the order of the scripts.
func (s *Redis) recordKeys(id string) []string {
	return []string{s.recordKey(id, "record"), s.recordKey(id, "devices"), s.recordKey(id, "fence")}
}

func (s *Redis) recordKey(id, name string) string { return s.prefix + ":{" + id + "}:" + name }

// Write waits for the next round trip.
func (s *Redis) Write(ctx context.Context, c Change) error {
	writes, err := s.writes(c) // here, and not in the one writer
	if err != nil {
		return err
	}
	return s.committer.write(ctx, writes)
}

// Decisions asks the server.
func (s *Redis) Decisions(ctx context.Context, record string) ([][]byte, error) {
	if err := s.committer.open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if err := s.reading.take(ctx); err != nil {
		return nil, fmt.Errorf("redis at %s: it has not answered others who read: %w", s.address, err)
	}
	defer s.reading.giveBack()
	list, err := s.client.LRange(ctx, s.recordKey(record, "decisions"), 0, -1).Result()
	if err != nil && !isWrongType(err) {
		return nil, fmt.Errorf("redis at %s: %w", s.address, err)
	}
	decisions := make([][]byte, len(list))
	for i, d := range list {
		decisions[i] = []byte(d)
	}
	return decisions, nil
}

// Ping says whether the server takes writes, by one of its own.
func (s *Redis) Ping(ctx context.Context) error {
	if err := s.committer.open(); err != nil {
		return err
	}
	return s.probe.ask(ctx)
}

// try writes what nobody reads, as a record is written.
func (s *Redis) try(ctx context.Context) error {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		loadScripts(ctx, p)
		p.EvalSha(ctx, writeHash, s.recordKeys("probe"), 0, "probe", "{}", "", 0, "probe", "{}")
		return nil
	})
	if err != nil {
		return fmt.Errorf("redis at %s takes no write: %w", s.address, err)
	}
	return nil
}

// Close writes what is queued, gives the lease back and disconnects.
func (s *Redis) Close() error {
	s.committer.close()
	s.release()
	return s.client.Close()
}
