package inbox

// What once went wrong, and must not again; and the bounds.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/subscriptions/storetest"
)

// An answer may come after the round was closed and before its outcome is written (here: the write is being tried again).
func TestAnAnswerThatComesWhileTheOutcomeIsBeingWrittenIsKept(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Minute)
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			if n.Device == "a" {
				return subscriptions.Answer{Result: subscriptions.Accepted, At: time.Now()}
			}
			return subscriptions.Answer{}
		}
		s.apns.delay = 1900 * time.Millisecond // b's answer; a's comes at once, so that the outcome is first written at 500 ms, and then every 300 ms
		s.store.Fail(errors.New("redis is away for a moment"))
		m := s.source.come(alice)
		s.pass(1800 * time.Millisecond)
		s.store.Fail(nil)
		s.pass(time.Minute)
		s.accepted(1, "b", m)
		s.inStep(alice)
	})
}

// slow is a store whose writes take a while.
type slow struct {
	*storetest.Memory
	takes time.Duration
}

func (s *slow) Write(ctx context.Context, c subscriptions.Change) error {
	<-time.After(s.takes)
	return s.Memory.Write(ctx, c)
}

// The write of an outcome takes as long as the answers of many devices that come meanwhile: each of them has a write of its own, and
// none is sent a second alert (rule 6).
func TestAnswersBetweenTheDraftOfAnOutcomeAndTheEndOfItsWrite(t *testing.T) {
	inScene(t, func(s *scene) {
		store := &slow{Memory: s.store}
		s.start()
		var err error
		if s.book, err = subscriptions.Open(context.Background(), store); err != nil {
			t.Fatal(err)
		}
		s.stop()
		s.in = New(Options{Book: s.book, Sender: s.apns, MaxAge: time.Hour, Log: zap.NewNop()})
		const devices = 200
		for i := range devices {
			s.enrol(fmt.Sprint("d", i), alice)
		}
		s.pass(time.Minute)
		store.takes = 200 * time.Millisecond
		first := true
		s.apns.answer = func(_ context.Context, n subscriptions.Notification) subscriptions.Answer {
			s.apns.mu.Lock()
			was := first
			first = false
			s.apns.mu.Unlock()
			if !was { // the others' answers come while the outcome is written
				<-time.After(550 * time.Millisecond)
			}
			return subscriptions.Answer{}
		}
		m := s.source.come(alice)
		s.pass(5 * time.Minute)
		for i := range devices {
			s.accepted(1, fmt.Sprint("d", i), m)
		}
		s.inStep(alice)
	})
}

// A store may answer and take no writes: a full disk, a Redis at its maxmemory.
func TestNothingIsSentWhileTheStoreAnswersAndTakesNoWrites(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for i := range 20 {
			s.enrol(fmt.Sprint("d", i), address(i))
		}
		s.pass(time.Minute)
		s.store.Fail(errors.New("no space left on device"))
		sent := 0
		var all []*message
		for i := range 20 {
			m := s.source.come(address(i))
			all = append(all, m)
			s.pass(time.Second)
			sent += len(s.apns.pushes(fmt.Sprint("d", i), s.key(fmt.Sprint("d", i), m)))
		}
		if sent > 1 {
			t.Errorf("%d alerts were sent that cannot be written down", sent)
		}
		s.store.Fail(nil)
		s.pass(time.Minute)
		for i, m := range all {
			s.accepted(1, fmt.Sprint("d", i), m)
		}
	})
}

func address(i int) string { return fmt.Sprintf("user%04d@contoso.example", i) }

func TestACatchUpSendsNothingThatCannotBeWrittenDown(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		for range 10 {
			s.source.come(alice)
		}
		s.pass(time.Minute)
		s.store.Fail(errors.New("redis is away"))
		s.store.Close()
		_ = s.book.Mailbox(alice).Update(context.Background(), func(*subscriptions.Draft) {}) // any write: it is known to be away
		release()
		s.in.TopicReady(topic, "production")
		s.pass(time.Minute)
		if n := len(s.apns.got["a"]); n > 0 {
			t.Errorf("%d alerts were sent while the state was away: a kill now sends them again", n)
		}
		s.kill()
		s.start()
		s.pass(time.Minute)
	})
}

