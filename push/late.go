package push

// This file remembers the phones that APNs left without an answer the last time: their alerts yield from the start. As the first on a new
// connection, which has one stream, such an alert would hold up all others, and nothing would be answered for them either.

import (
	"sync"

	"github.com/mailbell/mailbell/subscriptions"
)

// maxLate bounds the phones that are remembered. The next alert tells again of one that was forgotten.
const maxLate = 10_000

// late remembers phones.
type late struct {
	mu     sync.Mutex
	phones map[subscriptions.Phone]bool
}

func newLate() late { return late{phones: make(map[subscriptions.Phone]bool)} }

func (l *late) has(p subscriptions.Phone) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phones[p]
}

func (l *late) remember(p subscriptions.Phone) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.phones[p] {
		makeRoom(l.phones, maxLate)
		l.phones[p] = true
	}
}

// forget forgets a phone: APNs answered for it in time.
func (l *late) forget(p subscriptions.Phone) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.phones, p)
}
