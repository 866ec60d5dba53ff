package main_test

// Microsoft Graph, seen from outside: the mailboxes are at Exchange Online, and Graph calls back.

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

// installGraph is an installation whose mailboxes are at Exchange Online, and which listens to them by Graph. What is not accepted is
// posted again after a fifth of a second.
func installGraph(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	o.GraphRetry, o.Hybrid, o.Graph = 200*time.Millisecond, true, true
	if len(o.Hosts) == 0 {
		o.Hosts = []string{simulator.Online}
	}
	inst := install(t, o)
	inst.edit("listen_by: graph", "listen_by: graph\n  safety_poll: 1m")
	return inst
}

func TestANotificationOfGraphRingsAPhone(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	for range 6 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	counts := inst.sim.Counts()
	if counts.GraphSubscriptions != len(inst.boxes) || counts.Requests["Subscribe"] != 0 || counts.Requests["GetStreamingEvents"] != 0 {
		t.Errorf("%+v", counts)
	}
}

func TestARestartKeepsSubscriptionsAtGraph(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	inst.restart()
	inst.deliver()
	inst.kill()
	inst.deliver() // its notification is posted again
	inst.start()
	for range 8 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.awaitListening()
	if n := inst.sim.Counts().Requests["GraphSubscribe"]; n != len(inst.boxes) {
		t.Errorf("%d subscriptions were made, want one for each of the %d mailboxes", n, len(inst.boxes))
	}
	inst.balance(2 * len(inst.boxes)) // what was in flight at the kill
}

func TestASubscriptionAtGraphEndsAfterTheLastDeviceHasLeft(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	inst.remove(inst.boxes[0], inst.boxes[0].devices[0])
	eventually(t, soon, "its subscription has ended", func() bool { return inst.sim.Counts().GraphSubscriptions == 1 })
}

func TestWhatGraphTellsOfASubscriptionIsActedOnAtOnce(t *testing.T) {
	t.Parallel()
	for name, strike := range map[string]func(inst *installation){
		"subscriptionRemoved": func(inst *installation) {
			inst.fault("graph_removed", simulator.Fault{})
			inst.deliver()
		},
		"missed": func(inst *installation) {
			inst.fault("graph_missed", simulator.Fault{Count: 2})
			inst.deliver()
			inst.deliver()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inst := installGraph(t, simulator.Options{Mailboxes: 2})
			inst.startWithDevices()
			strike(inst)
			inst.awaitAlerts(soon)
			inst.awaitListening()
			inst.deliver()
			inst.deliver()
			inst.awaitAlerts(soon)
			inst.balance(0)
			if n := inst.sim.Counts().GraphSubscriptions; n != len(inst.boxes) {
				t.Errorf("%d subscriptions, want %d", n, len(inst.boxes))
			}
		})
	}
}

// A subscription carries an access token of an hour, here of a minute and a half, and tells nothing once it has run out.
func TestASubscriptionAtGraphOutlivesItsAccessToken(t *testing.T) {
	const life = 90 * time.Second
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.fault("token_short", simulator.Fault{Seconds: life.Seconds()})
	inst.startWithDevices()
	began := time.Now()
	t.Parallel() // only now: the minute passes while other tests begin
	eventually(t, atLast, "each subscription has got another token", func() bool {
		return inst.sim.Counts().Requests["GraphRenew"]+inst.sim.Counts().Requests["GraphReauthorize"] >= len(inst.boxes)
	})
	pass(t, time.Until(began.Add(life)))
	for range 4 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	if n := inst.sim.Counts().Requests["GraphSubscribe"]; n != len(inst.boxes) {
		t.Errorf("%d subscriptions were made, want %d", n, len(inst.boxes))
	}
}

