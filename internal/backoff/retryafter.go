package backoff

import (
	"net/http"
	"time"
)

// RetryAfter reads the pause that a server asks for in the header of that name (RFC 9110 section 10.2.3): seconds, which some servers
// send with a fraction, or a date. It is at most most, because a wrong number must not stop a mailbox for days. It is 0 if there is no
// header, or it is in the past or invalid.
func RetryAfter(h http.Header, most time.Duration) time.Duration {
	v := h.Get("Retry-After")
	if asked, err := time.ParseDuration(v + "s"); err == nil {
		return min(max(asked, 0), most)
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