func TestTriesOfAnItemThatWasReadAreForgotten(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		for range maxUnreadable {
			m := s.source.come(alice, corrupt)
			s.pass(time.Second)
			s.source.mend(m)
			s.pass(10 * time.Minute)
			s.accepted(1, "a", m)
		}
		if n := len(s.mailbox(alice).unreadable.items); n > 0 {
			t.Errorf("%d tries are kept of items that were read long ago", n)
		}
		m := s.source.come(alice, corrupt)
		s.pass(time.Second)
		if n := len(s.apns.got["a"]); n > maxUnreadable {
			t.Error("its first failure led to a generic alert")
		}
		s.source.mend(m)
		s.pass(time.Hour)
	})
}

// hanging is a store that hangs as a Redis does that takes connections and answers nothing: each write takes a second here, and
// five in truth.
type hanging struct {
	*storetest.Memory
	hangs atomic.Bool
	n     atomic.Int32
}

func (h *hanging) Write(ctx context.Context, c subscriptions.Change) error {
	if !h.hangs.Load() {
		return h.Memory.Write(ctx, c)
	}
	if ctx.Err() != nil && h.n.Add(1)%2 == 0 {
		return ctx.Err()
	}
	<-time.After(time.Second)
	return errors.New("i/o timeout")
}

// The network is gone: neither APNs nor Redis answers, and each late answer wants its write, one after the other. In real time,
// for a mutex that is waited for stops the fake clock.
func TestAStopIsBoundedWhereNothingAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds of real time")
	}
	store := &hanging{Memory: &storetest.Memory{}}
	book, err := subscriptions.Open(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	silent := newAPNs(t)
	silent.answer = func(ctx context.Context, _ subscriptions.Notification) subscriptions.Answer {
		<-ctx.Done()
		return subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Unanswered, Next: time.Now()}
	}
	s := &scene{t: t, book: book, apns: silent, source: &source{folders: map[string]*folder{}}, poll: time.Hour}
	s.in = New(Options{Book: book, Sender: silent, MaxAge: time.Hour, Log: zap.NewNop()})
	s.in.grace = time.Second
	for i := range 20 {
		e := subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: alice, Token: fmt.Sprint(i), Topic: topic, Environment: "production"}
		if _, err := book.Enrol(context.Background(), e, time.Now(), time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	s.listen(book.Mailbox(alice))
	s.source.come(alice)
	for wrote := book.Mailbox(alice).Record().End; wrote == 0; wrote = book.Mailbox(alice).Record().End {
		<-time.After(100 * time.Millisecond)
	}
	store.hangs.Store(true)
	begin := time.Now()
	s.in.Close()
	if took := time.Since(begin); took > s.in.grace+3*time.Second {
		t.Errorf("with writes that take a second each, closing took %v; they take five", took.Round(time.Second))
	}
}

// A long listing reads live mail between its batches: what that has sent is not summed up too.
func TestAMessageHintedWhileItsListingIsDealtWithIsNotSummedUpToo(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(60 * time.Hour)
		s.stop()
		var fresh []*message
		var old *message
		s.source.quietly(func() {
			for i := range 2 * batch {
				fresh = append(fresh, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Minute))))
			}
			old = s.source.come(alice, receivedAt(ago(3*time.Hour)))
		})
		s.apns.set(func() { s.apns.delay = 100 * time.Millisecond })
		s.start()
		s.pass(50 * time.Millisecond)
		s.source.hint(alice, old)
		s.pass(time.Minute)
		s.accepted(1, "a", fresh...)
		s.accepted(1, "a", old)
		if p := s.apns.pushes("a", s.key("a", old)); p[0].summary {
			t.Error("the hint came too late to test anything")
		}
	})
}

// IncludesLastItemInRange is optional in the schema: a server may tell it of no page.
func TestAMessageUnderTheSendersDateThatComesWhileAListingIsDealtWithAlertsOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.poll = 100 * time.Hour
		s.start()
		s.enrol("a", alice)
		s.pass(48 * time.Hour) // which since moves by
		var m *message
		s.source.onRead = once(func() { m = s.source.come(alice, readTells(ago(30*time.Hour))) })
		s.source.quietly(func() {
			for range batch + 1 { // it is read between two batches of the listing
				s.source.come(alice)
			}
		})
		for range 2 {
			s.mailbox(alice).List()
			s.pass(time.Minute)
		}
		s.accepted(1, "a", m)
	})
}

