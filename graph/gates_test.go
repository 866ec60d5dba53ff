package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pace"
	"github.com/mailbell/mailbell/internal/sicktest"
)

// moody is a Graph that answers, refuses, hangs and cuts at random, until it is well.
type moody struct {
	mu      sync.Mutex
	dice    *rand.Rand
	sick    float64 // the share of requests that end in something else than an answer
	app     float64 // the share of the seconds in which whoever asks is refused
	open    int
	most    int
	seconds map[int64]bool // those, and whether the app is refused in them
}

var refusalsOfGraph = []struct {
	status int
	body   string
}{
	{http.StatusTooManyRequests, errorBody("TooManyRequests", "")},
	{http.StatusTooManyRequests, errorBody("ApplicationThrottled", "Application is over its MailboxConcurrency limit.")},
	{http.StatusServiceUnavailable, ""},
	{http.StatusServiceUnavailable, errorBody("ErrorServerBusy", "")},
	{http.StatusInternalServerError, ""},
	{http.StatusBadGateway, ""},
	{http.StatusGatewayTimeout, ""},
	{http.StatusForbidden, errorBody("ErrorAccessDenied", "")},
	{http.StatusNotFound, errorBody("ErrorItemNotFound", "")},
}

// one says how one request ends.
func (s *moody) one() (status int, body, after string) {
	second := time.Now().Unix()
	if _, known := s.seconds[second]; !known {
		s.seconds[second] = s.dice.Float64() < s.app
	}
	pick := s.dice.IntN(len(refusalsOfGraph))
	switch {
	case s.seconds[second]:
		pick = 0
	case s.dice.Float64() >= s.sick:
		return http.StatusOK, `{"id":"1","value":[]}`, ""
	}
	return refusalsOfGraph[pick].status, refusalsOfGraph[pick].body, fmt.Sprint(s.dice.IntN(20))
}

