package main_test

// One instance sends (rule 13): whatever is done to the one that does, another follows, and no device gets an alert twice but for what
// was on its way.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/tcptest"
	"github.com/mailbell/mailbell/simulator"
)

const (
	// burst messages are delivered at once, and take about five seconds at the pace of the APNs of these tests.
	burst = 400
	// atATime is how many requests that APNs answers at a time, each after a tenth of a second.
	atATime = 8
	// unwritten is how long after its acceptance an alert may not be written down yet: half a second by the rules, and a few times as
	// much for a machine that has other things to do.
	unwritten = 2 * time.Second
	// takeover bounds the time until another instance follows one that says nothing: its lease, and a look.
	takeover = 15 * time.Second
)

// twoInstances is two instances on one state: the first sends, the second stands by.
type twoInstances struct {
	*installation
	second    *process
	secondURL string
}

// inPair starts two instances. The first reaches Redis by its own address, the second directly.
func (inst *installation) inPair(redis *redisServer, first string) *twoInstances {
	inst.t.Helper()
	direct := "127.0.0.1:" + redis.port
	inst.edit(direct, first)
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts(soon)
	inst.edit(first, direct)
	listen := tcptest.Quiet(inst.t)
	inst.edit("listen: "+strings.TrimPrefix(inst.url, "http://"), "listen: "+listen)
	p := &twoInstances{installation: inst, second: launch(inst.t, "run", "--config", inst.config), secondURL: "http://" + listen}
	eventually(inst.t, soon, "the second says behind whom it stands", func() bool {
		status, text := inst.readiness(p.secondURL)
		return status == http.StatusServiceUnavailable && strings.Contains(text, fmt.Sprint("process ", inst.service().cmd.Process.Pid))
	})
	return p
}

// slowly has APNs take its time for a burst, so that there is something to send for seconds.
func (inst *installation) slowly() {
	inst.t.Helper()
	inst.fault("apns_streams", simulator.Fault{Limit: atATime})
	inst.fault("apns_delay", simulator.Fault{Seconds: 0.1})
	sent := len(inst.sim.Alerts(0))
	for range burst {
		inst.deliver()
	}
	eventually(inst.t, soon, "the burst is being sent", func() bool { return len(inst.sim.Alerts(0)) > sent+burst/10 })
}

// follow waits until the second has taken over, and makes it the one that is asked.
func (p *twoInstances) follow() {
	p.t.Helper()
	eventually(p.t, takeover+soon, "the second has taken over", func() bool {
		status, _ := p.readiness(p.secondURL)
		return status == http.StatusOK
	})
	p.runs, p.url = append(p.runs, p.second), p.secondURL
}

// repeats looks at what was accepted twice. Each has the same ids, and its first acceptance was within a span: what was on its way when
// something was done to the first instance.
func (inst *installation) repeats(from, to time.Time) (n int) {
	inst.t.Helper()
	first := map[alert]simulator.Alert{}
	for _, a := range inst.sim.Alerts(0) {
		p, err := read(a)
		if err != nil || !a.Accepted() {
			continue
		}
		key := alert{p.APS.Alert.Body, p.Mailbell.D}
		f, again := first[key]
		if !again {
			first[key] = a
			continue
		}
		n++
		if a.Headers["apns-id"] != f.Headers["apns-id"] || a.Headers["apns-collapse-id"] != f.Headers["apns-collapse-id"] {
			inst.t.Errorf("%v was sent again with other ids: %v, %v", key, f.Headers, a.Headers)
		}
		if f.At.Before(from) || f.At.After(to) {
			inst.t.Errorf("%v was sent at %s and again at %s; it was not on its way between %s and %s", key, f.At.Format(time.StampMilli),
				a.At.Format(time.StampMilli), from.Format(time.StampMilli), to.Format(time.StampMilli))
		}
	}
	return n
}

