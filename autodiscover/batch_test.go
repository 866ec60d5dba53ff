package autodiscover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beevik/etree"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// server is one SOAP endpoint, at autodiscover.contoso.com. It takes a moment for each request, as a real one does.
type server struct {
	t      *testing.T
	answer func(users []string) string // nil: settings for all
	status int
	plain  atomic.Int64 // requests to anything else, at any host

	mu      sync.Mutex
	batches [][]string
	flying  int
	most    int // at a time
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() != namedSOAP {
		s.plain.Add(1)
		select { // it takes its time to say that it is not there
		case <-time.After(time.Second):
		case <-r.Context().Done():
		}
		return nil, notFoundErr
	}
	doc := etree.NewDocument()
	if _, err := doc.ReadFrom(r.Body); err != nil {
		s.t.Error(err)
	}
	users := usersOf(doc)
	s.mu.Lock()
	s.batches = append(s.batches, users)
	s.flying++
	s.most = max(s.most, s.flying)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.flying--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(100 * time.Millisecond):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if r.Header.Get("X-AnchorMailbox") != users[0] || r.Header.Get("SOAPAction") != `"`+soapAction+`"` || r.ContentLength <= 0 {
		s.t.Errorf("%v", r.Header)
	}
	body := ""
	if s.answer != nil {
		body = s.answer(users)
	} else {
		body = soap(each(users)...)
	}
	status := s.status
	if status == 0 {
		status = 200
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// each is an answer for users, with a URL of its own for each.
func each(users []string) (answers []string) {
	for _, u := range users {
		answers = append(answers, settingsOf(u, "https://"+strings.Replace(u, "@", ".", 1)+"/EWS/Exchange.asmx"))
	}
	return answers
}

func (s *server) client(o Options) *Client {
	o.HTTP, o.Plain, o.Resolver, o.Hosts = s, s, &internet{}, auth.Hosts{Domains: mailDomains}
	return New(o)
}

// search finds mailboxes at once, and waits for all. A place that is another's is an error of the test.
func (s *server) search(ctx context.Context, c *Client, users []string) []error {
	errs := make([]error, len(users))
	var all sync.WaitGroup
	for i, u := range users {
		all.Go(func() {
			var p mail.Location
			p, errs[i] = c.Find(ctx, u)
			if want := "https://" + strings.Replace(u, "@", ".", 1) + "/EWS/Exchange.asmx"; errs[i] == nil && (p.URL != want || p.Primary != u) {
				s.t.Errorf("%s is told %+v", u, p)
			}
		})
	}
	all.Wait()
	return errs
}

// names returns n addresses.
func names(n int) (users []string) {
	for i := range n {
		users = append(users, fmt.Sprintf("user%04d@contoso.com", i))
	}
	return users
}

func failures(errs []error) (n int) {
	for _, err := range errs {
		if err != nil {
			n++
		}
	}
	return n
}

func TestThousandsOfSearchesAreAHundredRequestsAndOneWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t}
		c := s.client(Options{})
		if errs := s.search(t.Context(), c, names(5000)); failures(errs) != 0 {
			t.Errorf("%d failures: %v", failures(errs), errs[0])
		}
		// One alone walks; the first to know the way after that asks alone, or with whom has come meanwhile.
		if n := len(s.batches); n < 100 || n > 100+3 {
			t.Errorf("%d requests", n)
		}
		if n := s.plain.Load(); n != 1 || s.most != 1 {
			t.Errorf("%d requests to other candidates, %d batches at a time", n, s.most)
		}
		if len(c.queues) != 0 || len(c.walks) != 0 {
			t.Errorf("left behind: %v %v", c.queues, c.walks)
		}
	})
}

func TestTheRateIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := &server{t: t}, time.Now()
		c := s.client(Options{Limit: rate.NewLimiter(1, 1)})
		if errs := s.search(t.Context(), c, names(500)); failures(errs) != 0 {
			t.Errorf("%v", errs[0])
		}
		if took := time.Since(start); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("500 users, at 50 a second, took %s", took)
		}
	})
}

func TestRequestsUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flying, most atomic.Int64
		c := New(Options{URL: "https://contoso.com/only-pox", Hosts: auth.Hosts{Trusted: []string{"contoso.com", "mail.contoso.com"}}, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), flying.Add(1)))
			defer flying.Add(-1)
			<-time.After(time.Second)
			return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(settings(mailURL)))}, nil
		})})
		var all sync.WaitGroup
		for _, u := range names(200) {
			all.Go(func() {
				if _, err := c.Find(t.Context(), u); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if most.Load() != 16 {
			t.Errorf("%d at a time", most.Load())
		}
	})
}

func TestOneBadAddressHarmsNoOther(t *testing.T) {
	const bad = "user0077@contoso.com"
	for name, answer := range map[string]func() string{
		"InvalidRequest": func() string { return soapError("InvalidRequest") },
		"InvalidUser":    func() string { return soapError("InvalidUser") }, // for all, because of one
		"a fault":        func() string { return soapFault },
		"cut":            func() string { return "<Envelope>" },
		"nobody":         func() string { return soap() },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{t: t, answer: func(users []string) string {
				if slices.Contains(users, bad) {
					return answer()
				}
				return soap(each(users)...)
			}}
			c := s.client(Options{})
			errs := s.search(t.Context(), c, names(200))
			if failures(errs) != 1 || errs[77] == nil || fault.Of(errs[77]).Code == "unknown" {
				t.Errorf("%s: %d failures, and for the bad one %v", name, failures(errs), errs[77])
			}
			// The halves of halves, 2 log2(50), more than without it; and one, where the bad one is the first to look for the way.
			if len(s.batches) > 6+2*6+1 {
				t.Errorf("%s: %d requests", name, len(s.batches))
			}
			if c.perBatch != 50 {
				t.Errorf("%s: only %d go into a request now", name, c.perBatch)
			}
		})
	}
}

