package main_test

// Push notifications, seen from outside: Exchange calls back.

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// installPush is an installation that listens by push. What is not accepted is posted again after a fifth of a second.
func installPush(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	o.PushRetry, o.ListenBy = 200*time.Millisecond, simulator.ByPush
	inst := install(t, o)
	inst.edit("listen_by: push", "listen_by: push\n  safety_poll: 1m")
	return inst
}

func TestACallbackRingsAPhone(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	for range 6 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	if n := inst.sim.Counts().Requests["GetStreamingEvents"]; n != 0 {
		t.Errorf("%d streams were opened, want none", n)
	}
}

func TestTheSecretsOfCallbacksAreToldNowhere(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`/callbacks/ews/([^<]+)<`)
	var mu sync.Mutex
	secrets := map[string]bool{}
	inst := installPush(t, simulator.Options{Mailboxes: 3, OnMessage: func(_, operation string, envelope []byte) {
		if m := form.FindSubmatch(envelope); operation == "Subscribe" && m != nil {
			mu.Lock()
			defer mu.Unlock()
			secrets[string(m[1])] = true
		}
	}})
	inst.edit("listen: ", "log: {level: debug}\nlisten: ")
	inst.startWithDevices()
	for range 3 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	told := inst.service().stderr()
	for _, path := range []string{"/metrics", "/v1/status", "/v1/mailboxes?limit=100", "/v1/mailboxes/" + inst.boxes[0].address} {
		_, answer := inst.raw(http.MethodGet, path, inst.token, nil)
		told += string(answer)
	}
	inst.stop()
	state, err := os.ReadFile(filepath.Join(inst.dir, "mailbell.db"))
	if err != nil {
		t.Fatal(err)
	}
	told += inst.service().stderr() + string(state)
	mu.Lock()
	defer mu.Unlock()
	if len(secrets) != len(inst.boxes) {
		t.Errorf("%d secrets for %d mailboxes", len(secrets), len(inst.boxes))
	}
	for secret := range secrets {
		if len(secret) < 22 || strings.Contains(told, secret[:12]) {
			t.Errorf("the secret of a mailbox (%d characters) is told", len(secret))
		}
	}
}

func TestCallbacksAreServedOnAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 2})
	own := tcptest.Quiet(t)
	inst.edit("public_url: "+inst.url, "public_url: http://"+own+"\ncallbacks: {listen: "+own+"}")
	inst.startWithDevices()
	for range 4 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	for target, want := range map[string]int{
		inst.url + "/callbacks/ews/x": http.StatusNotFound, "http://" + own + "/callbacks/ews/x": http.StatusOK,
		"http://" + own + "/v1/devices": http.StatusNotFound, "http://" + own + "/healthz": http.StatusNotFound,
	} {
		resp, err := inst.client.Post(target, "text/xml", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("POST %s: %d, want %d", target, resp.StatusCode, want)
		}
	}
}

func TestARestartKeepsPushSubscriptions(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	inst.restart()
	inst.deliver()
	inst.kill()
	inst.deliver() // its callback is repeated
	inst.start()
	for range 8 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.awaitListening()
	if n := inst.sim.Counts().Requests["Subscribe"]; n != len(inst.boxes) {
		t.Errorf("%d subscriptions were made, want one for each of the %d mailboxes", n, len(inst.boxes))
	}
	inst.balance(2 * len(inst.boxes)) // what was in flight at the kill
}

// Exchange posts at once, and again after 30 s only: whoever subscribes before it can be called waits for that.
func TestCallbacksAreAnsweredBeforeAnythingIsSubscribed(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	inst.startWithDevices()
	inst.stop()
	inst.extend("public_url: " + inst.url + "\n")
	inst.edit("listen_by: streaming", "listen_by: push")
	inst.start()
	inst.awaitListening()
	for range 10 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
}