func TestAListingWhosePagesNeverSayThatTheyAreTheLastEnds(t *testing.T) {
	for name, messages := range map[string]int{"an empty Inbox": 0, "the overlap alone": 1, "two": 2, "a page": firstPage, "two pages": firstPage + 1} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.source.notLast = true
				s.start()
				s.enrol("a", alice)
				s.pass(time.Minute)
				var all []*message
				s.source.quietly(func() {
					for range messages {
						all = append(all, s.source.come(alice))
					}
				})
				s.source.set(func() {
					s.source.lists = 0
					s.source.onList = func(int) {
						if s.source.lists > maxRestarts*4 {
							s.source.set(func() { s.source.fails = errors.New("this listing does not end") })
						}
					}
				})
				s.mailbox(alice).List()
				s.pass(time.Minute)
				if s.source.lists > maxRestarts*4 {
					t.Errorf("%d calls for a listing of %d messages", s.source.lists, messages)
				}
				s.accepted(1, "a", all...)
			})
		})
	}
}

func TestAListingThatDeletionsOvertakeAgainAndAgainGivesUpAndIsTriedLater(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		var all []*message
		s.source.quietly(func() {
			for i := range 1000 {
				all = append(all, s.source.come(alice, receivedAt(ago(time.Duration(i)*time.Second))))
			}
		})
		s.source.set(func() {
			s.source.lists = 0
			s.source.onList = func(offset int) {
				if offset > 0 {
					s.source.take(alice, all[:60]...)
					all = all[60:]
				}
			}
		})
		m := s.mailbox(alice)
		m.List()
		s.pass(time.Second)
		if s.source.lists != 2*maxRestarts {
			t.Errorf("%d calls, want two for each of %d tries", s.source.lists, maxRestarts)
		}
		if f := m.Status().Failing; f == nil || f.Code != "pages" {
			t.Errorf("the mailbox fails of %v", f)
		}
		s.source.set(func() { s.source.onList = nil })
		s.pass(time.Minute)
		s.accepted(1, "a", all...)
	})
}

// vast is an Inbox of that many messages, the newest now.
type vast struct {
	*link
	messages int
	apart    time.Duration
	calls    *int
}

func (v vast) List(_ context.Context, p Part) (Page, error) {
	*v.calls++
	now := time.Now()
	offset, _ := strconv.Atoi(p.After)
	page := overlapping(v.messages, offset, p.Limit, false, func(i int) mail.Message {
		return mail.Message{ItemID: fmt.Sprint(i), InternetID: fmt.Sprint(i), Received: now.Add(-time.Duration(i) * v.apart)}
	})
	page.Clock = now
	return page, nil
}

func TestOfAVastInboxOnlyMailOfTheLastDayIsKeptInMemory(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(72 * time.Hour) // without a message, so that the log begins at the enrolment
		for name, c := range map[string]struct {
			apart time.Duration
			kept  int
		}{
			"two days":        {3 * time.Second, maxListed},
			"a day and more":  {1600 * time.Millisecond, int(mail.Window/(1600*time.Millisecond)) + 1},
			"less than a day": {time.Second, maxListed + 10_000},
		} {
			calls := 0
			v := vast{messages: maxListed + 10_000, apart: c.apart, calls: &calls}
			list, _, whole, err := s.mailbox(alice).tryPages(context.Background(), v.List)
			if err != nil || !whole || len(list) != c.kept {
				t.Errorf("of the mail of %s %d messages are kept, want %d (whole: %v, %v)", name, len(list), c.kept, whole, err)
			}
			if pages := c.kept/(nextPage-1) + 2; calls > pages {
				t.Errorf("%s: %d pages for %d messages", name, calls, c.kept)
			}
		}
	})
}

