package changes

// Anybody may post anything. Whoever does not know the secrets marks nobody and delays nobody.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/marks"
	"github.com/mailbell/mailbell/mail"
)

// subscribed is a mailbox that is listened to, and its subscription.
func subscribed(t *testing.T) (*server, *mailbox, sub) {
	t.Helper()
	s := newServer()
	m := newAccount(t, s).join(alice)[0]
	pass(time.Second)
	return s, m, s.of(t, alice)
}

func TestAHandshakeIsEchoedAsPlainTextAndBounded(t *testing.T) {
	r := NewReceiver(publicURL, mail.Secret{1}, nil)
	defer r.Close()
	for token, want := range map[string]string{
		"Validation: Testing client application reachability for subscription Request-Id: 2b3d": "Validation: Testing client application reachability for subscription Request-Id: 2b3d",
		"a+b & c/%20=":                "a+b & c/%20=",
		"<script>alert(1)</script>":   "&lt;script&gt;alert(1)&lt;/script&gt;",
		strings.Repeat("x", maxToken): strings.Repeat("x", maxToken),
	} {
		w := deliver(r, r.url+"?validationToken="+url.QueryEscape(token), "")
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("%q was answered %d %q", token, w.Code, w.Body)
		}
		if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("as %s", kind)
		}
	}
	if w := deliver(r, r.url+"?validationToken=a%20b", ""); w.Body.String() != "a b" {
		t.Errorf("%%20 became %q", w.Body)
	}
	for name, query := range map[string]string{"empty": "", "too long": strings.Repeat("x", maxToken+1)} {
		if w := deliver(r, r.url+"?validationToken="+query, ""); w.Code != 400 || strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("%s: %d %q", name, w.Code, w.Body)
		}
	}
	if w := deliver(r, publicURL+Path+"somebody?validationToken=abc", ""); w.Code != 404 || strings.Contains(w.Body.String(), "abc") {
		t.Errorf("to another path: %d %q", w.Code, w.Body)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, r.path+"?validationToken=abc", nil))
	if w.Code != 405 || strings.Contains(w.Body.String(), "abc") {
		t.Errorf("a GET: %d %q", w.Code, w.Body)
	}
}

func TestWhateverIsWrongWithAPostItIsAnswered202(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m, x := subscribed(t)
		forged := x
		forged.state = "another"
		others := x
		others.id = "another"
		for name, list := range map[string][]told{
			"another client state": {forged.mail("AAMk1")}, "another subscription": {others.mail("AAMk2")}, "nothing": {}, "an item that is none": {x.mail("<x>")},
		} {
			if w := s.post(list...); w.Code != 202 {
				t.Errorf("%s: %d", name, w.Code)
			}
		}
		for name, body := range map[string]string{"no JSON": "hello", "another JSON": "[]", "no body": "", "too large": strings.Repeat(" ", graph.MaxNotifications+1)} {
			if w := deliver(s.receiver, s.receiver.url, body); w.Code != 202 {
				t.Errorf("%s: %d", name, w.Code)
			}
		}
		if w := deliver(s.receiver, publicURL+Path+"old", `{}`); w.Code != 202 {
			t.Errorf("to an old URL: %d", w.Code)
		}
		synctest.Wait()
		if told := m.told(); len(told) > 0 {
			t.Errorf("told of %v", told)
		}
		if m.listings() != 2 { // for the item that is none
			t.Errorf("%d listings", m.listings())
		}
	})
}

func TestABatchMarksTheMailboxesThatAreOursAndNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		list := newAccount(t, s).join(alice, bob)
		pass(time.Second)
		a, b := s.of(t, alice), s.of(t, bob)
		stranger := sub{id: "other", state: "of another app"}
		s.post(stranger.mail("AAMk0"), a.mail("AAMk1"), stranger.mail("AAMk2"), b.mail("AAMk3"), a.mail("AAMk4"))
		synctest.Wait()
		if x, y := list[0].told(), list[1].told(); !slices.Equal(x, []string{"AAMk1", "AAMk4"}) || !slices.Equal(y, []string{"AAMk3"}) {
			t.Errorf("told of %v and %v", x, y)
		}
	})
}

// The id of a subscription is a GUID, which has no case (RFC 9562).
func TestANotificationInAnotherLetterCaseMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m, x := subscribed(t)
		n := x.mail("AAMk1")
		n.Subscription, n.Change = strings.ToUpper(n.Subscription), "Created"
		s.post(n)
		synctest.Wait()
		if told := m.told(); len(told) != 1 {
			t.Errorf("told of %v", told)
		}
	})
}

func TestANotificationThatIsDoubledMarksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m, x := subscribed(t)
		for range 5 {
			s.post(x.mail("AAMk1"), x.mail("AAMk1"))
			pass(time.Second)
		}
		if told := m.told(); len(told) != 1 {
			t.Errorf("told of %v", told)
		}
		pass(doubledWithin)
		s.post(x.mail("AAMk1")) // it was moved out and back, perhaps
		synctest.Wait()
		if told := m.told(); len(told) != 2 {
			t.Errorf("told of %v", told)
		}
	})
}

