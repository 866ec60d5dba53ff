// The tests of this package see mailbell from outside: they build it, run it as a process, and talk to it as its users do, by
// its command line, its HTTP API, its log and its exit code. Exchange and APNs are the simulator, which lives in the test's own
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
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

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

var seed = flag.Uint64("seed", 0, "of what the tests draw; 0: a new one, which they print")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil { // most of their time these tests wait
		panic(err)
	}
	dir, err := os.MkdirTemp("", "mailbell-test-")
	if err == nil {
		program = filepath.Join(dir, "mailbell")
		var out []byte
		if out, err = exec.Command("go", "build", "-race", "-o", program, ".").CombinedOutput(); err != nil {
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
	code     int // once ended is closed
}

// launch starts mailbell. A process that still runs at the end of the test is stopped, and has to stop well.
func launch(t *testing.T, args ...string) *process {
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
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10") // a second without it, at every end
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code tells all
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

// world is a simulator, and a service that runs against it.
type world struct {
	t      *testing.T
	sim    *simulator.Server
	dir    string // of the configuration, the secrets and the state
	config string
	url    string
	token  string // of the client operator
	client *http.Client
	boxes  []*box
	runs   []*process
	ledger *ledger
}

// box is a mailbox, with the ids of the devices that are enrolled for it.
type box struct {
	address string
	devices []string
}

// newWorld starts a simulator with so many mailboxes. No service runs yet.
func newWorld(t *testing.T, mailboxes int) *world {
	t.Helper()
	return newWorldOf(t, simulator.Options{Mailboxes: mailboxes})
}

// newWorldOf starts a simulator of another kind.
func newWorldOf(t *testing.T, o simulator.Options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{}, Timeout: soon}}
	o.Dir = w.dir
	var err error
	if w.sim, err = simulator.Start(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		if err := w.sim.Close(); err != nil {
			t.Errorf("closing the simulator: %v", err)
		}
	})
	w.ledger = newLedger(w.sim)
	w.config = w.sim.ConfigFile
	listen := quietAddress(t)
	w.edit("listen: "+strings.TrimPrefix(w.sim.APIURL, "http://"), "listen: "+listen)
	w.url = "http://" + listen
	token, err := os.ReadFile(w.sim.APITokenFile)
	if err != nil {
		t.Fatal(err)
	}
	w.token = strings.TrimSpace(string(token))
	for _, address := range w.sim.Mailboxes() {
		w.boxes = append(w.boxes, &box{address: address})
	}
	return w
}

// quietAddress is one that no outgoing connection takes while the service is down: below the ports that Linux gives to those.
func quietAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// edit replaces the one place of old in the configuration.
func (w *world) edit(old, replacement string) {
	w.t.Helper()
	text := w.configText()
	if n := strings.Count(text, old); n != 1 {
		w.t.Fatalf("%q is %d times in the configuration, want once:\n%s", old, n, text)
	}
	w.write(strings.Replace(text, old, replacement, 1))
}

// extend adds top-level keys to the configuration.
func (w *world) extend(yaml string) {
	w.t.Helper()
	w.write(w.configText() + yaml)
}