// graphStrokes are what is done to Graph in the middle of a run.
var graphStrokes = []stroke{
	{"graph_dropped", at("graph_dropped", simulator.Fault{Count: 3}), false},
	{"graph_missed", at("graph_missed", simulator.Fault{Count: 3}), false},
	{"graph_late", func(t *testing.T, inst *installation) {
		inst.fault("graph_late", simulator.Fault{Seconds: 2})
		inst.deliver()
		inst.deliver()
		inst.clear("graph_late")
	}, false},
	{"graph_doubled", at("graph_doubled", simulator.Fault{Count: 5}), false},
	{"graph_reordered", at("graph_reordered", simulator.Fault{Seconds: 0.2}), false},
	{"graph_foreign", at("graph_foreign", simulator.Fault{Count: 5}), false},
	{"graph_unreachable", at("graph_unreachable", simulator.Fault{Seconds: 0.5}), false},
	{"graph_removed", at("graph_removed", simulator.Fault{}), false},
	{"graph_forgotten", at("graph_forgotten", simulator.Fault{Share: 0.5}), false},
	{"graph_lifecycle_dropped, and removed", func(t *testing.T, inst *installation) {
		inst.fault("graph_lifecycle_dropped", simulator.Fault{Seconds: 0.2})
		inst.fault("graph_removed", simulator.Fault{Share: 0.5})
	}, false},
	{"graph_reauthorize", at("graph_reauthorize", simulator.Fault{}), false},
	{"graph_throttled", at("graph_throttled", simulator.Fault{Seconds: 1}), false},
	{"graph_answer", at("graph_answer", simulator.Fault{Count: 2}), false},
	{"graph_away", at("graph_away", simulator.Fault{Seconds: 0.3}), false},
	{"graph_garbage", at("graph_garbage", simulator.Fault{Count: 2}), false},
	{"graph_item_unreadable", at("graph_item_unreadable", simulator.Fault{Count: 2}), false},
	{"graph_no_mailbox", at("graph_no_mailbox", simulator.Fault{Count: 1, Reason: "bare"}), false},
	{"tokens_revoked", at("tokens_revoked", simulator.Fault{}), false},
	{"a kill", func(_ *testing.T, inst *installation) { inst.kill(); inst.start() }, true},
}

func TestNothingIsLostByGraphWhen(t *testing.T) {
	t.Parallel()
	const messages, times = 60, 2
	for _, s := range graphStrokes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			inst := installGraph(t, simulator.Options{Mailboxes: 4})
			inst.startWithDevices()
			bound := inst.struck(s, messages, times)
			if lost := inst.ledger.await(t.Context(), 2*atLast); len(lost) > 0 { // what no notification tells of is found by the safety poll
				t.Fatalf("lost %d of %d: %v", len(lost), inst.ledger.count(), lost)
			}
			inst.balance(bound)
			inst.met()
		})
	}
}

// A page of Graph may be short, or empty, though more follow.
func TestNothingIsLostByGraphWhosePagesAreShortOrEmpty(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"graph_pages_short", "graph_pages_empty"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inst := installGraph(t, simulator.Options{Mailboxes: 1})
			inst.startWithDevices()
			inst.stop()
			for range 120 {
				inst.deliver()
			}
			inst.fault(name, simulator.Fault{Count: 2})
			inst.start()
			inst.balance(0)
			inst.met()
		})
	}
}

