package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// page is a file that takes decisions, or does not.
type page struct {
	mu     sync.Mutex
	err    error
	most   int           // more mailboxes at once it does not take; 0: it takes them
	takes  time.Duration // so long
	now    int           // writes under way
	writes []int         // of how many mailboxes
	kept   map[string][][]byte
}

func (p *page) write(puts []entryPut) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = append(p.writes, len(puts))
	if p.takes > 0 {
		p.now++
		if p.now > 1 {
			panic("two write at the same time")
		}
		p.mu.Unlock()
		<-time.After(p.takes)
		p.mu.Lock()
		p.now--
	}
	if p.err != nil {
		return p.err
	}
	if p.most > 0 && len(puts) > p.most {
		return errors.New("no space left on device")
	}
	for _, put := range puts {
		p.kept[put.decided.Record] = put.decided.On(p.kept[put.decided.Record])
	}
	return nil
}

func (p *page) read(record string) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.kept[record])
}

func (p *page) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func put(record string, n int) Decided {
	return Decided{record, []DecisionPut{{Is: fmt.Append(nil, n)}}}
}

func inSecond(t *testing.T, test func(t *testing.T, p *page, d *gathering)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &page{kept: map[string][][]byte{}}
		test(t, p, &gathering{write: p.write})
	})
}

// pass lets decisions be written.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (g *gathering) take(t *testing.T, c Decided) {
	t.Helper()
	if err := g.add(c); err != nil {
		t.Error(err)
	}
}

func TestASecondOfDecisionsIsWrittenAtOnce(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
		for second := range 3 {
			for i := range 100 {
				d.take(t, put(fmt.Sprint("r", i%20), 100*second+i))
			}
			pass(gatherDecisions)
		}
		pass(time.Hour)
		if fmt.Sprint(p.writes) != "[20 20 20]" || len(p.kept["r7"]) != 15 || string(p.kept["r7"][14]) != "287" {
			t.Errorf("written: %v, of one %q", p.writes, p.kept["r7"])
		}
		d.close()
	})
}

func TestDecisionsOfThousandsLeaveRoomForWritesBetween(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
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
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
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
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
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

func TestDecisionsThatComeWhileTheFileIsSlowAreNotLost(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
		p.takes = 3 * gatherDecisions
		p.fail(errors.New("input/output error"))
		shown := func() int {
			later := d.of("r")
			return len(later[1].On(later[0].On(p.read("r"))))
		}
		for i := range MaxDecisions {
			if i == MaxDecisions/2 {
				p.fail(nil)
			}
			d.take(t, put("r", i))
			pass(gatherDecisions)
			if n := shown(); n != i+1 {
				t.Fatalf("%d of %d decisions are there", n, i+1)
			}
		}
		d.close()
		if n := len(p.kept["r"]); n != MaxDecisions || shown() != n {
			t.Errorf("%d are written", n)
		}
	})
}

// What was taken is not written again and again behind itself, until nothing else is left.
func TestWhereTheFileTakesSomeDecisionsTheyAreWrittenOnce(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
		for i := range MaxDecisions {
			d.take(t, put("z", i))
		}
		pass(gatherDecisions)
		p.most = maxCommit - 1
		for i := range maxCommit {
			d.take(t, put(fmt.Sprint("r", i), i)) // too many at once
		}
		d.take(t, put("z", MaxDecisions))
		pass(gatherDecisions)
		if n := len(d.waiting); n != maxCommit {
			t.Errorf("%d mailboxes wait for the file, want %d", n, maxCommit)
		}
		d.close()
		if list := p.kept["z"]; len(list) != MaxDecisions || string(list[0]) != "1" {
			t.Errorf("%d are written: %q", len(list), list)
		}
	})
}

// A file that hangs is asked for the first of thousands, and holds the end of the process no longer than that.
func TestAFileThatHangsIsNotAskedForThePartsBehind(t *testing.T) {
	inSecond(t, func(t *testing.T, p *page, d *gathering) {
		p.takes = maxGathering
		p.fail(fmt.Errorf("no answer: %w", context.DeadlineExceeded))
		for i := range 20 * maxCommit {
			d.take(t, put(fmt.Sprint("r", i), i))
		}
		began := time.Now()
		d.close()
		if took := time.Since(began); took > 2*maxGathering {
			t.Errorf("the end took %v", took)
		}
		if n := len(d.waiting); n != 20*maxCommit {
			t.Errorf("%d of %d wait", n, 20*maxCommit)
		}
	})
}

func TestAnOutcomeIsWrittenAlsoWhereItsDecisionsAreNotTakenAnyMore(t *testing.T) {
	s, err := OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.gathering.close()
	c := Change{Put: []*Record{{ID: "r", Addresses: []string{"ann@contoso.example"}}}, Decided: put("r", 1)}
	if err := s.Write(t.Context(), c); err != nil {
		t.Errorf("the record is in the file: %v", err)
	}
	if err := s.Write(t.Context(), Change{Decided: put("r", 1)}); err == nil {
		t.Error("decisions alone are written nowhere, and were taken")
	}
}
