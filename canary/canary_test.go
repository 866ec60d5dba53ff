package canary

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ann = "ann@contoso.com"

// way is what stands for Exchange and the inbox: it takes a message, has it read, and has its alert accepted as the test says.
type way struct {
	*Canary
	registry *prometheus.Registry

	mu     sync.Mutex
	refuse error         // what sending a message meets
	takes  time.Duration // from sending to the acceptance
	stops  string        // where it ends: "" accepted, "unread", "behind"
	sent   []string      // "after mailbox"
	keys   byte
}

// fly runs a canary in fake time.
func fly(t *testing.T, w *way, mailboxes ...string) {
	t.Helper()
	began := time.Now()
	w.registry = prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(t.Context())
	var open sync.WaitGroup
	w.Canary = New(Options{Mailboxes: mailboxes, Every: 15 * time.Minute, Within: 2 * time.Minute, Metrics: w.registry,
		Send: func(_ context.Context, mailbox, subject string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.refuse != nil {
				return w.refuse
			}
			w.sent = append(w.sent, fmt.Sprint(time.Since(began), " ", mailbox))
			w.keys++
			key, takes, stops := mail.Key{w.keys}, w.takes, w.stops
			open.Go(func() {
				select {
				case <-time.After(takes):
					w.arrive(key, subject, stops)
				case <-ctx.Done():
				}
			})
			return nil
		}})
	open.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		open.Wait()
	})
}

// arrive has a message of that subject read and decided about, among others.
func (w *way) arrive(key mail.Key, subject, stops string) {
	w.Read(mail.Key{255}, &mail.Message{Subject: "Lunch?"})
	w.Decided(subscriptions.Decision{Key: mail.Key{255}, Outcome: outcome.Accepted, At: time.Now()})
	if stops == "unread" {
		return
	}
	w.Read(key, &mail.Message{Subject: "[EXTERNAL] " + subject})
	w.Decided(subscriptions.Decision{Outcome: outcome.NotSent, Reason: outcome.Gone, At: time.Now()})
	w.Decided(subscriptions.Decision{Key: key, Device: "one", Outcome: outcome.Behind, Reason: outcome.TopicAway, At: time.Now()})
	if stops == "behind" {
		return
	}
	for range 2 { // two devices
		w.Decided(subscriptions.Decision{Key: key, Outcome: outcome.Accepted, At: time.Now()})
	}
}

// set changes the way from now on.
func (w *way) set(refuse error, takes time.Duration, stops string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse, w.takes, w.stops = refuse, takes, stops
}

// stands checks the only mailbox after a time.
func (w *way) stands(t *testing.T, after time.Duration, state State, lost int, fault string) Standing {
	t.Helper()
	<-time.After(after) // in fake time
	synctest.Wait()
	s := w.Standing()[0]
	text := ""
	if s.Fault != nil {
		text = s.Fault.Error()
	}
	if s.State != state || s.Lost != lost || !strings.Contains(text, fault) || (fault == "") != (text == "") {
		t.Errorf("%s, %d lost, %q; want %s, %d, %q", s.State, s.Lost, text, state, lost, fault)
	}
	return s
}

func TestAMessageIsSentInEachIntervalAndFollowedToItsAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{takes: 3 * time.Second}
		fly(t, w, ann)
		began := time.Now()
		if s := w.stands(t, time.Second, UnderWay, 0, ""); !s.Began.Equal(began) || !s.Next.IsZero() || !s.LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		s := w.stands(t, 29*time.Second, Accepted, 0, "")
		if s.Took != 3*time.Second || !s.LastSuccess.Equal(began.Add(3*time.Second)) || !s.Next.Equal(began.Add(15*time.Minute)) || !s.Began.IsZero() {
			t.Errorf("%+v", s)
		}
		w.set(nil, 5*time.Second, "")
		if s := w.stands(t, 15*time.Minute, Accepted, 0, ""); s.Took != 5*time.Second {
			t.Errorf("%+v", s)
		}
		if got := fmt.Sprint(w.sent); got != "[0s ann@contoso.com 15m0s ann@contoso.com]" {
			t.Error(got)
		}
		want := `
# HELP mailbell_canary_last_success_timestamp_seconds When APNs accepted the alert of a canary last, of the mailbox for which that is the longest ago.
# TYPE mailbell_canary_last_success_timestamp_seconds gauge
mailbell_canary_last_success_timestamp_seconds ` + fmt.Sprint(float64(began.Add(15*time.Minute+5*time.Second).Unix())) + `
`
		if err := testutil.GatherAndCompare(w.registry, strings.NewReader(want), "mailbell_canary_last_success_timestamp_seconds"); err != nil {
			t.Error(err)
		}
		if n := testutil.CollectAndCount(w.metrics.took); n != 1 {
			t.Errorf("%d histograms", n)
		}
	})
}

