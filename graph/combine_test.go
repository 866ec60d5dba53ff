package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// inboxesOf is a Graph whose mailboxes each have one message, with the address as its subject. It takes 100 ms.
type inboxesOf struct {
	mu      sync.Mutex
	singles int
	batches int
	largest int
	refuses int                                            // the status by which batches are refused; 0: they are not
	hangs   func(mailbox string) bool                      // nil: none does
	wrong   func(mailbox string) (status int, code string) // nil: none is
}

func (s *inboxesOf) answer(path string) (status int, body string) {
	mailbox, _, _ := strings.Cut(strings.TrimPrefix(path, "/users/"), "/")
	if s.wrong != nil {
		if status, code := s.wrong(mailbox); status != 0 {
			return status, errorBody(code, "")
		}
	}
	return http.StatusOK, fmt.Sprintf(`{"value":[{"id":"1","subject":%q}]}`, mailbox)
}

func (s *inboxesOf) RoundTrip(r *http.Request) (*http.Response, error) {
	wait := func(ctx context.Context, hangs bool) error {
		if hangs {
			<-ctx.Done()
			return ctx.Err()
		}
		select {
		case <-time.After(100 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.Method == http.MethodGet {
		s.mu.Lock()
		s.singles++
		s.mu.Unlock()
		path := strings.TrimPrefix(r.URL.Path, "/v1.0")
		if err := wait(r.Context(), s.hangs != nil && s.hangs(strings.Split(path, "/")[2])); err != nil {
			return nil, err
		}
		status, body := s.answer(path)
		return reply(r, status, body, "Retry-After", "7"), nil
	}
	var asked batchBody
	b, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(b, &asked) != nil || r.URL.Path != "/v1.0/$batch" {
		return nil, fmt.Errorf("%w: %s", err, b)
	}
	s.mu.Lock()
	s.batches++
	s.largest = max(s.largest, len(asked.Requests))
	s.mu.Unlock()
	if s.refuses != 0 {
		return reply(r, s.refuses, ""), nil
	}
	var list []string
	hangs := false
	for _, one := range asked.Requests {
		hangs = hangs || s.hangs != nil && s.hangs(strings.Split(one.URL, "/")[2])
		status, body := s.answer(one.URL)
		list = append([]string{fmt.Sprintf(`{"id":%q,"status":%d,"headers":{"Retry-After":"7"},"body":%s}`, one.ID, status, body)}, list...)
	}
	if err := wait(r.Context(), hangs); err != nil {
		return nil, err
	}
	return reply(r, http.StatusOK, `{"responses":[`+strings.Join(list, ",")+`]}`, "Date", "Sat, 28 Nov 2026 14:00:00 GMT"), nil
}

// listAll lists n mailboxes at once, and returns what came of each and how long it took.
func listAll(t *testing.T, c *Client, n int) (errs map[string]error, longest time.Duration) {
	t.Helper()
	var calls sync.WaitGroup
	var mu sync.Mutex
	errs = map[string]error{}
	for i := range n {
		calls.Go(func() {
			mailbox := fmt.Sprintf("m%d@contoso.com", i)
			began := time.Now()
			p, err := c.Messages(t.Context(), mailbox, time.Time{}, 50)
			if err == nil && (len(p.Messages) != 1 || p.Messages[0].Subject != mailbox || p.Ended.IsZero()) {
				t.Errorf("of %s this is listed: %+v", mailbox, p)
			}
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(began))
			if err != nil {
				errs[mailbox] = err
			}
		})
	}
	calls.Wait()
	return errs, longest
}

func TestListingsOfManyMailboxesGoTogetherAndFewDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{}
		c := New(Options{Base: base, HTTP: s})
		if errs, longest := listAll(t, c, busyListings); len(errs) != 0 || s.batches != 0 || longest != 100*time.Millisecond {
			t.Errorf("%v, %d batches, %v", errs, s.batches, longest)
		}
		s.singles = 0
		errs, longest := listAll(t, c, 200)
		if len(errs) != 0 || s.singles > busyListings || s.batches > 11 || s.largest > MaxItems || longest > time.Second {
			t.Errorf("%v: %d requests and %d batches of up to %d, in %v", errs, s.singles, s.batches, s.largest, longest)
		}
		if c.combiner.underWay != 0 || len(c.gates.kept) != 0 {
			t.Errorf("%d are under way, %d gates", c.combiner.underWay, len(c.gates.kept))
		}
	})
}

func TestInABatchEachMailboxHasItsOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{wrong: func(mailbox string) (int, string) {
			switch mailbox {
			case "m50@contoso.com":
				return http.StatusNotFound, "MailboxNotEnabledForRESTAPI"
			case "m60@contoso.com":
				return http.StatusTooManyRequests, "ApplicationThrottled"
			}
			return 0, ""
		}}
		c := New(Options{Base: base, HTTP: s})
		errs, _ := listAll(t, c, 100)
		f := fault.Of(errs["m60@contoso.com"])
		if len(errs) != 2 || !fault.Of(errs["m50@contoso.com"]).Elsewhere || f.Code != CodeThrottled || f.After < 6*time.Second {
			t.Errorf("%v", errs)
		}
		if _, err := c.Messages(t.Context(), "m60@contoso.com", time.Time{}, 50); fault.Of(err).Code != CodeHeld {
			t.Errorf("asked again at once: %v", err)
		}
	})
}

// A mailbox that was refused once was not listed again for as long as few others were: its listing took the gate for one that another request
// tests, and that was the listing itself.
func TestAMailboxThatWasRefusedIsListedAgainByItselfOrInABatch(t *testing.T) {
	for name, n := range map[string]int{"by itself": 1, "in a batch": 10 * busyListings} {
		synctest.Test(t, func(t *testing.T) {
			refuses := true
			s := &inboxesOf{wrong: func(mailbox string) (int, string) {
				if refuses {
					return http.StatusTooManyRequests, "ApplicationThrottled"
				}
				return 0, ""
			}}
			c := New(Options{Base: base, HTTP: s})
			listAll(t, c, n)
			refuses = false
			<-time.After(probing)
			began := time.Now()
			for errs := map[string]error{"": nil}; len(errs) > 0; {
				if time.Since(began) > 2*probing {
					t.Fatalf("%s: after %v: %v", name, time.Since(began), errs)
				}
				<-time.After(probed)
				errs, _ = listAll(t, c, n)
			}
		})
	}
}

func TestABatchThatIsThrottledIsThatForEachOfItsMailboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{refuses: http.StatusTooManyRequests}
		c := New(Options{Base: base, HTTP: s})
		errs, _ := listAll(t, c, 30)
		throttled := 0
		for mailbox, err := range errs {
			if f := fault.Of(err); f.Code != CodeThrottled && f.Code != CodeHeld || f.After <= 0 || f.Remedy > fault.Wait {
				t.Errorf("%s: %v", mailbox, err)
			}
			if fault.Of(err).Code == CodeThrottled {
				throttled++
			}
		}
		if throttled < MaxItems || s.singles > busyListings+2 {
			t.Errorf("%d are throttled, and %d asked for by themselves", throttled, s.singles)
		}
	})
}

func TestWhatABatchDoesNotAnswerIsSaidOfThatMailbox(t *testing.T) {
	list := &struct{}{}
	op := operation{name: opList, about: aboutInbox, answer: list}
	for name, r := range map[string]*batchResponse{"nothing": nil, "no JSON": {Status: http.StatusOK, Body: []byte("x")}} {
		if e := partOf(op, r, nil); e == nil || e.Fault.Code != CodeUnparseable {
			t.Errorf("%s: %v", name, e)
		}
	}
	whole := newError(op, said{status: http.StatusTooManyRequests})
	one, other := partOf(op, nil, whole), partOf(op, nil, whole)
	one.Fault.After = time.Hour
	if other.Fault.After == time.Hour || whole.Fault.After == time.Hour {
		t.Error("mailboxes share one error, in which each writes how long it waits")
	}
}

func TestAMailboxThatHangsHoldsTheOthersOfItsBatchOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hangs = "m30@contoso.com"
		s := &inboxesOf{hangs: func(mailbox string) bool { return mailbox == hangs }}
		c := New(Options{Base: base, HTTP: s})
		for n, most := range []time.Duration{batchWithin + time.Second, time.Second} {
			ctx, cancel := context.WithCancel(t.Context())
			var sick, calls sync.WaitGroup
			began := time.Now()
			list := func(from, to int) {
				for i := from; i < to; i++ {
					mailbox := fmt.Sprintf("m%d@contoso.com", i)
					if mailbox == hangs {
						sick.Go(func() { _, _ = c.Messages(ctx, hangs, time.Time{}, 50) })
						continue
					}
					calls.Go(func() {
						if _, err := c.Messages(ctx, mailbox, time.Time{}, 50); err != nil {
							t.Error(err)
						}
					})
				}
			}
			list(0, 20)
			synctest.Wait() // then the one that hangs has company
			list(20, 60)
			calls.Wait()
			if took := time.Since(began); took > most {
				t.Errorf("round %d: %v", n, took)
			}
			cancel()
			sick.Wait()
		}
	})
}

