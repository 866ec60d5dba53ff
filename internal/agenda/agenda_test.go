package agenda

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

type task struct {
	Entry
	name int
}

func TestItemsAreTakenInTheOrderOfTheirTimesHoweverTheseChange(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 1))
	began := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var a Agenda[*task]
	tasks := make([]*task, 200)
	due := map[int]time.Time{}
	for i := range tasks {
		tasks[i] = &task{name: i}
	}
	for range 2000 {
		i := dice.IntN(len(tasks))
		at := began.Add(time.Duration(dice.IntN(1000)) * time.Second)
		if dice.IntN(3) == 0 {
			at = time.Time{}
			delete(due, i)
		} else {
			due[i] = at
		}
		a.Put(tasks[i], at)
	}
	if all := slices.Collect(a.All()); len(all) != len(due) {
		t.Fatalf("%d are in it, want %d", len(all), len(due))
	}
	last := began
	for now := began; len(due) > 0; now = now.Add(10 * time.Second) {
		for item, ok := a.Take(now); ok; item, ok = a.Take(now) {
			at, known := due[item.name]
			if !known || at.After(now) || at.Before(last) {
				t.Fatalf("taken at %v: due at %v, %t, after one of %v", now, at, known, last)
			}
			last = at
			delete(due, item.name)
		}
		for _, at := range due {
			if !at.After(now) || a.Next().After(at) {
				t.Fatalf("left at %v: one of %v; the next is due at %v", now, at, a.Next())
			}
		}
	}
	if !a.Next().IsZero() {
		t.Errorf("one is left that is due at %v", a.Next())
	}
	a.Put(tasks[0], began) // once more
	if item, ok := a.Take(began); !ok || item != tasks[0] || !item.Due().Equal(began) {
		t.Error("what was taken is not due again")
	}
	a.Put(tasks[0], time.Time{})
	if !tasks[0].Due().IsZero() {
		t.Error("what is never due has a time")
	}
}
