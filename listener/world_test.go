package listener

// The world of the tests of the log: an Exchange, an APNs and a state in memory, in which a test says what happens when, to the
// instant (testing/synctest). The real ones are tested with the whole program.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "alice@contoso.example"
	bob   = "bob@contoso.example"
)

type world struct {
	t     *testing.T
	store *storetest.Memory
	book  *subscriptions.Book
	l     *Listener
	ex    *exchange
	apns  *apns
	poll  time.Duration
	entry func(e *Entry) // changes the exchange entry before the start
	also  []Entry        // further exchange entries
}

// inWorld runs a test in fake time, with a service that has not been started.
func inWorld(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: &storetest.Memory{}, poll: 30 * time.Minute,
			ex: &exchange{boxes: map[string]*inbox{}}, apns: &apns{t: t, got: map[string]map[string][]push{}}}
		test(w)
		if w.l != nil {
			w.l.Close()
		}
		w.noDuplicates()
	})
}

// start starts the service on the state as it is.
func (w *world) start() {
	w.t.Helper()
	w.store.Reopen()
	w.store.Fail(nil)
	w.apns.life(false)
	var err error
	if w.book, err = subscriptions.Open(context.Background(), w.store); err != nil {
		w.t.Fatal(err)
	}
	e := Entry{
		Name: "hq", Domains: []string{"contoso.example"}, URL: "https://mail.contoso.example/EWS/Exchange.asmx",
		MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, SafetyPoll: w.poll,
		Accounts: []Account{{Name: "listener-01", Source: w.ex}},
	}
	if w.entry != nil {
		w.entry(&e)
	}
	w.l = New(Options{Book: w.book, Ringer: w.apns, MaxAge: time.Hour, Log: zap.NewNop(), Entries: append([]Entry{e}, w.also...)})
	w.l.Start()
	synctest.Wait()
}

// kill ends the service at this instant: nothing more is written, nothing more is sent, and answers under way are lost.
func (w *world) kill() {
	w.store.Fail(errors.New("killed"))
	w.apns.life(true)
	w.l.mu.Lock()
	w.l.stopping.Store(true)
	w.l.mu.Unlock()
	w.l.stop()
	w.l.Close()
	w.l = nil
	for _, keys := range w.apns.got { // what was answered within the second before may come again
		for _, pushes := range keys {
			if last := &pushes[len(pushes)-1]; time.Since(last.at) < time.Second {
				last.cut = true
			}
		}
	}
}

// stop is a graceful stop.
func (w *world) stop() {
	w.l.Close()
	w.l = nil
}

func (w *world) enrol(id, mailbox string) {
	w.t.Helper()
	w.enrolToken(id, mailbox, "token-of-"+id)
}

