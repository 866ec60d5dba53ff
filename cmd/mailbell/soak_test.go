package main_test

// Everything that can go wrong, at once and for long: make soak. The short form runs with the other tests.

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

var (
	soakFor       = flag.Duration("soak", 0, "how long TestSoak goes on; 0: its short form")
	soakMailboxes = flag.Int("mailboxes", 60, "of TestSoak")
	soakRate      = flag.Int("rate", 40, "messages a second of TestSoak")
)

const (
	soakServers = 3
	// shortSoak and longSoak are how long faults go on until account is taken.
	shortSoak = 12 * time.Second
	longSoak  = 3 * time.Minute
	// quiet is how long after a fault of Redis mailbell is not killed: what was sent and is not written yet is known to nobody then (rule 13).
	quiet = 5 * time.Second
	// working is how long mailbell goes on after a Redis has forgotten everything, the lease with it: it waits as long as the lease could have
	// been believed, and is to be at work again before that happens once more.
	working = 30 * time.Second
)

// TestSoak has faults of every kind at once, in rounds. In every second one, of which the short form has one, the process is killed and
// paused too; the others, in which it lives, show that it does not grow. After each: nothing is lost, nothing was alerted twice, all are
// listened to again. A third of the mailboxes is at Exchange Online and listened to by Graph, at first: they move both ways.
func TestSoak(t *testing.T) {
	t.Parallel()
	draw := dice(t)
	inst := installGraph(t, simulator.Options{
		Mailboxes: *soakMailboxes, Servers: soakServers, Hosts: []string{simulator.OnPremises, simulator.OnPremises, simulator.Online}})
	inst.patience = max(soon, time.Duration(*soakMailboxes)*40*time.Millisecond)
	if *soakFor > 0 {
		inst.patience = 10 * time.Minute // the longest back-off of what can pass is five
	}
	redis := inst.inRedis()
	inst.startWithDevices()
	round, rounds := shortSoak, 1
	if *soakFor > 0 {
		round, rounds = longSoak, max(2, int(*soakFor/longSoak))
	}
	for n := range rounds {
		s := &soak{installation: inst, redis: redis, ends: time.Now().Add(round)}
		kills := n%2 == 0
		before := inst.footprint()
		began := time.Now()
		s.together(draw, kills)
		inst.clearAll()
		if *soakFor == 0 {
			inst.restart() // ends every back-off, which may be minutes
		} else {
			inst.fault("stream_fin", simulator.Fault{}) // events that were dropped in silence wait for a listing, which may be half an hour
		}
		inst.balance(s.repeats)
		inst.awaitListening()
		after := inst.footprint()
		t.Logf("round %d of %d, kills %t: %v with faults, level again after %v; %v, before %v", n+1, rounds, kills,
			round, time.Since(began.Add(round)).Round(time.Second), after, before)
		// A goroutine or two a mailbox may be at work; connections to Exchange are kept for a while.
		if most := before.goroutines + before.goroutines/2 + 100; !kills && after.goroutines > most {
			t.Errorf("%d goroutines, want %d at most", after.goroutines, most)
		}
		if most := before.memory*3/2 + 64; !kills && after.memory > most {
			t.Errorf("%d MiB, want %d at most", after.memory, most)
		}
		if inst.logged("has a stream of its own") {
			t.Error("the server was taken for one that allows one mailbox on a stream")
		}
		inst.ledger.settle()
	}
}

// soak is a round under way.
type soak struct {
	*installation
	redis   *redisServer
	ends    time.Time
	repeats int // alerts that may be sent again
}

// together has mail delivered, and everything go wrong, until the round ends. Each goroutine draws by a seed of its own, so that the
// printed one gives the same faults again.
func (s *soak) together(draw *rand.Rand, kills bool) {
	s.t.Helper()
	var all sync.WaitGroup
	begin := func(what func(draw *rand.Rand)) {
		own := rand.New(rand.NewPCG(draw.Uint64(), draw.Uint64()))
		all.Go(func() { what(own) })
	}
	begin(s.deliverAll)
	begin(s.breakExchange)
	repeats := make(chan int, 1)
	begin(func(draw *rand.Rand) { repeats <- s.breakAPNs(draw) })
	begin(s.moveMailboxes)
	killed := 0
	if kills {
		killed = s.breakProcesses(draw)
	} else {
		s.breakRedis(draw)
	}
	all.Wait()
	// At each cut and kill a message of every mailbox may be in flight; no more can be than came in two seconds.
	s.repeats = (<-repeats + killed) * 2 * min(len(s.boxes), 2**soakRate)
}

// wait lets a random time pass, unless the round ends before that.
func (s *soak) wait(draw *rand.Rand, most time.Duration) bool {
	d := time.Duration(draw.Int64N(int64(most)))
	if time.Now().Add(d).After(s.ends) {
		return false
	}
	pass(s.t, d)
	return s.t.Context().Err() == nil
}

// deliverAll delivers to mailboxes at random: to one, or now and then several at once.
func (s *soak) deliverAll(draw *rand.Rand) {
	for s.wait(draw, 2*time.Second/time.Duration(*soakRate)) {
		for range 1 + draw.IntN(50)/49*9 {
			s.deliverTo(s.boxes[draw.IntN(len(s.boxes))])
		}
	}
}

