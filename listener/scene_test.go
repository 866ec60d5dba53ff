package listener

// The scene of these tests: Exchanges, an APNs and a state in memory, a real inbox and real streaming, in which a test says what happens when,
// to the instant (testing/synctest). The real ones are tested with the whole program.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "alice@contoso.example"
	bob   = "bob@contoso.example"
	carol = "carol@contoso.example"
	topic = "com.contoso.mail"
	hqURL = "https://mail.contoso.example/EWS/Exchange.asmx"
)

// address is one of many mailboxes, in the order of their names.
func address(i int) string { return fmt.Sprintf("user%03d@contoso.example", i) }

// scene is a listener with what is around it.
type scene struct {
	t     *testing.T
	store *storetest.Memory
	book  *subscriptions.Book
	in    *inbox.Inbox
	l     *Listener
	hq    *exchange
	apns  *apns
	poll  time.Duration
	entry func(e *Entry) // changes the entry of hq before the start
	also  []Entry        // further exchange entries

	publicURL string // of the callbacks; empty: there are none

	deliver func(mailbox, subject string) // at a simulated Exchange
}

// inScene runs a test in fake time, with a listener that has not been started: the entry hq, with one account, covers contoso.example.
func inScene(t *testing.T, test func(s *scene)) {
	synctest.Test(t, func(t *testing.T) { playScene(t, test) })
}

// playScene is inScene in a bubble that there is already.
func playScene(t *testing.T, test func(s *scene)) {
	s := &scene{t: t, store: &storetest.Memory{}, poll: 30 * time.Minute, apns: &apns{got: map[string][]string{}}}
	s.hq = &exchange{t: t, boxes: map[string]*folder{}}
	test(s)
	if s.l != nil {
		s.stop()
	}
}

// start starts on the state as it is.
func (s *scene) start() {
	s.t.Helper()
	s.store.Reopen()
	s.store.Fail(nil)
	var err error
	if s.book, err = subscriptions.Open(context.Background(), s.store); err != nil {
		s.t.Fatal(err)
	}
	s.open(s.book)
	synctest.Wait()
}

// open starts on a book.
func (s *scene) open(book *subscriptions.Book) {
	s.book = book
	e := Entry{
		Name: "hq", Domains: []string{"contoso.example"}, URL: hqURL, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, SafetyPoll: s.poll,
		Accounts: []Account{{Name: "listener-01", Source: s.hq, Streams: s.hq}},
	}
	if s.entry != nil {
		s.entry(&e)
	}
	s.in = inbox.New(inbox.Options{Book: s.book, Sender: s.apns, MaxAge: time.Hour, Log: zap.NewNop(),
		Unenrol: func(ctx context.Context, d subscriptions.Device, _ outcome.Reason) error {
			_, err := s.l.RemoveGone(ctx, d)
			return err
		}})
	s.l = New(Options{Book: s.book, Inbox: s.in, Log: zap.NewNop(), PublicURL: s.publicURL, Entries: append([]Entry{e}, s.also...)})
	s.l.Start()
}

// stop is a graceful stop.
func (s *scene) stop() {
	s.l.Close()
	s.in.Close()
	s.l = nil
}

// second is an Exchange of its own with an entry of its own in the same domain: another server, another account, mailboxes of its own.
func (s *scene) second(name string) *exchange {
	e := &exchange{t: s.t, url: "https://" + name + ".example/EWS/Exchange.asmx", boxes: map[string]*folder{}, homes: map[string]bool{}}
	s.also = append(s.also, Entry{
		Name: name, Domains: []string{"contoso.example"}, URL: e.url, MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, SafetyPoll: s.poll,
		Accounts: []Account{{Name: name + "-01", Source: e, Streams: e}},
	})
	return e
}