func (s *moody) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.open++
	s.most = max(s.most, s.open)
	takes, ends := time.Duration(10+s.dice.IntN(90))*time.Millisecond, s.dice.Float64()
	ill := s.dice.Float64() < s.sick
	status, body, after := s.one()
	var asked batchBody
	if strings.HasSuffix(r.URL.Path, "/$batch") && (!ill || ends < 0.9) {
		b, _ := io.ReadAll(r.Body)
		if json.Unmarshal(b, &asked) != nil {
			s.mu.Unlock()
			return nil, errors.New("no batch")
		}
		list := make([]string, len(asked.Requests))
		for i, one := range asked.Requests {
			st, b, a := s.one()
			if b == "" {
				b = "{}"
			}
			list[i] = fmt.Sprintf(`{"id":%q,"status":%d,"headers":{"Retry-After":%q},"body":%s}`, one.ID, st, a, b)
		}
		status, body = http.StatusOK, `{"responses":[`+strings.Join(list, ",")+`]}`
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
	}()
	if ill && ends < 0.2 {
		takes = 10 * time.Minute // it hangs
	} else if ill && ends < 0.4 {
		takes *= 50
	}
	select {
	case <-time.After(takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if ill && ends > 0.4 && ends < 0.6 {
		return nil, io.ErrUnexpectedEOF
	}
	return reply(r, status, body, "Retry-After", after), nil
}

// calls of all purposes that a caller may make.
func callsOf(c *Client) []func(ctx context.Context, mailbox string) error {
	return []func(ctx context.Context, mailbox string) error{
		func(ctx context.Context, m string) error { _, err := c.Messages(ctx, m, time.Time{}, 50); return err },
		func(ctx context.Context, m string) error { _, err := c.Look(ctx, m); return err },
		func(ctx context.Context, m string) error { return itemsOf(c.Read(ctx, m, []string{"1"})) },
		func(ctx context.Context, m string) error {
			return itemsOf(c.Read(ctx, m, []string{"1", "2", "3", "4", "5", "6"}))
		},
		func(ctx context.Context, m string) error {
			_, err := c.Subscribe(ctx, m, Subscription{Until: time.Now().Add(time.Hour)})
			return err
		},
		func(ctx context.Context, _ string) error {
			_, err := c.Renew(ctx, "1", time.Now().Add(time.Hour))
			return err
		},
		func(ctx context.Context, _ string) error { return c.Delete(ctx, "1") },
	}
}

// itemsOf is the error of a read, or of one of its messages: its caller comes back for that.
func itemsOf(items []Item, _ Answer, err error) error {
	for _, i := range items {
		if err == nil {
			err = i.Err
		}
	}
	return err
}

// Whatever Graph does, and whoever gives up meanwhile: once it is well, each mailbox is answered within the longest time for which a gate is
// closed, and nothing is left of it. A caller asks as the rooms do: again after what its error says, and sooner where something wakes it.
func TestAfterWhateverGraphDoesEachMailboxIsAnsweredOnceItIsWell(t *testing.T) {
	const (
		sickFor = 8 * time.Minute
		// A gate is closed for five minutes at most, who asks comes back a quarter later than that, and finds another who tests it.
		within = 8 * time.Minute
	)
	sicktest.Play(t, 8, func(t *testing.T, seed uint64, dice *sicktest.Dice) {
		s := &moody{dice: rand.New(rand.NewPCG(seed, 2)), sick: dice.Float64(), app: dice.Float64() / 2, seconds: map[int64]bool{}}
		mailboxes := 1 + dice.IntN(24)
		c := New(Options{Base: base, HTTP: s, Pace: pace.New(0, 64)})
		ctx, cancel := context.WithTimeout(t.Context(), sickFor)
		defer cancel()
		var callers sync.WaitGroup
		for i := range mailboxes {
			for _, call := range callsOf(c) {
				mailbox, own := fmt.Sprintf("m%d@contoso.com", i), rand.New(rand.NewPCG(seed, dice.Uint64()))
				callers.Go(func() {
					for failures := 1; ctx.Err() == nil; failures++ {
						limited, done := ctx, context.CancelFunc(func() {})
						if own.IntN(4) == 0 {
							limited, done = context.WithTimeout(ctx, time.Duration(1+own.IntN(2000))*time.Millisecond)
						}
						err := call(limited, mailbox)
						done()
						wait := time.Duration(1+own.IntN(20_000)) * time.Millisecond
						if err == nil {
							failures = 0
						} else if own.IntN(3) > 0 {
							wait = min(fault.Of(err).Pause(failures), 5*time.Minute)
						}
						select {
						case <-time.After(wait):
						case <-ctx.Done():
						}
					}
				})
			}
		}
		callers.Wait()
		s.mu.Lock()
		s.sick, s.app = 0, 0
		clear(s.seconds)
		s.mu.Unlock()

		well := time.Now()
		all := callsOf(c)
		for i := range mailboxes {
			for _, n := range dice.Perm(len(all))[:1+dice.IntN(2)] { // who asks for one thing only is helped by no other
				mailbox, call := fmt.Sprintf("m%d@contoso.com", i), all[n]
				callers.Go(func() {
					for failures := 1; ; failures++ {
						err := call(t.Context(), mailbox)
						if time.Since(well) > within {
							t.Errorf("call %d of %s, %v after Graph is well: %v", n, mailbox, time.Since(well), err)
						} else if err != nil {
							<-time.After(fault.Of(err).Pause(failures))
							continue
						}
						return
					}
				})
			}
		}
		callers.Wait()
		nothingIsLeft(t, c, mailboxes)
	})
}

// nothingIsLeft sees to it that nothing is held back any more, nobody has a place, and that all is forgotten in time.
func nothingIsLeft(t *testing.T, c *Client, mailboxes int) {
	t.Helper()
	for key, at := range c.gates.kept {
		if at.open != 0 || len(at.queue) != 0 {
			t.Errorf("the gate of %q: %+v", key, at)
		}
	}
	if c.combiner.underWay != 0 || c.combiner.next != nil {
		t.Errorf("listings: %+v", &c.combiner)
	}
	<-time.After(forgotten + atOnce*roomier)
	for range atOnce { // each call finds room for one more
		for i := range mailboxes {
			for _, call := range callsOf(c) {
				if err := call(t.Context(), fmt.Sprintf("m%d@contoso.com", i)); err != nil {
					t.Error(err)
				}
			}
		}
		<-time.After(roomier)
	}
	if h := c.gates.app; h.times > 0 || time.Now().Before(h.until) {
		t.Errorf("all are held back: %+v", h)
	}
	if n := len(c.gates.kept); n != 0 {
		t.Errorf("%d gates are kept that are as good as new: %+v", n, c.gates.kept)
	}
}
