package subscriptions

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func key(i int) (k mail.Key) {
	copy(k[:], fmt.Sprintf("%08d", i))
	return k
}

func started() *Record {
	r := &Record{ID: "r"}
	r.Start(noon)
	return r
}

func devices(ids ...string) (list []*Device) {
	for _, id := range ids {
		list = append(list, &Device{ID: id})
	}
	return list
}

func done(ids ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, id := range ids {
		m[id] = struct{}{}
	}
	return m
}

func because(string) (outcome.Reason, time.Time) { return "throttled", noon }

// enter enters one message for one device that was alerted.
func enter(r *Record, i int, at time.Time) {
	r.Enter([]Outcome{{Key: key(i), Received: at, Done: done("a")}}, devices("a"), because)
}

func TestEnterNumbersOutcomesAndKnowsThem(t *testing.T) {
	r := started()
	enter(r, 1, noon)
	enter(r, 2, noon.Add(time.Second))
	enter(r, 1, noon.Add(time.Hour)) // once more: a second hint
	if r.End != 2 || len(r.Outcomes) != 2 || !r.Has(key(1)) || !r.Has(key(2)) || r.Has(key(3)) {
		t.Errorf("the log is %+v", r)
	}
	if len(r.Behind) != 0 {
		t.Error("a device that was alerted is behind")
	}
}

func TestEnterGoesOnBehindAnOutcomeThatItKnows(t *testing.T) {
	r := started()
	enter(r, 1, noon)
	var list []Outcome
	for i := 1; i <= 3; i++ {
		list = append(list, Outcome{Key: key(i), Received: noon, Done: done("a")})
	}
	r.Enter(list, devices("a"), because)
	if r.End != 3 || !r.Has(key(2)) || !r.Has(key(3)) {
		t.Errorf("the log is %+v", r)
	}
}

func TestEnterMovesNeitherListedNorSince(t *testing.T) { // rule 2
	r := started()
	enter(r, 1, noon.Add(time.Hour))
	if r.Listed != noon.Unix() || r.Since != noon.Unix() {
		t.Error("a single read moved the mailbox: a hint lost just before would be lost for good")
	}
}

func TestEnterPutsBehindWhoHasNeitherABellNorAReason(t *testing.T) { // rule 6
	r := started()
	enter(r, 1, noon)
	// b was alerted of 2 but not of 3; c enrolled while the batch was alerted, and nobody asked it.
	r.Enter([]Outcome{{Key: key(2), Received: noon, Done: done("a", "b")}, {Key: key(3), Received: noon, Done: done("a")}}, devices("a", "b", "c"), because)
	want := []Behind{
		{Device: "b", Number: 2, Reason: "throttled", Next: noon}, // its number moves over what it was alerted for
		{Device: "c", Number: 1, Reason: "throttled", Next: noon},
	}
	if diff := cmp.Diff(want, r.Behind, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestEnterOfWhatIsSettledForAllLeavesEveryoneInStep(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon, ForAll: true}}, devices("a", "b"), because)
	if len(r.Behind) != 0 || !r.Has(key(1)) {
		t.Errorf("%+v", r)
	}
}

func TestALateAnswerBringsADeviceLevelOnlyWhenNothingIsLeft(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}, {Key: key(2), Received: noon}}, devices("a"), because)
	r.Deal("a", key(2))
	if b := r.BehindOf("a"); b == nil || b.Number != 0 || !slices.Equal(b.Done, []uint64{key(2).Short()}) {
		t.Fatalf("behind is %+v", b)
	}
	r.Deal("a", key(2)) // the same answer once more
	r.Deal("a", key(1))
	if len(r.Behind) != 0 {
		t.Errorf("everything was alerted, and the device is behind: %+v", r.Behind)
	}
	r.Deal("a", key(1)) // in step: nothing to add to
}

// A device that enrols again finds the record that knows what it was alerted of, as long as listings show that.
func TestARecordSleepsLongerThanListingsReadBack(t *testing.T) {
	if Asleep < apart+mail.Tolerance {
		t.Errorf("it sleeps for %v, and listings may read back %v", Asleep, apart+mail.Tolerance)
	}
}