// hybrid adds a second entry, cloud, to the domain: hq has these mailboxes, and cloud none yet.
func (s *scene) hybrid(atHQ ...string) (hq, cloud *exchange) {
	s.hq.url, s.hq.homes = hqURL, map[string]bool{}
	for _, m := range atHQ {
		s.hq.homes[m] = true
	}
	return s.hq, s.second("cloud")
}

// enrolment of a device.
func enrolment(id, mailbox, token string) subscriptions.Enrolment {
	return subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: token, Topic: topic, Environment: "production"}
}

func (s *scene) enrol(id, mailbox string) {
	s.t.Helper()
	s.pinned(id, mailbox, "")
}

// pinned enrols a device whose mailbox is looked for at one entry only; empty: at all.
func (s *scene) pinned(id, mailbox, exchange string) {
	s.t.Helper()
	e := enrolment(id, mailbox, "token-of-"+id)
	e.Exchange = exchange
	_, _, err := s.l.Enrol(context.Background(), e, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
}

func (s *scene) remove(id string) {
	s.t.Helper()
	if ok, err := s.l.Remove(context.Background(), id, nil); !ok || err != nil {
		s.t.Fatal(ok, err)
	}
}

// pass lets time go by.
func (s *scene) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// accepted says that APNs accepted an alert of each message for a device so many times, alone or in a summary.
func (s *scene) accepted(times int, device string, messages ...*message) {
	s.t.Helper()
	for _, m := range messages {
		if got := s.apns.accepted(device, s.key(device, m)); got != times {
			s.t.Errorf("%s was accepted for %s %d times, want %d", m.id, device, got, times)
		}
	}
}

// key by which a device's mailbox knows a message.
func (s *scene) key(device string, m *message) string {
	d, ok := s.book.Device(device)
	if !ok {
		s.t.Fatalf("%s is not enrolled", device)
	}
	msg := m.tell()
	return s.book.Secret().Key(d.Record, &msg).String()
}

func (s *scene) record(mailbox string) *subscriptions.Record { return s.book.Mailbox(mailbox).Record() }

func (s *scene) mailbox(address string) *mailbox { return s.l.mailbox(s.book.Mailbox(address)) }

func (s *scene) status(mailbox string) subscriptions.Status {
	return s.l.Status(s.book.Mailbox(mailbox))
}

// wantState says that mailboxes are in a state, and returns the status of the last one.
func (s *scene) wantState(want subscriptions.State, mailboxes ...string) (status subscriptions.Status) {
	s.t.Helper()
	for _, m := range mailboxes {
		if status = s.status(m); status.State != want {
			s.t.Errorf("%s is %s (%s); want %s", m, status.State, status.Reason, want)
		}
	}
	return status
}

// listening says that an entry listens to mailboxes.
func (s *scene) listening(entry string, mailboxes ...string) {
	s.t.Helper()
	for _, m := range mailboxes {
		status := s.wantState(subscriptions.Listening, m)
		if status.Location.Entry != entry || status.Account == "" || status.Exchange != entry || status.Reason != "" {
			s.t.Errorf("%s is at %q by %q (%s); want %s", m, status.Location.Entry, status.Account, status.Reason, entry)
		}
	}
}

func (s *scene) inStep(mailbox string) {
	s.t.Helper()
	if b := s.record(mailbox).Behind; len(b) > 0 {
		s.t.Errorf("devices are behind: %+v", b)
	}
}

// exchange is a Source and a streaming.Server.
type exchange struct {
	t           *testing.T
	url         string // of its entry: credentials that come for another have gone astray
	mu          sync.Mutex
	boxes       map[string]*folder
	homes       map[string]bool   // the mailboxes that live here; nil: all do
	servers     map[string]string // the mailbox server of each, as answers name it
	looks       int
	skew        time.Duration // its clock minus ours
	n           int
	lists       int
	asked       int                              // for messages, or lists of them
	throttle    func() error                     // why it refuses to be asked for these; nil: it does not
	onList      func(mailbox string, offset int) // called before a page is answered, without the lock
	onSub       func(mailbox string)             // called before the answer to a Subscribe comes, without the lock
	onLook      func(mailbox string)             // the same, to a Look
	quiet       bool                             // notifications are dropped
	attachAfter time.Duration                    // an opened stream serves its subscriptions, and brings its first envelope, only then
	unaware     bool                             // that a stream was closed: it is written into until another takes over
	fails       error                            // every call
	sick        map[string]error                 // every call for these mailboxes
	readFail    error
	poisoned    map[string]bool // items over which the server fails
	poison      int             // the status of HTTP that tells so; 0: its own answer does
	poisonsAll  bool            // that is the status of the whole call, also of several items
	poisonHolds time.Duration   // nothing is asked for so long after it
	heldUntil   time.Time       // for that
	subFail     map[string]error
	tries       int // calls of Subscribe
	subs        map[string]*folder
	unsubs      []string
	streams     []*openStream
}

type folder struct {
	address string
	items   []*message
	sub     string
	queue   []streaming.Event
	stream  *openStream
}

type message struct {
	id         string
	internetID string
	subject    string
	received   time.Time
	sent       time.Time
}

func (m *message) tell() mail.Message {
	return mail.Message{ItemID: m.id, InternetID: m.internetID, Subject: m.subject, Received: m.received, Sent: m.sent, Class: "IPM.Note"}
}

func (e *exchange) now() time.Time { return time.Now().Add(e.skew) }

func (e *exchange) box(address string) *folder {
	if e.boxes[address] == nil {
		e.boxes[address] = &folder{address: address}
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
	if !e.quiet {
		e.tell(b, m)
	}
	return m
}

// tell sends a hint, or queues it where no stream is open.
func (e *exchange) tell(b *folder, m *message) {
	if b.sub == "" {
		return
	}
	ev := streaming.Event{Subscription: b.sub, Item: m.id}
	if b.stream == nil {
		b.queue = append(b.queue, ev)
		return
	}
	b.stream.events <- streaming.Envelope{Events: []streaming.Event{ev}, At: time.Now()}
}

func (e *exchange) quietly(f func()) {
	e.set(func() { e.quiet = true })
	f()
	e.set(func() { e.quiet = false })
}

// set changes what the exchange does.
func (e *exchange) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *exchange) answer(p mail.Location) Answer {
	return Answer{Clock: e.now().Truncate(time.Second), Ours: time.Now(), Server: e.servers[p.Primary]}
}

// row is an error of the table of EWS, by its code and the text that it is known by.
func row(code, text string) *fault.Error {
	rows := ews.Rows()
	return rowError(rows[slices.IndexFunc(rows, func(r ews.Row) bool { return r.Code == code && r.Text == text })])
}

func rowError(r ews.Row, subscriptions ...string) *fault.Error {
	return &fault.Error{Op: "test", Code: r.Code, Text: r.Meaning, Scope: r.Scope, Remedy: r.Remedy, After: r.After, Elsewhere: r.Elsewhere, Moved: r.Moved,
		Gone: r.Gone, Missed: r.Missed, Unsubscribed: r.Unsubscribed, Misled: r.Misled, Superseded: r.Superseded, Subscriptions: subscriptions}
}

// statusError is an error by its status, of all or, in a batch, of a part.
func statusError(status int, scope fault.Scope) *fault.Error {
	return &fault.Error{Op: "test", Code: "UnknownError", Scope: scope, Remedy: fault.Wait, After: 5 * time.Second, Evidence: fault.Evidence{Status: status}}
}

// refuses says why a call for a mailbox fails; nil: it does not.
func (e *exchange) refuses(p mail.Location) error {
	if e.url != "" && p.URL != e.url {
		e.t.Errorf("%s was asked with the credentials for %s", p.URL, e.url)
	}
	if e.fails == nil && e.homes != nil && !e.homes[p.Primary] {
		return row("ErrorNonExistentMailbox", "")
	}
	if err := e.sick[p.Primary]; err != nil {
		return err
	}
	if held := time.Until(e.heldUntil); held > 0 {
		return &fault.Error{Op: "test", Code: graph.CodeHeld, Scope: fault.Mailbox, Remedy: fault.Retry, After: held}
	}
	return e.fails
}

// ask counts that it is asked for messages or a list of them, and says why it refuses that.
func (e *exchange) ask(p mail.Location) error {
	e.asked++
	if e.throttle != nil {
		if err := e.throttle(); err != nil {
			return err
		}
	}
	return e.refuses(p)
}

func (e *exchange) Kind() mail.Source { return mail.EWS }

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

func (e *exchange) Read(_ context.Context, p mail.Location, ids []string) (list []inbox.Item, _ Answer, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := cmp.Or(e.ask(p), e.readFail); err != nil {
		return nil, Answer{}, err
	}
	for _, id := range ids {
		item := inbox.Item{ID: id}
		if e.poisoned[id] {
			e.heldUntil = time.Now().Add(e.poisonHolds)
		}
		switch poisoned := e.poisoned[id]; {
		case poisoned && e.poison == http.StatusForbidden && !e.poisonsAll:
			item.Err = statusError(e.poison, fault.Account)
			list = append(list, item)
			continue
		case poisoned && e.poison == 0:
			return nil, Answer{}, row("ErrorInternalServerError", "")
		case poisoned && e.poisonsAll:
			f := row(fmt.Sprint("HTTP ", e.poison), "")
			f.Status = e.poison
			return nil, Answer{}, f
		case poisoned && len(ids) == 1 && e.poison >= http.StatusBadGateway:
			return nil, Answer{}, statusError(e.poison, fault.Server)
		case poisoned && len(ids) == 1:
			return nil, Answer{}, statusError(e.poison, fault.Mailbox)
		case poisoned:
			item.Err = statusError(e.poison, fault.Mailbox)
			list = append(list, item)
			continue
		}
		i := slices.IndexFunc(e.box(p.Primary).items, func(m *message) bool { return m.id == id })
		if i < 0 {
			item.Err = row("ErrorItemNotFound", "")
		} else {
			msg := e.box(p.Primary).items[i].tell()
			item.Message = &msg
		}
		list = append(list, item)
	}
	return list, e.answer(p), nil
}

func (e *exchange) Listings() int { return 1000 }

func (e *exchange) Reads() int { return 1000 }

func (e *exchange) List(_ context.Context, p mail.Location, part inbox.Part) (inbox.Page, Answer, error) {
	offset, _ := strconv.Atoi(part.After)
	e.mu.Lock()
	f := e.onList
	e.mu.Unlock()
	if f != nil {
		f(p.Primary, offset)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lists++
	if err := e.ask(p); err != nil {
		return inbox.Page{}, Answer{}, err
	}
	items := slices.Clone(e.box(p.Primary).items)
	slices.SortStableFunc(items, func(a, b *message) int { return b.received.Compare(a.received) })
	page := inbox.Page{Overlaps: true}
	for i := offset; i < len(items) && i < offset+part.Limit; i++ {
		page.Messages = append(page.Messages, items[i].tell())
	}
	if offset+part.Limit < len(items) {
		page.Next = strconv.Itoa(offset + part.Limit - overlap)
	}
	return page, e.answer(p), nil
}

func (e *exchange) Subscribe(_ context.Context, p mail.Location, _ streaming.Affinity) (string, string, error) {
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
		e.subs = map[string]*folder{}
	}
	e.subs[b.sub] = b
	return b.sub, "cookie", nil
}

func (e *exchange) Unsubscribe(_ context.Context, p mail.Location, _ streaming.Affinity, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuses(p); err != nil {
		return err
	}
	e.unsubs = append(e.unsubs, id)
	delete(e.subs, id)
	return nil
}

func (e *exchange) Stream(ctx context.Context, p mail.Location, _ streaming.Affinity, ids []string) (streaming.Stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuses(p); err != nil {
		return nil, err
	}
	s := &openStream{ctx: ctx, e: e, events: make(chan streaming.Envelope, 10_000), reports: make(chan error, 10), closed: make(chan struct{}), ids: slices.Clone(ids)}
	e.streams = append(e.streams, s)
	if e.attachAfter > 0 {
		time.AfterFunc(e.attachAfter, func() { e.set(func() { e.attach(s) }) })
	} else {
		e.attach(s)
	}
	return s, nil
}

// attach has a stream serve its subscriptions, and bring its first envelope. It is called with the lock held.
func (e *exchange) attach(s *openStream) {
	var lost []string
	for _, id := range s.ids {
		b := e.subs[id]
		if b == nil || b.sub != id {
			lost = append(lost, id)
			continue
		}
		if b.stream != nil {
			b.stream.finish(row("ErrorNewEventStreamConnectionOpened", ""))
		}
		b.stream = s
		if len(b.queue) > 0 {
			s.events <- streaming.Envelope{Events: b.queue, At: time.Now()}
			b.queue = nil
		}
	}
	if len(lost) > 0 {
		s.reports <- lostSubscription(lost...)
	}
	s.events <- streaming.Envelope{At: time.Now()}
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
		s.reports <- lostSubscription(b.sub)
	}
	b.sub, b.stream = "", nil
}

