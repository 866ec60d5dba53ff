package webhooks

// One receiver: what waits for it, and when it is tried. While it fails nothing overtakes: the oldest event is tried again and again, at
// growing intervals. An event that a receiver refuses which is well is set aside, and tried again at growing intervals of its own, so that it
// does not hold the others.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// maxWaiting bounds the events that wait for a receiver: each mailbox of a large installation may fail at once. An event has some 300 bytes.
	maxWaiting = 20_000
	// maxOften bounds the part of them that events of a frequent kind may have.
	maxOften = maxWaiting / 4
	// attemptTimeout bounds one try; the specification recommends 15 to 30 seconds.
	attemptTimeout = 20 * time.Second
	// maxAge is how long an event is tried: the specification recommends "multiple days".
	maxAge = 3 * 24 * time.Hour
	// maxAsked bounds the wait that a receiver asks for.
	maxAsked = time.Hour
	// maxAnswer bounds what is read of an answer, so that its connection can be used again.
	maxAnswer = 4 << 10
)

// retry is the pause after failures: seconds first, as the specification has it, and at most as long as a receiver that came back should
// wait for what it missed.
var retry = backoff.Policy{First: 5 * time.Second, Max: 10 * time.Minute}

// What became of an event, in the metric.
const (
	delivered  = "delivered"
	overflow   = "overflow" // there was no room
	givenUp    = "given_up" // it was tried for maxAge
	refusedAll = "gone"     // the receiver wants no events any more
)

// The verdicts of a receiver about an event.
type verdict uint8

const (
	taken   verdict = iota
	later           // the receiver is not well
	refused         // the receiver is well, and does not take this event
	gone            // the receiver wants none any more
)

// endpoint is one receiver.
type endpoint struct {
	hook    Hook
	agent   string
	log     *zap.Logger
	client  *http.Client
	failed  prometheus.Counter
	results map[string]prometheus.Counter
	wake    chan struct{} // a signal: something waits

	mu       sync.Mutex
	secrets  [][]byte
	queue    []message // the oldest first; only run takes from it
	aside    []message // those that were refused, likewise
	often    map[string]int
	full     bool      // an event found no room since nothing waited last
	failures int       // in a row
	refusals int       // of those aside, in a row
	again    time.Time // one of those aside is tried then
	state    Standing  // Next is of all events
}

func newEndpoint(h Hook, agent string, log *zap.Logger) *endpoint {
	return &endpoint{hook: h, agent: agent, log: log, wake: make(chan struct{}, 1), secrets: h.Secrets, often: map[string]int{}, state: Standing{Name: h.Name},
		client: &http.Client{Transport: h.Transport, Timeout: attemptTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, // "3xx: Failure"
	}
}

func (e *endpoint) wants(kind string) bool {
	return len(e.hook.Events) == 0 || slices.Contains(e.hook.Events, kind)
}

func (e *endpoint) setSecrets(secrets [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secrets = secrets
}

// add has a message wait, where there is room for it.
func (e *endpoint) add(m message, often bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.state.Gone:
		e.lose(refusedAll, 1)
		return
	case len(e.queue)+len(e.aside) >= maxWaiting, often && e.often[m.kind] >= maxOften:
		if !e.full { // thousands may follow
			e.full = true
			e.log.Error("events are lost, too many wait for their webhook", zap.String("event", m.kind), zap.Int("waiting", len(e.queue)+len(e.aside)), zap.Error(e.state.Err))
		}
		e.lose(overflow, 1)
		return
	}
	if often {
		m.often = true
		e.often[m.kind]++
	}
	e.queue = append(e.queue, m)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// lose counts messages that are not sent. The mutex is held.
func (e *endpoint) lose(result string, n int) {
	e.results[result].Add(float64(n))
	e.state.Lost += n
}

// first is what is to be sent now, or how long nothing is; 0: until something waits.
func (e *endpoint) first(now time.Time) (m message, wait time.Duration, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := 0
	for _, list := range []*[]message{&e.queue, &e.aside} {
		for ; len(*list) > 0 && now.Sub((*list)[0].queued) > maxAge; old++ {
			e.drop(list)
		}
	}
	if old > 0 { // thousands may have begun to wait at once
		e.log.Error("events given up, their webhook did not take them", zap.Int("events", old), zap.Error(e.state.Err))
		e.lose(givenUp, old)
	}
	next, waits := e.next()
	switch {
	case !waits:
		return m, 0, false
	case next.After(now):
		return m, next.Sub(now), false
	case len(e.queue) == 0, len(e.aside) > 0 && !e.again.After(now):
		return e.aside[0], 0, true
	}
	return e.queue[0], 0, true
}

// next is when an event is to be sent. false: none waits. The mutex is held.
func (e *endpoint) next() (at time.Time, waits bool) {
	switch {
	case len(e.queue) == 0 && len(e.aside) == 0:
		return at, false
	case len(e.queue) == 0 && e.again.After(e.state.Next):
		return e.again, true
	}
	return e.state.Next, true
}

// drop takes the first message out of a list. The mutex is held.
func (e *endpoint) drop(list *[]message) message {
	m := (*list)[0]
	(*list)[0] = message{}
	*list = (*list)[1:]
	if m.often {
		e.often[m.kind]--
	}
	return m
}

func (e *endpoint) run(ctx context.Context) {
	defer e.client.CloseIdleConnections()
	defer func() {
		if n := e.standing().Waiting; n > 0 {
			e.log.Warn("events lost at the stop", zap.Int("events", n))
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m, wait, ok := e.first(time.Now())
		if ok {
			v, asked, err := e.try(ctx, m)
			if ctx.Err() != nil {
				return
			}
			e.settle(m, v, asked, err)
			continue
		}
		due := timer.C
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
			due = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-e.wake: // where the receiver fails, first says to wait on
		}
	}
}

// try sends a message once. asked is how long the receiver wants to be left alone.
func (e *endpoint) try(ctx context.Context, m message) (v verdict, asked time.Duration, err error) {
	e.mu.Lock()
	secrets := e.secrets
	e.mu.Unlock()
	at := strconv.FormatInt(time.Now().Unix(), 10)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.hook.URL, bytes.NewReader(m.body))
	if err != nil {
		return later, 0, errors.New("the URL of the webhook cannot be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", e.agent)
	r.Header.Set("webhook-id", m.id)
	r.Header.Set("webhook-timestamp", at)
	r.Header.Set("webhook-signature", sign(secrets, m.id, at, m.body))
	a, err := e.client.Do(r)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err // without the URL, whose path is all that some receivers ask for
		}
		return later, 0, proxy.Explain("POST to the webhook "+e.hook.Name, err)
	}
	defer a.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(a.Body, maxAnswer))
	v = judge(a.StatusCode)
	if v == taken {
		return v, 0, nil
	}
	return v, backoff.RetryAfter(a.Header, maxAsked), answered(e.hook.Name, a.StatusCode)
}

