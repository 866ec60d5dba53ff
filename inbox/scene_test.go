package inbox

// The scene of the tests of the log: mailboxes, phones and a state in memory, in which a test says what happens when, to the
// instant (testing/synctest). The mailboxes are no Exchange: a source is whatever reads items and lists pages.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/alerts"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "alice@contoso.example"
	bob   = "bob@contoso.example"
	topic = "com.contoso.mail"
)

// scene is an inbox with what is around it.
type scene struct {
	t       *testing.T
	store   *storetest.Memory
	book    *subscriptions.Book
	in      *Inbox
	source  *source
	apns    *apns
	poll    time.Duration
	content alerts.Content

	observer Observer
}

// inScene runs a test in fake time, with an inbox that has not been started.
func inScene(t *testing.T, test func(s *scene)) {
	synctest.Test(t, func(t *testing.T) { playScene(t, test) })
}

// playScene is inScene within a bubble.
func playScene(t *testing.T, test func(s *scene)) {
	s := &scene{t: t, store: &storetest.Memory{}, poll: 30 * time.Minute, apns: newAPNs(t)}
	s.source = &source{folders: map[string]*folder{}}
	test(s)
	if s.in != nil {
		s.stop()
	}
	s.apns.noDuplicates()
}

// start starts on the state as it is: every mailbox is listened to, and listed.
func (s *scene) start() {
	s.t.Helper()
	s.store.Reopen()
	s.store.Fail(nil)
	s.apns.life(false)
	var err error
	if s.book, err = subscriptions.Open(context.Background(), s.store); err != nil {
		s.t.Fatal(err)
	}
	s.in = New(Options{Book: s.book, Sender: s.apns, MaxAge: time.Hour, Content: s.content, Observer: s.observer, Log: zap.NewNop(), Unenrol: func(ctx context.Context, d subscriptions.Device, _ outcome.Reason) error {
		return s.unenrol(ctx, d.ID)
	}})
	for _, box := range s.book.Mailboxes() {
		s.listen(box)
	}
	synctest.Wait()
}

// listen attaches a mailbox to the source, which tells of new mail from then on, and has it listed.
func (s *scene) listen(box *subscriptions.Mailbox) {
	m := s.in.Open(box)
	l := &link{source: s.source, folder: s.source.folder(box.Record().Addresses[0]), poll: s.poll}
	m.Attach(l)
	s.source.listen(box.Record().Addresses[0], func(item string, at time.Time) { m.Hint(item, l.Source(), at) })
	m.List()
}

// kill ends everything at this instant: nothing more is written, nothing more is sent, and answers under way are lost.
func (s *scene) kill() {
	at := time.Now()
	s.store.Fail(errors.New("killed"))
	s.apns.life(true)
	s.source.silence()
	s.in.mu.Lock()
	s.in.stopping.Store(true)
	s.in.mu.Unlock()
	s.in.stop()
	s.in.Close()
	s.in = nil
	s.apns.doubt(time.Since(at) + time.Second) // what was answered within the second before may come again
}

// stop is a graceful stop.
func (s *scene) stop() {
	s.source.silence()
	s.in.Close()
	s.in = nil
}

func (s *scene) enrol(id, mailbox string) {
	s.t.Helper()
	s.enrolToken(id, mailbox, "token-of-"+id)
}

func (s *scene) enrolToken(id, mailbox, token string) {
	s.t.Helper()
	now := time.Now()
	var since time.Time // known once a server's clock is
	if s.source.asked() {
		since = now.Add(s.source.skew() - mail.Tolerance).Truncate(time.Second)
	}
	e := subscriptions.Enrolment{ID: id, Mailbox: mailbox, Token: token, Topic: topic, Environment: "production"}
	done, err := s.book.Enrol(context.Background(), e, now, since)
	if err != nil {
		s.t.Fatal(err)
	}
	if done.Left != nil {
		s.left(done.Left, id)
	}
	if done.Renewed {
		s.in.Open(done.Mailbox).Renewed(id)
	}
	s.listen(done.Mailbox)
	synctest.Wait()
}

func (s *scene) unenrol(ctx context.Context, id string) error {
	box, ok, err := s.book.Remove(ctx, id)
	if ok {
		s.left(box, id)
	}
	return err
}

func (s *scene) left(box *subscriptions.Mailbox, id string) {
	m := s.in.Open(box)
	m.Removed(id)
	if len(box.Devices()) == 0 {
		m.Close()
	}
}

func (s *scene) remove(id string) {
	s.t.Helper()
	if err := s.unenrol(context.Background(), id); err != nil {
		s.t.Fatal(err)
	}
}