func lostSubscription(ids ...string) error {
	f := row("ErrorSubscriptionNotFound", "")
	f.Subscriptions = ids
	return f
}

type openStream struct {
	ctx     context.Context
	e       *exchange
	ids     []string
	events  chan streaming.Envelope
	reports chan error
	once    sync.Once
	err     error
	closed  chan struct{}
}

// finish is called with the exchange's lock held.
func (s *openStream) finish(err error) {
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

func (s *openStream) Next() (streaming.Envelope, error) {
	select {
	case err := <-s.reports:
		return streaming.Envelope{}, err
	case n := <-s.events:
		return n, nil
	case <-s.closed:
		return streaming.Envelope{}, s.err
	case <-s.ctx.Done():
		return streaming.Envelope{}, s.ctx.Err()
	}
}

func (s *openStream) Close() error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if !s.e.unaware {
		s.finish(io.ErrClosedPipe)
	}
	return nil
}

// move takes a mailbox to another Exchange with all that is in it, under other item ids. Its old subscription is silent from then on.
func (e *exchange) move(address string, to *exchange) {
	e.mu.Lock()
	b := e.box(address)
	delete(e.subs, b.sub)
	delete(e.homes, address)
	delete(e.boxes, address)
	e.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	to.homes[address] = true
	there := to.box(address)
	for _, m := range b.items {
		to.n++
		m.id = to.itemID()
		there.items = append(there.items, m)
	}
}

