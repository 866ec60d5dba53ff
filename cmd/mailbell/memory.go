package main

// What memory the process keeps while there is little to do.

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryLook is how often the memory is looked at: a burst of mail is over when next to nothing was allocated since. Bursts come in waves,
	// and the next one is not to fetch again what was just given back.
	memoryLook = 10 * time.Second
	// quietLooks is after how many looks without mail a burst is over: by then the connections that it opened are closed, too (proxy.Settings).
	quietLooks = 2
	// littleToDo is what is allocated meanwhile at the most: as for thirty messages a second.
	littleToDo = 4 << 20
	// worthwhile is the memory without use that is given back: to collect and return less would cost more than it saves.
	worthwhile = 16 << 20
	// heap is what may be in use together with its garbage before that is collected: as much as 15,000 mailboxes with the messages of a whole
	// day come to with the least garbage. With fewer a burst of mail costs a tenth less; 4 MiB more would save 3 percent more, and 15,000
	// mailboxes would take 10 MiB more in a burst.
	heap = 96 << 20
	// mostGarbage is the runtime's own, in percent of what is in use. leastGarbage is less: the mailboxes are in use for weeks, and a burst of
	// mail lasts seconds.
	mostGarbage, leastGarbage = 100, 37
)

// memory is what the process has, in bytes.
type memory struct {
	allocated uint64 // ever
	live      uint64 // in use when garbage was collected last
	spare     uint64 // without use, of what is held from the system: garbage and free space
}

// collectAt is how much garbage there may be, in percent of what is in use (GOGC).
func (m memory) collectAt() int {
	live := max(m.live, 1)
	return int(min(max(100*(max(heap, live)-live)/live, leastGarbage), mostGarbage))
}

// collector tells the runtime how much garbage there may be, unless the administrator has.
func collector() (collectAt func(percent int)) {
	if os.Getenv("GOGC") != "" {
		return func(int) {}
	}
	return func(percent int) { debug.SetGCPercent(percent) }
}

// tendMemory has garbage collected the sooner the more is in use, and returns to the system what a burst of mail took once it is over, until
// ctx ends. The Go runtime would keep as much again as is in use, and in quiet times grow into it for minutes before it looks for garbage.
func tendMemory(ctx context.Context, look func() memory, collectAt func(percent int), free func()) {
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	before, quiet := look(), 0
	least := before.spare // what cannot be given back: free space between what is in use
	for {
		collectAt(before.collectAt())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := look()
		quiet++
		if now.allocated-before.allocated >= littleToDo {
			quiet = 0
		}
		if quiet >= quietLooks && now.spare > least+worthwhile {
			free()
			now = look()
			least = now.spare
		}
		least = min(least, now.spare)
		before = now
	}
}

// freeMemory returns to the system what nobody uses. What a pool keeps is given up by the second of two collections (sync.Pool).
func freeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}

// lookAtMemory asks the runtime.
func lookAtMemory() memory {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	v := func(i int) uint64 { return s[i].Value.Uint64() }
	held := v(2) + v(3) + v(4)
	return memory{allocated: v(0), live: v(1), spare: held - min(held, v(1))}
}