// Mailboxes move between two Exchanges with EWS and Exchange Online with Graph while mail arrives, each more than once, and back.
func TestNothingIsLostWhileMailboxesMoveBetweenEWSAndGraph(t *testing.T) {
	t.Parallel()
	for name, kills := range map[string]int{"in one life": 0, "and the service is killed": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			draw := dice(t)
			inst := installGraph(t, simulator.Options{Mailboxes: 6, Hosts: []string{simulator.OnPremises, simulator.Online, simulator.Other}})
			inst.startWithDevices()
			inst.underLoad(20*time.Millisecond, func() {
				for range max(1, kills) {
					for range 12 / max(1, kills) {
						inst.move(draw)
						pass(t, time.Duration(draw.IntN(500))*time.Millisecond)
					}
					if kills > 0 {
						inst.kill()
						inst.start()
					}
				}
			})
			inst.balance(kills * 8) // a message of every device may be in flight at each kill
			for _, b := range inst.boxes {
				at, err := inst.sim.Mailbox(b.address)
				if err != nil {
					t.Fatal(err)
				}
				var m struct{ Location struct{ Exchange string } }
				inst.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &m)
				if m.Location.Exchange != at.Host {
					t.Errorf("%s is listened to at %s and is at %s", b.address, m.Location.Exchange, at.Host)
				}
			}
		})
	}
}

// move moves a mailbox that is drawn to a host that is drawn.
func (inst *installation) move(draw *rand.Rand) {
	inst.t.Helper()
	hosts := []string{simulator.OnPremises, simulator.Online, simulator.Other}
	if err := inst.sim.Move(inst.boxes[draw.IntN(len(inst.boxes))].address, hosts[draw.IntN(len(hosts))]); err != nil {
		inst.t.Error(err)
	}
}

func TestWithoutPublicURLTheMailboxesAtGraphArePolled(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.write(withoutCallbacks(inst.configText()))
	inst.polled()
}

func TestWithMailReadBasicTheMailboxesAtGraphArePolled(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.fault("graph_basic_only", simulator.Fault{})
	m := inst.polled()
	if !strings.Contains(m.Reason, "Mail.Read") {
		t.Errorf("the reason is %q", m.Reason)
	}
}

func TestACallbackOfGraphThatDoesNotReachMailbellIsSaid(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 1})
	nobody := tcptest.Quiet(t)
	inst.edit("public_url: https://"+inst.callbacks, "public_url: https://"+nobody)
	m := inst.polled()
	if !strings.Contains(m.Reason, "https://"+nobody+"/callbacks/graph/…") {
		t.Errorf("the reason is %q", m.Reason)
	}
}

// polled starts a service to whose mailboxes nothing tells of mail, and sees that it rings nevertheless. It returns one of them.
func (inst *installation) polled() mailbox {
	inst.t.Helper()
	inst.start()
	inst.enrolAll()
	eventually(inst.t, atLast, "the mailboxes are polled", func() bool { return len(inst.mailboxes("polling")) == len(inst.boxes) })
	inst.deliver()
	inst.deliver()
	inst.awaitAlerts(atLast)
	return inst.mailbox(inst.boxes[0])
}

