package check

// The hosts that mailbell connects to, and their clocks.

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// skew is by how much the clock of a host is ahead of ours.
type skew struct {
	host string
	by   time.Duration
}

// reachProxy connects to the proxy. The checks of the hosts show whether it connects mailbell to them.
func (r *runner) reachProxy(ctx context.Context) {
	r.try(ctx, "proxy", "connecting to "+r.Proxy, Circumstances{Step: StepProxy}, func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: checkTimeout}).DialContext(ctx, "tcp", r.Proxy)
		if err != nil {
			return &fault.Error{Op: "connect", Code: proxy.CodeProxy, Scope: fault.Server, Remedy: fault.Wait, Text: "the proxy " + r.Proxy + " cannot be reached", Err: err,
				Evidence: fault.Evidence{Peer: fault.Proxy, Detail: fault.ProxyAway}}
		}
		return c.Close()
	})
}

// reach looks up the hosts of an entry and connects to them.
func (r *runner) reach(ctx context.Context, name string, e Entry) {
	for _, host := range e.Hosts {
		r.connect(ctx, name, host, fault.Unknown, e.Online, e.Outbound)
	}
	if e.Authority != "" {
		r.connect(ctx, name, e.Authority, fault.TokenService, e.Online, e.Tokens)
	}
}

// connect looks a host up and connects to it. of says whose it is: the advice depends on it.
func (r *runner) connect(ctx context.Context, name, host string, of fault.Peer, online bool, out proxy.Settings) {
	if !r.lookUp(ctx, name, host, of, out) {
		return
	}
	t := out.Transport()
	defer t.CloseIdleConnections()
	r.try(ctx, name+": TLS "+host, "connecting to "+host+" and verifying its certificate", Circumstances{Online: online}, func(ctx context.Context) error {
		return r.greet(ctx, t, host, of)
	})
}

// lookUp looks a host up, unless the proxy does.
func (r *runner) lookUp(ctx context.Context, name, host string, of fault.Peer, out proxy.Settings) bool {
	bare, _, err := net.SplitHostPort(host)
	if err != nil {
		bare = host
	}
	if net.ParseIP(bare) != nil {
		return true
	}
	if out.Proxy != nil && out.Proxy.For(&http.Request{URL: &url.URL{Scheme: "https", Host: host}}) != nil {
		return true // it looks the name up
	}
	return r.try(ctx, name+": DNS "+bare, "looking up "+bare, Circumstances{}, func(ctx context.Context) error {
		if _, err := net.DefaultResolver.LookupHost(ctx, bare); err != nil {
			return proxy.Explain("look up", err).From(of)
		}
		return nil
	})
}

// greet makes a request to a host. Any answer over TLS is enough; its Date is kept.
func (r *runner) greet(ctx context.Context, t http.RoundTripper, host string, of fault.Peer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+host+"/", nil)
	if err != nil {
		return err
	}
	began := time.Now()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return proxy.Explain("connect to "+host, err).From(of)
	}
	resp.Body.Close()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		ours := began.Add(time.Since(began) / 2)
		r.skews = append(r.skews, skew{host, date.Sub(ours)})
	}
	return nil
}

// clocks compares the clocks of the servers with ours.
func (r *runner) clocks() {
	if len(r.skews) == 0 {
		return
	}
	var wrong []string
	for _, s := range r.skews {
		if s.by.Abs() > MaxSkew {
			wrong = append(wrong, s.host+" is "+apart(s.by))
		}
	}
	var err error
	if wrong != nil {
		err = doubt{clocksDiffer(strings.Join(wrong, ", that of "))}
	}
	r.tell("clock", "comparing the Date of the servers with this machine's clock", 0, Circumstances{}, err)
}

// ClocksDiffer is the error of servers whose clock is ahead of ours by so much, or behind.
func ClocksDiffer(whose string, by time.Duration) *fault.Error {
	return clocksDiffer(whose + " is " + apart(by))
}

func clocksDiffer(how string) *fault.Error {
	return &fault.Error{Op: "compare clocks", Code: codeClock, Scope: fault.Server, Remedy: fault.Fix, Text: "the clock of " + how}
}

// apart says how far a clock is from ours.
func apart(by time.Duration) string {
	where := "ahead of"
	if by < 0 {
		where = "behind"
	}
	return fmt.Sprintf("%s %s this machine's", by.Abs().Round(time.Second), where)
}