func TestWhatIsDealtWithForADeviceIsOfWhatItIsBehindWith(t *testing.T) {
	r := started()
	enter(r, 1, noon)
	r.Enter([]Outcome{{Key: key(2), Received: noon}, {Key: key(3), Received: noon}}, devices("a"), because)
	r.Deal("a", key(1), key(9)) // it is in step with the one, and nobody knows the other
	r.CaughtUp("a", 0)          // an old end leads no device back
	r.CaughtUp("z", r.End)      // in step
	if b := r.BehindOf("a"); b == nil || b.Number != 1 || len(b.Done) != 0 {
		t.Errorf("behind is %+v", b)
	}
}

func TestLiveMailPassesADeviceBehind(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}}, devices("a"), because)
	r.Enter([]Outcome{{Key: key(2), Received: noon}}, devices("a"), func(string) (outcome.Reason, time.Time) { return "other", noon })
	b := r.BehindOf("a")
	if b.Number != 0 || b.Reason != "throttled" || len(r.Owed(b, r.End)) != 2 {
		t.Errorf("behind is %+v", b)
	}
}

func TestACatchUpSettlesOnlyWhatWasNumberedBeforeItsListing(t *testing.T) { // rule 6: the end is noted, then the mailbox is listed
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}}, devices("a"), because)
	end := r.End
	r.Enter([]Outcome{{Key: key(2), Received: noon}}, devices("a"), because) // after the listing
	r.CaughtUp("a", end)
	if b := r.BehindOf("a"); b == nil || b.Number != end {
		t.Fatalf("behind is %+v: the second message would be alerted nowhere", b)
	}
	r.CaughtUp("a", r.End)
	if len(r.Behind) != 0 {
		t.Error("the numbers met, and the device is behind")
	}
}

func TestCompleteMovesListedToTheNewestShownButPassesNoClock(t *testing.T) { // rule 4
	r := started()
	at := noon.Add(3 * time.Hour)
	enter(r, 1, noon.Add(time.Hour))
	enter(r, 2, at.Add(2*time.Hour)) // from the future
	r.Complete([]Shown{{key(1), noon.Add(time.Hour)}, {key(2), at.Add(2 * time.Hour)}}, at, r.End)
	if r.Listed != noon.Add(time.Hour).Unix() {
		t.Errorf("listed is %v", time.Unix(r.Listed, 0).UTC())
	}
	r.Complete(nil, at, r.End)
	if r.Listed != noon.Add(time.Hour).Unix() {
		t.Error("an empty page was taken for now") // rule 3
	}
}

func TestCompleteKeepsADayAndNeverGoesBack(t *testing.T) {
	r := started()
	enter(r, 1, noon)
	enter(r, 2, noon.Add(30*time.Hour))
	r.Complete([]Shown{{key(2), noon.Add(30 * time.Hour)}, {key(1), noon}}, noon.Add(31*time.Hour), r.End)
	if want := noon.Add(6 * time.Hour).Unix(); r.Since != want || r.Has(key(1)) || !r.Has(key(2)) {
		t.Errorf("since is %v, want %v; the log %v", r.Since, want, r.Outcomes)
	}
}

func TestCompleteKeepsTheNewest256AndCountsNoneOfTheFuture(t *testing.T) {
	r := started()
	at := noon.Add(time.Hour)
	var shown []Shown
	for i := range 300 {
		enter(r, i, noon.Add(time.Duration(i)*time.Second))
		shown = append(shown, Shown{key(i), noon.Add(time.Duration(i) * time.Second)})
	}
	for i := 300; i < 600; i++ { // 300 messages dated in the future do not push the mail of today out
		enter(r, i, at.Add(time.Duration(i)*time.Hour))
	}
	r.Complete(shown, at, r.End)
	if want := noon.Add(44 * time.Second).Unix(); r.Since != want {
		t.Errorf("since is %v, want the 256th newest, %v", r.Since, want)
	}
	if r.Has(key(43)) || !r.Has(key(44)) || !r.Has(key(599)) {
		t.Error("the log keeps the wrong entries")
	}
}

