package main

import (
	"bytes"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/config"
)

const (
	// maxQueued is the most bytes of lines that wait for a reader of the log: some ten thousand lines.
	maxQueued = 4 << 20
	// maxTogether is the most bytes of lines that are written at once: the system takes hundreds for little more than the price of one, and
	// a log in a file grows by no more than this beyond its size.
	maxTogether = 64 << 10
	// lastLines is how long the end of the service waits for them.
	lastLines = time.Second
)

// logQueue writes lines apart from who logs them: whoever reads standard error may hang, and no mail is to wait for that. What has no room
// is lost, and counted. Its goroutine ends when nothing waits.
type logQueue struct {
	w    io.Writer
	lost func(lines int) // is called once lines are taken again

	mu      sync.Mutex
	waiting [][]byte // lines, each time as many as are written together
	size    int      // of these, and of those that are being written
	dropped int
	idle    chan struct{} // closed when nothing waits any more; nil: nothing does
}

// logger logs to the queue. What was lost is said past it, as it may be full again.
func (q *logQueue) logger(c config.Log) *zap.Logger {
	past := newLog(c, q.w)
	q.lost = func(lines int) {
		past.Warn("lines of the log were lost, for nobody took them", zap.Int("lines", lines))
	}
	return newLog(c, q)
}

// Write implements io.Writer, for whole lines.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size+len(line) > maxQueued {
		q.dropped++
		return len(line), nil
	}
	if last := len(q.waiting) - 1; last >= 0 && len(q.waiting[last])+len(line) <= maxTogether {
		q.waiting[last] = append(q.waiting[last], line...)
	} else {
		q.waiting = append(q.waiting, bytes.Clone(line))
	}
	q.size += len(line)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.run()
	}
	return len(line), nil
}

func (q *logQueue) run() {
	for {
		q.mu.Lock()
		waiting, dropped := q.waiting, q.dropped
		q.waiting, q.dropped = nil, 0
		if len(waiting) == 0 && dropped == 0 {
			close(q.idle)
			q.idle = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, lines := range waiting {
			_, _ = q.w.Write(lines) // there is nobody to tell
			q.mu.Lock()
			q.size -= len(lines)
			q.mu.Unlock()
		}
		if dropped > 0 {
			q.lost(dropped)
		}
	}
}

// Close waits until all is written, or nobody seems to read it.
func (q *logQueue) Close() {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(lastLines):
	}
}
