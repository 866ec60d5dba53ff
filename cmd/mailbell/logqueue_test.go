package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mailbell/mailbell/config"
)

// hanging is a reader of the log that takes nothing until it is let go.
type hanging struct {
	bytes.Buffer
	free   chan struct{}
	writes int
}

func (h *hanging) Write(lines []byte) (int, error) {
	<-h.free
	h.writes++
	return h.Buffer.Write(lines)
}

func TestNobodyWaitsForAReaderOfTheLogThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &hanging{free: make(chan struct{})}
		lost := 0
		q := &logQueue{w: w, lost: func(lines int) { lost += lines }}
		var want strings.Builder
		log := func(line string) {
			t.Helper()
			if n, err := q.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
		}
		first := strings.Repeat("x", maxQueued/2) + "\n"
		log(first)
		synctest.Wait() // it is being written
		want.WriteString(first)
		const lines, room = 5000, maxQueued/2 - 1
		for i := range lines {
			line := fmt.Sprintf("%01000d\n", i)
			log(line)
			if i < room/len(line) {
				want.WriteString(line)
			}
		}
		q.Close() // waits no longer than it may
		close(w.free)
		q.Close()
		if got := w.String(); got != want.String() {
			t.Errorf("%d bytes were written, want %d", len(got), want.Len())
		}
		if wanted := lines - room/1001; lost != wanted {
			t.Errorf("%d lines were lost, want %d", lost, wanted)
		}
		if most := 2 + room/(maxTogether-1001); w.writes > most {
			t.Errorf("%d writes for what waited, want at most %d", w.writes, most)
		}
		log("again\n")
		q.Close()
		if !strings.HasSuffix(w.String(), "\nagain\n") {
			t.Error("nothing is written any more")
		}
	})
}

// flooded is a reader of the log while more is logged than he takes.
type flooded struct {
	bytes.Buffer
	log func()
}

func (f *flooded) Write(line []byte) (int, error) {
	f.log()
	return f.Buffer.Write(line)
}

func TestLinesThatAreLostAreCountedAlsoWhileThereIsNoRoomAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &flooded{}
		q := &logQueue{w: w}
		logged := 0
		log := func(line string) {
			_, _ = q.Write([]byte(line))
			logged++
		}
		floods := 10
		w.log = func() {
			if floods == 0 {
				return
			}
			floods--
			log(strings.Repeat("x", max(maxQueued-q.size-10, 0)) + "\n")
			for range 10 {
				log("x\n") // of which some have room, and then nothing else has
			}
		}
		q.logger(config.Log{Level: "info"})
		log("the first\n")
		q.Close()
		written, told := 0, 0
		for line := range strings.Lines(w.String()) {
			if line[0] != '{' {
				written++
				continue
			}
			var said struct{ Lines int }
			if err := json.Unmarshal([]byte(line), &said); err != nil {
				t.Fatal(err)
			}
			told += said.Lines
		}
		if told == 0 || written+told != logged {
			t.Errorf("of %d lines %d were written, and %d are said to be lost", logged, written, told)
		}
	})
}
