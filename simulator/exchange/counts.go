package exchange

// What the hosts count, for tests.

import "fmt"

// Counts counts what happened on hosts of Exchange, and what is open.
type Counts struct {
	Requests      map[string]int // ever, by EWS operation, and Autodiscover, GetUserSettings, AutodiscoverV2
	Unauthorized  int            // answers 401, ever
	OpenStreams   int            // GetStreamingEvents
	Subscriptions int            // alive
}

// Counts returns the counts of all hosts.
func (o *Organisation) Counts() Counts { return count(o.hosts...) }

// CountsAt returns the counts of the host with that name. The error wraps ErrNoHost.
func (o *Organisation) CountsAt(host string) (Counts, error) {
	x := o.host(host)
	if x == nil {
		return Counts{}, fmt.Errorf("%q: %w", host, ErrNoHost)
	}
	return count(x), nil
}

func count(hosts ...*Host) Counts {
	c := Counts{Requests: map[string]int{}}
	for _, x := range hosts {
		x.mu.Lock()
		for operation, n := range x.requests {
			c.Requests[operation] += n
		}
		c.Unauthorized += x.refused
		c.OpenStreams += len(x.streams)
		c.Subscriptions += len(x.subs)
		x.mu.Unlock()
	}
	return c
}

// Subscriptions counts the subscriptions of a mailbox: all that are alive, and those that have an open stream.
func (o *Organisation) Subscriptions(address string) (alive, streamed int) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	x, primary := o.hostOf(address)
	if x == nil {
		return 0, 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[primary]
	for _, sub := range b.subs {
		if sub.stream != nil {
			streamed++
		}
	}
	return len(b.subs), streamed
}
