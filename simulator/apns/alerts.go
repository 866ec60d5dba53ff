package apns

// The log of the requests that came, accepted and refused.

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// Alert is a request to APNs that was accepted or refused.
type Alert struct {
	N       int               `json:"n"` // 1 and up, in the order in which they were processed
	At      time.Time         `json:"at"`
	Token   string            `json:"token"`
	Headers map[string]string `json:"headers"` // those that begin with apns-; apns-id is there even if the client sent none
	Payload json.RawMessage   `json:"payload"` // a JSON string where the client did not send JSON
	Status  int               `json:"status"`
	Reason  string            `json:"reason,omitempty"` // APNs' own, of a refusal
	// Cut says that the connection was cut before the answer was written, or within a second after, so the client may not know the
	// answer.
	Cut bool `json:"cut,omitempty"`
}

// Accepted reports whether APNs accepted the alert.
func (a Alert) Accepted() bool { return a.Status == 200 }

// alertLog keeps the newest alerts.
type alertLog struct {
	limit   int // below 0: none
	onAlert func(Alert)

	mu       sync.Mutex
	list     []Alert // list[i].N == first+i
	first    int
	next     int
	accepted int
	more     chan struct{} // closed with the next alert; nil while nobody waits
}

// DefaultAlertLog is how many alerts are kept, about 1 KiB each.
const DefaultAlertLog = 100_000

func newAlertLog(limit int, onAlert func(Alert)) *alertLog {
	if limit == 0 {
		limit = DefaultAlertLog
	}
	return &alertLog{limit: limit, onAlert: onAlert, first: 1, next: 1}
}

// add gives an alert its number and keeps it.
func (l *alertLog) add(a Alert) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.N = l.next
	l.next++
	if a.Accepted() {
		l.accepted++
	}
	if l.onAlert != nil {
		l.onAlert(a)
	}
	if l.limit > 0 {
		if len(l.list) >= l.limit+l.limit/8+1 { // cut now and then, not each time
			drop := len(l.list) - l.limit
			l.list = slices.Delete(l.list, 0, drop)
			l.first += drop
		}
		l.list = append(l.list, a)
	} else {
		l.first = l.next
	}
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return a.N
}

// markCut notes that the answer to alert n was lost.
func (l *alertLog) markCut(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := n - l.first; i >= 0 && i < len(l.list) {
		l.list[i].Cut = true
	}
}

// after returns copies of what is kept with a number above n, and a channel that is closed with the next alert.
func (l *alertLog) after(n int) ([]Alert, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	i := min(max(n+1-l.first, 0), len(l.list))
	return slices.Clone(l.list[i:]), l.more
}

func (l *alertLog) counts() (accepted, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted, l.next - 1 - l.accepted
}

// Alerts returns the kept alerts with a number above after, refused ones too.
func (s *Server) Alerts(after int) []Alert {
	list, _ := s.log.after(after)
	return list
}

// WaitAlerts waits until there is an alert with a number above after, and returns all of them. The error is the context's.
func (s *Server) WaitAlerts(ctx context.Context, after int) ([]Alert, error) {
	for {
		list, more := s.log.after(after)
		if len(list) > 0 {
			return list, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
