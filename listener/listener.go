// Package listener keeps mailboxes heard, reads them, and has their devices rung. It is where the log of the mailboxes
// (package subscriptions) is worked off:
//
//	hint (stream, timer, start, a device that is ready again) -> the mailbox is marked -> one worker reads it
//	    -> decides and rings -> records what is done
//
// A hint is never believed to be the mail, and never queued: the set of marked mailboxes is all there is (rule 7). Whatever
// goes wrong on the way ends in a mark, so there is one way to recover and not five.
//
//	place.go    where a mailbox lives, and which account and group hear it
//	group.go    the subscriptions that share a stream, and the stream
//	mailbox.go  marks, back-off, standing
//	worker.go   reading what a hint names
//	listing.go  the complete listing
//	ring.go     ringing the devices in step, and the one write of the outcome
//	catchup.go  the devices that are behind
package listener

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// MaxAccounts is how many listener accounts one instance owns, the first ones of the configuration; with 1,250 mailboxes each
// these are 15,000.
const MaxAccounts = 12

// Options of a Listener.
type Options struct {
	Book    *subscriptions.Book
	Ringer  Ringer
	Entries []Entry
	MaxAge  time.Duration // older mail is summed up (rule 8)
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Entry is an exchange entry of the configuration.
type Entry struct {
	Name                       string
	Domains                    []string     // several entries may have a domain: they are asked in their order
	URL                        string       // of EWS, where it is configured; else the accounts have a Finder
	MailboxServers             []string     // only their mailboxes are heard, by short or full names; none: all
	Dialect                    *ews.Dialect // of the accounts' clients, for who asks; may be nil
	Accounts                   []Account
	MailboxesPerAccount        int
	SubscriptionsPerConnection int
	SafetyPoll                 time.Duration
}

// Account is a listener account.
type Account struct {
	Name   string
	Source Source
	Finder Finder
}

// Listener hears the mailboxes of a book.
type Listener struct {
	o       Options
	log     *zap.Logger
	metrics *metrics
	entries []*entry

	hearing  context.Context // streams and placing: ends first
	working  context.Context // reads, alerts and writes: ends when what is in flight has had its time
	deafen   context.CancelFunc
	stop     context.CancelFunc
	stopping atomic.Bool
	placed   atomic.Bool
	grace    time.Duration
	tasks    sync.WaitGroup // groups and workers; grows only while mu is held and stopping is false

	mu    sync.Mutex
	boxes map[*subscriptions.Mailbox]*mailbox
}

// New returns a listener that hears nothing yet.
func New(o Options) *Listener {
	l := &Listener{o: o, log: o.Log, boxes: map[*subscriptions.Mailbox]*mailbox{}, grace: grace}
	l.hearing, l.deafen = context.WithCancel(context.Background())
	l.working, l.stop = context.WithCancel(context.Background())
	left := MaxAccounts
	for i := range o.Entries {
		e := newEntry(l, &o.Entries[i], left)
		if more := len(e.Accounts) - len(e.accounts); more > 0 {
			l.log.Warn("listener accounts are left unused: an instance owns 12 at most", zap.String("exchange", e.Name), zap.Int("unused", more))
		}
		left -= len(e.accounts)
		l.entries = append(l.entries, e)
	}
	l.metrics = newMetrics(o.Metrics, l)
	return l
}

// Start watches every mailbox of the book.
func (l *Listener) Start() {
	for _, b := range l.o.Book.Mailboxes() {
		l.watch(b)
	}
}

// grace is how long what is in flight may take at a stop: the longest wait for APNs and the write behind it, well within the
// 30 s that a supervisor is told to allow.
const grace = 12 * time.Second

// Close stops hearing: no hint is taken any more, what is being rung is finished and written within a bound, and the rest is
// found again at the next start. Subscriptions are kept for it.
func (l *Listener) Close() {
	l.mu.Lock()
	l.stopping.Store(true) // under mu: from now on nobody watches, and no task begins
	l.mu.Unlock()
	l.deafen()
	late := time.AfterFunc(l.grace, l.stop)
	for _, m := range l.watched() {
		m.rest()
	}
	l.tasks.Wait()
	late.Stop()
	l.stop()
}

// begin counts a task in, unless the listener is stopping.
func (l *Listener) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() {
		return false
	}
	l.tasks.Add(1)
	return true
}