func TestAMailboxRemembersNoMoreThanSixtyFourHintedItems(t *testing.T) { // rule 7
	synctest.Test(t, func(t *testing.T) {
		m := marks{queue: func(bool) {}}
		for i := range maxHints + 1 {
			if m.list {
				t.Errorf("it is listed for %d hints", i)
			}
			m.hint(fmt.Sprint(i), mail.EWS, time.Now(), 0)
		}
		if len(m.hints) != maxHints || !m.list {
			t.Errorf("%d hints, list %v", len(m.hints), m.list)
		}
		for i := range 10 * maxHints {
			m.hint(fmt.Sprint(i), mail.EWS, time.Now(), 0)
			m.giveBack(turn{hints: hints{{fmt.Sprint("back", i), time.Now()}}})
		}
		if len(m.hints) > maxHints || !m.list {
			t.Errorf("%d hints, list %v", len(m.hints), m.list)
		}
	})
}

// busy counts how often something was done, and how often at once at the most.
type busy struct {
	mu             sync.Mutex
	now, most, all int
}

func (b *busy) during(d time.Duration) {
	b.mu.Lock()
	b.all++
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	<-time.After(d)
	b.mu.Lock()
	b.now--
	b.mu.Unlock()
}

// counts says what was counted.
func (b *busy) counts() (most, all int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most, b.all
}

func TestNoMoreMailboxesOfAnEntryAreAtWorkThanTheirWorkers(t *testing.T) { // half of them with listings
	inScene(t, func(s *scene) {
		s.start()
		const mailboxes = maxWorkers + 200
		var listing, reading busy
		s.source.onList = func(int) { listing.during(time.Second) }
		s.source.onRead = func() { reading.during(time.Second) }
		for i := range mailboxes {
			e := subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: address(i), Token: "t", Topic: topic, Environment: "production"}
			done, err := s.book.Enrol(context.Background(), e, time.Now(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			s.listen(done.Mailbox)
		}
		s.pass(time.Minute)
		if most, all := listing.counts(); most != maxListers || all != mailboxes {
			t.Errorf("%d mailboxes were listed, %d at once", all, most)
		}
		for i := range mailboxes {
			s.source.come(address(i))
		}
		s.pass(time.Minute)
		if most, all := reading.counts(); most != maxWorkers || all != mailboxes {
			t.Errorf("%d mailboxes were read, %d at once", all, most)
		}
	})
}

func TestNoMorePushesOfAnEntryAreUnderWayThanThereMayBe(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		const devices, mailboxes = 500, 10
		for i := range devices * mailboxes {
			e := subscriptions.Enrolment{ID: fmt.Sprint("d", i), Mailbox: address(i % mailboxes), Token: fmt.Sprint(i), Topic: topic, Environment: "production"}
			if _, err := s.book.Enrol(context.Background(), e, time.Now(), time.Now().Add(-time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		for _, box := range s.book.Mailboxes() {
			s.listen(box)
		}
		s.pass(time.Second)
		var pushing busy
		s.apns.set(func() {
			s.apns.answer = func(context.Context, subscriptions.Notification) subscriptions.Answer {
				pushing.during(100 * time.Millisecond)
				return subscriptions.Answer{}
			}
		})
		for i := range mailboxes {
			s.source.come(address(i))
		}
		s.pass(time.Minute)
		if most, all := pushing.counts(); most != maxPushes || all != devices*mailboxes {
			t.Errorf("%d alerts were sent, %d at once", all, most)
		}
	})
}

// A mailbox that moves to another Exchange has other item ids there: it is listed, and what was hinted before is not asked for.
func TestAMailboxThatIsAttachedElsewhereIsListed(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		m := s.mailbox(alice)
		m.Detach()
		here := s.source.come(alice)
		s.pass(time.Minute)
		s.accepted(0, "a", here)
		other := &source{folders: map[string]*folder{}, n: 1000}
		there := other.come(alice, withID(here.internetID), sentAt(here.sent))
		m.Attach(&link{source: other, folder: other.folder(alice), exchange: "online", poll: s.poll})
		s.pass(time.Second)
		s.accepted(1, "a", there)
		if len(s.decisions(alice)) != 1 {
			t.Errorf("%+v", s.decisions(alice))
		}
	})
}

// A mailbox whose location is looked up may turn out to be another's, which takes its devices: nothing is to begin for them meanwhile.
func TestNoDeviceCatchesUpWhileItsMailboxIsLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		msg := s.source.come(alice)
		s.pass(time.Second)
		m := s.mailbox(alice)
		m.Detach()
		release()
		s.in.TopicReady(topic, "production")
		s.pass(time.Hour)
		s.accepted(0, "a", msg)
		m.Attach(m.link.Load().Link)
		s.pass(time.Second)
		s.accepted(1, "a", msg)
	})
}

