package main_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// stroke is what is done to a service at work, and what may be sent again because of it.
type stroke struct {
	name   string
	strike func(t *testing.T, inst *installation)
	// repeats says that answers of APNs are lost: each alert then in flight may be sent again.
	repeats bool
}

func at(name string, f simulator.Fault) func(*testing.T, *installation) {
	return func(_ *testing.T, inst *installation) { inst.fault(name, f) }
}

// onStream strikes while a stream is open: there is nothing to cut without one, and what is dropped without one is dropped in
// silence, which is another test.
func onStream(strike func(t *testing.T, inst *installation)) func(*testing.T, *installation) {
	return func(t *testing.T, inst *installation) {
		t.Helper()
		eventually(t, max(atLast, inst.patience), "a stream is open", func() bool { return inst.sim.Counts().OpenStreams > 0 })
		strike(t, inst)
	}
}

// strokes are those that heal by themselves, each of them within seconds. A stream that is silent until mailbell gives it up
// after 90 s would hold up these tests: here it is cut while it is silent, which loses the same events.
var strokes = []stroke{
	{"stream_fin", onStream(at("stream_fin", simulator.Fault{})), false},
	{"stream_rst", onStream(at("stream_rst", simulator.Fault{})), false},
	{"stream_half", at("stream_half", simulator.Fault{Count: 1}), false},
	{"stream_silent, then cut", onStream(func(t *testing.T, inst *installation) {
		inst.fault("stream_silent", simulator.Fault{})
		inst.deliver()
		pass(t, 150*time.Millisecond)
		inst.fault("stream_rst", simulator.Fault{})
		inst.clear("stream_silent")
	}), false},
	{"stream_silent, then not", at("stream_silent", simulator.Fault{Seconds: 0.2}), false},
	{"stream_silent, and cut twice", onStream(func(t *testing.T, inst *installation) { // also the one that is opened in its place
		inst.fault("stream_silent", simulator.Fault{})
		inst.fault("stream_rst", simulator.Fault{})
		eventually(t, soon, "another stream is asked for", func() bool { return inst.sim.Counts().OpenStreams > 0 })
		inst.deliver()
		pass(t, 150*time.Millisecond)
		inst.fault("stream_rst", simulator.Fault{})
		inst.clear("stream_silent")
	}), false},
	{"events_dropped, then cut", onStream(func(_ *testing.T, inst *installation) {
		inst.fault("events_dropped", simulator.Fault{})
		inst.deliver()
		inst.clear("events_dropped")
		inst.fault("stream_fin", simulator.Fault{})
	}), false},
	{"events_doubled", at("events_doubled", simulator.Fault{Seconds: 0.2}), false},
	{"subscriptions_lost", at("subscriptions_lost", simulator.Fault{}), false},
	{"some subscriptions_lost", at("subscriptions_lost", simulator.Fault{Share: 0.4}), false},
	{"server_restart", at("server_restart", simulator.Fault{Seconds: 0.2}), false},
	{"exchange_answer", at("exchange_answer", simulator.Fault{Count: 2}), false},
	{"apns_cut", at("apns_cut", simulator.Fault{}), true},
	{"apns_cut of what was taken", at("apns_cut", simulator.Fault{Count: 2}), true},
	{"apns_goaway", at("apns_goaway", simulator.Fault{}), false},
	{"apns_goaway_close", at("apns_goaway_close", simulator.Fault{}), true},
	{"apns_dead", at("apns_dead", simulator.Fault{Seconds: 12}), false}, // nothing sent meanwhile is taken
	{"apns_streams", at("apns_streams", simulator.Fault{Limit: 1, Seconds: 0.5}), false},
	{"apns 503", at("apns_answer", simulator.Fault{Status: 503, Reason: "ServiceUnavailable", Count: 2}), false},
	{"events_reordered", at("events_reordered", simulator.Fault{Seconds: 0.2}), false},
	{"server_busy in a message", at("server_busy", simulator.Fault{Reason: "message", Seconds: 0.3}), false},
	{"server_busy by HTTP", at("server_busy", simulator.Fault{Reason: "http", Seconds: 0.3}), false},
	{"apns_stall", at("apns_stall", simulator.Fault{Seconds: 0.5}), false},
	{"apns_answer", at("apns_answer", simulator.Fault{Count: 3}), false}, // 500 InternalServerError
}

