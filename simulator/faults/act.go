package faults

// What several parts need for a fault: a clock that can be wrong, the end of a connection, and the time of a back-off.

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// ClockSkew is the fault of a clock that is wrong. Its seconds may be below 0.
var ClockSkew = Kind{
	Name: "clock_skew", Fields: "host seconds", Valued: true,
	Text: "The clock of Exchange is ahead by `seconds` (below 0: behind): HTTP Date, time stamps and received times.",
}

// Clock is the clock of Exchange and of the token service; ClockSkew sets it wrong.
type Clock struct {
	Faults interface {
		On(name, mailbox, token string) (Fault, bool)
	}
}

// Now is the time that the clock shows, in UTC.
func (c Clock) Now() time.Time {
	t := time.Now()
	if f, ok := c.Faults.On(ClockSkew.Name, "", ""); ok {
		t = t.Add(f.Duration())
	}
	return t.UTC()
}

// HTTPDate is Now as the header Date has it.
func (c Clock) HTTPDate() string { return c.Now().Format(http.TimeFormat) }

// Cut ends a connection with a TCP reset, or with a FIN but no close_notify of TLS.
func Cut(c net.Conn, reset bool) {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok && reset {
		if err := tcp.SetLinger(0); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
	c.Close()
}

// RetryAfter is the value of that header: whole seconds, rounded up, so that no client comes too early.
func RetryAfter(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
