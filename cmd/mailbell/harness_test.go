// The tests of this package see mailbell from outside: they build it, run it as a process, and talk to it as its users do, by
// its command line, its HTTP API, its log and its exit code. Exchange and APNs are the simulator, which runs in the test's own
// process and so survives whatever is done to mailbell's.
package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

const (
	// soon bounds what comes within a second on an idle machine: this one runs everything at once, with the race detector.
	soon = 20 * time.Second
	// atLast bounds what has to come after all back-offs that mailbell may take: a minute, and its jitter.
	atLast = 100 * time.Second
	// stopTime is how long a stop may take: DESIGN section 4.
	stopTime = 30 * time.Second
	// glance is between two looks at something that is waited for.
	glance = 10 * time.Millisecond
)

// program is the path of the mailbell that TestMain built; nothing else writes it.
var program string

var plain = flag.Bool("plain", false, "build mailbell without the race detector, for long and large runs")

var seed = flag.Uint64("seed", 0, "of what the tests draw; 0: a new one, which they print")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "24"); err != nil { // most of their time these tests wait
		panic(err)
	}
	dir, err := os.MkdirTemp("", "mailbell-test-")
	if err == nil {
		program = filepath.Join(dir, "mailbell")
		var out []byte
		if out, err = exec.Command("go", "build", "-race="+strconv.FormatBool(!*plain), "-o", program, ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// dice are what a test draws random moments from; their seed is printed.
func dice(t *testing.T) *mathrand.Rand {
	t.Helper()
	n := *seed
	if n == 0 {
		n = mathrand.Uint64()
	}
	t.Logf("seed: go test -run '^%s$' -seed %d", t.Name(), n)
	return mathrand.New(mathrand.NewPCG(n, n))
}

// eventually waits until a condition holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	if !waitUntil(t.Context(), within, holds) {
		t.Fatalf("not within %v: %s", within, what)
	}
}

func waitUntil(ctx context.Context, within time.Duration, holds func() bool) bool {
	look := time.NewTicker(glance)
	defer look.Stop()
	end := time.NewTimer(within)
	defer end.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-end.C:
			return holds()
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// pass lets time pass between two deeds of a test. It is never the way to wait for something.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// process is a mailbell that was started.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	began    time.Time
	out, log string // files: standard output, and standard error
	ended    chan struct{}
	status   syscall.WaitStatus // once ended is closed
	code     int                // likewise; -1: a signal ended it
}

// launch starts mailbell. A process that still runs at the end of the test is stopped, and has to stop well.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return launchTo(t, nil, args...)
}

// launchTo starts mailbell with a standard error of the test's own; nil: the file that is looked at in the end.
func launchTo(t *testing.T, stderr *os.File, args ...string) *process {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "process-")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(program, args...), out: filepath.Join(dir, "out"), log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	out, err := os.Create(p.out)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, log
	if stderr != nil {
		p.cmd.Stderr = stderr
	}
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10") // a second without it, at every end
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code tells all
		p.status, _ = p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.ended)
	}()
	t.Cleanup(p.cleanup)
	return p
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// wait waits for the end of the process, and returns its exit code.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	end := time.NewTimer(within)
	defer end.Stop()
	select {
	case <-p.ended:
		return p.code
	case <-end.C:
		p.cmd.Process.Kill()
		<-p.ended
		p.t.Errorf("%s: did not end within %v", p.cmd.Args[1:], within)
		return -1
	}
}

// terminate asks the process to stop, and waits for it.
func (p *process) terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("SIGTERM: %v", err)
	}
	return p.wait(stopTime)
}

func (p *process) stdout() string { return p.read(p.out) }
func (p *process) stderr() string { return p.read(p.log) }

