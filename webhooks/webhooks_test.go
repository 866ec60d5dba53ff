package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/webhookconfig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // of the specification's own tests
	another = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
)

func key(t testing.TB, s string) []byte {
	t.Helper()
	k, err := webhookconfig.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// receiver is one that answers as it is told.
type receiver struct {
	mu     sync.Mutex
	got    []string                                     // type of each event, with its number of the test, in the order in which they came
	ids    []string                                     // their ids
	at     []time.Time                                  // when
	answer func(event string) (int, http.Header, error) // nil: 204
	check  func(r *http.Request, body []byte)
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var e struct {
		Type string
		Data any
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, err
	}
	name := fmt.Sprint(e.Type, " ", e.Data)
	r.mu.Lock()
	r.got, r.ids, r.at = append(r.got, name), append(r.ids, req.Header.Get("webhook-id")), append(r.at, time.Now())
	answer, check := r.answer, r.check
	r.mu.Unlock()
	if check != nil {
		check(req, body)
	}
	status, header := http.StatusNoContent, http.Header{}
	if answer != nil {
		if status, header, err = answer(name); err != nil {
			return nil, err
		}
	}
	if status == 0 { // it never answers
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("answer")), Request: req}, nil
}

func (r *receiver) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) answers(f func(string) (int, http.Header, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// always answers with a status.
func always(status int) func(string) (int, http.Header, error) {
	return func(string) (int, http.Header, error) { return status, http.Header{}, nil }
}

// post is a sender that runs, with its receivers.
type post struct {
	*Sender
	registry *prometheus.Registry
	log      *observer.ObservedLogs
	n        int
}

func run(t *testing.T, hooks ...Hook) *post {
	t.Helper()
	core, log := observer.New(zap.DebugLevel)
	p := &post{registry: prometheus.NewRegistry(), log: log}
	p.Sender = New(Options{Hooks: hooks, Agent: "mailbell/1.2.3", Log: zap.New(core), Metrics: p.registry})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		p.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return p
}

func hook(t *testing.T, name string, to http.RoundTripper, events ...string) Hook {
	return Hook{Name: name, URL: "https://mdm.contoso.com/hooks", Secrets: [][]byte{key(t, secret)}, Events: events, Transport: to}
}

// send sends the next event, which has a number.
func (p *post) send(kind string) {
	p.n++
	p.Send(Event{Type: kind, At: time.Now(), Data: p.n})
}

func TestAnEventIsVerifiedByTheLibraryOfTheSpecification(t *testing.T) {
	// The library compares with the real clock, so this test has it too.
	verified := make(chan error, 1)
	r := &receiver{check: func(r *http.Request, body []byte) {
		w, err := standardwebhooks.NewWebhook(secret)
		if err == nil {
			err = w.Verify(body, r.Header)
		}
		if want := `{"type":"device.gone","timestamp":"2026-03-01T12:00:00Z","data":{"device":"ann-phone"}}`; string(body) != want {
			err = errors.Join(err, fmt.Errorf("the body is %s", body))
		}
		for name, want := range map[string]string{"Content-Type": "application/json", "User-Agent": "mailbell/1.2.3"} {
			if got := r.Header.Get(name); got != want || r.Method != http.MethodPost {
				err = errors.Join(err, fmt.Errorf("%s %s: %q", r.Method, name, got))
			}
		}
		verified <- err
	}}
	p := run(t, hook(t, "mdm", r))
	p.Send(Event{Type: "device.gone", At: time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("", 3600)), Data: map[string]string{"device": "ann-phone"}})
	if err := <-verified; err != nil {
		t.Error(err)
	}
}

func TestTheSignatureIsThatOfTheSpecification(t *testing.T) {
	// The vector that the specification's libraries are tested with.
	got := sign([][]byte{key(t, secret)}, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTheExampleOfTheDocumentationIsSigned(t *testing.T) {
	text, err := os.ReadFile("../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(form string) string {
		t.Helper()
		m := regexp.MustCompile(form).FindSubmatch(text)
		if m == nil {
			t.Fatalf("there is no %s", form)
		}
		return string(m[1])
	}
	got := sign([][]byte{key(t, find(`the secret .(whsec_[^.\x60]+).`))}, find(`webhook-id: (.+)`), find(`webhook-timestamp: (.+)`), []byte(find(`(?m)^(\{"type".+)$`)))
	if want := find(`webhook-signature: (.+)`); got != want {
		t.Errorf("%s, and it has %s", got, want)
	}
	for _, e := range webhookconfig.Events() {
		if !strings.Contains(string(text), "| `"+e+"` |") {
			t.Errorf("it does not explain %s", e)
		}
	}
}

func TestWhileASecretIsChangedBothSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var signatures []string
		r := &receiver{check: func(r *http.Request, body []byte) { signatures = append(signatures, r.Header.Get("webhook-signature")) }}
		p := run(t, hook(t, "mdm", r))
		for _, secrets := range [][][]byte{{key(t, secret)}, {key(t, secret), key(t, another)}, {key(t, another)}} {
			p.SetSecrets("mdm", secrets)
			p.SetSecrets("nobody", nil)
			p.send("device.gone")
			synctest.Wait()
		}
		parts := strings.Fields(strings.Join(signatures, " "))
		if len(signatures) != 3 || len(parts) != 4 || slices.ContainsFunc(parts, func(s string) bool { return !strings.HasPrefix(s, "v1,") || len(s) != 47 }) {
			t.Errorf("%q", signatures)
		}
	})
}

func TestAReceiverGetsTheEventsThatItWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, some := &receiver{}, &receiver{}
		p := run(t, hook(t, "all", all), hook(t, "some", some, "device.gone"))
		p.send("device.gone")
		p.send("mailbox.failing")
		synctest.Wait()
		if got := all.events(); !slices.Equal(got, []string{"device.gone 1", "mailbox.failing 2"}) {
			t.Errorf("all: %q", got)
		}
		if got := some.events(); !slices.Equal(got, []string{"device.gone 1"}) || some.ids[0] != all.ids[0] || all.ids[0] == all.ids[1] {
			t.Errorf("some: %q; ids %q and %q", got, some.ids, all.ids)
		}
	})
}

func TestWhatIsNotTakenIsTriedAgainLaterAndLaterUnderItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(503)}
		p := run(t, hook(t, "mdm", r))
		begin := time.Now()
		p.send("device.gone")
		p.send("device.gone")
		<-time.After(time.Hour)
		synctest.Wait()
		tries := len(r.events())
		for i := 1; i < tries; i++ {
			wait := r.at[i].Sub(r.at[i-1])
			least := min(5*time.Second<<(i-1), retry.Max)
			if wait < least || wait > least+least/4 || r.ids[i] != r.ids[0] { // the jitter is up to a quarter
				t.Errorf("try %d comes %s after the one before, want %s and up to a quarter more; id %s", i, wait, least, r.ids[i])
			}
		}
		// 5 s, 10 s … 320 s are 635 s, then one each ten minutes to twelve and a half: at least three.
		if tries < 10 {
			t.Errorf("%d tries within an hour", tries)
		}
		s := p.Standing()[0]
		if s.Waiting != 2 || !s.LastSuccess.IsZero() || s.Err == nil || !strings.Contains(s.Err.Error(), "HTTP 503") || !s.Next.After(time.Now()) || s.LastFailure.Before(begin) {
			t.Errorf("%+v", s)
		}
		r.answers(nil)
		<-time.After(retry.Max + time.Minute)
		synctest.Wait()
		if s := p.Standing()[0]; s.Waiting != 0 || s.Delivered != 2 || s.Err != nil || s.Lost != 0 || !s.Next.IsZero() || !slices.Equal(r.events()[tries:], []string{"device.gone 1", "device.gone 2"}) {
			t.Errorf("%+v, and %q came", s, r.events()[tries:])
		}
	})
}

func TestEachWayToFailIsFollowedByAnotherTry(t *testing.T) {
	for name, answer := range map[string]func(string) (int, http.Header, error){
		"no connection": func(string) (int, http.Header, error) { return 0, nil, errors.New("connection refused") },
		"no answer":     always(0),
		"a redirect": func(string) (int, http.Header, error) {
			return 302, http.Header{"Location": {"https://elsewhere.example/"}}, nil
		},
		"a server's error": always(500),
		"bad gateway":      always(502),
		"a refusal":        always(400),
		"no such path":     always(404),
		"too many":         always(429),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: answer}
				p := run(t, hook(t, "mdm", r))
				p.send("device.gone")
				<-time.After(attemptTimeout + time.Second)
				synctest.Wait()
				if s := p.Standing()[0]; s.Err == nil || s.Waiting != 1 {
					t.Fatalf("%+v", s)
				}
				r.answers(nil)
				<-time.After(2 * time.Minute)
				synctest.Wait()
				if s := p.Standing()[0]; s.Waiting != 0 || s.Delivered != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestAReceiverIsLeftAloneAsLongAsItAsks(t *testing.T) {
	for asked, least := range map[string]time.Duration{"120": 2 * time.Minute, "1": 5 * time.Second, "9999999": maxAsked} {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: func(string) (int, http.Header, error) { return 503, http.Header{"Retry-After": {asked}}, nil }}
			p := run(t, hook(t, "mdm", r))
			p.send("device.gone")
			synctest.Wait()
			p.send("device.gone") // which does not wake it
			<-time.After(least - time.Second)
			synctest.Wait()
			if n := len(r.events()); n != 1 {
				t.Errorf("asked for %s s: %d tries", asked, n)
			}
			<-time.After(time.Second + min(least/4, time.Minute) + time.Second) // the jitter, at most
			synctest.Wait()
			if n := len(r.events()); n != 2 {
				t.Errorf("asked for %s s: %d tries after it", asked, n)
			}
		})
	}
}

func TestAReceiverThatWantsNoMoreGetsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(410)}
		p := run(t, hook(t, "mdm", r))
		for range 3 {
			p.send("device.gone")
		}
		synctest.Wait()
		p.send("device.gone")
		<-time.After(time.Hour)
		synctest.Wait()
		if n, s := len(r.events()), p.Standing()[0]; n != 1 || !s.Gone || s.Waiting != 0 || s.Lost != 4 || !s.Next.IsZero() {
			t.Errorf("%d tries, %+v", n, s)
		}
	})
}

func TestADeadReceiverDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, well := &receiver{answer: always(0)}, &receiver{}
		p := run(t, hook(t, "dead", dead), hook(t, "well", well))
		begin := time.Now()
		for range 100 {
			p.send("device.gone")
		}
		synctest.Wait()
		if n := len(well.events()); n != 100 || time.Since(begin) != 0 {
			t.Errorf("%d came in %s", n, time.Since(begin))
		}
	})
}

func TestAnEventThatAReceiverRefusesHoldsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(event string) (int, http.Header, error) {
			if event == "device.gone 1" {
				return 422, nil, nil
			}
			return 200, nil, nil
		}}
		p := run(t, hook(t, "mdm", r))
		for range 5 {
			p.send("device.gone")
		}
		<-time.After(time.Minute) // two pauses at most, of 5 and 10 s and their jitter: it may be tried once before the others are there
		synctest.Wait()
		if s := p.Standing()[0]; s.Delivered != 4 || s.Waiting != 1 {
			t.Errorf("%+v: %q", s, r.events())
		}
	})
}

func TestAnEventThatIsRefusedForDaysHoldsNoneThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(event string) (int, http.Header, error) {
			if event == "device.gone 1" {
				return 422, nil, nil
			}
			return 200, nil, nil
		}}
		p := run(t, hook(t, "mdm", r))
		p.send("device.gone")
		for n := range 100 {
			<-time.After(17 * time.Minute)
			p.send("device.gone")
			synctest.Wait()
			if s := p.Standing()[0]; s.Delivered != n+1 || s.Waiting != 1 {
				t.Fatalf("at once after the event %d: %+v", n+2, s)
			}
		}
		tries := 0
		for _, e := range r.events() {
			if e == "device.gone 1" {
				tries++
			}
		}
		// In 1,700 minutes: one each ten minutes to eleven, and the first ones in shorter time.
		if tries < 150 || tries > 180 {
			t.Errorf("it was tried %d times", tries)
		}
		<-time.After(maxAge)
		synctest.Wait()
		if s := p.Standing()[0]; s.Waiting != 0 || s.Lost != 1 {
			t.Errorf("after days: %+v", s)
		}
	})
}

func TestWhatAReceiverRefusesComesWhenItIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(401)}
		p := run(t, hook(t, "mdm", r))
		for range 5 {
			p.send("device.gone")
		}
		<-time.After(time.Hour)
		synctest.Wait()
		// Each once with five seconds between, and then one at growing intervals of up to ten minutes.
		if n := len(r.events()); n > 25 {
			t.Errorf("%d tries in an hour", n)
		}
		r.answers(nil)
		<-time.After(retry.Max + time.Minute) // and its jitter
		synctest.Wait()
		if s := p.Standing()[0]; s.Delivered != 5 || s.Waiting != 0 || !s.Next.IsZero() || s.Err != nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnEventIsGivenUpAfterDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(500)}
		p := run(t, hook(t, "mdm", r))
		const once = 1000 // as where an Exchange is away
		for range once {
			p.send("mailbox.failing")
		}
		<-time.After(maxAge - time.Hour)
		p.send("device.gone")
		synctest.Wait()
		if s := p.Standing()[0]; s.Waiting != once+1 || s.Lost != 0 {
			t.Errorf("before: %+v", s)
		}
		<-time.After(2 * time.Hour)
		synctest.Wait()
		if s := p.Standing()[0]; s.Waiting != 1 || s.Lost != once {
			t.Errorf("after: %+v", s)
		}
		if said := p.log.FilterMessage("events given up, their webhook did not take them").All(); len(said) != 1 || said[0].ContextMap()["events"] != int64(once) {
			t.Errorf("logged %v", said)
		}
	})
}

