// Package inbox works off marked mailboxes. It is where the log of a mailbox (package subscriptions) is read on:
//
//	hint -> the mailbox is marked -> one worker reads it -> the alerts are decided and sent -> one write records what became of them
//
// A hint is never believed to be the mail, and never queued: the set of marked mailboxes is all there is. Whatever goes wrong on the
// way ends in a mark, so there is one way to recover and not five. Where a mailbox lives and who tells of its mail is the listener's
// business; this room reads through the Link that it is given.
//
// The rules of the log, each with the file that has it. rules_test.go has the tests by the same numbers.
//
//  1. The key of a message comes from its Message-ID and the time it was sent, or from what it has instead: mail.Secret.Key.
//  2. A hint that names items is read by their ids and moves nothing; what is dated before since and not known is late: hints.go,
//     subscriptions.Record.Enter.
//  3. Only a complete listing moves listed, in one write: listing.go, subscriptions.Record.Complete.
//  4. A received time that would decide against an alert is believed in a listing only; listed passes no clock; a clock that falls
//     behind since restarts the mailbox: believed, Record.Complete, restart.
//  5. A mailbox starts at its first enrolment and a device at its own, on the server's clock less the tolerance (mail.Tolerance); a
//     record outlives its last device by a quarter of an hour, asleep: start, subscriptions.Book.
//  6. A device that a message could not reach now is behind, decided in the write; it catches up from a listing, outside the worker.
//     A push belongs to its phone, and is in flight until the write that holds its answer has ended: round.go, push.go, flight.go, late.go, catchup.go,
//     subscriptions.Record.Enter.
//  7. Hints are a set of marked mailboxes; one worker at a time on each: marks.go, lane.go.
//  8. Mail older than max_age is summed up under one collapse id, mail older than a day leads to no alert: alerts.Judge.
//  9. A message that cannot be read while its mailbox can leads to a generic alert after three tries; one that is not found is looked for once more:
//     unreadable.go.
//  10. A repeat has the ids of the first push, and comes only of an answer that was lost: doubts.go, package push.
//  11. Subscribe, open the stream, then list; subscriptions outlive a restart: package listener/streaming.
//  12. One thing flows back: a mailbox is marked, or a topic is ready again: Mailbox.List, Inbox.TopicReady.
//
// Lock order: Inbox.mu before those of the parts of a Mailbox, which know nothing of each other, and that of the marks before that of the
// polls. None is held during a call to another room.
package inbox

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Options of an Inbox.
type Options struct {
	Book     *subscriptions.Book
	Sender   Sender
	Unenrol  func(ctx context.Context, d subscriptions.Device, reason outcome.Reason) error // removes a device whose phone APNs declared gone
	Lost     func(d subscriptions.Device, of subscriptions.Decision)                        // is told of an alert that APNs refused for good; nil: nobody is
	Observer Observer                                                                       // may be nil
	Content  alerts.Content                                                                 // what alerts show
	MaxAge   time.Duration                                                                  // older mail is summed up (rule 8)
	Log      *zap.Logger
	Metrics  prometheus.Registerer
}

// Inbox works off the mailboxes that were opened.
type Inbox struct {
	o       Options
	secret  mail.Secret
	log     *zap.Logger
	metrics *metrics

	working  context.Context // of reads, alerts and writes; ends at the latest when grace is over after Close was called
	stop     context.CancelFunc
	stopping atomic.Bool
	grace    time.Duration
	seed     maphash.Seed // of the hashes of item ids
	crew     *crew        // workers, pushers, catch-ups: a task is begun from a task, or while mu is held and stopping is false

	answering *alarm // after firstAnswer
	accepting *alarm // after writeAfter
	polls     polls  // of the mailboxes

	correlated atomic.Uint32 // the newest correlation; it begins at random, so that the process started next has others

	mu      sync.Mutex
	open    map[*subscriptions.Mailbox]*Mailbox
	lanes   map[string]*lane // by exchange entry
	pushers map[app]*pushers
}

// app is a topic in an environment of APNs: its phones are reached on the same connections.
type app struct{ topic, environment string }

// grace is how long what is in flight may take at a stop: longer than an answer of APNs and the write behind it take, and well within the
// 30 s that a supervisor is told to allow, of which the API and the connections to APNs need their part. An answer that is late while
// others are answered (up to 15 s) does not fit in: that alert is sent again after the next start.
const grace = 12 * time.Second

var errStopping = errors.New("mailbell is stopping")

// New returns an inbox in which no mailbox is open.
func New(o Options) *Inbox {
	in := &Inbox{o: o, secret: o.Book.Secret(), log: o.Log, metrics: newMetrics(o.Metrics), grace: grace, seed: maphash.MakeSeed(), crew: newCrew(),
		answering: newAlarm(firstAnswer), accepting: newAlarm(writeAfter), open: map[*subscriptions.Mailbox]*Mailbox{}, lanes: map[string]*lane{}, pushers: map[app]*pushers{}}
	in.correlated.Store(rand.Uint32())
	in.working, in.stop = context.WithCancel(context.Background())
	return in
}

// Open begins the work on a mailbox of the book, or goes on with it where it is open already. It is read once a Link is attached.
func (in *Inbox) Open(box *subscriptions.Mailbox) *Mailbox {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := in.open[box]
	switch {
	case m == nil:
		m = newMailbox(in, box)
		in.open[box] = m
	case !in.stopping.Load():
		m.wake()
	}
	return m
}

// Close takes no hint any more. What is being sent is finished and written within a bound, and the rest is found again at the next
// start.
func (in *Inbox) Close() {
	in.mu.Lock()
	in.stopping.Store(true) // under mu: from now on no task begins
	in.mu.Unlock()
	timer := time.AfterFunc(in.grace, in.stop)
	for _, m := range in.mailboxes() {
		m.rest()
	}
	in.crew.end()
	for _, m := range in.mailboxes() { // the last answers may have led to decisions that no write of a record has taken along
		m.deliver(in.working)
	}
	timer.Stop()
	in.stop()
}

// TopicReady has the devices of a topic catch up that were behind because it was away (rule 12).
func (in *Inbox) TopicReady(topic, environment string) {
	for _, m := range in.mailboxes() {
		m.topicReady(topic, environment)
	}
}

// Idle names the exchange entries whose marked mailboxes nobody works off, though the server would let them be read: none were taken since it
// was called last. It is for a watchdog, which calls it from time to time; what waits for a server, for APNs or for the state is not idle.
func (in *Inbox) Idle() (exchange []string) {
	in.mu.Lock()
	lanes := maps.Clone(in.lanes)
	in.mu.Unlock()
	if in.stopping.Load() {
		return nil
	}
	for name, l := range lanes {
		if l.idles() {
			exchange = append(exchange, name)
		}
	}
	slices.Sort(exchange)
	return exchange
}

// run begins a task, unless the inbox is closing.
func (in *Inbox) run(task func()) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopping.Load() {
		return false
	}
	in.crew.run(task)
	return true
}

func (in *Inbox) mailboxes() []*Mailbox {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := make([]*Mailbox, 0, len(in.open))
	for _, m := range in.open {
		list = append(list, m)
	}
	return list
}

// forget drops a mailbox that was closed, once nothing of it is under way. Whoever opens it again before that gets the same one.
func (in *Inbox) forget(m *Mailbox) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.open[m.box] == m && m.marks.isClosed() && !m.atWork() {
		delete(in.open, m.box)
	}
}

// lane of an exchange entry.
func (in *Inbox) lane(exchange string) *lane {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.lanes[exchange]
	if l == nil {
		l = newLane(in)
		in.lanes[exchange] = l
	}
	return l
}
