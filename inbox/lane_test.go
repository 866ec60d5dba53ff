package inbox

// The places of an exchange entry: what hangs keeps no new mail waiting.

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/mail"
)

func TestListingsLeaveWorkersToNewMail(t *testing.T) {
	l := newLane(&Inbox{})
	for range maxWorkers {
		l.listed = append(l.listed, &Mailbox{})
	}
	l.active = maxWorkers
	taken := 0
	for m, _ := l.next(); m != nil; m, _ = l.next() {
		taken++
	}
	if taken != maxListers {
		t.Errorf("%d workers list", taken)
	}
	news := &Mailbox{}
	l.hinted = append(l.hinted, news)
	if m, lists := l.next(); m != news || lists {
		t.Error("new mail waits behind listings")
	}
}

func TestNoMoreMailboxesAreTakenForTheirListingsThanTheirServerReadsAtOnce(t *testing.T) {
	l := newLane(&Inbox{})
	for range 10 {
		m := &Mailbox{}
		m.link.Store(&attachment{Link: &link{listings: 3}, lane: l})
		l.listed = append(l.listed, m)
	}
	taken := func() (n int) {
		for m, _ := l.next(); m != nil; m, _ = l.next() {
			n++
		}
		return n
	}
	if n := taken(); n != 3 {
		t.Errorf("%d are taken", n)
	}
	l.paging-- // one has been read, and its alerts are under way
	if n := taken(); n != 1 {
		t.Errorf("%d more are taken", n)
	}
	if len(l.listed) != 6 || l.listers != 4 {
		t.Errorf("%d wait, %d are taken", len(l.listed), l.listers)
	}
}

func TestNoMoreMailboxesAreTakenForNewMailThanIsWorthIt(t *testing.T) {
	l := newLane(&Inbox{})
	a := &attachment{Link: &link{reads: 3}, lane: l}
	for range 20 {
		m := &Mailbox{}
		m.link.Store(a)
		l.hinted = append(l.hinted, m)
	}
	taken := func() (n int) {
		for l.mayRead(1) {
			l.active++ // as start does
			if m, lists := l.next(); m == nil || lists {
				t.Fatalf("nobody is taken, or for a listing (%v)", lists)
			}
			n++
		}
		return n
	}
	if n := taken(); n != 3 {
		t.Errorf("%d are taken", n)
	}
	l.active -= 2 // they wait for APNs
	if n := taken(); n != 2 {
		t.Errorf("%d more are taken", n)
	}
	l.active += 2 // they have their answers
	if m, _ := l.next(); m != nil || l.active != 3+1 {
		t.Errorf("one too many goes on; there are %d", l.active)
	}
	l.listers = 4 // which do something else
	if n := taken(); n != 3 {
		t.Errorf("%d more are taken beside listings", n)
	}
}

func TestNewMailTakesAMailboxOutOfTheQueueOfListings(t *testing.T) {
	var queued []bool
	m := marks{queue: func(hinted bool) { queued = append(queued, hinted) }, attached: true}
	m.listing()
	m.listing()
	m.hint("one", mail.EWS, time.Now(), 0)
	m.hint("two", mail.EWS, time.Now(), 0)
	if fmt.Sprint(queued) != "[false true]" {
		t.Errorf("queued %v", queued)
	}
	if turn, ok := m.take(); !ok || !turn.list || len(turn.hints) != 2 {
		t.Errorf("%+v", turn)
	}
	if _, ok := m.take(); ok {
		t.Error("two workers have it")
	}
}

func TestCatchUpsThatHangKeepNoOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(&Inbox{})
		var leaves []func()
		for range maxCatchUps {
			leave, _ := l.enterCatchUp(t.Context())
			leaves = append(leaves, leave)
		}
		began := time.Now()
		leave, ok := l.enterCatchUp(t.Context())
		if !ok || time.Since(began) > brisk {
			t.Errorf("waited %v", time.Since(began))
		}
		leave()
		for _, leave := range leaves {
			leave()
		}
		if len(l.catchUps) != 0 || len(l.slow) != 0 {
			t.Errorf("%d and %d places are left taken", len(l.catchUps), len(l.slow))
		}
	})
}

func TestCatchUpsThatAreDoneSoonAreNoMoreThanTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(&Inbox{})
		var catching busy
		for range 3 * maxCatchUps {
			go func() {
				leave, _ := l.enterCatchUp(t.Context())
				defer leave()
				catching.during(brisk - time.Millisecond)
			}()
		}
		<-time.After(time.Minute)
		if most, all := catching.counts(); most != maxCatchUps || all != 3*maxCatchUps {
			t.Errorf("%d mailboxes caught up, %d at once", all, most)
		}
	})
}

func TestCatchUpsThatHangAreNoMoreThanTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(&Inbox{})
		var catching busy
		for range maxSlow + 3*maxCatchUps {
			go func() {
				leave, _ := l.enterCatchUp(t.Context())
				defer leave()
				catching.during(time.Hour)
			}()
		}
		<-time.After(3 * time.Hour)
		if most, all := catching.counts(); most != maxSlow+maxCatchUps || all != maxSlow+3*maxCatchUps {
			t.Errorf("%d mailboxes caught up, %d at once", all, most)
		}
		if len(l.catchUps) != 0 || len(l.slow) != 0 {
			t.Errorf("%d and %d places are left taken", len(l.catchUps), len(l.slow))
		}
	})
}

func TestALaneIdlesOnlyWhereAMailboxWaitsThatAWorkerMightTake(t *testing.T) {
	in := &Inbox{}
	in.stopping.Store(true) // no worker begins
	l := newLane(in)
	m := &Mailbox{}
	m.link.Store(&attachment{Link: &link{reads: 1}, lane: l})
	for range 2 {
		if l.idles() {
			t.Error("it idles with nothing to do")
		}
	}
	l.queue(m, true)
	if l.idles() {
		t.Error("it idles at the first look")
	}
	if !l.idles() {
		t.Error("a mailbox has waited from one look to the next, and nobody works")
	}
	l.active = 1 // as many as are worth it: it waits for the server
	for range 2 {
		if l.idles() {
			t.Error("it idles although its server lets no more be read")
		}
	}
	l.active = 0
	if l.idles() {
		t.Error("it idles at the first look after its server let no more be read")
	}
	l.taken++
	if l.idles() {
		t.Error("it idles although one was taken")
	}
	if !l.idles() {
		t.Error("nobody works")
	}
}

func TestALaneThatIsAskedWhetherItIdlesStartsAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &Inbox{crew: newCrew()}
		defer in.crew.end()
		l := newLane(in)
		m := &Mailbox{}
		m.link.Store(&attachment{Link: &link{reads: 1}, lane: l})
		l.hinted = append(l.hinted, m) // and nobody was started
		l.idles()
		synctest.Wait()
		if l.idles() || len(l.hinted) > 0 {
			t.Errorf("%d wait", len(l.hinted))
		}
	})
}