func (w *world) enrolToken(id, mailbox, token string) {
	w.t.Helper()
	_, _, err := w.l.Enrol(context.Background(), subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: token, Topic: "com.contoso.mail", Environment: "production"})
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) remove(id string) {
	w.t.Helper()
	if ok, err := w.l.Remove(context.Background(), id); !ok || err != nil {
		w.t.Fatal(ok, err)
	}
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// rang says that a message reached a device so many times alone or in a summary, in truth.
func (w *world) rang(times int, device string, messages ...*message) {
	w.t.Helper()
	for _, m := range messages {
		if got := len(w.apns.pushes(device, w.key(device, m))); got != times {
			w.t.Errorf("%s reached %s %d times, want %d", m.id, device, got, times)
		}
	}
}

// key by which a device's mailbox knows a message.
func (w *world) key(device string, m *message) mail.Key {
	d, ok := w.book.Device(device)
	if !ok {
		w.t.Fatalf("%s is not enrolled", device)
	}
	msg := m.tell()
	return w.book.Secret().Key(d.Record, &msg)
}

// reasons of a device's mailbox: what became of a message, newest first.
func (w *world) reasons(mailbox string, k mail.Key) (list []string) {
	for _, d := range w.l.Hearing(w.book.Mailbox(mailbox)).Decisions {
		if d.Key == k {
			list = append(list, cmp.Or(d.Reason, d.Outcome))
		}
	}
	return list
}

func (w *world) record(mailbox string) *subscriptions.Record { return w.book.Mailbox(mailbox).Record() }

func (w *world) level(mailbox string) {
	w.t.Helper()
	if b := w.record(mailbox).Behind; len(b) > 0 {
		w.t.Errorf("devices are behind: %+v", b)
	}
}

// noDuplicates holds promise 2: nothing reaches a device twice, but for a repeat, with the same ids, of what was lost in flight.
func (w *world) noDuplicates() {
	w.t.Helper()
	for device, keys := range w.apns.got {
		for k, pushes := range keys {
			for i, p := range pushes[1:] {
				before := pushes[i]
				if !before.cut {
					w.t.Errorf("%s reached %s twice, and the first had been answered", k, device)
				}
				if before.id != p.id && !before.summary && !p.summary {
					w.t.Errorf("%s was sent again under another collapse id", k)
				}
			}
		}
	}
}

// exchange is the Source.
type exchange struct {
	t        *testing.T
	url      string // of its entry: credentials that come for another have gone astray
	mu       sync.Mutex
	boxes    map[string]*inbox
	homes    map[string]bool   // the mailboxes that live here; nil: all do
	servers  map[string]string // the mailbox server of each, as answers name it
	looks    int
	skew     time.Duration // its clock minus ours
	n        int
	lists    int
	onList   func(offset int)     // called before a page is answered, without the lock
	onSub    func(mailbox string) // called before the answer to a Subscribe comes, without the lock
	onLook   func(mailbox string) // the same, to a Look
	deafen   bool                 // hints are dropped
	fails    error                // every call
	readFail error
	subFail  map[string]error
	tries    int // calls of Subscribe
	subs     map[string]*inbox
	unsubs   []string
	streams  []*stream
}

type inbox struct {
	address string
	items   []*message
	sub     string
	queue   []ews.Event
	stream  *stream
}

type message struct {
	id         string
	internetID string
	subject    string
	received   time.Time
	told       time.Time // what a read tells as received, where that is another time
	sent       time.Time
	unreadable bool
}

func (m *message) tell() mail.Message {
	return mail.Message{ItemID: m.id, InternetID: m.internetID, Subject: m.subject, Received: m.received, Sent: m.sent, Class: "IPM.Note"}
}

func (e *exchange) now() time.Time { return time.Now().Add(e.skew) }

func (e *exchange) box(address string) *inbox {
	if e.boxes[address] == nil {
		e.boxes[address] = &inbox{address: address}
	}
	return e.boxes[address]
}

func (e *exchange) itemID() string { return fmt.Sprintf("%s item-%04d", e.url, e.n) }

// come delivers a message; change may say when it was received and so on.
func (e *exchange) come(address string, change ...func(m *message)) *message {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	m := &message{id: e.itemID(), internetID: fmt.Sprintf("<%d%s@fabrikam.example>", e.n, e.url), subject: fmt.Sprint("No. ", e.n),
		received: e.now().Truncate(time.Second), sent: e.now().Add(-time.Second)}
	for _, f := range change {
		f(m)
	}
	b := e.box(address)
	b.items = append(b.items, m)
	if !e.deafen {
		e.tell(b, m)
	}
	return m
}

// tell sends a hint, or queues it where no stream is open.
func (e *exchange) tell(b *inbox, m *message) {
	if b.sub == "" {
		return
	}
	ev := ews.Event{Subscription: b.sub, ItemID: m.id, Time: time.Now()}
	if b.stream == nil {
		b.queue = append(b.queue, ev)
		return
	}
	b.stream.events <- ews.Notifications{Events: []ews.Event{ev}, At: time.Now()}
}

// hint sends one more hint of a message.
func (e *exchange) hint(address string, m *message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(e.box(address), m)
}

func (e *exchange) quietly(f func()) {
	e.set(func() { e.deafen = true })
	f()
	e.set(func() { e.deafen = false })
}

// set changes what the exchange does.
func (e *exchange) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// mend makes a message readable.
func (e *exchange) mend(m *message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.unreadable = false
}

// take removes messages from an Inbox: deleted, or moved out.
func (e *exchange) take(address string, gone ...*message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.box(address)
	b.items = slices.DeleteFunc(b.items, func(m *message) bool { return slices.Contains(gone, m) })
}

// back moves a message back in: it has another item id.
func (e *exchange) back(address string, m *message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	m.id = e.itemID()
	b := e.box(address)
	b.items = append(b.items, m)
}

func (e *exchange) clock(p mail.Location) Clock {
	return Clock{Server: e.now().Truncate(time.Second), Ours: time.Now(), Backend: e.servers[p.Primary]}
}

// row is an error of the table, by its code and the text that it is known by.
func row(code, text string) *ews.Error {
	rows := ews.Rows()
	r := rows[slices.IndexFunc(rows, func(r ews.Row) bool { return r.Code == code && r.Text == text })]
	return &ews.Error{Row: r, Fault: &fault.Error{Op: "test", Code: code, Text: r.Meaning, Scope: r.Scope, Remedy: r.Remedy, After: r.After, Elsewhere: r.Elsewhere}}
}

// refuses says why a call for a mailbox fails; nil: it does not.
func (e *exchange) refuses(p mail.Location) error {
	if e.url != "" && p.URL != e.url {
		e.t.Errorf("%s was asked with the credentials for %s", p.URL, e.url)
	}
	if e.fails == nil && e.homes != nil && !e.homes[p.Primary] {
		return row("ErrorNonExistentMailbox", "")
	}
	return e.fails
}

func (e *exchange) Look(_ context.Context, p mail.Location) (string, error) {
	e.mu.Lock()
	f := e.onLook
	e.mu.Unlock()
	if f != nil {
		defer f(p.Primary)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.looks++
	return e.servers[p.Primary], e.refuses(p)
}

func (e *exchange) Read(_ context.Context, p mail.Location, items []string) (list []ews.Item, _ Clock, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := cmp.Or(e.refuses(p), e.readFail); err != nil {
		return nil, Clock{}, err
	}
	for _, id := range items {
		i := slices.IndexFunc(e.box(p.Primary).items, func(m *message) bool { return m.id == id })
		switch {
		case i < 0:
			list = append(list, ews.Item{ID: id, Err: itemError("ErrorItemNotFound", fault.GiveUp)})
		case e.box(p.Primary).items[i].unreadable:
			list = append(list, ews.Item{ID: id, Err: itemError("ErrorItemCorrupt", fault.Retry)})
		default:
			m := e.box(p.Primary).items[i]
			msg := m.tell()
			if !m.told.IsZero() {
				msg.Received = m.told
			}
			list = append(list, ews.Item{ID: id, Message: &msg})
		}
	}
	return list, e.clock(p), nil
}

func itemError(code string, r fault.Remedy) error {
	return &ews.Error{Fault: &fault.Error{Op: "GetItem", Code: code, Scope: fault.Message, Remedy: r}, Row: ews.Row{Code: code, Scope: fault.Message, Remedy: r}}
}

func (e *exchange) List(_ context.Context, p mail.Location, offset, limit int) (Page, error) {
	e.mu.Lock()
	f := e.onList
	e.mu.Unlock()
	if f != nil {
		f(offset)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lists++
	if err := e.refuses(p); err != nil {
		return Page{}, err
	}
	items := slices.Clone(e.box(p.Primary).items)
	slices.SortStableFunc(items, func(a, b *message) int { return b.received.Compare(a.received) })
	page := Page{Clock: e.clock(p)}
	for i := offset; i < len(items) && i < offset+limit; i++ {
		page.Messages = append(page.Messages, items[i].tell())
	}
	page.Last = offset+limit >= len(items)
	return page, nil
}

func (e *exchange) Subscribe(_ context.Context, p mail.Location, _ Affinity) (string, string, error) {
	e.mu.Lock()
	f := e.onSub
	e.mu.Unlock()
	if f != nil {
		defer f(p.Primary)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tries++
	if err := e.refuses(p); err != nil {
		return "", "", err
	}
	if err := e.subFail[p.Primary]; err != nil {
		return "", "", err
	}
	e.n++
	b := e.box(p.Primary)
	b.sub, b.queue = fmt.Sprint(e.url, "sub-", e.n), nil
	if e.subs == nil {
		e.subs = map[string]*inbox{}
	}
	e.subs[b.sub] = b
	return b.sub, "cookie", nil
}

func (e *exchange) Unsubscribe(_ context.Context, p mail.Location, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuses(p); err != nil {
		return err
	}
	e.unsubs = append(e.unsubs, id)
	delete(e.subs, id)
	return nil
}

func (e *exchange) Stream(_ context.Context, p mail.Location, _ Affinity, ids []string) (Stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuses(p); err != nil {
		return nil, err
	}
	s := &stream{e: e, events: make(chan ews.Notifications, 10_000), words: make(chan error, 10), closed: make(chan struct{}), ids: slices.Clone(ids)}
	var lost []string
	for _, id := range ids {
		b := e.subs[id]
		if b == nil || b.sub != id {
			lost = append(lost, id)
			continue
		}
		if b.stream != nil {
			b.stream.finish(&ews.Error{Fault: &fault.Error{Op: "GetStreamingEvents", Code: "ErrorNewEventStreamConnectionOpened", Scope: fault.Group, Remedy: fault.Retry},
				Row: ews.Row{Code: "ErrorNewEventStreamConnectionOpened"}})
		}
		b.stream = s
		if len(b.queue) > 0 {
			s.events <- ews.Notifications{Events: b.queue, At: time.Now()}
			b.queue = nil
		}
	}
	if len(lost) > 0 {
		s.words <- lostSubscription(lost...)
	}
	e.streams = append(e.streams, s)
	return s, nil
}

// end ends every stream: with io.EOF on the server's word, else without one, and what was under way is lost.
func (e *exchange) end(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.streams {
		s.finish(err)
	}
}

var errReset = errors.New("connection reset")

// forget forgets a mailbox's subscription; its stream says so where one is open.
func (e *exchange) forget(address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.box(address)
	delete(e.subs, b.sub)
	if s := b.stream; s != nil {
		s.words <- lostSubscription(b.sub)
	}
	b.sub, b.stream = "", nil
}

func lostSubscription(ids ...string) error {
	return &ews.Error{Fault: &fault.Error{Op: "GetStreamingEvents", Code: "ErrorSubscriptionNotFound", Scope: fault.Group, Remedy: fault.Retry},
		Row: ews.Row{Code: "ErrorSubscriptionNotFound", Resubscribe: true, CatchUp: true}, Subscriptions: ids}
}

type stream struct {
	e      *exchange
	ids    []string
	events chan ews.Notifications
	words  chan error
	once   sync.Once
	err    error
	closed chan struct{}
}

// finish is called with the exchange's lock held.
func (s *stream) finish(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.closed)
		for _, id := range s.ids {
			if b := s.e.subs[id]; b != nil && b.stream == s {
				b.stream = nil
			}
		}
	})
}

func (s *stream) Next() (ews.Notifications, error) {
	select {
	case err := <-s.words:
		return ews.Notifications{}, err
	case n := <-s.events:
		return n, nil
	case <-s.closed:
		return ews.Notifications{}, s.err
	}
}

func (s *stream) Close() error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.finish(io.ErrClosedPipe)
	return nil
}

