package api

// The pace of a client: one that sends more is answered with 429, so that a program that has run wild harms no other.

import (
	"golang.org/x/time/rate"
)

// Limit is the pace of a client. The zero value is none.
type Limit struct {
	PerSecond int // at least 1
	Burst     int // at once
}

// limiter is what a client has left of its limit, however it signs in; nil: it has none.
type limiter struct {
	Limit
	rate *rate.Limiter
}

func newLimiter(l Limit) *limiter {
	if l == (Limit{}) {
		return nil
	}
	return &limiter{l, rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst)}
}

// errTooMany is answered above the limit. The next request is let through within a second, because a limit is at least one a second.
var errTooMany = func() *Problem {
	p := newProblem("too_many_requests", "this client sends more requests than api.requests_per_second and api.burst of the configuration allow")
	p.retryAfter = "1"
	return p
}()

// admit lets a request of a client through, or returns errTooMany.
func (a *API) admit(who caller) error {
	if who.limit == nil || who.limit.rate.Allow() {
		return nil
	}
	a.limited.WithLabelValues(who.name).Inc()
	return errTooMany
}