// withoutCallbacks is a configuration without public_url and callbacks.
func withoutCallbacks(text string) string {
	var kept []string
	skip := false
	for line := range strings.Lines(text) {
		if skip = strings.HasPrefix(line, "callbacks:") || strings.HasPrefix(line, "public_url:") || skip && strings.HasPrefix(line, " "); !skip {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// Graph refuses a second subscription of the same kind, or accepts it beside the first; and nobody can be asked for a lost secret.
func TestSubscriptionsOfALostStateAreReplacedWhereGraphRefusesASecondOne(t *testing.T) {
	loseState(t, func(*installation) {})
}

func TestSubscriptionsOfALostStateAreReplacedWhereGraphAcceptsASecondOne(t *testing.T) {
	loseState(t, func(inst *installation) { inst.fault("graph_duplicates", simulator.Fault{}) })
}

func loseState(t *testing.T, prepare func(*installation)) {
	t.Helper()
	inst := installGraph(t, simulator.Options{Mailboxes: 3})
	prepare(inst)
	inst.startWithDevices()
	inst.kill()
	if err := os.Remove(filepath.Join(inst.dir, "mailbell.db")); err != nil {
		t.Fatal(err)
	}
	inst.start()
	for i, b := range inst.boxes {
		b.devices = nil
		inst.enrol(b, fmt.Sprintf("new-%d", i))
	}
	inst.awaitListening()
	for range 6 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	t.Parallel() // only now: the minutes pass while other tests begin
	// mailbell looks for them a minute after the start, and spares what might just be made for two more.
	eventually(t, 5*time.Minute, "only the new subscriptions are left", func() bool { return inst.sim.Counts().GraphSubscriptions == len(inst.boxes) })
}

func TestSubscriptionsAreMadeAnewAfterAChangeOfPublicURL(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 3})
	inst.startWithDevices()
	inst.stop()
	other := tcptest.Quiet(t)
	inst.write(strings.ReplaceAll(inst.configText(), inst.callbacks, other))
	inst.start()
	inst.awaitListening()
	for range 6 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	eventually(t, soon, "only the new subscriptions are left", func() bool { return inst.sim.Counts().GraphSubscriptions == len(inst.boxes) })
	if n := inst.sim.Counts().Requests["GraphSubscribe"]; n < 2*len(inst.boxes) {
		t.Errorf("%d subscriptions were made, want %d", n, 2*len(inst.boxes))
	}
}

func TestASubscriptionThatIsNotRenewedIsMadeAnew(t *testing.T) {
	refuseRenewal(t, http.StatusBadRequest)
}
func TestASubscriptionThatIsGoneAtItsRenewalIsMadeAnew(t *testing.T) {
	refuseRenewal(t, http.StatusNotFound)
}

func refuseRenewal(t *testing.T, status int) {
	t.Helper()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.fault("token_short", simulator.Fault{Seconds: 90}) // after more than a minute each subscription needs another token
	inst.fault("graph_renewal_refused", simulator.Fault{Status: status})
	inst.startWithDevices()
	t.Parallel() // only now, as above
	eventually(t, 2*atLast, "each subscription is made anew", func() bool { return inst.sim.Counts().Requests["GraphSubscribe"] >= 2*len(inst.boxes) })
	inst.clear("token_short")
	inst.awaitListening()
	for range 4 {
		inst.deliver()
	}
	inst.awaitAlerts(soon)
	inst.balance(0)
	if n := inst.sim.Counts().GraphSubscriptions; n != len(inst.boxes) {
		t.Errorf("%d subscriptions, want %d", n, len(inst.boxes))
	}
}

// What is posted to the callbacks is anonymous: whatever it is, it is accepted at once, and only what has the secrets of a subscription
// counts.
func TestACallbackOfGraphIsBelievedOnlyWithItsSecrets(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.edit("safety_poll: 1m", "safety_poll: 24h") // nothing but notifications has Graph asked
	inst.startWithDevices()
	subs := inst.sim.GraphSubscriptions()
	url, ours, other := subs[0].NotificationURL, subs[0], subs[1]
	calls := func() int {
		n := 0
		for operation, count := range inst.sim.Counts().Requests {
			if strings.HasPrefix(operation, "Graph") {
				n += count
			}
		}
		return n
	}
	read := func() {
		for _, b := range inst.boxes {
			inst.deliverTo(b)
			inst.awaitAlerts(soon)
		}
	}
	read()
	before := calls()
	read()
	genuine, before := calls()-before, calls()
	item := func(id, state string) string {
		return fmt.Sprintf(`{"value":[{"subscriptionId":%q,"clientState":%q,"changeType":"created","resource":"Users/x/Messages/AAMkAD","resourceData":{"id":"AAMkAD"}}]}`, id, state)
	}
	life := func(id, state, event string) string {
		return fmt.Sprintf(`{"value":[{"subscriptionId":%q,"clientState":%q,"lifecycleEvent":%q}]}`, id, state, event)
	}
	for name, body := range map[string]string{
		"nothing": "", "half": "{", "null": "null", "a list": "[]", "no list": `{"value":null}`, "no items": `{"value":[null,1,"x",{}]}`, "deep": strings.Repeat("[", 100_000),
		"many": `{"value":[` + strings.Repeat(`{"subscriptionId":"x"},`, 9_000) + `{}]}`, "large": `{"value":["` + strings.Repeat("x", 5<<20) + `"]}`,
		"a wrong state": item(ours.ID, "guess"), "no state": item(ours.ID, ""), "the state of another": item(ours.ID, other.ClientState), "another id": item("11111111-2222-3333-4444-555555555555", ours.ClientState),
		"removed, with a wrong state": life(ours.ID, "guess", "subscriptionRemoved"), "removed, with the state of another": life(ours.ID, other.ClientState, "subscriptionRemoved"),
		"missed, with a wrong state": life(ours.ID, "guess", "missed"), "a token": `{"validationTokens":["x.y.z"],"value":[]}`,
	} {
		if status, _, text := inst.post(url, body); status != http.StatusAccepted || text != "" {
			t.Errorf("%s: %d %q", name, status, text)
		}
	}
	if status, _, _ := inst.post("https://"+inst.callbacks+"/callbacks/graph/guess", item(ours.ID, ours.ClientState)); status != http.StatusAccepted {
		t.Errorf("at another URL: %d", status)
	}
	read()                                                  // after what was forged, which is worked off in its turn
	if n := calls() - before; n > genuine+len(inst.boxes) { // one may be asked again
		t.Errorf("Graph was asked %d times, want %d: the others are because of forged notifications", n, genuine)
	}
	inst.balance(0)
	if n := inst.sim.Counts().GraphSubscriptions; n != len(inst.boxes) {
		t.Errorf("%d subscriptions, want %d", n, len(inst.boxes))
	}
}

func TestAHandshakeEchoesTheTokenAsPlainTextAndNothingElse(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 1})
	inst.startWithDevices()
	at := inst.sim.GraphSubscriptions()[0].NotificationURL + "?validationToken="
	const token = "Validation: Testing client application reachability for subscription Request-Id: 3b2a"
	for _, escaped := range []string{url.QueryEscape(token), strings.ReplaceAll(url.QueryEscape(token), "+", "%20")} {
		if status, media, text := inst.post(at+escaped, ""); status != http.StatusOK || text != token || !strings.HasPrefix(media, "text/plain") {
			t.Errorf("%s: %d %s %q", escaped, status, media, text)
		}
	}
	if status, media, text := inst.post(at+url.QueryEscape("<script>alert(1)</script>"), ""); status == http.StatusOK && (strings.Contains(text, "<") || !strings.HasPrefix(media, "text/plain")) {
		t.Errorf("%d %s %q", status, media, text)
	}
	if status, _, text := inst.post(at+strings.Repeat("x", 100_000), ""); status == http.StatusOK || len(text) > 1000 {
		t.Errorf("a long one: %d, %d bytes", status, len(text))
	}
	if status, _, text := inst.post("https://"+inst.callbacks+"/callbacks/graph/guess?validationToken=x", ""); status == http.StatusOK {
		t.Errorf("at another URL: %d %q", status, text)
	}
}

