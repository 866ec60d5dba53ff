package push

// This file is one attempt to send one notification.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/sideshow/apns2"
)

// maxRetryAfter bounds what APNs may ask for in Retry-After.
const maxRetryAfter = time.Hour

// request is a notification as it goes to APNs.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
type request struct {
	token, topic, id, collapseID, expiration string // the last three may be empty
	payload                                  []byte
}

func requestOf(n subscriptions.Notification) *request {
	r := &request{token: n.Phone.Token, topic: n.Phone.Topic, id: n.PushID.String(), collapseID: n.CollapseID, payload: n.Payload}
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

// The headers that are the same for all. net/http reads them only.
var (
	contentType = []string{"application/json; charset=utf-8"}
	userAgent   = []string{"mailbell"}
	pushType    = []string{string(apns2.PushTypeAlert)}
	priority    = []string{strconv.Itoa(apns2.PriorityHigh)}
)

// signed is the request with a provider token; empty: its connection has a certificate.
func (r *request) signed(at *url.URL, bearer string) *http.Request {
	header := http.Header{"Content-Type": contentType, "User-Agent": userAgent, "Apns-Push-Type": pushType, "Apns-Priority": priority}
	values := make([]string, 0, 5)
	set := func(name, value string) {
		if value != "" {
			values = append(values, value)
			header[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	set("Apns-Topic", r.topic)
	set("Apns-Id", r.id)
	set("Apns-Collapse-Id", r.collapseID)
	set("Apns-Expiration", r.expiration)
	if bearer != "" {
		set("Authorization", "bearer "+bearer)
	}
	to := *at
	to.Path = "/3/device/" + r.token
	return &http.Request{Method: http.MethodPost, URL: &to, Host: to.Host, Header: header, Proto: "HTTP/2.0", ProtoMajor: 2}
}

// attempt sends a notification once, if allowed does not object directly before it would go out.
func (g *gateway) attempt(ctx context.Context, n *request, allowed func() error) response {
	for {
		r := g.access.Load().attempt(ctx, n, allowed)
		if !errors.Is(r.err, errLeft) { // else it waited for its turn, and another credential serves by now
			return r
		}
	}
}

func (a *access) attempt(ctx context.Context, n *request, allowed func() error) response {
	r := response{access: a}
	if !n.isSendable() {
		r.reason, r.err = outcome.NotSendable, errNotSendable
		return r
	}
	r.bearer = a.credential.bearer()
	var answer *answer
	var c *connection
	answer, c, r.written, r.err = a.pool.send(ctx, n.signed(a.gateway.url, r.bearer), n.payload, allowed)
	if r.err != nil {
		if said, ok := errors.AsType[*goneAway](r.err); ok && ruleFor(0, said.reason).reaction == hold {
			r.reason = said.reason
		}
		return r
	}
	r.read(answer)
	a.gateway.metrics.answered(r.status, r.reason)
	if r.rule().replace {
		c.retire("replaced after " + string(r.why()))
	}
	return r
}

var errNotSendable = errors.New("it is no notification that APNs could be asked to send")

// read takes in an answer.
func (r *response) read(a *answer) {
	r.status, r.retryAfter = a.status, retryAfter(a.header.Get("Retry-After"))
	var said apns2.Response
	isApples := len(bytes.TrimSpace(a.body)) == 0 || json.Unmarshal(a.body, &said) == nil
	if isApples {
		r.reason, r.gone = known(said.Reason), said.Timestamp.Time
	}
	r.foreign = !isApples || r.reason == "" && r.status != http.StatusOK
}

// retryAfter reads the seconds of the header.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
