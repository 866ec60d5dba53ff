package buffers

import (
	"bytes"
	"testing"
)

func TestABufferIsKeptUpToItsBoundAndEmptyWhenItIsTakenAgain(t *testing.T) {
	const most = 100
	p := Pool{Most: most}
	for size, kept := range map[int]bool{0: true, most: true, most + 1: false} {
		if p.GiveBack(bytes.NewBuffer(make([]byte, size))) != kept {
			t.Errorf("of %d bytes: kept %t", size, !kept)
		}
	}
	for range 10 {
		b := p.Take()
		if b.Len() != 0 || b.Cap() > most {
			t.Errorf("%d bytes, room for %d", b.Len(), b.Cap())
		}
		b.WriteString("of the last use")
		p.GiveBack(b)
	}
}
