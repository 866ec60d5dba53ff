// Package canary has mailboxes send mail to themselves on a schedule, and follows each message until APNs accepts its alert: the whole way
// that mail goes, tried before a person misses an alert.
//
// It has no way of its own through mailbell. The message goes through Exchange and is read, decided and sent as all mail is; the canary sees
// it go by as an inbox.Observer, and knows it by a word in its subject that nobody can guess. What it knows is kept in memory: after a restart
// it starts anew.
package canary

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// patience is how long a message is waited for at most: mail that is older than an hour is summed up with other mail, and is not told
	// from it any more.
	patience = time.Hour
	// sending bounds handing a message over to Exchange: as long as a call may wait and take there.
	sending = time.Minute
	// resend is the pause after a message could not be sent; the reason may pass.
	resend = time.Minute
	// notYet is the pause while mailbell does not know yet where the mailbox is: at the start, for seconds.
	notYet = time.Second
)

// The codes of what is wrong with a canary.
const (
	CodeLate     = "canary late"
	CodeLost     = "canary lost"
	CodeNoDevice = "canary without device"
)

// ErrNotYet says that nothing can be sent before the mailbox has been looked up, which is about to be done.
var ErrNotYet = errors.New("the mailbox has not been looked up yet")

// State of a canary.
type State string

// The states.
const (
	Waiting  State = "waiting"   // nothing was sent since the start
	UnderWay State = "under_way" // the first message is
	Accepted State = "accepted"  // APNs accepted the alert of the newest message that is not under way
	Late     State = "late"      // the message is under way for longer than it should be
	Lost     State = "lost"      // no alert of the last message was accepted
	NotSent  State = "not_sent"  // the message cannot be sent
)

// Options of New. All but Metrics are required.
type Options struct {
	Mailboxes []string
	Every     time.Duration // between two messages of a mailbox
	Within    time.Duration // after that one is late
	// Send has a mailbox send a message with this subject to itself. Its error is ErrNotYet, a *fault.Error, or that of ctx.
	Send    func(ctx context.Context, mailbox, subject string) error
	Metrics prometheus.Registerer
}

// Canary follows the messages of some mailboxes. Its methods are safe for concurrent use.
type Canary struct {
	o        Options
	metrics  *metrics
	underWay atomic.Int32 // messages under way: while there are none, an observer has nothing to look at

	mu   sync.Mutex
	list []*target
}

// target is a mailbox that sends itself mail. Canary.mu guards it.
type target struct {
	mailbox string
	probe   *probe // nil: no message is under way
	state   State  // of what is over
	err     error  // why the message cannot be sent, or what became of it; nil: all is well
	success time.Time
	took    time.Duration
	lost    int
	next    time.Time
}

// probe is a message under way.
type probe struct {
	token   string // in its subject
	began   time.Time
	key     mail.Key // zero: it was not read yet
	reason  outcome.Reason
	arrived chan struct{} // closed when an alert was accepted
}

// Standing is how the canary of a mailbox stands.
type Standing struct {
	Mailbox     string
	State       State
	Fault       *fault.Error  // what is wrong; nil: nothing is known to be
	Began       time.Time     // when the message under way was sent; zero: none is
	LastSuccess time.Time     // when APNs accepted an alert last; zero: not since the start
	Took        time.Duration // from sending that message
	Lost        int           // since the start
	Next        time.Time     // when the next message is sent, or sending it is tried again; zero: one is under way
}

// New returns a canary that sends nothing before Run.
func New(o Options) *Canary {
	c := &Canary{o: o}
	for _, m := range o.Mailboxes {
		c.list = append(c.list, &target{mailbox: m, state: Waiting})
	}
	c.metrics = newMetrics(o.Metrics, c)
	return c
}

// Run sends and follows messages until ctx ends. It is called once.
func (c *Canary) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, t := range c.list {
		all.Go(func() { c.keep(ctx, t) })
	}
	all.Wait()
}

// keep sends one message after another. One that takes longer than the time between two has the next wait for it.
func (c *Canary) keep(ctx context.Context, t *target) {
	due := time.Now()
	for c.round(ctx, t) {
		due = due.Add(c.o.Every)
		if now := time.Now(); due.Before(now) {
			due = now
		}
		c.until(t, due)
		if !pause.For(ctx, time.Until(due)) {
			return
		}
	}
}

// round sends one message and follows it to its end. false: ctx has ended.
func (c *Canary) round(ctx context.Context, t *target) bool {
	p, ok := c.send(ctx, t)
	if p == nil {
		return ok
	}
	over := time.NewTimer(time.Until(p.began.Add(min(c.o.Every, patience))))
	defer over.Stop()
	select {
	case <-p.arrived:
	case <-over.C:
		c.miss(t, p)
	case <-ctx.Done():
		return false
	}
	return true
}

