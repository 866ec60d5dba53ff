package backoff

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands still
		now := time.Now()
		at := func(d time.Duration) string { return now.Add(d).UTC().Format(http.TimeFormat) }
		for _, c := range []struct {
			retryAfter, date string
			want             time.Duration
		}{
			{"", "", 0},
			{"30", "", 30 * time.Second},
			{"1.5", "", 1500 * time.Millisecond},
			{"0", "", 0},
			{"-5", "", 0},
			{"99999999", "", time.Hour},
			{"999999999999999999999", "", 0},
			{"soon", "", 0},
			{at(10 * time.Minute), "", 10 * time.Minute},
			{at(-10 * time.Minute), "", 0},
			{at(1000 * time.Hour), "", time.Hour},
			{at(10 * time.Minute), at(9 * time.Minute), time.Minute},    // the server's clock is ahead of ours
			{at(-10 * time.Minute), at(-11 * time.Minute), time.Minute}, // or behind
			{at(10 * time.Minute), "yesterday", 10 * time.Minute},
		} {
			h := http.Header{"Retry-After": {c.retryAfter}, "Date": {c.date}}
			if got := RetryAfter(h, time.Hour); got != c.want {
				t.Errorf("%q at %q: %v, and it is %v", c.retryAfter, c.date, got, c.want)
			}
		}
		if got := RetryAfter(nil, time.Hour); got != 0 {
			t.Errorf("no headers: %v", got)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("30", "")
	f.Add("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:00 GMT")
	f.Fuzz(func(t *testing.T, retryAfter, date string) {
		if got := RetryAfter(http.Header{"Retry-After": {retryAfter}, "Date": {date}}, time.Hour); got < 0 || got > time.Hour {
			t.Errorf("%q at %q: %v", retryAfter, date, got)
		}
	})
}