func TestTheSecretsOfGraphAreToldNowhere(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 3})
	inst.edit("listen: "+strings.TrimPrefix(inst.url, "http://"), "log: {level: debug}\nlisten: "+strings.TrimPrefix(inst.url, "http://"))
	inst.startWithDevices()
	for _, name := range []string{"graph_missed", "graph_foreign", "graph_item_unreadable"} {
		inst.fault(name, simulator.Fault{Count: 1})
		inst.deliverTo(inst.boxes...)
	}
	inst.awaitAlerts(atLast)
	secrets := []string{inst.sim.ClientSecret}
	for _, s := range inst.sim.GraphSubscriptions() {
		secrets = append(secrets, s.ClientState, path.Base(s.NotificationURL))
	}
	inst.fault("graph_subscribe_refused", simulator.Fault{Count: 3})
	inst.fault("graph_removed", simulator.Fault{})
	eventually(t, soon, "subscribing was refused", func() bool { return inst.sim.Counts().Requests["GraphSubscribe"] >= 2*len(inst.boxes) })
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
	for i, secret := range secrets {
		if len(secret) < 20 || strings.Contains(told, secret[:12]) {
			t.Errorf("secret %d (%d characters) is told", i, len(secret))
		}
	}
	for _, text := range []string{"Ticket 0001", "eyJ0eXAi"} { // of a mail, of an access token
		if strings.Contains(told, text) {
			t.Errorf("%s… is told", text)
		}
	}
}