func TestAListingRaisesTheDateOfAnEntryAndNeverLowersIt(t *testing.T) { // rule 4: alerted under the sender's Date, then listed as received
	r := started()
	enter(r, 1, noon)
	r.Complete([]Shown{{key(1), noon.Add(10 * time.Hour)}}, noon.Add(48*time.Hour), r.End)
	r.Complete([]Shown{{key(1), noon}}, noon.Add(48*time.Hour), r.End)
	if got := r.Outcomes[0].Received; got != seconds(noon.Add(10*time.Hour)) {
		t.Errorf("the entry is dated %v", time.Unix(int64(got), 0).UTC())
	}
}

func TestWhatIsPrunedNoLongerHoldsADeviceBehind(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}}, devices("a"), because)
	enterFor(r, 2, noon.Add(30*time.Hour), "b")
	if expired := r.Complete([]Shown{{key(2), noon.Add(30 * time.Hour)}}, noon.Add(30*time.Hour), r.End); expired != 1 {
		t.Errorf("%d expired, want 1: its device is owed a reason", expired)
	}
	if b := r.BehindOf("a"); b == nil || b.Number != 1 {
		t.Errorf("behind is %+v: want it after the pruned entry, before the second", b)
	}
}

func TestACompleteListingEndsTheWaitingForAMailboxThatCouldNotBeRead(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}}, devices("a", "b"), because)
	r.Hold("a", outcome.MailboxFailing, noon.Add(time.Hour))
	r.Complete([]Shown{{key(1), noon}}, noon, r.End)
	if a, b := r.BehindOf("a"), r.BehindOf("b"); !a.Next.IsZero() || a.Reason != outcome.MailboxFailing || b.Next.IsZero() {
		t.Errorf("behind are %+v", r.Behind)
	}
}

func enterFor(r *Record, i int, at time.Time, alerted string) {
	r.Enter([]Outcome{{Key: key(i), Received: at, Done: done(alerted)}}, devices("a", "b"), because)
}

func TestADeviceFromAnotherRecordStandsWhereItStoodThere(t *testing.T) {
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	r := started()
	r.Backdate("x", &Record{}, nil)
	if len(r.Behind) != 0 {
		t.Error("behind an empty log")
	}
	for i := range 6 {
		enter(r, i, at(i))
	}
	there := started()
	there.Listed = at(1).Unix()
	for _, i := range []int{2, 3, 5} { // by hints, and the one of the fifth was lost
		there.Enter([]Outcome{{Key: key(10 + i), Received: at(i), Done: done("x")}}, devices("x"), because)
	}
	there.Enter([]Outcome{{Key: key(20), Received: at(0)}}, devices("behind"), because) // held up on its way
	for device, want := range map[string][]uint64{"x": {key(4).Short()}, "behind": {key(4).Short(), key(0).Short()}} {
		r.Backdate(device, there, nil)
		b := r.BehindOf(device)
		if b == nil {
			t.Errorf("%s is not behind", device)
			continue
		}
		var owed []uint64
		for _, e := range r.Owed(b, r.End) {
			owed = append(owed, e.Key)
		}
		if !slices.Equal(owed, want) {
			t.Errorf("%s is owed %x, want %x", device, owed, want)
		}
		if there.BehindOf(device) != nil && (b.Reason != "throttled" || !b.Next.Equal(noon)) {
			t.Errorf("%s is behind because of %s, until %v", device, b.Reason, b.Next)
		}
	}
}

// A join meets a round of the record that stays: what it sent meanwhile is sent by no catch-up again.
func TestAnOutcomeThatCameFromAnotherRecordMeanwhileTakesTheAcceptancesIn(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}, {Key: key(2), Received: noon}}, devices("a", "b"), because)
	r.Enter([]Outcome{{Key: key(1), Received: noon, Done: done("a")}, {Key: key(2), Received: noon, Done: done("a", "b")}}, devices("a", "b"), because)
	if b := r.BehindOf("b"); r.End != 2 || r.BehindOf("a") != nil || b == nil || len(r.Owed(b, r.End)) != 1 {
		t.Errorf("the log ends at %d, behind are %+v", r.End, r.Behind)
	}
}

