package streaming

// A server for the tests: it makes subscriptions, queues what they have to tell, and has streams that end as a test says.

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

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "alice@contoso.example"
	bob   = "bob@contoso.example"
	carol = "carol@contoso.example"
)

// numbered is one of many mailboxes, in the order of their names.
func numbered(i int) string { return fmt.Sprintf("user%03d@contoso.example", i) }

// here is where a mailbox lives, unless a test says otherwise.
func here(address string) *mail.Location {
	return &mail.Location{Entry: "hq", URL: "https://mail.contoso.example/EWS/Exchange.asmx", Group: "site-1", Primary: address}
}

// call is one call of the server.
type call struct {
	op      string // Subscribe, Unsubscribe, Stream
	mailbox string
	url     string
	a       Affinity
	ids     []string
	at      time.Time
}

// server is a Server.
type server struct {
	t *testing.T

	mu      sync.Mutex
	refuse  func(c call) error                      // what a call fails with; nil: nothing fails
	wait    func(ctx context.Context, c call) error // called before a call is answered, without the lock
	single  bool                                    // a stream serves the mailbox only as which it is opened
	closes  bool                                    // a stream ends with the refusal of a subscription
	silent  bool                                    // streams bring no first envelope by themselves
	mutes   string                                  // streams that are opened as this mailbox bring none
	latency time.Duration                           // after which a stream brings what it has
	affine  bool                                    // each mailbox has a server of its own, to which its name as the anchor leads where no cookie does
	says    func(ids []string) error                // what a stream says of its subscriptions; nil: nothing
	ignores bool                                    // an old stream goes on when another is opened with its subscriptions
	calls   []call
	n       int
	queues  map[string]*queue // by subscription
	streams []*stream
}

// queue is what a subscription has to tell.
type queue struct {
	mailbox string
	server  string
	events  []Event
	stream  *stream
}

// leads is the server to which a call is led.
func (a Affinity) leads() string { return cmp.Or(strings.TrimPrefix(a.Cookie, "cookie-of-"), a.Anchor) }

func newServer(t *testing.T) *server { return &server{t: t, queues: map[string]*queue{}} }

// set changes what the server does.
func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// note takes down a call, and says what it fails with.
func (s *server) note(ctx context.Context, c call) error {
	c.at = time.Now()
	s.mu.Lock()
	s.calls = append(s.calls, c)
	wait, refuse := s.wait, s.refuse
	s.mu.Unlock()
	if wait != nil {
		if err := wait(ctx, c); err != nil {
			return err
		}
	}
	if refuse != nil {
		return refuse(c)
	}
	return ctx.Err()
}

// made are the calls of one kind.
func (s *server) made(op string) (list []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.op == op {
			list = append(list, c)
		}
	}
	return list
}

// within is how long a call takes at most.
const within = 15 * time.Second

// bounded gives up a call that takes too long, as a client does.
func bounded(ctx context.Context, f func(ctx context.Context) error) error {
	short, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := f(short)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &fault.Error{Op: "test", Code: "hangs", Scope: fault.Mailbox, Remedy: fault.Wait}
	}
	return err
}

func (s *server) Subscribe(ctx context.Context, at mail.Location, a Affinity) (id, cookie string, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		id, cookie, err = s.subscribe(ctx, at, a)
		return err
	})
	return id, cookie, err
}