func TestAMailboxThatHangsByItselfJoinsNoBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{hangs: func(mailbox string) bool { return mailbox == mara }}
		c := New(Options{Base: base, HTTP: s, Timeout: slowBatch})
		if _, err := c.Messages(t.Context(), mara, time.Time{}, 50); err == nil {
			t.Fatal("it does not hang")
		}
		c.combiner.underWay = 2 * busyListings
		if b, _, _ := c.combiner.join(operation{mailbox: mara}); b != nil {
			t.Error("it joins a batch")
		}
		<-time.After(aloneFor)
		if b, _, _ := c.combiner.join(operation{mailbox: mara}); b == nil {
			t.Error("it is by itself for ever")
		}
	})
}

func TestAGraphThatTakesNoBatchesIsAskedForEachMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{refuses: http.StatusNotFound}
		c := New(Options{Base: base, HTTP: s})
		if errs, _ := listAll(t, c, 100); len(errs) != 0 || s.singles != 100 {
			t.Errorf("%v, %d listings", errs, s.singles)
		}
		tried := s.batches
		if errs, _ := listAll(t, c, 100); len(errs) != 0 || s.batches != tried {
			t.Errorf("%v, %d batches more", errs, s.batches-tried)
		}
		<-time.After(notBatched)
		s.refuses = 0
		if errs, _ := listAll(t, c, 100); len(errs) != 0 || s.batches == tried {
			t.Errorf("%v: it is not tried again", errs)
		}
	})
}

func TestWhereTheFirstOfABatchGivesUpTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inboxesOf{}
		c := New(Options{Base: base, HTTP: s})
		var calls sync.WaitGroup
		for i := range busyListings {
			calls.Go(func() { _, _ = c.Messages(t.Context(), fmt.Sprint("busy", i), time.Time{}, 50) })
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		calls.Go(func() {
			if _, err := c.Messages(ctx, "first@contoso.com", time.Time{}, 50); err == nil {
				t.Error("it goes on")
			}
		})
		synctest.Wait()
		calls.Go(func() {
			if _, err := c.Messages(t.Context(), "second@contoso.com", time.Time{}, 50); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		calls.Wait()
	})
}

func TestTheMailboxesThatAreListedByThemselvesAreBounded(t *testing.T) {
	var c combiner
	for i := range maxGates + 10 {
		c.separate([]*part{{op: operation{mailbox: fmt.Sprint(i)}}})
	}
	if len(c.alone) > maxGates {
		t.Errorf("%d", len(c.alone))
	}
}

// Over TLS, as a service that polls many mailboxes does it.
func BenchmarkListings(b *testing.B) {
	for _, together := range []bool{false, true} {
		b.Run(fmt.Sprintf("together=%v", together), func(b *testing.B) {
			s := &inboxesOf{}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.Method == http.MethodGet {
					_, body := s.answer(strings.TrimPrefix(r.URL.Path, "/v1.0"))
					_, _ = io.WriteString(w, body)
					return
				}
				var asked batchBody
				if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
					b.Error(err)
				}
				var list []string
				for _, one := range asked.Requests {
					_, body := s.answer(one.URL)
					list = append(list, fmt.Sprintf(`{"id":%q,"status":200,"body":%s}`, one.ID, body))
				}
				_, _ = io.WriteString(w, `{"responses":[`+strings.Join(list, ",")+`]}`)
			}))
			defer server.Close()
			transport := server.Client().Transport.(*http.Transport)
			transport.MaxIdleConnsPerHost = 64
			c := New(Options{Base: server.URL, HTTP: transport})
			if !together {
				c.combiner.stop()
			}
			var calls sync.WaitGroup
			next := make(chan int)
			for range 60 {
				calls.Go(func() {
					for i := range next {
						if _, err := c.Messages(b.Context(), fmt.Sprintf("m%d@contoso.com", i), time.Time{}, 50); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range b.N {
				next <- i
			}
			close(next)
			calls.Wait()
		})
	}
}
