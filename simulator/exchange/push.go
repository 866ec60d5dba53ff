package exchange

// Push subscriptions: the server posts a SendNotification to the URL of the Subscribe. Unlike a stream, what is not accepted is posted
// again.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

const (
	// DefaultPushRetry is the first wait before a post is repeated; each further one is twice as long.
	DefaultPushRetry = 30 * time.Second
	// pushTimeout bounds a post.
	pushTimeout = 10 * time.Second
	pushVersion = "Exchange2016" // that a server says in a post
	maxPushURL  = 2083
	maxResult   = 64 << 10
)

// pusher posts for the push subscriptions of a host.
type pusher struct {
	client *http.Client
	retry  time.Duration
	ctx    context.Context
	stop   context.CancelFunc
	posts  sync.WaitGroup
}

func newPusher(retry time.Duration, roots *x509.CertPool) *pusher {
	if retry <= 0 {
		retry = DefaultPushRetry
	}
	p := &pusher{retry: retry, client: &http.Client{
		Timeout:       pushTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
	}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

func (p *pusher) close() {
	p.stop()
	p.posts.Wait()
	p.client.CloseIdleConnections()
}

// push is what a push subscription has besides.
type push struct {
	url       string
	frequency time.Duration
	wake      chan struct{} // there are events
	gone      chan struct{} // the subscription has ended
	count     uint64        // of events ever: the watermark
}

// mark is a watermark as Exchange's look.
func (p *push) mark(box guid.GUID) string {
	b := append(make([]byte, 0, 30), 1, 0, 0, 0)
	b = append(b, box[:]...)
	b = binary.BigEndian.AppendUint64(b, p.count)
	return base64.StdEncoding.EncodeToString(append(b, 1))
}

// pushRequest reads a PushSubscriptionRequest; code is the error that it deserves.
func pushRequest(req *node) (p *push, code, text string, fault *soapFault) {
	minutes, err := strconv.Atoi(req.at("StatusFrequency").value())
	if err != nil || minutes < 1 || minutes > 1440 {
		return nil, "", "", badRequest("The 'StatusFrequency' element is invalid: its value is not from 1 to 1440.")
	}
	at := req.at("URL").value()
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(at) >= maxPushURL {
		return nil, "ErrorInvalidPushSubscriptionUrl", "The URL '" + at + "' is not valid.", nil
	}
	return &push{url: at, frequency: time.Duration(minutes) * time.Minute, wake: make(chan struct{}, 1), gone: make(chan struct{})}, "", "", nil
}

// run posts until the subscription ends: a status at once, then events as they come, and a status where there was nothing for long.
func (x *Host) runPush(s *subscription) {
	for x.postNext(s) {
		timer := time.NewTimer(s.push.frequency)
		select {
		case <-s.push.wake:
		case <-timer.C:
		case <-s.push.gone:
		case <-x.pusher.ctx.Done():
		}
		timer.Stop()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.subs[s.id] == s {
		x.forget(s)
	}
}

// postNext posts what there is, and repeats it until it is accepted; false: the subscription has ended.
func (x *Host) postNext(s *subscription) bool {
	for {
		if s.ended() || x.pusher.ctx.Err() != nil {
			return false
		}
		if _, silent := x.faults.On(pushSilent, s.box.address, ""); silent {
			return x.swallow(s)
		}
		body, events, more := x.takePush(s)
		if events > 0 {
			if _, hit := x.faults.Hit(pushGap, s.box.address, ""); hit {
				if !more {
					return true
				}
				continue
			}
		}
		if goesOn := x.postUntil(s, body); !goesOn || !more {
			return goesOn
		}
	}
}

func (s *subscription) ended() bool {
	select {
	case <-s.push.gone:
		return true
	default:
		return false
	}
}

// swallow loses what there is to post.
func (x *Host) swallow(s *subscription) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	s.push.count += uint64(len(s.queue))
	s.queue = nil
	return true
}

// takePush takes the next post out of the queue.
func (x *Host) takePush(s *subscription) (body []byte, events int, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := min(len(s.queue), maxEvents)
	batch := slices.Clone(s.queue[:n])
	s.queue = s.queue[n:]
	more = len(s.queue) > 0
	b := make(markup, 0, 1200+n*400)
	b.raw(xmlDeclaration, `<s:Envelope xmlns:s="`, nsSOAP, `"><s:Header><t:RequestServerVersion Version="`, pushVersion, `" xmlns:t="`, nsTypes, `"/></s:Header><s:Body>`,
		`<m:SendNotification xmlns:t="`, nsTypes, `" xmlns:m="`, nsMessages, `"><m:ResponseMessages><m:SendNotificationResponseMessage ResponseClass="Success">`,
		`<m:ResponseCode>NoError</m:ResponseCode><m:Notification>`)
	b.element("t:SubscriptionId", s.id)
	b.element("t:PreviousWatermark", s.push.mark(s.box.guid))
	b.element("t:MoreEvents", strconv.FormatBool(more))
	for _, e := range batch {
		s.push.count++
		b.pushEvent(s.box.guid, e, x.eventTime(e), s.push.mark(s.box.guid))
	}
	if n == 0 {
		s.push.count++
		b.raw(`<t:StatusEvent>`)
		b.element("t:Watermark", s.push.mark(s.box.guid))
		b.raw(`</t:StatusEvent>`)
	}
	b.raw(`</m:Notification></m:SendNotificationResponseMessage></m:ResponseMessages></m:SendNotification></s:Body></s:Envelope>`)
	return b, n, more
}

// pushEvent writes an event with its watermark, which stands behind what every event begins with.
func (b *markup) pushEvent(box guid.GUID, e event, at, watermark string) {
	name := eventNames[e.kind]
	var plain markup
	plain.event(box, e, at)
	head := `<t:` + name + `>`
	b.raw(head, `<t:Watermark>`, watermark, `</t:Watermark>`, string(plain[len(head):]))
}

// postUntil posts until it is accepted, within the time of StatusFrequency; false: the subscription has ended.
func (x *Host) postUntil(s *subscription, body []byte) bool {
	wait, waited := x.pusher.retry, time.Duration(0)
	for {
		accepted, goesOn := x.post(s, body)
		if accepted {
			return goesOn
		}
		if waited+wait > s.push.frequency {
			x.logf("push: %s: given up", s.box.address)
			return false
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.push.gone:
		case <-x.pusher.ctx.Done():
		}
		timer.Stop()
		if s.ended() || x.pusher.ctx.Err() != nil {
			return false
		}
		waited += wait
		wait *= 2
	}
}

// post posts once.
func (x *Host) post(s *subscription, body []byte) (accepted, goesOn bool) {
	if _, hit := x.faults.Hit(pushUnreachable, s.box.address, ""); hit {
		return false, true
	}
	if x.onMessage != nil {
		x.onMessage("request", "SendNotification", body)
	}
	req, err := http.NewRequestWithContext(x.pusher.ctx, http.MethodPost, s.push.url, bytes.NewReader(body))
	if err != nil {
		return false, true
	}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("User-Agent", "ExchangeServicesPushClient")
	resp, err := x.pusher.client.Do(req)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			x.logf("push: %s: not reached", s.box.address)
		}
		return false, true
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResult))
	if err != nil || resp.StatusCode != http.StatusOK {
		return false, true
	}
	root, err := parseXML(bytes.NewReader(answer))
	if err != nil {
		return false, true
	}
	switch root.kid(nsSOAP, "Body").kid(nsMessages, "SendNotificationResult").kid(nsMessages, "SubscriptionStatus").value() {
	case "OK":
		return true, true
	case "Unsubscribe":
		return true, false
	}
	return false, true
}
