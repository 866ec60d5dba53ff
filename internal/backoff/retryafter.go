package backoff

import (
	"net/http"
	"time"
)

// RetryAfter reads how long a server asks to be left alone, by the header of that name (RFC 9110 section 10.2.3): seconds, which some
// servers send with a fraction, or a date. It is at most most, for a mistaken number must not silence anybody for days; 0: none, one
// that has passed, or one that cannot be understood.
func RetryAfter(h http.Header, most time.Duration) time.Duration {
	v := h.Get("Retry-After")
	if told, err := time.ParseDuration(v + "s"); err == nil {
		return min(max(told, 0), most)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	now := time.Now()
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date // the server's clock on both sides
	}
	return min(max(at.Sub(now), 0), most)
}
