package subscriptions

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Crash ends a store as a kill would: nothing is written any more, and the lock is not given back.
func (s *Redis) Crash() {
	s.client.Close()
	s.release()
	s.committer.close()
}

// Kept is when the last renewal of the lease that was granted was asked for.
func (s *Redis) Kept() time.Time {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	return s.lease.granted.wall
}

// Ask asks for a renewal of the lease, whose answer comes with a call of answered.
func (s *Redis) Ask() (answered func(generation string)) {
	asked := s.told.before()
	return func(generation string) { s.compare(context.Background(), generation, asked) }
}

// BuryOne buries a mailbox that was dead when it was looked at.
func (b *Book) BuryOne(ctx context.Context, m *Mailbox, now time.Time) error {
	return b.bury(ctx, m, now)
}

// All are the mailboxes, also those that are asleep.
func (b *Book) All() []*Mailbox { return b.all() }

// Trips counts the round trips from now on, without those of the lease and of looking for losses.
func (s *Redis) Trips() *atomic.Int64 {
	t := &trips{}
	s.client.AddHook(t)
	return &t.n
}

type trips struct{ n atomic.Int64 }

func (*trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "eval" {
			t.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

// Readers counts those who read decisions now, and has each wait until the channel has a value.
func (s *Redis) Readers(wait chan struct{}) *atomic.Int64 {
	r := &readers{wait: wait}
	s.client.AddHook(r)
	return &r.n
}

type readers struct {
	trips
	wait chan struct{}
}

func (r *readers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "lrange" {
			r.n.Add(1)
			defer r.n.Add(-1)
			<-r.wait
		}
		return next(ctx, cmd)
	}
}

// StopAt has the next command of a name wait, once it says that it asks.
func (s *Redis) StopAt(name string) (asks <-chan struct{}, goOn chan<- struct{}) {
	h := &stopping{name: name, asks: make(chan struct{}), goOn: make(chan struct{})}
	s.client.AddHook(h)
	return h.asks, h.goOn
}

type stopping struct {
	trips
	name       string
	asks, goOn chan struct{}
	once       sync.Once
}

func (h *stopping) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == h.name {
			h.once.Do(func() { close(h.asks); <-h.goOn })
		}
		return next(ctx, cmd)
	}
}

// CutAnswer has the connection break after the next write, which the server has then.
func (s *Redis) CutAnswer() { s.client.AddHook(&cutAnswer{}) }

type cutAnswer struct {
	trips
	once sync.Once
}

func (*cutAnswer) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h *cutAnswer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if cmds[0].Name() == "evalsha" {
			h.once.Do(func() { err = io.ErrUnexpectedEOF })
		}
		if err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// CutOff has the connection break at the next call that says that the state is not whole.
func (s *Redis) CutOff() { s.client.AddHook(&cut{}) }

type cut struct {
	trips
	once sync.Once
}

func (h *cut) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) (err error) {
		if cmd.Args()[1] == installScript {
			h.once.Do(func() { err = io.ErrUnexpectedEOF })
		}
		if err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (r *readers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() != "exists" {
			t.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

// IDs are the ids of all devices, in order.
func (b *Book) IDs() []string { return b.ids() }