func TestTheServersLimitIsLearntAndKept(t *testing.T) {
	for name, answer := range map[string]func([]string) string{
		"InvalidRequest": func([]string) string { return soapError("InvalidRequest") },
		"the first ones": func(users []string) string { return soap(each(users[:20])...) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{t: t, answer: func(users []string) string {
				if len(users) > 20 {
					return answer(users)
				}
				return soap(each(users)...)
			}}
			c := s.client(Options{})
			if errs := s.search(t.Context(), c, names(500)); failures(errs) != 0 {
				t.Errorf("%s: %d failures: %v", name, failures(errs), errs[0])
			}
			if c.perBatch < 10 || c.perBatch > 20 { // half of the first batch that was too large, or a quarter
				t.Errorf("%s: %d go into a request", name, c.perBatch)
			}
			s.batches = nil
			if errs := s.search(t.Context(), c, names(120)); failures(errs) != 0 || len(s.batches) > 13 {
				t.Errorf("%s: later: %d failures, %d requests", name, failures(errs), len(s.batches))
			}
		})
	}
}

func TestBatchesAreWholeAgainAnHourAfterOneFailedByItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 20
		s := &server{t: t, answer: func(users []string) string {
			if len(users) > most {
				return soapError("InvalidRequest")
			}
			return soap(each(users)...)
		}}
		c := s.client(Options{})
		first := s.search(t.Context(), c, names(500))
		most, s.batches = maxUsers, nil
		<-time.After(time.Hour)
		then := s.search(t.Context(), c, names(500))
		if failures(first)+failures(then) != 0 || len(s.batches) > 10+3 {
			t.Errorf("%d and %d failures, %d requests", failures(first), failures(then), len(s.batches))
		}
	})
}

func TestNobodyGetsAnothersPlace(t *testing.T) {
	for name, mangle := range map[string]func(users []string) []string{
		"turned round":    func(u []string) []string { slices.Reverse(u); return u },
		"the last is out": func(u []string) []string { return u[:len(u)-1] },
		"the first is out": func(u []string) []string {
			return u[1:]
		},
		"one is doubled":   func(u []string) []string { return append(u, u[0]) },
		"one is replaced":  func(u []string) []string { return append(u[1:], u[1]) },
		"one moved to end": func(u []string) []string { return append(u[1:], u[0]) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{t: t, answer: func(users []string) string {
				if len(users) > 1 {
					users = mangle(slices.Clone(users))
				}
				return soap(each(users)...)
			}}
			if errs := s.search(t.Context(), s.client(Options{}), names(100)); failures(errs) != 0 { // search looks at who gets what
				t.Errorf("%s: %d failures: %v", name, failures(errs), errs[0])
			}
		})
	}
}

func TestACancelledCallerDoesNotFailTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t}
		c := s.client(Options{})
		if errs := s.search(t.Context(), c, names(1)); failures(errs) != 0 { // the way is known
			t.Fatal(errs)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		contexts := []context.Context{cancelled, t.Context()}
		var all sync.WaitGroup
		for i, u := range names(41) {
			all.Go(func() {
				start := time.Now()
				_, err := c.Find(contexts[i%2], u)
				if i%2 == 1 && err != nil {
					t.Errorf("%s: %v", u, err)
				}
				if i%2 == 0 && (!errors.Is(err, context.Canceled) || time.Since(start) > 60*time.Millisecond) {
					t.Errorf("%s: %v after %s", u, err, time.Since(start))
				}
			})
			synctest.Wait() // the first is asked for, alone, and the others wait
		}
		<-time.After(50 * time.Millisecond)
		cancel()
		all.Wait()
		if len(s.batches) != 3 || len(s.batches[1]) != 1 || len(s.batches[2]) != 20 { // for those who have gone nobody is asked any more
			t.Errorf("%q", s.batches)
		}
	})
}

func TestTheLastCallerEndsTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t}
		c := s.client(Options{})
		if errs := s.search(t.Context(), c, names(1)); failures(errs) != 0 {
			t.Fatal(errs)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		if errs := s.search(ctx, c, names(3)); failures(errs) != 3 || s.flying != 0 || len(c.queues) != 0 || time.Since(start) != 50*time.Millisecond {
			t.Errorf("%v, %d under way after %s", errs, s.flying, time.Since(start))
		}
		if errs := s.search(t.Context(), c, names(3)); failures(errs) != 0 {
			t.Errorf("after it: %v", errs)
		}
	})
}

func TestARefusalIsTheAnswerForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t}
		c := s.client(Options{})
		if errs := s.search(t.Context(), c, names(100)); failures(errs) != 0 {
			t.Fatal(errs)
		}
		s.status, s.batches = 401, nil
		before := s.plain.Load()
		errs := s.search(t.Context(), c, names(1000))
		if failures(errs) != 1000 || fault.Of(errs[999]).Code != codeRefused || fault.Of(errs[999]).Scope != fault.Account {
			t.Errorf("%d failures, the last of them %v", failures(errs), errs[999])
		}
		if len(s.batches) > maxRefusals || s.plain.Load() != before {
			t.Errorf("a wrong password was sent %d times", len(s.batches))
		}
	})
}