// Nothing lost, no second alert: whatever is cut, silenced, robbed or refused on the way.
func TestNothingIsLostWhen(t *testing.T) {
	t.Parallel()
	const messages, times = 80, 3
	for _, s := range strokes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 7})
			inst.startWithDevices()
			inst.balance(inst.struck(s, messages, times))
			inst.met()
		})
	}
}

// struck delivers messages while something is done to the service that many times, and returns how many alerts may be sent again.
func (inst *installation) struck(s stroke, messages, times int) (repeats int) {
	inst.t.Helper()
	for i := range messages {
		if i%(messages/times) == messages/times/2 {
			s.strike(inst.t, inst)
		}
		inst.deliver()
		pass(inst.t, 5*time.Millisecond)
	}
	if !s.repeats {
		return 0
	}
	return times * 2 * len(inst.boxes) // a message of every mailbox may be in flight at each cut; apns_cut with a count is two
}

// met fails where a fault that was to strike a number of times was never met: then nothing was tried.
func (inst *installation) met() {
	inst.t.Helper()
	for _, f := range inst.sim.Faults() {
		if f.Set != nil && f.Set.Count > 0 {
			inst.t.Errorf("%s was to strike %d times, and was met less often", f.Name, f.Set.Count)
		}
	}
}

// A stall of APNs that outlasts mailbell's patience with a connection, and with a message: the devices catch up.
func TestNothingIsLostWhenAPNsStallsForLong(t *testing.T) {
	t.Parallel()
	inst := install(t, simulator.Options{Mailboxes: 4})
	inst.startWithDevices()
	inst.deliver()
	inst.awaitAlerts(soon)
	inst.fault("apns_stall", simulator.Fault{Seconds: 12})
	for range 20 {
		inst.deliver()
		pass(t, 20*time.Millisecond)
	}
	inst.balance(0) // APNs took none of them before
}

// Everything at once, and kills: the one that finds what nobody thought of.
func TestNothingIsLostInAMixtureOfEverything(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) { mixture(t, func(*installation) {}) })
	t.Run("redis", func(t *testing.T) { mixture(t, func(inst *installation) { inst.inRedis() }) })
}

func mixture(t *testing.T, state func(inst *installation)) {
	t.Helper()
	t.Parallel()
	const rounds, round = 12, 20 // messages
	draw := dice(t)
	inst := install(t, simulator.Options{Mailboxes: 9})
	state(inst)
	inst.startWithDevices()
	cuts := 0
	kill := stroke{"a kill", func(_ *testing.T, inst *installation) { inst.kill(); inst.start() }, true}
	deck := append(slices.Clone(strokes), kill, kill, kill)
	draw.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	for _, s := range deck[:rounds] {
		t.Logf("after %d messages: %s", inst.ledger.count(), s.name)
		if s.repeats {
			cuts += 2
		}
		moment := draw.IntN(round)
		for i := range round {
			if i == moment {
				s.strike(t, inst)
			}
			inst.deliver()
			pass(t, gap(draw))
		}
	}
	inst.clearAll()
	inst.balance(cuts * len(inst.boxes))
}

// gap is a random time between two messages.
func gap(draw *rand.Rand) time.Duration {
	return time.Duration(draw.Int64N(int64(20 * time.Millisecond)))
}

// A front end that does not know yet what another has told of.
func TestAMessageThatIsNotFoundAtFirstRingsAPhone(t *testing.T) {
	t.Parallel()
	for name, install := range map[string]func(*testing.T, simulator.Options) *installation{"item_unreadable": install, "graph_item_unreadable": installGraph} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inst := install(t, simulator.Options{Mailboxes: 3})
			inst.startWithDevices()
			inst.fault(name, simulator.Fault{Reason: "ErrorItemNotFound", Count: 3})
			for range 3 {
				inst.deliver()
			}
			inst.awaitAlerts(soon)
			inst.balance(0)
		})
	}
}
