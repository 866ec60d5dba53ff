package subscriptions

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

// notebook is a store for the decisions about one mailbox. It keeps them as the others do.
type notebook struct {
	Store
	kept   [][]byte
	err    error // of writes and reads
	unsure bool  // a write that fails was made all the same
	writes int
}

func (n *notebook) Load(context.Context) (Contents, error) {
	return Contents{Records: []*Record{{ID: "r", Addresses: []string{"ann@contoso.example"}}}}, nil
}

func (n *notebook) Write(_ context.Context, c Change) error {
	if n.err == nil || n.unsure {
		n.writes++
		n.kept = c.Decided.On(n.kept)
	}
	return n.err
}

func (n *notebook) Decisions(context.Context, string) ([][]byte, error) {
	if n.err != nil {
		return nil, n.err
	}
	return n.kept, nil
}

// mailbox of the notebook.
func (n *notebook) mailbox(t *testing.T) *Mailbox {
	t.Helper()
	b, err := Open(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return b.box("r")
}

// decisions are the devices of those about a mailbox, the newest first.
func decisions(t *testing.T, m *Mailbox) (devices []string) {
	t.Helper()
	list, err := m.Decisions(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, d := range list {
		devices = append(devices, d.Device)
	}
	return devices
}

func TestTheLastFiftyDecisionsAreShownNewestFirstAndAfterARestartToo(t *testing.T) {
	for _, n := range []int{0, 1, MaxDecisions - 1, MaxDecisions, MaxDecisions + 1, 3*MaxDecisions + 7} {
		for _, every := range []int{1, 3, 1000} { // so many are written together
			store := &notebook{}
			m := store.mailbox(t)
			for i := range n {
				m.Decide(Decision{Device: strconv.Itoa(i)})
				if i%every == 0 {
					if err := m.Update(t.Context(), func(*Draft) {}); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := decisions(t, m)
			if err := m.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, shown := range [][]string{before, decisions(t, m), decisions(t, store.mailbox(t))} {
				if len(shown) != min(n, MaxDecisions) {
					t.Errorf("%d of %d decisions are shown", len(shown), n)
				}
				for i, device := range shown {
					if want := strconv.Itoa(n - 1 - i); device != want {
						t.Fatalf("of %d, decision %d is number %s, want %s", n, i, device, want)
					}
				}
			}
		}
	}
}

func TestADecisionThatIsWrittenIsNotKeptInMemory(t *testing.T) {
	store := &notebook{}
	m := store.mailbox(t)
	for i := range 10 {
		m.Decide(Decision{Device: strconv.Itoa(i)})
		if err := m.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.undelivered.list != nil {
			t.Errorf("%d decisions are in memory", len(m.undelivered.list))
		}
	}
	if err := m.Deliver(t.Context()); err != nil || store.writes != 10 {
		t.Errorf("%d writes of 10 decisions: %v", store.writes, err)
	}
}

func TestWhileTheStateIsAwayTheLastDecisionsAreKeptAndShown(t *testing.T) {
	away := errors.New("connection refused")
	store := &notebook{}
	m := store.mailbox(t)
	m.Decide(Decision{Device: "before"})
	if err := m.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	store.err = away
	for i := range 3 * MaxDecisions {
		m.Decide(Decision{Device: strconv.Itoa(i)})
		if err := m.Update(t.Context(), func(*Draft) {}); !errors.Is(err, away) {
			t.Fatalf("%v", err)
		}
	}
	list, err := m.Decisions(t.Context())
	if !errors.Is(err, away) || len(list) != MaxDecisions || list[0].Device != strconv.Itoa(3*MaxDecisions-1) {
		t.Errorf("%d decisions, and %v", len(list), err)
	}
	store.err = nil
	if err := m.Update(t.Context(), func(*Draft) {}); err != nil {
		t.Fatal(err)
	}
	if shown := decisions(t, store.mailbox(t)); len(shown) != MaxDecisions || shown[0] != strconv.Itoa(3*MaxDecisions-1) {
		t.Errorf("%q", shown)
	}
}

func TestADecisionOfAWriteThatIsTriedAgainIsShownOnce(t *testing.T) {
	store := &notebook{err: errors.New("timeout"), unsure: true}
	m := store.mailbox(t)
	at := time.Now()
	m.Decide(Decision{Device: "a", At: at})
	for range 3 {
		_ = m.Update(t.Context(), func(*Draft) {})
	}
	m.Decide(Decision{Device: "b", At: at})
	store.err = nil
	for range 2 {
		if shown := decisions(t, m); len(shown) != 2 || shown[0] != "b" || shown[1] != "a" {
			t.Errorf("%q", shown)
		}
		if err := m.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADecisionThatIsMadeDuringAWriteGoesWithTheNext(t *testing.T) {
	store := &notebook{}
	m := store.mailbox(t)
	m.Decide(Decision{Device: "a"})
	if err := m.Update(t.Context(), func(*Draft) {}); err != nil {
		t.Fatal(err)
	}
	m.Decide(Decision{Device: "b"})
	taken := m.undelivered.take()
	for i := range MaxDecisions { // which pushes the first out
		m.Decide(Decision{Device: strconv.Itoa(i)})
	}
	m.undelivered.written()
	if left := m.undelivered.all(); len(taken) != 1 || len(left) != MaxDecisions {
		t.Errorf("%d were taken, and %d are left", len(taken), len(left))
	}
}

func TestAReceiptIsKeptWithTheNewestAcceptedAlertOfTheDevice(t *testing.T) {
	at := time.UnixMilli(time.Now().UnixMilli())
	key := mail.Key{1}
	for _, written := range []bool{true, false} { // before the receipt comes
		store := &notebook{}
		m := store.mailbox(t)
		for _, d := range []Decision{
			{Key: key, Device: "ann", Outcome: outcome.Accepted, At: at.Add(-time.Minute)}, // an earlier life of the enrolment
			{Key: key, Device: "ann", Outcome: outcome.Accepted, At: at},
			{Key: key, Device: "bob", Outcome: outcome.Accepted, At: at},
			{Key: key, Device: "ann", Outcome: outcome.NotSent, Reason: outcome.Known, At: at},
			{Key: mail.Key{2}, Device: "ann", Outcome: outcome.Refused, At: at},
		} {
			m.Decide(d)
		}
		if written {
			if err := m.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		shown := at.Add(1234 * time.Millisecond)
		d, first, known, err := m.Shown(t.Context(), key, "ann", shown)
		if !known || !first || !d.Shown.Equal(shown) || !d.At.Equal(at) || err != nil {
			t.Errorf("%+v, first %t, known %t, %v", d, first, known, err)
		}
		if d, first, known, _ := m.Shown(t.Context(), key, "ann", shown.Add(time.Second)); !known || first || !d.Shown.Equal(shown) {
			t.Errorf("a second receipt changed it: %+v, first %t, known %t", d, first, known)
		}
		for _, one := range []struct {
			key    mail.Key
			device string
		}{{mail.Key{2}, "ann"}, {mail.Key{3}, "ann"}, {key, "eve"}} {
			if d, _, known, _ := m.Shown(t.Context(), one.key, one.device, shown); known {
				t.Errorf("%v of %s: there is no accepted alert, and %+v is shown", one.key, one.device, d)
			}
		}
		list, err := store.mailbox(t).Decisions(t.Context()) // after a restart
		if err != nil || len(list) != 5 {
			t.Fatalf("%d decisions: %v", len(list), err)
		}
		for i, d := range list {
			if is := !d.Shown.IsZero(); is != (i == 3) {
				t.Errorf("decision %d is shown: %t", i, is)
			}
		}
	}
}

// A phone on a fast network shows an alert before APNs' answer has come to mailbell, and where the answer is lost, minutes before.
func TestAReceiptThatComesBeforeTheAnswerOfAPNsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &notebook{}
		m := store.mailbox(t)
		key, shown := mail.Key{1}, time.Now()
		for again := range 2 {
			<-time.After(time.Second)
			if d, _, known, err := m.Shown(t.Context(), key, "ann", shown.Add(time.Duration(again)*time.Second)); known || err != nil {
				t.Fatalf("%+v, known %t, %v", d, known, err)
			}
		}
		for _, d := range []Decision{
			{Key: key, Device: "bob", Outcome: outcome.Accepted},
			{Key: mail.Key{2}, Device: "ann", Outcome: outcome.Accepted},
			{Key: key, Device: "ann", Outcome: outcome.Behind},
			{Key: key, Device: "ann", Outcome: outcome.Accepted},
			{Key: key, Device: "ann", Outcome: outcome.Accepted}, // a repeat is another alert
		} {
			m.Decide(d)
		}
		if err := m.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := store.mailbox(t).Decisions(t.Context())
		if err != nil || len(list) != 5 {
			t.Fatalf("%d decisions: %v", len(list), err)
		}
		for i, d := range list {
			if is := d.Shown.Equal(shown); is != (i == 1) {
				t.Errorf("decision %d is shown: %v", i, d.Shown)
			}
		}
		if len(m.undelivered.early) != 0 {
			t.Errorf("%d receipts are left", len(m.undelivered.early))
		}
	})
}

func TestAReceiptWhoseDecisionIsMadeWhileItIsLookedForIsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, m := openSlow(t)
		shown := time.Now()
		go func() {
			<-store.reads
			m.Decide(Decision{Key: mail.Key{1}, Device: "ann", Outcome: outcome.Accepted})
			if err := m.Deliver(t.Context()); err != nil {
				t.Error(err)
			}
			close(store.open)
		}()
		for _, want := range []bool{true, false} {
			d, first, known, err := m.Shown(t.Context(), mail.Key{1}, "ann", shown)
			if !known || first != want || !d.Shown.Equal(shown) || err != nil {
				t.Errorf("%+v, first %t, known %t, %v", d, first, known, err)
			}
		}
		if d, first, known, err := m.Shown(t.Context(), mail.Key{1}, "ann", shown.Add(-time.Hour)); !known || first || err != nil {
			t.Errorf("an old one: %+v, first %t, known %t, %v", d, first, known, err)
		}
	})
}

func TestReceiptsThatAreAboutNoDecisionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &notebook{}
		m := store.mailbox(t)
		unknown := func(at time.Time, n int) {
			for i := range n {
				if _, _, known, err := m.Shown(t.Context(), mail.Key{byte(i)}, "ann", at); known || err != nil {
					t.Fatal(known, err)
				}
			}
		}
		unknown(time.Now().Add(-mail.Tolerance-1), 1)
		if len(m.undelivered.early) != 0 {
			t.Error("the answer about an alert of long ago is expected")
		}
		unknown(time.Now(), 2*MaxDecisions)
		if n := len(m.undelivered.early); n != MaxDecisions {
			t.Errorf("%d receipts are kept", n)
		}
		m.Decide(Decision{Key: mail.Key{2*MaxDecisions - 1}, Device: "ann", Outcome: outcome.Accepted})
		if list, err := m.Decisions(t.Context()); err != nil || list[0].Shown.IsZero() {
			t.Errorf("the newest was not kept: %v", err)
		}
		<-time.After(mail.Tolerance + 1)
		unknown(time.Now(), 1)
		if n := len(m.undelivered.early); n != 1 {
			t.Errorf("%d receipts are kept after their time", n)
		}
		store.err = errors.New("connection refused")
		if _, _, _, err := m.Shown(t.Context(), mail.Key{1}, "ann", time.Now()); err == nil || len(m.undelivered.early) != 1 {
			t.Errorf("%d receipts are kept, one of which is to be sent again: %v", len(m.undelivered.early), err)
		}
	})
}

