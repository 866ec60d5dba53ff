package changes

// A Graph for the tests: it keeps subscriptions, shakes hands with their URLs, and posts what a test says.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/polling"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice     = "alice@contoso.example"
	bob       = "bob@contoso.example"
	publicURL = "https://bell.contoso.example"
)

func here(address string) *mail.Location {
	return &mail.Location{Entry: "cloud", Source: mail.Graph, URL: "https://graph.example/v1.0", Primary: address}
}

// sub is a subscription at the server.
type sub struct {
	id, mailbox, url, state string
	expires                 time.Time
}

// server is a Server.
type server struct {
	mu         sync.Mutex
	receiver   *Receiver
	refuse     func(op, mailbox string) error // nil: nothing is refused
	wait       time.Duration                  // before each answer
	longest    time.Duration                  // that a subscription lives; 0: as long as is asked for
	unique     bool                           // one subscription a mailbox
	lose       bool                           // the answer to a POST is lost
	unreached  bool                           // no handshake succeeds
	poor       func(mailbox string) error     // why content is refused; nil: it is not
	posted     func()                         // called while a POST is under way
	subs       map[string]*sub
	n          int
	calls      []string // op mailbox
	times      []time.Time
	mostOfSubs int
}

func newServer() *server { return &server{subs: map[string]*sub{}} }

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *server) called(op, mailbox string) error {
	s.mu.Lock()
	s.calls = append(s.calls, op+" "+mailbox)
	s.times = append(s.times, time.Now())
	wait, refuse := s.wait, s.refuse
	s.mu.Unlock()
	if wait > 0 {
		<-time.After(wait)
	}
	if refuse != nil {
		return refuse(op, mailbox)
	}
	return nil
}

// count is how many calls of an operation there were; of a mailbox, or of all.
func (s *server) count(op string, mailbox ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		was, of, _ := strings.Cut(c, " ")
		if was == op && (len(mailbox) == 0 || mailbox[0] == of) {
			n++
		}
	}
	return n
}

func (s *server) alive() (list []sub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.subs {
		if x.expires.After(time.Now()) {
			list = append(list, *x)
		}
	}
	slices.SortFunc(list, func(a, b sub) int { return strings.Compare(a.id, b.id) })
	return list
}

// of is the newest subscription of a mailbox.
func (s *server) of(t *testing.T, mailbox string) (found sub) {
	t.Helper()
	for _, x := range s.alive() {
		if x.mailbox == mailbox {
			found = x
		}
	}
	if found.id == "" {
		t.Fatalf("%s has no subscription", mailbox)
	}
	return found
}

