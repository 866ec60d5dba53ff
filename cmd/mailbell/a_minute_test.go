package main_test

// What mailbell does by itself after a minute. These tests do what they do before they call t.Parallel, and wait behind it: so the minute
// passes while other tests begin.

import (
	"testing"

	"github.com/mailbell/mailbell/simulator"
)

// A hint that was lost without a trace is found by the safety poll.
func TestNothingIsLostWhenEventsAreDroppedInSilence(t *testing.T) {
	inst := install(t, simulator.Options{Mailboxes: 3})
	inst.edit("  requests_per_second: 10000\n", "  requests_per_second: 10000\n  safety_poll: 1m\n")
	inst.startWithDevices()
	inst.fault("events_dropped", simulator.Fault{Count: len(inst.boxes)})
	inst.deliverTo(inst.boxes...)
	inst.clear("events_dropped")
	t.Parallel()
	inst.balance(0)
}

// What cannot be read, or would take all memory, harms only the mailbox that the answer is about, and is told of there. When the server is
// well again, what it held up is read again by itself.
func TestAHostileAnswerHarmsOnlyItsMailbox(t *testing.T) {
	inst := install(t, simulator.Options{Mailboxes: 7})
	inst.startWithDevices()
	answers := []string{"answer_garbage", "answer_huge", "answer_entities"}
	sick := inst.boxes[1:][:len(answers)] // on behalf of the first the stream of all is opened
	for i, name := range answers {
		inst.fault(name, simulator.Fault{Mailbox: sick[i].address})
	}
	complain := func(what string) {
		for i, name := range answers {
			if !waitUntil(t.Context(), soon/4, func() bool { return inst.complains(sick[i]) }) {
				t.Errorf("%s: %s, and the mailbox does not say why: %+v", name, what, inst.mailbox(sick[i]))
			}
		}
	}
	inst.deliverTo(inst.boxes...)
	inst.othersAreAlerted(sick...)
	complain("a message was not alerted")
	inst.fault("stream_rst", simulator.Fault{}) // and all are listed
	inst.othersAreAlerted(sick...)
	complain("the mailbox cannot be listed")
	if peak := peakMemory(t, inst.service()); peak > maxMemory {
		t.Errorf("%d MiB of memory at the peak, want at most %d", peak>>20, maxMemory>>20)
	}
	inst.clearAll()
	t.Parallel()
	inst.balance(0)
}
