package callbacks

import (
	"strings"
	"time"

	"github.com/mailbell/mailbell/ews"
)

const (
	// A mailbox may be marked by callbacks this often: more than people get mail, and less than what would keep its server busy. What is
	// beyond becomes one listing, at most every overflow.
	marksASecond = 2
	maxMarks     = 64 // as many items as a mailbox remembers from hints
	overflow     = 5 * time.Second
	// maxItem bounds an item id. Exchange's have some 150 characters.
	maxItem = 1024
)

// posted takes in what was posted to a secret of the mailbox, and says whether its subscription goes on.
func (m *Member) posted(secret string, list []ews.Pushed, at time.Time) bool {
	k := m.keeper
	k.mu.Lock()
	s := m.now
	if s == nil || s.secret != secret {
		if s = m.asking; s == nil || s.secret != secret { // it was replaced, or left, since it was looked up
			k.mu.Unlock()
			return false
		}
	}
	var items []string
	lists, goesOn := false, false
	for _, p := range list {
		if s.id == "" && len(p.Subscription) <= maxItem { // Subscribe has not been answered yet; whose it is, its answer says
			s.id = p.Subscription
		}
		if p.Subscription != s.id {
			continue
		}
		goesOn = true
		// Some servers have no watermarks. With them a lost post is found by the safety poll.
		again := p.Watermark != "" && p.Watermark == s.watermark // our answer to it was lost
		if s.watermark != "" && p.Previous != "" && p.Previous != s.watermark && !again {
			k.o.Receiver.gaps.Inc()
			lists = true
		}
		if p.Watermark != "" && len(p.Watermark) <= maxItem {
			s.watermark = p.Watermark
		}
		s.heard = at
		lists = lists || p.Code != ""
		for _, item := range p.Items {
			if !plausible(item) {
				lists = true
				continue
			}
			items = append(items, item)
		}
	}
	if s.heard.Equal(at) && s == m.now {
		lists = m.heard(at) || lists
	}
	allowed := m.allow(len(items), at)
	if allowed < len(items) {
		items = items[:allowed]
		m.listSoon(at.Add(overflow))
	}
	if lists && !m.mayList(at) {
		lists = false
		m.listSoon(at.Add(overflow))
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

// heard notes that callbacks reach us, and says whether the mailbox is to be listed for that: some may have been lost before. It is called
// with mu held.
func (m *Member) heard(at time.Time) bool {
	if m.since.IsZero() {
		m.since, m.fault, m.pollAt = at, nil, time.Time{}
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
		m.listSoon(time.Now().Add(overflow))
	}
}

// allow takes marks from the mailbox's share, and says how many it got. It is called with mu held.
func (m *Member) allow(marks int, now time.Time) int {
	m.refill(now)
	got := min(marks, int(m.allowed))
	m.allowed -= float64(got)
	return got
}

// mayList takes the mark of a listing. It is called with mu held.
func (m *Member) mayList(now time.Time) bool { return m.allow(1, now) == 1 }

func (m *Member) refill(now time.Time) {
	if m.counted.IsZero() {
		m.allowed = maxMarks
	} else if passed := now.Sub(m.counted); passed > 0 {
		m.allowed = min(m.allowed+passed.Seconds()*marksASecond, maxMarks)
	}
	m.counted = now
}

// plausible says whether an item id looks like one of Exchange: base64 of a moderate length.
func plausible(item string) bool {
	return item != "" && len(item) <= maxItem && !strings.ContainsFunc(item, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("+/=-_", c))
	})
}
