package inbox

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestGoroutinesAreUsedAgainAndEndWithTheCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		for range 3 {
			end := make(chan struct{})
			var begun atomic.Int64
			for range 2 * keptTasks {
				c.run(func() {
					begun.Add(1)
					<-end
				})
			}
			synctest.Wait()
			if begun.Load() != 2*keptTasks {
				t.Errorf("%d of %d tasks were begun at once", begun.Load(), 2*keptTasks)
			}
			close(end)
			synctest.Wait()
			if len(c.free) != keptTasks {
				t.Errorf("%d goroutines are kept, want %d", len(c.free), keptTasks)
			}
		}
		last := false
		c.run(func() { c.run(func() { last = true }) })
		c.end() // synctest fails where a goroutine is left
		if !last {
			t.Error("a task that another began was not waited for")
		}
	})
}

func BenchmarkTasks(b *testing.B) {
	c := newCrew()
	for b.Loop() {
		done := make(chan struct{})
		c.run(func() { close(done) })
		<-done
	}
	c.end()
}
