// Package webhooks tells the MDM portal what it wants to know at once: that a device is gone, that no alerts come for a mailbox, that an
// alert was lost. It sends by Standard Webhooks (https://www.standardwebhooks.com): a POST of JSON with an id, a time and a signature, which
// is tried again until the receiver takes it.
//
// Each receiver has a queue and a worker of its own, so that one that is slow or dead delays neither mail nor another. What waits is in
// memory: a stop loses it, and a receiver learns of that by the event service.started.
package webhooks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

// Hook is a receiver.
type Hook struct {
	Name      string
	URL       string
	Secrets   [][]byte // that sign: one, or two while the receiver goes over to the second
	Events    []string // that it wants; empty: all
	Transport http.RoundTripper
}

// Options of New; all but Hooks are required.
type Options struct {
	Hooks   []Hook
	Agent   string // the User-Agent
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Sender sends events.
type Sender struct {
	log       *zap.Logger
	endpoints []*endpoint
}

// Event is what happened. Data has ids and reasons, never a token or anything of a message.
type Event struct {
	Type string
	At   time.Time
	Data any
	// Often says that there may be thousands of its kind at once. It takes a part of a queue only, so that rarer events find room.
	Often bool
}

// New returns a sender. Run sends; before, events wait.
func New(o Options) *Sender {
	f := promauto.With(o.Metrics)
	events := f.NewCounterVec(prometheus.CounterOpts{
		Name: "mailbell_webhook_events_total", Help: "Events for a webhook, by what became of them."}, []string{"webhook", "result"})
	failures := f.NewCounterVec(prometheus.CounterOpts{
		Name: "mailbell_webhook_failures_total", Help: "Tries of a webhook that its receiver did not take."}, []string{"webhook"})
	s := &Sender{log: o.Log}
	for _, h := range o.Hooks {
		e := newEndpoint(h, o.Agent, o.Log.With(zap.String("webhook", h.Name)))
		e.failed = failures.WithLabelValues(h.Name)
		e.results = map[string]prometheus.Counter{}
		for _, result := range []string{delivered, overflow, givenUp, refusedAll} {
			e.results[result] = events.WithLabelValues(h.Name, result)
		}
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "mailbell_webhook_waiting", Help: "Events that wait for a webhook.",
			ConstLabels: prometheus.Labels{"webhook": h.Name}}, func() float64 { return float64(e.standing().Waiting) })
		s.endpoints = append(s.endpoints, e)
	}
	return s
}

// Send has an event sent to all that want it. It does not wait.
func (s *Sender) Send(e Event) {
	var m *message
	for _, to := range s.endpoints {
		if !to.wants(e.Type) {
			continue
		}
		if m == nil {
			m = newMessage(e)
		}
		to.add(*m, e.Often)
	}
}

// Try sends an event to a receiver once. An error says why it is not taken.
func Try(ctx context.Context, h Hook, agent string, e Event) error {
	to := newEndpoint(h, agent, zap.NewNop())
	defer to.client.CloseIdleConnections()
	_, _, err := to.try(ctx, *newMessage(e))
	return err
}

// message is an event as it is sent.
type message struct {
	id     string
	kind   string
	body   []byte
	queued time.Time
	often  bool

	refused bool // by a receiver that is well
}

func newMessage(e Event) *message {
	body, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{e.Type, e.At.UTC(), e.Data})
	if err != nil {
		panic(err) // one of our types cannot be JSON: a defect, which the first test of the event shows
	}
	return &message{id: "msg_" + rand.Text(), kind: e.Type, body: body, queued: time.Now()}
}

// Run sends until ctx ends. What waits then is lost.
func (s *Sender) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, e := range s.endpoints {
		all.Go(func() { e.run(ctx) })
	}
	all.Wait()
}

// SetSecrets has a webhook sign with other secrets from the next try on.
func (s *Sender) SetSecrets(name string, secrets [][]byte) {
	if i := slices.IndexFunc(s.endpoints, func(e *endpoint) bool { return e.hook.Name == name }); i >= 0 {
		s.endpoints[i].setSecrets(secrets)
	}
}

// Standing is how a webhook stands.
type Standing struct {
	Name        string
	Waiting     int
	Delivered   int // since the start
	Lost        int // since the start: there was no room, or it was tried for too long
	LastSuccess time.Time
	LastFailure time.Time
	Err         error     // of the last try; nil: it was taken, or there was none
	Next        time.Time // the next try, after one that failed
	Gone        bool      // the receiver has answered 410: nothing is sent to it any more
}

// Standing says how each webhook stands, in the order of the configuration.
func (s *Sender) Standing() []Standing {
	list := make([]Standing, len(s.endpoints))
	for i, e := range s.endpoints {
		list[i] = e.standing()
	}
	return list
}
