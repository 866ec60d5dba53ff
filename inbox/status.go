package inbox

import (
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// Status is how the work on a mailbox stands.
type Status struct {
	Failing     *fault.Error // why its last turn failed, or cannot end; nil: it did not
	Next        time.Time    // the end of the back-off then; zero: it is tried all the time
	Listed      bool         // a complete listing was done since it was last marked for one
	LastHint    time.Time    // zero, as in those below: never since the start
	LastListing time.Time
	LastMessage time.Time
}

// Status of the mailbox.
func (m *Mailbox) Status() Status {
	s := Status{LastHint: at(&m.last.hint), LastListing: at(&m.last.listing), LastMessage: at(&m.last.message)}
	s.Failing, s.Next, s.Listed = m.marks.fault()
	if f := m.unwritten.Load(); f != nil {
		s.Failing, s.Next = f, time.Time{}
	}
	return s
}

func at(unix *atomic.Int64) time.Time {
	n := unix.Load()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