func TestAReceiptForAWriteThatFailedAndWasMadeIsKept(t *testing.T) {
	store := &notebook{err: errors.New("timeout"), unsure: true}
	m := store.mailbox(t)
	m.Decide(Decision{Key: mail.Key{1}, Device: "ann", Outcome: outcome.Accepted})
	_ = m.Deliver(t.Context())
	if _, _, _, err := m.Shown(t.Context(), mail.Key{1}, "ann", time.Now()); err == nil {
		t.Error("a receipt was taken while the state is away")
	}
	store.err = nil
	if _, first, known, err := m.Shown(t.Context(), mail.Key{1}, "ann", time.Now()); !first || !known || err != nil {
		t.Errorf("first %t, known %t, %v", first, known, err)
	}
	list, err := m.Decisions(t.Context())
	if err != nil || len(list) != 1 || list[0].Shown.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
}

// slow is a notebook that takes its time to be read.
type slow struct {
	*notebook
	reads chan struct{} // one for each that has begun
	open  chan struct{}
}

// openSlow returns one, and its mailbox.
func openSlow(t *testing.T) (*slow, *Mailbox) {
	t.Helper()
	store := &slow{&notebook{}, make(chan struct{}, 9), make(chan struct{})}
	b, err := Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	return store, b.box("r")
}

