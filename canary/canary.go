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
	o       Options
	metrics *metrics
	flying  atomic.Int32 // messages under way: while there are none, an observer has nothing to look at

	mu   sync.Mutex
	list []*bird
}

// bird is a mailbox that sends itself mail. Canary.mu guards it.
type bird struct {
	mailbox string
	flight  *flight // nil: no message is under way
	state   State   // of what is over
	err     error   // why the message cannot be sent, or what became of it; nil: all is well
	success time.Time
	took    time.Duration
	lost    int
	next    time.Time
}

// flight is a message under way.
type flight struct {
	token  string // in its subject
	began  time.Time
	key    mail.Key // zero: it was not read yet
	reason outcome.Reason
	landed chan struct{} // closed when an alert was accepted
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
		c.list = append(c.list, &bird{mailbox: m, state: Waiting})
	}
	c.metrics = newMetrics(o.Metrics, c)
	return c
}

// Run sends and follows messages until ctx ends. It is called once.
func (c *Canary) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, b := range c.list {
		all.Go(func() { c.keep(ctx, b) })
	}
	all.Wait()
}

// keep sends one message after another. One that takes longer than the time between two has the next wait for it.
func (c *Canary) keep(ctx context.Context, b *bird) {
	due := time.Now()
	for c.round(ctx, b) {
		due = due.Add(c.o.Every)
		if now := time.Now(); due.Before(now) {
			due = now
		}
		c.until(b, due)
		if !pause.For(ctx, time.Until(due)) {
			return
		}
	}
}

// round sends one message and follows it to its end. false: ctx has ended.
func (c *Canary) round(ctx context.Context, b *bird) bool {
	f, ok := c.launch(ctx, b)
	if f == nil {
		return ok
	}
	over := time.NewTimer(time.Until(f.began.Add(min(c.o.Every, patience))))
	defer over.Stop()
	select {
	case <-f.landed:
	case <-over.C:
		c.miss(b, f)
	case <-ctx.Done():
		return false
	}
	return true
}

// launch tries to send a message until it is sent, or the turn of the next one has come. nil: it was not; false: ctx has ended.
func (c *Canary) launch(ctx context.Context, b *bird) (f *flight, ok bool) {
	turn := time.Now().Add(c.o.Every)
	for {
		f := c.begin(b) // before it is sent: its alert may be faster than the answer
		limited, cancel := context.WithTimeout(ctx, sending)
		err := c.o.Send(limited, b.mailbox, subject(f.token))
		cancel()
		if err == nil || landed(f) {
			c.sent(b)
			return f, true
		}
		wait := min(resend, c.o.Every)
		if errors.Is(err, ErrNotYet) {
			wait = min(notYet, c.o.Every)
			err = nil
		}
		next := time.Now().Add(wait)
		if err != nil && next.After(turn) {
			c.unsent(b, f, err, turn, true)
			return nil, ctx.Err() == nil
		}
		c.unsent(b, f, err, next, false)
		if !pause.For(ctx, wait) {
			return nil, false
		}
	}
}

// subject has the token of a message, and says to a person who finds it what it is.
func subject(token string) string { return "mailbell canary " + token }

func landed(f *flight) bool {
	select {
	case <-f.landed:
		return true
	default:
		return false
	}
}

func (c *Canary) begin(b *bird) *flight {
	f := &flight{token: rand.Text(), began: time.Now(), landed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	b.flight, b.next = f, time.Time{}
	c.flying.Add(1)
	return f
}

// end takes a message out of the air, if it is there. The mutex is held.
func (c *Canary) end(b *bird, f *flight) bool {
	if b.flight != f {
		return false
	}
	b.flight = nil
	c.flying.Add(-1)
	return true
}

// sent notes that a message could be sent, where the one before could not.
func (c *Canary) sent(b *bird) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.state != NotSent {
		return
	}
	b.state, b.err = Accepted, nil
	if b.success.IsZero() {
		b.state = Waiting
	}
}

// unsent notes that a message was not sent; counts: and will not be. No error: it is only too early.
func (c *Canary) unsent(b *bird, f *flight, err error, next time.Time, counts bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end(b, f) {
		return
	}
	b.next = next
	if err != nil {
		b.state, b.err = NotSent, err
	}
	if counts {
		b.lost++
		c.metrics.lost.WithLabelValues(lostUnsent).Inc()
	}
}

// miss gives a message up.
func (c *Canary) miss(b *bird, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.end(b, f) {
		return // its alert was accepted at the last moment
	}
	b.state, b.err = Lost, f.fault(CodeLost, "no alert of a canary was accepted within "+min(c.o.Every, patience).String())
	b.lost++
	c.metrics.lost.WithLabelValues(lostMissed).Inc()
}

func (c *Canary) until(b *bird, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.next = next
}

// fault says what is wrong with a message, and how far it is known to have come.
func (f *flight) fault(code, text string) *fault.Error {
	switch {
	case f.key == mail.Key{}:
		text += "; mailbell has not read it"
	case f.reason != "":
		text += "; mailbell has read it, and its alert waits or was not sent: " + string(f.reason)
	default:
		text += "; mailbell has read it"
	}
	return &fault.Error{Op: "canary", Code: code, Text: text, Scope: fault.Mailbox, Remedy: fault.Fix}
}

// Read implements inbox.Observer: a message was read.
func (c *Canary) Read(key mail.Key, m *mail.Message) {
	if c.flying.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.list {
		if b.flight != nil && strings.Contains(m.Subject, b.flight.token) { // a transport rule may have put a word before it
			b.flight.key = key
		}
	}
}

// Decided implements inbox.Observer: there is a decision about a message.
func (c *Canary) Decided(d subscriptions.Decision) {
	if c.flying.Load() == 0 || d.Key == (mail.Key{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.list {
		f := b.flight
		switch {
		case f == nil || f.key != d.Key:
		case d.Outcome != outcome.Accepted:
			f.reason = d.Reason
		default:
			c.end(b, f)
			b.state, b.err, b.success, b.took = Accepted, nil, d.At, d.At.Sub(f.began)
			c.metrics.took.Observe(b.took.Seconds())
			close(f.landed)
		}
	}
}

// Standing tells how each mailbox stands, in the order of the options.
func (c *Canary) Standing() []Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Standing, len(c.list))
	for i, b := range c.list {
		list[i] = b.standing(c.o.Within)
	}
	return list
}

func (b *bird) standing(within time.Duration) Standing {
	s := Standing{Mailbox: b.mailbox, State: b.state, LastSuccess: b.success, Took: b.took, Lost: b.lost, Next: b.next}
	if b.err != nil {
		s.Fault = fault.Of(b.err)
	}
	f := b.flight
	if f == nil {
		return s
	}
	s.Began = f.began
	switch {
	case b.state == Lost: // until one comes through
	case time.Since(f.began) > within:
		s.State, s.Fault = Late, f.fault(CodeLate, "no alert of a canary was accepted within "+within.String())
	case b.state == Waiting:
		s.State = UnderWay
	}
	return s
}

// oldest is the last success of the mailbox that has waited for one the longest; false: one has had none since the start.
func (c *Canary) oldest() (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.list {
		if b.success.IsZero() {
			return time.Time{}, false
		}
		if at.IsZero() || b.success.Before(at) {
			at = b.success
		}
	}
	return at, len(c.list) > 0
}