// That no alert of a message is sent was decided for those who were there before: who has come meanwhile may have been enrolled earlier.
func TestAnOutcomeForAllTakesNothingFromWhoCameFromAnotherRecordMeanwhile(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon, Done: done("stays")}}, devices("stays", "came"), because)
	r.Enter([]Outcome{{Key: key(1), Received: noon, ForAll: true}}, devices("stays", "came"), because)
	if b := r.BehindOf("came"); b == nil || len(r.Owed(b, r.End)) != 1 || r.BehindOf("stays") != nil {
		t.Errorf("behind are %+v", r.Behind)
	}
}

func TestARecordAdoptsWhatItWouldNeverHaveBeenTold(t *testing.T) {
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	there := started()
	from := devices("x", "waits")
	for i := range 6 {
		o := Outcome{Key: key(10 + i), Received: at(i), Done: done("x", "waits")}
		if i == 2 {
			delete(o.Done, "waits")
		}
		there.Enter([]Outcome{o}, from, because)
	}
	began := at(5)
	for name, c := range map[string]struct {
		shown []int // by minute
		since int   // minutes
		log   []int
		owed  map[string][]int
	}{
		"what it has dealt with, and nobody is owed":      {[]int{0, 1}, 5, nil, nil},
		"what one is owed, and all that is shown since":   {[]int{0, 1, 2, 3, 4, 5}, 2, []int{2, 3, 4, 5}, map[string][]int{"waits": {2}, "stays": {5}}},
		"what nobody has read, before it began and after": {[]int{3, 4, 7, -1}, -1, []int{-1, 3, 4}, map[string][]int{"x": {-1}}},
		"what it has by itself":                           {[]int{8}, 5, []int{8}, nil},
	} {
		r := started()
		r.Start(began)
		if slices.Contains(c.shown, 8) {
			r.Enter([]Outcome{{Key: key(28), Received: at(8), Done: done("stays")}}, devices("stays"), because)
		}
		all := devices("stays", "x", "waits")
		all[1].Since, all[2].Since = at(-10), noon
		var twins []Twin
		for _, i := range slices.Backward(c.shown) {
			twins = append(twins, Twin{There: key(10 + i), Here: key(20 + i), Received: at(i)})
		}
		r.adopt(there, twins, all, map[string]coming{"x": {"x", there.debts(all[1], twins)}, "waits": {"waits", there.debts(all[2], twins)}})
		var log []int
		for i := -1; i < 10; i++ {
			if r.Has(key(20 + i)) {
				log = append(log, i)
			}
		}
		if r.Since != at(c.since).Unix() || !slices.Equal(log, c.log) || len(r.Outcomes) != len(log) || len(r.Behind) != len(c.owed) {
			t.Errorf("%s: since is %v, the log %v, behind are %+v", name, time.Unix(r.Since, 0).UTC(), log, r.Behind)
		}
		for id, want := range c.owed {
			b := r.BehindOf(id)
			if b == nil {
				t.Errorf("%s: %s is not behind", name, id)
				continue
			}
			var got []int
			for _, e := range r.Owed(b, r.End) {
				got = append(got, int(time.Unix(int64(e.Received), 0).Sub(noon).Minutes()))
			}
			if reason := there.BehindOf(id) != nil; !slices.Equal(got, want) || reason != (b.Reason == "throttled" && b.Next.Equal(noon)) {
				t.Errorf("%s: %s is owed %v because of %s until %v", name, id, got, b.Reason, b.Next)
			}
		}
	}
}