// Its last device was removed while its location was looked up, and another is enrolled: that one has its mail from whoever opens it now.
func TestNoDeviceCatchesUpInAMailboxThatWasClosedBeforeItIsAttached(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		msg := s.source.come(alice)
		s.pass(time.Second)
		was := s.mailbox(alice)
		was.Close()
		was.Attach(was.link.Load().Link)
		release()
		was.topicReady(topic, "production")
		s.pass(time.Hour)
		s.accepted(0, "a", msg)
		s.listen(was.box)
		s.pass(time.Second)
		s.accepted(1, "a", msg)
		is := s.mailbox(alice)
		phone := is.box.Devices()[0].Phone().Line()
		is.flight.begin(phone)
		is.Close() // and is opened again before its last push has ended
		is.Attach(is.link.Load().Link)
		s.in.Open(is.box)
		if is != s.mailbox(alice) || !is.waiting.isHeld() {
			t.Error("devices catch up before it is attached")
		}
		is.flight.end(phone)
		s.listen(is.box)
	})
}

// A device is told to wait, and its mailbox is looked up before it catches up with the other mail.
func TestACatchUpThatIsUnderWayEndsWhereItsMailboxIsLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.enrol("b", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.Throttled, 10*time.Second)
		releaseB := s.apns.hold("b", outcome.TopicAway, 0)
		msg := s.source.come(alice)
		s.pass(time.Second)
		release()
		releaseB()
		m := s.mailbox(alice)
		s.source.set(func() {
			s.source.onList = func(int) { // by the catch-up of a
				m.Detach()
				s.in.TopicReady(topic, "production")
			}
		})
		s.pass(10 * time.Second)
		s.source.set(func() { s.source.onList = nil })
		s.accepted(1, "a", msg)
		s.accepted(0, "b", msg)
		if _, err := m.Finish(t.Context(), m.link.Load().List, m.box); err != nil || m.atWork() {
			t.Errorf("at work: %v, %v", m.atWork(), err)
		}
		m.Attach(m.link.Load().Link)
		s.pass(time.Second)
		s.accepted(1, "b", msg)
	})
}

// Others hang, and have all places.
func TestACatchUpThatWaitsForAPlaceIsNotWaitedForWhereItsMailboxIsLookedUp(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		release := s.apns.hold("a", outcome.TopicAway, 0)
		msg := s.source.come(alice)
		s.pass(time.Second)
		m := s.mailbox(alice)
		l := m.link.Load().lane
		for range maxCatchUps {
			l.catchUps <- struct{}{}
		}
		release()
		s.in.TopicReady(topic, "production")
		s.pass(time.Second)
		if !m.atWork() {
			t.Error("nothing waits for a place")
		}
		m.Detach()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if _, err := m.Finish(ctx, m.link.Load().List, m.box); err != nil {
			t.Error("it is waited for")
		}
		for range maxCatchUps {
			<-l.catchUps
		}
		s.pass(time.Hour)
		s.accepted(0, "a", msg)
		m.Attach(m.link.Load().Link)
		s.pass(time.Second)
		s.accepted(1, "a", msg)
	})
}

// An answer that cannot be understood as a whole is asked for one by one, so that one sick message does not hide the others.
func TestAMessageThatSpoilsTheAnswerHarmsOnlyItself(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		var sick, well *message
		s.apns.set(func() { s.apns.delay = time.Second }) // both hints come in one turn
		first := s.source.come(alice)
		s.pass(100 * time.Millisecond)
		sick, well = s.source.come(alice), s.source.come(alice)
		s.source.set(func() { s.source.garbled = map[string]bool{sick.id: true} })
		s.pass(10 * time.Second)
		s.accepted(1, "a", first, well)
		s.accepted(0, "a", sick)
		s.pass(9 * time.Minute)
		if n := len(s.apns.pushes("a", s.book.Secret().ItemKey(s.record(alice).ID, sick.id))); n != 1 {
			t.Errorf("%d generic alerts within ten minutes", n)
		}
		s.inStep(alice)
	})
}