func (s *server) subscribe(ctx context.Context, at mail.Location, a Affinity) (string, string, error) {
	if err := s.note(ctx, call{op: "Subscribe", mailbox: at.Primary, url: at.URL, a: a}); err != nil {
		return "", "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	id := fmt.Sprint("sub-", s.n)
	s.queues[id] = &queue{mailbox: at.Primary, server: a.leads()}
	return id, "cookie-of-" + at.Primary, nil
}

func (s *server) Unsubscribe(ctx context.Context, at mail.Location, a Affinity, id string) error {
	err := bounded(ctx, func(ctx context.Context) error {
		return s.note(ctx, call{op: "Unsubscribe", mailbox: at.Primary, url: at.URL, a: a, ids: []string{id}})
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.queues[id]; s.affine && q != nil && q.server != a.leads() {
		return lostSubscription(id)
	}
	delete(s.queues, id)
	return nil
}

func (s *server) Stream(ctx context.Context, at mail.Location, a Affinity, ids []string) (Stream, error) {
	if err := s.note(ctx, call{op: "Stream", mailbox: at.Primary, url: at.URL, a: a, ids: ids}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &stream{ctx: ctx, said: make(chan said, 1000), end: make(chan struct{}), ids: ids, latency: s.latency}
	var lost []string
	for _, id := range ids {
		q := s.queues[id]
		if q == nil || s.single && q.mailbox != at.Primary || s.affine && q.server != a.leads() {
			lost = append(lost, id)
			continue
		}
		if q.stream != nil && !s.ignores {
			q.stream.finish(&fault.Error{Op: "GetStreamingEvents", Code: "superseded", Scope: fault.Group, Remedy: fault.Wait, After: time.Minute, Missed: true, Superseded: true})
		}
		q.stream = st
		if len(q.events) > 0 {
			st.said <- said{events: q.events}
			q.events = nil
		}
	}
	if len(lost) > 0 {
		st.said <- said{err: lostSubscription(lost...)}
	}
	if s.says != nil {
		if err := s.says(ids); err != nil {
			st.said <- said{err: err}
		}
	}
	if s.closes && len(lost) > 0 {
		st.finish(io.EOF)
	} else if !s.silent && s.mutes != at.Primary {
		st.said <- said{}
	}
	s.streams = append(s.streams, st)
	return st, nil
}

// tell says that a mailbox has a new item, to its stream or into the queues of its subscriptions.
func (s *server) tell(mailbox, item string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, q := range s.queues {
		switch e := (Event{Subscription: id, Item: item}); {
		case q.mailbox != mailbox:
		case q.stream == nil || q.stream.over():
			q.events = append(q.events, e)
		default:
			q.stream.said <- said{events: []Event{e}}
		}
	}
}

// say has the newest stream bring something.
func (s *server) say(what said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[len(s.streams)-1].said <- what
}

// forget forgets the subscriptions of a mailbox; their streams say so.
func (s *server) forget(mailbox string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, q := range s.queues {
		if q.mailbox == mailbox {
			delete(s.queues, id)
			if q.stream != nil {
				q.stream.said <- said{err: lostSubscription(id)}
			}
		}
	}
}

// cut ends all streams: with io.EOF as it should be.
func (s *server) cut(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.finish(err)
	}
}

// alive are the streams that are open, by the number of their subscriptions.
func (s *server) alive() (sizes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if !st.over() && st.ctx.Err() == nil {
			sizes = append(sizes, len(st.ids))
		}
	}
	return sizes
}

var errReset = errors.New("connection reset")

func lostSubscription(ids ...string) *fault.Error {
	return &fault.Error{Op: "GetStreamingEvents", Code: "lost", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true, Subscriptions: ids}
}

// denied is an error of a call.
func denied(scope fault.Scope, remedy fault.Remedy, after time.Duration) *fault.Error {
	return &fault.Error{Op: "test", Code: "denied", Scope: scope, Remedy: remedy, After: after}
}

// moved is the error of a server that does not know a mailbox.
func moved() *fault.Error {
	return &fault.Error{Op: "test", Code: "unknown", Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour, Moved: true, Elsewhere: true}
}

// on refuses the calls of one kind for some mailboxes; none: for all.
func on(op string, err error, mailboxes ...string) func(call) error {
	return func(c call) error {
		if c.op == op && (len(mailboxes) == 0 || slices.Contains(mailboxes, c.mailbox)) {
			return err
		}
		return nil
	}
}

// said is what a stream brings.
type said struct {
	events []Event
	err    error
}

type stream struct {
	ctx     context.Context
	ids     []string
	latency time.Duration // the reader's own
	said    chan said
	once    sync.Once
	err     error
	end     chan struct{}
}

func (st *stream) finish(err error) {
	st.once.Do(func() {
		st.err = err
		close(st.end)
	})
}

func (st *stream) over() bool {
	select {
	case <-st.end:
		return true
	default:
		return false
	}
}

func (st *stream) Next() (Envelope, error) {
	pause.For(st.ctx, st.latency)
	st.latency = 0
	select { // what was written before the end has come
	case what := <-st.said:
		return Envelope{Events: what.events, At: time.Now()}, what.err
	default:
	}
	select {
	case what := <-st.said:
		return Envelope{Events: what.events, At: time.Now()}, what.err
	case <-st.end:
		return Envelope{}, st.err
	case <-st.ctx.Done():
		return Envelope{}, st.ctx.Err()
	}
}

func (st *stream) Close() error {
	st.finish(io.ErrClosedPipe)
	return nil
}

// account is a listener account at a server, with its mailboxes, and what they were told.
type account struct {
	*Groups
	t       *testing.T
	store   *storetest.Memory
	book    *subscriptions.Book
	verdict func(address string, f *fault.Error) Verdict // nil: they stay
}

// newAccount returns an account whose groups have at most size members. They end with the test.
func newAccount(t *testing.T, s *server, size int) *account {
	t.Helper()
	a := &account{t: t, store: &storetest.Memory{}}
	a.start(s, size)
	return a
}

// start starts the process on the state as it is.
func (a *account) start(s *server, size int) {
	a.t.Helper()
	var err error
	if a.book, err = subscriptions.Open(context.Background(), a.store); err != nil {
		a.t.Fatal(err)
	}
	a.Groups = New(Options{Server: s, Size: size, Log: zap.NewNop(), Metrics: NewMetrics(nil)})
	a.t.Cleanup(a.Groups.Close)
}

// mailbox is a member that notes what it is told.
type mailbox struct {
	*Member
	a       *account
	address string
	box     *subscriptions.Mailbox

	mu      sync.Mutex
	hints   []string
	lists   []time.Time
	answers int
	doubts  int
}

func (m *mailbox) Hint(item string, _ time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hints = append(m.hints, item)
}

func (m *mailbox) List() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists = append(m.lists, time.Now())
}

func (m *mailbox) Answers() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers++
}

func (m *mailbox) Doubt(f *fault.Error) Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubts++
	if m.a.verdict == nil {
		return Stays
	}
	return m.a.verdict(m.address, f)
}

// mailbox returns a mailbox with a device, which has not joined yet.
func (a *account) mailbox(address string) *mailbox {
	a.t.Helper()
	_, err := a.book.Enrol(context.Background(), subscriptions.Enrolment{ID: address, Mailbox: address, Token: address, Topic: "com.contoso.mail", Environment: "production"}, time.Now(), time.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	m := &mailbox{a: a, address: address, box: a.book.Mailbox(address)}
	m.Member = a.Member(m.box, m)
	return m
}

// join has mailboxes join where they live, all at the same time.
func (a *account) join(addresses ...string) (list []*mailbox) {
	a.t.Helper()
	for _, address := range addresses {
		list = append(list, a.mailbox(address))
	}
	for _, m := range list {
		m.Join(here(m.address))
	}
	return list
}

// told returns the items that the mailbox was hinted at.
func (m *mailbox) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hints)
}

// listings is how often it was to be listed.
func (m *mailbox) listings() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.lists)
}

// listens says whether notifications reach us.
func (m *mailbox) listens() bool {
	since, _ := m.Listening()
	return !since.IsZero()
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
