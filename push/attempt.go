package push

// This file is one attempt to send one notification.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/push/h2"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
	"golang.org/x/net/http2/hpack"
)

// maxRetryAfter bounds what APNs may ask for in Retry-After.
const maxRetryAfter = time.Hour

// request is a notification as it goes to APNs.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
type request struct {
	token, topic, id, collapseID, expiration string // the last three may be empty
	payload                                  []byte
	yields                                   bool // its phone was late before, or its connection stalled: others go first, and need not wait for it
}

func requestOf(n *subscriptions.Notification) request {
	r := request{token: n.Phone.Token, topic: n.Phone.Topic, id: n.PushID.String(), collapseID: n.CollapseID, payload: n.Payload}
	if n.Expires.After(time.Unix(0, 0)) {
		r.expiration = strconv.FormatInt(n.Expires.Unix(), 10)
	}
	return r
}

// isSendable reports whether APNs can be asked at all: the token is a part of a path, the payload is JSON.
func (r *request) isSendable() bool {
	outside := func(c rune) bool { return !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') }
	return r.token != "" && !strings.ContainsFunc(r.token, outside) && json.Valid(r.payload)
}

// fields appends the header fields. authorization is that of the provider token; empty: the connection has a certificate. What each
// notification has for itself is never indexed (RFC 7541): it does not come again.
func (r *request) fields(into []hpack.HeaderField, authority, authorization string) []hpack.HeaderField {
	into = append(into,
		hpack.HeaderField{Name: ":method", Value: http.MethodPost},
		hpack.HeaderField{Name: ":scheme", Value: "https"},
		hpack.HeaderField{Name: ":authority", Value: authority},
		hpack.HeaderField{Name: ":path", Value: "/3/device/" + r.token, Sensitive: true},
		hpack.HeaderField{Name: "content-type", Value: "application/json; charset=utf-8"},
		hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(r.payload)), Sensitive: true},
		hpack.HeaderField{Name: "user-agent", Value: "mailbell"},
		hpack.HeaderField{Name: "apns-push-type", Value: string(apns2.PushTypeAlert)},
		hpack.HeaderField{Name: "apns-priority", Value: priority})
	set := func(name, value string, isUnique bool) {
		if value != "" {
			into = append(into, hpack.HeaderField{Name: name, Value: value, Sensitive: isUnique})
		}
	}
	set("authorization", authorization, false)
	set("apns-topic", r.topic, false)
	set("apns-id", r.id, true)
	set("apns-collapse-id", r.collapseID, true)
	set("apns-expiration", r.expiration, true)
	return into
}

var priority = strconv.Itoa(apns2.PriorityHigh)

// attempt sends a notification once, if allowed does not object directly before it would go out. It waits for the answer until ctx ends, or
// until a time; zero: there is none.
func (g *gateway) attempt(ctx context.Context, until time.Time, n *request, allowed func() error) response {
	for {
		r := g.access.Load().attempt(ctx, until, n, allowed)
		if !errors.Is(r.err, errLeft) { // else it waited for its turn, and another credential serves by now
			return r
		}
	}
}

func (a *access) attempt(ctx context.Context, until time.Time, n *request, allowed func() error) response {
	r := response{access: a}
	if !n.isSendable() {
		r.reason, r.err = outcome.NotSendable, errNotSendable
		return r
	}
	r.bearer = a.credential.bearer()
	var answer h2.Ending
	var c *connection
	answer, c, r.written, r.err = a.pool.send(ctx, until, n, r.bearer, allowed)
	if r.err != nil {
		if said, ok := errors.AsType[*goneAway](r.err); ok && ruleFor(0, said.reason).reaction == hold {
			r.reason = said.reason
		}
		if c != nil {
			r.replacedIn = c.replacedIn()
		}
		return r
	}
	r.read(answer)
	a.gateway.metrics.answered(r.status, r.reason)
	switch does := r.rule(); {
	case does.replace && does.reaction == again: // it serves the others until another connection is dialled
		c.replace("replaced after " + string(r.why()))
	case does.replace: // it is no good for the others either
		c.retire("replaced after " + string(r.why()))
	}
	r.replacedIn = c.replacedIn()
	return r
}

var errNotSendable = errors.New("it is no notification that APNs could be asked to send")

// read takes in an answer.
func (r *response) read(a h2.Ending) {
	r.status, r.retryAfter = a.Status, retryAfter(a.RetryAfter)
	isApples := true
	if len(bytes.TrimSpace(a.Body)) > 0 { // an acceptance has no body
		var said apns2.Response
		isApples = json.Unmarshal(a.Body, &said) == nil
		if isApples {
			r.reason, r.gone = known(said.Reason), said.Timestamp.Time
		}
	}
	r.foreign = !isApples || r.reason == "" && r.status != http.StatusOK
}

// retryAfter reads the header field; empty: there is none, as with nearly every answer.
func retryAfter(s string) time.Duration {
	if s == "" {
		return 0
	}
	return backoff.RetryAfter(http.Header{"Retry-After": {s}}, maxRetryAfter)
}
