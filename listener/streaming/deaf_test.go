package streaming

// A subscription that its server serves and that tells nothing.

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Its stream tells of the others' mail, so that it is not at fault: it was replaced, with all subscriptions as they were, and each time all
// of its mailboxes were listed. What was moved into an Inbox has no notification either.
func TestOfAStreamThatTellsOfOthersOnlyTheSubscriptionIsReplacedThatTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		list := newAccount(t, s, 200).join(alice, bob, carol)
		pass(time.Hour)
		deaf := list[0].box.Record().Subscription
		s.set(func() { s.queues[deaf].mailbox = "nobody's" })
		streams := len(s.made("Stream"))
		for i := range maxLate {
			s.tell(alice, "missed")
			pass(2 * time.Minute)
			s.tell(bob, fmt.Sprint(i))
			pass(3 * time.Minute)
			list[0].Unhinted(5 * time.Minute)
		}
		pass(time.Minute)
		s.tell(alice, "told")
		pass(time.Second)
		if got := list[0].told(); len(got) != 1 || got[0] != "told" {
			t.Errorf("it was told of %q", got)
		}
		if n := len(s.made("Stream")) - streams; n != 1 || list[1].listings() != 1 || list[0].listings() != 2 {
			t.Errorf("%d streams were opened; it was listed %d times, another %d", n, list[0].listings(), list[1].listings())
		}
		if n := len(s.made("Unsubscribe")); n != 0 {
			t.Errorf("%d subscriptions were given back while the stream has them", n)
		}
	})
}