func (p *process) read(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// cleanup ends the process, and looks for what no run may ever log.
func (p *process) cleanup() {
	if p.running() {
		if code := p.terminate(); code != 0 {
			p.t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
	}
	log := p.stderr()
	for _, wrong := range []string{"DATA RACE", "panic:", "fatal error:", "panic while answering"} {
		if i := strings.Index(log, wrong); i >= 0 {
			p.t.Errorf("%s in the log:\n%s", wrong, log[i:min(len(log), i+6000)])
		}
	}
	if p.t.Failed() {
		p.t.Logf("the end of the log of process %d:\n%s", p.cmd.Process.Pid, log[max(0, len(log)-4000):])
	}
}

// installation is a simulator, and a service that runs against it.
type installation struct {
	t         *testing.T
	sim       *simulator.Server
	dir       string // of the configuration, the secrets and the state
	config    string
	url       string
	token     string // of the client operator
	callbacks string // host:port; where it takes those of Graph
	client    *http.Client
	boxes     []*box
	runs      []*process
	ledger    *ledger

	patience time.Duration // how long all mailboxes may take until they are listened to
}

// box is a mailbox, with the ids of the devices that are enrolled for it.
type box struct {
	address string
	devices []string
}

// install starts a simulator, and has it write a configuration. No service runs yet.
func install(t *testing.T, o simulator.Options) *installation {
	t.Helper()
	inst := &installation{t: t, dir: t.TempDir(), patience: soon, client: &http.Client{Transport: &http.Transport{}, Timeout: soon}}
	o.Dir = inst.dir
	var err error
	if inst.sim, err = simulator.Start(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		inst.client.CloseIdleConnections()
		if err := inst.sim.Close(); err != nil {
			t.Errorf("closing the simulator: %v", err)
		}
	})
	inst.ledger = newLedger(inst.sim)
	inst.config = inst.sim.ConfigFile
	listen := tcptest.Quiet(t)
	inst.edit("listen: "+strings.TrimPrefix(inst.sim.APIURL, "http://"), "listen: "+listen)
	if o.ListenBy == simulator.ByPush {
		inst.edit("public_url: "+inst.sim.APIURL, "public_url: http://"+listen)
	}
	if o.Graph {
		inst.callbacks = tcptest.Quiet(t)
		inst.write(strings.ReplaceAll(inst.configText(), inst.sim.CallbackAddr, inst.callbacks))
	}
	inst.url = "http://" + listen
	token, err := os.ReadFile(inst.sim.APITokenFile)
	if err != nil {
		t.Fatal(err)
	}
	inst.token = strings.TrimSpace(string(token))
	for _, address := range inst.sim.Mailboxes() {
		inst.boxes = append(inst.boxes, &box{address: address})
	}
	return inst
}

// edit replaces the one place of old in the configuration.
func (inst *installation) edit(old, replacement string) {
	inst.t.Helper()
	text := inst.configText()
	if n := strings.Count(text, old); n != 1 {
		inst.t.Fatalf("%q is %d times in the configuration, want once:\n%s", old, n, text)
	}
	inst.write(strings.Replace(text, old, replacement, 1))
}

// extend adds top-level keys to the configuration.
func (inst *installation) extend(yaml string) {
	inst.t.Helper()
	inst.write(inst.configText() + yaml)
}

func (inst *installation) configText() string {
	inst.t.Helper()
	text, err := os.ReadFile(inst.config)
	if err != nil {
		inst.t.Fatal(err)
	}
	return string(text)
}

func (inst *installation) write(config string) {
	inst.t.Helper()
	if err := os.WriteFile(inst.config, []byte(config), 0o600); err != nil {
		inst.t.Fatal(err)
	}
}

// start starts the service and waits until it is ready.
func (inst *installation) start() *process {
	inst.t.Helper()
	p := launch(inst.t, "run", "--config", inst.config)
	inst.runs = append(inst.runs, p)
	inst.awaitReady(p)
	return p
}

// awaitReady waits until a service that was started is ready.
func (inst *installation) awaitReady(p *process) {
	inst.t.Helper()
	eventually(inst.t, max(soon, inst.patience), "the service is ready", func() bool {
		if !p.running() {
			inst.t.Fatalf("the service ended with %d:\n%s", p.code, p.stderr())
		}
		status, _ := inst.readiness(inst.url)
		return status == http.StatusOK
	})
}

// readiness asks a service whether it is ready; 0: nobody answers.
func (inst *installation) readiness(url string) (status int, text string) {
	inst.t.Helper()
	resp, err := inst.client.Get(url + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(answer)
}

func (inst *installation) service() *process { return inst.runs[len(inst.runs)-1] }

// kill ends the service with SIGKILL, and waits until the simulator has seen the end of its connections: what comes to APNs
// from then on is of the next process.
func (inst *installation) kill() {
	inst.t.Helper()
	from := time.Now()
	p := inst.service()
	if err := p.cmd.Process.Kill(); err != nil {
		inst.t.Fatal(err)
	}
	p.wait(soon)
	inst.client.CloseIdleConnections()
	eventually(inst.t, max(soon, inst.patience), "APNs has seen the end of the connections", func() bool { return inst.sim.Counts().APNsOpen == 0 })
	inst.ledger.killed(from, time.Now())
}

// stop ends the service with SIGTERM: in time, with exit code 0.
func (inst *installation) stop() {
	inst.t.Helper()
	if code := inst.service().terminate(); code != 0 {
		inst.t.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
	inst.client.CloseIdleConnections()
}

// restart stops the service and starts it anew, which ends every back-off.
func (inst *installation) restart() {
	inst.t.Helper()
	inst.stop()
	inst.start()
}

// call calls the API and returns the status; the answer is decoded into into, unless that is nil.
func (inst *installation) call(method, path string, body, into any) int {
	inst.t.Helper()
	status, answer := inst.raw(method, path, inst.token, body)
	if into != nil && status < 300 {
		if err := json.Unmarshal(answer, into); err != nil {
			inst.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return status
}

// raw calls with any bearer token; the body is a []byte as it is, or anything that JSON can be made of.
func (inst *installation) raw(method, path, token string, body any) (status int, answer []byte) {
	inst.t.Helper()
	data, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			inst.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(inst.t.Context(), method, inst.url+path, bytes.NewReader(data))
	if err != nil {
		inst.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := inst.client.Do(req)
	if err != nil {
		inst.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		inst.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, answer
}

// deviceToken makes up a token as APNs gives it to an app.
func deviceToken() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// enrol enrols one more device for a mailbox, and returns its token.
func (inst *installation) enrol(b *box, id string) (token string) {
	inst.t.Helper()
	token = deviceToken()
	if status := inst.call(http.MethodPut, "/v1/devices/"+id, map[string]string{"mailbox": b.address, "token": token}, nil); status != http.StatusCreated {
		inst.t.Fatalf("enrolling %s: %d, want 201", id, status)
	}
	b.devices = append(b.devices, id)
	return token
}

// remove ends an enrolment.
func (inst *installation) remove(b *box, id string) {
	inst.t.Helper()
	if status := inst.call(http.MethodDelete, "/v1/devices/"+id, nil, nil); status != http.StatusNoContent {
		inst.t.Fatalf("removing %s: %d, want 204", id, status)
	}
	b.devices = slices.DeleteFunc(slices.Clone(b.devices), func(d string) bool { return d == id })
}

// enrolAll gives every mailbox a device, and every third one two.
func (inst *installation) enrolAll() {
	inst.t.Helper()
	for i, b := range inst.boxes {
		for n := range 1 + i%3/2 {
			inst.enrol(b, fmt.Sprintf("phone-%02d-%c", i+1, 'a'+n))
		}
	}
}

// awaitListening waits until every mailbox with a device is listened to.
func (inst *installation) awaitListening() {
	inst.t.Helper()
	n := 0
	for _, b := range inst.boxes {
		n += min(1, len(b.devices))
	}
	eventually(inst.t, inst.patience, fmt.Sprintf("%d mailboxes are listened to", n), func() bool { return len(inst.mailboxes("listening")) == n })
}

// startWithDevices starts the service, enrols a device for every mailbox and a second one for every third, and waits until all are
// listened to.
func (inst *installation) startWithDevices() {
	inst.t.Helper()
	inst.start()
	inst.enrolAll()
	inst.awaitListening()
}

// mailboxes are the addresses of those in a state.
func (inst *installation) mailboxes(state string) (addresses []string) {
	inst.t.Helper()
	for after := ""; ; {
		var page struct {
			Mailboxes []struct{ Address string }
			Next      string
		}
		if status := inst.call(http.MethodGet, "/v1/mailboxes?limit=1000&state="+state+"&after="+after, nil, &page); status != http.StatusOK {
			inst.t.Fatalf("listing mailboxes: %d", status)
		}
		for _, m := range page.Mailboxes {
			addresses = append(addresses, m.Address)
		}
		if page.Next == "" {
			return addresses
		}
		after = page.Next
	}
}

// mailbox is a part of what GET /v1/mailboxes/{address} answers.
type mailbox struct {
	State     string
	Reason    string
	NextTry   time.Time `json:"next_try"`
	Decisions []struct{ Device, Outcome, Reason string }
}

func (inst *installation) mailbox(b *box) (m mailbox) {
	inst.t.Helper()
	if status := inst.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &m); status != http.StatusOK {
		inst.t.Fatalf("GET /v1/mailboxes/%s: %d", b.address, status)
	}
	return m
}

// deliver delivers the next message, dealt round robin.
func (inst *installation) deliver() {
	inst.t.Helper()
	inst.deliverTo(inst.boxes[inst.ledger.count()%len(inst.boxes)])
}

func (inst *installation) deliverTo(boxes ...*box) {
	inst.t.Helper()
	for _, b := range boxes {
		subject := inst.ledger.expect(b.devices)
		message := fmt.Sprintf("From: Travel desk <travel@fabrikam.example>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@fabrikam.example>\r\n\r\nHello.\r\n",
			b.address, subject, time.Now().Format(time.RFC1123Z), strings.ReplaceAll(subject, " ", "-"))
		if _, err := inst.sim.Deliver(b.address, time.Time{}, []byte(message)); err != nil {
			inst.t.Fatal(err)
		}
	}
}

// underLoad delivers a message in every gap while deeds are done.
func (inst *installation) underLoad(gap time.Duration, deeds func()) {
	inst.t.Helper()
	stopped := make(chan struct{})
	var delivery sync.WaitGroup
	delivery.Go(func() {
		for {
			select {
			case <-stopped:
				return
			default:
				inst.deliver()
				pass(inst.t, gap)
			}
		}
	})
	deeds()
	close(stopped)
	delivery.Wait()
}

// fault sets a fault of the simulator.
func (inst *installation) fault(name string, f simulator.Fault) {
	inst.t.Helper()
	if err := inst.sim.SetFault(name, f); err != nil {
		inst.t.Fatal(err)
	}
}

func (inst *installation) clear(name string) {
	inst.t.Helper()
	if err := inst.sim.ClearFault(name); err != nil {
		inst.t.Fatal(err)
	}
}

// clearAll ends every fault.
func (inst *installation) clearAll() {
	inst.t.Helper()
	for _, f := range inst.sim.Faults() {
		inst.clear(f.Name)
	}
}

// awaitAlerts waits until APNs has accepted an alert for every message on every device that was enrolled for it.
func (inst *installation) awaitAlerts(within time.Duration) {
	inst.t.Helper()
	if lost := inst.ledger.await(inst.t.Context(), within); len(lost) > 0 {
		inst.t.Fatalf("lost %d of %d: not accepted within %v: %v", len(lost), inst.ledger.count(), within, lost[:min(len(lost), 20)])
	}
}

// awaitRest waits until nothing is left to be done: every mailbox is listened to and no device is behind. Whatever would be sent
// again has been
// by then.
func (inst *installation) awaitRest() {
	inst.t.Helper()
	type device struct{ ID, State, Reason string }
	var busy []device
	if !waitUntil(inst.t.Context(), max(atLast, inst.patience), func() bool {
		busy = nil
		for after := ""; ; {
			var page struct {
				Devices []device
				Next    string
			}
			inst.call(http.MethodGet, "/v1/devices?limit=1000&after="+after, nil, &page)
			busy = append(busy, slices.DeleteFunc(page.Devices, func(d device) bool { return d.State == "listening" })...)
			if page.Next == "" {
				return len(busy) == 0
			}
			after = page.Next
		}
	}) {
		inst.t.Fatalf("%d devices are not at rest: %+v", len(busy), busy[:min(len(busy), 20)])
	}
}

// balance is the end of most tests: nothing was lost, nothing was alerted twice, and repeats stay within their bound.
func (inst *installation) balance(maxResent int) {
	inst.t.Helper()
	inst.awaitAlerts(max(atLast, inst.patience))
	inst.awaitRest()
	s := inst.ledger.sum()
	inst.t.Logf("%d messages, %d alerts, %d resent", inst.ledger.count(), s.alerts, s.resent)
	if len(s.duplicates) > 0 {
		inst.t.Errorf("%d duplicates: %s", len(s.duplicates), strings.Join(s.duplicates[:min(len(s.duplicates), 20)], "\n"))
	}
	if len(s.strays) > 0 {
		inst.t.Errorf("%d alerts that nobody waits for: %s", len(s.strays), strings.Join(s.strays[:min(len(s.strays), 20)], "\n"))
	}
	// Where the process was killed, each repeat has its excuse, that it was accepted within a second before: how many these are is the
	// machine's.
	if s.resent > maxResent && !inst.ledger.anyKill() {
		inst.t.Errorf("resent %d, want at most %d", s.resent, maxResent)
	}
}