// judge says what a status means; the specification has the table.
func judge(status int) verdict {
	switch {
	case status >= 200 && status < 300:
		return taken
	case status == http.StatusGone:
		return gone
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return later
	case status >= 400 && status < 500:
		return refused
	}
	return later
}

// answered is the error of an answer.
func answered(hook string, status int) error {
	f := &fault.Error{Op: "POST to the webhook " + hook, Code: "HTTP " + strconv.Itoa(status), Scope: fault.Server, Remedy: fault.Retry, Text: "its receiver did not take the event"}
	switch {
	case status == http.StatusGone:
		f.Remedy, f.Text = fault.Fix, "its receiver wants no events any more: nothing is sent to it until mailbell is restarted"
	case status == http.StatusTooManyRequests:
		f.Text = "its receiver has too many requests"
	case status >= 300 && status < 400:
		f.Remedy, f.Text = fault.Fix, "its receiver redirects, which is not followed: correct the url"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.Remedy, f.Text = fault.Fix, "its receiver does not accept the signature: compare secret_file with the receiver's secret"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		f.Remedy, f.Text = fault.Fix, "there is no receiver at its url"
	}
	return f
}

// settle notes what became of a message, which is the first of its list.
func (e *endpoint) settle(m message, v verdict, asked time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	list := &e.queue
	if m.refused {
		list = &e.aside
	}
	if v == taken {
		e.drop(list)
		e.results[delivered].Inc()
		e.state.Delivered++
		e.failures, e.state.LastSuccess, e.state.Err, e.state.Next = 0, now, nil, time.Time{}
		e.full = e.full && len(e.queue)+len(e.aside) > 0
		if m.refused { // the others that are aside may be taken too
			e.refusals, e.again = 0, time.Time{}
		}
		return
	}
	e.failed.Inc()
	e.state.LastFailure, e.state.Err = now, err
	switch v {
	case gone:
		e.log.Error("webhook switched off, its receiver wants no events any more", zap.Error(err), zap.Int("lost", len(e.queue)+len(e.aside)))
		e.lose(refusedAll, len(e.queue)+len(e.aside))
		e.queue, e.aside, e.often, e.state.Gone, e.state.Next = nil, nil, map[string]int{}, true, time.Time{}
	case refused:
		e.refuse(list, now, asked)
	default:
		e.failures++
		e.state.Next = now.Add(retry.Wait(e.failures, asked))
	}
}

// refuse sets the first message of a list aside, or back behind those that are. The mutex is held.
func (e *endpoint) refuse(list *[]message, now time.Time, asked time.Duration) {
	m := (*list)[0]
	pause := 0
	if !m.refused { // a receiver that refuses all gets no burst of new events
		pause = 1
	}
	if m.refused || len(e.aside) == 0 {
		e.refusals++
		e.again = now.Add(retry.Wait(e.refusals, asked))
	}
	(*list)[0] = message{}
	*list = (*list)[1:]
	m.refused = true
	e.aside = append(e.aside, m)
	e.failures, e.state.Next = 0, now.Add(retry.Wait(pause, asked))
}

func (e *endpoint) standing() Standing {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state
	s.Waiting = len(e.queue) + len(e.aside)
	s.Next, _ = e.next()
	return s
}