// There is no Unsubscribe for push: whoever left ends its subscription by the answer to a callback.
func TestAPushSubscriptionEndsAfterTheLastDeviceHasLeft(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 1})
	inst.startWithDevices()
	box := inst.boxes[0]
	inst.remove(box, box.devices[0])
	inst.deliverTo(box)
	eventually(t, soon, "the subscription has ended", func() bool { return inst.sim.Counts().Subscriptions == 0 })
}

// pushStrokes are what is done to push notifications in the middle of a run.
var pushStrokes = []stroke{
	{"push_unreachable", at("push_unreachable", simulator.Fault{Seconds: 0.5}), false},
	{"push_gap", at("push_gap", simulator.Fault{Count: 3}), false},
	{"push_silent", at("push_silent", simulator.Fault{Seconds: 0.3}), false},
	{"subscriptions_lost", at("subscriptions_lost", simulator.Fault{}), false},
	{"server_restart", at("server_restart", simulator.Fault{Seconds: 0.2}), false},
	{"server_busy", at("server_busy", simulator.Fault{Reason: "message", Seconds: 0.3}), false},
	{"a kill", func(_ *testing.T, inst *installation) { inst.kill(); inst.start() }, true},
}

func TestNothingIsLostByPushWhen(t *testing.T) {
	t.Parallel()
	const messages, times = 60, 2
	for _, s := range pushStrokes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			inst := installPush(t, simulator.Options{Mailboxes: 4})
			inst.startWithDevices()
			bound := inst.struck(s, messages, times)
			if lost := inst.ledger.await(t.Context(), 2*atLast); len(lost) > 0 { // what no callback tells of is found by the safety poll
				t.Fatalf("lost %d of %d: %v", len(lost), inst.ledger.count(), lost)
			}
			inst.balance(bound)
		})
	}
}

// A server that has no streaming notifications.
func TestWithoutStreamingTheServerCallsBack(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 4})
	inst.extend("public_url: " + inst.url + "\n")
	inst.fault("streaming_refused", simulator.Fault{})
	inst.startWithDevices()
	for range 8 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	inst.restart()
	for range 4 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
}

// A server that allows no notifications at all (EWSMaxSubscriptions 0).
func TestWithoutNotificationsMailboxesArePolled(t *testing.T) {
	t.Parallel()
	for _, by := range []string{simulator.ByStreaming, simulator.ByPush} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 3, ListenBy: by})
			inst.fault("subscriptions_none", simulator.Fault{})
			inst.start()
			inst.enrolAll()
			eventually(t, soon, "the mailboxes are polled", func() bool { return len(inst.mailboxes("polling")) == len(inst.boxes) })
			if why := inst.mailbox(inst.boxes[0]).Reason; !strings.Contains(why, "ErrorExceededSubscriptionCount") {
				t.Errorf("the reason is %q", why)
			}
			inst.deliver()
			inst.awaitAlerts(atLast)
		})
	}
}

func TestACallbackThatDoesNotReachMailbellIsSaid(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 1})
	nobody := tcptest.Quiet(t)
	inst.edit("public_url: "+inst.url, "public_url: http://"+nobody)
	inst.start()
	inst.enrolAll()
	box := inst.boxes[0]
	eventually(t, atLast, "the mailbox is polled", func() bool { return inst.mailbox(box).State == "polling" })
	m := inst.mailbox(box)
	for _, want := range []string{"no callback", fmt.Sprintf("http://%s/callbacks/ews/…", nobody), "InternetWebProxy"} {
		if !strings.Contains(m.Reason, want) {
			t.Errorf("%q does not name %q", m.Reason, want)
		}
	}
	inst.deliver()
	inst.awaitAlerts(atLast)
}