// reports has the streams that are open with a subscription say something about it.
func (e *exchange) reports(subscription string, err *fault.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err.Subscriptions = []string{subscription}
	for _, s := range e.streams {
		select {
		case <-s.closed:
		default:
			if slices.Contains(s.ids, subscription) {
				s.reports <- err
			}
		}
	}
}

// listings is how often a page was asked for.
func (e *exchange) listings() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lists
}

// subscribed is how often a subscription was asked for.
func (e *exchange) subscribed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tries
}

// givenBack are the subscriptions that were given back.
func (e *exchange) givenBack() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.unsubs)
}

// alive are the subscriptions that were made and not given back.
func (e *exchange) alive() map[string]*folder {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.subs)
}

// opened are the streams that were opened, the oldest first.
func (e *exchange) opened() []*openStream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.streams)
}

// looked is how often it was asked whether a mailbox lives here.
func (e *exchange) looked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.looks
}

// finder is an Autodiscover that knows aliases and moves.
type finder struct {
	mu      sync.Mutex
	primary map[string]string
	homes   map[string]bool // who is known; nil: everybody
	url     string
	asked   int
	names   []string // who was asked for
	fails   error
}

// set changes what it knows.
func (f *finder) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// askedFor are the mailboxes that it was asked for.
func (f *finder) askedFor() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.names)
}