func TestALateMessageIsSaidToBeLateAndCountsOnceWhenItArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{takes: 10 * time.Minute}
		fly(t, w, ann)
		w.stands(t, 2*time.Minute, UnderWay, 0, "")
		w.stands(t, time.Second, Late, 0, "canary late: no alert of a canary was accepted within 2m0s; mailbell has not read it")
		if s := w.stands(t, 8*time.Minute, Accepted, 0, ""); s.Took != 10*time.Minute {
			t.Errorf("%+v", s)
		}
		if len(w.sent) != 1 {
			t.Errorf("%v", w.sent)
		}
	})
}

func TestALostMessageIsLostUntilOneComesThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{takes: 16 * time.Minute} // when the next one is under way
		fly(t, w, ann)
		w.stands(t, 15*time.Minute+30*time.Second, Lost, 1, "canary lost: no alert of a canary was accepted within 15m0s; mailbell has not read it")
		w.set(nil, time.Second, "behind")
		w.stands(t, 2*time.Minute, Lost, 1, "canary lost")
		w.stands(t, 14*time.Minute, Lost, 2, "canary lost")
		w.stands(t, 15*time.Minute, Lost, 3, "mailbell has read it, and its alert waits or was not sent: topic_away")
		w.set(nil, time.Second, "")
		w.stands(t, 15*time.Minute, Accepted, 4, "") // the one that was under way then, too
		if got := testutil.ToFloat64(w.metrics.lost.WithLabelValues(lostMissed)); got != 4 {
			t.Errorf("%v lost", got)
		}
	})
}

func TestWhatCannotBeSentIsTriedAgainEachMinuteAndCountsOnceInItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{refuse: &fault.Error{Op: "CreateItem", Code: "ErrorAccessDenied"}, takes: time.Second}
		fly(t, w, ann)
		began := time.Now()
		if s := w.stands(t, time.Second, NotSent, 0, "ErrorAccessDenied"); !s.Next.Equal(began.Add(time.Minute)) || !s.Began.IsZero() {
			t.Errorf("%+v", s)
		}
		w.stands(t, 16*time.Minute, NotSent, 1, "ErrorAccessDenied")
		w.set(errors.New("untyped"), time.Second, "")
		w.stands(t, time.Minute, NotSent, 1, "untyped")
		w.set(nil, 3*time.Minute, "")
		w.stands(t, time.Minute, UnderWay, 1, "")
		w.stands(t, 3*time.Minute, Accepted, 1, "")
		if got := testutil.ToFloat64(w.metrics.lost.WithLabelValues(lostUnsent)); got != 1 {
			t.Errorf("%v lost", got)
		}
	})
}

func TestNothingIsSentBeforeTheMailboxIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{refuse: ErrNotYet, takes: time.Second}
		fly(t, w, ann)
		w.stands(t, time.Hour, Waiting, 0, "")
		w.set(nil, time.Second, "")
		w.stands(t, 3*time.Second, Accepted, 0, "")
	})
}

func TestEachMailboxHasAMessageOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{takes: time.Second}
		fly(t, w, ann, "bob@contoso.com")
		<-time.After(time.Minute)
		synctest.Wait()
		for _, s := range w.Standing() {
			if s.State != Accepted {
				t.Errorf("%+v", s)
			}
		}
		if w.underWay.Load() != 0 {
			t.Errorf("%d are under way", w.underWay.Load())
		}
		if at, ok := w.oldest(); !ok || at.IsZero() {
			t.Error("no last success")
		}
	})
}

func TestAMailboxWithoutASuccessHidesTheLastOneOfOthers(t *testing.T) {
	c := New(Options{Mailboxes: []string{ann, "bob@contoso.com"}})
	c.list[0].success = time.Now()
	if _, ok := c.oldest(); ok {
		t.Error("there is a last success")
	}
}

func TestAnAlertThatIsFasterThanTheAnswerToItsMessageCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{}
		ctx, cancel := context.WithCancel(t.Context())
		w.Canary = New(Options{Mailboxes: []string{ann}, Every: 15 * time.Minute, Within: 2 * time.Minute,
			Send: func(_ context.Context, _, subject string) error {
				w.arrive(mail.Key{1}, subject, "")
				return errors.New("the answer is lost")
			}})
		ended := make(chan struct{})
		go func() {
			w.Run(ctx)
			close(ended)
		}()
		w.stands(t, time.Second, Accepted, 0, "")
		cancel()
		<-ended
	})
}
