package push

// This file is one attempt to send one notification: apns2 makes the request and reads the answer, our connections carry it.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/sideshow/apns2"
)

// maxRetryAfter bounds what APNs may ask for in Retry-After.
const maxRetryAfter = time.Hour

// outcome is what became of one attempt.
type outcome struct {
	status     int     // 0: no answer came
	access     *access // that it went by
	reason     string  // of APNs; empty where it gave none
	timestamp  time.Time
	retryAfter time.Duration
	bearer     string // the provider token that was sent; empty: none, but a certificate
	written    bool   // the request left
	err        error  // no answer came; where the request left, APNs may have taken it
}

// attempt sends a notification once, if allowed does not object directly before it would go out.
func (g *gateway) attempt(ctx context.Context, n *apns2.Notification, allowed func() error) outcome {
	for {
		out := g.access.Load().attempt(ctx, n, allowed)
		if !errors.Is(out.err, errLeft) { // else it waited for its turn, and another credential serves by now
			return out
		}
	}
}

func (a *access) attempt(ctx context.Context, n *apns2.Notification, allowed func() error) outcome {
	t := carrier{access: a, allowed: allowed, out: outcome{access: a}}
	client := apns2.Client{Host: a.gateway.url, HTTPClient: &http.Client{
		Transport:     &t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	r, err := client.PushWithContext(ctx, n)
	out := t.out
	if out.status == 0 {
		if out.err == nil { // apns2 could not make the request
			out.err = err
		}
		return out
	}
	if err == nil { // else the body was not of APNs, and the status has to do
		out.reason, out.timestamp = r.Reason, r.Timestamp.Time
	}
	a.gateway.metrics.answered(out.status, out.reason)
	if meaningOf(out.status, out.reason).replace {
		t.connection.retire("replaced after " + label(out.reason))
	}
	return out
}

// carrier is the http.RoundTripper of one attempt. It signs the request, sends it on one of our connections, and keeps what apns2
// drops of the answer.
type carrier struct {
	access     *access
	allowed    func() error
	connection *connection // that the answer came on
	out        outcome
}

func (t *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	payload, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	t.out.bearer = t.access.credential.bearer()
	signed := *req
	signed.Header = maps.Clone(req.Header)
	if t.out.bearer != "" {
		signed.Header["Authorization"] = []string{"bearer " + t.out.bearer}
	}
	signed.Header["User-Agent"] = []string{"mailbell"}
	var r *reply
	r, t.connection, t.out.written, t.out.err = t.access.pool.send(&signed, payload, t.allowed)
	if t.out.err != nil {
		return nil, t.out.err
	}
	t.out.status, t.out.retryAfter = r.status, retryAfter(r.header.Get("Retry-After"))
	return &http.Response{StatusCode: r.status, ProtoMajor: 2, Header: r.header, Body: io.NopCloser(bytes.NewReader(r.body)), Request: req}, nil
}

// retryAfter reads the seconds of the header.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
