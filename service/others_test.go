package service_test

// The real service hears servers of both personalities through the same bad days: nothing is lost, and nothing rings twice.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/service"
	"github.com/mailbell/mailbell/simulator"
)

const (
	// atLast bounds what has to come after all back-offs that the service may take: a minute, and its jitter.
	atLast = 100 * time.Second
	// beat is between two heartbeats of a stream: also what events of some servers wait for.
	beat = 200 * time.Millisecond
	// pace is between two messages, so that some come before a fault, some into it and some after.
	pace = 10 * time.Millisecond
	// mailboxes and round are how many there are, and how many messages each gets at a time.
	mailboxes, round = 4, 3
)

func TestServersOfEveryKindLoseNothingAndRingNothingTwice(t *testing.T) {
	for _, personality := range []string{"", simulator.Gromox} {
		for name, bad := range map[string]func(*world){ // what happens in the middle of the messages
			"nothing happens":                 func(*world) {},
			"streams end with a FIN":          func(w *world) { w.fault("stream_fin", simulator.Fault{}) },
			"streams end with a reset":        func(w *world) { w.fault("stream_rst", simulator.Fault{}) },
			"an envelope is cut off half-way": func(w *world) { w.fault("stream_half", simulator.Fault{Count: 1}) },
			"events come twice":               func(w *world) { w.fault("events_doubled", simulator.Fault{}) },
			"events come out of order":        func(w *world) { w.fault("events_reordered", simulator.Fault{Seconds: 0.5}) },
			"subscriptions are lost":          func(w *world) { w.fault("subscriptions_lost", simulator.Fault{}) },
			"the server restarts":             func(w *world) { w.fault("server_restart", simulator.Fault{Seconds: 0.5}) },
			"the service restarts":            func(w *world) { w.stop(); w.start() },
			"the server restarts while the service is down": func(w *world) {
				w.stop()
				w.fault("server_restart", simulator.Fault{})
				w.start()
			},
		} {
			t.Run(name+" "+personality, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, personality)
				w.start()
				w.enrol()
				w.heard()
				w.deliver()
				bad(w)
				w.deliver()
				w.rung()
				w.heard() // again
				w.deliver()
				w.rung()
				w.balance()
			})
		}
	}
}

// world is a simulator, and a service in this process that runs against it.
type world struct {
	t       *testing.T
	sim     *simulator.Server
	config  *config.Config
	token   string
	client  *http.Client
	devices map[string]string // by mailbox
	owed    map[string]string // devices, by the subject that has to ring there
	service *service.Service  // that runs
	log     *observer.ObservedLogs
	stop    func()
	url     string
}

func newWorld(t *testing.T, personality string) *world {
	t.Helper()
	w := &world{t: t, client: &http.Client{Transport: &http.Transport{}}, devices: map[string]string{}, owed: map[string]string{}}
	var err error
	w.sim, err = simulator.Start(context.Background(), simulator.Options{Dir: t.TempDir(), Mailboxes: mailboxes, Personality: personality, Heartbeat: beat})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		if err := w.sim.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.config, err = config.Load(w.sim.ConfigFile); err != nil {
		t.Fatal(err)
	}
	w.config.Listen = "127.0.0.1:0"
	token, err := os.ReadFile(w.sim.APITokenFile)
	if err != nil {
		t.Fatal(err)
	}
	w.token = strings.TrimSpace(string(token))
	return w
}

// start runs the service until stop, or the end of the test.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	core, observed := observer.New(zap.InfoLevel)
	w.log = observed
	core = zapcore.NewTee(core, zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), zapcore.Lock(zapcore.AddSync(w.t.Output())), zap.InfoLevel))
	s, err := service.Open(ctx, w.config, zap.New(core), "test")
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	w.service = s
	w.url = "http://" + s.Address().String()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the service ended with %v", err)
		}
		w.client.CloseIdleConnections()
	}
	w.t.Cleanup(w.stop)
}