// push is what reached a device, in truth.
type push struct {
	id      string // the collapse id
	summary bool
	cut     bool // its answer did not reach the service
	at      time.Time
	n       int // of a summary
}

// apns is the Ringer.
type apns struct {
	t  *testing.T
	mu sync.Mutex
	// answer decides about a bell before it is taken; nil, or a zero Result, accepts.
	answer func(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer
	delay  time.Duration // between taking a push and its answer
	dead   bool
	killed chan struct{}
	got    map[string]map[string][]push // by device and message key
	flying map[string]bool
}

// set changes what APNs does.
func (a *apns) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// life kills the service's side, or has it born again.
func (a *apns) life(dead bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead = dead; dead {
		close(a.killed)
		return
	}
	a.killed = make(chan struct{})
	a.flying = map[string]bool{}
}

func (a *apns) Ready(string, string) bool { return false }

func (a *apns) Ring(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer {
	a.mu.Lock()
	f, killed, dead := a.answer, a.killed, a.dead
	a.mu.Unlock()
	if dead || ctx.Err() != nil {
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
	}
	if f != nil {
		if ans := f(ctx, d, b); ans.Result != 0 {
			return ans
		}
	}
	id := b.Keys[0].String()
	if b.Summary {
		id = "summary"
	}
	a.mu.Lock()
	if a.dead || ctx.Err() != nil {
		a.mu.Unlock()
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
	}
	if a.got[d.ID] == nil {
		a.got[d.ID] = map[string][]push{}
	}
	for _, k := range b.Keys {
		if a.flying[d.ID+k.String()] {
			a.t.Errorf("two pushes of one message to %s at the same time", d.ID)
		}
		a.flying[d.ID+k.String()] = true
		a.got[d.ID][k.String()] = append(a.got[d.ID][k.String()], push{id: id, summary: b.Summary, cut: true, at: time.Now(), n: len(b.Keys)})
	}
	delay := a.delay
	a.mu.Unlock()

	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-killed:
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range b.Keys {
		a.flying[d.ID+k.String()] = false
		if !a.dead { // the answer comes through
			list := a.got[d.ID][k.String()]
			list[len(list)-1].cut = false
		}
	}
	if a.dead {
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: "unanswered"}
	}
	return subscriptions.Answer{Result: subscriptions.Accepted, At: time.Now(), Status: 200}
}

func (a *apns) pushes(device string, k mail.Key) []push {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got[device][k.String()])
}

// hold makes a device answer "not before" until the returned function is called; next is 0 where the sender says when.
func (a *apns) hold(device, reason string, next time.Duration) (release func()) {
	held := true
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.answer
	a.answer = func(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer {
		a.mu.Lock()
		h := held
		a.mu.Unlock()
		if d.ID == device && h {
			ans := subscriptions.Answer{Result: subscriptions.NotBefore, Reason: reason}
			if next > 0 {
				ans.Next = time.Now().Add(next)
			}
			return ans
		}
		if before != nil {
			return before(ctx, d, b)
		}
		return subscriptions.Answer{}
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		held = false
	}
}

func contains(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) })
}
