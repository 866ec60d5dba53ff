package subscriptions

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// page is a file that takes decisions, or does not.
type page struct {
	mu     sync.Mutex
	err    error
	writes []int // of how many mailboxes
	kept   map[string][][]byte
}

func (p *page) write(puts []entryPut) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = append(p.writes, len(puts))
	if p.err != nil {
		return p.err
	}
	for _, put := range puts {
		p.kept[put.decided.Record] = put.decided.On(p.kept[put.decided.Record])
	}
	return nil
}

func (p *page) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func put(record string, n int) Decided {
	return Decided{record, []DecisionPut{{Is: fmt.Append(nil, n)}}}
}

func inSecond(t *testing.T, test func(t *testing.T, p *page, d *decided)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &page{kept: map[string][][]byte{}}
		test(t, p, &decided{write: p.write})
	})
}

// pass lets decisions be written.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (d *decided) take(t *testing.T, c Decided) {
	t.Helper()
	if err := d.add(c); err != nil {
		t.Error(err)
	}
}

func TestASecondOfDecisionsIsWrittenAtOnce(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *decided) {
		for range 3 {
			for i := range 100 {
				d.take(t, put(fmt.Sprint("r", i%20), i))
			}
			pass(gatherDecisions)
		}
		pass(time.Hour)
		if fmt.Sprint(p.writes) != "[20 20 20]" || len(p.kept["r7"]) != 15 || string(p.kept["r7"][14]) != "87" {
			t.Errorf("written: %v, of one %q", p.writes, p.kept["r7"])
		}
		d.close()
	})
}

func TestDecisionsOfThousandsLeaveRoomForWritesBetween(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *decided) {
		for i := range 3 * maxCommit {
			d.take(t, put(fmt.Sprint("r", i), i))
		}
		d.close()
		if fmt.Sprint(p.writes) != fmt.Sprint([]int{maxCommit, maxCommit, maxCommit}) {
			t.Errorf("written: %v", p.writes)
		}
	})
}

func TestWhileTheFileTakesNoDecisionsTheLastAreKept(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *decided) {
		p.fail(errors.New("no space left on device"))
		for i := range 10 * MaxDecisions {
			d.take(t, put("r", i))
			if i%7 == 0 {
				pass(gatherDecisions)
			}
		}
		if list := d.of("r")[1].On(nil); len(list) != MaxDecisions || len(p.kept) > 0 {
			t.Errorf("%d are kept", len(list))
		}
		p.fail(nil)
		pass(gatherDecisions)
		if list := p.kept["r"]; len(list) != MaxDecisions || string(list[MaxDecisions-1]) != fmt.Sprint(10*MaxDecisions-1) || string(list[0]) != fmt.Sprint(9*MaxDecisions) {
			t.Errorf("%d are written: %q", len(list), list)
		}
		d.close()
		if list := d.of("r"); len(list[0].Decisions)+len(list[1].Decisions) > 0 {
			t.Errorf("what is written is kept: %v", list)
		}
	})
}

func TestTheEndWritesWhatWasDecidedAndTakesNoMore(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *decided) {
		d.take(t, put("r", 1))
		d.close()
		if len(p.kept["r"]) != 1 {
			t.Error("a decision of the last second is gone")
		}
		if err := d.add(put("r", 2)); !errors.Is(err, errClosed) {
			t.Errorf("%v", err)
		}
	})
}