func TestCheckTriesTheCallbacks(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 2})
	inst.start()
	box := inst.boxes[0]
	inst.enrol(box, "phone")
	inst.awaitListening()
	find := func(results []result, name string) (r result) {
		for _, r := range results {
			if strings.HasSuffix(r.name, name) {
				return r
			}
		}
		t.Errorf("no %q in %+v", name, results)
		return r
	}
	for _, c := range []struct{ name, device, account, reached string }{
		{"while the service runs", "ok", "skipped", "ok"},
		{"while it does not", "ok", "ok", "ok"},
		{"while nobody gets there", "", "failed", "warning"},
	} {
		switch c.name {
		case "while it does not":
			inst.stop()
		case "while nobody gets there":
			inst.edit("public_url: "+inst.url, "public_url: http://"+tcptest.Quiet(t))
		}
		args := []string{"--mailbox", box.address, "--device", "phone"}
		if c.device == "" {
			args = args[:2]
		}
		code, results, said := inst.check(args...)
		if (code == 0) != (c.account != "failed") {
			t.Errorf("%s: exit code %d:\n%s", c.name, code, said)
		}
		var device result
		if c.device != "" {
			device = find(results, "device phone: callback")
		}
		account := find(results, "account listener-01: callback")
		reached := find(results, "callbacks")
		if device.state != c.device || account.state != c.account || reached.state != c.reached {
			t.Errorf("%s: %s, %s, %s:\n%s", c.name, device.state, account.state, reached.state, said)
		}
		if c.account == "failed" && (!strings.Contains(account.do, "InternetWebProxy") || !strings.Contains(account.cameBack, "/callbacks/ews/…")) {
			t.Errorf("%s: %+v", c.name, account)
		}
	}
	if n := inst.sim.Counts().Subscriptions; n > 2+1 { // the last try is repeated by Exchange for as long as it may
		t.Errorf("%d subscriptions are left", n)
	}
}

// Forged callbacks cost live mail nothing: nobody is marked for them, and they do not go first.
func TestForgedCallbacksKeepNoAlertWaiting(t *testing.T) {
	t.Parallel()
	inst := installPush(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	inst.besideForged(func(client *http.Client, n int) (*http.Response, error) {
		return client.Post(fmt.Sprintf("%s/callbacks/ews/forged%016d", inst.url, n), "text/xml", strings.NewReader("<Envelope/>"))
	})
	if n := inst.sim.Counts().Requests["Subscribe"]; n != len(inst.boxes) {
		t.Errorf("%d subscriptions were made, want %d", n, len(inst.boxes))
	}
	inst.balance(0)
}

// besideForged delivers messages one after the other while forged notifications are posted, two thousand a second. What these cost is counted in
// them, for a machine that is busy is slow with both: how many are answered until a message has its alert, where an idle one answers ten. The
// servers are asked for the messages, and for nothing that is forged.
func (inst *installation) besideForged(post func(client *http.Client, n int) (*http.Response, error)) {
	inst.t.Helper()
	const posters, messages, between, most = 8, 20, time.Second / 2, 100
	asked := func() (n int) {
		for _, of := range inst.sim.Counts().Requests {
			n += of
		}
		return n
	}
	before := asked()
	var attack sync.WaitGroup
	defer attack.Wait()
	ctx, stop := context.WithCancel(inst.t.Context())
	defer stop()
	var answered atomic.Int64
	for p := range posters {
		attack.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1, TLSClientConfig: &tls.Config{RootCAs: inst.sim.RootCAs()}}}
			defer client.CloseIdleConnections()
			for n := p; pause.For(ctx, posters*time.Millisecond/2); n += posters {
				resp, err := post(client, n)
				if err != nil {
					inst.t.Error(err)
					return
				}
				resp.Body.Close()
				answered.Add(1)
			}
		})
	}
	var first []int64
	for range messages {
		began := answered.Load()
		inst.deliver()
		inst.awaitAlerts(soon)
		first = append(first, answered.Load()-began)
		waitUntil(ctx, between, func() bool { return answered.Load() > began+500 }) // a busy machine is flooded by fewer
	}
	stop()
	attack.Wait()
	inst.t.Logf("before each alert, so many forged ones of %d were answered: %d", answered.Load(), first)
	if slices.Sort(first); first[messages/2] > most {
		inst.t.Errorf("before an alert, %d forged ones are answered (median)", first[messages/2])
	}
	if n := asked() - before; n > 2*messages { // a safety poll may be among them
		inst.t.Errorf("%d requests for %d messages", n, messages)
	}
}
