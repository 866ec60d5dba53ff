package changes

import (
	"hash/maphash"
	"strings"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/listener/marks"
)

// maxItem bounds an item id. Immutable ids have some 150 characters.
const maxItem = 1024

// The results of a notification, as metrics have them.
const (
	toldHint      = "hint"
	toldDouble    = "double"    // of a message that was told of just now
	toldLifecycle = "lifecycle" // Graph tells about the subscription
	toldStranger  = "stranger"  // without a client state that is ours, or of another subscription than it belongs to
	toldNothing   = "nothing"   // another change than a new message, or one beyond a mailbox's allowance
)

// told takes in a notification that came with the client state of the mailbox, and says what it was.
func (m *Member) told(n *graph.Notification, tokens []string, state string, at time.Time) string {
	k := m.keeper
	k.mu.Lock()
	s := m.now
	if s == nil || s.state != state {
		s = m.asking
	}
	if s == nil || s.state != state || s.id != "" && !strings.EqualFold(s.id, n.Subscription) { // it was replaced, or the mailbox has left, or the sender knows only one of both
		k.mu.Unlock()
		return toldStranger
	}
	s.lastPost = at
	list := m.reached(at)
	result, item := toldNothing, ""
	switch {
	case n.Lifecycle != "":
		result = toldLifecycle
		list = m.lifecycle(n.Lifecycle, s, at) || list
	case !strings.EqualFold(n.Change, "created"):
	case !plausible(n.Item):
		list = true
	case m.repeats(maphash.String(k.o.Receiver.seed, n.Item), at):
		result = toldDouble
	default:
		result, item = toldHint, n.Item
	}
	if item != "" && m.allowance.Take(1, at) == 0 {
		result, item = toldNothing, ""
		m.listSoon(at.Add(marks.Overflow))
	}
	if list && m.allowance.Take(1, at) == 0 {
		list = false
		m.listSoon(at.Add(marks.Overflow))
	}
	if list {
		m.listBy = time.Time{}
	}
	m.plan()
	k.mu.Unlock()
	if item != "" {
		if message := k.open(n, tokens); message != nil {
			m.sink.Tell(message, at)
		} else {
			m.sink.Hint(item, at)
		}
	}
	if list {
		m.sink.List()
	}
	return result
}

// reached notes that notifications reach us, and says whether the mailbox is to be listed for that. It is called with mu held.
func (m *Member) reached(at time.Time) (list bool) {
	m.replaced, m.late = false, time.Time{}
	if m.fault == nil {
		return false
	}
	m.fault = nil
	if m.since.IsZero() && !m.doubted {
		m.since = at
	}
	return true
}

// lifecycle does what Graph asks for, and says whether the mailbox is to be listed. It is called with mu held.
func (m *Member) lifecycle(event string, s *subscription, at time.Time) (list bool) {
	switch event {
	case graph.ReauthorizationRequired:
		m.reauthorise(at)
		return false
	case graph.SubscriptionRemoved:
		if m.now == s {
			m.lose()
			m.keeper.changed()
		}
		return true
	}
	return true // "missed", or what Graph may add one day: it may be about mail
}

// plausible says whether an item id looks like one of Graph: URL-safe base64 of a moderate length.
func plausible(item string) bool {
	if item == "" || len(item) > maxItem {
		return false
	}
	for _, c := range []byte(item) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '=' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// doubledWithin is how long a message that was told of is not marked again: Graph repeats a post whose answer it did not get.
const doubledWithin = 10 * time.Minute

// recent are hashes of the messages that were told of last.
type recent struct {
	items [8]uint64
	at    [8]int64 // in Unix seconds
	next  uint8
}

// repeats says whether a message is one of those that were told of last, and else adds it to them. It is called with mu held.
func (m *Member) repeats(item uint64, now time.Time) bool {
	if m.recent == nil {
		m.recent = &recent{}
	}
	r := m.recent
	for i, it := range r.items {
		if it == item && now.Unix()-r.at[i] < int64(doubledWithin/time.Second) {
			return true
		}
	}
	r.items[r.next], r.at[r.next] = item, now.Unix()
	r.next = (r.next + 1) % uint8(len(r.items))
	return false
}
