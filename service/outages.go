package service

// Since when a mailbox stands as it does, and which changes of that last: a person who asks is told the one, the MDM portal the other.

import (
	"iter"
	"sync"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// lasting is how long a mailbox has to stay as it is before the MDM portal is told: what is tried again within a minute or two and works is
// of no use to anybody there.
const lasting = 3 * time.Minute

// outages remembers the mailboxes that stand as they do because of an error. There are at most as many as mailboxes.
type outages struct {
	mu    sync.Mutex
	known map[string]*outage // by address
}

// outage is a mailbox that is not listened to, or was not when the MDM portal was told last.
type outage struct {
	subscriptions.Standing                     // as it was seen last
	since                  time.Time           // it has this state
	told                   bool                // the MDM portal was told that no alerts come
	as                     subscriptions.State // with which it was told
	seen                   time.Time           // in which comparison
}

// change is how a mailbox stands now, after a change that has lasted.
type change struct {
	Address string
	subscriptions.Standing
	Since time.Time
}

func newOutages() *outages { return &outages{known: map[string]*outage{}} }

// silent says whether a mailbox in this state gets no alerts.
func silent(s subscriptions.State) bool {
	return s == subscriptions.Failing || s == subscriptions.OutOfScope || s == subscriptions.WaitingForCapacity
}

// compare takes the mailboxes with an error as they are now, and returns the changes that have lasted and were not returned before. standing
// tells of any other mailbox; false: it is not there any more.
func (o *outages) compare(now time.Time, faulty iter.Seq2[string, subscriptions.Standing], standing func(address string) (subscriptions.Standing, bool)) (changes []change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for address, s := range faulty {
		k := o.known[address]
		if k == nil {
			k = &outage{since: now}
			o.known[address] = k
		}
		if k.see(s, now) {
			changes = append(changes, change{address, s, k.since})
		}
	}
	for address, k := range o.known {
		if k.seen.Equal(now) {
			continue
		}
		s, there := standing(address)
		switch {
		case !there:
			delete(o.known, address)
		case s.State == subscriptions.Resolving && k.told: // it will be one or the other
			k.seen, k.since = now, now
		default:
			if k.see(s, now) {
				changes = append(changes, change{address, s, k.since})
			}
			if !k.told {
				delete(o.known, address)
			}
		}
	}
	return changes
}

// see notes how the mailbox stands, and says whether that is news that has lasted.
func (k *outage) see(s subscriptions.Standing, now time.Time) (news bool) {
	if k.State != s.State {
		k.since = now
	}
	k.Standing, k.seen = s, now
	is := silent(s.State)
	if is == k.told && (!is || s.State == k.as) || now.Sub(k.since) < lasting {
		return false
	}
	k.told, k.as = is, s.State
	return true
}

// since is when a mailbox came into its state; zero: it is well, or that was not seen yet.
func (o *outages) since(address string, state subscriptions.State) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if k := o.known[address]; k != nil && k.State == state {
		return k.since
	}
	return time.Time{}
}
