package listener

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
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
		s.pass(2 * lull)
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

// stalling is a store whose writes take long.
type stalling struct {
	*storetest.Memory
	takes atomic.Int64
}

func (w *stalling) Write(ctx context.Context, c subscriptions.Change) error {
	if !pause.For(ctx, time.Duration(w.takes.Load())) {
		return ctx.Err()
	}
	return w.Memory.Write(ctx, c)
}

func TestAnEnrolmentThatWaitsForTheStateIsNoLull(t *testing.T) {
	inScene(t, func(s *scene) {
		store := &stalling{Memory: s.store}
		book, err := subscriptions.Open(s.t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		s.open(book)
		for i := range 2 * atOnce {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		store.takes.Store(int64(10 * lull))
		ended := make(chan error, 1)
		go func() {
			_, _, err := s.l.Enrol(context.Background(), enrolment("d0", address(0), "token-of-d0"), nil)
			ended <- err
		}()
		s.pass(9 * lull)
		if n := s.begun(2 * atOnce); n != atOnce {
			t.Errorf("%d mailboxes are looked up while an enrolment is written, want %d", n, atOnce)
		}
		store.takes.Store(0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.pass(3 * lull)
		if n := s.begun(2 * atOnce); n != 2*atOnce {
			t.Errorf("nobody is enrolled any more, and %d are looked up", n)
		}
	})
}