// breakExchange does to Exchange what heals by itself.
func (s *soak) breakExchange(draw *rand.Rand) {
	var deck []stroke
	for _, one := range strokes {
		if !strings.HasPrefix(one.name, "apns") && one.name != "stream_silent, and cut twice" { // that one needs to be alone
			deck = append(deck, one)
		}
	}
	for _, one := range graphStrokes {
		if !one.repeats {
			deck = append(deck, one)
		}
	}
	if *soakFor > 0 { // who meets them waits for minutes
		deck = append(deck, stroke{"mailbox_move", at("mailbox_move", simulator.Fault{Seconds: 3}), false})
	}
	for name, f := range map[string]simulator.Fault{
		"connections_full": {Seconds: 1},
		"events_dropped":   {Share: 0.1, Seconds: 2},
		"item_unreadable":  {Count: 2},
		"answer_garbage":   {Count: 2},
	} {
		deck = append(deck, stroke{name, at(name, f), false})
	}
	for s.wait(draw, 3*time.Second) {
		one := deck[draw.IntN(len(deck))]
		one.strike(s.t, s.installation)
	}
}

// breakAPNs cuts, stalls and has refused, and returns how often answers may have been lost.
func (s *soak) breakAPNs(draw *rand.Rand) (cuts int) {
	var deck []stroke
	for _, one := range strokes {
		if strings.HasPrefix(one.name, "apns") {
			deck = append(deck, one)
		}
	}
	for s.wait(draw, 3*time.Second) {
		one := deck[draw.IntN(len(deck))]
		if one.repeats {
			cuts += 2
		}
		one.strike(s.t, s.installation)
	}
	return cuts
}

// moveMailboxes moves mailboxes among the servers and between EWS and Graph, and has one hang at a time.
func (s *soak) moveMailboxes(draw *rand.Rand) {
	for s.wait(draw, time.Second) {
		b := s.boxes[draw.IntN(len(s.boxes))]
		at, err := s.sim.Mailbox(b.address)
		switch {
		case err != nil:
		case at.Host == simulator.Online:
			err = s.sim.Move(b.address, simulator.OnPremises)
		case draw.IntN(3) == 0:
			err = s.sim.Move(b.address, simulator.Online)
		default:
			err = s.sim.MoveServer(b.address, fmt.Sprintf("EXCH%02d", 1+draw.IntN(soakServers)))
		}
		if err != nil {
			s.t.Error(err)
		}
		s.fault("exchange_delay", simulator.Fault{Mailbox: s.boxes[draw.IntN(len(s.boxes))].address, Seconds: 20})
		s.wait(draw, 2*time.Second)
		s.clear("exchange_delay")
	}
}

// breakProcesses kills and pauses mailbell, and kills Redis, each by itself.
func (s *soak) breakProcesses(draw *rand.Rand) (kills int) {
	for s.wait(draw, 5*time.Second) {
		switch draw.IntN(4) {
		case 0:
			s.killRedis(draw)
		case 1: // longer and shorter than the lease
			from := time.Now()
			if err := s.service().cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				s.t.Error(err)
			}
			pass(s.t, time.Second+time.Duration(draw.Int64N(int64(11*time.Second))))
			if err := s.service().cmd.Process.Signal(syscall.SIGCONT); err != nil {
				s.t.Error(err)
			}
			kills++
			// The lease may be lost, and the answers to what was in flight with it (rule 13), until a moment after it goes on.
			s.ledger.killed(from, time.Now().Add(time.Second))
		default:
			kills++
			s.kill()
			s.start()
		}
	}
	return kills
}

// breakRedis kills Redis, and has it lose everything.
func (s *soak) breakRedis(draw *rand.Rand) {
	for s.wait(draw, 5*time.Second) {
		if draw.IntN(2) == 0 {
			s.killRedis(draw)
			continue
		}
		s.redis.flush()
		pass(s.t, working)
	}
}

func (s *soak) killRedis(draw *rand.Rand) {
	s.redis.kill()
	pass(s.t, time.Duration(draw.Int64N(int64(2*time.Second))))
	s.redis.start()
	pass(s.t, quiet)
}

// flush has a Redis forget everything.
func (r *redisServer) flush() {
	r.t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer c.Close()
	fmt.Fprint(c, "FLUSHALL\r\n")
	answer := make([]byte, 5)
	if _, err := c.Read(answer); err != nil || string(answer) != "+OK\r\n" {
		r.t.Errorf("FLUSHALL: %q, %v", answer, err)
	}
}

// footprint is what the service takes of the machine.
type footprint struct {
	goroutines int
	memory     int // MiB, resident
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d MiB", f.goroutines, f.memory)
}

// logged says whether any of the processes has logged this.
func (inst *installation) logged(text string) bool {
	return slices.ContainsFunc(inst.runs, func(p *process) bool { return strings.Contains(p.stderr(), text) })
}

var figure = regexp.MustCompile(`(?m)^(go_goroutines|process_resident_memory_bytes) (\S+)$`)

func (inst *installation) footprint() (f footprint) {
	inst.t.Helper()
	_, text := inst.raw(http.MethodGet, "/metrics", inst.token, nil)
	for _, m := range figure.FindAllStringSubmatch(string(text), -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			inst.t.Fatal(err)
		}
		if m[1] == "go_goroutines" {
			f.goroutines = int(v)
		} else {
			f.memory = int(v) >> 20
		}
	}
	return f
}
