package push

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "com.contoso.mail"

// bench is a sender before a stand-in.
type bench struct {
	*Sender
	apns *standIn
	logs *observer.ObservedLogs
	reg  *prometheus.Registry

	mu    sync.Mutex
	ready []string
}

func (b *bench) TopicReady(topic, environment string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = append(b.ready, topic+" "+environment)
}

func (b *bench) readied() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ready
}

// overMemory makes a sender whose connections are memory, for tests in a synctest bubble.
func overMemory(t *testing.T, decide func(arrived) act, change ...func(*Options)) *bench {
	s := newStandIn(t, decide)
	b := newBench(t, s, "https://apns.example", change...)
	for _, g := range b.gateways {
		g.access.Load().pool.transport.DialContext = s.dial
	}
	return b
}

// overSockets makes a sender whose connections are real.
func overSockets(t *testing.T, decide func(arrived) act, change ...func(*Options)) *bench {
	s := newStandIn(t, decide)
	return newBench(t, s, s.listen(), change...)
}

func newBench(t testing.TB, s *standIn, url string, change ...func(*Options)) *bench {
	b := &bench{apns: s, reg: prometheus.NewRegistry()}
	var core zapcore.Core
	core, b.logs = observer.New(zapcore.DebugLevel)
	o := Options{Send: true, Log: zap.New(core), Metrics: b.reg, Ready: b,
		Topics: []Topic{{Topic: topic, Environment: "production", URL: url, Key: Key{P8: p8(), ID: "ABCDE12345", Team: "FGHIJ67890"}, Outbound: proxy.Settings{Roots: s.pool}}}}
	for _, c := range change {
		c(&o)
	}
	var err error
	if b.Sender, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		b.Close(ctx)
		for _, g := range b.gateways {
			if g.under != 0 {
				t.Errorf("%d alerts are counted as under way after the end", g.under)
			}
		}
	})
	return b
}

// both has a topic in both environments, production first.
func both(o *Options) {
	other := o.Topics[0]
	other.Environment, other.URL = sandbox, "https://sandbox.apns.example"
	o.Topics = append(o.Topics, other)
}

// in says for which environment of both a request is.
func (a arrived) in() string {
	if strings.HasPrefix(a.header[":authority"], "sandbox.") {
		return sandbox
	}
	return production
}

var enrolled = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func tokenOf(phone int) string { return fmt.Sprintf("%064x", 0xabc000+phone) }

// alert is one for a phone about a message.
func alert(phone, message int) subscriptions.Notification {
	return subscriptions.Notification{
		Device: fmt.Sprintf("phone-%d", phone), Phone: subscriptions.Phone{Token: tokenOf(phone), Topic: topic, Environment: production},
		Enrolled: enrolled, PushID: [16]byte{byte(phone >> 8), byte(phone), 14: byte(message >> 8), 15: byte(message)},
		CollapseID: fmt.Sprintf("message-%d", message), Expires: time.Now().Add(24 * time.Hour),
		Payload: []byte(`{"aps":{"alert":{"title":"Megan Bowen","body":"Lunch on Friday?"}}}`), Smaller: []byte(`{"aps":{"alert":{"loc-key":"NEW"}}}`),
	}
}

// Push sends a notification that nobody else has.
func (b *bench) Push(ctx context.Context, n subscriptions.Notification) subscriptions.Answer {
	return b.Sender.Push(ctx, &n)
}

// burst sends to n phones at once and returns the answers.
func (b *bench) burst(ctx context.Context, n int) []subscriptions.Answer {
	answers := make([]subscriptions.Answer, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i] = b.Push(ctx, alert(i, i)) })
	}
	all.Wait()
	return answers
}

// count counts answers by result and reason.
func count(answers []subscriptions.Answer) map[string]int {
	n := make(map[string]int)
	for _, a := range answers {
		n[strings.TrimSpace(a.Result.String()+" "+string(a.Reason))]++
	}
	return n
}

// metric returns the value of a metric whose labels, in their order, have these values.
func (b *bench) metric(t *testing.T, name, labels string) float64 {
	t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && strings.Join(values, " ") == labels {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}
