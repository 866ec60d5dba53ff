package service_test

// The real service listens to servers of both personalities through the same bad days: nothing is lost, and nothing is alerted twice.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

func TestServersOfEveryKindLoseNothingAndNothingIsAlertedTwice(t *testing.T) {
	for _, personality := range []string{"", simulator.Gromox} {
		for name, bad := range map[string]func(*installation){ // what happens in the middle of the messages
			"nothing happens":                 func(*installation) {},
			"streams end with a FIN":          func(inst *installation) { inst.fault("stream_fin", simulator.Fault{}) },
			"streams end with a reset":        func(inst *installation) { inst.fault("stream_rst", simulator.Fault{}) },
			"an envelope is cut off half-way": func(inst *installation) { inst.fault("stream_half", simulator.Fault{Count: 1}) },
			"events come twice":               func(inst *installation) { inst.fault("events_doubled", simulator.Fault{}) },
			"events come out of order":        func(inst *installation) { inst.fault("events_reordered", simulator.Fault{Seconds: 0.5}) },
			"subscriptions are lost":          func(inst *installation) { inst.fault("subscriptions_lost", simulator.Fault{}) },
			"the server restarts":             func(inst *installation) { inst.fault("server_restart", simulator.Fault{Seconds: 0.5}) },
			"the server is at its connection limit": func(inst *installation) {
				inst.fault("connections_full", simulator.Fault{Seconds: 2})
				inst.fault("server_restart", simulator.Fault{})
			},
			"the service restarts": func(inst *installation) { inst.stop(); inst.start() },
			"the server restarts while the service is down": func(inst *installation) {
				inst.stop()
				inst.fault("server_restart", simulator.Fault{})
				inst.start()
			},
		} {
			t.Run(name+" "+personality, func(t *testing.T) {
				t.Parallel()
				inst := install(t, personality)
				inst.startWithDevices()
				inst.deliver()
				bad(inst)
				inst.deliver()
				inst.awaitAlerts()
				inst.awaitListening() // again
				inst.deliver()
				inst.awaitAlerts()
				inst.balance()
			})
		}
	}
}

// installation is a simulator, and a service in this process that runs against it.
type installation struct {
	t       *testing.T
	sim     *simulator.Server
	config  *config.Config
	token   string
	client  *http.Client
	devices map[string]string // by mailbox
	owed    map[string]string // devices, by the subject that is to be alerted there
	service *service.Service  // that runs
	log     *observer.ObservedLogs
	stop    func()
	url     string
}

// install starts a simulator of this personality, and reads its configuration. No service runs yet.
func install(t *testing.T, personality string) *installation {
	t.Helper()
	return installWith(t, simulator.Options{Mailboxes: mailboxes, Personality: personality, Heartbeat: beat})
}

// installWith does so with a simulator of these options.
func installWith(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	o.Dir = t.TempDir()
	inst := &installation{t: t, client: &http.Client{Transport: &http.Transport{}}, devices: map[string]string{}, owed: map[string]string{}}
	var err error
	inst.sim, err = simulator.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		inst.client.CloseIdleConnections()
		if err := inst.sim.Close(); err != nil {
			t.Error(err)
		}
	})
	if inst.config, err = config.Load(inst.sim.ConfigFile); err != nil {
		t.Fatal(err)
	}
	inst.config.Listen = "127.0.0.1:0"
	token, err := os.ReadFile(inst.sim.APITokenFile)
	if err != nil {
		t.Fatal(err)
	}
	inst.token = strings.TrimSpace(string(token))
	return inst
}

// start runs the service until stop, or the end of the test.
func (inst *installation) start() {
	inst.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	core, observed := observer.New(zap.InfoLevel)
	inst.log = observed
	core = zapcore.NewTee(core, zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), zapcore.Lock(zapcore.AddSync(inst.t.Output())), zap.InfoLevel))
	s, err := service.Open(ctx, inst.config, zap.New(core), "test")
	if err != nil {
		cancel()
		inst.t.Fatal(err)
	}
	inst.service = s
	inst.url = "http://" + s.Address().String()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	inst.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			inst.t.Errorf("the service ended with %v", err)
		}
		inst.client.CloseIdleConnections()
	}
	inst.t.Cleanup(inst.stop)
}

// ask asks the service, as its operator. The caller closes the body of the answer.
func (inst *installation) ask(method, path string, body io.Reader) *http.Response {
	inst.t.Helper()
	req, err := http.NewRequestWithContext(inst.t.Context(), method, inst.url+path, body)
	if err != nil {
		inst.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+inst.token)
	resp, err := inst.client.Do(req)
	if err != nil {
		inst.t.Fatal(err)
	}
	return resp
}

// call calls the API; the answer is decoded into into, unless that is nil.
func (inst *installation) call(method, path string, body, into any) {
	inst.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		inst.t.Fatal(err)
	}
	resp := inst.ask(method, path, bytes.NewReader(data))
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		inst.t.Fatalf("%s %s: %d", method, path, resp.StatusCode)
	}
	if into != nil {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			inst.t.Fatal(err)
		}
	}
}

