// Package sicktest is for tests of what has to be well again after a server was sick in whatever way: each is played with many servers, which
// do at random what servers do, by seeds that give the same again.
package sicktest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
)

// seeds is for more than a run of all tests has time for: go test ./graph -run AfterWhatever -seeds 1000.
var seeds = flag.Uint64("seeds", 0, "how many sick servers each test plays; 0: a few")

// Play plays so many sick servers, each in a bubble of its own (testing/synctest).
func Play(t *testing.T, few uint64, play func(t *testing.T, seed uint64, dice *Dice)) {
	t.Helper()
	if *seeds > 0 {
		few = *seeds
	}
	for seed := range few {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dice := &Dice{rand: rand.New(rand.NewPCG(seed, 1))}
				dice.sick = dice.Float64()
				play(t, seed, dice)
			})
		})
	}
}

// Dice may be thrown by several goroutines.
type Dice struct {
	mu   sync.Mutex
	rand *rand.Rand
	sick float64 // the share of what fails
}

// Sick says whether what is done now fails: nothing, everything or a part does, until Heal.
func (d *Dice) Sick() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64() < d.sick
}

// Heal has nothing fail any more.
func (d *Dice) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sick = 0
}

// Float64 is at least 0 and below 1.
func (d *Dice) Float64() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64()
}

// IntN is at least 0 and below n.
func (d *Dice) IntN(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.IntN(n)
}

// Uint64 is any number.
func (d *Dice) Uint64() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Uint64()
}

// Perm is the numbers below n in any order.
func (d *Dice) Perm(n int) []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Perm(n)
}