func TestMessagesOfOneSecondAreToldApartWhereTheInboxShowsThem(t *testing.T) {
	there := started()
	enterFor(there, 10, noon, "x")
	there.Enter([]Outcome{{Key: key(11), Received: noon}}, devices("x"), because)
	twins := []Twin{{key(10), key(20), noon}, {key(11), key(21), noon}, {key(12), key(22), noon}}
	for name, c := range map[string]struct {
		since time.Time
		log   []int
		owed  []uint64 // newest number first
	}{
		"the record has them": {noon, []int{20, 21}, []uint64{key(21).Short()}},
		"it began later":      {noon.Add(time.Hour), nil, []uint64{key(22).Short(), key(21).Short()}},
	} {
		r := started()
		r.Start(c.since)
		for _, i := range c.log {
			enterFor(r, i, noon, "b")
		}
		x := devices("x")[0]
		debts := there.debts(x, twins)
		r.Backdate("x", there, debts)
		r.adopt(there, slices.Clone(twins), []*Device{x}, map[string]coming{"x": {"x", debts}})
		b := r.BehindOf("x")
		if b == nil {
			t.Errorf("%s: it is not behind", name)
			continue
		}
		var owed []uint64
		for _, e := range r.Owed(b, r.End) {
			owed = append(owed, e.Key)
		}
		if !slices.Equal(owed, c.owed) || !r.Has(key(20)) || r.Since != noon.Unix() {
			t.Errorf("%s: it is owed %x, want %x; since is %v", name, owed, c.owed, time.Unix(r.Since, 0).UTC())
		}
	}
}

// Whatever order things come in: a device is behind exactly while some entry has neither a bell nor a reason for it, its number
// never passes such an entry, and what was alerted is never owed again.
func TestBehindIsWhatIsUnsettledInEveryOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := started()
		owed := map[int]bool{} // by message, for device a
		end := map[int]uint32{}
		now := noon
		for step := range 60 {
			switch rnd.IntN(4) {
			case 0, 1:
				now = now.Add(time.Hour)
				o := Outcome{Key: key(step), Received: now}
				if rnd.IntN(2) == 0 {
					o.Done = done("a")
				} else {
					owed[step] = true
				}
				r.Enter([]Outcome{o}, devices("a"), because)
				end[step] = r.End
			case 2:
				for i := range owed {
					r.Deal("a", key(i))
					delete(owed, i)
					break
				}
			case 3:
				if rnd.IntN(4) > 0 {
					continue
				}
				r.Complete([]Shown{{key(step), now}}, now, r.End)
				for i := range owed {
					if !r.Has(key(i)) {
						delete(owed, i)
					}
				}
			}
			b := r.BehindOf("a")
			if (b != nil) != (len(owed) > 0) {
				t.Fatalf("seed %d, step %d: owed %v, behind %+v", seed, step, owed, b)
			}
			if b == nil {
				continue
			}
			got := map[int]bool{}
			for _, e := range r.Owed(b, r.End) {
				for i := range end {
					if key(i).Short() == e.Key {
						got[i] = true
					}
				}
			}
			if diff := cmp.Diff(owed, got); diff != "" {
				t.Fatalf("seed %d, step %d: %s", seed, step, diff)
			}
		}
	}
}

func TestARecordIsWrittenAndReadBack(t *testing.T) {
	r := started()
	for i := range 10 {
		r.Enter([]Outcome{{Key: key(i), Received: noon.Add(time.Duration(i) * time.Minute), Done: done("a")}}, devices("a", "b"), because)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, &back, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}, {Key: key(2), Received: noon, Done: done("a")}}, devices("a"), because)
	before, _ := json.Marshal(r)
	c := r.Clone()
	c.Enter([]Outcome{{Key: key(3), Received: noon}}, devices("a"), because)
	c.Deal("a", key(1))
	c.Complete([]Shown{{key(3), noon.Add(90 * time.Hour)}}, noon.Add(100*time.Hour), c.End)
	if after, _ := json.Marshal(r); string(after) != string(before) {
		t.Error("changing a clone changed the record")
	}
}

func FuzzOutcomes(f *testing.F) {
	f.Add([]byte(`{"outcomes":"AAAAAAAAAAEAAAABAAAABQ"}`))
	f.Add([]byte(`{"outcomes":"AAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Record
		if json.Unmarshal(data, &r) != nil {
			return
		}
		again, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		var back Record
		if err := json.Unmarshal(again, &back); err != nil || !slices.Equal(r.Outcomes, back.Outcomes) {
			t.Fatalf("%v: %v became %v", err, r.Outcomes, back.Outcomes)
		}
	})
}
