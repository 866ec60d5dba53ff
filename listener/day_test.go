package listener

// A day of timers: ends of streams, safety polls, mailboxes that come and go. Nothing of it may be left behind.

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// remains is what there is at one time.
type remains struct {
	goroutines    int
	subscriptions int // alive at the server, of all mailboxes
	streams       int
	records       int
	state         int // bytes
}

func TestADayOfTimersLeavesNothingBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("a day of 400 mailboxes takes long with the race detector")
	}
	inScene(t, func(s *scene) {
		const mailboxes, guests = 400, 20
		server := s.atSimulated(mailboxes, among(0, 0))
		s.start()
		enrol := func(i int) {
			if _, _, err := s.l.Enrol(context.Background(), enrolment(device(i), address(i), fmt.Sprint("token", i)), nil); err != nil {
				t.Fatal(err)
			}
		}
		for i := range mailboxes {
			enrol(i)
		}
		s.pass(time.Minute)
		for i := range mailboxes {
			s.deliver(address(i), "the only one")
		}
		look := func() (r remains) {
			for i := range mailboxes {
				alive, _ := server.org.Subscriptions(address(i))
				r.subscriptions += alive
			}
			all, err := s.store.Load(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(all)
			if err != nil {
				t.Fatal(err)
			}
			r.records, r.state = len(all.Records), len(b)
			for _, a := range s.l.Load()[0].Accounts {
				r.streams += a.Streams
			}
			r.goroutines = runtime.NumGoroutine()
			return r
		}
		var first remains
		for hour := range 25 {
			for i := range guests { // these go, and come again when their records are gone
				s.remove(device(i))
			}
			s.pass(25 * time.Minute)
			for i := range guests {
				enrol(i)
			}
			s.pass(34 * time.Minute)
			for i := range mailboxes {
				for range 10 { // a listing may be under way
					if s.status(address(i)).State == subscriptions.Listening {
						break
					}
					s.pass(time.Second)
				}
				s.wantState(subscriptions.Listening, address(i))
			}
			s.pass(time.Minute)
			r := look()
			for range 10 { // a poll may be under way
				if hour <= 1 || r.goroutines <= first.goroutines {
					break
				}
				s.pass(7 * time.Second)
				r = look()
			}
			t.Logf("after %d h: %+v", hour+1, r)
			if hour == 1 {
				first = r
			}
			if hour > 1 && r != first {
				t.Errorf("after %d h: %+v, after 2 h %+v", hour+1, r, first)
			}
		}
		s.stop()
		s.l = nil
		server.calls.Wait()
	})
}