func (f *finder) Find(_ context.Context, address string) (mail.Location, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.names = append(f.names, address)
	if f.fails != nil {
		return mail.Location{}, f.fails
	}
	if f.homes != nil && !f.homes[address] {
		return mail.Location{}, &fault.Error{Op: "Autodiscover", Code: "InvalidUser", Scope: fault.Mailbox, Remedy: fault.Fix, Elsewhere: true}
	}
	p := mail.Location{Entry: "hq", URL: f.url, Primary: address, Found: time.Now()}
	if f.primary[address] != "" {
		p.Primary = f.primary[address]
	}
	return p, nil
}

// apns is the Sender. It accepts everything.
type apns struct {
	mu   sync.Mutex
	got  map[string][]string // by device: the keys of the messages
	held map[string]bool     // devices that cannot be sent to now
	gone map[string]bool     // tokens of devices that are gone
	// later are devices that cannot be sent to once, and when they can.
	later map[string]time.Duration
	// stuck are devices for which a push ends with its context only, and how many are under way.
	stuck map[string]int
	last  subscriptions.Notification         // that is stuck
	slow  map[string]chan struct{}           // devices whose pushes are accepted once their channel is closed
	seen  func(n subscriptions.Notification) // told what was accepted, with mu held; may be nil
}

// underWay is how many pushes to a device that is stuck are under way.
func (a *apns) underWay(device string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stuck[device]
}