func (s *server) Subscribe(ctx context.Context, at mail.Location, want graph.Subscription) (graph.Subscribed, error) {
	if err := s.called("POST", at.Primary); err != nil {
		return graph.Subscribed{}, err
	}
	s.mu.Lock()
	receiver, unreached, unique, posted, poor := s.receiver, s.unreached, s.unique, s.posted, s.poor
	s.mu.Unlock()
	if want.Rich != nil && poor != nil {
		if err := poor(at.Primary); err != nil {
			return graph.Subscribed{}, err
		}
	}
	if posted != nil {
		posted()
	}
	for _, to := range []string{want.NotificationURL, want.LifecycleURL} {
		token := "Validation: Testing client application reachability for subscription Request-Id: 1"
		w := deliver(receiver, to+"?validationToken="+url.QueryEscape(token), "")
		if unreached || w.Code != http.StatusOK || w.Body.String() != token {
			return graph.Subscribed{}, &fault.Error{Op: "POST subscriptions", Code: graph.CodeHandshake, Scope: fault.Mailbox, Remedy: fault.Wait, After: time.Minute, Untold: true}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if unique {
		for _, x := range s.subs {
			if x.mailbox == at.Primary && x.expires.After(time.Now()) {
				return graph.Subscribed{}, &fault.Error{Op: "POST subscriptions", Code: graph.CodeExists, Scope: fault.Mailbox, Remedy: fault.Retry, Subscriptions: []string{x.id}}
			}
		}
	}
	s.n++
	x := &sub{id: fmt.Sprintf("sub-%05d", s.n), mailbox: at.Primary, url: want.NotificationURL, state: want.ClientState, expires: want.Until}
	if s.longest > 0 {
		x.expires = time.Now().Add(s.longest)
	}
	s.subs[x.id] = x
	s.mostOfSubs = max(s.mostOfSubs, len(s.subs))
	if s.lose {
		return graph.Subscribed{}, &fault.Error{Op: "POST subscriptions", Code: "network", Scope: fault.Mailbox, Remedy: fault.Retry}
	}
	return graph.Subscribed{ID: x.id, Expires: x.expires}, nil
}

func (s *server) Renew(ctx context.Context, at mail.Location, id string, until time.Time) (time.Time, error) {
	if err := s.called("PATCH", at.Primary); err != nil {
		return time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.subs[id]
	if x == nil || !x.expires.After(time.Now()) {
		return time.Time{}, &fault.Error{Op: "PATCH subscriptions", Code: "ExtensionError", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true}
	}
	x.expires = until
	if s.longest > 0 {
		x.expires = time.Now().Add(s.longest)
	}
	return x.expires, nil
}

func (s *server) Delete(_ context.Context, id string) error {
	mailbox := ""
	s.set(func() {
		if x := s.subs[id]; x != nil {
			mailbox = x.mailbox
		}
	})
	if err := s.called("DELETE", mailbox); err != nil {
		return err
	}
	s.set(func() { delete(s.subs, id) })
	return nil
}

func (s *server) Subscriptions(context.Context) (list []graph.Listed, err error) {
	if err := s.called("GET", ""); err != nil {
		return nil, err
	}
	for _, x := range s.alive() {
		list = append(list, graph.Listed{ID: x.id, NotificationURL: x.url, Expires: x.expires})
	}
	return list, nil
}

// told is a notification as Graph writes it.
type told struct {
	Subscription string `json:"subscriptionId"`
	ClientState  string `json:"clientState"`
	Change       string `json:"changeType,omitempty"`
	Lifecycle    string `json:"lifecycleEvent,omitempty"`
	Data         struct {
		ID string `json:"id"`
	} `json:"resourceData"`
	Content *graph.Encrypted `json:"encryptedContent,omitempty"`
}

func (x sub) mail(item string) told {
	n := told{Subscription: x.id, ClientState: x.state, Change: "created"}
	n.Data.ID = item
	return n
}

func (x sub) life(event string) told {
	return told{Subscription: x.id, ClientState: x.state, Lifecycle: event}
}

// post posts notifications to the URL of the newest receiver.
func (s *server) post(list ...told) *httptest.ResponseRecorder {
	body, err := json.Marshal(map[string]any{"value": list})
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	receiver := s.receiver
	s.mu.Unlock()
	return deliver(receiver, receiver.url, string(body))
}

func deliver(h http.Handler, url, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, strings.TrimPrefix(url, publicURL), strings.NewReader(body)))
	return w
}

// account is a listener account at work on a state.
type account struct {
	*Keeper
	t       *testing.T
	s       *server
	store   *storetest.Memory
	book    *subscriptions.Book
	public  string // empty: there is no public URL
	verdict func(f *fault.Error) bool
	content Content // nil: notifications have none
	boxes   []*mailbox
	log     *zap.Logger
}

func newAccount(t *testing.T, s *server) *account {
	t.Helper()
	a := &account{t: t, s: s, store: &storetest.Memory{}, public: publicURL, log: zap.NewNop()}
	a.start()
	return a
}

// start starts the process on the state as it is.
func (a *account) start() {
	a.t.Helper()
	var err error
	if a.book, err = subscriptions.Open(context.Background(), a.store); err != nil {
		a.t.Fatal(err)
	}
	var r *Receiver
	if a.public != "" {
		r = NewReceiver(a.public, a.book.Secret(), nil)
	}
	a.s.set(func() { a.s.receiver = r })
	book := a.book
	a.Keeper = NewKeeper(Options{
		Server: a.s, Receiver: r, Polls: polling.New(250), BusyPolls: polling.NewEvery(BusyInterval, 125), Log: a.log, Content: a.content,
		Known: func() map[string]struct{} {
			all := map[string]struct{}{}
			for _, m := range book.Mailboxes() {
				if g := m.Record().Graph; g != nil {
					all[g.ID] = struct{}{}
				}
			}
			return all
		},
	})
	a.boxes = nil
	keeper := a.Keeper
	a.t.Cleanup(func() {
		keeper.Close()
		if r != nil {
			r.Close()
		}
	})
}

// restart ends the process, and starts the next one.
func (a *account) restart() {
	a.t.Helper()
	a.Close()
	a.store.Reopen()
	a.start()
}

// mailbox is a member that notes what it is told.
type mailbox struct {
	*Member
	a       *account
	address string
	box     *subscriptions.Mailbox

	mu       sync.Mutex
	hints    []string
	messages []string // the subjects of those that came with their hints
	lists    []time.Time
	doubts   int
}

func (m *mailbox) Hint(item string, _ time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hints = append(m.hints, item)
}

func (m *mailbox) Tell(message *mail.Message, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, message.Subject)
}

func (m *mailbox) List() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists = append(m.lists, time.Now())
}

func (m *mailbox) Answers() {}

func (m *mailbox) Doubt(f *fault.Error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubts++
	return m.a.verdict != nil && m.a.verdict(f)
}

func (m *mailbox) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hints)
}

func (m *mailbox) listings() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.lists)
}

func (m *mailbox) listens() bool {
	since, _ := m.Listening()
	return !since.IsZero()
}

// failing is why the mailbox is not listened to; empty: nothing is wrong.
func (m *mailbox) failing() string {
	if f, _ := m.Failing(); f != nil {
		return f.Code
	}
	return ""
}

// member returns a mailbox with a device, which has not joined yet.
func (a *account) member(address string) *mailbox {
	a.t.Helper()
	box := a.book.Known(address)
	if box == nil {
		e := subscriptions.Enrolment{ID: "phone-of-" + address, Mailbox: address, Token: fmt.Sprintf("%064x", len(a.boxes)+1), Topic: "com.contoso.mail", Environment: "production"}
		if _, err := a.book.Enrol(context.Background(), e, time.Now(), time.Time{}); err != nil {
			a.t.Fatal(err)
		}
		box = a.book.Mailbox(address)
	}
	m := &mailbox{a: a, address: address, box: box}
	m.Member = a.Member(box, m)
	a.boxes = append(a.boxes, m)
	return m
}

// join has mailboxes join.
func (a *account) join(addresses ...string) (list []*mailbox) {
	a.t.Helper()
	for _, address := range addresses {
		m := a.member(address)
		list = append(list, m)
		m.Join(here(address))
	}
	return list
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func address(i int) string { return fmt.Sprintf("user%05d@contoso.example", i) }