func TestWhatWaitsIsBoundedAndWhatOverflowsIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(500)}
		p := run(t, hook(t, "mdm", r))
		for range maxOften + 7 {
			p.Send(Event{Type: "device.alert_lost", At: time.Now(), Often: true})
		}
		if s := p.Standing()[0]; s.Waiting != maxOften || s.Lost != 7 {
			t.Errorf("of a frequent kind %+v", s)
		}
		for range maxWaiting {
			p.send("mailbox.failing")
		}
		if s := p.Standing()[0]; s.Waiting != maxWaiting || s.Lost != 7+maxOften {
			t.Errorf("%+v", s)
		}
		said := func() int { return p.log.FilterMessage("events are lost, too many wait for their webhook").Len() }
		if said() != 1 {
			t.Errorf("said %d times", said())
		}
		r.answers(nil)
		<-time.After(time.Minute)
		synctest.Wait()
		if s := p.Standing()[0]; s.Waiting != 0 || s.Delivered != maxWaiting {
			t.Errorf("%+v", s)
		}
		p.Send(Event{Type: "device.alert_lost", At: time.Now(), Often: true}) // there is room again
		synctest.Wait()
		if said() != 1 {
			t.Errorf("said %d times, and all is delivered", said())
		}
		if err := testutil.GatherAndCompare(p.registry, strings.NewReader(fmt.Sprintf(`
# HELP mailbell_webhook_events_total Events for a webhook, by what became of them.
# TYPE mailbell_webhook_events_total counter
mailbell_webhook_events_total{result="delivered",webhook="mdm"} %d
mailbell_webhook_events_total{result="given_up",webhook="mdm"} 0
mailbell_webhook_events_total{result="gone",webhook="mdm"} 0
mailbell_webhook_events_total{result="overflow",webhook="mdm"} %d
# HELP mailbell_webhook_waiting Events that wait for a webhook.
# TYPE mailbell_webhook_waiting gauge
mailbell_webhook_waiting{webhook="mdm"} 0
`, maxWaiting+1, 7+maxOften)), "mailbell_webhook_events_total", "mailbell_webhook_waiting"); err != nil {
			t.Error(err)
		}
		r.answers(always(500))
		for range maxOften + 9 {
			p.Send(Event{Type: "device.alert_lost", At: time.Now(), Often: true})
		}
		if said() != 2 {
			t.Errorf("said %d times of two overflows", said())
		}
	})
}

func TestAStopSaysWhatItLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, log := observer.New(zap.DebugLevel)
		s := New(Options{Hooks: []Hook{hook(t, "mdm", &receiver{answer: always(500)})}, Log: zap.New(core), Metrics: prometheus.NewRegistry()})
		s.Send(Event{Type: "device.gone", At: time.Now()})
		s.Send(Event{Type: "device.gone", At: time.Now()})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		s.Run(ctx)
		lost := log.FilterMessage("events lost at the stop").All()
		if len(lost) != 1 || lost[0].ContextMap()["events"] != int64(2) {
			t.Errorf("%+v", lost)
		}
	})
}

func TestTheWaitGrowsToItsBound(t *testing.T) {
	if retry != (backoff.Policy{First: 5 * time.Second, Max: 10 * time.Minute}) {
		t.Errorf("%+v: the documentation says five seconds to ten minutes", retry)
	}
}

func TestAnEventIsTriedOnceAndSignedAsOthersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for status, want := range map[int]string{204: "", 401: "HTTP 401", 410: "HTTP 410", 503: "HTTP 503"} {
			to := &receiver{answer: always(status)}
			h := Hook{Name: "mdm", URL: "https://mdm.contoso.com/", Secrets: [][]byte{make([]byte, 24)}, Events: []string{"device.gone"}, Transport: to}
			to.check = func(r *http.Request, body []byte) {
				if want := sign(h.Secrets, r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body); r.Header.Get("webhook-signature") != want {
					t.Errorf("%d: %v", status, r.Header)
				}
			}
			err := Try(t.Context(), h, "mailbell/1.2.3", Event{Type: "service.check", At: time.Now(), Data: map[string]string{}})
			if got := fault.Of(err).Code; (err != nil) != (want != "") || err != nil && got != want || len(to.events()) != 1 {
				t.Errorf("%d: %d tries, %v", status, len(to.events()), err)
			}
		}
	})
}

// Who knows the address of some receivers may send to them: it is as good as a secret.
func TestNoErrorShowsTheAddressOfAReceiver(t *testing.T) {
	for name, failure := range map[string]error{"refused": syscall.ECONNREFUSED, "late": context.DeadlineExceeded, "broken": io.ErrUnexpectedEOF} {
		r := &receiver{answer: func(string) (int, http.Header, error) { return 0, nil, failure }}
		h := hook(t, "mdm", r)
		h.URL = "https://hooks.example/catch/s3cret"
		err := Try(t.Context(), h, "mailbell", Event{Type: webhookconfig.Check, At: time.Now()})
		if err == nil || strings.Contains(err.Error(), "s3cret") || !errors.Is(err, failure) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