// pass lets time go by.
func (s *scene) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// accepted says that APNs accepted a message for a device so many times, alone or in a summary, in truth.
func (s *scene) accepted(times int, device string, messages ...*message) {
	s.t.Helper()
	for _, m := range messages {
		if got := len(s.apns.pushes(device, s.key(device, m))); got != times {
			s.t.Errorf("%s was accepted for %s %d times, want %d", m.id, device, got, times)
		}
	}
}

// key by which a device's mailbox knows a message.
func (s *scene) key(device string, m *message) mail.Key {
	d, ok := s.book.Device(device)
	if !ok {
		s.t.Fatalf("%s is not enrolled", device)
	}
	msg := m.tell()
	return s.book.Secret().Key(d.Record, &msg)
}

// decisions about a mailbox, the newest first.
func (s *scene) decisions(mailbox string) []subscriptions.Decision {
	s.t.Helper()
	list, err := s.book.Mailbox(mailbox).Decisions(s.t.Context())
	if err != nil {
		s.t.Error(err)
	}
	return list
}

// reasons of a mailbox: what became of a message, newest first.
func (s *scene) reasons(mailbox string, k mail.Key) (list []string) {
	for _, d := range s.decisions(mailbox) {
		if d.Key == k {
			list = append(list, cmp.Or(string(d.Reason), string(d.Outcome)))
		}
	}
	return list
}

func (s *scene) mailbox(address string) *Mailbox { return s.in.Open(s.book.Mailbox(address)) }

func (s *scene) record(mailbox string) *subscriptions.Record { return s.book.Mailbox(mailbox).Record() }

func (s *scene) inStep(mailbox string) {
	s.t.Helper()
	if b := s.record(mailbox).Behind; len(b) > 0 {
		s.t.Errorf("devices are behind: %+v", b)
	}
}

// source has the mailboxes.
type source struct {
	mu       sync.Mutex
	folders  map[string]*folder
	ahead    time.Duration             // its clock minus ours
	known    bool                      // it was asked, so that its clock is known
	date     func(n int) time.Duration // how far the clock of the nth answer is from the one that stamps mail; nil: not at all
	answers  int
	n        int
	lists    int
	onList   func(offset int) // called before a page is answered, without the lock
	onRead   func()           // the same before items are
	quiet    bool             // notifications are dropped
	fails    error            // every call
	first    []*message       // items that every listing shows before all others
	garbled  map[string]bool  // items for which no answer of a server can be understood
	notLast  bool             // pages never say that they are the last
	kind     mail.Source      // empty: EWS
	unhinted int
}

// folder is an Inbox.
type folder struct {
	items []*message
	hint  func(item string, at time.Time) // nil: nobody listens
	told  []string                        // meanwhile
}

type message struct {
	id         string
	internetID string
	subject    string
	received   time.Time
	told       time.Time // what a read tells as received, where that is another time
	sent       time.Time
	unreadable bool
	throttled  bool // its read is refused for now
	missing    int  // so many reads do not find it, though it is there
}

func (m *message) tell() mail.Message {
	return mail.Message{ItemID: m.id, InternetID: m.internetID, Subject: m.subject, Received: m.received, Sent: m.sent, Class: "IPM.Note"}
}

// set changes what the source does.
func (s *source) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *source) now() time.Time { return time.Now().Add(s.ahead) }

func (s *source) asked() (known bool) {
	s.set(func() { known = s.known })
	return known
}

func (s *source) skew() (d time.Duration) {
	s.set(func() { d = s.ahead })
	return d
}

func (s *source) folder(address string) (f *folder) {
	s.set(func() { f = s.at(address) })
	return f
}

func (s *source) at(address string) *folder {
	if s.folders[address] == nil {
		s.folders[address] = &folder{}
	}
	return s.folders[address]
}

// listen has a mailbox's notifications told, also those that wait.
func (s *source) listen(address string, hint func(item string, at time.Time)) {
	s.set(func() {
		f := s.at(address)
		f.hint = hint
		for _, id := range f.told {
			hint(id, time.Now())
		}
		f.told = nil
	})
}

// silence has all notifications wait.
func (s *source) silence() {
	s.set(func() {
		for _, f := range s.folders {
			f.hint = nil
		}
	})
}

// come delivers a message; change may say when it was received and so on.
func (s *source) come(address string, change ...func(m *message)) *message {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	m := &message{id: fmt.Sprintf("item-%04d", s.n), internetID: fmt.Sprintf("<%d@fabrikam.example>", s.n), subject: fmt.Sprint("No. ", s.n),
		received: s.now().Truncate(time.Second), sent: s.now().Add(-time.Second)}
	for _, f := range change {
		f(m)
	}
	f := s.at(address)
	f.items = append(f.items, m)
	if !s.quiet {
		f.notify(m)
	}
	return m
}

func (f *folder) notify(m *message) {
	if f.hint == nil {
		f.told = append(f.told, m.id)
		return
	}
	f.hint(m.id, time.Now())
}

