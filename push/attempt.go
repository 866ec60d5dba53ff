package push

// This file is one attempt to send one notification: apns2 makes the request and reads the answer, our connections carry it.

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// maxRetryAfter bounds what APNs may ask for in Retry-After.
const maxRetryAfter = time.Hour

// requestOf is a notification as apns2 has it.
func requestOf(n subscriptions.Notification) *apns2.Notification {
	return &apns2.Notification{ApnsID: uuid(n.PushID), CollapseID: n.CollapseID, DeviceToken: n.Phone.Token, Topic: n.Phone.Topic,
		Expiration: n.Expires, Priority: apns2.PriorityHigh, PushType: apns2.PushTypeAlert, Payload: n.Payload}
}

// uuid writes an id in the canonical form of RFC 9562.
func uuid(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// attempt sends a notification once, if allowed does not object directly before it would go out.
func (g *gateway) attempt(ctx context.Context, n *apns2.Notification, allowed func() error) response {
	for {
		r := g.access.Load().attempt(ctx, n, allowed)
		if !errors.Is(r.err, errLeft) { // else it waited for its turn, and another credential serves by now
			return r
		}
	}
}

func (a *access) attempt(ctx context.Context, n *apns2.Notification, allowed func() error) response {
	c := carrier{access: a, allowed: allowed, response: response{access: a}}
	client := apns2.Client{Host: a.gateway.url, HTTPClient: &http.Client{
		Transport:     &c,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	answer, err := client.PushWithContext(ctx, n)
	r := c.response
	if r.status == 0 {
		if said, ok := errors.AsType[*goneAway](r.err); ok && ruleFor(0, said.reason).reaction == hold {
			r.reason = said.reason
		}
		if r.err == nil { // it never came to the carrier
			r.reason, r.err = outcome.NotSendable, err
		}
		return r
	}
	if err == nil { // else the body was not of APNs
		r.reason, r.gone = known(answer.Reason), answer.Timestamp.Time
	}
	r.foreign = err != nil || r.reason == "" && r.status != http.StatusOK
	a.gateway.metrics.answered(r.status, r.reason)
	if r.rule().replace {
		c.connection.retire("replaced after " + string(r.why()))
	}
	return r
}

// carrier is the http.RoundTripper of one attempt. It signs the request, sends it on one of our connections, and keeps what apns2
// drops of the answer.
type carrier struct {
	access     *access
	allowed    func() error
	connection *connection // that the answer came on
	response   response
}

func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	payload, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	r := &c.response
	r.bearer = c.access.credential.bearer()
	signed := *req
	signed.Header = maps.Clone(req.Header)
	if r.bearer != "" {
		signed.Header["Authorization"] = []string{"bearer " + r.bearer}
	}
	signed.Header["User-Agent"] = []string{"mailbell"}
	var answer *http.Response
	answer, c.connection, r.written, r.err = c.access.pool.send(&signed, payload, c.allowed)
	if r.err != nil {
		return nil, r.err
	}
	r.status, r.retryAfter = answer.StatusCode, retryAfter(answer.Header.Get("Retry-After"))
	answer.Request = req
	return answer, nil
}

// retryAfter reads the seconds of the header.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