// Two messages with one Message-ID and time sent are one message and a copy. Every message that is shown has its outcome, or a decision.
func TestACopyOfAMessageHasADecisionAndNoAlert(t *testing.T) {
	copies := func(s *scene) (a, b *message) {
		a = s.source.come(alice, withID("<same@fabrikam.example>"))
		b = s.source.come(alice, withID("<same@fabrikam.example>"), sentAt(a.sent))
		return a, b
	}
	for name, come := range map[string]func(s *scene) (a, b *message){
		"in one turn": copies,
		"one after the other": func(s *scene) (a, b *message) {
			a = s.source.come(alice, withID("<same@fabrikam.example>"))
			s.pass(time.Minute)
			return a, s.source.come(alice, withID("<same@fabrikam.example>"), sentAt(a.sent))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				s.start()
				s.enrol("a", alice)
				s.pass(time.Hour)
				a, b := come(s)
				s.pass(time.Second)
				s.source.hint(alice, a) // another notification is no copy
				s.source.hint(alice, b)
				s.pass(2 * s.poll)
				s.accepted(1, "a", a)
				if r := slices.Sorted(slices.Values(s.reasons(alice, s.key("a", a)))); !slices.Equal(r, []string{"accepted", "known"}) {
					t.Errorf("the decisions are %v, want one of the copy and one of the message", r)
				}
			})
		})
	}
}

// A client may put items without a date into an Inbox, and a server may list them first, as some databases sort what has no value.
func TestItemsWithoutADateEndNoListing(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		s.source.set(func() {
			for i := range 3 {
				s.source.first = append(s.source.first, &message{id: fmt.Sprint("no date ", i), internetID: fmt.Sprintf("<none%d@fabrikam.example>", i)})
			}
		})
		var all []*message
		s.source.quietly(func() {
			for range firstPage + 10 { // some of them on the second page
				all = append(all, s.source.come(alice))
			}
		})
		s.pass(s.poll)
		s.accepted(1, "a", all...)
	})
}

// A server other than Exchange tells no received time of some messages, and with it no listing finds them: the hint is all there is.
func TestAMessageWithoutAReceivedTimeIsAlertedByItsHint(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Hour)
		m := s.source.come(alice, receivedAt(time.Time{}))
		s.pass(time.Minute)
		s.source.hint(alice, m)
		s.pass(time.Hour)
		s.accepted(1, "a", m)
	})
}

// A turn or a catch-up of the mailbox outlives the removal of its last device. Who enrols meanwhile is not served by another beside it: the
// two would know nothing of each other's pushes.
func TestAMailboxThatIsClosedAndOpenedAgainIsWorkedOffByOne(t *testing.T) {
	again := func(s *scene) {
		s.remove("a")
		s.enrol("a", alice)
	}
	t.Run("while it is read", func(t *testing.T) {
		inScene(t, func(s *scene) {
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute)
			s.apns.set(func() { s.apns.delay = 3 * time.Second })
			s.source.set(func() { s.source.onRead = once(func() { <-time.After(2 * time.Second) }) })
			m := s.source.come(alice)
			s.pass(time.Second)
			again(s)
			s.pass(time.Minute)
			s.accepted(1, "a", m)
		})
	})
	t.Run("while a device catches up", func(t *testing.T) {
		inScene(t, func(s *scene) {
			s.start()
			s.enrol("a", alice)
			s.pass(time.Minute)
			release := s.apns.hold("a", outcome.Unanswered, time.Second)
			m := s.source.come(alice)
			s.pass(500 * time.Millisecond)
			release()
			s.source.set(func() { s.source.onRead = once(func() { <-time.After(10 * time.Second) }) })
			s.pass(time.Second)
			mailbox := s.mailbox(alice)
			again(s)
			if s.mailbox(alice) != mailbox {
				t.Error("another one works on it, and a catch-up of the one before is under way")
			}
			s.pass(time.Minute)
			s.accepted(1, "a", m)
		})
	})
}