func TestWhoKnowsAClientStateMarksAMailboxNoMoreOftenThanIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m, x := subscribed(t)
		for i := range 10 {
			var list []told
			for j := range 100 {
				list = append(list, x.mail(fmt.Sprintf("AAMk%03d%02d", j, i)), x.life(graph.Missed))
			}
			s.post(list...)
			pass(time.Second)
		}
		if n := len(m.told()) + m.listings(); n > marks.Most+10*marks.ASecond+4 {
			t.Errorf("%d marks", n)
		}
		before := m.listings()
		pass(marks.Overflow + time.Second)
		if m.listings() == before {
			t.Error("what was beyond the bound is never listed")
		}
		if n := s.count("PATCH"); n > 0 {
			t.Errorf("%d renewals", n)
		}
	})
}

func TestTheFirstNotificationMayComeBeforeTheAnswerToThePost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := newAccount(t, s)
		m := a.member(alice)
		s.posted = func() {
			r := m.box.Record()
			s.post(sub{id: "sub-00001", state: a.book.Secret().ClientState(r.ID, r.Graph.Asked)}.mail("AAMk1"))
		}
		m.Join(here(alice))
		pass(time.Second)
		if told := m.told(); !slices.Equal(told, []string{"AAMk1"}) || !m.listens() {
			t.Errorf("told of %v, listens %v", told, m.listens())
		}
	})
}

func TestPostsBeyondTheBoundAreRefusedBeforeTheyAreRead(t *testing.T) {
	r := NewReceiver(publicURL, mail.Secret{1}, nil)
	defer r.Close()
	for range maxReading {
		r.reading <- struct{}{}
	}
	w := deliver(r, r.url, `{"value":[]}`)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d", w.Code)
	}
	for range maxReading {
		<-r.reading
	}
	q := &queue{}
	hold := make(chan struct{})
	look := func([]byte) { <-hold }
	taken := 0
	for q.add(make([]byte, 1<<20), look) {
		taken++
	}
	if most := maxBytes>>20 + maxWorking; taken > most {
		t.Errorf("%d MiB are kept", taken)
	}
	close(hold)
	q.close()
	if q.add(nil, look) {
		t.Error("a queue that is closed takes a post")
	}
	q = &queue{}
	hold = make(chan struct{})
	taken = 0
	for q.add([]byte("x"), look) {
		taken++
	}
	if taken > maxQueued+maxWorking {
		t.Errorf("%d posts are kept", taken)
	}
	close(hold)
	q.close()
}

func TestNoSecretIsInAnythingThatIsShown(t *testing.T) {
	r := NewReceiver(publicURL, mail.Secret{1}, nil)
	defer r.Close()
	secret := strings.TrimPrefix(r.path, Path)
	if len(secret) < 22 || strings.Contains(r.shown, secret) || strings.Contains(r.to, secret) || strings.Contains(r.unreached().Error(), secret) {
		t.Errorf("%s is in %s or %s", secret, r.shown, r.to)
	}
	if other := NewReceiver("https://other.example", mail.Secret{1}, nil); other.path == r.path || other.to == r.to {
		t.Error("another URL has the same secret")
	}
	if other := NewReceiver(publicURL, mail.Secret{2}, nil); other.path == r.path {
		t.Error("another installation has the same secret")
	}
}

// serveTCP serves a receiver on a port.
func serveTCP(t *testing.T, r *Receiver) (address string) {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(socket)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
		r.Close()
	})
	return "http://" + socket.Addr().String()
}

func TestTenThousandForgedPostsDelayNoLiveMail(t *testing.T) {
	if testing.Short() {
		t.Skip("10 s of real time")
	}
	r, told := marked(t)
	address := serveTCP(t, r)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	forged := bodyOf(sub{id: "sub", state: "guessed"}, 10, "forged")
	stop := make(chan struct{})
	var posts atomic.Int64
	var flood sync.WaitGroup
	for range 8 {
		flood.Go(func() {
			tick := time.NewTicker(8 * time.Millisecond) // 1,000 a second by all
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if send(client, address+r.path, forged) == 202 {
					posts.Add(1)
				}
			}
		})
	}
	var first []int64 // forged ones that were answered before a live one marked
	for i := range 100 {
		told.refill()
		began, before := time.Now(), posts.Load()
		live := bodyOf(sub{id: "sub", state: told.state}, 1, fmt.Sprintf("AAMk%d", i))
		if code := send(client, address+r.path, live); code != 202 {
			t.Fatalf("live mail was answered %d", code)
		}
		for told.n() <= i {
			if time.Since(began) > 10*time.Second {
				t.Fatal("live mail is not marked")
			}
			<-time.After(100 * time.Microsecond)
		}
		first = append(first, posts.Load()-before)
		<-time.After(50 * time.Millisecond)
	}
	close(stop)
	flood.Wait()
	slices.Sort(first)
	t.Logf("%d forged; before live mail is marked, %d of them are answered (median), %d (p99)", posts.Load(), first[50], first[98])
	if first[90] > 100 { // what a tenth of a second has of them, where the machine keeps up
		t.Errorf("before live mail is marked, %d forged posts are answered (p90)", first[90])
	}
}