func (s *slow) Decisions(ctx context.Context, record string) ([][]byte, error) {
	s.reads <- struct{}{}
	<-s.open
	return s.notebook.Decisions(ctx, record)
}

func TestAnOutcomeIsWrittenWhileAReceiptIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, m := openSlow(t)
		m.Decide(Decision{Key: mail.Key{1}, Device: "ann", Outcome: outcome.Accepted})
		firsts := make(chan bool, 2)
		for range 2 {
			go func() {
				_, first, known, err := m.Shown(t.Context(), mail.Key{1}, "ann", time.Now())
				if err != nil || !known {
					t.Errorf("known %t, %v", known, err)
				}
				firsts <- first
			}()
		}
		<-store.reads
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Update(ctx, func(*Draft) {}); err != nil { // it takes the decision along
			t.Errorf("an outcome waits for a receipt: %v", err)
		}
		close(store.open)
		if a, b := <-firsts, <-firsts; a == b {
			t.Errorf("of two receipts for one alert, %t and %t is the first", a, b)
		}
		if list, err := m.Decisions(t.Context()); err != nil || len(list) != 1 || list[0].Shown.IsZero() {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// A reader holds a record for as long as it likes, and finds in it what it found.
func TestARecordThatIsReadStaysAsItIsWhileOthersFollow(t *testing.T) {
	store := &notebook{}
	m := store.mailbox(t)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type read struct {
		record *Record
		was    []byte
	}
	var all []read
	look := func() {
		r := m.Record()
		was, err := r.Outcomes.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, read{r, was})
	}
	for i := range 5 * spare {
		store.err = nil
		if i%3 == 0 {
			store.err = errors.New("disk full") // the next change begins where this one did
		}
		_ = m.Update(t.Context(), func(d *Draft) {
			d.Enter([]Outcome{{Key: mail.Key{7: byte(i + 1)}, Received: noon.Add(time.Duration(i) * time.Hour), ForAll: true}}, nil, nil)
		})
		look()
		if i%5 == 0 {
			_ = m.Update(t.Context(), func(d *Draft) {
				d.Complete([]Shown{{mail.Key{7: byte(i)}, noon.Add(time.Duration(i) * time.Hour)}}, noon.Add(1000*time.Hour), d.End)
			})
			look()
		}
	}
	for i, r := range all {
		if is, _ := r.record.Outcomes.MarshalBinary(); !bytes.Equal(is, r.was) {
			t.Fatalf("record %d has changed:\n%x\n%x", i, r.was, is)
		}
	}
	if n := len(m.Record().Outcomes); n == 0 || n > 5*spare {
		t.Errorf("the last one has %d entries", n)
	}
}

