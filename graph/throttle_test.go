package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// service is a Graph that answers after 50 ms, and counts.
type service struct {
	takes time.Duration
	// refuse says how a request is refused, or "" where it is not: by status, and Retry-After in seconds.
	refuse func(mailbox string, open int) (status int, body, after string)

	mu   sync.Mutex
	open map[string]int
	most map[string]int
	all  map[string]int // requests, by mailbox
	bad  int            // refused
}

func newService() *service {
	return &service{takes: 50 * time.Millisecond, open: map[string]int{}, most: map[string]int{}, all: map[string]int{}}
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	parts := strings.Split(r.URL.Path, "/")
	mailbox := parts[min(3, len(parts)-1)]
	n := 1
	if mailbox == "$batch" {
		mailbox, n = mara, atOnce
	}
	s.mu.Lock()
	s.all[mailbox] += n
	s.open[mailbox] += n
	s.most[mailbox] = max(s.most[mailbox], s.open[mailbox])
	status, body, after := http.StatusOK, `{"id":"1","value":[]}`, ""
	if s.refuse != nil {
		if st, b, a := s.refuse(mailbox, s.open[mailbox]); st != 0 {
			status, body, after = st, b, a
			s.bad++
		}
	}
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	s.mu.Lock()
	s.open[mailbox] -= n
	s.mu.Unlock()
	return reply(r, status, body, "Retry-After", after), nil
}

// client makes no batches of several mailboxes: the service knows none.
func (s *service) client() *Client {
	c := New(Options{Base: base, HTTP: s})
	c.combiner.stop()
	return c
}

func TestOfAMailboxNoMoreIsAskedForAtOnceThanItAnswersAndOthersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.takes = time.Second
		c := s.client()
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				var err error
				if i%5 == 0 {
					_, _, err = c.Read(t.Context(), mara, []string{"1", "2", "3", "4"})
				} else {
					_, err = c.Messages(t.Context(), mara, time.Time{}, 1)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if _, err := c.Messages(t.Context(), "tom@contoso.com", time.Time{}, 1); err != nil || time.Since(began) > s.takes+companyFor {
			t.Errorf("another mailbox waited %v (%v)", time.Since(began), err)
		}
		calls.Wait()
		if s.most[mara] != atOnce {
			t.Errorf("%d at once", s.most[mara])
		}
		if len(c.gates.kept) != 0 {
			t.Errorf("%d gates are kept of mailboxes of which nothing is to be remembered", len(c.gates.kept))
		}
	})
}

func TestAWaitForAGateEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.takes = time.Second
		c := s.client()
		var calls sync.WaitGroup
		for range atOnce + 1 {
			calls.Go(func() { _, _ = c.Look(t.Context(), mara) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Look(ctx, mara); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		calls.Wait()
		if len(c.gates.kept) != 0 {
			t.Errorf("%+v", c.gates.kept[mara])
		}
	})
}

func crowded(int) (int, string, string) {
	return http.StatusTooManyRequests, errorBody("ApplicationThrottled", "Application is over its MailboxConcurrency limit."), "1"
}

func TestWhereAMailboxAnswersFewerAtOnceFewerAreAskedForUntilItIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		limit := 2
		s.refuse = func(_ string, open int) (int, string, string) {
			if open > limit {
				return crowded(open)
			}
			return 0, "", ""
		}
		c := s.client()
		work := func(for_ time.Duration) {
			var calls sync.WaitGroup
			until := time.Now().Add(for_)
			for range 8 {
				calls.Go(func() {
					for time.Now().Before(until) {
						if _, err := c.Look(t.Context(), mara); err != nil {
							<-time.After(fault.Of(err).Pause(1))
						}
					}
				})
			}
			calls.Wait()
		}
		work(30 * time.Second)
		if s.bad == 0 || s.bad > atOnce {
			t.Errorf("%d refused", s.bad)
		}
		limit = atOnce
		work(5 * time.Minute)
		s.mu.Lock()
		clear(s.most)
		s.mu.Unlock()
		work(time.Second)
		if s.most[mara] != atOnce {
			t.Errorf("%d at once, after the mailbox answers %d again", s.most[mara], atOnce)
		}
	})
}

func TestWhoeverWasRefusedIsLeftAloneForLongerEachTimeWhateverRetryAfterSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.refuse = func(string, int) (int, string, string) {
			return http.StatusTooManyRequests, errorBody("TooManyRequests", ""), "1"
		}
		c := s.client()
		began := time.Now()
		for time.Since(began) < 30*time.Minute {
			_, err := c.Look(t.Context(), mara)
			f := fault.Of(err)
			if f.Code != CodeThrottled && f.Code != CodeHeld || f.After <= 0 || f.Scope != fault.Mailbox || f.Remedy > fault.Wait {
				t.Fatalf("%v after %v", err, f.After)
			}
			<-time.After(time.Second) // as one who does not wait
		}
		if n := s.all[mara]; n < 10 || n > 16 {
			t.Errorf("%d requests in half an hour", n)
		}
		s.refuse = nil
		<-time.After(6 * time.Minute)
		for range 10 {
			if _, err := c.Look(t.Context(), mara); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.gates.kept) != 1 {
			t.Fatal("it is forgotten at once that the mailbox was refused")
		}
		<-time.After(forgotten)
		if _, err := c.Look(t.Context(), mara); err != nil || len(c.gates.kept) != 0 {
			t.Errorf("%d gates, %v", len(c.gates.kept), err)
		}
	})
}

