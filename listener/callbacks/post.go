package callbacks

import (
	"strings"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/listener/marks"
)

// maxItem bounds an item id. Exchange's have some 150 characters.
const maxItem = 1024

// posted takes in what was posted to a secret of the mailbox, and says whether its subscription goes on.
func (m *Member) posted(secret string, list []ews.Pushed, at time.Time) bool {
	k := m.keeper
	k.mu.Lock()
	s := m.now
	if s == nil || s.secret != secret {
		s = m.asking
	}
	if s == nil || s.secret != secret { // since the secret was looked up, the subscription was replaced, or the mailbox has left
		k.mu.Unlock()
		return false
	}
	items, lists, goesOn := m.read(s, list, at)
	allowed := m.allowance.Take(len(items), at)
	if allowed < len(items) {
		items = items[:allowed]
		m.listSoon(at.Add(marks.Overflow))
	}
	if lists && m.allowance.Take(1, at) == 0 {
		lists = false
		m.listSoon(at.Add(marks.Overflow))
	}
	k.mu.Unlock()
	for _, item := range items {
		k.o.Receiver.hints.Inc()
		m.sink.Hint(item, at)
	}
	if lists {
		m.sink.List()
	}
	return goesOn
}

// read takes in what was posted about a subscription: which items it names, whether the mailbox is to be listed, and whether the subscription
// goes on. It is called with mu held.
func (m *Member) read(s *subscription, list []ews.Pushed, at time.Time) (items []string, lists, goesOn bool) {
	for _, p := range list {
		if s.id == "" && len(p.Subscription) <= maxItem { // Subscribe has not been answered yet: its answer will say whether this is the id
			s.id = p.Subscription
		}
		if p.Subscription != s.id {
			continue
		}
		goesOn = true
		// Some servers have no watermarks: there a lost post is found by the safety poll.
		again := p.Watermark != "" && p.Watermark == s.watermark // our answer to it was lost
		if s.watermark != "" && p.Previous != "" && p.Previous != s.watermark && !again {
			m.keeper.o.Receiver.gaps.Inc()
			lists = true
		}
		if p.Watermark != "" && len(p.Watermark) <= maxItem {
			s.watermark = p.Watermark
		}
		s.lastPost = at
		lists = lists || p.Code != ""
		for _, item := range p.Items {
			if !plausible(item) {
				lists = true
				continue
			}
			items = append(items, item)
		}
	}
	if s.lastPost.Equal(at) && s == m.now {
		lists = m.reached(at) || lists
	}
	return items, lists, goesOn
}

// reached notes that callbacks reach us, and says whether the mailbox is to be listed for that: some may have been lost before. It is called
// with mu held.
func (m *Member) reached(at time.Time) bool {
	if m.since.IsZero() {
		m.since, m.fault = at, nil
		m.poll.Told()
	}
	list := m.gap
	if list {
		m.gap, m.listBy = false, time.Time{}
	}
	return list
}

// unreadable takes in that somebody who knows a secret posted what cannot be read. Perhaps it was about new mail.
func (m *Member) unreadable(secret string) {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	if m.now != nil && m.now.secret == secret {
		m.listSoon(time.Now().Add(marks.Overflow))
	}
}

// plausible says whether an item id looks like one of Exchange: base64 of a moderate length.
func plausible(item string) bool {
	return item != "" && len(item) <= maxItem && !strings.ContainsFunc(item, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("+/=-_", c))
	})
}