// post posts what Graph might to a URL of the callbacks, and returns the status, the media type and the text of the answer.
func (inst *installation) post(at, body string) (status int, media, text string) {
	inst.t.Helper()
	client := &http.Client{Timeout: soon, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: inst.sim.RootCAs()}}}
	defer client.CloseIdleConnections()
	resp, err := client.Post(at, "application/json", strings.NewReader(body))
	if err != nil {
		inst.t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		inst.t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(answer)
}

// listenBy has the mailboxes of the entry online listened to another way, and returns how many that concerned.
func (inst *installation) listenBy(way string) (mailboxes int) {
	inst.t.Helper()
	var answer struct{ Mailboxes int }
	if status := inst.call(http.MethodPut, "/v1/exchange/online/listen_by", map[string]string{"listen_by": way}, &answer); status != http.StatusOK {
		inst.t.Errorf("listening by %s: %d", way, status)
	}
	return answer.Mailboxes
}

func TestMailboxesGoOverToGraphAndBackByCommandUnderLoad(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 6, Hosts: []string{simulator.Online, simulator.Online, simulator.OnPremises}})
	inst.startWithDevices()
	inst.underLoad(20*time.Millisecond, func() {
		for _, way := range []string{"streaming", "graph", "streaming", "graph"} {
			if n := inst.listenBy(way); n != 4 {
				t.Errorf("%d mailboxes went over to %s, want 4", n, way)
			}
			pass(t, 3*time.Second)
		}
	})
	inst.balance(0)
	eventually(t, soon, "each mailbox at Online has a subscription of Graph", func() bool { return inst.sim.Counts().GraphSubscriptions == 4 })
	var list api.MailboxPage
	var status api.Status
	inst.call(http.MethodGet, "/v1/mailboxes", nil, &list)
	inst.call(http.MethodGet, "/v1/status", nil, &status)
	by := map[string]int{}
	for _, l := range list.Mailboxes {
		by[l.Exchange+" "+l.Source]++
	}
	for _, e := range status.Exchange {
		by[fmt.Sprint(e.Name, " online=", e.Online, " graph=", e.Graph)]++
	}
	if by["online graph"] != 4 || by["onpremises ews"] != 2 || by["onpremises online=false graph=false"] != 1 || by["online online=true graph=true"] != 1 {
		t.Errorf("the API tells %v", by)
	}
}

// What a tenant says that has switched EWS off: HTTP 403 and nothing else, for every mailbox.
func TestMailboxesGoOverToGraphWhereTheTenantSwitchesEWSOff(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 6, Hosts: []string{simulator.Online, simulator.Online, simulator.OnPremises}})
	inst.edit("listen_by: graph", "listen_by: streaming")
	inst.startWithDevices()
	inst.underLoad(50*time.Millisecond, func() {
		pass(t, time.Second)
		inst.fault("ews_blocked", simulator.Fault{Host: simulator.Online})
		inst.fault("stream_rst", simulator.Fault{Host: simulator.Online})
		pass(t, 2*time.Second)
	})
	if lost := inst.ledger.await(t.Context(), 3*atLast); len(lost) > 0 {
		t.Fatalf("lost %d of %d: %v", len(lost), inst.ledger.count(), lost)
	}
	eventually(t, atLast, "each mailbox at Online has a subscription of Graph", func() bool { return inst.sim.Counts().GraphSubscriptions == 4 })
	inst.balance(0)
}