func (w *world) configText() string {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) write(config string) {
	w.t.Helper()
	if err := os.WriteFile(w.config, []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start starts the service and waits until it is ready.
func (w *world) start() *process {
	w.t.Helper()
	p := launch(w.t, "run", "--config", w.config)
	w.runs = append(w.runs, p)
	eventually(w.t, soon, "the service is ready", func() bool {
		if !p.running() {
			w.t.Fatalf("the service ended with %d:\n%s", p.code, p.stderr())
		}
		resp, err := w.client.Get(w.url + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	})
	return p
}

func (w *world) service() *process { return w.runs[len(w.runs)-1] }

// kill ends the service with SIGKILL, and waits until the simulator has seen the end of its connections: what comes to APNs
// from then on is of the next process.
func (w *world) kill() {
	w.t.Helper()
	from := time.Now()
	p := w.service()
	if err := p.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	p.wait(soon)
	w.client.CloseIdleConnections()
	eventually(w.t, soon, "APNs has seen the end of the connections", func() bool { return w.sim.Counts().APNsOpen == 0 })
	w.ledger.killed(from, time.Now())
}

// stop ends the service with SIGTERM: in time, with exit code 0.
func (w *world) stop() {
	w.t.Helper()
	if code := w.service().terminate(); code != 0 {
		w.t.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
	w.client.CloseIdleConnections()
}

// restart stops the service and starts it anew, which ends every back-off.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// call calls the API and returns the status; the answer is decoded into into, unless that is nil.
func (w *world) call(method, path string, body, into any) int {
	w.t.Helper()
	status, answer := w.raw(method, path, w.token, body)
	if into != nil && status < 300 {
		if err := json.Unmarshal(answer, into); err != nil {
			w.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return status
}

// raw calls with any bearer token; the body is a []byte as it is, or anything that JSON can be made of.
func (w *world) raw(method, path, token string, body any) (status int, answer []byte) {
	w.t.Helper()
	data, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			w.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
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
func (w *world) enrol(b *box, id string) (token string) {
	w.t.Helper()
	token = deviceToken()
	if status := w.call(http.MethodPut, "/v1/devices/"+id, map[string]string{"mailbox": b.address, "token": token}, nil); status != http.StatusCreated {
		w.t.Fatalf("enrolling %s: %d, want 201", id, status)
	}
	b.devices = append(b.devices, id)
	return token
}

// remove ends an enrolment.
func (w *world) remove(b *box, id string) {
	w.t.Helper()
	if status := w.call(http.MethodDelete, "/v1/devices/"+id, nil, nil); status != http.StatusNoContent {
		w.t.Fatalf("removing %s: %d, want 204", id, status)
	}
	b.devices = slices.DeleteFunc(slices.Clone(b.devices), func(d string) bool { return d == id })
}

// enrolAll gives every mailbox a device, and every third one two.
func (w *world) enrolAll() {
	w.t.Helper()
	for i, b := range w.boxes {
		for n := range 1 + i%3/2 {
			w.enrol(b, fmt.Sprintf("phone-%02d-%c", i+1, 'a'+n))
		}
	}
}

// heard waits until every mailbox with a device is heard.
func (w *world) heard() {
	w.t.Helper()
	n := 0
	for _, b := range w.boxes {
		n += min(1, len(b.devices))
	}
	eventually(w.t, soon, fmt.Sprintf("%d mailboxes are heard", n), func() bool { return len(w.mailboxes("listening")) == n })
}

// begin starts the service with all devices, and waits until they are heard.
func (w *world) begin() {
	w.t.Helper()
	w.start()
	w.enrolAll()
	w.heard()
}

// mailboxes are the addresses of those in a state.
func (w *world) mailboxes(state string) (addresses []string) {
	w.t.Helper()
	var page struct{ Mailboxes []struct{ Address string } }
	if status := w.call(http.MethodGet, "/v1/mailboxes?limit=1000&state="+state, nil, &page); status != http.StatusOK {
		w.t.Fatalf("listing mailboxes: %d", status)
	}
	for _, m := range page.Mailboxes {
		addresses = append(addresses, m.Address)
	}
	return addresses
}

// mailbox is a part of what GET /v1/mailboxes/{address} answers.
type mailbox struct {
	State     string
	Reason    string
	NextTry   time.Time `json:"next_try"`
	Decisions []struct{ Device, Outcome, Reason string }
}

func (w *world) mailbox(b *box) (m mailbox) {
	w.t.Helper()
	if status := w.call(http.MethodGet, "/v1/mailboxes/"+b.address, nil, &m); status != http.StatusOK {
		w.t.Fatalf("GET /v1/mailboxes/%s: %d", b.address, status)
	}
	return m
}

// deliver delivers the next message, dealt round robin.
func (w *world) deliver() {
	w.t.Helper()
	w.deliverTo(w.boxes[w.ledger.count()%len(w.boxes)])
}

func (w *world) deliverTo(boxes ...*box) {
	w.t.Helper()
	for _, b := range boxes {
		subject := w.ledger.expect(b.devices)
		message := fmt.Sprintf("From: Travel desk <travel@fabrikam.example>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@fabrikam.example>\r\n\r\nHello.\r\n",
			b.address, subject, time.Now().Format(time.RFC1123Z), strings.ReplaceAll(subject, " ", "-"))
		if _, err := w.sim.Deliver(b.address, time.Time{}, []byte(message)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// underLoad delivers a message in every gap while deeds are done.
func (w *world) underLoad(gap time.Duration, deeds func()) {
	w.t.Helper()
	stopped := make(chan struct{})
	var delivery sync.WaitGroup
	delivery.Go(func() {
		for {
			select {
			case <-stopped:
				return
			default:
				w.deliver()
				pass(w.t, gap)
			}
		}
	})
	deeds()
	close(stopped)
	delivery.Wait()
}

// fault sets a fault of the simulator.
func (w *world) fault(name string, f simulator.Fault) {
	w.t.Helper()
	if err := w.sim.SetFault(name, f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) clear(name string) {
	w.t.Helper()
	if err := w.sim.ClearFault(name); err != nil {
		w.t.Fatal(err)
	}
}

// clearAll ends every fault.
func (w *world) clearAll() {
	w.t.Helper()
	for _, f := range w.sim.Faults() {
		w.clear(f.Name)
	}
}

// rung waits until every message has rung on every device that was to hear it.
func (w *world) rung(within time.Duration) {
	w.t.Helper()
	if lost := w.ledger.await(w.t.Context(), within); len(lost) > 0 {
		w.t.Fatalf("lost %d of %d: not rung within %v: %v", len(lost), w.ledger.count(), within, lost[:min(len(lost), 20)])
	}
}

// atRest waits until nothing is left to be done: every mailbox is heard and no device is behind. Whatever would ring again has
// rung by then.
func (w *world) atRest() {
	w.t.Helper()
	var page struct {
		Devices []struct{ ID, State, Reason string }
	}
	if !waitUntil(w.t.Context(), atLast, func() bool {
		page.Devices = nil
		w.call(http.MethodGet, "/v1/devices?limit=1000", nil, &page)
		page.Devices = slices.DeleteFunc(page.Devices, func(d struct{ ID, State, Reason string }) bool { return d.State == "listening" })
		return len(page.Devices) == 0
	}) {
		w.t.Fatalf("not at rest within %v: %+v", atLast, page.Devices)
	}
}

// balance is the end of most tests: nothing was lost, nothing rang twice, and repeats stay within their bound.
func (w *world) balance(maxResent int) {
	w.t.Helper()
	w.rung(atLast)
	w.atRest()
	s := w.ledger.sum()
	w.t.Logf("%d messages, %d alerts, %d resent", w.ledger.count(), s.alerts, s.resent)
	if len(s.duplicates) > 0 {
		w.t.Errorf("%d duplicates: %s", len(s.duplicates), strings.Join(s.duplicates[:min(len(s.duplicates), 20)], "\n"))
	}
	if len(s.strays) > 0 {
		w.t.Errorf("%d alerts that nobody waits for: %s", len(s.strays), strings.Join(s.strays[:min(len(s.strays), 20)], "\n"))
	}
	if s.resent > maxResent {
		w.t.Errorf("resent %d, want at most %d", s.resent, maxResent)
	}
}
