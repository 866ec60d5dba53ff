package subscriptions

import (
	"testing"
	"time"

	"github.com/mailbell/mailbell/mail"
)

func TestACrowdedLogIsDueForAListing(t *testing.T) {
	r := started()
	for i := range 512 {
		if r.Crowded(noon.Add(time.Hour)) {
			t.Fatalf("crowded by %d entries", i)
		}
		enter(r, i, noon)
	}
	if r.Crowded(noon.Add(time.Hour)) {
		t.Error("a listing is due that could prune nothing: all are of one second")
	}
	later := noon.Add(time.Minute)
	for i := range 256 {
		enter(r, 1000+i, later)
	}
	if r.Crowded(noon.Add(9 * time.Minute)) {
		t.Error("a listing is due that could prune nothing: since keeps twice the tolerance away from the clock")
	}
	if !r.Crowded(noon.Add(time.Hour)) {
		t.Error("512 entries could be pruned, and no listing is due")
	}
}

func TestTheEntryThatSinceIsTakenFromStays(t *testing.T) {
	r := started()
	for i := range 256 {
		enter(r, i, noon.Add(time.Duration(i+1)*time.Second))
	}
	r.Complete(nil, noon.Add(time.Hour), r.End)
	if want := noon.Add(time.Second).Unix(); r.Since != want || len(r.Outcomes) != 256 {
		t.Errorf("since is %d and %d entries are left; want the 256th newest, %d, and all of them", r.Since, len(r.Outcomes), want)
	}
	few := started()
	for i := range 255 {
		enter(few, i, noon.Add(time.Duration(i+1)*time.Second))
	}
	few.Complete(nil, noon.Add(time.Hour), few.End)
	if few.Since != noon.Unix() {
		t.Errorf("255 entries moved since to %d", few.Since)
	}
}

func TestWhatIsDatedOfThisVerySecondCounts(t *testing.T) {
	r := started()
	at := noon.Add(time.Hour)
	enter(r, 1, at)
	r.Complete([]Shown{{key(1), at}}, at, r.End)
	if r.Listed != at.Unix() {
		t.Error("a message of this second does not move listed")
	}
	crowd := started()
	for i := range 256 {
		enter(crowd, i, at)
	}
	crowd.Complete(nil, at, crowd.End)
	if want := at.Add(-2 * mail.Tolerance).Unix(); crowd.Since != want {
		t.Errorf("since is %d, want it twice the tolerance before the clock, %d", crowd.Since, want)
	}
}

func TestOnlyWhatIsOlderThanSinceExpires(t *testing.T) {
	r := started()
	second := noon.Add(30 * time.Hour)
	r.Enter([]Outcome{{Key: key(1), Received: second.Add(-mail.Window)}, {Key: key(2), Received: second}}, devices("a"), because)
	if expired := r.Complete([]Shown{{key(2), second}}, second, r.End); expired != 0 || len(r.Outcomes) != 2 {
		t.Errorf("%d expired, %d left: one of a day ago to the second is within the day", expired, len(r.Outcomes))
	}
	r.Enter([]Outcome{{Key: key(3), Received: second.Add(time.Second)}}, devices("a", "b"), because)
	if expired := r.Complete([]Shown{{key(3), second.Add(time.Second)}}, second.Add(time.Second), r.End); expired != 1 || r.Has(key(1)) {
		t.Errorf("%d expired: want one, for the one device that was owed it", expired)
	}
}

// A message that came while the listing was dealt with, read under the sender's Date: the next listing shows when it was received.
func TestAnEntryFromAfterThePagesStaysUntilAListingCouldShowIt(t *testing.T) {
	at := noon.Add(48 * time.Hour)
	r := started()
	enter(r, 1, noon)
	end := r.End
	enter(r, 2, noon) // held up on its way: shown
	enter(r, 3, at)
	r.Enter([]Outcome{{Key: key(4), Received: noon}}, devices("a"), because)
	shown := []Shown{{key(3), at}, {key(2), noon}, {key(1), noon}}
	if expired := r.Complete(shown, at, end); expired != 0 || r.Has(key(1)) || r.Has(key(2)) || !r.Has(key(4)) || r.BehindOf("a") == nil {
		t.Errorf("%d expired, the log is %+v, behind are %+v", expired, r.Outcomes, r.Behind)
	}
	again := r.Clone()
	again.Complete([]Shown{{key(4), at}, {key(3), at}}, at, again.End)
	if !again.Has(key(4)) || again.BehindOf("a") == nil {
		t.Errorf("it was received now, and is forgotten: %+v", again.Outcomes)
	}
	if expired := r.Complete([]Shown{{key(3), at}}, at, r.End); expired != 1 || r.Has(key(4)) {
		t.Errorf("no listing shows it, and it is kept: %+v", r.Outcomes)
	}
}