// call calls the API; the answer is decoded into into, unless that is nil.
func (w *world) call(method, path string, body, into any) {
	w.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		w.t.Fatalf("%s %s: %d", method, path, resp.StatusCode)
	}
	if into != nil {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) enrol() {
	w.t.Helper()
	for i, address := range w.sim.Mailboxes() {
		id := fmt.Sprintf("phone-%d", i+1)
		w.call(http.MethodPut, "/v1/devices/"+id, map[string]string{"mailbox": address, "token": fmt.Sprintf("%064x", i+1)}, nil)
		w.devices[address] = id
	}
}

// heard waits until every mailbox is heard.
func (w *world) heard() {
	w.t.Helper()
	w.eventually("every mailbox is heard", func() bool {
		var page struct{ Mailboxes []struct{ Address string } }
		w.call(http.MethodGet, "/v1/mailboxes?limit=1000&state=listening", nil, &page)
		return len(page.Mailboxes) == len(w.devices)
	})
}

// eventually waits for a state that nothing tells of.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	end := time.After(atLast)
	for !holds() {
		select {
		case <-look.C:
		case <-end:
			w.t.Fatalf("not within %v: %s", atLast, what)
		}
	}
}

func (w *world) fault(name string, f simulator.Fault) {
	w.t.Helper()
	if err := w.sim.SetFault(name, f); err != nil {
		w.t.Fatal(err)
	}
}

// deliver gives each mailbox a round of messages.
func (w *world) deliver() {
	w.t.Helper()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for range round {
		for address, device := range w.devices {
			<-tick.C
			subject := fmt.Sprintf("Ticket %04d was answered", len(w.owed)+1)
			w.owed[subject] = device
			message := fmt.Sprintf("From: Travel desk <travel@fabrikam.example>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@fabrikam.example>\r\n\r\nHello.\r\n",
				address, subject, time.Now().Format(time.RFC1123Z), strings.ReplaceAll(subject, " ", "-"))
			if _, err := w.sim.Deliver(address, time.Time{}, []byte(message)); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// times is how often each message rang on the device that it was for; strays is what else rang.
func (w *world) times() (rang map[string]int, strays []string) {
	w.t.Helper()
	rang = map[string]int{}
	for _, a := range w.sim.Alerts(0) {
		var p struct {
			APS      struct{ Alert struct{ Body string } }
			Mailbell struct{ D string }
		}
		if err := json.Unmarshal(a.Payload, &p); err != nil {
			w.t.Fatal(err)
		}
		if device, ok := w.owed[p.APS.Alert.Body]; !ok || device != p.Mailbell.D || !a.Accepted() {
			strays = append(strays, fmt.Sprintf("%d %s", a.Status, a.Payload))
			continue
		}
		rang[p.APS.Alert.Body]++
	}
	return rang, strays
}

// rung waits until every message has rung.
func (w *world) rung() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), atLast)
	defer cancel()
	for {
		seen := len(w.sim.Alerts(0))
		rang, _ := w.times()
		if len(rang) == len(w.owed) {
			return
		}
		if _, err := w.sim.WaitAlerts(ctx, seen); err != nil {
			var lost []string
			for subject := range w.owed {
				if rang[subject] == 0 {
					lost = append(lost, subject)
				}
			}
			w.t.Fatalf("lost %d of %d: %v", len(lost), len(w.owed), lost)
		}
	}
}

// balance is the end: nothing rang twice, and nothing that nobody waits for. What would ring again has rung when every mailbox
// is heard and no device is behind.
func (w *world) balance() {
	w.t.Helper()
	w.heard()
	w.eventually("no device is behind", func() bool {
		var page struct{ Devices []struct{ State string } }
		w.call(http.MethodGet, "/v1/devices?limit=1000", nil, &page)
		return len(page.Devices) == mailboxes && !slices.ContainsFunc(page.Devices, func(d struct{ State string }) bool { return d.State != "listening" })
	})
	rang, strays := w.times()
	for subject, n := range rang {
		if n != 1 {
			w.t.Errorf("%q rang %d times", subject, n)
		}
	}
	if len(strays) > 0 {
		w.t.Errorf("%d alerts that nobody waits for: %v", len(strays), strays)
	}
	w.t.Logf("%d messages, %d alerts", len(w.owed), len(w.sim.Alerts(0)))
}