// send tries to send a message until it is sent, or the turn of the next one has come. nil: it was not; false: ctx has ended.
func (c *Canary) send(ctx context.Context, t *target) (p *probe, ok bool) {
	turn := time.Now().Add(c.o.Every)
	for {
		p := c.begin(t) // before it is sent: its alert may be faster than the answer
		limited, cancel := context.WithTimeout(ctx, sending)
		err := c.o.Send(limited, t.mailbox, subject(p.token))
		cancel()
		if err == nil || arrived(p) {
			c.sent(t)
			return p, true
		}
		wait := min(resend, c.o.Every)
		if errors.Is(err, ErrNotYet) {
			wait = min(notYet, c.o.Every)
			err = nil
		}
		next := time.Now().Add(wait)
		if err != nil && next.After(turn) {
			c.unsent(t, p, err, turn, true)
			return nil, ctx.Err() == nil
		}
		c.unsent(t, p, err, next, false)
		if !pause.For(ctx, wait) {
			return nil, false
		}
	}
}

// subject has the token of a message, and says to a person who finds it what it is.
func subject(token string) string { return "mailbell canary " + token }

func arrived(p *probe) bool {
	select {
	case <-p.arrived:
		return true
	default:
		return false
	}
}

func (c *Canary) begin(t *target) *probe {
	p := &probe{token: rand.Text(), began: time.Now(), arrived: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.probe, t.next = p, time.Time{}
	c.underWay.Add(1)
	return p
}

// end has a message not under way any more; false: it was not. The mutex is held.
func (c *Canary) end(t *target, p *probe) bool {
	if t.probe != p {
		return false
	}
	t.probe = nil
	c.underWay.Add(-1)
	return true
}

// sent notes that a message could be sent, where the one before could not.
func (c *Canary) sent(t *target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state != NotSent {
		return
	}
	t.state, t.err = Accepted, nil
	if t.success.IsZero() {
		t.state = Waiting
	}
}

// unsent notes that a message was not sent; counts: and will not be. No error: it is only too early.
func (c *Canary) unsent(t *target, p *probe, err error, next time.Time, counts bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end(t, p) {
		return
	}
	t.next = next
	if err != nil {
		t.state, t.err = NotSent, err
	}
	if counts {
		t.lost++
		c.metrics.lost.WithLabelValues(lostUnsent).Inc()
	}
}

// miss gives a message up.
func (c *Canary) miss(t *target, p *probe) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end(t, p) {
		return // its alert was accepted at the last moment
	}
	t.state, t.err = Lost, p.fault(CodeLost, "no alert of a canary was accepted within "+min(c.o.Every, patience).String())
	t.lost++
	c.metrics.lost.WithLabelValues(lostMissed).Inc()
}

func (c *Canary) until(t *target, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.next = next
}

// fault says what is wrong with a message, and how far it is known to have come.
func (p *probe) fault(code, text string) *fault.Error {
	switch {
	case p.key == mail.Key{}:
		text += "; mailbell has not read it"
	case p.reason != "":
		text += "; mailbell has read it, and its alert waits or was not sent: " + string(p.reason)
	default:
		text += "; mailbell has read it"
	}
	return &fault.Error{Op: "canary", Code: code, Text: text, Scope: fault.Mailbox, Remedy: fault.Fix}
}

// Read implements inbox.Observer: a message was read.
func (c *Canary) Read(key mail.Key, m *mail.Message) {
	if c.underWay.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.list {
		if t.probe != nil && strings.Contains(m.Subject, t.probe.token) { // a transport rule may have put a word before it
			t.probe.key = key
		}
	}
}

// Decided implements inbox.Observer: there is a decision about a message.
func (c *Canary) Decided(d subscriptions.Decision) {
	if c.underWay.Load() == 0 || d.Key == (mail.Key{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.list {
		p := t.probe
		switch {
		case p == nil || p.key != d.Key:
		case d.Outcome != outcome.Accepted:
			p.reason = d.Reason
		default:
			c.end(t, p)
			t.state, t.err, t.success, t.took = Accepted, nil, d.At, d.At.Sub(p.began)
			c.metrics.took.Observe(t.took.Seconds())
			close(p.arrived)
		}
	}
}

// Standing tells how each mailbox stands, in the order of the options.
func (c *Canary) Standing() []Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Standing, len(c.list))
	for i, t := range c.list {
		list[i] = t.standing(c.o.Within)
	}
	return list
}

func (t *target) standing(within time.Duration) Standing {
	s := Standing{Mailbox: t.mailbox, State: t.state, LastSuccess: t.success, Took: t.took, Lost: t.lost, Next: t.next}
	if t.err != nil {
		s.Fault = fault.Of(t.err)
	}
	p := t.probe
	if p == nil {
		return s
	}
	s.Began = p.began
	switch {
	case t.state == Lost: // until one comes through
	case time.Since(p.began) > within:
		s.State, s.Fault = Late, p.fault(CodeLate, "no alert of a canary was accepted within "+within.String())
	case t.state == Waiting:
		s.State = UnderWay
	}
	return s
}

// oldest is the last success of the mailbox that has waited for one the longest; false: one has had none since the start.
func (c *Canary) oldest() (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.list {
		if t.success.IsZero() {
			return time.Time{}, false
		}
		if at.IsZero() || t.success.Before(at) {
			at = t.success
		}
	}
	return at, len(c.list) > 0
}