func (a *apns) Ready(string, string) bool { return false }

func (a *apns) Push(ctx context.Context, n *subscriptions.Notification) subscriptions.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, stuck := a.stuck[n.Device]
	switch {
	case stuck:
		a.stuck[n.Device]++
		a.last = *n
		a.mu.Unlock()
		<-ctx.Done()
		a.mu.Lock()
		a.stuck[n.Device]--
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Unanswered}
	case a.later[n.Device] > 0:
		answer := subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Throttled, Next: time.Now().Add(a.later[n.Device])}
		delete(a.later, n.Device)
		return answer
	case a.held[n.Device]:
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.TopicAway}
	case a.gone[n.Phone.Token]:
		return subscriptions.Answer{Result: subscriptions.Gone, Reason: "Unregistered", At: time.Now(), Status: 410}
	}
	if slow := a.slow[n.Device]; slow != nil {
		a.mu.Unlock()
		<-slow
		a.mu.Lock()
	}
	a.got[n.Device] = append(a.got[n.Device], keys(n.Payload)...)
	if a.seen != nil {
		a.seen(*n)
	}
	return subscriptions.Answer{Result: subscriptions.Accepted, At: time.Now(), Status: 200}
}

// accepted is how often a message was accepted for a device.
func (a *apns) accepted(device, key string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.got[device] {
		if k == key {
			n++
		}
	}
	return n
}

// set has what is accepted told; nil: not any more.
func (a *apns) set(seen func(n subscriptions.Notification)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = seen
}

// hold keeps a device behind until release.
func (a *apns) hold(device string) (release func()) {
	set := func(held bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.held = map[string]bool{device: held}
	}
	set(true)
	return func() { set(false) }
}

// keys are those of the messages of a payload.
func keys(payload []byte) []string {
	var p struct {
		Mailbell struct {
			M  string   `json:"m"`
			MS []string `json:"ms"`
		} `json:"mailbell"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		panic(err)
	}
	if len(p.Mailbell.MS) > 0 {
		return p.Mailbell.MS
	}
	return []string{p.Mailbell.M}
}

// received says when a message was received.
func received(at time.Time) func(m *message) {
	return func(m *message) { m.received = at.Truncate(time.Second) }
}
