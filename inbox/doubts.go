package inbox

// Pushes that were sent and not answered: APNs may have accepted them (rule 10).

import (
	"sync"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// maxDoubts bounds the messages of a mailbox whose pushes are in doubt. One beyond it is sent again all the same, but not counted as a
// repeat.
const maxDoubts = 256

// doubts are the messages of which a phone may have an alert that APNs did not answer. They are in memory only: what a process that was
// killed had in flight, the next one does not know.
type doubts struct {
	mu   sync.Mutex
	open map[doubt]struct{}
}

type doubt struct {
	line subscriptions.Line
	key  mail.Key
}

// note takes in an answer about messages: nobody knows whether APNs has their alert (unknown), or they are not in doubt any more.
func (d *doubts) note(l subscriptions.Line, keys []mail.Key, unknown bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		switch {
		case !unknown:
			delete(d.open, doubt{l, k})
		case len(d.open) < maxDoubts:
			if d.open == nil {
				d.open = map[doubt]struct{}{}
			}
			d.open[doubt{l, k}] = struct{}{}
		}
	}
}

// has says whether a phone may have an alert of one of these messages already.
func (d *doubts) has(l subscriptions.Line, keys []mail.Key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		if _, in := d.open[doubt{l, k}]; in {
			return true
		}
	}
	return false
}
