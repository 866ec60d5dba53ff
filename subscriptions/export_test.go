package subscriptions

import "time"

// Crash ends a store as a kill would: nothing is written any more, and the lock is not given back.
func (s *Redis) Crash() {
	s.client.Close()
	s.release()
	s.committer.close()
}

// Kept is when the lock was renewed last.
func (s *Redis) Kept() time.Time { return *s.kept.Load() }