// Forged notifications, posted by somebody who knows the URL, cost live mail nothing.
func TestForgedNotificationsOfGraphKeepNoAlertWaiting(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	url := inst.sim.GraphSubscriptions()[0].NotificationURL
	inst.besideForged(func(client *http.Client, n int) (*http.Response, error) {
		body := fmt.Sprintf(`{"value":[{"subscriptionId":"x","clientState":"forged-%d","changeType":"created","resourceData":{"id":"AAMkAD"}}]}`, n)
		resp, err := client.Post(url, "application/json", strings.NewReader(body))
		if err == nil && resp.StatusCode != http.StatusAccepted {
			t.Errorf("a forged one is answered %d", resp.StatusCode)
		}
		return resp, err
	})
	inst.balance(0)
}

// Addresses that mean something else in a URL unless they are escaped, and one that Graph's quotes could break.
func TestEveryAddressIsListenedToByGraph(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 1})
	for _, address := range []string{
		"o'brien@contoso.example", "a+b@contoso.example", "a#b@contoso.example", "100%41@contoso.example", "a?b@contoso.example", "a&b=c@contoso.example", "upper.case@contoso.example",
	} {
		if err := inst.sim.AddMailboxAt(address, simulator.Online); err != nil {
			t.Fatal(err)
		}
		inst.boxes = append(inst.boxes, &box{address: address})
	}
	inst.startWithDevices()
	inst.deliverTo(inst.boxes...)
	inst.awaitAlerts(soon)
	inst.balance(0)
	if n := inst.sim.Counts().GraphSubscriptions; n != len(inst.boxes) {
		t.Errorf("%d subscriptions, want %d", n, len(inst.boxes))
	}
}

// The server says when to come back: nobody asks it for the mailbox before, and the others do not wait.
func TestGraphIsNotAskedBeforeTheTimeThatItSays(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	inst.fault("graph_throttled", simulator.Fault{Mailbox: inst.boxes[0].address, Seconds: 8})
	inst.deliverTo(inst.boxes[0])
	eventually(t, soon, "it is throttled", func() bool { return inst.sim.Counts().GraphThrottled > 0 })
	inst.deliverTo(inst.boxes[1])
	pass(t, 3*time.Second)
	if n := inst.sim.Counts().GraphThrottled; n > 1 {
		t.Errorf("it was asked %d times within 3 of 8 s", n)
	}
	inst.awaitAlerts(atLast)
	inst.balance(0)
}

// The next page is only where Graph is: a token goes nowhere else, the mailbox says so, and reads on when the link is right again.
func TestALinkToAnotherHostIsNotFollowed(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 2})
	inst.startWithDevices()
	inst.stop()
	for range 200 {
		inst.deliverTo(inst.boxes[0])
	}
	inst.fault("graph_link_elsewhere", simulator.Fault{})
	inst.start()
	eventually(t, soon, "the mailbox says why it cannot be listed", func() bool { return strings.Contains(inst.mailbox(inst.boxes[0]).Reason, "another host") })
	inst.clear("graph_link_elsewhere")
	inst.restart()
	inst.balance(0)
}

// A token that is refused is replaced once, and then there is a pause.
func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	t.Parallel()
	inst := installGraph(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	before := inst.sim.Counts().Tokens
	inst.fault("graph_answer", simulator.Fault{Status: http.StatusUnauthorized, Reason: "InvalidAuthenticationToken"})
	for range 8 {
		inst.deliver()
		pass(t, 250*time.Millisecond)
	}
	if n := inst.sim.Counts().Tokens - before; n > 3 {
		t.Errorf("%d tokens were got while all are refused", n)
	}
	inst.clear("graph_answer")
	inst.awaitAlerts(2 * atLast)
	inst.balance(0)
}