// Enrol enrols a device and has its mailbox heard.
func (l *Listener) Enrol(ctx context.Context, e subscriptions.Enrolment) (subscriptions.Device, bool, error) {
	entries := pin(l.covering(e.Mailbox), e.Exchange)
	switch {
	case len(entries) == 0 && e.Exchange != "":
		return subscriptions.Device{}, false, &subscriptions.FieldError{Field: "exchange", Code: codeNotCovered,
			Detail: fmt.Sprintf("the configuration has no exchange entry %q with the domain %s", e.Exchange, mail.Domain(e.Mailbox))}
	case len(entries) == 0:
		return subscriptions.Device{}, false, &subscriptions.FieldError{Field: "mailbox", Code: codeNotCovered,
			Detail: "no exchange entry of the configuration has the domain " + mail.Domain(e.Mailbox)}
	}
	now := time.Now()
	var since time.Time // not known before the first listing, where nobody knows yet whose clock counts
	if home := l.home(e.Mailbox); home != nil {
		since = home.enrolment(now)
	} else if len(entries) == 1 {
		since = entries[0].enrolment(now)
	}
	done, err := l.o.Book.Enrol(ctx, e, now, since)
	if err != nil {
		return subscriptions.Device{}, false, err
	}
	if done.Ousted != "" {
		l.cut(done.Mailbox, done.Ousted)
	}
	if done.Left != nil {
		l.left(done.Left, e.ID)
	}
	l.watch(done.Mailbox)
	return done.Device, done.Created, nil
}

// Remove ends an enrolment. No alert for the device begins after it has returned.
func (l *Listener) Remove(ctx context.Context, id string) (bool, error) {
	box, ok, err := l.o.Book.Remove(ctx, id)
	if ok {
		l.left(box, id)
	}
	return ok, err
}

// left ends what goes on for a device that a mailbox has no more, and the watch with the last one.
func (l *Listener) left(box *subscriptions.Mailbox, device string) {
	l.cut(box, device)
	if len(box.Devices()) == 0 {
		l.unwatch(box)
	} else if m := l.mailbox(box); m != nil {
		m.cover(l.working) // it may have been the one that pinned it
	}
}

// unwatch ends the watch of a mailbox that has no device any more, unless one has come since.
func (l *Listener) unwatch(box *subscriptions.Mailbox) {
	l.mu.Lock()
	m := l.boxes[box]
	if m != nil && len(box.Devices()) == 0 {
		delete(l.boxes, box)
	}
	l.mu.Unlock()
	if m != nil {
		m.close()
	}
}

func (l *Listener) cut(box *subscriptions.Mailbox, device string) {
	if m := l.mailbox(box); m != nil {
		m.hangUp(device)
	}
}

// watch has a mailbox heard, or has a further device of it served.
func (l *Listener) watch(box *subscriptions.Mailbox) {
	l.mu.Lock()
	m, known := l.boxes[box]
	devices := box.Devices() // under mu: left looks there too, so that neither misses the other
	if !known && !l.stopping.Load() && len(devices) > 0 {
		m = newMailbox(l, box)
		l.boxes[box] = m
	}
	l.mu.Unlock()
	if m != nil {
		m.cover(l.working)
		m.markListing()
	}
}

// mailbox returns the watch of a mailbox of the book; nil: it has none.
func (l *Listener) mailbox(box *subscriptions.Mailbox) *mailbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.boxes[box]
}

// home is the entry that has the mailbox with this address; nil while none is known to.
func (l *Listener) home(address string) *entry {
	m := l.mailbox(l.o.Book.Mailbox(address))
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.place.URL == "" {
		return nil
	}
	return m.e
}

// AccountChanged says that the credential of a listener account was replaced: what was refused is tried again at once.
func (l *Listener) AccountChanged(exchange, account string) {
	for _, e := range l.entries {
		for _, a := range e.accounts {
			if e.Name == exchange && a.Name == account {
				a.changed()
			}
		}
	}
}

// WayChanged says that connections go another way from now on, by another proxy: what failed on its way is tried again at once.
func (l *Listener) WayChanged() {
	for _, e := range l.entries {
		for _, a := range e.accounts {
			a.changed()
		}
	}
	for _, m := range l.watched() {
		m.answers()
	}
}

// TopicReady has the devices of a topic caught up that were behind because it was away. The sender calls it (rule 12).
func (l *Listener) TopicReady(topic, environment string) {
	for _, m := range l.watched() {
		m.topicReady(topic, environment)
	}
}

var errStopping = errors.New("mailbell is stopping")