// What could not be read when it was hinted stands in the log under the key of its item: the alert of a catch-up is entered under that too.
func TestACatchUpSendsWhatCannotBeReadOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.apns.hold("a", outcome.Unanswered, time.Second)
		m := s.source.come(alice, corrupt)
		s.pass(9 * time.Minute)
		later := s.source.come(alice)
		s.pass(500 * time.Millisecond)
		key := s.key("a", later).String()
		tries := 0
		s.apns.set(func() {
			s.apns.answer = func(_ context.Context, n subscriptions.Notification) (a subscriptions.Answer) {
				if n.CollapseID == key && tries < 3 {
					tries++
					a = unanswered()
					a.Next = time.Now().Add(time.Second)
				}
				return a
			}
		})
		s.pass(time.Minute)
		s.accepted(1, "a", later)
		if n := len(s.apns.pushes("a", s.book.Secret().ItemKey(s.record(alice).ID, m.id))); n != 1 {
			t.Errorf("%d alerts of what cannot be read", n)
		}
		s.accepted(0, "a", m)
		s.inStep(alice)
	})
}

// A listing that is under way when its third try is due gives it up, and its hint comes after that.
func TestAMessageThatAListingGaveUpAlertsOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		var m *message
		s.source.quietly(func() { m = s.source.come(alice, corrupt) })
		s.mailbox(alice).List()
		s.pass(6*time.Minute - time.Second)
		s.source.set(func() { s.source.onRead = once(func() { <-time.After(2 * time.Second) }) })
		s.mailbox(alice).List()
		for range 3 {
			s.pass(20 * time.Minute)
			if n := len(s.apns.pushes("a", s.book.Secret().ItemKey(s.record(alice).ID, m.id))); n != 1 {
				t.Errorf("%d alerts under the key of its item", n)
			}
			s.accepted(0, "a", m)
			if n := len(s.decisions(alice)); n != 4 {
				t.Errorf("%d decisions; three are of its tries, and one is the alert", n)
			}
		}
		s.source.mend(m)
		s.source.hint(alice, m)
		s.pass(3 * s.poll)
		s.accepted(0, "a", m)
	})
}

// An answer may be entered between the looks at who is behind and at what is in flight.
func TestACatchUpSendsNothingThatWasAnsweredSinceItsDevicesWereLookedFor(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.apns.hold("a", outcome.Unanswered, time.Hour)
		first, second := s.source.come(alice), s.source.come(alice)
		s.pass(time.Minute)
		m := s.mailbox(alice)
		ready := m.behind()
		s.apns.set(func() { s.apns.answer = nil })
		err := m.box.Update(context.Background(), func(d *subscriptions.Draft) { d.Deal("a", s.key("a", first)) })
		if err == nil {
			err = m.catchUpOnce(context.Background(), m.link.Load(), ready)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.accepted(0, "a", first)
		s.accepted(1, "a", second)
		s.inStep(alice)
	})
}

// Another instance has taken the state over: what this one would write is never taken again, and its end is not to wait for that.
func TestAnInstanceThatWasFollowedEndsAtOnce(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		s.enrol("a", alice)
		s.pass(time.Minute)
		s.store.Fail(subscriptions.ErrFollowed)
		s.source.come(alice)
		s.pass(time.Second)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A listing waits for a message that it could not read, and a hint reads it in the end: the listing is not forgotten with its next try.
func TestAListingThatWaitedForAMessageIsMadeOnceAHintHasReadIt(t *testing.T) {
	for name, end := range map[string]func(s *scene, m *message){
		"read": func(s *scene, m *message) { s.source.mend(m) },
		"gone": func(s *scene, m *message) { s.source.take(alice, m) },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(s *scene) {
				var m *message
				s.source.quietly(func() { m = s.source.come(alice, corrupt) })
				s.start()
				s.enrol("a", alice)
				s.pass(time.Second)
				end(s, m)
				s.source.hint(alice, m)
				s.pass(time.Second)
				var later *message
				s.source.quietly(func() { later = s.source.come(alice) })
				s.pass(s.poll)
				s.accepted(1, "a", later)
				if s.record(alice).Listed < m.received.Unix() {
					t.Error("the Inbox was never listed")
				}
			})
		})
	}
}

// once is a function that does something the first time, and nothing meanwhile.
func once(first func()) func() {
	var called atomic.Bool
	return func() {
		if !called.Swap(true) {
			first()
		}
	}
}
