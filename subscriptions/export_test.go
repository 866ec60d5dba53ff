package subscriptions

import (
	"context"
	"time"
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

// BuryOne buries a mailbox that was dead when it was looked at.
func (b *Book) BuryOne(ctx context.Context, m *Mailbox, now time.Time) error {
	return b.bury(ctx, m, now)
}

// All are the mailboxes, also those that are asleep.
func (b *Book) All() []*Mailbox { return b.all() }