func TestAnEntryTakesTheSpaceOfAFewAtMost(t *testing.T) {
	var o Outcomes
	for i := range 256 {
		o = o.with(Entry{Number: uint32(i)})
		if cap(o)-len(o) > spare {
			t.Fatalf("%d entries have room for %d", len(o), cap(o))
		}
	}
}

func FuzzUnpackDecision(f *testing.F) {
	at := time.UnixMilli(1_800_000_000_123)
	f.Add(Decision{}.pack())
	f.Add(Decision{Key: mail.Key{1, 15: 2}, Device: "ann", Outcome: outcome.Accepted, Status: 200, Came: at.Truncate(time.Second), At: at, PushID: mail.PushID{3},
		Correlation: math.MaxUint32}.pack())
	f.Add(Decision{Device: "ann", Outcome: outcome.Waiting, Reason: outcome.Unreadable, Code: "ErrorX", Shown: at}.pack())
	f.Add(Decision{At: time.Unix(-1<<40, 0), Came: time.Unix(1<<40, 0), Shown: time.Unix(0, 0), Status: -1}.pack())
	f.Add(binary.AppendUvarint(append([]byte{decisionFormat}, make([]byte, 16)...), math.MaxUint64))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := unpackDecision(b)
		if err != nil {
			if d != (Decision{}) {
				t.Errorf("%+v of what is none", d)
			}
			return
		}
		again, err := unpackDecision(d.pack())
		if err != nil || again != d {
			t.Errorf("%+v is read as %+v, %v", d, again, err)
		}
	})
}

func FuzzSplitDecisions(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(joinDecisions([][]byte{{1}, {}, bytes.Repeat([]byte{2}, 300)}))
	f.Add([]byte{1, 2, 200})
	f.Add(binary.AppendUvarint(nil, math.MaxUint64))
	f.Fuzz(func(t *testing.T, value []byte) {
		list := splitDecisions(value)
		again := splitDecisions(joinDecisions(list))
		if len(again) != len(list) {
			t.Fatalf("%d decisions are %d", len(list), len(again))
		}
		for i := range list {
			if !bytes.Equal(list[i], again[i]) {
				t.Errorf("%x is %x", list[i], again[i])
			}
		}
	})
}