// hint tells of a message once more.
func (s *source) hint(address string, m *message) {
	s.set(func() { s.at(address).notify(m) })
}

func (s *source) quietly(f func()) {
	s.set(func() { s.quiet = true })
	f()
	s.set(func() { s.quiet = false })
}

// mend makes a message readable.
func (s *source) mend(m *message) { s.set(func() { m.unreadable = false }) }

// take removes messages from an Inbox: deleted, or moved out.
func (s *source) take(address string, gone ...*message) {
	s.set(func() {
		f := s.at(address)
		f.items = slices.DeleteFunc(f.items, func(m *message) bool { return slices.Contains(gone, m) })
	})
}

// back moves a message back in: it has another item id.
func (s *source) back(address string, m *message) {
	s.set(func() {
		s.n++
		m.id = fmt.Sprintf("item-%04d", s.n)
		f := s.at(address)
		f.items = append(f.items, m)
	})
}

// told is the clock that an answer tells.
func (s *source) told() time.Time {
	at := s.now()
	if s.date != nil {
		at = at.Add(s.date(s.answers))
		s.answers++
	}
	return at.Truncate(time.Second)
}

// link reads one mailbox of the source.
type link struct {
	*source
	folder   *folder
	exchange string
	poll     time.Duration
	reads    int // worth having under way at once; 0: many
	listings int // the same
}

func (l *link) Exchange() string { return cmp.Or(l.exchange, "headquarters") }
func (l *link) Source() mail.Source {
	if l.source == nil { // a link that is not read
		return mail.EWS
	}
	return cmp.Or(l.kind, mail.EWS)
}
func (l *link) SafetyPoll() time.Duration     { return l.poll }
func (l *link) Reads() int                    { return cmp.Or(l.reads, 2*maxWorkers) }
func (l *link) Listings() int                 { return cmp.Or(l.listings, 1000) }
func (l *link) Listed()                       {}
func (l *link) Unhinted(time.Time, time.Time) { l.set(func() { l.unhinted++ }) }