func TestARecordThatIsBehindForOneDeviceSaysSoForThatOne(t *testing.T) {
	r := started()
	r.Enter([]Outcome{{Key: key(1), Received: noon}}, devices("a", "b"), because)
	later := noon.Add(time.Hour)
	r.Hold("b", "throttled", later)
	r.Hold("c", "throttled", later)
	if a, b := r.BehindOf("a"), r.BehindOf("b"); !a.Next.Equal(noon) || !b.Next.Equal(later) {
		t.Errorf("%+v, %+v", a, b)
	}
	r.Remove("a")
	if r.BehindOf("a") != nil || r.BehindOf("b") == nil {
		t.Errorf("%+v: a device that was removed is forgotten, and no other", r.Behind)
	}
}

func TestARecordKnowsTheServersClockOnlyOnceItIsSet(t *testing.T) {
	r := &Record{}
	if r.Started() {
		t.Error("it is started without a clock")
	}
	r.Start(noon)
	if !r.Started() {
		t.Error("it is not started")
	}
}

func TestADateBeyondWhat32BitsHoldIsCut(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want uint32
	}{
		{time.Unix(-1, 0), 0}, {time.Time{}, 0}, {time.Unix(1, 0), 1}, {time.Unix(1<<32-1, 0), 1<<32 - 1}, {time.Unix(1<<32, 0), 1<<32 - 1},
	} {
		if got := seconds(c.at); got != c.want {
			t.Errorf("%v: %d, want %d", c.at, got, c.want)
		}
	}
}

func TestALogThatIsCutOffIsAnError(t *testing.T) {
	full, err := Outcomes{{Key: 1, Number: 2, Received: 3}, {Key: 4, Number: 5, Received: 6}}.MarshalBinary()
	if err != nil || len(full) != 32 {
		t.Fatalf("%d bytes, %v", len(full), err)
	}
	for n := range full {
		var o Outcomes
		if err := o.UnmarshalBinary(full[:n]); (err == nil) != (n == 0 || n == 16) {
			t.Errorf("%d bytes: %v, %v", n, o, err)
		}
	}
	var o Outcomes
	if err := o.UnmarshalText([]byte("?")); err == nil {
		t.Errorf("what is no base64 is taken for %v", o)
	}
}

// The clock of the machine was years ahead when they were written.
func TestATimeThatCannotBeMeantIsCutAtTheStart(t *testing.T) {
	far := noon.AddDate(12, 0, 0)
	all := Contents{
		Records: []*Record{
			{ID: "r1", Behind: []Behind{{Device: "d1", Next: far}, {Device: "d2", Next: noon.Add(time.Minute)}, {Device: "d3"}}},
			{ID: "r2", Dies: far},
		},
		Devices: []*Device{{ID: "d1", Record: "r1"}, {ID: "d2", Record: "r1"}, {ID: "d3", Record: "r1"}},
	}
	all.repair(noon)
	behind := all.Records[0].Behind
	if !behind[0].Next.Equal(noon.Add(time.Hour)) || !behind[1].Next.Equal(noon.Add(time.Minute)) || !behind[2].Next.IsZero() {
		t.Errorf("the next tries are %v", behind)
	}
	if dies := all.Records[1].Dies; !dies.Equal(noon.Add(Asleep)) || !all.Records[0].Dies.IsZero() {
		t.Errorf("it goes %v", dies)
	}
}

// A removal may have been written though its answer was lost, and the record once more after it.
func TestADeviceThatIsNotEnrolledIsBehindWithNothing(t *testing.T) {
	all := Contents{
		Records: []*Record{{ID: "r1", Behind: []Behind{{Device: "gone"}, {Device: "d1"}, {Device: "d2"}}}},
		Devices: []*Device{{ID: "d1", Record: "r1"}, {ID: "d2", Record: "r2"}},
	}
	all.repair(noon)
	if behind := all.Records[0].Behind; len(behind) != 1 || behind[0].Device != "d1" {
		t.Errorf("behind are %v", behind)
	}
}