func TestAnInstanceThatWasPausedSendsNothingThatAnotherHasSent(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 20})
	redis := inst.inRedis()
	way := startRelay(t, "127.0.0.1:"+redis.port)
	p := inst.inPair(redis, way.address)
	first := inst.service()
	inst.slowly()

	way.hold() // it is not told that it was followed as soon as it goes on
	if err := first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	paused := time.Now()
	t.Cleanup(func() { _ = first.cmd.Process.Signal(syscall.SIGCONT) })
	p.follow()
	pass(t, time.Until(paused.Add(21*time.Second)))
	if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	pass(t, 5*time.Second)
	way.letGo()
	eventually(t, soon, "the first stands by", func() bool { return strings.Contains(first.stderr(), "another instance has taken the state over") })
	inst.awaitAlerts(atLast)
	inst.awaitRest()
	n := inst.repeats(paused.Add(-unwritten), paused.Add(unwritten))
	t.Logf("%d of %d alerts are repeats", n, inst.ledger.count())
}

// relay passes bytes on to an address, until it is held: then nothing comes through, in either direction, and nobody is told.
type relay struct {
	address string

	mu   sync.Mutex
	free chan struct{} // closed: bytes come through
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	l := tcptest.Listen(t)
	r := &relay{address: l.Addr().String(), free: make(chan struct{})}
	close(r.free)
	tcptest.Serve(t, l, func(c net.Conn) {
		up, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
		if err != nil {
			return
		}
		defer up.Close()
		go r.pass(t, up, c)
		r.pass(t, c, up)
	})
	return r
}

func (r *relay) pass(t *testing.T, to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		r.mu.Lock()
		free := r.free
		r.mu.Unlock()
		select {
		case <-free:
		case <-t.Context().Done():
			return
		}
		if _, wrong := to.Write(buffer[:n]); err != nil || wrong != nil {
			return
		}
	}
}

func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = make(chan struct{})
}

func (r *relay) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.free)
}

// Cut off from Redis only, it reaches APNs still: what it sends and cannot write down, the other sends again.
func TestAnInstanceThatIsCutOffFromRedisSendsNothingThatItCannotWriteDown(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 20})
	redis := inst.inRedis()
	way := startRelay(t, "127.0.0.1:"+redis.port)
	p := inst.inPair(redis, way.address)
	first := inst.service()
	inst.slowly()

	way.hold()
	cut := time.Now()
	p.follow()
	way.letGo()
	eventually(t, soon, "the first stands by", func() bool { return strings.Contains(first.stderr(), "another instance has taken the state over") })
	inst.awaitAlerts(atLast)
	inst.awaitRest()
	// A renewal is asked for within a second, and waits for one; what was sent before that is answered.
	n := inst.repeats(cut.Add(-unwritten), cut.Add(2*time.Second+unwritten))
	t.Logf("%d of %d alerts are repeats", n, inst.ledger.count())
}

// A Redis that fails over or is tampered with may lose the lease while its holder sends.
func TestALeaseThatRedisLosesIsNotTakenByAnother(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 10})
	redis := inst.inRedis()
	p := inst.inPair(redis, "127.0.0.1:"+redis.port)
	inst.underLoad(20*time.Millisecond, func() {
		for range 10 {
			redis.tell("DEL mailbell:lock mailbell:until")
			pass(t, 500*time.Millisecond)
		}
	})
	if status, text := inst.readiness(p.secondURL); status != http.StatusServiceUnavailable {
		t.Errorf("the second is ready: %d %s", status, text)
	}
	inst.balance(0)
	if log := inst.service().stderr(); strings.Contains(log, "another instance has taken the state over") {
		t.Error("the first was followed")
	}
}

// A stop gives the lease back: nobody waits for its end.
func TestAStandbyTakesOverAtOnceFromAnInstanceThatIsStopped(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 5})
	redis := inst.inRedis()
	p := inst.inPair(redis, "127.0.0.1:"+redis.port)
	inst.underLoad(20*time.Millisecond, func() {
		pass(t, 300*time.Millisecond)
		inst.stop()
		stopped := time.Now()
		p.follow()
		if took := time.Since(stopped); took > 8*time.Second { // a lease that ran out would take ten
			t.Errorf("it took over after %v", took)
		}
	})
	inst.balance(0)
}

// tell gives Redis a command.
func (r *redisServer) tell(command string) {
	r.t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, command+"\r\n")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
}
