package inbox

// What is bounded while APNs keeps everybody waiting, and what does not wait with it.

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/subscriptions"
)

// crowd enrols a device for each of so many mailboxes.
func (s *scene) crowd(n int) (addresses []string) {
	s.t.Helper()
	for i := range n {
		address := fmt.Sprintf("user-%04d@contoso.example", i)
		e := subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: address, Token: fmt.Sprint("token-of-d", i), Topic: topic, Environment: "production"}
		done, err := s.book.Enrol(context.Background(), e, time.Now(), time.Time{})
		if err != nil {
			s.t.Fatal(err)
		}
		s.listen(done.Mailbox)
		addresses = append(addresses, address)
	}
	s.pass(time.Minute)
	return addresses
}

// stalls has APNs answer nothing until the returned function is called.
func (a *apns) stalls() (goesOn func()) {
	wait := make(chan struct{})
	a.set(func() {
		a.answer = func(ctx context.Context, _ subscriptions.Notification) subscriptions.Answer {
			select {
			case <-wait:
				return subscriptions.Answer{}
			case <-ctx.Done():
				return unanswered()
			}
		}
	})
	return func() { close(wait) }
}

func TestABurstTakesNoGoroutineForEachAlert(t *testing.T) {
	inScene(t, func(s *scene) {
		const mailboxes, messages = 1500, 10
		s.start()
		addresses := s.crowd(mailboxes)
		before := runtime.NumGoroutine()
		goesOn := s.apns.stalls()
		for range messages {
			for _, a := range addresses {
				s.source.come(a)
			}
		}
		most := 0
		for range 20 {
			s.pass(500 * time.Millisecond)
			most = max(most, runtime.NumGoroutine()-before-len(s.in.crew.free)) // those that have no task are counted below
		}
		// One for each push that is under way, and one for each mailbox whose alerts wait.
		if most > maxPushes+mailboxes+100 {
			t.Errorf("%d goroutines for %d alerts", most, mailboxes*messages)
		}
		goesOn()
		s.pass(5 * time.Minute) // before the first safety poll, which has a goroutine of its own
		if kept := runtime.NumGoroutine() - before; kept > keptTasks {
			t.Errorf("%d goroutines are kept", kept)
		}
		for i := range mailboxes {
			device := fmt.Sprint("d", i)
			if n := len(s.apns.got[device]); n != messages {
				t.Fatalf("%s was alerted of %d messages", device, n)
			}
		}
	})
}

func TestReadingNeverWaitsForAPNs(t *testing.T) {
	inScene(t, func(s *scene) {
		const mailboxes = maxWorkers + 500
		s.start()
		addresses := s.crowd(mailboxes)
		reads := 0
		s.source.set(func() { s.source.onRead = func() { s.source.set(func() { reads++ }) } })
		goesOn := s.apns.stalls()
		began := time.Now()
		for _, a := range addresses {
			s.source.come(a)
		}
		synctest.Wait()
		if reads != mailboxes || time.Since(began) != 0 {
			t.Errorf("%d of %d mailboxes were read at once", reads, mailboxes)
		}
		goesOn()
		s.pass(time.Minute)
	})
}

// What is read ahead of an APNs that is slow is bounded, and one that stalls holds no reading for longer than half a second.
func TestReadingIsNotFarAheadOfAPNs(t *testing.T) {
	inScene(t, func(s *scene) {
		const mailboxes = maxAhead + 500
		s.start()
		addresses := s.crowd(mailboxes)
		reads := 0
		s.source.set(func() { s.source.onRead = func() { s.source.set(func() { reads++ }) } })
		read := func() (n int) {
			s.source.set(func() { n = reads })
			return n
		}
		goesOn := s.apns.stalls()
		for _, a := range addresses {
			s.source.come(a)
		}
		s.pass(stuck - 1)
		if n := read(); n != maxAhead {
			t.Errorf("%d mailboxes were read while APNs answers nothing, want %d", n, maxAhead)
		}
		s.pass(1)
		if n := read(); n != mailboxes {
			t.Errorf("%d of %d mailboxes were read, and the others wait for an APNs that stalls", n, mailboxes)
		}
		goesOn()
		s.pass(time.Minute)
		for i := range mailboxes {
			if n := len(s.apns.got[fmt.Sprint("d", i)]); n != 1 {
				t.Fatalf("%d alerts for device %d", n, i)
			}
		}
	})
}

