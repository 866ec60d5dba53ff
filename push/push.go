// Package push sends notifications to the Apple Push Notification service, and knows what its answers mean. It knows nothing of mail.
//
// A Sender takes one notification for one phone (Push) and returns what became of it. It keeps nothing: a notification is held while
// the call lasts, for half a minute at most, and what could not be sent by then is the caller's to bring again.
//
//   - delivery.go: the way of one notification, until it is settled; reactions.go: what is done about each answer.
//   - answers.go: what each answer asks for; the one table.
//   - gateway.go: an APNs host with a credential, and whether anything can be sent through it; topics.go: which topic has which.
//   - throttle.go, quarantine.go, guard.go: the phones that have to wait, that APNs accepts nowhere, and that are not to be removed.
//   - late.go: those that are not answered, which let others go first.
//   - standing.go, refusals.go: what is asked about topics and phones.
//   - attempt.go, response.go: one request, and what it came to.
//   - pool.go, post.go, connection.go: the connections, and what waits for them; dial.go: how they are made. Package h2 is HTTP/2.
//   - credential.go, access.go: the provider token or the certificate; how a new one takes over.
//   - trial.go: one notification, or none, to see whether APNs lets us in.
package push

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"

	"github.com/mailbell/mailbell/proxy"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The environments of APNs.
const (
	production = "production"
	sandbox    = "sandbox"
)

// Topic is an app in an environment, and how APNs is reached for it. Topics with the same URL and credential share their
// connection. It has a key or a certificate, never both.
type Topic struct {
	Topic       string // the app's bundle id
	Environment string // production or sandbox
	URL         string // https://host[:port]; empty: Apple's of that environment
	Key         Key
	Certificate *tls.Certificate // for TLS, with its leaf parsed; nil: the key
	Outbound    proxy.Settings   // trust roots and proxy
}

// Readiness is told when what could not be sent can be sent again. It must not wait for anything.
type Readiness interface {
	TopicReady(topic, environment string)
}

// Options of a Sender.
type Options struct {
	Topics  []Topic
	Send    bool // false: everything is refused with the reason send_off, and nothing leaves
	Log     *zap.Logger
	Metrics prometheus.Registerer
	Ready   Readiness

	// Held says whether the state is this instance's own; nil: it always is. It is asked directly before each attempt, its stream
	// free (rule 13). What has not begun waits with it, and is given up where it wraps subscriptions.ErrFollowed.
	Held func() error
}

// Sender sends notifications. Its methods may be called at the same time.
type Sender struct {
	send       bool
	held       func() error
	log        *zap.Logger
	metrics    *metrics
	apps       map[app]*gateway
	gateways   []*gateway
	throttle   throttle
	quarantine quarantine
	refusals   refusals
	late       late

	life context.Context // of all that the sender does
	stop context.CancelFunc
	work sync.WaitGroup // its goroutines

	mu      sync.Mutex     // closing is closed, and calls added to, under it
	closing chan struct{}  // closed: nothing new is begun
	calls   sync.WaitGroup // under way
}

// New checks the topics and signs a first token with each key. A certificate that has expired holds its topics and no others. It
// connects to nothing: that is for the first notification. The error names every topic that cannot work.
func New(o Options) (*Sender, error) {
	s := &Sender{send: o.Send, held: o.Held, log: o.Log, metrics: newMetrics(o.Metrics), apps: make(map[app]*gateway),
		throttle: newThrottle(), quarantine: newQuarantine(), refusals: newRefusals(), late: newLate(), closing: make(chan struct{})}
	if s.held == nil {
		s.held = always
	}
	s.life, s.stop = context.WithCancel(context.Background())
	var errs []error
	for _, t := range o.Topics {
		if err := s.add(t, o.Ready); err != nil {
			errs = append(errs, fmt.Errorf("apns topic %q (%s): %w", t.Topic, t.Environment, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.stop()
		return nil, err
	}
	for _, g := range s.gateways {
		g.access.Load().start()
	}
	return s, nil
}

// Ready reports whether notifications for a topic are let in. Whoever has written down that one waits for TopicReady asks this
// after the write: the call may have come before it.
func (s *Sender) Ready(topic, environment string) bool {
	g := s.apps[app{topic, environment}]
	if g == nil {
		return false
	}
	shut, _ := g.state()
	return shut == ""
}

// begin counts a call, unless the sender is closing. A call that has begun says calls.Done.
func (s *Sender) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return false
	}
	s.calls.Add(1)
	return true
}

func (s *Sender) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Close begins nothing more, waits for the answers to what was sent until ctx ends, and closes the connections.
func (s *Sender) Close(ctx context.Context) {
	s.mu.Lock()
	if !s.isClosing() {
		close(s.closing)
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	s.stop()
	<-ended // no call outlasts the sender's life, and only calls start goroutines
	s.work.Wait()
}
