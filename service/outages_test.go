package service

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// standings is how mailboxes stand, for outages.
type standings struct {
	*outages
	now    time.Time
	states map[string]subscriptions.State
}

func newStandings() *standings {
	return &standings{newOutages(), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), map[string]subscriptions.State{}}
}

// faulty are those with an error: all that are neither listened to nor looked up.
func (w *standings) faulty() iter.Seq2[string, subscriptions.Standing] {
	return func(yield func(string, subscriptions.Standing) bool) {
		for _, address := range slices.Sorted(maps.Keys(w.states)) {
			s := w.states[address]
			if s != subscriptions.Listening && s != subscriptions.Resolving && !yield(address, subscriptions.Standing{State: s}) {
				return
			}
		}
	}
}

// pass lets time pass, and returns what is told in it.
func (w *standings) pass(d time.Duration) (told []string) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(compareEvery)
		for _, c := range w.compare(w.now, w.faulty(), func(address string) (subscriptions.Standing, bool) {
			s, ok := w.states[address]
			return subscriptions.Standing{State: s}, ok
		}) {
			told = append(told, fmt.Sprintf("%s %s since %s", c.Address, c.State, c.Since.Format("15:04:05")))
		}
	}
	return told
}

func (w *standings) is(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("at %s: told %q, want %q", w.now.Format("15:04:05"), got, want)
	}
}

func TestAnOutageIsToldOnceWhenItHasLastedAndSoIsItsEnd(t *testing.T) {
	w := newStandings()
	w.states["ann"], w.states["bob"] = subscriptions.Failing, subscriptions.Listening
	w.is(t, w.pass(lasting))
	w.is(t, w.pass(compareEvery), "ann failing since 12:00:10")
	w.is(t, w.pass(10*time.Hour))
	w.states["ann"] = subscriptions.Resolving
	w.is(t, w.pass(time.Hour))
	w.states["ann"] = subscriptions.Listening
	w.is(t, w.pass(lasting))
	w.is(t, w.pass(compareEvery), "ann listening since 23:03:20")
	w.is(t, w.pass(time.Hour))
	if len(w.known) != 0 {
		t.Errorf("mailboxes that are well are remembered: %d", len(w.known))
	}
}

func TestABlipIsNotTold(t *testing.T) {
	w := newStandings()
	for range 20 {
		w.states["ann"] = subscriptions.Failing
		w.is(t, w.pass(lasting-compareEvery))
		w.states["ann"] = subscriptions.Listening
		w.is(t, w.pass(compareEvery))
	}
	w.states["ann"] = subscriptions.OutOfScope
	w.is(t, w.pass(lasting+compareEvery), "ann out_of_scope since 13:00:10")
	for range 20 { // nor is one within an outage
		w.states["ann"] = subscriptions.Listening
		w.is(t, w.pass(lasting-compareEvery))
		w.states["ann"] = subscriptions.OutOfScope
		w.is(t, w.pass(compareEvery))
	}
}

func TestAnotherKindOfOutageIsTold(t *testing.T) {
	w := newStandings()
	w.states["ann"] = subscriptions.WaitingForCapacity
	w.is(t, w.pass(2*lasting), "ann waiting_for_capacity since 12:00:10")
	w.states["ann"] = subscriptions.Failing
	w.is(t, w.pass(2*lasting), "ann failing since 12:06:10")
	w.states["ann"] = subscriptions.Polling // alerts come, if late
	w.is(t, w.pass(2*lasting), "ann polling since 12:12:10")
	w.states["ann"] = subscriptions.Failing
	w.is(t, w.pass(2*lasting), "ann failing since 12:18:10")
}

func TestAMailboxThatWasRemovedIsForgotten(t *testing.T) {
	w := newStandings()
	w.states["ann"] = subscriptions.Failing
	w.is(t, w.pass(2*lasting), "ann failing since 12:00:10")
	delete(w.states, "ann")
	w.is(t, w.pass(time.Hour))
	if len(w.known) != 0 {
		t.Error("it is remembered")
	}
}

func TestSinceWhenAMailboxFailsIsKnown(t *testing.T) {
	w := newStandings()
	w.states["ann"] = subscriptions.Failing
	w.pass(time.Minute)
	if got := w.since("ann", subscriptions.Failing).Format("15:04:05"); got != "12:00:10" {
		t.Errorf("since %s", got)
	}
	if !w.since("ann", subscriptions.Polling).IsZero() || !w.since("bob", subscriptions.Failing).IsZero() {
		t.Error("what was not seen has a time")
	}
}