// Workers are taken back when their mailboxes have something to write, so there may be more of them for a while.
func TestWorkersAreNoMoreThanTheyMayBeOnceTheyHaveWritten(t *testing.T) {
	l := newLane(&Inbox{})
	l.active = maxWorkers + 1
	l.hinted = []*Mailbox{{}}
	if m, _ := l.next(); m != nil || l.active != maxWorkers {
		t.Errorf("one too many goes on; there are %d", l.active)
	}
	if m, _ := l.next(); m == nil {
		t.Error("nobody serves what is marked")
	}
}

func TestAlertsThatAreMadeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(&Inbox{})
		first, ok := l.send(t.Context(), 2*maxAlerts) // more than there may be: it has all the room
		if !ok || l.active != -1 {
			t.Fatalf("%t, %d workers", ok, l.active)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := l.send(ctx, 1); ok {
			t.Error("there is room for one more")
		}
		first.end()
		second, ok := l.send(t.Context(), 1)
		if !ok {
			t.Fatal("there is no room")
		}
		second.end()
		if l.active != 0 {
			t.Errorf("%d workers", l.active)
		}
	})
}

func TestAlertsThatDevicesAreOwedAreBoundedByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(&Inbox{})
		done, _ := l.catchingUp(t.Context(), 2*maxAlerts)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := l.catchingUp(ctx, 1); ok {
			t.Error("there is room for one more")
		}
		live, ok := l.send(t.Context(), maxAlerts)
		if !ok {
			t.Fatal("new mail waits for what is owed")
		}
		live.end()
		done()
		if done, ok = l.catchingUp(t.Context(), maxAlerts); !ok {
			t.Error("the room is not given back")
		}
		done()
	})
}

// hang has pushes made that wait for their answers.
func hang(p *pushers, live bool, n int) (answer func(), begun *int) {
	end, counted := make(chan struct{}), 0
	for range n {
		p.push(live, func() {
			p.mu.Lock()
			counted++
			p.mu.Unlock()
			<-end
		})
	}
	synctest.Wait()
	return func() { close(end) }, &counted
}

func TestATopicThatAPNsKeepsWaitingHarmsNoOther(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		answer, begun := hang(s.in.pushersOf(app{"com.fabrikam.mail", "production"}), true, 2*maxPushes)
		if *begun != maxPushes {
			t.Errorf("%d pushes are under way, want %d", *begun, maxPushes)
		}
		m := s.source.come(alice)
		synctest.Wait()
		s.accepted(1, "a", m)
		answer()
		synctest.Wait()
		if *begun != 2*maxPushes {
			t.Errorf("%d pushes were made", *begun)
		}
	})
}

func TestNewMailIsPushedBeforeWhatIsOwed(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		p := s.in.pushersOf(app{topic, "production"})
		answer, _ := hang(p, true, maxPushes)
		answerOwed, owed := hang(p, false, 1)
		answerLive, live := hang(p, true, maxPushes)
		answer()
		synctest.Wait()
		if *live != maxPushes || *owed != 0 {
			t.Errorf("%d of new mail and %d owed are under way", *live, *owed)
		}
		answerLive()
		synctest.Wait()
		if *owed != 1 {
			t.Error("what is owed is never pushed")
		}
		answerOwed()
	})
}

func TestWhatComesAfterTheEndIsToldOfIt(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		p := s.in.pushersOf(app{topic, "production"})
		s.in.Close()
		told := false
		p.push(true, func() { told = true })
		if !told || p.running != 0 {
			t.Error("a push waits for good")
		}
	})
}
