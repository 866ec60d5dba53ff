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
	strike func(t *testing.T, w *world)
	// repeats says that answers of APNs are lost: each bell then in flight may be sent again.
	repeats bool
}

func at(name string, f simulator.Fault) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.fault(name, f) }
}

// onStream strikes while a stream is open: there is nothing to cut without one, and what is dropped without one is dropped in
// silence, which is another test.
func onStream(strike func(t *testing.T, w *world)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		eventually(t, atLast, "a stream is open", func() bool { return w.sim.Counts().OpenStreams > 0 })
		strike(t, w)
	}
}

// strokes are those that heal by themselves, each of them within seconds. A stream that is silent until mailbell gives it up
// after 90 s would hold up these tests: here it is cut while it is silent, which loses the same events.
var strokes = []stroke{
	{"stream_fin", onStream(at("stream_fin", simulator.Fault{})), false},
	{"stream_rst", onStream(at("stream_rst", simulator.Fault{})), false},
	{"stream_half", at("stream_half", simulator.Fault{Count: 1}), false},
	{"stream_silent, then cut", onStream(func(t *testing.T, w *world) {
		w.fault("stream_silent", simulator.Fault{})
		w.deliver()
		pass(t, 150*time.Millisecond)
		w.fault("stream_rst", simulator.Fault{})
		w.clear("stream_silent")
	}), false},
	{"stream_silent, then not", at("stream_silent", simulator.Fault{Seconds: 0.2}), false},
	{"stream_silent, and cut twice", onStream(func(t *testing.T, w *world) { // also the one that is opened in its place
		w.fault("stream_silent", simulator.Fault{})
		w.fault("stream_rst", simulator.Fault{})
		eventually(t, soon, "another stream is asked for", func() bool { return w.sim.Counts().OpenStreams > 0 })
		w.deliver()
		pass(t, 150*time.Millisecond)
		w.fault("stream_rst", simulator.Fault{})
		w.clear("stream_silent")
	}), false},
	{"events_dropped, then cut", onStream(func(_ *testing.T, w *world) {
		w.fault("events_dropped", simulator.Fault{})
		w.deliver()
		w.clear("events_dropped")
		w.fault("stream_fin", simulator.Fault{})
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

// Nothing lost, no second bell: whatever is cut, silenced, robbed or refused on the way.
func TestNothingIsLostWhen(t *testing.T) {
	t.Parallel()
	const messages, times = 80, 3
	for _, s := range strokes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 7)
			w.begin()
			for i := range messages {
				if i%(messages/times) == messages/times/2 {
					s.strike(t, w)
				}
				w.deliver()
				pass(t, 5*time.Millisecond)
			}
			bound := 0
			if s.repeats {
				bound = times * 2 * len(w.boxes) // a message of every mailbox may be in flight at each cut; apns_cut with a count is two
			}
			w.balance(bound)
		})
	}
}

// A stall of APNs that outlasts mailbell's patience with a connection, and with a message: the devices catch up.
func TestNothingIsLostWhenAPNsStallsForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	w.begin()
	w.deliver()
	w.rung(soon)
	w.fault("apns_stall", simulator.Fault{Seconds: 12})
	for range 20 {
		w.deliver()
		pass(t, 20*time.Millisecond)
	}
	w.balance(0) // APNs took none of them before
}

// A hint that was lost without a trace is found by the safety poll.
func TestNothingIsLostWhenEventsAreDroppedInSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.edit("  requests_per_second: 10000\n", "  requests_per_second: 10000\n  safety_poll: 1m\n")
	w.begin()
	w.fault("events_dropped", simulator.Fault{Count: len(w.boxes)})
	w.deliverTo(w.boxes...)
	w.clear("events_dropped")
	w.balance(0)
}

// Everything at once, and kills: the one that finds what nobody thought of.
func TestNothingIsLostInAMixtureOfEverything(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) { mixture(t, func(*world) {}) })
	t.Run("redis", func(t *testing.T) { mixture(t, func(w *world) { w.inRedis() }) })
}

func mixture(t *testing.T, state func(w *world)) {
	t.Helper()
	t.Parallel()
	const rounds, round = 12, 20 // messages
	draw := dice(t)
	w := newWorld(t, 9)
	state(w)
	w.begin()
	cuts := 0
	kill := stroke{"a kill", func(_ *testing.T, w *world) { w.kill(); w.start() }, true}
	deck := append(slices.Clone(strokes), kill, kill, kill)
	draw.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	for _, s := range deck[:rounds] {
		t.Logf("after %d messages: %s", w.ledger.count(), s.name)
		if s.repeats {
			cuts += 2
		}
		moment := draw.IntN(round)
		for i := range round {
			if i == moment {
				s.strike(t, w)
			}
			w.deliver()
			pass(t, gap(draw))
		}
	}
	w.clearAll()
	w.balance(cuts * len(w.boxes))
}

// gap is a random time between two messages.
func gap(draw *rand.Rand) time.Duration {
	return time.Duration(draw.Int64N(int64(20 * time.Millisecond)))
}