// startWithDevices starts the service, enrols a device for every mailbox and waits until all are listened to.
func (inst *installation) startWithDevices() {
	inst.t.Helper()
	inst.start()
	inst.enrol()
	inst.awaitListening()
}

func (inst *installation) enrol() {
	inst.t.Helper()
	for i, address := range inst.sim.Mailboxes() {
		id := fmt.Sprintf("phone-%d", i+1)
		inst.call(http.MethodPut, "/v1/devices/"+id, map[string]string{"mailbox": address, "token": fmt.Sprintf("%064x", i+1)}, nil)
		inst.devices[address] = id
	}
}

// awaitListening waits until every mailbox is listened to.
func (inst *installation) awaitListening() {
	inst.t.Helper()
	inst.eventually("every mailbox is listened to", func() bool {
		var page struct{ Mailboxes []struct{ Address string } }
		inst.call(http.MethodGet, "/v1/mailboxes?limit=1000&state=listening", nil, &page)
		return len(page.Mailboxes) == len(inst.devices)
	})
}

// eventually waits for a state that nothing tells of.
func (inst *installation) eventually(what string, holds func() bool) {
	inst.t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	end := time.After(atLast)
	for !holds() {
		select {
		case <-look.C:
		case <-end:
			inst.t.Fatalf("not within %v: %s", atLast, what)
		}
	}
}

func (inst *installation) fault(name string, f simulator.Fault) {
	inst.t.Helper()
	if err := inst.sim.SetFault(name, f); err != nil {
		inst.t.Fatal(err)
	}
}

// deliver gives each mailbox a round of messages.
func (inst *installation) deliver() {
	inst.t.Helper()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for range round {
		for address, device := range inst.devices {
			<-tick.C
			subject := fmt.Sprintf("Ticket %04d was answered", len(inst.owed)+1)
			inst.owed[subject] = device
			message := fmt.Sprintf("From: Travel desk <travel@fabrikam.example>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@fabrikam.example>\r\n\r\nHello.\r\n",
				address, subject, time.Now().Format(time.RFC1123Z), strings.ReplaceAll(subject, " ", "-"))
			if _, err := inst.sim.Deliver(address, time.Time{}, []byte(message)); err != nil {
				inst.t.Fatal(err)
			}
		}
	}
}

// times is how often each message was alerted on the device that it was for; strays is what else was.
func (inst *installation) times() (alerted map[string]int, strays []string) {
	inst.t.Helper()
	alerted = map[string]int{}
	for _, a := range inst.sim.Alerts(0) {
		var p struct {
			APS      struct{ Alert struct{ Body string } }
			Mailbell struct{ D string }
		}
		if err := json.Unmarshal(a.Payload, &p); err != nil {
			inst.t.Fatal(err)
		}
		if device, ok := inst.owed[p.APS.Alert.Body]; !ok || device != p.Mailbell.D || !a.Accepted() {
			strays = append(strays, fmt.Sprintf("%d %s", a.Status, a.Payload))
			continue
		}
		alerted[p.APS.Alert.Body]++
	}
	return alerted, strays
}

// awaitAlerts waits until APNs has accepted an alert for every message.
func (inst *installation) awaitAlerts() {
	inst.t.Helper()
	ctx, cancel := context.WithTimeout(inst.t.Context(), atLast)
	defer cancel()
	for {
		seen := len(inst.sim.Alerts(0))
		alerted, _ := inst.times()
		if len(alerted) == len(inst.owed) {
			return
		}
		if _, err := inst.sim.WaitAlerts(ctx, seen); err != nil {
			var lost []string
			for subject := range inst.owed {
				if alerted[subject] == 0 {
					lost = append(lost, subject)
				}
			}
			inst.t.Fatalf("lost %d of %d: %v", len(lost), len(inst.owed), lost)
		}
	}
}

// balance is the end: nothing was alerted twice, and nothing that nobody waits for. What would be sent again has been when every mailbox
// is listened to and no device is behind.
func (inst *installation) balance() {
	inst.t.Helper()
	inst.awaitListening()
	inst.eventually("no device is behind", func() bool {
		var page struct{ Devices []struct{ State string } }
		inst.call(http.MethodGet, "/v1/devices?limit=1000", nil, &page)
		return len(page.Devices) == mailboxes && !slices.ContainsFunc(page.Devices, func(d struct{ State string }) bool { return d.State != "listening" })
	})
	alerted, strays := inst.times()
	for subject, n := range alerted {
		if n != 1 {
			inst.t.Errorf("%q was alerted %d times", subject, n)
		}
	}
	if len(strays) > 0 {
		inst.t.Errorf("%d alerts that nobody waits for: %v", len(strays), strays)
	}
	inst.t.Logf("%d messages, %d alerts", len(inst.owed), len(inst.sim.Alerts(0)))
}