// A batch is let in though each of its requests is refused: that is no word that Graph answers again.
func TestABatchOfWhichEachRequestIsRefusedIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches atomic.Int64
		refuses := atomic.Bool{}
		refuses.Store(true)
		c := New(Options{Base: base, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			batches.Add(1)
			var asked batchBody
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				return nil, err
			}
			status, body := http.StatusOK, `{"id":"1"}`
			if refuses.Load() {
				status, body = http.StatusTooManyRequests, errorBody("TooManyRequests", "")
			}
			var list []string
			for _, one := range asked.Requests {
				list = append(list, fmt.Sprintf(`{"id":%q,"status":%d,"headers":{"Retry-After":"1"},"body":%s}`, one.ID, status, body))
			}
			return reply(r, http.StatusOK, `{"responses":[`+strings.Join(list, ",")+`]}`), nil
		})})
		began := time.Now()
		for time.Since(began) < 30*time.Minute {
			_ = itemsOf(c.Read(t.Context(), mara, []string{"1", "2"}))
			<-time.After(time.Second) // as one who does not wait
		}
		if n := batches.Load(); n < 10 || n > 16 {
			t.Errorf("%d batches in half an hour", n)
		}
		refuses.Store(false)
		<-time.After(6 * time.Minute)
		for range 10 {
			if err := itemsOf(c.Read(t.Context(), mara, []string{"1", "2"})); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOneMailboxThatIsThrottledHoldsNoOtherAndManyAreTheApps(t *testing.T) {
	for name, c := range map[string]struct {
		throttled int
		held      bool
	}{"one": {1, false}, "a few": {witnesses - 1, false}, "many": {witnesses, true}} {
		synctest.Test(t, func(t *testing.T) {
			s := newService()
			s.refuse = func(mailbox string, _ int) (int, string, string) {
				if strings.HasPrefix(mailbox, "busy") {
					return http.StatusTooManyRequests, "", "3"
				}
				return 0, "", ""
			}
			client := s.client()
			for i := range c.throttled {
				_, _ = client.Look(t.Context(), fmt.Sprint("busy", i))
			}
			began := time.Now()
			_, err := client.Look(t.Context(), mara)
			if took := time.Since(began); err != nil || (took > s.takes) != c.held || took > 5*time.Second {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		})
	}
}

// One of the mailboxes that are refused together may have to wait for longer for a reason of its own: the others need not.
func TestTheLongestWaitThatGraphAsksOfOneMailboxIsNotTheApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.refuse = func(mailbox string, _ int) (int, string, string) {
			switch {
			case mailbox == "4":
				return http.StatusTooManyRequests, "", "3000"
			case strings.HasPrefix(mailbox, "well"):
				return 0, "", ""
			}
			return http.StatusTooManyRequests, "", "2"
		}
		c := s.client()
		for i := range witnesses {
			_, _ = c.Look(t.Context(), fmt.Sprint(i))
		}
		<-time.After(10 * time.Minute)
		if _, err := c.Look(t.Context(), "well"); err != nil {
			t.Error(err)
		}
		if _, err := c.Look(t.Context(), "4"); fault.Of(err).Code != CodeHeld {
			t.Error(err)
		}
	})
}

func TestAFewThrottledMailboxesAmongManyThatAreAnsweredAreNotTheApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.takes = time.Millisecond
		s.refuse = func(mailbox string, _ int) (int, string, string) {
			if strings.HasPrefix(mailbox, "busy") {
				return http.StatusTooManyRequests, "", "3"
			}
			return 0, "", ""
		}
		client := s.client()
		for i := range 2000 {
			mailbox := fmt.Sprint("well", i)
			if i%50 == 49 {
				mailbox = fmt.Sprint("busy", i)
			}
			_, err := client.Look(t.Context(), mailbox)
			if (err != nil) != (i%50 == 49) {
				t.Fatalf("%s: %v", mailbox, err)
			}
		}
	})
}

func TestThrottledSubscriptionsHoldNoReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.refuse = func(mailbox string, _ int) (int, string, string) {
			if mailbox == "subscriptions" || mailbox == "1" {
				return http.StatusTooManyRequests, "", "7"
			}
			return 0, "", ""
		}
		c := s.client()
		if _, err := c.Subscribe(t.Context(), mara, Subscription{}); fault.Of(err).Code != CodeThrottled {
			t.Error(err)
		}
		if _, err := c.Renew(t.Context(), "1", time.Now()); fault.Of(err).Code != CodeHeld || fault.Of(err).After < 6*time.Second {
			t.Error(err)
		}
		if _, err := c.Look(t.Context(), mara); err != nil {
			t.Error(err)
		}
		s.refuse = nil
		<-time.After(10 * time.Second)
		if _, err := c.Renew(t.Context(), "1", time.Now()); err != nil {
			t.Error(err)
		}
		var calls sync.WaitGroup
		for range 40 { // not as few as of one mailbox
			calls.Go(func() {
				if _, err := c.Renew(t.Context(), "1", time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		calls.Wait()
		if s.most["1"] <= atOnce {
			t.Errorf("%d at once", s.most["1"])
		}
	})
}

// What the server of one mailbox answers to the service of subscriptions holds no subscription of another mailbox.
func TestAServerOfMailboxesThatFailsOverHoldsNoOtherSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.refuse = func(mailbox string, _ int) (int, string, string) {
			if mailbox == "1" {
				return http.StatusServiceUnavailable, errorBody("ExtensionError", "Operation: Update; Exception: [Status Code: ServiceUnavailable; Reason: ]"), ""
			}
			return 0, "", ""
		}
		c := s.client()
		if _, err := c.Renew(t.Context(), "1", time.Now()); fault.Of(err).Code != CodeBehind {
			t.Error(err)
		}
		if _, err := c.Renew(t.Context(), "2", time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyAnAnswerToARequestFromAfterARefusalEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hold
		began := time.Now()
		first := h.refuse(began, 0, began)
		if again := h.refuse(began.Add(-time.Second), 0, began); h.times != 1 || again < first {
			t.Errorf("requests that were under way together count %d times", h.times)
		}
		h.accept(began)
		if h.times != 1 {
			t.Error("an answer to a request from before ends it")
		}
		<-time.After(h.closed(time.Now(), false))
		now := time.Now()
		if h.closed(now, false) != 0 {
			t.Error("nobody may find out whether there are answers again")
		}
		h.pass(now)
		if h.closed(now, false) != probed || h.closed(now.Add(probing-1), false) != probed || h.closed(now.Add(probing), false) != 0 || h.closed(now, true) != 0 {
			t.Errorf("while one finds that out the others wait %v", h.closed(now, false))
		}
		second := h.refuse(now, 0, now)
		if h.times != 2 || second < 2*time.Second {
			t.Errorf("the second refusal in a row: %v", second)
		}
		<-time.After(second)
		now = time.Now()
		h.pass(now)
		h.accept(now)
		if h.times != 0 || h.closed(now, false) != 0 {
			t.Errorf("an answer does not end it: %+v", h)
		}
	})
}

func TestTheGatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newService().client()
		for i := range maxGates + 10 {
			c.gates.note(fmt.Sprint(i), time.Now(), newError(operation{}, said{status: http.StatusTooManyRequests}))
			if i%1000 == 0 {
				<-time.After(time.Minute)
			}
		}
		if n := len(c.gates.kept); n > maxGates {
			t.Errorf("%d gates", n)
		}
	})
}

func TestACallWaitsForTheAppNoLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		// With the jitter of the gate and of the call this is 15 s to 24 s: one such wait is within the patience, and two are not.
		s.refuse = func(string, int) (int, string, string) { return http.StatusTooManyRequests, "", "15" }
		c := s.client()
		for i := range witnesses {
			_, _ = c.Look(t.Context(), fmt.Sprint(i))
		}
		began := time.Now()
		_, err := c.Look(t.Context(), mara)
		if f := fault.Of(err); f.Code != CodeThrottled || time.Since(began) < 14*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		began = time.Now()
		_, err = c.Look(t.Context(), "tom@contoso.com")
		if took := time.Since(began); err == nil || took > patience {
			t.Errorf("%v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Look(ctx, "tom@contoso.com"); !errors.Is(err, context.DeadlineExceeded) && fault.Of(err).Code != CodeHeld {
			t.Error(err)
		}
	})
}

// An app whose limit is 400 requests in ten seconds, with a thousand mailboxes that all have something to be read.
func TestAnAppFindsWhatItIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const span, allowed = 10 * time.Second, 400
		s := newService()
		began, taken := time.Now(), 0
		s.refuse = func(string, int) (int, string, string) {
			if time.Since(began) >= span {
				began, taken = time.Now(), 0
			}
			taken++
			if taken > allowed {
				return http.StatusTooManyRequests, errorBody("TooManyRequests", ""), "1"
			}
			return 0, "", ""
		}
		c := s.client()
		var done atomic.Int64
		var calls sync.WaitGroup
		for i := range 1000 {
			calls.Go(func() {
				for failures := 1; ; failures++ {
					_, err := c.Look(t.Context(), fmt.Sprint(i))
					if err == nil {
						break
					}
					<-time.After(fault.Of(err).Pause(failures))
				}
				done.Add(1)
			})
		}
		start := time.Now()
		calls.Wait()
		if took := time.Since(start); took > 2*time.Minute || s.bad > 300 {
			t.Errorf("%d mailboxes read in %v, with %d refusals", done.Load(), took, s.bad)
		}
	})
}