func (l *link) Read(_ context.Context, ids []string) (Items, error) {
	var before func()
	l.set(func() { before = l.onRead })
	if before != nil {
		before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all := Items{Clock: l.told()}
	if l.fails != nil {
		return all, l.fails
	}
	var err error
	for _, id := range ids {
		if l.garbled[id] {
			return all, &fault.Error{Op: "read", Code: "unparseable", Scope: fault.Message, Remedy: fault.Retry}
		}
		item := Item{ID: id}
		i := slices.IndexFunc(l.folder.items, func(m *message) bool { return m.id == id })
		switch {
		case i >= 0 && l.folder.items[i].missing > 0:
			l.folder.items[i].missing--
			fallthrough
		case i < 0:
			item.Err = &fault.Error{Op: "read", Code: "gone", Scope: fault.Message, Remedy: fault.Retry, Gone: true}
		case l.folder.items[i].throttled:
			err = &fault.Error{Op: "read", Code: "throttled", Scope: fault.Mailbox, Remedy: fault.Wait, After: 5 * time.Second}
			continue
		case l.folder.items[i].unreadable:
			item.Err = &fault.Error{Op: "read", Code: "corrupt", Scope: fault.Message, Remedy: fault.Retry}
		default:
			msg := l.folder.items[i].tell()
			if told := l.folder.items[i].told; !told.IsZero() {
				msg.Received = told
			}
			item.Message = &msg
		}
		all.Items = append(all.Items, item)
	}
	return all, err
}

// overlapping is a page as EWS gives it, of those of n messages from offset on: the next one begins with its last message. A server that
// does not say which page is the last has another one than of that message alone.
func overlapping(n, offset, limit int, notLast bool, message func(i int) mail.Message) Page {
	page := Page{Overlaps: true}
	for i := offset; i < min(offset+limit, n); i++ {
		page.Messages = append(page.Messages, message(i))
	}
	if offset+limit < n || notLast && len(page.Messages) > 1 {
		page.Next = strconv.Itoa(offset + len(page.Messages) - 1)
	}
	return page
}

func (l *link) List(_ context.Context, p Part) (Page, error) {
	offset, _ := strconv.Atoi(p.After)
	var before func(int)
	l.set(func() { before = l.onList })
	if before != nil {
		before(offset)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lists++
	l.known = true
	items := slices.Clone(l.folder.items)
	slices.SortStableFunc(items, func(a, b *message) int { return b.received.Compare(a.received) })
	items = slices.Insert(items, 0, l.first...)
	page := overlapping(len(items), offset, p.Limit, l.notLast, func(i int) mail.Message { return items[i].tell() })
	page.Clock = l.told()
	return page, l.fails
}

// accepted is what APNs accepted for a device, in truth.
type accepted struct {
	id      string // the collapse id
	push    mail.PushID
	summary bool
	payload string
	cut     bool // its answer did not reach us
	at      time.Time
	n       int // of a summary
}

// apns is the Sender.
type apns struct {
	t  *testing.T
	mu sync.Mutex
	// answer decides about a notification before it is accepted; nil, or a zero Result, accepts.
	answer func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer
	delay  time.Duration // between accepting a push and its answer
	dead   bool
	killed chan struct{}
	got    map[string]map[string][]accepted // by device and message key
	flying map[string]bool
	calls  int
}

func newAPNs(t *testing.T) *apns {
	return &apns{t: t, got: map[string]map[string][]accepted{}, flying: map[string]bool{}, killed: make(chan struct{})}
}

// set changes what APNs does.
func (a *apns) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// life kills our side, or has it born again.
func (a *apns) life(dead bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = dead
	if dead {
		close(a.killed)
		return
	}
	a.killed = make(chan struct{})
	a.flying = map[string]bool{}
}

// doubt says that the answers of the last while did not come through.
func (a *apns) doubt(last time.Duration) {
	a.set(func() {
		for _, keys := range a.got {
			for _, list := range keys {
				if newest := &list[len(list)-1]; time.Since(newest.at) < last {
					newest.cut = true
				}
			}
		}
	})
}

func (a *apns) Ready(string, string) bool { return false }

func unanswered() subscriptions.Answer {
	return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Unanswered}
}

func (a *apns) Push(ctx context.Context, n *subscriptions.Notification) subscriptions.Answer {
	a.mu.Lock()
	a.calls++
	f, killed, dead := a.answer, a.killed, a.dead
	a.mu.Unlock()
	if dead || ctx.Err() != nil || !n.May() {
		return unanswered()
	}
	if f != nil {
		if answer := f(ctx, *n); answer.Result != 0 {
			return answer
		}
	}
	keys, summary, count := tells(n.Payload)
	a.mu.Lock()
	if a.dead || ctx.Err() != nil {
		a.mu.Unlock()
		return unanswered()
	}
	if a.got[n.Device] == nil {
		a.got[n.Device] = map[string][]accepted{}
	}
	for _, k := range keys {
		if a.flying[n.Device+k] {
			a.t.Errorf("two pushes of one message to %s at the same time", n.Device)
		}
		a.flying[n.Device+k] = true
		a.got[n.Device][k] = append(a.got[n.Device][k], accepted{id: n.CollapseID, push: n.PushID, summary: summary, payload: string(n.Payload), cut: true, at: time.Now(), n: count})
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
	for _, k := range keys {
		a.flying[n.Device+k] = false
		if !a.dead { // the answer comes through
			list := a.got[n.Device][k]
			list[len(list)-1].cut = false
		}
	}
	if a.dead {
		return unanswered()
	}
	return subscriptions.Answer{Result: subscriptions.Accepted, At: time.Now(), Status: 200}
}

func (a *apns) pushes(device string, k mail.Key) []accepted {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got[device][k.String()])
}

// hold makes a device answer "not before" until the returned function is called; next is 0 where the sender says when.
func (a *apns) hold(device string, reason outcome.Reason, next time.Duration) (release func()) {
	held := true
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.answer
	a.answer = func(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
		a.mu.Lock()
		h := held
		a.mu.Unlock()
		if n.Device == device && h {
			answer := unanswered()
			answer.Reason = reason
			if next > 0 {
				answer.Next = time.Now().Add(next)
			}
			return answer
		}
		if before != nil {
			return before(ctx, n)
		}
		return subscriptions.Answer{}
	}
	return func() { a.set(func() { held = false }) }
}

// noDuplicates holds promise 2: nothing reaches a device twice, but for a repeat, with the same ids, of what was lost in flight.
func (a *apns) noDuplicates() {
	a.t.Helper()
	for device, keys := range a.got {
		for k, list := range keys {
			for i, p := range list[1:] {
				before := list[i]
				if !before.cut {
					a.t.Errorf("%s reached %s twice, and the first had been answered", k, device)
				}
				if (before.id != p.id || before.push != p.push) && !before.summary && !p.summary {
					a.t.Errorf("%s was sent again under other ids", k)
				}
			}
		}
	}
}

func contains(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) })
}

// tells reads the message keys of a payload.
func tells(payload []byte) (keys []string, summary bool, count int) {
	var p struct {
		Mailbell struct {
			K  string   `json:"k"`
			M  string   `json:"m"`
			N  int      `json:"n"`
			MS []string `json:"ms"`
		} `json:"mailbell"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		panic(err)
	}
	if p.Mailbell.K == "summary" {
		return p.Mailbell.MS, true, p.Mailbell.N
	}
	return []string{p.Mailbell.M}, false, 1
}
