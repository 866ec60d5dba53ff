package callbacks

// An Exchange for the tests: it makes push subscriptions, and posts to their URLs what a test says.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
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
	return &mail.Location{Entry: "hq", URL: "https://mail.contoso.example/EWS/Exchange.asmx", Group: "site-1", Primary: address}
}

// call is one Subscribe.
type call struct {
	mailbox string
	a       Affinity
	push    ews.Push
	at      time.Time
}

// server is a Server.
type server struct {
	mu       sync.Mutex
	receiver *Receiver
	refuse   func(c call) error // nil: nothing is refused
	wait     time.Duration      // before each answer
	silent   bool               // no status comes after a Subscribe
	early    bool               // it comes before the answer
	calls    []call
	subs     map[string]*pushed // by mailbox, the newest
	n        int
}

// pushed is a subscription at the server.
type pushed struct {
	id, url string
	mark    int
	ended   bool // it was answered Unsubscribe
}

func newServer() *server { return &server{subs: map[string]*pushed{}} }

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *server) made() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// within is how long a Subscribe takes at most.
const within = 15 * time.Second

func (s *server) SubscribePush(ctx context.Context, at mail.Location, a Affinity, p ews.Push) (Subscribed, error) {
	c := call{mailbox: at.Primary, a: a, push: p, at: time.Now()}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.n++
	sub := &pushed{id: fmt.Sprint("sub-", s.n), url: p.URL + p.Secret}
	wait, refuse, silent, early := s.wait, s.refuse, s.silent, s.early
	s.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(min(wait, within)):
			if wait > within {
				return Subscribed{}, &fault.Error{Op: "Subscribe", Code: "timeout", Scope: fault.Mailbox, Remedy: fault.Wait}
			}
		case <-ctx.Done():
			return Subscribed{}, ctx.Err()
		}
	}
	if refuse != nil {
		if err := refuse(c); err != nil {
			return Subscribed{}, err
		}
	}
	s.mu.Lock()
	s.subs[at.Primary] = sub
	s.mu.Unlock()
	switch {
	case silent:
	case early:
		s.status(at.Primary)
	default:
		time.AfterFunc(time.Millisecond, func() { s.post(sub) })
	}
	return Subscribed{ID: sub.id, Watermark: "w0", Cookie: "cookie-of-" + at.Primary}, nil
}

// status posts that nothing is new for a mailbox, and tell that there are items.
func (s *server) status(mailbox string)                { s.post(s.sub(mailbox)) }
func (s *server) tell(mailbox string, items ...string) { s.post(s.sub(mailbox), items...) }

// lose loses a post.
func (s *server) lose(mailbox string) { s.set(func() { s.subs[mailbox].mark++ }) }

func (s *server) sub(mailbox string) *pushed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subs[mailbox]
}

// post posts, and notes whether the subscription ended.
func (s *server) post(sub *pushed, items ...string) *httptest.ResponseRecorder {
	s.mu.Lock()
	before := sub.mark
	sub.mark++
	body, receiver := notification(sub.id, before, sub.mark, items...), s.receiver
	s.mu.Unlock()
	w := deliver(receiver, sub.url, body)
	s.set(func() { sub.ended = sub.ended || strings.Contains(w.Body.String(), "Unsubscribe") })
	return w
}

func deliver(h http.Handler, url, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, strings.TrimPrefix(url, publicURL), strings.NewReader(body)))
	return w
}

func notification(id string, before, after int, items ...string) string {
	mark := func(n int) string { return "w" + strconv.Itoa(n) }
	events := `<t:StatusEvent><t:Watermark>` + mark(after) + `</t:Watermark></t:StatusEvent>`
	if len(items) > 0 {
		events = ""
	}
	for _, item := range items {
		events += `<t:NewMailEvent><t:Watermark>` + mark(after) + `</t:Watermark><t:ItemId Id="` + item + `"/></t:NewMailEvent>`
	}
	return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:SendNotification><m:ResponseMessages>` +
		`<m:SendNotificationResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Notification>` +
		`<t:SubscriptionId>` + id + `</t:SubscriptionId><t:PreviousWatermark>` + mark(before) + `</t:PreviousWatermark>` +
		`<t:MoreEvents>false</t:MoreEvents>` + events +
		`</m:Notification></m:SendNotificationResponseMessage></m:ResponseMessages></m:SendNotification></s:Body></s:Envelope>`
}

// account is a listener account at work on a state.
type account struct {
	*Keeper
	t       *testing.T
	s       *server
	store   *storetest.Memory
	book    *subscriptions.Book
	verdict func(f *fault.Error) bool
	boxes   []*mailbox
}

func newAccount(t *testing.T, s *server) *account {
	t.Helper()
	a := &account{t: t, s: s, store: &storetest.Memory{}}
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
	r := NewReceiver(a.book.Secret(), nil)
	for _, m := range a.book.Mailboxes() {
		r.Keep(m)
	}
	a.s.set(func() { a.s.receiver = r })
	a.Keeper = NewKeeper(Options{Server: a.s, Receiver: r, PublicURL: publicURL, Polls: polling.New(25), Log: zap.NewNop()})
	a.boxes = nil
	a.t.Cleanup(a.Keeper.Close)
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

	mu     sync.Mutex
	hints  []string
	lists  []time.Time
	doubts int
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

// refusal is an error of a server.
func refusalOf(code string) error {
	f := &fault.Error{Op: "Subscribe", Code: code, Scope: fault.Mailbox, Remedy: fault.Fix, After: time.Hour}
	switch code {
	case "ErrorExceededSubscriptionCount":
		f.Untold = true
	case "ErrorNonExistentMailbox":
		f.Moved, f.Elsewhere = true, true
	case "":
		return errors.New("none")
	}
	return f
}
