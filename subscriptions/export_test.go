package subscriptions

// Crash ends a store as a kill would: nothing is written any more, and the lock is not given back.
func (s *Redis) Crash() {
	s.client.Close()
	s.release()
	s.committer.close()
}
