package listener

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// begun is how many of the first mailboxes have been looked up.
func (s *scene) begun(mailboxes int) (n int) {
	for i := range mailboxes {
		if s.mailbox(address(i)).linked() != nil {
			n++
		}
	}
	return n
}

func TestWhoEnrolsManyIsAnsweredBeforeTheyAreLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 3 * atOnce {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		synctest.Wait()
		if n := s.begun(3 * atOnce); n != atOnce {
			t.Errorf("%d mailboxes are looked up while others are enrolled, want %d", n, atOnce)
		}
		m := s.hq.come(address(3*atOnce - 1)) // while it waits
		s.pass(lull)
		if n := s.begun(3 * atOnce); n != 3*atOnce {
			t.Errorf("nobody is enrolled any more, and %d are looked up", n)
		}
		s.pass(time.Minute)
		s.accepted(1, fmt.Sprint("d", 3*atOnce-1), m)
		s.listening("hq", address(0), address(3*atOnce-1))
	})
}

func TestAMailboxDoesNotWaitForTheEndOfEnrolmentsThatDoNotEnd(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 3 * atOnce {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		goOn := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); s.pass(lull / 5) {
				s.enrol("d0", address(0))
			}
		}
		goOn(longestWait - lull)
		if n := s.begun(3 * atOnce); n != atOnce {
			t.Errorf("%d mailboxes are looked up while devices are enrolled, want %d", n, atOnce)
		}
		goOn(2 * lull)
		if n := s.begun(3 * atOnce); n != 3*atOnce {
			t.Errorf("after %v %d mailboxes are looked up", longestWait, n)
		}
	})
}