func TestAPostIsAnsweredWithinMillisecondsWhileEverythingElseIsBusy(t *testing.T) {
	if testing.Short() {
		t.Skip("5 s of real time")
	}
	r, told := marked(t)
	address := serveTCP(t, r)
	floor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { // what the machine needs in any case
		_, _ = io.Copy(io.Discard, req.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer floor.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	stop := make(chan struct{})
	var busy, posting sync.WaitGroup
	for range runtime.GOMAXPROCS(0) { // the rest of the service under full load
		busy.Go(func() {
			sum := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i := range 10_000 {
					sum += i
				}
			}
		})
	}
	var mu sync.Mutex
	var took, least []time.Duration
	for p := range 10 { // 1,000 a second by all
		posting.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := range 300 {
				<-tick.C
				body := bodyOf(sub{id: "sub", state: told.state}, 1, fmt.Sprintf("AAMk%d-%d", p, i))
				to, times := address+r.path, &took
				if i%2 == 1 {
					to, times = floor.URL, &least
				}
				began := time.Now()
				code := send(client, to, body)
				mu.Lock()
				*times = append(*times, time.Since(began))
				mu.Unlock()
				if code != 202 {
					t.Errorf("answered %d", code)
				}
			}
		})
	}
	posting.Wait()
	close(stop)
	busy.Wait()
	slices.Sort(took)
	slices.Sort(least)
	at := func(list []time.Duration, hundredths int) time.Duration { return list[len(list)*hundredths/100] }
	t.Logf("%d posts, answered after %v (median), %v (p99); by a handler that does nothing: %v, %v", len(took), at(took, 50), at(took, 99), at(least, 50), at(least, 99))
	if p95, floor := at(took, 95), at(least, 95); p95 > 2*floor+50*time.Millisecond { // the last hundredth is the machine's
		t.Errorf("p95 is %v, and that of a handler that does nothing %v", p95, floor)
	}
}

// marking is a member whose marks are counted.
type marking struct {
	state  string
	hints  *atomic.Int64
	member *Member
}

// refill lets the mailbox be marked as often as at first.
func (m marking) refill() {
	m.member.keeper.mu.Lock()
	defer m.member.keeper.mu.Unlock()
	m.member.allowance = marks.Allowance{}
}

func (m marking) n() int { return int(m.hints.Load()) }

type counting struct{ hints *atomic.Int64 }

func (c counting) Hint(string, time.Time)        { c.hints.Add(1) }
func (counting) Tell(*mail.Message, time.Time)   {}
func (counting) List()                           {}
func (counting) Answers()                        {}
func (counting) Doubt(*fault.Error) (moved bool) { return false }

// marked is a receiver that knows one mailbox.
func marked(t *testing.T) (*Receiver, marking) {
	t.Helper()
	r := NewReceiver(publicURL, mail.Secret{1}, nil)
	k := NewKeeper(Options{Receiver: r})
	t.Cleanup(k.Close)
	hints := &atomic.Int64{}
	m := &Member{keeper: k, sink: counting{hints}, in: true}
	m.now = &subscription{id: "sub", state: "the client state", expires: time.Now().Add(time.Hour), renewAt: time.Now().Add(time.Hour)}
	m.since = time.Now()
	r.add(m.now.state, m)
	return r, marking{m.now.state, hints, m}
}

func bodyOf(x sub, n int, item string) []byte {
	var list []told
	for range n {
		list = append(list, x.mail(item))
	}
	b, err := json.Marshal(map[string]any{"value": list})
	if err != nil {
		panic(err)
	}
	return b
}

func send(client *http.Client, to string, body []byte) int {
	resp, err := client.Post(to, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func FuzzAnybodyMayPostAnything(f *testing.F) {
	f.Add("?validationToken=abc", `{}`)
	f.Add("", `{"value":[{"subscriptionId":"sub","clientState":"the client state","changeType":"created","resourceData":{"id":"AAMk1"}}]}`)
	f.Add("", `{"value":[{"subscriptionId":"sub","clientState":"x","lifecycleEvent":"missed"}]}`)
	f.Add("?validationToken=%3Cscript%3E", "")
	f.Fuzz(func(t *testing.T, query, body string) {
		r, told := marked(t)
		req := httptest.NewRequest(http.MethodPost, r.path, strings.NewReader(body))
		req.URL.RawQuery = strings.TrimPrefix(query, "?")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		r.Close()
		if w.Code != 202 && w.Code != 200 && w.Code != 400 {
			t.Errorf("answered %d", w.Code)
		}
		if w.Code == 200 && (strings.ContainsAny(w.Body.String(), "<>") || w.Body.Len() > 5*maxToken) {
			t.Errorf("echoed %q", w.Body)
		}
		if told.n() > 0 && !strings.Contains(body, "the client state") && !strings.Contains(body, `\u`) {
			t.Error("who does not know the client state marks the mailbox")
		}
	})
}
