package push

// This file remembers the phones that APNs left without an answer until now: their alerts yield from the start. First on a new connection,
// where there is one stream, such a one would hold all others, and it would be for them that nothing is answered.

import (
	"sync"

	"github.com/mailbell/mailbell/subscriptions"
)

// maxLate bounds the phones that are remembered; of one that is forgotten the next alert tells again.
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
